"""Integrals against the standard normal density, for functions with kinks and jumps."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from modelfactory.errors import SchemeError

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
    whole = _on_panels(function, low, width)[0]
    total, scale = torch.zeros(whole.shape[:-1], dtype=torch.float64), whole.abs().sum(-1)
    for depth in range(_DEEPEST + 1):
        low, width, parent = torch.stack([low, low + width / 2], 1).flatten(), (width / 2).repeat_interleave(2), whole
        whole, edges_agree = _on_panels(function, low, width)
        halves = whole.unflatten(-1, (-1, 2)).sum(-1)
        accept = ((halves - parent).abs() <= _TOLERANCE * scale[..., None]).all(1).all(0) & edges_agree.unflatten(0, (-1, 2)).all(1)
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


def _on_panels(function: Callable[[Tensor], Tensor], low: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Integrals [2, F, P] of f and f^2 over each panel, and whether the panel's end values fit [P]."""
    nodes, weights, to_ends = _rule()
    high = low + width
    inset = 1e-12 * width
    ends = torch.stack([low + inset + 1e-15 * low.abs(), high - inset - 1e-15 * high.abs()], 1)
    z = torch.cat([low[:, None] + width[:, None] * nodes, ends], 1)
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    values = function(z)
    weighted = values * density
    integrals = torch.stack([weighted[..., :_NODES], (values * weighted)[..., :_NODES]]) @ weights * width
    misfit = (weighted[..., :_NODES] @ to_ends - weighted[..., _NODES:]).abs()
    return integrals, (misfit <= _EDGE_TOLERANCE * weighted.abs().amax((-2, -1), keepdim=True).clamp(min=1e-300)).all(-1).all(0)


@cache
def _rule() -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Legendre nodes [16] and weights [16] on [0, 1] (Golub & Welsch 1969), and the map from values there to both ends [16, 2]."""
    n = torch.arange(1, _NODES, dtype=torch.float64)
    off_diagonal = torch.diag(n / (4 * n * n - 1).sqrt(), 1)
    nodes, vectors = torch.linalg.eigh(off_diagonal + off_diagonal.T)
    weights = 2 * vectors[0] ** 2 / (vectors[0] ** 2).sum()
    legendre = [torch.ones_like(nodes), nodes]
    for k in range(1, _NODES - 1):
        legendre.append(((2 * k + 1) * nodes * legendre[k] - k * legendre[k - 1]) / (k + 1))
    degrees = torch.arange(_NODES, dtype=torch.float64)
    coefficients = torch.stack(legendre) * weights * (degrees[:, None] + 0.5)
    at_ends = torch.stack([(-1.0) ** degrees, torch.ones_like(degrees)])
    return (nodes + 1) / 2, weights / 2, (at_ends @ coefficients).T.contiguous()
