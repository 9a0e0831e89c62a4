"""Through pools and means over places: they average what the places do not have in common."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modelfactory.numerics.gaussian_moments import Law, NotPredicted, gaussian
from modelfactory.signal_propagation.graph import SignalNode
from modelfactory.signal_propagation.rules.base import Context, arguments, first_shape
from modelfactory.signal_propagation.state import Gradient, State, flat, interior

_NEXT = 0.7  # of what neighbours have in common beyond any two places, what is left at the distance of two windows
_POOL = ("input", "kernel_size", "stride", "padding")


def _window(context: Context, node: SignalNode) -> tuple[float, float]:
    """Places in a window, and in how many windows a place is, both as means."""
    before, after = first_shape(context, node)[2:], node.shape[2:]
    given = arguments(node, _POOL)
    if "adaptive" in node.op:
        sizes = [_adaptive_size(old, new) for old, new in zip(before, after, strict=True)]
        count = math.prod(sizes)
    else:
        kernel = given["kernel_size"]
        count = kernel ** len(before) if isinstance(kernel, int) else math.prod(kernel) ** (len(before) // len(kernel))
    return count, count * math.prod(after) / math.prod(before)


def _adaptive_size(old: int, new: int) -> float:
    """The mean size of the windows of an adaptive pool along one axis."""
    return sum(-(-(i + 1) * old // new) - i * old // new for i in range(new)) / new


def average_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    count, _ = _window(context, node)
    return _averaged(states[0], count, count == context.places_before(node), _pooled_map(node, states[0].power, context))


def _averaged(state: State, count: float, whole: bool, power: Tensor) -> State:
    """The mean of `count` places, all of an input's where `whole`."""
    near, far, other, apart = state.pairs.tolist()
    second = state.second
    close = far if whole else near
    apart_close = apart if whole or near <= far or second <= 0 else max(apart, other * near / second)
    kept = (second + (count - 1) * close) / count
    crossed = (other + (count - 1) * apart_close) / count
    ratio = kept / second if second > 0 else 1.0
    pairs = torch.tensor([min(max(near, far), kept), min(far, kept), crossed, apart], dtype=torch.float64)
    return State(power * ratio, state.mean, pairs, state.unit, None, state.chance, state.own, scatter=state.scatter)


def _pooled_map(node: SignalNode, power: Tensor, context: Context) -> Tensor:
    """The mean of the map over each window."""
    if power.numel() == 1:
        return power
    whole = power.expand(1, 1, *first_shape(context, node)[2:])
    dims = whole.ndim - 2
    if "adaptive" in node.op:
        adaptive: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[dims - 1]
        return adaptive(whole, list(node.shape[2:]))
    given = arguments(node, _POOL)
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
    ceil = bool(node.kwargs.get("ceil_mode") or any(item is True for item in node.args[4:]))
    pooled = pool(whole, given["kernel_size"], given["stride"] or given["kernel_size"], given["padding"] or 0, ceil, False)
    return pooled if pooled.shape[2:] == node.shape[2:] else flat(power.mean().item(), power.ndim)


def _largest_map(node: SignalNode, state: State, context: Context) -> Tensor:
    """The map behind a window's largest entry: the mean of it where entries are independent, its largest where they are one."""
    mean = _pooled_map(node, state.power, context)
    if "adaptive" in node.op or mean.numel() == 1:
        return mean
    r, given = _alike(state), arguments(node, _POOL)
    whole = state.power.expand(1, 1, *first_shape(context, node)[2:])
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[whole.ndim - 3]
    largest = pool(whole, given["kernel_size"], given["stride"] or given["kernel_size"], given["padding"] or 0)
    return (1 - r) * mean + r * largest if largest.shape == mean.shape else mean


def _alike(state: State) -> float:
    """The correlation of neighbours, of places of their power."""
    return min(max(state.correlations[0], 0.0) / interior(state.power), 1.0)


def average_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    count, times = _window(context, node)
    return [_spread(gradient, count, times, states[0].power.ndim, whole=count == context.places_before(node))]


def _spread(gradient: Gradient, count: float, times: float, dims: int, whole: bool) -> Gradient:
    """A share of `1/count` to each place of a window; each place is in `times` windows."""
    together = times * (1 + max(times - 1, 0) * gradient.far) / count**2
    return Gradient(flat(gradient.second * together, dims), 1.0 if whole else gradient.far, gradient.chance)


def mean_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """torch.mean, sum over any dimensions: places, units, or the batch."""
    state, dims, keep = states[0], _reduced(context, node), _keeps(node)
    shape = first_shape(context, node)
    made = state
    places = [dim for dim in dims if dim not in (0, state.unit)]
    if places:
        whole = len(places) == sum(size > 1 for dim, size in enumerate(shape) if dim not in (0, state.unit))
        count = math.prod(shape[dim] for dim in places)
        made = _averaged(made, count, whole, flat(made.second, made.power.ndim))
    if state.unit in dims:
        size = shape[state.unit]
        kept = made.mean**2 + (made.second - made.mean**2) / size
        pairs = made.mean**2 + (made.pairs - made.mean**2) / size
        made = replace(made, power=flat(kept, made.power.ndim), pairs=pairs, law=None)
    if 0 in dims:
        raise NotPredicted("it averages over the batch")
    law = positive(made) if state.law is not None and bool((state.law.x >= 0).all()) else None
    made = _reduced_dims(made, shape, dims, keep, law)
    return made.scaled(math.prod(shape[dim] for dim in dims)) if node.op == "sum" else made


def positive(state: State) -> Law | None:
    """The law of a mean of what is never negative: lognormal, with its mean and variance."""
    if state.mean <= 0 or state.variance <= 0:
        return None
    spread = math.log1p(state.variance / state.mean**2)
    _, law = gaussian(math.log(state.mean) - spread / 2, spread)
    return Law(law.x.exp(), law.weight)


def _reduced_dims(state: State, shape: tuple[int, ...], dims: list[int], keep: bool, law: Law | None) -> State:
    power = flat(state.second, len(shape) if keep else max(len(shape) - len(dims), 1))
    unit = state.unit if keep else max(state.unit - sum(dim < state.unit for dim in dims), 0)
    return replace(state, power=power, unit=min(unit, power.ndim - 1), law=law)


def _reduced(context: Context, node: SignalNode) -> list[int]:
    given = arguments(node, ("input", "dim", "keepdim"))
    rank = len(first_shape(context, node))
    dim = given["dim"]
    dims = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    return sorted(one % rank for one in dims)


def _keeps(node: SignalNode) -> bool:
    names = ("input", "dim", "unbiased", "keepdim") if node.op in ("var", "std") else ("input", "dim", "keepdim")
    return bool(arguments(node, names)["keepdim"])


def mean_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    shape, dims = first_shape(context, node), _reduced(context, node)
    count = 1 if node.op == "sum" else math.prod(shape[dim] for dim in dims)
    return [_spread(gradient, count, 1.0, len(shape), whole=states[0].unit not in dims)]


def variance_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """torch.var and torch.std over units (and places): positive, with the chance that finitely many leave."""
    state, dims, keep, shape = states[0], _reduced(context, node), _keeps(node), first_shape(context, node)
    if state.unit not in dims or 0 in dims:
        raise NotPredicted(f"{node.op} is taken over places")
    size, points = math.prod(shape[dim] for dim in dims), state.points
    excess = (points.weight * (points.x - state.mean) ** 4).sum().item() / max(state.variance, 1e-300) ** 2 - 1
    mean = state.variance * (1 if _is_unbiased(node) else 1 - 1 / size)
    second = mean * mean * (1 + excess / size)
    pairs = torch.full((4,), mean * mean, dtype=torch.float64)
    made = State(flat(second, len(shape)), mean, pairs, state.unit)
    made = _reduced_dims(made, shape, dims, keep, positive(made))
    if node.op == "var" or made.law is None:
        return made
    law = Law(made.law.x.sqrt(), made.law.weight)
    return replace(made, power=flat(law.second, made.power.ndim), mean=law.mean, pairs=torch.full((4,), law.mean**2).double(), law=law)


def variance_backward(context: Context, node: SignalNode, states: list[State], out: State, gradient: Gradient) -> list[Gradient | None]:
    """`2 (x - mean)/n`, and half of its reciprocal root for the std."""
    shape, dims = first_shape(context, node), _reduced(context, node)
    size = math.prod(shape[dim] for dim in dims)
    steep = 4 * states[0].variance / size**2
    if node.op == "std":
        steep /= 4 * max(out.second, 1e-300)
    return [Gradient(flat(gradient.second * steep, len(shape)), 0.0, gradient.chance)]


def _is_unbiased(node: SignalNode) -> bool:
    given = arguments(node, ("input", "dim", "unbiased", "keepdim"))
    return given["unbiased"] is not False and given.get("correction") != 0


def max_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """The largest of the places of a window, which go together by their correlation."""
    state = states[0]
    count, times = _window(context, node) if "pool" in node.op else (_count_reduced(context, node), 1.0)
    law, _ = _largest(state, count)
    if state.power.numel() == 1 or "pool" not in node.op:
        power = flat(law.second, len(node.shape))
    else:
        power = _largest_map(node, state, context) * (law.second / state.second)
        law = law.scaled(math.sqrt(power.mean().item() / law.second) if law.second > 0 else 1.0)
    mean, second = law.mean, law.second
    shared = _shared(state, count, times, len(node.shape) - 2)
    pairs = mean * mean + max(second - mean * mean, 0.0) * torch.tensor(shared, dtype=torch.float64)
    unit = state.unit
    if "pool" not in node.op and not _keeps(node):
        unit -= sum(dim < unit for dim in _reduced(context, node))
    return State(power, mean, pairs, unit, law, state.chance, state.own, shared, scatter=3 * state.scatter)


def _count_reduced(context: Context, node: SignalNode) -> int:
    return math.prod(first_shape(context, node)[dim] for dim in _reduced(context, node))


def _shared(state: State, count: float, times: float, dims: int) -> tuple[float, ...]:
    """How the largest of two windows go together: `u + sqrt(1 - r) M`, of which the windows share what of `u` they have in common."""
    near, far, other, apart = state.correlations
    r = _alike(state)
    own = (1 - r) * _spread_of_largest(round(count))
    whole = r + own
    if whole <= 0:
        return near, far, other, apart
    overlap = 1 - times ** (-1 / max(dims, 1)) if times > 1 else 0.0  # of neighbouring windows
    close = max(near - far, 0.0) / max(1 - far, 1e-9)
    across = min(apart + max(other - apart, 0.0) * close, other)  # of places of a window, of two inputs
    same = across + max(other - across, 0.0) * own / max(1 - r, 1e-9)
    beside = max(far, 0.0) / whole
    next_to = min((max(far, 0.0) + _NEXT * max(near - far, 0.0)) / whole, 1.0)
    return max(next_to, overlap), beside, min(same / whole, 1.0), max(apart, 0.0) / whole


@lru_cache(maxsize=64)
def _spread_of_largest(count: int) -> float:
    """The variance of the largest of `count` independent standard normal numbers."""
    reached = torch.special.ndtr(torch.linspace(-9, 9, 4097, dtype=torch.float64)) ** count
    middle = torch.linspace(-9, 9, 4097, dtype=torch.float64)[:-1] + 9 / 4096
    weight = torch.diff(reached)
    mean = (weight * middle).sum()
    return (weight * (middle - mean) ** 2).sum().item()


def _largest(state: State, count: float) -> tuple[Law, Tensor]:
    """The law of the largest of `count` equally correlated entries, in order; and its weights on the points of the state's own law.

    By way of Gaussians of the same correlation: `P(max <= t) = E Phi((t - sqrt(r) z)/sqrt(1 - r))^count`.
    """
    law = state.points
    order = torch.argsort(law.x, stable=True)
    edges = law.weight[order].cumsum(0).clamp(1e-16, 1 - 1e-16)
    place = torch.special.ndtri(edges)
    r = _alike(state)
    if r > 0:
        nodes = torch.special.ndtri((torch.arange(64, dtype=torch.float64) + 0.5) / 64)
        inner = (place[:, None] - math.sqrt(r) * nodes) / math.sqrt(max(1 - r, 1e-9))
        reached = (torch.special.ndtr(inner) ** count).mean(1)
    else:
        reached = edges**count
    weight = torch.diff(reached, prepend=torch.zeros(1, dtype=torch.float64))
    weight = weight / weight.sum()
    own = torch.empty_like(weight)
    own[order] = weight
    return Law(law.x[order], weight), own


def max_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    """All of a window's gradient goes to its largest place, which is where an activation before it is rather steep."""
    state = states[0]
    before = first_shape(context, node)
    count = _window(context, node)[0] if "pool" in node.op else _count_reduced(context, node)
    share = math.prod(node.shape) / math.prod(before)
    _, where = _largest(state, count)
    met = 1 + _met(node) * max(gradient.far, 0.0)
    return [Gradient(flat(gradient.second * share * met, len(before)), gradient.far * share / met, gradient.chance, where)]


def _met(node: SignalNode) -> float:
    """How many other windows have the same largest place as a window: of overlaps of m among n places, m/(2 n - m) each."""
    given = arguments(node, _POOL)
    if "pool" not in node.op or "adaptive" in node.op:
        return 0.0
    dims = len(node.shape) - 2
    kernel, stride = (_each(value, dims) for value in (given["kernel_size"], given["stride"] or given["kernel_size"]))
    shifts = [range(-((size - 1) // step), (size - 1) // step + 1) for size, step in zip(kernel, stride, strict=True)]
    met, whole = 0.0, math.prod(kernel)
    for shift in product(*shifts):
        if any(shift):
            common = math.prod(size - abs(moved) * step for size, step, moved in zip(kernel, stride, shift, strict=True))
            met += common / (2 * whole - common)
    return met


def _each(value: Any, dims: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values * dims if len(values) == 1 else values


def pool_names(kind: str) -> list[Any]:
    """Every torch function's name for pools of a kind."""
    return [f"{prefix}{kind}_pool{dims}d" for prefix in ("", "adaptive_") for dims in (1, 2, 3)]
