"""Side by side: concatenation and stacking. Each moment is the mean over the parts, by their sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from modelfactory.numerics.gaussian_moments import Law, NotPredicted
from modelfactory.signal_propagation.graph import SignalNode, TensorRef
from modelfactory.signal_propagation.rules.arithmetic import coarse, constant
from modelfactory.signal_propagation.rules.base import Context, arguments
from modelfactory.signal_propagation.state import Gradient, State, flat

_MOST_POINTS = 8192  # of a law of many parts


def cat_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """Side by side: each moment is the mean over the parts, by their sizes."""
    sizes = [math.prod(context.graph.nodes[index].shape) for index in node.inputs]
    parts = list(states)
    for item in node.args[0] if node.args else node.kwargs["tensors"]:
        if isinstance(item, TensorRef):
            sizes.append(item.tensor.numel())
            parts.append(constant(context, node, item))
    total = sum(sizes)
    shares = [size / total for size in sizes]
    mean = sum(share * part.mean for share, part in zip(shares, parts, strict=True))
    pairs = torch.stack([share * part.pairs for share, part in zip(shares, parts, strict=True)]).sum(0)
    same = all(part.power.shape == parts[0].power.shape for part in parts)
    maps = [share * (part.power if same else flat(part.second, len(node.shape))) for share, part in zip(shares, parts, strict=True)]
    power: Tensor = torch.stack(maps).sum(0)
    chance = sum(share**2 * (part.chance + part.own) for share, part in zip(shares, parts, strict=True))
    law, latent = _beside(shares, parts)
    scatter = sum(share * part.scatter for share, part in zip(shares, parts, strict=True))
    along = _along(node)
    apart = [max(part.second - max(part.pairs[3].item(), 0.0), 1e-9 * part.second) for part in parts]
    beside = tuple(zip(shares, apart, strict=True)) if along == states[0].unit and len(parts) == len(states) and min(apart) > 0 else ()
    return State(power, mean, pairs, states[0].unit, law, chance, latent=latent, scatter=scatter, parts=beside)


def _beside(shares: Sequence[float], parts: Sequence[State]) -> tuple[Law | None, tuple[float, ...] | None]:
    """The law of an entry of any part, and the correlations of the Gaussians behind; None where one of them has none."""
    laws = [part.law for part in parts if part.law is not None]
    if len(laws) < len(parts):
        return None, None
    x = torch.cat([law.x for law in laws])
    order = torch.argsort(x, stable=True)
    weight = torch.cat([law.weight * share for law, share in zip(laws, shares, strict=True)])
    behind = torch.tensor([part.correlations for part in parts], dtype=torch.float64)
    mean = (behind * torch.tensor(shares, dtype=torch.float64)[:, None]).sum(0)
    law = Law(x[order], weight[order])
    return (law if len(x) <= _MOST_POINTS else coarse(law, _MOST_POINTS)), tuple(mean.tolist())


def _along(node: SignalNode) -> int:
    given = arguments(node, ("tensors", "dim"))["dim"]
    return (0 if given is None else given) % len(node.shape)


def cat_backward(context: Context, node: SignalNode, states: list[State], out: State, gradient: Gradient) -> list[Gradient | None]:
    factors = gradient.parts if len(gradient.parts) == len(states) else (1.0,) * len(states)
    where = [_where_of(part, out, gradient.where) for part in states]
    return [replace(gradient.scaled(factor), where=one, parts=()) for factor, one in zip(factors, where, strict=True)]


def _where_of(part: State, out: State, where: Tensor | None) -> Tensor | None:
    """On which points of a part's law a gradient lands: those where it lands on the law of all parts."""
    if where is None or part.law is None or out.law is None or len(where) != len(out.law.x):
        return None
    place = torch.searchsorted(out.law.x, part.law.x).clamp(max=len(where) - 1)
    weight = part.law.weight * (where / out.law.weight.clamp(min=1e-300))[place]
    return weight / weight.sum() if weight.sum() > 0 else None


def stack_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """Side by side along a new dimension: each moment is the mean over the parts."""
    _check_stacked(context, node, states)
    power = sum(part.second for part in states) / len(states)
    mean = sum(part.mean for part in states) / len(states)
    unit = states[0].unit + (_along(node) <= states[0].unit)
    pairs = torch.stack([part.pairs for part in states]).mean(0)
    chance = sum(part.chance + part.own for part in states) / len(states) ** 2
    return State(flat(power, len(node.shape)), mean, pairs, unit, None, chance)


def stack_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    _check_stacked(context, node, states)
    return [Gradient(flat(gradient.second, part.power.ndim), gradient.far, gradient.chance) for part in states]


def _check_stacked(context: Context, node: SignalNode, states: list[State]) -> None:
    if len(_stacked(node)) != len(states):
        raise NotPredicted("it stacks what is no signal")
    if len({context.roots.of(index) for index in node.inputs}) < len(node.inputs):
        raise NotPredicted("it stacks functions of one signal")


def _stacked(node: SignalNode) -> tuple[Any, ...]:
    given = arguments(node, ("tensors", "dim"))["tensors"]
    return given if isinstance(given, tuple) else (given,)
