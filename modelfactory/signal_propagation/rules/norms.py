"""Through norms: what is averaged away is what the entries that are normalised together have in common."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from modelfactory.numerics.gaussian_moments import NotPredicted
from modelfactory.signal_propagation.graph import SignalNode, TensorRef
from modelfactory.signal_propagation.rules.base import Context, arguments, first_shape
from modelfactory.signal_propagation.state import Gradient, State, averaged, flat, interior

_BATCH = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_LAYER = ("input", "normalized_shape", "weight", "bias", "eps")
_GROUP = ("input", "num_groups", "weight", "bias", "eps")
_INSTANCE = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")


def norm_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    state, given = states[0], _given(node)
    within, shared, power = _common(context, node, state, given)
    variance = max(state.second - within, 0.0) + given["eps"]
    law = None
    if state.law is not None:
        law = state.law.scaled(1 / math.sqrt(variance), -state.mean / math.sqrt(variance))
    centred = 0.0 if within else state.mean / math.sqrt(variance)  # rms_norm takes nothing away
    # the variance that the finite width leaves to chance is normalised away
    pairs = (state.pairs - shared) / variance
    if node.op == "batch_norm" and given["training"] is not False and context.batch > 2:
        alike = pairs[2].item()  # units in which inputs differ by chance have the larger variance, and count for less by it
        pairs[2] = alike - alike * alike * (1 - abs(alike)) * 2 / (context.batch - 1)
    made = State(power / variance, centred, pairs, state.unit, law, scatter=state.scatter)
    return _affine(context, made, given)


def _affine(context: Context, state: State, given: dict[str, Any]) -> State:
    weight, bias = given.get("weight"), given.get("bias")
    if isinstance(weight, TensorRef):
        mean, variance = context.weights.moments(weight.name, weight.tensor)
        square = mean * mean + variance
        law = state.law.scaled(mean) if state.law is not None and variance == 0 else None
        state = replace(state, power=state.power * square, pairs=state.pairs * square, mean=state.mean * mean, law=law)
    if isinstance(bias, TensorRef):
        mean, variance = context.weights.moments(bias.name, bias.tensor)
        added = mean * mean + variance + 2 * mean * state.mean
        law = state.law.scaled(1.0, mean) if state.law is not None and variance == 0 else None
        state = replace(state, power=state.power + added, pairs=state.pairs + added, mean=state.mean + mean, law=law)
    return state


def _given(node: SignalNode) -> dict[str, Any]:
    names = {"batch_norm": _BATCH, "layer_norm": _LAYER, "rms_norm": _LAYER, "group_norm": _GROUP, "instance_norm": _INSTANCE}
    given = arguments(node, names[node.op])
    if node.op == "rms_norm":
        given = arguments(node, ("input", "normalized_shape", "weight", "eps"))
    if given.get("eps") is None:
        given["eps"] = 1.2e-7 if node.op == "rms_norm" else 1e-5
    return given


def _common(context: Context, node: SignalNode, state: State, given: dict[str, Any]) -> tuple[float, Tensor, Tensor]:
    """The power of the mean that is taken away, what it takes of every kind of pair, and the power map without it."""
    shape = first_shape(context, node)
    near, far, other, apart = state.pairs.tolist()
    square = state.mean**2
    if node.op == "batch_norm" and given["training"] is not False:
        level = context.pair_mean(node, state)
        shared = _of_all(level)
        shared[0] *= 2 * interior(state.power) - 1
        return level, shared, _centred(state, level)
    if node.op == "batch_norm":
        return _running(context, node, state, given)
    if node.op in ("layer_norm", "rms_norm"):
        over = [len(shape) - 1 - k for k in range(len(given["normalized_shape"]))]
        power = averaged(state.power, over)
        if node.op == "rms_norm":
            return 0.0, _of_all(0.0), flat(state.second, power.ndim)
        size = math.prod(shape[dim] for dim in over)
        if state.unit not in over:
            return far, torch.tensor([far, far, apart, apart], dtype=torch.float64), flat(state.second - far, power.ndim)
        level = square + (state.second - square) / size
        shared = square + (state.pairs - square) / size  # each place has a mean of its own
        if len(over) > 1:
            shared = torch.tensor([level, level, square, square], dtype=torch.float64)
        return level, shared, flat(state.second - level, power.ndim)
    groups = shape[1] if node.op == "instance_norm" else given["num_groups"]
    units, places = shape[1] // groups, math.prod(shape[2:])
    inside = (state.second + (places - 1) * far) / places
    between = (other + (places - 1) * apart) / places
    level, across = ((one + (units - 1) * square) / units for one in (inside, between))
    shared = torch.tensor([level, level, across, across], dtype=torch.float64)
    return level, shared, _centred(state, level)


def _centred(state: State, level: float) -> Tensor:
    """The power map without a mean of this power, of which each place has as much as it has power: `E (x - m)^2 = q - 2 E x m + E m^2`."""
    if state.second <= 0 or state.power.numel() == 1:
        return state.power - level
    return (state.power * (1 - 2 * level / state.second) + level).clamp(min=0.01 * (state.second - level))


def _of_all(value: float) -> Tensor:
    return torch.full((4,), value, dtype=torch.float64)


def _running(context: Context, node: SignalNode, state: State, given: dict[str, Any]) -> tuple[float, Tensor, Tensor]:
    """By running statistics: as they start (0 and 1) the signal stays as it is; trained ones normalise."""
    mean, variance = given["running_mean"], given["running_var"]
    if not (isinstance(mean, TensorRef) and isinstance(variance, TensorRef)):
        raise NotPredicted("its running statistics are computed")
    if not _is_fresh(variance):
        level = context.pair_mean(node, state)
        return level, _of_all(level), state.power * (1 - level / state.second) if state.second > 0 else state.power
    given["eps"] = 1 - max(state.second, 0.0) + given["eps"]  # so that the variance divided by is 1 + eps
    return 0.0, _of_all(0.0), state.power


def _is_fresh(variance: TensorRef) -> bool:
    """Whether a running variance is as it starts."""
    return variance.tensor.is_meta or bool((variance.tensor == 1).all())


def passes_on(node: SignalNode) -> bool:
    """Whether a call is a batch norm in evaluation mode whose statistics are of no data, so that it leaves the signal as it is."""
    if node.op != "batch_norm":
        return False
    given = arguments(node, _BATCH)
    return given["training"] is False and isinstance(given["running_var"], TensorRef) and _is_fresh(given["running_var"])


def norm_backward(context: Context, node: SignalNode, states: list[State], out: State, gradient: Gradient) -> list[Gradient | None]:
    """`dx = gamma/sd (g - mean g - xhat mean(g xhat))`, means over what is normalised together.

    A variance over few samples, or of few directions, scatters over the units: it is a quadratic form of random weights in a matrix
    `K` of what two samples have in common, with the relative variance `c = 2 tr K^2/(tr K)^2`, and `E 1/s^2 = 1/((1 - c) E s^2)` of
    a gamma law.
    """
    state, given = states[0], _given(node)
    within, _, _ = _common(context, node, state, given)
    variance = max(state.second - within, 0.0) + given["eps"]
    square = 1.0
    if isinstance(given.get("weight"), TensorRef):
        mean, spread = context.weights.moments(given["weight"].name, given["weight"].tensor)
        square = mean * mean + spread
    shape = first_shape(context, node)
    kept, parts, lifted = 1.0, (), 1.0
    if node.op == "batch_norm" and given["training"] is not False:
        places = context.places(node, state.unit)
        alone = 1.3 if gradient.normed else 2.0  # half of a sum over the batch that is 0 is left behind a rectifier
        kept = 1 - (alone + (places - 1) * max(gradient.far, 0.0)) / (context.batch * places)
        lifted = 1 / (1 - min(2 * (context.over_pairs(node, out, lambda cosine: cosine * cosine) + state.scatter + state.narrow), 0.8))
        kept *= lifted
        inverse = [variance / max(part, 1e-300) for _, part in state.parts]
        mean = sum(share * one for (share, _), one in zip(state.parts, inverse, strict=True)) if inverse else 1.0
        kept *= mean
        parts = tuple(one / mean for one in inverse)
    elif node.op in ("layer_norm", "rms_norm"):
        size = math.prod(shape[len(shape) - len(given["normalized_shape"]) :])
        kept = 1 - (2 if node.op == "layer_norm" else 1) / size
    elif node.op in ("group_norm", "instance_norm"):
        groups = shape[1] if node.op == "instance_norm" else given["num_groups"]
        units, places = shape[1] // groups, math.prod(shape[2:])
        kept = 1 - (2 + (places - 1) * max(gradient.far, 0.0)) / (units * places)
    power = gradient.power * (square / variance) * max(kept, 0.0)
    return [Gradient(power, gradient.far, gradient.chance, normed=node.op == "batch_norm", parts=parts, lifted=lifted)]
