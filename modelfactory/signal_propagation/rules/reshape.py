"""Through calls that only arrange a signal: reshape, permute, take parts, drop entries."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from modelfactory.numerics.gaussian_moments import NotPredicted
from modelfactory.signal_propagation.graph import SignalNode
from modelfactory.signal_propagation.rules.base import Context, arguments, first_shape
from modelfactory.signal_propagation.state import Gradient, State, flat


def same_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """Nothing happens to the numbers; where the units are is found out again if the shape changed."""
    state, before = states[0], first_shape(context, node)
    if before == node.shape:
        return state
    power = flat(state.second, len(node.shape))
    return replace(state, power=power, unit=unit_after(state.unit, before, node.shape))


def unit_after(unit: int, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    """The dimension that the units are in, or the first that holds some of them, after a reshape."""
    outer = math.prod(before[:unit])
    reached = 1
    for dim, size in enumerate(after):
        if reached * size > outer and size > 1:
            return dim
        reached *= size
    return max(len(after) - 1, 0)


def same_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    before = first_shape(context, node)
    if before == node.shape:
        return [gradient] + [None] * (len(states) - 1)
    share = min(math.prod(node.shape) / max(math.prod(before), 1), 1.0)  # a part was taken: the rest gets nothing
    times = max(math.prod(node.shape) / max(math.prod(before), 1), 1.0)  # it was repeated: gradients add up
    second = gradient.second * share * times
    where = gradient.where if share == times == 1.0 else None
    back = Gradient(flat(second, len(before)), gradient.far * share, gradient.chance, where)
    return [back] + [None] * (len(states) - 1)


def permute_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    state, order = states[0], _order(context, node)
    return replace(state, power=state.power.permute(order), unit=order.index(state.unit))


def permute_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    order = _order(context, node)
    back = [order.index(dim) for dim in range(len(order))]
    return [replace(gradient, power=gradient.power.permute(back))]


def _order(context: Context, node: SignalNode) -> list[int]:
    """Which dimension of the input is each of the output's."""
    rank = len(node.shape)
    numbers = [item for item in node.args[1:]] + [value for key, value in node.kwargs.items() if key != "input"]
    dims = [int(dim) % rank for item in numbers for dim in (item if isinstance(item, (tuple, list)) else (item,))]
    order = list(range(rank))
    if node.op == "permute":
        return dims
    if node.op == "T":
        return order[::-1]
    if node.op in ("t", "mT"):
        dims = [rank - 2, rank - 1] if rank > 1 else [0, 0]
    if node.op in ("transpose", "t", "mT", "swapaxes", "swapdims") and len(dims) == 2:
        order[dims[0]], order[dims[1]] = order[dims[1]], order[dims[0]]
        return order
    if node.op in ("movedim", "moveaxis") and len(dims) == 2:
        order.insert(dims[1], order.pop(dims[0]))
        return order
    raise NotPredicted(f"its dimensions {dims} are not understood")


def part_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """A part of the tensor: its moments are those of the whole."""
    state, before = states[0], first_shape(context, node)
    unit = _unit_of_part(node, state.unit, before)
    return replace(state, power=flat(state.second, len(node.shape)), unit=min(unit, max(len(node.shape) - 1, 0)))


def _unit_of_part(node: SignalNode, unit: int, before: tuple[int, ...]) -> int:
    if len(before) == len(node.shape):
        return unit
    if node.op in ("select", "unbind"):
        dim = arguments(node, ("input", "dim", "index"))["dim"] or 0
        return unit - (dim % len(before) < unit)
    if node.op == "getitem":
        index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        gone = [dim for dim, item in enumerate(index) if isinstance(item, int)] if Ellipsis not in index and None not in index else []
        return unit - sum(dim < unit for dim in gone)
    return unit_after(unit, before, node.shape)


def drop_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """Dropout: `E x^2/(1 - p)`; two entries keep their mean product, as each is kept by itself."""
    state, p = states[0], _rate(node)
    if p >= 1:
        return state.scaled(0.0)
    return replace(state, power=state.power / (1 - p), law=state.law if p == 0 else None)


def drop_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    p = _rate(node)
    return [replace(gradient.scaled(0.0 if p >= 1 else 1 / (1 - p)), far=gradient.far * (1 - p), where=None if p else gradient.where)]


def _rate(node: SignalNode) -> float:
    given = arguments(node, ("input", "p", "training"))
    training = given["training"] if given["training"] is not None else node.op not in ("dropout",)
    if given["training"] is None and node.op == "dropout":
        training = True
    return float(0.5 if given["p"] is None else given["p"]) if training else 0.0


def pad_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """Zeros around dilute the second moment; other padding repeats what is there."""
    state, given = states[0], arguments(node, ("input", "pad", "mode", "value"))
    before = first_shape(context, node)
    if given["mode"] not in (None, "constant"):
        return replace(state, power=flat(state.second, len(node.shape)))
    if given["value"]:
        raise NotPredicted("it pads with a number")
    whole = state.power.expand(1, *(1 if dim == state.unit else size for dim, size in enumerate(before) if dim > 0))
    power = torch.nn.functional.pad(whole, given["pad"])
    share = math.prod(before) / math.prod(node.shape)
    return replace(state, power=power, mean=state.mean * share, pairs=state.pairs * share, law=None)


def pad_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    before, mode = first_shape(context, node), arguments(node, ("input", "pad", "mode", "value"))["mode"]
    times = 1.0 if mode in (None, "constant") else math.prod(node.shape) / math.prod(before)  # what is repeated adds up
    return [Gradient(flat(gradient.second * times, len(before)), gradient.far, gradient.chance)]


def shuffle_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """pixel_shuffle makes places of units: neighbours have nothing in common but the mean."""
    state = states[0]
    square = state.mean**2
    ratio = math.prod(node.shape[2:]) / math.prod(first_shape(context, node)[2:])
    near, far, other, apart = state.pairs.tolist()
    pairs: Any = [square, square + (far - square) / ratio, other, square + (apart - square) / ratio]
    return replace(state, power=flat(state.second, len(node.shape)), pairs=torch.tensor(pairs, dtype=torch.float64))


def stop_backward(_context: Context, _node: SignalNode, states: list[State], _out: State, _gradient: Gradient) -> list[Gradient | None]:
    """A gradient ends here: detached, or at integers."""
    return [None] * len(states)
