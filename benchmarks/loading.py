"""A large backbone with its weights, against constructor, torch.load and load_state_dict; and the memory that it takes.

python benchmarks/loading.py [rounds]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchvision
from _ratio import ratio
from safetensors.torch import save_file
from torch import nn

import modelfactory as mf

NAME, GOAL, MEMORY_GOAL = "vit_l_16", 0.1, 1.1


def config(weights: Path) -> dict:
    model = {"layers": {"head": {"_target_": "torch.nn.Linear", "out_features": 10}}}
    backbone = {"name": NAME, "weights": str(weights)}
    return {"backbone": backbone, "model": model, "data": {"input_shape": [3, 224, 224]}, "init": "kaiming_normal"}


def by_hand(weights: Path) -> nn.Module:
    model = torchvision.models.get_model(NAME)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.heads = nn.Linear(1024, 10)
    return model


def used(model: nn.Module) -> nn.Module:
    """Every number looked at once: what is mapped is read from the file here at the latest."""
    for parameter in model.parameters():
        parameter.detach().sum()
    return model


def peak(weights: Path, how: str) -> tuple[float, float]:
    """MiB that a process takes at most for the model, with each of its numbers looked at, and MiB of the model alone."""
    command = [sys.executable, __file__, how, str(weights)]
    taken, own = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(taken), float(own)


def report_peak(how: str, weights: Path) -> None:
    mf.build({**config(weights), "backbone": {"name": "squeezenet1_1"}})  # imports what a build imports
    before = most_resident()
    model = used(mf.build(config(weights)) if how == "config" else by_hand(weights))
    own = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    print((most_resident() - before) / 1024, own / 2**20)


def most_resident() -> int:
    """KiB of memory that this process had at most, mapped files counted too (Linux)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


def line(name: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int, goal: str) -> None:
    own, other, share = ratio(ours, theirs, rounds)
    print(f"{name:44}{own:10.4f}{other:11.4f}{share:9.4f}{goal:>7}", flush=True)


def main(rounds: int = 3) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state = torchvision.models.get_model(NAME).state_dict()
        safe, torchs = Path(folder, "w.safetensors"), Path(folder, "w.pth")
        save_file(state, safe)
        torch.save(state, torchs)
        del state
        print(f"{'':44}{'config s':>10}{'by hand s':>11}{'ratio':>9}{'goal':>7}")
        line(f"{NAME} from safetensors", partial(mf.build, config(safe)), partial(by_hand, torchs), rounds, str(GOAL))
        line(f"{NAME} from torch's file", partial(mf.build, config(torchs)), partial(by_hand, torchs), rounds, "none")
        line(
            f"{NAME} from safetensors, every number used",
            lambda: used(mf.build(config(safe))),
            lambda: used(by_hand(torchs)),
            rounds,
            "none",
        )
        print(f"\n{'':44}{'peak MiB':>10}{'model MiB':>11}{'ratio':>9}{'goal':>7}")
        for how, file in (("config", safe), ("by hand", torchs)):
            taken, own = peak(file, how)
            goal = f"{MEMORY_GOAL:7.2f}" if how == "config" else f"{'none':>7}"
            print(f"{f'{NAME}, {how}':44}{taken:10.0f}{own:11.0f}{taken / own:9.3f}{goal}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] in (["config"], ["by hand"]):
        report_peak(sys.argv[1], Path(sys.argv[2]))
    else:
        main(*map(int, sys.argv[1:]))
