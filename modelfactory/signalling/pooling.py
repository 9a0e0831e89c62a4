"""Through pools and means over places: they average what the places do not have in common."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modelfactory.signalling.graph import Node
from modelfactory.signalling.response import Law, correlation
from modelfactory.signalling.rule import Context, arguments, first_shape
from modelfactory.signalling.state import Gradient, NotPredicted, State, flat

_POOL = ("input", "kernel_size", "stride", "padding")


def _window(context: Context, node: Node) -> tuple[int, float]:
    """Places in a window, and in how many windows a place is."""
    before, after = first_shape(context, node), node.shape
    given = arguments(node, _POOL)
    if "adaptive" in node.op:
        ratio = math.prod(before[2:]) / math.prod(after[2:])
        return max(round(ratio), 1), 1.0
    dims = len(before) - 2
    kernel = given["kernel_size"]
    count = kernel**dims if isinstance(kernel, int) else math.prod(kernel) if len(kernel) == dims else kernel[0] ** dims
    return count, count * math.prod(after[2:]) / math.prod(before[2:])


def average_forward(context: Context, node: Node, states: list[State]) -> State:
    count, _ = _window(context, node)
    return _averaged(states[0], count, count == context.places_before(node), _pooled_map(node, states[0].power, context))


def _averaged(state: State, count: int, whole: bool, power: Tensor) -> State:
    """The mean of `count` places, all of an input's where `whole`."""
    near, far, other, apart = state.pairs.tolist()
    second = state.second
    close = far if whole else near
    apart_close = apart if whole or near <= far or second <= 0 else max(apart, other * near / second)
    kept = (second + (count - 1) * close) / count
    crossed = (other + (count - 1) * apart_close) / count
    ratio = kept / second if second > 0 else 1.0
    pairs = torch.tensor([min(max(near, far), kept), min(far, kept), crossed, apart], dtype=torch.float64)
    return State(power * ratio, state.mean, pairs, state.unit, None, state.chance, state.own)


def _pooled_map(node: Node, power: Tensor, context: Context) -> Tensor:
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


def average_backward(context: Context, node: Node, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    count, times = _window(context, node)
    return [_spread(gradient, count, times, states[0].power.ndim, whole=count == context.places_before(node))]


def _spread(gradient: Gradient, count: int, times: float, dims: int, whole: bool) -> Gradient:
    """A share of `1/count` to each place of a window; each place is in `times` windows."""
    together = times * (1 + max(times - 1, 0) * gradient.far) / count**2
    return Gradient(flat(gradient.second * together, dims), 1.0 if whole else gradient.far, gradient.chance)


def mean_forward(context: Context, node: Node, states: list[State]) -> State:
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
    if node.op == "sum":
        made = made.scaled(math.prod(shape[dim] for dim in dims))
    return _reduced_dims(made, shape, dims, keep)


def _reduced_dims(state: State, shape: tuple[int, ...], dims: list[int], keep: bool) -> State:
    power = flat(state.second, len(shape) if keep else max(len(shape) - len(dims), 1))
    unit = state.unit if keep else max(state.unit - sum(dim < state.unit for dim in dims), 0)
    return replace(state, power=power, unit=min(unit, power.ndim - 1), law=None)


def _reduced(context: Context, node: Node) -> list[int]:
    given = arguments(node, ("input", "dim", "keepdim"))
    rank = len(first_shape(context, node))
    dim = given["dim"]
    dims = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    return sorted(one % rank for one in dims)


def _keeps(node: Node) -> bool:
    return bool(arguments(node, ("input", "dim", "keepdim"))["keepdim"])


def mean_backward(context: Context, node: Node, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    shape, dims = first_shape(context, node), _reduced(context, node)
    count = 1 if node.op == "sum" else math.prod(shape[dim] for dim in dims)
    return [_spread(gradient, count, 1.0, len(shape), whole=states[0].unit not in dims)]


def max_forward(context: Context, node: Node, states: list[State]) -> State:
    """The largest of the places of a window, which go together by their correlation."""
    state = states[0]
    count, times = _window(context, node) if "pool" in node.op else (_count_reduced(context, node), 1.0)
    law, _ = _largest(state, count)
    mean, second = law.mean, law.second
    if state.power.numel() == 1 or "pool" not in node.op:
        power = flat(second, len(node.shape))
    else:
        power = _pooled_map(node, state.power, context) * (second / state.second)
    spread = max(second - mean * mean, 0.0)
    shared = [correlation(pair, state.mean, state.variance) for pair in state.pairs.tolist()]
    shared[0] = max(shared[0], 1 - 1 / times ** (1 / max(len(node.shape) - 2, 1))) if times > 1 else shared[0]
    pairs = torch.tensor([mean * mean + spread * r for r in shared], dtype=torch.float64)
    unit = state.unit
    if "pool" not in node.op and not _keeps(node):
        unit -= sum(dim < unit for dim in _reduced(context, node))
    return State(power, mean, pairs, unit, law, state.chance, state.own)


def _count_reduced(context: Context, node: Node) -> int:
    return math.prod(first_shape(context, node)[dim] for dim in _reduced(context, node))


def _largest(state: State, count: int) -> tuple[Law, Tensor]:
    """The law of the largest of `count` equally correlated entries, in order; and its weights on the points of the state's own law.

    By way of Gaussians of the same correlation: `P(max <= t) = E Phi((t - sqrt(r) z)/sqrt(1 - r))^count`.
    """
    law = state.points
    order = torch.argsort(law.x, stable=True)
    edges = law.weight[order].cumsum(0).clamp(1e-16, 1 - 1e-16)
    place = torch.special.ndtri(edges)
    r = max(correlation(state.pairs[0].item(), state.mean, state.variance), 0.0)
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


def max_backward(context: Context, node: Node, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    """All of a window's gradient goes to its largest place, which is where an activation before it is rather steep."""
    state = states[0]
    before = first_shape(context, node)
    count = _window(context, node)[0] if "pool" in node.op else _count_reduced(context, node)
    share = math.prod(node.shape) / math.prod(before)
    _, where = _largest(state, count)
    return [Gradient(flat(gradient.second * share, len(before)), gradient.far * share, gradient.chance, where)]


def pool_names(kind: str) -> list[Any]:
    """Every torch function's name for pools of a kind."""
    return [f"{prefix}{kind}_pool{dims}d" for prefix in ("", "adaptive_") for dims in (1, 2, 3)]
