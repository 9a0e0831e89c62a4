"""Where signals meet: residual sums, products and gates, concatenation, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from modelfactory.numerics.gaussian_moments import Law, NotPredicted
from modelfactory.signal_propagation.graph import NodeRef, SignalNode, TensorRef
from modelfactory.signal_propagation.masking import is_mask, shown_by
from modelfactory.signal_propagation.rules.activations import bend_backward, bend_forward
from modelfactory.signal_propagation.rules.base import Context, arguments
from modelfactory.signal_propagation.state import Gradient, State, flat
from modelfactory.tracing.activations import Applied

_PAIR = ("input", "other", "alpha")
_DROPPED_WHOLE = ("StochasticDepth", "DropPath")


def _operands(context: Context, node: SignalNode, states: list[State]) -> list[State]:
    """Both operands: parameters, buffers and numbers as signals that all inputs have in common."""
    given, queue = arguments(node, _PAIR), list(states)
    return [_operand(context, node, given[name], queue) for name in ("input", "other")]


def _operand(context: Context, node: SignalNode, value: Any, queue: list[State]) -> State:
    if isinstance(value, NodeRef):
        return queue.pop(0)
    if isinstance(value, TensorRef):
        return constant(context, node, value)
    if isinstance(value, (int, float)):
        return _number(float(value), node)
    raise NotPredicted(f"an operand is {type(value).__name__}")


def add_states(context: Context, node: SignalNode, value: Any, states: list[State], other: State, factor: float) -> State:
    """`other`, with `factor` times what a call adds to it."""
    one = _operand(context, node, value, list(states))
    return _sum(one.scaled(factor), other, other.unit)


def _number(value: float, node: SignalNode) -> State:
    """A number as a signal."""
    square = value * value
    return State(flat(square, len(node.shape)), value, torch.full((4,), square, dtype=torch.float64), len(node.shape) - 1)


def _is_number(state: State) -> bool:
    """Whether a signal is one number everywhere."""
    return state.power.numel() == 1 and state.law is None and state.variance <= 1e-12 * state.second


def constant(context: Context, node: SignalNode, value: TensorRef) -> State:
    """A tensor that is the same for all inputs; its places differ where it has several."""
    if value.tensor.numel() == 1 and value.name is None and not value.tensor.is_meta:
        return _number(value.tensor.item(), node)
    mean, variance = context.weights.moments(value.name, value.tensor)
    second, square = mean * mean + variance, mean * mean
    several = sum(size > 1 for size in value.tensor.shape) > 1
    far = square if several else second
    pairs = torch.tensor([far, far, second, far], dtype=torch.float64)
    return State(flat(second, len(node.shape)), mean, pairs, len(node.shape) - 1)


def add_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    mask = next((value for value in arguments(node, _PAIR).values() if is_mask(value)), None)
    if mask is not None and len(states) == 1:
        return replace(states[0], shown=shown_by(mask) or states[0].shown)
    one, other = _operands(context, node, states)
    sign = -1.0 if node.op in ("sub", "rsub") else 1.0
    if node.op == "rsub":
        one, other = other, one
    alpha = arguments(node, _PAIR)["alpha"]
    factor = sign * (1.0 if alpha is None else float(alpha))
    if _is_number(other):
        return _shifted(one, factor * other.mean)
    if _is_number(one):
        return _shifted(other.scaled(factor), one.mean)
    if len(node.inputs) == 2 and node.inputs[0] == node.inputs[1]:
        return one.scaled(1 + factor)
    return _sum(one, other.scaled(factor), _kept_unit(node, states))


def _shifted(state: State, number: float) -> State:
    added = number * number + 2 * number * state.mean
    law = None if state.law is None else state.law.scaled(1.0, number)
    return replace(state, power=state.power + added, mean=state.mean + number, pairs=state.pairs + added, law=law)


def _kept_unit(node: SignalNode, states: Sequence[State]) -> int:
    """The dimension of the units of the operand with most dimensions, which is the result's."""
    widest = max(states, key=lambda state: state.power.ndim)
    return widest.unit + len(node.shape) - widest.power.ndim


def _sum(one: State, other: State, unit: int) -> State:
    """The sum of two that go their ways by different weights, and so are independent but for their means."""
    crossed = 2 * one.mean * other.mean
    power = one.power + other.power + crossed
    second = power.mean().item()
    share = one.second / second if second > 0 else 0.5
    rest = other.second / second if second > 0 else 0.5
    law = _convolved(one, other)
    own = share**2 * (one.own + one.chance) + rest**2 * (other.own + other.chance)
    row = None if one.row is None or other.row is None else one.row + other.row + crossed
    pairs, shown = one.pairs + other.pairs + crossed, one.shown or other.shown
    scatter = share**2 * one.scatter + rest**2 * other.scatter
    return State(power, one.mean + other.mean, pairs, unit, law, own, scatter=scatter, row=row, shown=shown)


def _convolved(one: State, other: State) -> Law | None:
    """The law of the sum: None (Gaussian) where both are, else a mixture of the one over the points of the other."""
    if one.law is None and other.law is None:
        return None
    if one.law is not None and other.law is not None:
        return None
    bent, straight = (one, other) if one.law is not None else (other, one)
    law = bent.law
    if law is None or straight.variance <= 1e-9 * max(bent.variance, 1e-300):
        return None if law is None else law.scaled(1.0, straight.mean)
    return _mixed(coarse(law, 65), straight.points)


def coarse(law: Law, count: int) -> Law:
    """About `count` points of equal weight, each the mean of what it stands for."""
    order = torch.argsort(law.x, stable=True)
    reached = law.weight[order].cumsum(0)
    bucket = (reached * count).long().clamp(max=count - 1)
    weight = torch.zeros(count, dtype=torch.float64).index_add(0, bucket, law.weight[order])
    total = torch.zeros(count, dtype=torch.float64).index_add(0, bucket, law.weight[order] * law.x[order])
    kept = weight > 0
    return Law(total[kept] / weight[kept], weight[kept])


def _mixed(one: Law, other: Law) -> Law:
    """The law of the sum of two independent ones, on about 2000 points of which each is the mean of what it stands for."""
    few = coarse(other, 257)
    x = (one.x[:, None] + few.x).flatten()
    weight = (one.weight[:, None] * few.weight).flatten()
    return coarse(Law(x, weight), 2048)


def add_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    """The sum passes its gradient to both, over what it was broadcast over summed up."""
    plain = replace(gradient, where=None)
    sign_free = []
    for position, index in enumerate(node.inputs):
        alpha = arguments(node, _PAIR)["alpha"]
        factor = float(alpha) ** 2 if alpha is not None and position == 1 else 1.0
        before = context.graph.nodes[index].shape
        sign_free.append(_unbroadcast(plain, node.shape, before, states[position]).scaled(factor))
    return sign_free


def _unbroadcast(
    gradient: Gradient, shape: tuple[int, ...], before: tuple[int, ...], state: State, partner: State | None = None
) -> Gradient:
    """What is added up over the dimensions that an operand was broadcast along: over places that go together, units that do not.

    Args:
        partner: what the gradient was multiplied by, whose places go together by themselves.
    """
    rank = len(shape)
    wide = (1,) * (rank - len(before)) + tuple(before)
    grown = [dim for dim in range(rank) if wide[dim] == 1 and shape[dim] > 1]
    if not grown:
        return gradient
    unit = state.unit + rank - state.power.ndim
    places = math.prod(shape[dim] for dim in grown if dim not in (0, unit))
    others = math.prod(shape[dim] for dim in grown if dim in (0, unit))
    together = max(gradient.far, 0.0) * (1.0 if partner is None else max(partner.cosines[1], 0.0))
    times = others * places * (1 + (places - 1) * together)
    return Gradient(flat(gradient.second * times, max(len(before), 1)), 0.0 if places > 1 else gradient.far, gradient.chance)


def mul_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    if node.module is not None and type(node.module).__name__ in _DROPPED_WHOLE:
        return _dropped(states[0], node)
    one, other = _operands(context, node, states)
    if _is_number(other):
        return one.scaled(other.mean)
    if _is_number(one):
        return other.scaled(one.mean)
    return _multiplied(node, one, other, states)


def _multiplied(node: SignalNode, one: State, other: State, states: list[State]) -> State:
    """The product of two that go their ways independently, place by place."""
    power = one.power * other.power if one.power.ndim == other.power.ndim else flat(one.second * other.second, len(node.shape))
    constant = len(node.inputs) < 2
    return State(
        power,
        one.mean * other.mean,
        one.pairs * other.pairs,
        one.unit if constant and node.inputs and isinstance(node.args[0], NodeRef) else _kept_unit(node, states),
        None,
        one.chance + other.chance,
        one.own + other.own,
    )


def _dropped(state: State, node: SignalNode) -> State:
    """Stochastic depth: the whole branch of an input is dropped with probability p, and the rest grows by 1/(1 - p)."""
    p = _rate(node) if node.training else 0.0
    if p >= 1:
        return state.scaled(0.0)
    return replace(state, power=state.power / (1 - p), pairs=state.pairs * torch.tensor([1 / (1 - p), 1 / (1 - p), 1.0, 1.0]).double())


def _rate(node: SignalNode) -> float:
    return float(getattr(node.module, "p", None) or getattr(node.module, "drop_prob", None) or 0.0)


def mul_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    if node.module is not None and type(node.module).__name__ in _DROPPED_WHOLE:
        return [gradient.scaled(1 / (1 - _rate(node))) if node.training and _rate(node) < 1 else gradient for _ in node.inputs]
    one, other = _operands(context, node, states)
    return [part for part in _multiplied_back(context, node, one, other, gradient) if part is not None]


def _multiplied_back(context: Context, node: SignalNode, one: State, other: State, gradient: Gradient) -> list[Gradient | None]:
    """To each signal of a product the gradient times the other one, added up over what it was broadcast over."""
    back: list[Gradient | None] = []
    given = arguments(node, _PAIR)
    for value, own, partner in ((given["input"], one, other), (given["other"], other, one)):
        if isinstance(value, NodeRef):
            before = context.graph.nodes[value.node].shape
            plain = replace(gradient, where=None, common=0.0, balanced=0.0) if not _is_number(partner) else replace(gradient, where=None)
            back.append(_unbroadcast(plain, node.shape, before, own, partner).scaled(partner.second))
        else:
            back.append(None)
    return back


def div_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """By a number, or by a signal: a product with the reciprocal of what it divides by."""
    one, other = _operands(context, node, states)
    if _is_number(other):
        return one.scaled(1 / _divisor(other))
    return _multiplied(node, one, _inverse(context, node, other), states)


def _divisor(state: State) -> float:
    if state.mean == 0:
        raise NotPredicted("it divides by 0")
    return state.mean


def _inverse(context: Context, node: SignalNode, state: State) -> State:
    return bend_forward(context, _reciprocal(node, state), [state])


def _reciprocal(node: SignalNode, state: State) -> SignalNode:
    """The call by which the reciprocal of a divisor would be taken."""
    shape = tuple(node.shape[dim] if size == 0 else size for dim, size in enumerate(node.shape))
    return replace(node, op="activation", function=Applied(torch.reciprocal), shape=shape)


def div_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    one, other = _operands(context, node, states)
    if _is_number(other):
        return [gradient.scaled(1 / _divisor(other) ** 2)] + [None] * (len(states) - 1)
    inverse = _inverse(context, node, other)
    to_one, to_inverse = _multiplied_back(context, node, one, inverse, gradient)
    back = [to_one] if to_one is not None else []
    if to_inverse is not None:
        back += bend_backward(context, _reciprocal(node, other), [other], inverse, to_inverse)
    return [*back]
