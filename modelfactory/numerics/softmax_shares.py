"""How a softmax over scores that are normal divides its weight: exact means by quadrature, from equal shares to one that has all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

_POINTS = 97  # of the scores, over +-8 of their standard deviation, where that is 4 or less
_LARGEST = 900.0  # of the variances that are integrated: what is left to others goes with 1/std from there on


class Shares(NamedTuple):
    """Means over rows of what the shares a_i of a softmax are.

    Attributes:
        squared: of `sum a_i^2`: 1/n where all are equal, 1 where one has all.
        jacobian: of `sum a_i^2 (1 - 2 a_i + sum a_j^2)`: by how much the softmax multiplies the squared gradient of independent values.
    """

    squared: float
    jacobian: float


def softmax_shares(variance: float, counts: Sequence[tuple[int, float]]) -> Shares:
    """The shares of rows of scores of one variance, N(0, v), independent in a row.

    As `1/S^m` is the integral of `t^(m-1) exp(-t S)/(m-1)!` over t > 0, the mean of `sum a_i^2` over n scores is that of
    `n t f_2(t) f_0(t)^(n-1)`, with `f_k(t) = E exp(k z - t exp z)`; the other sums are alike.

    Args:
        variance: v, of the scores within a row.
        counts: how many scores a row has, each number with the share of the rows that have so many.

    Example:
        >>> softmax_shares(0.0, [(4, 1.0)])
        Shares(squared=0.25, jacobian=0.1875)
        >>> softmax_shares(1.0, [(64, 1.0)]).squared < softmax_shares(4.0, [(64, 1.0)]).squared < 1
        True
    """
    if variance <= 0:
        of_each = [(1 / count, (1 - 1 / count) / count) for count, _ in counts]
    else:
        rounded = float(f"{min(variance, _LARGEST):.3g}")  # so that layers that are nearly alike are computed once
        beyond = math.sqrt(rounded / variance) if variance > _LARGEST else 1.0
        of_each = [(1 - (1 - a) * beyond, b * beyond) for a, b in _by_quadrature(rounded, tuple(count for count, _ in counts))]
    squared, jacobian = (sum(each[place] * share for each, (_, share) in zip(of_each, counts, strict=True)) for place in (0, 1))
    return Shares(squared, jacobian)


@lru_cache(maxsize=4096)
def _by_quadrature(variance: float, counts: tuple[int, ...]) -> list[tuple[float, float]]:
    std = math.sqrt(variance)
    z = torch.linspace(-8, 8, max(_POINTS, 24 * round(std)) + 1, dtype=torch.float64)
    density = torch.exp(-z * z / 2)
    weight = (density / density.sum()).log()
    z = z * std
    # log t from where the largest sum counts to where the smallest score alone does
    low, high = -(8 * std + math.log(max(counts)) + 8), 8 * std + 5
    u = torch.linspace(low, high, int((high - low) * 4), dtype=torch.float64)
    falls = -torch.exp(u[:, None] + z[None, :])
    f = [torch.logsumexp(weight + k * z + falls, 1) for k in range(5)]
    step = (u[1] - u[0]).item()
    found = []
    for count in counts:
        rest, others = (count - 1) * f[0], math.log(count)

        def total(power: int, inside: torch.Tensor) -> float:
            """The integral over t = exp u of t^(power-1)/(power-1)! times what is inside."""
            return float(torch.exp(power * u - math.lgamma(power) + inside).sum()) * step

        squared = total(2, others + f[2] + rest)
        cubed = total(3, others + f[3] + rest)
        fourth = total(4, others + f[4] + rest)
        crossed = total(4, others + math.log(count - 1) + 2 * f[2] + (count - 2) * f[0]) if count > 1 else 0.0
        found.append((min(squared, 1.0), max(squared - 2 * cubed + fourth + crossed, 0.0)))
    return found
