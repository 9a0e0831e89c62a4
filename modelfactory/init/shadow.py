"""A module's double on the meta device: the same structure, no memory."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


def shadow_of(module: nn.Module) -> tuple[nn.Module, dict[int, int]]:
    """A deep copy of `module` whose parameters and buffers are on the meta device; tied ones stay tied.

    Returns:
        The copy, and for the `id` of each of its tensors the `id` of the original's.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> double, original = shadow_of(layer)
        >>> double.weight.device.type, original[id(double.weight)] == id(layer.weight)
        ('meta', True)
    """
    memo: dict[int, Any] = {}
    original: dict[int, int] = {}
    for tensors in (module.parameters(), module.buffers()):
        for tensor in tensors:
            on_meta = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            double = nn.Parameter(on_meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else on_meta
            memo[id(tensor)] = double
            original[id(double)] = id(tensor)
    return copy.deepcopy(module, memo), original
