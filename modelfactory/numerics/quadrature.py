"""Integrals against the standard normal density, for functions with kinks and jumps."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from modelfactory.config.errors import SchemeError

_NODES = 16
_REACH = 14  # the density is 1e-43 there
_DEEPEST = 46  # halvings of a panel of width 1; what a jump inside the last one hides is below 1e-14
_TOLERANCE = 1e-15  # of a panel's integral, relative to the largest so far
_EDGE_TOLERANCE = 1e-9
_MOST_PANELS = 20_000


def integrate(function: Callable[[Tensor], Tensor]) -> tuple[list[float], list[float]]:
    """`E f(z)` and `E f(z)^2` over `z ~ N(0, 1)` for several functions at once.

    A panel is accepted when 16 Gauss-Legendre nodes on it and 16 on each of its halves agree, and when the values just
    inside the halves' ends are those that the nodes foretell: a jump between an end and the nearest node would show
    in no sum. Other panels are bisected.

    Args:
        function: from points [P, N] in float64 to values [F, P, N].

    Returns:
        The first and the second moments, F of each.

    Raises:
        SchemeError: it does not converge.

    Example:
        >>> (mean,), (second,) = integrate(lambda z: z.clamp(min=0)[None])
        >>> round(second, 12)
        0.5
    """
    low = torch.arange(-_REACH, _REACH, dtype=torch.float64)
    width = torch.ones_like(low)
    whole, _, peak = _on_panels(function, low, width)
    total, scale = torch.zeros(whole.shape[:-1], dtype=torch.float64), whole.abs().sum(-1)
    for depth in range(_DEEPEST + 1):
        low, width, parent = torch.stack([low, low + width / 2], 1).flatten(), (width / 2).repeat_interleave(2), whole
        whole, misfit, higher = _on_panels(function, low, width)
        peak = torch.maximum(peak, higher)  # of the whole line: near a kink at a zero the values themselves get small
        edges_agree = (misfit <= _EDGE_TOLERANCE * peak).all(0)
        halves = whole.unflatten(-1, (-1, 2)).sum(-1)
        accept = ((halves - parent).abs() <= _TOLERANCE * scale[..., None]).all(1).all(0) & edges_agree.unflatten(0, (-1, 2)).all(
            1
        )
        if depth == _DEEPEST:
            accept = torch.ones_like(accept)
        total += halves[..., accept].sum(-1)
        again = (~accept).repeat_interleave(2)
        low, width, whole = low[again], width[again], whole[..., again]
        if low.numel() == 0:
            return total[0].tolist(), total[1].tolist()
        if low.numel() > _MOST_PANELS:
            break
    raise SchemeError("the activation is too rough for its moments to be computed: give a gain")


def _on_panels(function: Callable[[Tensor], Tensor], low: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Integrals of f and f^2 over each panel [2, F, P], by how much its end values do not fit [F, P], the largest value [F, 1]."""
    nodes, weights, to_ends = _rule()
    high = low + width
    inset = 1e-12 * width
    ends = torch.stack([low + inset + 1e-15 * low.abs(), high - inset - 1e-15 * high.abs()], 1)
    z = torch.cat([low[:, None] + width[:, None] * nodes, ends], 1)
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    values = function(z)
    weighted = values * density
    at_nodes = weighted[..., :_NODES]
    # sums of products, not matrix products: BLAS on several threads rounds otherwise, and is slow at this size
    integrals = (torch.stack([at_nodes, values[..., :_NODES] * at_nodes]) * weights).sum(-1) * width
    misfit = ((at_nodes[..., None, :] * to_ends).sum(-1) - weighted[..., _NODES:]).abs()
    return integrals, misfit.amax(-1), weighted.abs().amax((-2, -1))[:, None].clamp(min=1e-300)


@cache
def _rule() -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Legendre nodes [16] and weights [16] on [0, 1], and the map from values at the nodes to both ends [2, 16]."""
    nodes, weights, to_ends = [], [], []
    for i in reversed(range(_NODES)):
        x = math.cos(math.pi * (i + 0.75) / (_NODES + 0.5))
        for _ in range(8):  # Newton; the start is right to 1e-3 and each step doubles the digits
            legendre = _legendre(x)
            slope = _NODES * (x * legendre[-1] - legendre[-2]) / (x * x - 1)
            x -= legendre[-1] / slope
        weight = 2 / ((1 - x * x) * slope * slope)
        # the polynomial through the nodes, in Legendre's basis, whose value at the ends is 1 or -1
        terms = [(k + 0.5) * weight * value for k, value in enumerate(legendre[:_NODES])]
        nodes.append((x + 1) / 2)
        weights.append(weight / 2)
        to_ends.append((sum(term * (-1) ** k for k, term in enumerate(terms)), sum(terms)))
    return (
        torch.tensor(nodes, dtype=torch.float64),
        torch.tensor(weights, dtype=torch.float64),
        torch.tensor(to_ends, dtype=torch.float64).T.contiguous(),
    )


def _legendre(x: float) -> list[float]:
    """Legendre's polynomials of degree 0 to 16 at x."""
    values = [1.0, x]
    for k in range(1, _NODES):
        values.append(((2 * k + 1) * x * values[k] - k * values[k - 1]) / (k + 1))
    return values
