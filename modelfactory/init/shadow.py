"""A module's double on the meta device: the same structure, no memory."""

from __future__ import annotations

import copy
import functools
import types
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

_ATOMS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, type, types.FunctionType)
_COLLECTIONS = (dict, OrderedDict, set, list)
_KEPT = ("_parameters", "_buffers", "_modules")


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
    copied = _copied(module, dict(memo))
    if copied is not None:
        return copied, original
    for part in module.modules():  # a plain attribute computed of parameters, such as an old weight norm's, has no deepcopy
        for value in vars(part).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = torch.empty(value.shape, dtype=value.dtype, device="meta")
    return copy.deepcopy(module, memo), original


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module | None:
    """What `copy.deepcopy` gives, several times faster; None for a module that holds more than settings, tensors and modules."""
    if id(module) in memo:
        return memo[id(module)]
    kind = type(module)
    if any(hasattr(kind, name) for name in ("__deepcopy__", "__getnewargs__")) or kind.__reduce_ex__ is not object.__reduce_ex__:
        return None
    double = object.__new__(kind)
    memo[id(module)] = double
    state = vars(module).copy()
    for name, value in state.items():
        if name not in _KEPT and not _is_setting(value):
            if type(value) not in _COLLECTIONS or not all(map(_is_setting, value.values() if isinstance(value, dict) else value)):
                return None
            state[name] = value.copy()
    for name in ("_parameters", "_buffers"):
        state[name] = {key: None if tensor is None else memo[id(tensor)] for key, tensor in state[name].items()}
    children = {}
    for name, child in state["_modules"].items():
        children[name] = None if child is None else _copied(child, memo)
        if child is not None and children[name] is None:
            return None
    state["_modules"] = children
    double.__dict__ = state
    return double


def _is_setting(value: Any) -> bool:
    """Whether a copy may hold the very same value, since nothing changes it."""
    if isinstance(value, _ATOMS):
        return True
    if type(value) is functools.partial:
        return _is_setting(value.func) and all(map(_is_setting, value.args)) and all(map(_is_setting, value.keywords.values()))
    return type(value) in (tuple, frozenset) and all(map(_is_setting, value))
