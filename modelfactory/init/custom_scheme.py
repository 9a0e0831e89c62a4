"""Schemes that are functions of one's own: they have to fill what they are given, whole, and nothing else."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from modelfactory.config.errors import ConfigError, Problem, first_line, some_names
from modelfactory.init.assign import Assignment
from modelfactory.init.scheme_call import Custom
from modelfactory.numerics.fingerprint import digest


def is_own(item: Assignment) -> bool:
    """Whether a function of the user's own fills a parameter, or a block of it."""
    return any(isinstance(part.call, Custom) for part in item.parts or (item,))


def call_own(item: Assignment, call: Custom, part: Tensor, drawing: torch.Generator | None) -> None:
    """Lets a function fill a tensor, or a block of one.

    Raises:
        ConfigError: it raised something, or left numbers unset: what it returns is not looked at.
    """
    path, what = item.choice.path, f"{call.name} on {item.info.name}"
    part.fill_(math.nan)
    takes = inspect.signature(call.function).parameters
    try:
        call.function(part, **call.args, **({"generator": drawing} if "generator" in takes else {}))
    except Exception as error:  # whatever a function of the user's own raises is told with the rule that named it
        raise ConfigError([Problem(path, f"{what}: {type(error).__name__}: {first_line(error)}")]) from error
    left = int(part.isnan().sum())
    if left:
        how = "it has to fill the tensor that it is given, in place"
        raise ConfigError([Problem(path, f"{what} leaves {left:,} of {part.numel():,} numbers unset or not a number; {how}")])


@contextmanager
def nothing_else_changes(own: Sequence[Assignment], model: nn.Module | None) -> Iterator[Callable[[Assignment], None]]:
    """Compares what functions of one's own must leave alone before and after; gives what is to be called after each fill.

    Contents are compared, since a write to `.data` leaves no other trace.

    Raises:
        ConfigError: another parameter or buffer changed, or one of their own after it was filled.
    """
    mine = {id(item.info.parameter) for item in own}
    named = [] if model is None else [*model.named_parameters(), *model.named_buffers()]
    watched = {name: tensor for name, tensor in named if id(tensor) not in mine and not tensor.is_meta}
    before = {name: digest(tensor) for name, tensor in watched.items()}

    def filled(item: Assignment) -> None:
        watched[item.info.name] = item.info.parameter
        before[item.info.name] = "" if item.info.parameter.is_meta else digest(item.info.parameter)

    yield filled
    changed = [name for name, tensor in watched.items() if not tensor.is_meta and digest(tensor) != before[name]]
    if changed:
        names = ", ".join(dict.fromkeys(item.call.name for item in own))
        what = f"{names} writes to {some_names(changed, 3)} too; it may fill the tensor it is given and nothing else"
        raise ConfigError([Problem(own[0].choice.path, what)])


@contextmanager
def as_it_was(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Puts the values of tensors back if anything is raised meanwhile."""
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors if not tensor.is_meta]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, values in kept:
                tensor.copy_(values)
        raise
