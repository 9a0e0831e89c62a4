"""Through weights: linear layers, convolutions of every kind, embeddings. Given their input, their units are Gaussian.

With `n` weights of mean `mu` and variance `s` to an output, `E y^2 = n s E x^2 + mu^2 (n Var x + n^2 (E x)^2)`, place by place; the same
holds of every kind of pair, since two inputs and two places meet the same weights. Backward `E dx^2 = n_out (s + mu^2) E dy^2`
(Poole et al. 2016; Schoenholz et al. 2017; Xiao et al. 2018 for convolutions).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from modelfactory.numerics.gaussian_moments import NotPredicted
from modelfactory.signal_propagation.finite_width import shifted, spread_of
from modelfactory.signal_propagation.graph import SignalNode, TensorRef
from modelfactory.signal_propagation.rules.base import Context, arguments, first_shape
from modelfactory.signal_propagation.state import Gradient, State, averaged, flat

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


def linear_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    given = arguments(node, ("input", "weight", "bias"))
    weight, last = _weight(given), states[0].power.ndim - 1
    state = turned(states[0], last)
    fan = weight.tensor.shape[-1]
    return weighted(context, node, state, averaged(state.power, [last]) * fan, fan, given, unit=len(node.shape) - 1)


def turned(state: State, axis: int) -> State:
    """A signal whose places are to be summed over, along `axis`: its units are what stays apart, and have their mean in common."""
    if state.unit == axis:
        return state
    square = state.mean**2
    pairs = torch.tensor([square, square, state.pairs[2].item(), square], dtype=torch.float64)
    return replace(state, pairs=pairs, unit=axis, latent=None, spread=None)


def linear_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    weight = _weight(arguments(node, ("input", "weight", "bias")))
    mean, variance = context.weights.moments(weight.name, weight.tensor)
    fan_out = weight.tensor.shape[0]
    last = states[0].power.ndim - 1
    power = averaged(gradient.power, [gradient.power.ndim - 1]) * fan_out * (variance + mean * mean)
    far = gradient.far if states[0].unit == last else 0.0
    return [replace(gradient, power=power, where=None, far=far, common=0.0, balanced=0.0, parts=(), lifted=1.0)]


def _weight(given: dict[str, Any]) -> TensorRef:
    weight = given["weight"]
    if not isinstance(weight, TensorRef):
        raise NotPredicted("its weights are computed")
    return weight


def weighted(context: Context, node: SignalNode, state: State, counted: Tensor, fan: float, given: dict[str, Any], unit: int) -> State:
    """The sum of `fan` products with independent weights, whose inputs' powers add up to `counted`, and a bias."""
    weight = _weight(given)
    mean, variance = context.weights.moments(weight.name, weight.tensor)
    second = state.second
    common = mean * mean * (fan * fan - fan) * state.mean**2
    if context.weights.is_centred(weight.name, weight.tensor) and second > 0:  # two weights of an output have -s/(n - 1) in common
        common -= counted.mean().item() / second * variance * state.mean**2
    scale = counted.mean().item() * (variance + mean * mean) / second if second > 0 else fan * variance
    power = counted * (variance + mean * mean) + common
    pairs = state.pairs * scale + common
    centre = fan * mean * state.mean
    bias = given.get("bias")
    if bias is not None:
        shift, spread = context.weights.moments(bias.name, bias.tensor)
        power = power + spread + shift * shift + 2 * shift * centre
        pairs = pairs + spread + shift * shift + 2 * shift * centre
        centre += shift
    spread = None
    if node.op in ("linear", "addmm", "matmul") and power.numel() == 1 and power.item() > 0:
        spread = spread_of(2 / fan) if state.spread is None else state.spread
        if bias is not None and state.spread is not None:
            spread = shifted(spread, 1 - scale * second / power.item())
    old, fresh = _averaging(context, node, weight)
    single = (context.weights.kurtosis(weight.name, weight.tensor) - 1) / 2 / (_units(context, node, state) * fresh)
    scatter, narrow = state.scatter / old + single, ((given.get("groups") or 1) - 1) * single
    made = State(power, centre, pairs, unit, None, state.chance + state.own, spread=spread, scatter=scatter, narrow=narrow)
    units = node.shape[unit]
    return replace(made, own=context.over_pairs(node, made, lambda cosine: 2 * cosine * cosine) / units)


def _units(context: Context, node: SignalNode, state: State) -> int:
    """How many units a signal has before a call."""
    shape = first_shape(context, node)
    return max(shape[min(state.unit, len(shape) - 1)], 1) if shape else 1


def _averaging(context: Context, node: SignalNode, weight: TensorRef) -> tuple[float, float]:
    """Over how many independent taps a kernel averages what was left before, and what the units of its input add.

    All taps of what comes in; fewer of what convolutions made, whose windows overlap: fitted to stacks of 3x3 convolutions.
    """
    if not node.op.startswith("conv"):
        return 1.0, 1.0
    taps = weight.tensor.shape[2:]
    if context.graph.nodes[node.inputs[0]].op == "input":
        return math.prod(taps), math.prod(taps)
    return math.prod(2 * size / (size + 1) if size > 1 else 1 for size in taps), math.prod(taps) ** 0.75


def conv_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    given = arguments(node, _CONV)
    state, weight = states[0], _weight(given)
    channels = weight.tensor.shape[1]
    counted = _conv_taps(context, node, given)(_full(context, node, state.power)) * channels
    state = _parted(state, _shared_taps(given, weight.tensor.shape[2:], first_shape(context, node)[2:]))
    return weighted(context, node, state, counted, channels * math.prod(weight.tensor.shape[2:]), given, unit=1)


def _parted(state: State, share: float) -> State:
    """Two places have `share` of the taps in common that one place has with itself."""
    return replace(state, pairs=state.pairs * torch.tensor([1.0, share, 1.0, share], dtype=torch.float64))


def _shared_taps(given: dict[str, Any], kernel: Sequence[int], sizes: Sequence[int]) -> float:
    """The taps that lie on the input at two places both, relative to those at one: less than 1 where zeros are padded."""
    dims, padding = len(kernel), given["padding"] or 0
    if padding == "valid":
        return 1.0
    stride, dilation = _each(given["stride"] or 1, dims), _each(given["dilation"] or 1, dims)
    share = 1.0
    for axis in range(dims):
        reach = dilation[axis] * (kernel[axis] - 1)
        before, after = (reach // 2, reach - reach // 2) if padding == "same" else (_each(padding, dims)[axis],) * 2
        out = (sizes[axis] + before + after - reach - 1) // stride[axis] + 1
        starts = torch.arange(out)[:, None] * stride[axis] - before + torch.arange(kernel[axis]) * dilation[axis]
        covered = ((starts >= 0) & (starts < sizes[axis])).double().mean(0)
        share *= (covered.square().sum() / covered.sum().clamp(min=1e-12)).item()
    return share


def _full(context: Context, node: SignalNode, power: Tensor) -> Tensor:
    """The map at every place of the input, as a convolution has to see it."""
    return averaged(power, [1]).expand(1, 1, *first_shape(context, node)[2:])


def _conv_taps(context: Context, node: SignalNode, given: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """The sum over the taps of a kernel, each by its share of the second moment, at every place."""
    weight = _weight(given)
    kernel = context.weights.taps(weight.name, weight.tensor)
    kernel = torch.ones(weight.tensor.shape[2:], dtype=torch.float64) if kernel is None else kernel.cpu()
    kernel = kernel[None, None]
    if "output_padding" in given:
        settings = (given["stride"] or 1, given["padding"] or 0, given["output_padding"] or 0, 1, given["dilation"] or 1)
    else:
        padding = 0 if given["padding"] is None else given["padding"]
        settings = (given["stride"] or 1, padding, given["dilation"] or 1, 1)
    return lambda power: node.function(power, kernel, None, *settings)


def conv_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    transposed = "transpose" in node.op
    given = arguments(node, _TRANSPOSED if transposed else _CONV)
    weight = _weight(given)
    mean, variance = context.weights.moments(weight.name, weight.tensor)
    groups = given["groups"] or 1
    channels_out = weight.tensor.shape[1] if transposed else weight.tensor.shape[0] // groups
    incoming = torch.zeros(1, 1, *first_shape(context, node)[2:], dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        reached = _conv_taps(context, node, given)(incoming)
        (power,) = torch.autograd.grad((reached * averaged(gradient.power, [1])).sum(), incoming)
    stride = 1 if transposed else math.prod(_each(given["stride"] or 1, len(node.shape) - 2))
    power = _flat_if_even(power * channels_out * (variance + mean * mean))
    if weight.tensor.shape[1] == 1 and groups > 1:  # a channel by itself: weights that are small raised the gradient that meets them
        power = power / gradient.lifted
    return [replace(gradient, power=power, far=gradient.far / stride, where=None, parts=(), lifted=1.0)]


def transposed_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """Outputs of different phases of the stride meet different taps, so that their signals do not go together."""
    given = arguments(node, _TRANSPOSED)
    state, weight = states[0], _weight(given)
    groups = given["groups"] or 1
    channels = weight.tensor.shape[0] // groups
    counted = _conv_taps(context, node, given)(_full(context, node, state.power)) * channels
    strides = math.prod(_each(given["stride"] or 1, len(node.shape) - 2))
    fan = channels * math.prod(weight.tensor.shape[2:]) / strides
    made = weighted(context, node, state, counted, fan, given, unit=1)
    if strides == 1:
        return made
    level = made.second - counted.mean().item() * context.weights.moments(weight.name, weight.tensor)[1]  # what a bias adds to all
    near, far, other, apart = made.pairs.tolist()
    pairs = torch.tensor([level, level + (far - level) / strides, other, level + (apart - level) / strides], dtype=torch.float64)
    return replace(made, pairs=pairs)


def _each(value: Any, dims: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values * dims if len(values) == 1 else values


def _flat_if_even(power: Tensor) -> Tensor:
    low, high = power.min().item(), power.max().item()
    return flat(low, power.ndim) if high - low <= 1e-12 * high else power


def embedding_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """Every token its own row: two tokens have in common what all rows have."""
    given = arguments(node, ("input", "weight"))
    weight = _weight(given)
    mean, variance = context.weights.moments(weight.name, weight.tensor)
    pairs = torch.full((4,), mean * mean, dtype=torch.float64)
    dims = len(node.shape)
    return State(flat(mean * mean + variance, dims), mean, pairs, unit=dims - 1)
