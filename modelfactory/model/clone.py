"""Copies of modules that hold nothing but settings, tensors and other such modules, many times faster than `copy.deepcopy`."""

from __future__ import annotations

import copy
import functools
import types
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_ATOMS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, type, types.FunctionType)
_COLLECTIONS = (dict, OrderedDict, set, list)
_HELD = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class Mould:
    """What is known of a module once it was looked through, so that each copy of it costs no second look.

    Attributes:
        module: what is copied; only its tensors are looked at again.
        settings: attributes that copies share, since nothing changes them.
        collections: attributes that are collections of settings, of which each copy has its own.
        children: the moulds of its modules, by name; None where there is none.
    """

    module: nn.Module
    settings: dict[str, Any]
    collections: tuple[tuple[str, Any], ...]
    children: tuple[tuple[str, Mould | None], ...]

    def copy(self, double: Callable[[Tensor], Tensor], memo: dict[int, Any] | None = None) -> nn.Module:
        """A module like the one it was made of; what is tied or held twice stays so.

        Args:
            double: gives the copy's tensor for one of the module's, and is asked once for each.
            memo: by `id`, what was copied already.
        """
        memo = {} if memo is None else memo
        copied = memo.get(id(self.module))
        if copied is not None:
            return copied
        copied = memo[id(self.module)] = object.__new__(type(self.module))
        copied.__dict__ = state = self.settings.copy()
        for name, value in self.collections:
            state[name] = value.copy() if value else type(value)()
        for held in ("_parameters", "_buffers"):
            state[held] = tensors = {}
            for name, tensor in getattr(self.module, held).items():
                if tensor is not None and id(tensor) not in memo:
                    memo[id(tensor)] = double(tensor)
                tensors[name] = None if tensor is None else memo[id(tensor)]
        state["_modules"] = {name: None if child is None else child.copy(double, memo) for name, child in self.children}
        return copied


def mould_of(module: nn.Module) -> Mould | None:
    """What copies `module` as `copy.deepcopy` would but for its tensors; None where a copy has to look deeper.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> twin = mould_of(layer).copy(torch.zeros_like)
        >>> type(twin).__name__, twin.weight.shape, twin.out_features
        ('Linear', torch.Size([3, 2]), 3)
        >>> layer.history = [torch.zeros(1)]
        >>> mould_of(layer) is None
        True
    """
    kind = type(module)
    if any(hasattr(kind, name) for name in ("__deepcopy__", "__getnewargs__")) or kind.__reduce_ex__ is not object.__reduce_ex__:
        return None
    settings, collections = {}, []
    for name, value in vars(module).items():
        if name in _HELD:
            continue
        if _is_setting(value):
            settings[name] = value
        elif type(value) in _COLLECTIONS and all(map(_is_setting, value.values() if isinstance(value, dict) else value)):
            collections.append((name, value))
        else:
            return None
    children = []
    for name, child in module._modules.items():
        mould = None if child is None else mould_of(child)
        if child is not None and mould is None:
            return None
        children.append((name, mould))
    return Mould(module, settings, tuple(collections), tuple(children))


def _is_setting(value: Any) -> bool:
    """Whether a copy may hold the very same value, since nothing changes it."""
    if isinstance(value, _ATOMS):
        return True
    if type(value) is functools.partial:
        return _is_setting(value.func) and all(map(_is_setting, value.args)) and all(map(_is_setting, value.keywords.values()))
    return type(value) in (tuple, frozenset) and all(map(_is_setting, value))


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
            vars(double).update(vars(tensor))  # what an author says of it
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
