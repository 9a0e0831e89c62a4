"""How soon the command line answers, against a bare Hydra application with the same configs.

python benchmarks/startup.py [rounds]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BARE = """
import hydra

@hydra.main(version_base="1.3", config_path={conf!r}, config_name="config")
def main(cfg):
    pass

main()
"""


def seconds(script: Path, *arguments: str, folder: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, str(script), *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main(rounds: int = 9) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder, "bare.py")
        bare.write_text(BARE.format(conf=os.fspath(ROOT / "conf")))
        print(f"{'':12}{'ours s':>9}{'bare s':>9}{'ratio':>8}   goal 1.5")
        for arguments in (("--help",), ("--cfg", "job")):
            pairs = []
            for index in range(rounds + 1):
                order = [ROOT / "train.py", bare] if index % 2 else [bare, ROOT / "train.py"]
                took = {script: seconds(script, *arguments, folder=folder) for script in order}
                if index:
                    pairs.append((took[ROOT / "train.py"], took[bare]))
            own, other = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(f"{' '.join(arguments):12}{own:9.3f}{other:9.3f}{statistics.median(a / b for a, b in pairs):8.2f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
