"""For every value of a graph: where its axes come from, whether it is of the signal, and which parameters it stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from modelfactory.tracing.axes import Axis, Layout, fresh, one, removed, replaced, reshaped, size_of, sliced
from modelfactory.tracing.contraction import Contraction, contraction
from modelfactory.tracing.graph import Graph, Node, Value
from modelfactory.tracing.operators import (
    CONVOLUTIONS,
    JOINS,
    LOOKUPS,
    NORMS,
    PERMUTES,
    RECURRENT,
    RESHAPES,
    SLICES,
    SPREADS,
    STATISTICS,
)

_NONE: frozenset[str] = frozenset()
_INDEXING = frozenset({"getitem", "index_select", "gather", "take_along_dim", "masked_fill", "where", "select", "narrow", "one_hot"})


class Facts(NamedTuple):
    """What is known of one value.

    Attributes:
        layout: where its axes come from.
        signal: whether it depends on the numbers that the model is given, or on what was looked up by them.
        mains: of a value made of parameters alone, those that have its size.
        scales: those that only scale or shift it.
    """

    layout: Layout
    signal: bool
    mains: frozenset[str] = _NONE
    scales: frozenset[str] = _NONE

    @property
    def pure(self) -> bool:
        """Whether it is made of parameters (and constants) alone."""
        return not self.signal and bool(self.mains)


class Labels:
    """The facts of a graph's values, and its contractions.

    Attributes:
        contractions: by the index of their node.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.contractions: dict[int, Contraction] = {}
        self._facts: list[Facts | None] = [None] * len(graph.values)
        for value in graph.values:
            if value.node is None:
                self._facts[value.index] = _of_leaf(value)
        for node in graph.nodes:
            self._label(node)

    def __getitem__(self, value: Value) -> Facts:
        return self._facts[value.index]  # pyright: ignore[reportReturnType]

    def pure(self, value: Value) -> bool:
        return self[value].pure

    def signal(self, value: Value) -> bool:
        return self[value].signal

    def _label(self, node: Node) -> None:
        found = contraction(node)
        if found is not None:
            self.contractions[node.index] = found
        layouts = self._layouts(node, found)
        signal = self._is_signal(node)
        mains, scales = (_NONE, _NONE) if signal else self._standing_for(node, found)
        for value, layout in zip(node.outputs, layouts, strict=True):
            self._facts[value.index] = Facts(layout, signal, mains, scales)

    def _is_signal(self, node: Node) -> bool:
        if node.op in LOOKUPS or node.op in RECURRENT:
            return True
        if node.op == "linear" or node.op in CONVOLUTIONS:  # what a layer is given is a signal, also where it is a parameter
            return self.signal(node.inputs[0]) or len(node.inputs) > 1 and (self.pure(node.inputs[1]) or self.pure(node.inputs[0]))
        inputs = node.inputs
        if node.op in _INDEXING:
            inputs = [value for value in inputs if value.floating] or inputs
        elif any(value.floating for value in node.outputs):
            inputs = [value for value in inputs if value.floating] or inputs
        return any(map(self.signal, inputs))

    def _standing_for(self, node: Node, found: Contraction | None) -> tuple[frozenset[str], frozenset[str]]:
        """Which parameters a value of parameters stands for, and which only scale it."""
        inputs = [value for value in node.inputs if self.pure(value)]
        if not inputs:
            return _NONE, _NONE
        if found is not None or node.op in JOINS:
            main = inputs
        else:
            largest = max(value.numel for value in inputs)
            main = [value for value in inputs if value.numel == largest]
            if node.op in ("mul", "div") and len(main) > 1 and node.op == "div":
                main = main[:1]
            if node.op in NORMS or node.op == "_weight_norm":
                main = inputs[:1]
        mains = frozenset().union(*(self[value].mains for value in main))
        every = frozenset().union(*(self[value].mains | self[value].scales for value in inputs))
        return mains, every - mains

    def _layouts(self, node: Node, found: Contraction | None) -> Sequence[Layout]:
        output = node.outputs
        if found is not None and len(output) == 1:
            return [self._contracted(node, found)]
        rule = _RULES.get(node.op)
        if rule is not None:
            layouts = rule(node, self)
            if layouts is not None and len(layouts) >= len(output):
                return [_checked(layout, value) for layout, value in zip(layouts, output, strict=False)]
        return [self._aligned(node, value) for value in output]

    def _layouts_under(self, node: Node, labels: Any) -> Sequence[Layout]:
        """The layouts of what a view or a slice gives, under other labels of its input."""
        rule = _RULES.get(node.op)
        layouts = None if rule is None else rule(node, labels)
        if layouts is None or len(layouts) < len(node.outputs):
            layouts = [labels[node.inputs[0]].layout] * len(node.outputs)
        return [_checked(layout, value) for layout, value in zip(layouts, node.outputs, strict=False)]

    def _contracted(self, node: Node, found: Contraction) -> Layout:
        where: dict[str, Axis] = {}
        starts: dict[Any, int] = {}
        for operand in found.operands:
            layout = self[operand.value].layout
            starts.update(layout.starts)
            for letter, axis in zip(operand.letters, layout.axes, strict=True):
                if axis or letter not in where:
                    where.setdefault(letter, axis)
        axes = [where.get(letter, one(size)) for letter, size in zip(found.output, node.output.shape, strict=True)]
        x = found.operands[0].value
        if found.groups > 1 and len(x.shape) == len(found.output):
            channel = len(found.output) - len(node.inputs[1].shape) + 1
            if x.shape[channel] == node.output.shape[channel] == found.groups:  # depthwise: each channel stays itself
                axes[channel] = self[x].layout.axes[channel]
        return _checked(Layout(tuple(axes), starts), node.output)

    def _aligned(self, node: Node, value: Value) -> Layout:
        """Elementwise, broadcast: each axis is that of the first input that has it."""
        axes: list[Axis] = []
        inputs = [item for item in node.inputs if len(item.shape) <= len(value.shape)]
        inputs.sort(key=lambda item: not self.signal(item))
        starts: dict[Any, int] = {}
        used: set[int] = set()
        for place in range(-len(value.shape), 0):
            size = value.shape[place]
            source = next((item for item in inputs if len(item.shape) >= -place and item.shape[place] == size), None) if size > 1 else None
            axes.append(() if size == 1 else one(size) if source is None else self[source].layout.axes[place])
            if source is not None:
                used.add(source.index)
        for item in inputs:
            if item.index in used:
                starts.update({dim: start for dim, start in self[item].layout.starts.items() if dim not in starts})
        return Layout(tuple(axes), starts)


def _of_leaf(value: Value) -> Facts:
    if value.kind == "parameter":
        name = value.name or ""
        return Facts(fresh(value.shape, "parameter", name), False, frozenset({name}))
    return Facts(fresh(value.shape, value.kind), value.kind == "input")


def _checked(layout: Layout, value: Value) -> Layout:
    """A layout that fits the shape: an axis that does not is one of its own."""
    if len(layout.axes) != len(value.shape):
        return fresh(value.shape, "result")
    if all(size_of(axis) == size for axis, size in zip(layout.axes, value.shape, strict=True)):
        return layout
    axes = tuple(axis if size_of(axis) == size else one(size) for axis, size in zip(layout.axes, value.shape, strict=True))
    return Layout(axes, layout.starts)


def _first(node: Node, labels: Labels) -> Layout:
    return labels[node.inputs[0]].layout


def _reshape(node: Node, labels: Labels) -> list[Layout]:
    return [reshaped(_first(node, labels), node.output.shape)]


def _permute(node: Node, labels: Labels) -> list[Layout] | None:
    layout = _first(node, labels)
    order = _order(node, len(layout.axes))
    return None if order is None else [Layout(tuple(layout.axes[axis] for axis in order), layout.starts)]


def _order(node: Node, ndim: int) -> list[int] | None:
    """Which axis of the input each axis of the result is."""
    order = list(range(ndim))
    if node.op in ("T", "t", "H"):
        return order[::-1]
    if node.op in ("mT", "mH", "adjoint"):
        return [*order[:-2], ndim - 1, ndim - 2]
    if node.op == "permute":
        dims = node.args[1:] if len(node.args) > 2 else node.argument(1, "dims")
        dims = (dims,) if isinstance(dims, int) else dims
        return None if dims is None else [dim % ndim for dim in dims]
    first, second = node.argument(1, "dim0", node.kwargs.get("source")), node.argument(2, "dim1", node.kwargs.get("destination"))
    first = first if first is not None else node.kwargs.get("axis0")
    second = second if second is not None else node.kwargs.get("axis1")
    if node.op in ("movedim", "moveaxis"):
        sources = [first] if isinstance(first, int) else list(first or ())
        goals = [second] if isinstance(second, int) else list(second or ())
        rest = [axis for axis in order if axis not in [source % ndim for source in sources]]
        for goal, source in sorted((goal % ndim, source % ndim) for source, goal in zip(sources, goals, strict=True)):
            rest.insert(goal, source)
        return rest
    if not isinstance(first, int) or not isinstance(second, int):
        return None
    order[first % ndim], order[second % ndim] = order[second % ndim], order[first % ndim]
    return order


def _slice(node: Node, labels: Labels) -> list[Layout] | None:
    layout = _first(node, labels)
    shape = node.inputs[0].shape
    if node.op == "getitem":
        return [_indexed(layout, shape, node.args[1])]
    dim = _dim(node, len(shape))
    if dim is None:
        return None
    if node.op == "unbind":
        return [removed(sliced(layout, dim, index, 1), dim) for index in range(shape[dim])]
    if node.op == "select":
        index = node.argument(2, "index")
        return [removed(sliced(layout, dim, index % shape[dim], 1), dim)] if isinstance(index, int) else None
    if node.op == "narrow":
        begin, size = node.argument(2, "start"), node.argument(3, "length")
        return [sliced(layout, dim, begin % max(shape[dim], 1), size)] if isinstance(begin, int) and isinstance(size, int) else None
    if node.op in ("index_select", "gather", "take_along_dim"):
        return [replaced(layout, dim, one(node.output.shape[dim]))]
    begin, found = 0, []
    for value in node.outputs:
        found.append(sliced(layout, dim, begin, value.shape[dim]))
        begin += value.shape[dim]
    return found


def _dim(node: Node, ndim: int) -> int | None:
    place = {"unbind": 1, "select": 1, "narrow": 1, "index_select": 1, "gather": 1, "take_along_dim": 2}.get(node.op, 2)
    dim = node.argument(place, "dim", node.kwargs.get("axis", 0))
    return dim % ndim if isinstance(dim, int) else None


def _indexed(layout: Layout, shape: Sequence[int], index: Any) -> Layout:
    """The layout of `tensor[index]`; axes picked by a tensor are axes of their own."""
    items = list(index) if isinstance(index, tuple) else [index]
    taken = sum(_consumes(item) for item in items)
    if Ellipsis not in [item for item in items if not isinstance(item, Value)]:
        items.append(Ellipsis)
    place = 0
    picked: tuple[int, tuple[int, ...]] | None = None
    for item in items:
        if item is None:
            layout = Layout((*layout.axes[:place], (), *layout.axes[place:]), layout.starts)
            place += 1
        elif item is Ellipsis:
            place += len(shape) - taken
        elif isinstance(item, bool):
            return Layout((), layout.starts)
        elif isinstance(item, int):
            size = size_of(layout.axes[place])
            layout = removed(sliced(layout, place, item % max(size, 1), 1), place)
        elif isinstance(item, slice):
            size = size_of(layout.axes[place])
            try:
                begin, end, step = item.indices(size)
            except TypeError:  # a bound that is a tensor
                return Layout((), layout.starts)
            count = len(range(begin, end, step))
            layout = sliced(layout, place, begin, count, step) if count else Layout((), layout.starts)
            if not count:
                return layout
            place += 1
        elif isinstance(item, tuple) and item and all(isinstance(place_of, int) for place_of in item):
            size = size_of(layout.axes[place])
            places = [place_of % max(size, 1) for place_of in item]
            in_a_row = places == list(range(places[0], places[0] + len(places)))
            layout = sliced(layout, place, places[0], len(places)) if in_a_row else replaced(layout, place, one(len(places)))
            place += 1
        elif isinstance(item, Value):
            consumed = _consumes(item)
            layout = Layout((*layout.axes[:place], *layout.axes[place + consumed :]), layout.starts)
            sizes = item.shape if item.floating or consumed == 1 else (0,)
            picked = (place if picked is None else picked[0], sizes if picked is None or len(sizes) >= len(picked[1]) else picked[1])
        else:
            return Layout((), layout.starts)
    if picked is not None:
        new = tuple(one(size) for size in picked[1])
        layout = Layout((*layout.axes[: picked[0]], *new, *layout.axes[picked[0] :]), layout.starts)
    return layout


def _consumes(item: Any) -> int:
    """How many axes an index is for."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    if isinstance(item, Value) and item.tensor is not None and str(item.tensor.dtype) in ("torch.bool", "torch.uint8"):
        return len(item.shape)
    return 1


def _spread(node: Node, labels: Labels) -> list[Layout]:
    layout = _first(node, labels)
    lead = len(node.output.shape) - len(layout.axes)
    if node.op == "repeat_interleave" or lead < 0:
        lead = 0
    axes = [*((),) * lead, *layout.axes]
    pairs = zip(axes, node.output.shape, strict=False)
    return [Layout(tuple(axis if size_of(axis) == size else one(size, "spread") for axis, size in pairs), layout.starts)]


def _joined(node: Node, labels: Labels) -> list[Layout] | None:
    values = [value for value in node.inputs if value.numel]
    if not values:
        return None
    shape = node.output.shape
    dim = node.argument(1, "dim", node.kwargs.get("axis", 0))
    layout = labels[values[0]].layout
    if not isinstance(dim, int):
        return None
    dim %= len(shape)
    if len(shape) == len(layout.axes):
        return [replaced(layout, dim, one(shape[dim], "joined"))]
    return [Layout((*layout.axes[:dim], one(shape[dim], "joined"), *layout.axes[dim:]), layout.starts)]


def reduced_dims(node: Node) -> list[int]:
    """The axes over which a call takes a mean, a sum or a largest value; all where it says none."""
    ndim = len(node.inputs[0].shape)
    if "pool" in node.op:
        return list(range(2, ndim))
    dims = node.argument(1, "dim", node.kwargs.get("axis"))
    if node.op in ("norm", "vector_norm", "linalg_vector_norm", "linalg_norm"):
        dims = node.argument(2, "dim", node.kwargs.get("axis"))
    dims = (dims,) if isinstance(dims, int) else dims
    if not isinstance(dims, (tuple, list)) or not all(isinstance(dim, int) for dim in dims):
        return list(range(ndim))
    return [dim % ndim for dim in dims] if ndim and dims else list(range(ndim))


def _reduced(node: Node, labels: Labels) -> list[Layout] | None:
    layout = _first(node, labels)
    if "pool" in node.op or len(node.output.shape) == len(layout.axes):
        pairs = zip(layout.axes, node.output.shape, strict=False)
        kept = Layout(tuple(axis if size_of(axis) == size else one(size) for axis, size in pairs), layout.starts)
        return [kept] * len(node.outputs)
    dims = reduced_dims(node)
    kept = Layout(tuple(axis for place, axis in enumerate(layout.axes) if place not in dims), layout.starts)
    return [kept] * len(node.outputs)


def _attended(node: Node, labels: Labels) -> list[Layout]:
    query, value = labels[node.inputs[0]].layout, labels[node.inputs[2]].layout
    return [Layout((*query.axes[:-1], value.axes[-1]), {**query.starts, **value.starts})]


def _looked_up(node: Node, labels: Labels) -> list[Layout] | None:
    if node.op != "embedding":
        return None
    index, table = labels[node.argument(0, "input")].layout, labels[node.argument(1, "weight")].layout
    return [Layout((*index.axes, table.axes[-1]), {**index.starts, **table.starts})]


def _halved(node: Node, labels: Labels) -> list[Layout]:
    layout = _first(node, labels)
    dim = node.argument(1, "dim", -1) % len(layout.axes)
    return [sliced(layout, dim, 0, node.output.shape[dim])]


_RULES: dict[str, Callable[[Node, Labels], Sequence[Layout] | None]] = {
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(PERMUTES, _permute),
    **dict.fromkeys(SLICES, _slice),
    **dict.fromkeys(SPREADS, _spread),
    **dict.fromkeys(JOINS, _joined),
    **dict.fromkeys(STATISTICS, _reduced),
    "scaled_dot_product_attention": _attended,
    "embedding": _looked_up,
    "glu": _halved,
}
