"""How soon the command line answers, and what a training process imports.

python benchmarks/startup.py [rounds]

`python train.py --help` and `--cfg job` against a bare Hydra application over the same configs: a file of a few lines,
written to a temporary folder, in which both run. Wall time of whole processes, one after the other in changing order;
shown are medians, and the median of the rounds' own ratios. One round warms up.

Then a process that trains one epoch on digits, eagerly: the modules there that such a training does not use (`UNUSED`,
there should be none), and the packages it has beyond those of `import torch` alone.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from modelfactory.config.hydra_patches import VERSION_BASE

ROOT = Path(__file__).resolve().parent.parent
UNUSED = ("torchvision", "matplotlib", "sklearn", "scipy", "pandas", "torch._dynamo", "torch._inductor", "torch.func")
BARE = """
import hydra

@hydra.main(config_path={conf!r}, config_name="config", **{arguments})
def main(cfg):
    pass

main()
"""
TRAINING = """
import json, sys

sys.path.insert(0, {root!r})
from modelfactory.cli.main import train

status = train(["data=digits", "trainer.max_epochs=1", "trainer.device=cpu", "trainer.compile=false", "trainer.signal=table"])
print(json.dumps(sorted(sys.modules)))
sys.exit(status)
"""
TORCH = "import json, sys, torch; print(json.dumps(sorted(sys.modules)))"


def seconds(script: Path, *arguments: str, folder: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, str(script), *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def modules(code: str, folder: str) -> set[str]:
    """What is imported at the end of `code`, which prints it as JSON on its last line."""
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, stdout=subprocess.PIPE, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def main(rounds: int = 11) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bare, ours = Path(folder, "bare.py"), ROOT / "train.py"
        bare.write_text(BARE.format(conf=os.fspath(ROOT / "conf"), arguments=VERSION_BASE))
        print(f"{'':12}{'ours s':>9}{'bare s':>9}{'ratio':>8}{'goal':>7}")
        for arguments in (("--help",), ("--cfg", "job")):
            pairs = []
            for index in range(rounds + 1):
                took = {script: seconds(script, *arguments, folder=folder) for script in ((ours, bare), (bare, ours))[index % 2]}
                if index:
                    pairs.append((took[ours], took[bare]))
            own, other = (statistics.median(column) for column in zip(*pairs, strict=True))
            share = statistics.median(own / other for own, other in pairs)
            print(f"{' '.join(arguments):12}{own:9.3f}{other:9.3f}{share:8.2f}{1.5:7.2f}", flush=True)
        trained, alone = modules(TRAINING.format(root=os.fspath(ROOT)), folder), modules(TORCH, folder)
    print("imported by a training and unused:", ", ".join(name for name in UNUSED if name in trained - alone) or "none")
    print("of which torch imports itself:", ", ".join(name for name in UNUSED if name in alone) or "none")
    packages = {name.partition(".")[0] for name in trained} - {name.partition(".")[0] for name in alone}
    third = sorted(name for name in packages if name not in sys.stdlib_module_names and not name.startswith("_"))
    print("packages beyond those of torch:", ", ".join(third))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
