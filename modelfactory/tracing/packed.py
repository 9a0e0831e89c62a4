"""Projections that hold several matrices: whose outputs are split, or that are split themselves, and never put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from modelfactory.tracing.axes import Axis, Dim, Layout, merged, sliced
from modelfactory.tracing.graph import Node, Value
from modelfactory.tracing.labels import Labels, ValueFacts
from modelfactory.tracing.operators import JOINS
from modelfactory.tracing.steps import Steps

_LINEAR = frozenset({"carry", "scale", "shift", "sum"})


@dataclass(eq=False)
class Part:
    """One matrix of a packed parameter.

    Attributes:
        axis: of the parameter along which the parts lie.
        start: the first position.
        atoms: (size, stride) of its positions, the slowest first; one with stride 1 is a range.
        values: what the part is in the graph, from where it is split off.
    """

    axis: int
    start: int
    atoms: tuple[tuple[int, int], ...]
    values: set[Value] = field(default_factory=set, repr=False)

    @property
    def size(self) -> int:
        count = 1
        for size, _ in self.atoms:
            count *= size
        return count

    @property
    def positions(self) -> list[int]:
        """Every position along the axis, in order of the part."""
        found = [self.start]
        for size, stride in self.atoms:
            found = [place + step * stride for place in found for step in range(size)]
        return found

    @property
    def region(self) -> tuple[int, tuple[tuple[int, int], ...]]:
        return self.start, self.atoms


def packed_parts(steps: Steps) -> dict[str, list[Part]]:
    """For each parameter that packs several matrices, its parts in the order of their first positions.

    Example:
        >>> import torch
        >>> from modelfactory.tracing.read import read
        >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        >>> x = torch.zeros(1, 3, 8)
        >>> [(part.start, part.size) for part in packed_parts(read(attention, (x, x, x)).steps)["in_proj_weight"]]
        [(0, 8), (8, 8), (16, 8)]
    """
    found: dict[str, list[Part]] = {}
    by_parameter: dict[str, list[tuple[Node, Value]]] = {}
    for index in steps.labels.contractions:
        node = steps.graph.nodes[index]
        weight = steps.weight(node)
        if weight is not None and steps.kind(node) == "weights":
            for name in steps.labels[weight].mains:
                by_parameter.setdefault(name, []).append((node, weight))
    for name, products in by_parameter.items():
        parts = _split_weight(steps, name, products) or _split_output(steps, name, products)
        if parts:
            found[name] = sorted(parts, key=lambda part: part.start)
    return found


def _split_weight(steps: Steps, name: str, products: Sequence[tuple[Node, Value]]) -> list[Part] | None:
    """Parts of a parameter that are multiplied each on its own."""
    if len(products) < 2:
        return None
    regions: dict[tuple[int, tuple[tuple[int, int], ...]], Part] = {}
    axis: int | None = None
    for node, weight in products:
        product = steps.labels.contractions[node.index]
        operand = next(item for item in product.operands if item.value is weight)
        layout = steps.labels[weight].layout
        for place in product.coming_out(operand):
            dims = {atom.dim for atom in layout.axes[place] if atom.dim.name == name}
            for dim in dims:
                part = _part(layout, dim)
                if part.size < dim.size and axis in (None, dim.axis):
                    axis = dim.axis
                    regions.setdefault(part.region, part).values |= {weight, node.output}
    parts = list(regions.values())
    own = steps.graph.parameters[name]
    return parts if axis is not None and _covers(parts, own.shape[axis]) else None


def _split_output(steps: Steps, name: str, products: Sequence[tuple[Node, Value]]) -> list[Part] | None:
    """Parts that the outputs of a parameter are split into; the same in all of its products."""
    every: list[list[Part]] = []
    for node, weight in products:
        product = steps.labels.contractions[node.index]
        operand = next(item for item in product.operands if item.value is weight)
        layout = steps.labels[weight].layout
        dims = {atom.dim for place in product.coming_out(operand) for atom in layout.axes[place] if atom.dim.name == name}
        found = [parts for dim in sorted(dims, key=lambda dim: dim.axis) if len(parts := _Splits(steps, dim).of(node)) > 1]
        if not found:
            return None
        every.append(found[0])
    first = every[0]
    for parts in every[1:]:
        if [part.region for part in parts] != [part.region for part in first]:
            return None
        for part, other in zip(first, parts, strict=True):
            part.values |= other.values
    return first


def _part(layout: Layout, dim: Dim) -> Part:
    atoms = [atom for axis in layout.axes for atom in axis if atom.dim is dim]
    atoms.sort(key=lambda atom: -atom.stride)
    return Part(dim.axis, layout.starts.get(dim, 0), tuple((atom.size, atom.stride) for atom in merged(atoms)))


def _covers(parts: Sequence[Part], size: int) -> bool:
    """Whether parts have each position once."""
    if len(parts) < 2 or sum(part.size for part in parts) != size:
        return False
    return len({place for part in parts for place in part.positions}) == size


class _Overlay:
    """Labels with layouts of its own for some values."""

    def __init__(self, labels: Labels):
        self._labels = labels
        self.layouts: dict[int, Layout] = {}

    def __getitem__(self, value: Value) -> ValueFacts:
        own = self.layouts.get(value.index)
        if own is not None and value.index < 0:  # half of a gated unit, which is no value of the graph
            return ValueFacts(own, True)
        facts = self._labels[value]
        return facts if own is None else facts._replace(layout=own)


class _Splits:
    """Follows the outputs of one product forward to where they are split."""

    def __init__(self, steps: Steps, dim: Dim):
        self.steps, self.dim = steps, dim
        self._overlay = _Overlay(steps.labels)

    def of(self, node: Node) -> list[Part]:
        """The parts, one of all where it is not split."""
        self._overlay.layouts[node.output.index] = self.steps.labels[node.output].layout
        return self._parts(node.output)

    def _layout(self, value: Value) -> Layout:
        return self._overlay[value].layout

    def _parts(self, value: Value) -> list[Part]:
        chain = {value}
        whole = _part(self._layout(value), self.dim)
        while True:
            whole.values = chain
            children = self._children(value)
            if children is None:
                return [whole]
            if len(children) == 1 and _part(self._layout(children[0]), self.dim).region == whole.region:
                value = children[0]
                chain.add(value)
                continue
            break
        groups: dict[object, list[Value]] = {}
        for child in children:
            groups.setdefault(_part(self._layout(child), self.dim).region, []).append(child)
        heads = [_part(self._layout(group[0]), self.dim) for group in groups.values()]
        if len(heads) < 2 or not self._fill(heads, whole):
            return [whole]
        ahead = [self._ahead(group) for group in groups.values()]
        if any(one & other for place, one in enumerate(ahead) for other in ahead[:place]):
            return [whole]
        found: list[Part] = []
        for head, group in zip(heads, groups.values(), strict=True):
            inner = self._parts(group[0]) if len(group) == 1 else [head]
            for part in inner:
                part.values |= set(group)
            found += inner
        return found

    def _fill(self, heads: Sequence[Part], whole: Part) -> bool:
        if sum(part.size for part in heads) != whole.size:
            return False
        return {place for part in heads for place in part.positions} == set(whole.positions)

    def _children(self, value: Value) -> list[Value] | None:
        """What a value becomes by views, slices and biases alone; None where something else takes it."""
        found: list[Value] = []
        for node in dict.fromkeys(value.users):
            kind = self.steps.kind(node)
            if node.op == "glu":
                found += self._halves(node, value)
                continue
            if node.op == "batch_norm":
                kind = "scale"
            if kind not in _LINEAR or any(output in self.steps.graph.outputs for output in node.outputs):
                return None
            if kind == "carry":
                layouts = self.steps.labels._layouts_under(node, self._overlay)
            else:
                if node.output.shape != value.shape:
                    return None
                layouts = [self._layout(value)]
            for output, layout in zip(node.outputs, layouts, strict=True):
                self._overlay.layouts[output.index] = layout
                if output.users and _has(layout, self.dim):
                    found.append(output)
                elif output.users and output.numel:
                    return None
        return found or None

    def _halves(self, node: Node, value: Value) -> list[Value]:
        """The two halves that a gated unit takes, as values of their own."""
        layout = self._layout(value)
        dim = node.argument(1, "dim", -1) % len(layout.axes)
        size = value.shape[dim] // 2
        found = []
        for half in range(2):
            stand_in = Value(-1 - 2 * value.index - half, _Shape(value, dim, size), "result", node)  # pyright: ignore
            self._overlay.layouts[stand_in.index] = sliced(layout, dim, half * size, size)
            stand_in.name = ("up", "gate")[half]
            found.append(stand_in)
        return found

    def _ahead(self, group: Sequence[Value]) -> set[int]:
        """The concatenations that values end in, by steps that keep them signals of the same projection."""
        found: set[int] = set()
        ahead, seen = list(group), {value.index for value in group}
        while ahead:
            for node in dict.fromkeys(ahead.pop().users):
                if node.op in JOINS:
                    found.add(node.index)
                if node.op in JOINS or self.steps.kind(node) in _LINEAR:
                    for output in node.outputs:
                        if output.index not in seen:
                            seen.add(output.index)
                            ahead.append(output)
        return found


class _Shape:
    """Stands for a tensor of which only the shape is asked."""

    def __init__(self, value: Value, dim: int, size: int):
        self.shape = (*value.shape[:dim], size, *value.shape[dim + 1 :])

    def is_floating_point(self) -> bool:
        return True

    def is_complex(self) -> bool:
        return False


def _has(layout: Layout, dim: Dim) -> bool:
    axes: Sequence[Axis] = layout.axes
    return any(atom.dim is dim for axis in axes for atom in axis) or dim in layout.starts
