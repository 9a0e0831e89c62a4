"""How many models to train at once: as many as there is memory for, and one where more would be slower."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modelfactory.training.stacked import Stacked

log = logging.getLogger(__name__)
_TRIED, _STEPS = 8, 5  # models in the stack that is measured, and steps of which the fastest counts
_SHARE = 0.5  # of the memory that is free
_COPIES = 6  # of each parameter: itself, its gradient, two of an optimizer, and what a checkpoint packs


class AtOnce(NamedTuple):
    """How many models to train at once, and why; how many there is memory for, though one by one is faster."""

    number: int
    why: str
    fits: int = 1


def choose_number(model: nn.Module, loss: nn.Module, x: Tensor, y: Tensor, wanted: int) -> AtOnce:
    """Measure a few steps of a stack of one model and of several: the numbers are the same, and only the time differs.

    Args:
        model: like those that are to be trained, which is left as it is.
        x, y: one batch of training data.
        wanted: how many models there are.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> choose_number(model, nn.CrossEntropyLoss(), torch.randn(16, 8), torch.zeros(16, dtype=torch.long), 5).number
        5
    """
    needed = _memory_of(model, loss, x, y)
    fits = max(1, int(_SHARE * free_memory(x.device) / max(1, needed)))
    number = min(wanted, fits)
    if number < 2:
        return AtOnce(1, f"a model takes {needed / 2**20:,.0f} MB, and more than one would not fit")
    tried = min(number, _TRIED)
    one, many = (_seconds(model, loss, x, y, count) for count in (1, tried))
    told = f"a step takes {many * 1e3:.2g} ms a model with {tried} at once, and {one * 1e3:.2g} ms one by one"
    return AtOnce(number if many < one else 1, told, fits)


def one_thread() -> int:
    """Have this process compute in one thread from here on; returns how many it had, at most as many as OMP_NUM_THREADS says by now.

    Example:
        >>> had = one_thread()
        >>> torch.get_num_threads()
        1
        >>> torch.set_num_threads(had)
    """
    had, said = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(1)
    return min(had, max(1, int(said))) if said.isdigit() else had


def _seconds(model: nn.Module, loss: nn.Module, x: Tensor, y: Tensor, count: int) -> float:
    """What a step takes for each of so many models."""
    stacked = Stacked([copy.deepcopy(model).train() for _ in range(count)], loss)
    many_x, many_y = torch.stack([x] * count), torch.stack([y] * count)
    return _fastest(lambda: stacked.backward(many_x, many_y), x.device) / count


def _fastest(step: Callable[[], object], device: torch.device) -> float:
    step()
    times = []
    for _ in range(_STEPS):
        began = time.perf_counter()
        step()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def _memory_of(model: nn.Module, loss: nn.Module, x: Tensor, y: Tensor) -> int:
    """Bytes that one more model takes: its parameters and what goes with each, and what a forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tried = copy.deepcopy(model).train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(tried(x), y)
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return _COPIES * parameters + 2 * sum(kept.values()) + x.numel() * x.element_size()


def free_memory(device: torch.device) -> int:
    """Bytes that are free where a model trains.

    Example:
        >>> free_memory(torch.device("cpu")) > 0
        True
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    for line in _lines("/proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            found.append(int(value.split()[0]) * 1024)
    limit, used = (next(iter(_lines(f"/sys/fs/cgroup/memory.{name}")), "") for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        found.append(max(0, int(limit) - int(used)))
    return min(found, default=2 * 2**30)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
