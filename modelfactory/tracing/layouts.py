"""The axes of what a view, a slice, a reduction or a lookup gives, from those of what it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from modelfactory.tracing.axes import Layout, fresh, one, removed, replaced, reshaped, size_of, sliced
from modelfactory.tracing.graph import Node, Value
from modelfactory.tracing.operators import JOINS, PERMUTES, RESHAPES, SLICES, SPREADS, STATISTICS


class Labelled(Protocol):
    """Gives what is known of a value, its layout among it."""

    def __getitem__(self, value: Value, /) -> Any: ...


def checked(layout: Layout, value: Value) -> Layout:
    """A layout that fits the shape: an axis that does not is one of its own."""
    if len(layout.axes) != len(value.shape):
        return fresh(value.shape, "result")
    if all(size_of(axis) == size for axis, size in zip(layout.axes, value.shape, strict=True)):
        return layout
    axes = tuple(axis if size_of(axis) == size else one(size) for axis, size in zip(layout.axes, value.shape, strict=True))
    return Layout(axes, layout.starts)


def _first(node: Node, labels: Labelled) -> Layout:
    return labels[node.inputs[0]].layout


def _reshape(node: Node, labels: Labelled) -> list[Layout]:
    return [reshaped(_first(node, labels), node.output.shape)]


def _permute(node: Node, labels: Labelled) -> list[Layout] | None:
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


def _slice(node: Node, labels: Labelled) -> list[Layout] | None:
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


def _spread(node: Node, labels: Labelled) -> list[Layout]:
    layout = _first(node, labels)
    lead = len(node.output.shape) - len(layout.axes)
    if node.op == "repeat_interleave" or lead < 0:
        lead = 0
    axes = [*((),) * lead, *layout.axes]
    pairs = zip(axes, node.output.shape, strict=False)
    return [Layout(tuple(axis if size_of(axis) == size else one(size, "spread") for axis, size in pairs), layout.starts)]


def _joined(node: Node, labels: Labelled) -> list[Layout] | None:
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


def _reduced(node: Node, labels: Labelled) -> list[Layout] | None:
    layout = _first(node, labels)
    if "pool" in node.op or len(node.output.shape) == len(layout.axes):
        pairs = zip(layout.axes, node.output.shape, strict=False)
        kept = Layout(tuple(axis if size_of(axis) == size else one(size) for axis, size in pairs), layout.starts)
        return [kept] * len(node.outputs)
    dims = reduced_dims(node)
    kept = Layout(tuple(axis for place, axis in enumerate(layout.axes) if place not in dims), layout.starts)
    return [kept] * len(node.outputs)


def _attended(node: Node, labels: Labelled) -> list[Layout]:
    query, value = labels[node.inputs[0]].layout, labels[node.inputs[2]].layout
    return [Layout((*query.axes[:-1], value.axes[-1]), {**query.starts, **value.starts})]


def _looked_up(node: Node, labels: Labelled) -> list[Layout] | None:
    if node.op != "embedding":
        return None
    index, table = labels[node.argument(0, "input")].layout, labels[node.argument(1, "weight")].layout
    return [Layout((*index.axes, table.axes[-1]), {**index.starts, **table.starts})]


def _halved(node: Node, labels: Labelled) -> list[Layout]:
    layout = _first(node, labels)
    dim = node.argument(1, "dim", -1) % len(layout.axes)
    return [sliced(layout, dim, 0, node.output.shape[dim])]


RULES: dict[str, Callable[[Node, Labelled], Sequence[Layout] | None]] = {
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
