"""Initialisation itself: threads against one, and orthogonal matrices against torch.nn.init called in turn.

python benchmarks/init.py [rounds]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
import torchvision
from _ratio import ratio
from torch import nn

from modelfactory.config.errors import Problems
from modelfactory.init.assign import Assignment, assign
from modelfactory.init.choose import Chooser
from modelfactory.init.fill import fill
from modelfactory.init.rules import read_init
from modelfactory.model.deferred_construction import construction
from modelfactory.parameters.roles import describe


def assignments(model: nn.Module, scheme: str) -> list[Assignment]:
    """One scheme for all weights of a model; what else it has takes no time."""
    problems = Problems()
    spec = read_init({"rules": {"weights": {"role": "weight", "scheme": scheme}}}, "init", problems)
    problems.raise_if_any()
    assert spec is not None
    found = assign(Chooser(spec.rules, {}, problems).choose(describe(model), whole=False), {}, "effective", problems)
    problems.raise_if_any()
    return found


def filled(items: list[Assignment], threads: int | None) -> None:
    fill(items, 0, {}, fresh=False, threads=threads, measured=False)


def matrices(count: int, size: int) -> nn.Module:
    with construction(0, ""):
        return nn.Sequential(*(nn.Linear(size, size, bias=False) for _ in range(count)))


def by_torch(model: nn.Module) -> None:
    for parameter in model.parameters():
        nn.init.orthogonal_(parameter)


def cases() -> dict[str, tuple[Callable[[], object], Callable[[], object], float]]:
    """By name: our work, the other's, and the goal of the ratio."""
    with construction(0, ""):
        vit = torchvision.models.vit_l_16()
    found = {}
    for scheme in ("kaiming_normal", "kaiming_uniform"):
        items = assignments(vit, scheme)
        found[f"ViT-L, {scheme}, all cores against one"] = (partial(filled, items, None), partial(filled, items, 1), 0.60)
    for count, size, goal in ((64, 1024, 0.60), (1, 4096, 1.00)):
        model = matrices(count, size)
        items = assignments(model, "orthogonal")
        found[f"orthogonal, {count} of {size}x{size}, against torch's"] = (partial(filled, items, None), partial(by_torch, model), goal)
    return found


def main(rounds: int = 3) -> None:
    print(f"{torch.get_num_threads()} threads\n{'':48}{'ours s':>9}{'other s':>9}{'ratio':>8}{'goal':>7}")
    for name, (ours, theirs, goal) in cases().items():
        own, other, share = ratio(ours, theirs, rounds)
        print(f"{name:48}{own:9.3f}{other:9.3f}{share:8.2f}{goal:7.2f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
