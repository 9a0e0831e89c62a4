"""Through matrix products: of two signals, of attention weights and values, of a signal with weights or with a matrix that is known.

With a known matrix `A` that mixes places, `E (A x)_i^2 = sum_j A_ij^2 E x_j^2 + sum_(j != k) A_ij A_ik E x_j x_k`; of units, which
are independent, the second sum is that of their means alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from modelfactory.numerics.gaussian_moments import NotPredicted
from modelfactory.signal_propagation.graph import NodeRef, SignalNode, TensorRef
from modelfactory.signal_propagation.masking import Shown, all_shown
from modelfactory.signal_propagation.rules.arithmetic import add_states
from modelfactory.signal_propagation.rules.attention import mixed, mixed_back
from modelfactory.signal_propagation.rules.base import Context, arguments
from modelfactory.signal_propagation.rules.linear import turned, weighted
from modelfactory.signal_propagation.state import Gradient, State, flat

_ADDED = ("input", "first", "second", "beta", "alpha")


@dataclass(frozen=True)
class _Product:
    """The factors of a call.

    Attributes:
        first, second: as the graph has them.
        alpha, beta: what the product, and what is added to it, are multiplied by.
        added: what is added.
    """

    first: Any
    second: Any
    alpha: float = 1.0
    beta: float = 1.0
    added: Any = None


def _product(node: SignalNode) -> _Product:
    if node.op not in ("addmm", "baddbmm"):
        given = list(node.args) + [value for name, value in node.kwargs.items() if name in ("other", "mat2", "input")]
        if len(given) < 2:
            raise NotPredicted(f"{node.called} has one factor")
        return _Product(given[0], given[1])
    given = arguments(node, _ADDED)
    first = given["first"] if given["first"] is not None else given.get("mat1", given.get("batch1"))
    second = given["second"] if given["second"] is not None else given.get("mat2", given.get("batch2"))
    alpha, beta = (1.0 if given[name] is None else float(given[name]) for name in ("alpha", "beta"))
    return _Product(first, second, alpha, beta, given["input"])


def _is_weight(context: Context, value: Any) -> bool:
    return isinstance(value, TensorRef) and context.weights.is_parameter(value.name)


def _rank(context: Context, value: Any) -> int:
    return len(context.graph.nodes[value.node].shape) if isinstance(value, NodeRef) else value.tensor.ndim


def product_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    found = _product(node)
    made = _multiplied(context, node, found, states)
    added = found.added
    if added is None or found.beta == 0 or _is_weight(context, added) and isinstance(found.second, TensorRef):
        return made.scaled(found.alpha)
    return add_states(context, node, added, states, made.scaled(found.alpha), found.beta)


def _multiplied(context: Context, node: SignalNode, found: _Product, states: list[State]) -> State:
    one, other = found.first, found.second
    if min(_rank(context, one), _rank(context, other), len(node.shape)) < 2:
        raise NotPredicted(f"{node.called} multiplies a vector")
    factors = states[-2:] if isinstance(one, NodeRef) and isinstance(other, NodeRef) else states[-1:]
    if len(factors) == 2:
        return _of_signals(context, node, found, *factors)
    bias = found.added if _is_weight(context, found.added) else None
    last = len(node.shape) - 1
    weight, axis = _beside(one, other, last)
    if context.weights.is_parameter(weight.name):
        state = turned(factors[0], axis)
        fan = weight.tensor.shape[-2] if axis == last else weight.tensor.shape[-1]
        power = state.power.mean(axis, keepdim=True) * fan
        return weighted(context, node, state, power, fan, {"weight": weight, "bias": bias}, unit=axis)
    return _known_forward(_matrix(weight, axis == last), factors[0], axis)


def _beside(one: Any, other: Any, last: int) -> tuple[TensorRef, int]:
    """The factor that is no signal, and the dimension of the signal that is summed over."""
    if isinstance(other, TensorRef):
        return other, last
    if isinstance(one, TensorRef):
        return one, last - 1
    raise NotPredicted(f"a factor is {type(other).__name__}")


def _matrix(value: TensorRef, is_second: bool) -> Tensor:
    """A known matrix [..., out, in] in float64."""
    if value.tensor.is_meta:
        raise NotPredicted("the values of the matrix are not known")
    matrix = value.tensor.detach().double().cpu()
    return matrix.mT if is_second else matrix


def _means(matrix: Tensor) -> tuple[Tensor, Tensor, float, float]:
    """Of rows [out]: sum of squares, square of the sum; of pairs of rows: mean sum of products, mean product of sums."""
    squares, sums = (matrix * matrix).sum(-1), matrix.sum(-1)
    count = matrix.shape[-2]
    columns = matrix.sum(-2)
    pairs = count * (count - 1)
    products = ((columns * columns).sum(-1) - squares.sum(-1)).mean().item() / pairs if pairs else 0.0
    of_sums = (sums.sum(-1) ** 2 - (sums * sums).sum(-1)).mean().item() / pairs if pairs else 0.0
    lead = tuple(range(squares.ndim - 1))
    rows, whole = (squares.mean(lead), (sums * sums).mean(lead)) if lead else (squares, sums * sums)
    return rows, whole, products, of_sums


def _known_forward(matrix: Tensor, state: State, axis: int) -> State:
    """What a matrix [out, in] makes of the entries along one dimension."""
    rows, whole, products, of_sums = _means(matrix)
    mean = state.mean * matrix.sum(-1).mean().item()
    near, far, other, apart = state.pairs.tolist()
    square = state.mean**2
    unit = min(state.unit, state.power.ndim - 1)
    if unit == axis:
        powers = state.second * rows + square * (whole - rows)
        scale, level = rows.mean().item(), square * (whole - rows).mean().item()
        return replace(State(flat(powers.mean().item(), state.power.ndim), mean, state.pairs * scale + level, unit), chance=state.chance)
    alone, together = rows.mean().item(), (whole - rows).mean().item()
    beside = products * state.second + (of_sums - products) * far
    pairs = [beside, beside, alone * other + together * apart, products * other + (of_sums - products) * apart]
    shape = [1] * state.power.ndim
    shape[axis] = len(rows)
    if state.power.shape[axis] > 1 and matrix.ndim == 2:
        powers = ((matrix * matrix) @ state.power.movedim(axis, -1)[..., None]).squeeze(-1).movedim(-1, axis)
        powers = powers + ((whole - rows) * far).reshape(shape)
    else:
        powers = (rows * state.second + (whole - rows) * far).reshape(shape)
    return State(powers, mean, torch.tensor(pairs, dtype=torch.float64), unit, None, state.chance, state.own)


def _known_backward(matrix: Tensor, gradient: Gradient, unit: int, axis: int, dims: int) -> Gradient:
    rows, whole, products, of_sums = _means(matrix.mT)
    if unit == axis:
        return Gradient(flat(gradient.second * rows.mean().item(), dims), gradient.far, gradient.chance)
    power = rows.mean().item() + (whole - rows).mean().item() * gradient.far
    far = (products + (of_sums - products) * gradient.far) / max(power, 1e-300)
    return Gradient(flat(gradient.second * power, dims), min(far, 1.0), gradient.chance)


def _is_shares(state: State, count: int) -> bool:
    """Whether rows add up to 1: what a softmax gave."""
    return state.shown is not None and abs(state.mean * count - 1) < 1e-6


def _sizes(context: Context, node: SignalNode, found: _Product) -> tuple[int, int, int]:
    """Rows, columns, and what is summed over."""
    return node.shape[-2], node.shape[-1], context.graph.nodes[found.first.node].shape[-1]


def _of_signals(context: Context, node: SignalNode, found: _Product, one: State, other: State) -> State:
    rows, _, count = _sizes(context, node, found)
    last = len(node.shape) - 1
    if _is_shares(one, count):
        left = one.shown or all_shown(rows, count)
        return replace(mixed(other, min(one.second * count, 1.0), left), unit=last)
    power = count * (one.second * other.second - one.mean**2 * other.mean**2) + count**2 * one.mean**2 * other.mean**2
    crossed = count * (count - 1) * (one.mean * other.mean) ** 2
    row = count * one.second * max(other.pairs[1].item(), 0.0) + crossed
    return State(flat(power, len(node.shape)), count * one.mean * other.mean, count * one.pairs * other.pairs + crossed, last, row=row)


def product_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    found = _product(node)
    one, other = found.first, found.second
    scaled = gradient.scaled(found.alpha**2)
    dims, last = gradient.power.ndim, len(node.shape) - 1
    if isinstance(one, NodeRef) and isinstance(other, NodeRef):
        back = _back_to_signals(context, node, found, states[-2], states[-1], scaled)
    else:
        weight, axis = _beside(one, other, last)
        if context.weights.is_parameter(weight.name):
            mean, variance = context.weights.moments(weight.name, weight.tensor)
            fan_out = weight.tensor.shape[-1] if axis == last else weight.tensor.shape[-2]
            power = scaled.power.mean(axis, keepdim=True) * fan_out * (variance + mean * mean)
            back = [Gradient(power, 0.0 if states[-1].unit != axis else gradient.far, gradient.chance)]
        else:
            back = [_known_backward(_matrix(weight, axis == last), scaled, states[-1].unit, axis, dims)]
    if isinstance(found.added, NodeRef):
        back = [gradient.scaled(found.beta**2), *back]
    return [*back]


def _back_to_signals(context: Context, node: SignalNode, found: _Product, one: State, other: State, gradient: Gradient) -> list[Gradient]:
    rows, columns, count = _sizes(context, node, found)
    apart = other.second - max(other.pairs[1].item(), 0.0)  # of what the entries of a row of the gradient meet
    if _is_shares(one, count):
        left: Shown = one.shown or all_shown(rows, count)
        value = mixed_back(gradient, min(one.second * count, 1.0), left, rows, count, other.power.ndim)
        power = gradient.second * columns * other.second
        common = 1 - apart / other.second if other.second > 0 else 0.0
        return [Gradient(flat(power, one.power.ndim), gradient.far, gradient.chance, common=common), value]
    met = apart * (1 + gradient.balanced * other.scatter) if gradient.balanced else other.second
    first = Gradient(flat(gradient.second * columns * met, one.power.ndim), 0.0, gradient.chance)
    agreed = one.second + (rows - 1) * max(gradient.far, 0.0) * max(one.pairs[1].item(), 0.0)
    return [first, Gradient(flat(gradient.second * rows * agreed, other.power.ndim), 0.0, gradient.chance)]
