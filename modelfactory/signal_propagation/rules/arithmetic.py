"""Where signals meet: residual sums, products and gates, concatenation, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from modelfactory.numerics.gaussian_moments import Law
from modelfactory.signal_propagation.graph import Node, Signal, Value
from modelfactory.signal_propagation.rules.base import Context, arguments
from modelfactory.signal_propagation.state import Gradient, NotPredicted, State, flat

_PAIR = ("input", "other", "alpha")
_DROPPED_WHOLE = ("StochasticDepth", "DropPath")


def _operands(context: Context, node: Node, states: list[State]) -> list[State]:
    """Both operands: parameters, buffers and numbers as signals that all inputs have in common."""
    given = arguments(node, _PAIR)
    queue = list(states)
    found = []
    for value in (given["input"], given["other"]):
        if isinstance(value, Signal):
            found.append(queue.pop(0))
        elif isinstance(value, Value):
            found.append(_constant(context, node, value))
        elif isinstance(value, (int, float)):
            found.append(_number(float(value), node))
        else:
            raise NotPredicted(f"an operand is {type(value).__name__}")
    return found


def _number(value: float, node: Node) -> State:
    """A number as a signal."""
    square = value * value
    return State(flat(square, len(node.shape)), value, torch.full((4,), square, dtype=torch.float64), len(node.shape) - 1)


def _is_number(state: State) -> bool:
    """Whether a signal is one number everywhere."""
    return state.power.numel() == 1 and state.law is None and state.variance <= 1e-12 * state.second


def _constant(context: Context, node: Node, value: Value) -> State:
    """A tensor that is the same for all inputs; its places differ where it has several."""
    if value.tensor.numel() == 1 and value.name is None and not value.tensor.is_meta:
        return _number(value.tensor.item(), node)
    mean, variance = context.weights.moments(value.name, value.tensor)
    second, square = mean * mean + variance, mean * mean
    several = sum(size > 1 for size in value.tensor.shape) > 1
    far = square if several else second
    pairs = torch.tensor([far, far, second, far], dtype=torch.float64)
    return State(flat(second, len(node.shape)), mean, pairs, len(node.shape) - 1)


def add_forward(context: Context, node: Node, states: list[State]) -> State:
    one, other = _operands(context, node, states)
    sign = -1.0 if node.op == "sub" else 1.0
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


def _kept_unit(node: Node, states: Sequence[State]) -> int:
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
    return State(power, one.mean + other.mean, one.pairs + other.pairs + crossed, unit, law, own)


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
    return _mixed(_coarse(law, 65), straight.points)


def _coarse(law: Law, count: int) -> Law:
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
    x = (one.x[:, None] + _coarse(other, 257).x).flatten()
    coarse = _coarse(other, 257)
    weight = (one.weight[:, None] * coarse.weight).flatten()
    return _coarse(Law(x, weight), 2048)


def add_backward(context: Context, node: Node, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    """The sum passes its gradient to both, over what it was broadcast over summed up."""
    plain = replace(gradient, where=None)
    sign_free = []
    for position, index in enumerate(node.inputs):
        alpha = arguments(node, _PAIR)["alpha"]
        factor = float(alpha) ** 2 if alpha is not None and position == 1 else 1.0
        sign_free.append(_unbroadcast(plain, node.shape, context.graph.nodes[index].shape).scaled(factor))
    return sign_free


def _unbroadcast(gradient: Gradient, shape: tuple[int, ...], before: tuple[int, ...]) -> Gradient:
    times = math.prod(shape) / max(math.prod(before), 1)
    if times == 1:
        return gradient
    return Gradient(flat(gradient.second * times * (1 + (times - 1) * gradient.far), len(before)), gradient.far, gradient.chance)


def mul_forward(context: Context, node: Node, states: list[State]) -> State:
    if node.module is not None and type(node.module).__name__ in _DROPPED_WHOLE:
        return _dropped(states[0], node)
    one, other = _operands(context, node, states)
    if _is_number(other):
        return one.scaled(other.mean)
    if _is_number(one):
        return other.scaled(one.mean)
    power = one.power * other.power if one.power.ndim == other.power.ndim else flat(one.second * other.second, len(node.shape))
    constant = len(node.inputs) < 2
    law = None
    return State(
        power,
        one.mean * other.mean,
        one.pairs * other.pairs,
        one.unit if constant and node.inputs and isinstance(node.args[0], Signal) else _kept_unit(node, states),
        law,
        one.chance + other.chance,
        one.own + other.own,
    )


def _dropped(state: State, node: Node) -> State:
    """Stochastic depth: the whole branch of an input is dropped with probability p, and the rest grows by 1/(1 - p)."""
    p = _rate(node) if node.training else 0.0
    if p >= 1:
        return state.scaled(0.0)
    return replace(state, power=state.power / (1 - p), pairs=state.pairs * torch.tensor([1 / (1 - p), 1 / (1 - p), 1.0, 1.0]).double())


def _rate(node: Node) -> float:
    return float(getattr(node.module, "p", None) or getattr(node.module, "drop_prob", None) or 0.0)


def mul_backward(context: Context, node: Node, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    if node.module is not None and type(node.module).__name__ in _DROPPED_WHOLE:
        return [gradient.scaled(1 / (1 - _rate(node))) if node.training and _rate(node) < 1 else gradient for _ in node.inputs]
    one, other = _operands(context, node, states)
    signals = [value for value in (arguments(node, _PAIR)["input"], arguments(node, _PAIR)["other"])]
    back: list[Gradient | None] = []
    for value, partner in zip(signals, (other, one), strict=True):
        if isinstance(value, Signal):
            reduced = _unbroadcast(replace(gradient, where=None), node.shape, context.graph.nodes[value.node].shape)
            back.append(reduced.scaled(partner.second))
    return back


def div_forward(context: Context, node: Node, states: list[State]) -> State:
    return states[0].scaled(1 / _divisor(context, node, states))


def _divisor(context: Context, node: Node, states: list[State]) -> float:
    _, other = _operands(context, node, states)
    if not _is_number(other) or other.mean == 0:
        raise NotPredicted("it divides by a signal")
    return other.mean


def div_backward(context: Context, node: Node, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    return [gradient.scaled(1 / _divisor(context, node, states) ** 2)] + [None] * (len(states) - 1)


def cat_forward(context: Context, node: Node, states: list[State]) -> State:
    """Side by side: each moment is the mean over the parts, by their sizes."""
    sizes = [math.prod(context.graph.nodes[index].shape) for index in node.inputs]
    parts = list(states)
    for item in node.args[0] if node.args else node.kwargs["tensors"]:
        if isinstance(item, Value):
            sizes.append(item.tensor.numel())
            parts.append(_constant(context, node, item))
    total = sum(sizes)
    shares = [size / total for size in sizes]
    mean = sum(share * part.mean for share, part in zip(shares, parts, strict=True))
    pairs = torch.stack([share * part.pairs for share, part in zip(shares, parts, strict=True)]).sum(0)
    same = all(part.power.shape == parts[0].power.shape for part in parts)
    maps = [share * (part.power if same else flat(part.second, len(node.shape))) for share, part in zip(shares, parts, strict=True)]
    power: Tensor = torch.stack(maps).sum(0)
    chance = sum(share**2 * (part.chance + part.own) for share, part in zip(shares, parts, strict=True))
    law = parts[0].law if all(part.law is not None for part in parts) and len({round(part.second, 6) for part in parts}) == 1 else None
    return State(power, mean, pairs, states[0].unit, law, chance)


def cat_backward(context: Context, node: Node, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    return [replace(gradient, where=None) for _ in states]
