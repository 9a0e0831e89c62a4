"""A model run without its numbers: tensors of the meta device stand in for its parameters and buffers, and it is left as it was."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.numerics.rng import GLOBAL_STATE

_HELD = ("_parameters", "_buffers")
_OWN = frozenset({"_parameters", "_buffers", "_modules"})


def hollow(tensor: Tensor) -> Tensor:
    """Make a tensor on the meta device like another, its dimensions in the same order in memory.

    This is `torch.empty_like(tensor, device="meta")`, which would import sympy: as long as a small training takes.

    Example:
        >>> twin = hollow(torch.ones(2, 3, dtype=torch.float64).t())
        >>> twin.device.type, twin.dtype, twin.shape, twin.stride()
        ('meta', torch.float64, torch.Size([3, 2]), (1, 3))
    """
    if tensor.layout is not torch.strided:
        return torch.empty_like(tensor, device="meta")
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    shape = [tensor.shape[dim] for dim in order]
    made = torch.empty(shape, dtype=tensor.dtype, device="meta")
    return made if order == list(range(tensor.ndim)) else made.permute([order.index(dim) for dim in range(tensor.ndim)])


@contextmanager
def standing_in(model: nn.Module, device: torch.device | None, training: bool) -> Iterator[dict[int, Tensor]]:
    """Runs under this see the model with other tensors in place of its parameters and buffers; afterwards all is as it was.

    Attributes that a forward sets (caches, training flags, counters) and the global random state of torch, `random` and
    numpy are put back as well.

    Args:
        device: where the tensors are that stand in, meta for none of memory; None leaves the model's own where they are.
        training: the mode that it is run in.

    Yields:
        By the `id` of each tensor that stands in, the model's own tensor.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> with standing_in(layer, torch.device("meta"), training=False):
        ...     layer.weight.device.type, layer.training
        ('meta', False)
        >>> layer.weight.device.type, layer.training
        ('cpu', True)
    """
    modules = list(model.modules())
    saved = [dict(vars(module)) for module in modules]
    collections = [(value, value.copy()) for state in saved for name, value in state.items() if _is_collection(name, value)]
    doubles: dict[int, Tensor] = {}
    original: dict[int, Tensor] = {}
    numpy = sys.modules.get("numpy.random")
    python_state, numpy_state = random.getstate(), numpy.get_state() if numpy is not None else None
    try:
        for module in modules:
            state = module.__dict__
            state["training"] = training
            for held in _HELD:
                state[held] = {name: _double(tensor, device, doubles, original) for name, tensor in state[held].items()}
        with GLOBAL_STATE, torch.random.fork_rng(devices=[]):
            yield original
    finally:
        for module, state in zip(modules, saved, strict=True):
            module.__dict__.clear()
            module.__dict__.update(state)
        for collection, content in collections:
            collection.clear()
            collection.extend(content) if isinstance(collection, list) else collection.update(content)
        random.setstate(python_state)
        if numpy is not None:
            numpy.set_state(numpy_state)


def _is_collection(name: str, value: Any) -> bool:
    """Whether a forward may keep something in this attribute without setting it: a cache, not torch's own tables of hooks."""
    return type(value) in (dict, list, set) and name not in _OWN and not name.endswith("_hooks")


def _double(tensor: Tensor | None, device: torch.device | None, doubles: dict[int, Tensor], original: dict[int, Tensor]) -> Tensor | None:
    """What stands in for a tensor: the same for one that is held twice."""
    if tensor is None:
        return None
    known = doubles.get(id(tensor))
    if known is None:
        if device is None:
            known = tensor
        elif device.type == "meta":
            known = hollow(tensor)
        else:
            known = _numbers(tensor, device)
        if device is not None and isinstance(tensor, nn.Parameter):
            known = nn.Parameter(known, requires_grad=False)
        doubles[id(tensor)] = known
        original[id(known)] = tensor
    return known


def _numbers(tensor: Tensor, device: torch.device) -> Tensor:
    """Numbers for a tensor of the meta device: small, so that nothing overflows, and not alike."""
    if not tensor.is_meta:
        return tensor.detach().to(device)
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)
    generator = torch.Generator().manual_seed(tensor.numel())
    return torch.rand(tensor.shape, generator=generator).add_(0.5).div_(max(tensor.shape[-1:], default=1)).to(tensor.dtype)
