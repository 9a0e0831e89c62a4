"""The numbers of what a model on the meta device makes of nothing, such as positions, masks and tables: made on the CPU beside it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

_MOST_NUMBERS = 2**22
"""Of one constant; of a larger one there are none."""
_CPU = torch.device("cpu")
_DRAWS = frozenset(
    "rand randn randint randperm bernoulli multinomial normal poisson rand_like randn_like randint_like dropout native_dropout binomial "
    "bernoulli_ cauchy_ exponential_ geometric_ log_normal_ normal_ random_ uniform_ dropout_ alpha_dropout feature_dropout".split()
)
_IN_PLACE = frozenset("__setitem__ __iadd__ __isub__ __imul__ __itruediv__ __iand__ __ior__ __ixor__ __ipow__".split())
LIKE = frozenset("empty_like full_like ones_like zeros_like new_empty new_full new_ones new_tensor new_zeros".split())
"""Calls that take of a tensor its shape and kind alone."""


def numbers_of(tensor: Tensor) -> Tensor | None:
    """The numbers of a constant on the meta device, on the CPU; None where they are not known."""
    return getattr(tensor, "_numbers", None)


def follow(func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
    """Makes on the CPU what a call of constants made on the meta device; where that cannot be, nothing is known of it.

    Example:
        >>> made = torch.arange(3, device="meta")
        >>> follow(torch.arange, "arange", (3,), {"device": "meta"}, made)
        >>> numbers_of(made).tolist()
        [0, 1, 2]
    """
    made = [item for item in _leaves(output) if isinstance(item, Tensor) and item.is_meta]
    is_in_place = name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))
    written = [args[0]] if is_in_place and args and isinstance(args[0], Tensor) else []
    if not made and not written:
        return
    numbers, was_made = None, False
    if name not in _DRAWS and all(tensor.numel() <= _MOST_NUMBERS for tensor in (*made, *written)):
        with suppress(_Unknown, RuntimeError, TypeError, ValueError, NotImplementedError, IndexError):
            given_args, given_kwargs = _on_cpu((args, dict(kwargs)), name in LIKE)
            with _CPU, torch.no_grad():
                numbers = func(*given_args, **given_kwargs)
            was_made = True
    if written and not was_made:
        vars(written[0]).pop("_numbers", None)
    found = [item for item in _leaves(numbers) if isinstance(item, Tensor)]
    for tensor, values in zip(made, found, strict=False):
        if tensor.shape == values.shape and tensor.dtype == values.dtype:
            tensor._numbers = values  # pyright: ignore[reportAttributeAccessIssue]


class _Unknown(Exception):
    """An argument has no numbers."""


def _on_cpu(value: Any, by_shape: bool) -> Any:
    if isinstance(value, Tensor):
        known = numbers_of(value)
        if known is not None or not value.is_meta:
            return value if known is None else known
        if by_shape and value.numel() <= _MOST_NUMBERS:
            return torch.empty(value.shape, dtype=value.dtype, device=_CPU)
        raise _Unknown
    if isinstance(value, torch.device):
        return _CPU
    if isinstance(value, str) and value.partition(":")[0] == "meta":
        return "cpu"
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list, torch.Size):
        return type(value)(_on_cpu(item, by_shape) for item in value)
    return {key: _on_cpu(item, by_shape) for key, item in value.items()} if isinstance(value, dict) else value


def _leaves(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, (tuple, list)) else [value]
