"""Where the axes of a tensor come from, followed through reshapes, permutations and slices.

An axis is a row of atoms, the slowest first. An atom counts along one `Dim`, an axis as it was made (of a parameter, an input,
or the result of a call): its positions are `start + stride * i` for `i < size`, where the start of all atoms of one
`Dim` in one tensor is kept together. An axis of size 1 has no atoms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, eq=False)
class Dim:
    """An axis as it was made.

    Attributes:
        kind: "parameter", "input", "spread" (of a size that was 1), "joined" (by a concatenation), or "result".
        name: of the parameter; "" of any other.
        axis: its number in the tensor that it was made with.
        size: how many positions it has.
    """

    kind: str
    name: str
    axis: int
    size: int

    def __repr__(self) -> str:
        return f"{self.name or self.kind}[{self.axis}]:{self.size}"


class Atom(NamedTuple):
    """A part of an axis: `size` positions of `dim`, `stride` apart."""

    dim: Dim
    size: int
    stride: int


Axis = tuple[Atom, ...]


class Layout(NamedTuple):
    """The axes of a tensor, and for each `Dim` at which of its positions the tensor begins where that is not 0."""

    axes: tuple[Axis, ...]
    starts: Mapping[Dim, int]


_NO_STARTS: Mapping[Dim, int] = {}


def fresh(shape: Sequence[int], kind: str, name: str = "") -> Layout:
    """The layout of a tensor whose axes begin with it."""
    axes = tuple((Atom(Dim(kind, name, axis, size), size, 1),) if size > 1 else () for axis, size in enumerate(shape))
    return Layout(axes, _NO_STARTS)


def one(size: int, kind: str = "result") -> Axis:
    """An axis of its own."""
    return (Atom(Dim(kind, "", 0, size), size, 1),) if size > 1 else ()


def size_of(axis: Axis) -> int:
    return math.prod(atom.size for atom in axis)


def reshaped(layout: Layout, shape: Sequence[int]) -> Layout:
    """The layout under another shape of as many entries: atoms are split and put together as it needs.

    Example:
        >>> whole = fresh((2, 12), "input")
        >>> [[(atom.size, atom.stride) for atom in axis] for axis in reshaped(whole, (2, 3, 4)).axes]
        [[(2, 1)], [(3, 4)], [(4, 1)]]
        >>> reshaped(reshaped(whole, (2, 3, 4)), (2, 12)) == whole
        True
    """
    rest = [atom for axis in layout.axes for atom in axis][::-1]
    axes: list[Axis] = []
    for size in shape:
        taken: list[Atom] = []
        left = size
        while left > 1 and rest:
            atom = rest.pop()
            if left % atom.size == 0:
                taken.append(atom)
                left //= atom.size
            elif atom.size % left == 0:
                inner = atom.size // left
                taken.append(Atom(atom.dim, left, atom.stride * inner))
                rest.append(Atom(atom.dim, inner, atom.stride))
                left = 1
            else:
                break
        if left > 1:  # sizes that do not divide: what follows is not known any more
            known = len(axes)
            return Layout((*axes, *(one(more) for more in shape[known:])), layout.starts)
        axes.append(merged(taken))
    return Layout(tuple(axes), layout.starts)


def merged(atoms: Iterable[Atom]) -> Axis:
    """Atoms in order, those that go on where the one before ends as one."""
    found: list[Atom] = []
    for atom in atoms:
        last = found[-1] if found else None
        if last is not None and last.dim is atom.dim and last.stride == atom.stride * atom.size:
            found[-1] = Atom(atom.dim, last.size * atom.size, atom.stride)
        else:
            found.append(atom)
    return tuple(found)


def sliced(layout: Layout, axis: int, begin: int, size: int, step: int = 1) -> Layout:
    """The layout of `size` positions of an axis, from `begin` on; a size of 0 or one that cannot be followed is an axis of its own.

    Example:
        >>> part = sliced(fresh((12, 4), "parameter", "w"), 0, 8, 4)
        >>> part.axes[0][0].size, list(part.starts.values())
        (4, [8])
    """
    atoms = layout.axes[axis]
    whole = size_of(atoms)
    if begin == 0 and size == whole and step == 1:
        return layout
    inner = math.prod(atom.size for atom in atoms[1:])
    starts = dict(layout.starts)
    if size == 1:
        rest = begin
        for atom, below in zip(atoms, _below(atoms), strict=True):
            starts[atom.dim] = starts.get(atom.dim, 0) + rest // below * atom.stride
            rest %= below
        return Layout((*layout.axes[:axis], (), *layout.axes[axis + 1 :]), starts)
    if not atoms or begin % inner or size % inner or (step != 1 and len(atoms) > 1):
        return Layout((*layout.axes[:axis], one(size), *layout.axes[axis + 1 :]), layout.starts)
    first = next(iter(atoms))
    starts[first.dim] = starts.get(first.dim, 0) + begin // inner * first.stride
    new = (Atom(first.dim, size // inner, first.stride * step), *atoms[1:])
    new = tuple(atom for atom in new if atom.size > 1)
    return Layout((*layout.axes[:axis], new, *layout.axes[axis + 1 :]), starts)


def _below(atoms: Axis) -> list[int]:
    return [math.prod(atom.size for atom in atoms[index + 1 :]) for index in range(len(atoms))]


def removed(layout: Layout, axis: int) -> Layout:
    return Layout((*layout.axes[:axis], *layout.axes[axis + 1 :]), layout.starts)


def replaced(layout: Layout, axis: int, new: Axis) -> Layout:
    return Layout((*layout.axes[:axis], new, *layout.axes[axis + 1 :]), layout.starts)
