"""A parameter with where it stands, and the matrices that it packs by what is known or declared of its layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from modelfactory.parameters.parametrized import Computed
from modelfactory.tracing.packed import Part


class Owned(NamedTuple):
    """A parameter with where it stands.

    Attributes:
        names: all of its names, and that of a weight that is computed from it.
        attr: its name in the module, or the computed weight's.
    """

    names: tuple[str, ...]
    parameter: nn.Parameter
    module: nn.Module
    module_name: str
    attr: str
    computed: Computed | None


def equal_parts(item: Owned, names: Sequence[str]) -> tuple[Part, ...]:
    if not names:
        return ()
    rows = item.parameter.shape[0] // len(names)
    return tuple(Part(0, place * rows, ((rows, 1),)) for place in range(len(names)))


def declared_parts(item: Owned, blocks: Mapping[str, int | None], axis: int) -> tuple[Part, ...]:
    """Parts of declared names, along an axis: of the sizes given, else all alike."""
    axis = min(axis, item.parameter.ndim - 1)
    whole, begin, found = item.parameter.shape[axis], 0, []
    for size in blocks.values():
        size = whole // len(blocks) if size is None else size
        found.append(Part(axis, begin, ((size, 1),)))
        begin += size
    return tuple(found)


def parts_of_bias(bias: torch.Tensor, shape: Sequence[int], parts: Sequence[Part]) -> list[Part]:
    """The parts of a bias, along its axis of the size that its weight has along theirs; none where it has no such axis."""
    size = shape[parts[0].axis]
    axes = [axis for axis, own in enumerate(bias.shape) if own == size]
    return [Part(axes[-1], part.start, part.atoms, part.values) for part in parts] if axes else []
