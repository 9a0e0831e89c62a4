"""A module's double on the meta device: the same structure, no memory."""

from __future__ import annotations

import copy

import torch
from torch import nn

from modelfactory.init.copying import mould_of


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
    original: dict[int, int] = {}

    def on_meta(tensor: torch.Tensor) -> torch.Tensor:
        double = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        if isinstance(tensor, nn.Parameter):
            double = nn.Parameter(double, tensor.requires_grad)
        original[id(double)] = id(tensor)
        return double

    mould = mould_of(module)
    if mould is not None:
        return mould.copy(on_meta), original
    memo = {id(tensor): on_meta(tensor) for tensors in (module.parameters(), module.buffers()) for tensor in tensors}
    for part in module.modules():  # a plain attribute computed of parameters, such as an old weight norm's, has no deepcopy
        for value in vars(part).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = torch.empty(value.shape, dtype=value.dtype, device="meta")
    return copy.deepcopy(module, memo), original
