"""Leaving things as they were: random state and buffers, whatever a forward does to them."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def random_state_of(device: torch.device, seed: int) -> Iterator[None]:
    """Seeds the CPU and this device alone, and puts back afterwards what was there, also of Python and numpy."""
    on_cpu, numpy = device.type == "cpu", sys.modules.get("numpy")
    kept = random.getstate(), None if numpy is None else numpy.random.get_state()
    try:
        with torch.random.fork_rng([] if on_cpu else [device], device_type="cuda" if on_cpu else device.type):
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                index = torch.cuda.current_device() if device.index is None else device.index
                torch.cuda.default_generators[index].manual_seed(seed)
            yield
    finally:
        random.setstate(kept[0])
        if numpy is not None and kept[1] is not None:
            numpy.random.set_state(kept[1])


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Puts buffers back: their values, and those that the forward replaced by new tensors of the same kind."""
    named = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items() if buffer is not None]
    kept = {id(buffer): buffer.detach().clone() for _, _, buffer in named if buffer.numel()}
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer in named:
                values, now = kept.get(id(buffer)), module._buffers.get(name)
                if values is not None and (not torch.equal(buffer, values) or buffer.isnan().any()):
                    buffer.copy_(values)
                if now is not None and now is not buffer and now.shape == buffer.shape and now.dtype == buffer.dtype:
                    module._buffers[name] = buffer
