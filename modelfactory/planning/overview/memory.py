"""What a model takes in memory: its weights, their gradients, and what the optimizer keeps for each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from modelfactory.init.ledger import LedgerRow
from modelfactory.training.no_dynamo import eager_step, without_dynamo
from modelfactory.training.optimizer import OptimizerSpec

_TRIAL_SIZES = (11, 7, 5, 3, 2, 13, 17)  # all different, so that a size of the state tells which of the parameter's it is


@dataclass(frozen=True)
class Totals:
    """Sums over a model.

    Attributes:
        parameters, trainable: numbers, tied ones once.
        tensors: parameters as tensors.
        weights, buffers: bytes.
        gradients: bytes, of what trains.
        optimizer: bytes that the optimizer keeps after its first step; None when not known.
        optimizer_name: the class of the optimizer; None without one.
        flops: of one forward of one sample; None when not known.
        outputs: bytes of what leaves all layers for one sample, a bound of what is kept for the backward pass; None when
            not known.
    """

    parameters: int
    trainable: int
    tensors: int
    weights: int
    buffers: int
    gradients: int
    optimizer: int | None
    optimizer_name: str | None
    flops: int | None
    outputs: int | None


def itemsize(dtype: str) -> int:
    """Bytes of one number of a dtype as the ledger names it.

    Example:
        >>> itemsize("bfloat16")
        2
    """
    return getattr(torch, dtype).itemsize


def shape_of_row(row: LedgerRow) -> tuple[int, ...]:
    """The shape of a ledger's row.

    Example:
        >>> from torch import nn
        >>> import modelfactory as mf
        >>> shape_of_row(mf.initialize(nn.Linear(4, 3), {"match": "weight", "scheme": "ones"})["weight"])
        (3, 4)
    """
    return () if row.shape == "scalar" else tuple(map(int, row.shape.split("x")))


def optimizer_state(optimizer: OptimizerSpec | None, rows: Iterable[LedgerRow]) -> tuple[str | None, int | None]:
    """The optimizer's name, and the bytes it keeps for all that trains; None for what is not known.

    One step is taken on a small parameter of each number of dimensions, and the sizes of its state are read off.

    Args:
        rows: of a ledger, with the group each is in.
    """
    if optimizer is None:
        return None, None
    kind, options = optimizer.kind, {group.name: group.options for group in optimizer.grouping.groups}
    known: dict[tuple[Any, ...], _State | None] = {}
    total = 0
    for row in rows:
        if not row.trainable:
            continue
        own = options.get(row.group, options.get(row.group.partition(".")[0], {}))
        shape = shape_of_row(row)
        case = (repr(own), len(shape), row.dtype)
        if case not in known:
            known[case] = _state(kind, {**optimizer.arguments, **own}, len(shape), row.dtype)
        state = known[case]
        if state is None:
            return kind.__name__, None
        total += sum(_bytes(sizes, each, shape) for sizes, each in state)
    return kind.__name__, total


_State = tuple[tuple[tuple[int, ...], int], ...]


def _state(kind: type[torch.optim.Optimizer], arguments: Mapping[str, Any], ndim: int, dtype: str) -> _State | None:
    """The shapes of the state of a trial parameter, each with the bytes of a number; None when no step can be taken."""
    if ndim > len(_TRIAL_SIZES):
        return None
    parameter = torch.nn.Parameter(torch.ones(_TRIAL_SIZES[:ndim], dtype=getattr(torch, dtype)))
    parameter.grad = torch.ones_like(parameter)
    try:
        with without_dynamo():
            optimizer = kind([parameter], **arguments)  # pyright: ignore[reportCallIssue]
        eager_step(optimizer)()
    except Exception:  # an optimizer of one's own may need what there is not here: its state is not known then, and said so
        return None
    state = optimizer.state.get(parameter, {})
    return tuple((tuple(value.shape), value.element_size()) for value in state.values() if isinstance(value, torch.Tensor))


def _bytes(sizes: tuple[int, ...], each: int, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of the state, where the trial's sizes stand for those of the real parameter."""
    of: dict[int, int] = dict(zip(_TRIAL_SIZES, shape, strict=False))
    for size in sizes:
        each *= of.get(size, size)
    return each
