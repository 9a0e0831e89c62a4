"""Through an activation, elementwise: by quadrature over the law of its input, centred or not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from modelfactory.numerics.activation import Activation, is_elementwise, resolve, value_and_derivative
from modelfactory.numerics.gaussian_moments import Law, Response, correlation, finite_part, interpolated, powers, respond
from modelfactory.signal_propagation.finite_width import Passage, is_needed, pass_on
from modelfactory.signal_propagation.graph import NodeRef, SignalNode, TensorRef, walk
from modelfactory.signal_propagation.rules.base import Context
from modelfactory.signal_propagation.state import Gradient, State, flat
from modelfactory.tracing.activations import Applied


def response_of(node: SignalNode, state: State) -> Response:
    """What the activation at a node makes of a Gaussian of this state's mean and variance."""
    return respond(node.function, state.mean, state.variance)


def bend_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    state = states[0]
    found = response_of(node, state)
    law = found.law if state.law is None else _through(node.function, state.law)
    mean, second = (found.mean, found.second) if state.law is None else (law.mean, law.second)
    pairs = [_together(found, state, mean, second, pair) for pair in state.pairs.tolist()]
    passage = _passage(node, state, found)
    if passage is not None:
        ratio = passage.second / second
        second, mean, pairs = passage.second, mean * math.sqrt(ratio), [pair * ratio for pair in pairs]
    power = _power_map(node.function, state, second)
    growth = found.growth * min(state.variance / state.second, 1.0) if state.second > 0 else 0.0
    chance = growth**2 * state.chance
    row = None if state.row is None else _together(found, state, mean, second, state.row)
    pairs = torch.tensor(pairs, dtype=torch.float64)
    made = State(power, mean, pairs, state.unit, law, chance, latent=state.correlations, row=row, shown=state.shown)
    own = context.over_pairs(node, state, lambda cosine: found.squares_together(_correlated(state, cosine)))
    left = second - mean * mean
    bend = found.slopes_together(state.correlations[3]) * state.variance / left if left > 1e-9 * second else 0.0
    spread = None if passage is None else passage.weights
    return replace(made, own=own / node.shape[state.unit], spread=spread, scatter=state.scatter * bend * bend)


def _passage(node: SignalNode, state: State, found: Response) -> Passage | None:
    """Through an unstable activation input by input; None where the mean power says it all."""
    if state.spread is None or not is_needed(found.growth) or state.law is not None or abs(state.mean) > 0.1 * math.sqrt(state.second):
        return None
    return pass_on(node.function, state.spread, state.second, node.shape[state.unit])


def _correlated(state: State, cosine: float) -> float:
    return correlation(cosine * state.second, state.mean, state.variance)


def _together(found: Response, state: State, mean: float, second: float, pair: float) -> float:
    """The mean product of two outputs; of another law than the Gaussian, with the Gaussian's correlation of outputs."""
    product = found.together(correlation(pair, state.mean, state.variance))
    if state.law is None:
        return product
    spread = found.second - found.mean**2
    return mean * mean + (second - mean * mean) * ((product - found.mean**2) / spread if spread > 0 else 0.0)


def _through(function: Activation, law: Law) -> Law:
    resolved = resolve(function)
    values, _ = value_and_derivative(resolved.function, law.x)
    weight, (values,) = finite_part(resolved.label, law.weight, values)
    return Law(values, weight)


def _power_map(function: Activation, state: State, second: float) -> Tensor:
    """The second moment place by place, where the places differ by their variance."""
    if state.power.numel() == 1 or state.law is not None:
        return flat(second, state.power.ndim) if state.power.numel() == 1 else state.power * (second / state.second)
    variance = (state.power - state.mean**2).clamp(min=1e-30 * max(state.second, 1e-270))
    return interpolated(lambda v: powers(function, state.mean, v)[1], variance)


def bend_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    state = states[0]
    found = response_of(node, state)
    slope = found.slope
    if state.law is not None or gradient.where is not None:
        slope = _slope_where(node.function, state, gradient.where)
    if state.power.numel() == 1 or state.law is not None or gradient.where is not None:
        steep: Tensor | float = slope
    else:
        variance = (state.power - state.mean**2).clamp(min=1e-30 * max(state.second, 1e-270))
        steep = interpolated(lambda v: powers(node.function, state.mean, v)[2], variance)
    worth = None
    passage = _passage(node, state, found) if gradient.where is None else None
    if passage is not None and state.spread is not None:
        beyond = passage.moved.sum(1) if gradient.worth is None else passage.moved @ gradient.worth
        worth = passage.slopes * beyond
        steep = (state.spread * worth).sum().item()
        worth = worth / max(steep, 1e-300)
    far = gradient.far
    if far and found.slope > 0:
        far *= found.slopes_together(_correlated(state, state.cosines[1])) / found.slope
    own = context.over_pairs(node, state, lambda cosine: found.squared_slopes_together(_correlated(state, cosine)))
    chance = gradient.chance + own / node.shape[state.unit]
    return [Gradient(gradient.power * steep, far, chance, worth=worth, normed=gradient.normed)]


def _slope_where(function: Activation, state: State, where: Tensor | None) -> float:
    """`E f'(x)^2` over the law of the input, or over that part of it that the gradient lands on."""
    law = state.points
    resolved = resolve(function)
    _, slopes = value_and_derivative(resolved.function, law.x)
    weight = law.weight if where is None or len(where) != len(law.weight) else where
    weight, (slopes,) = finite_part(resolved.label, weight, slopes)
    return (weight * slopes**2).sum().item()


def as_activation(node: SignalNode) -> Applied | None:
    """A call that is elementwise in its one signal, such as torch.sin or torch.clamp, as an activation; None for another."""
    first, rest = (node.args[0], node.args[1:]) if node.args else (None, ())
    if not isinstance(first, NodeRef):
        return None
    rest, named = tuple(map(_as_number, rest)), {name: _as_number(value) for name, value in node.kwargs.items()}
    if any(isinstance(item, (NodeRef, TensorRef)) for item in walk((rest, named))):
        return None
    applied = Applied(node.function, rest, tuple(sorted(named.items())))
    return applied if is_elementwise(applied) else None


def _as_number(value: Any) -> Any:
    """A constant of one number as that tensor, anything else as it is."""
    if isinstance(value, TensorRef) and value.name is None and value.tensor.numel() == 1 and not value.tensor.is_meta:
        return value.tensor.detach().double().cpu().reshape(())
    return value


def bent(node: SignalNode, function: Activation) -> SignalNode:
    """The node as one of this activation."""
    return replace(node, op="activation", function=function)
