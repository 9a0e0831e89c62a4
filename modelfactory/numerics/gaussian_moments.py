"""What an activation makes of a Gaussian signal: moments at any mean and variance, and of two correlated inputs at once.

`x` is `N(m, v)`, and a second input `x'` has the same law and the correlation `r` with it. With `h_k` the orthonormal Hermite
polynomials, `E f(x) f(x') = sum_k a_k^2 r^k`, `a_k = E f(x) h_k((x - m)/sqrt(v))` (Mehler's formula; Daniely et al. 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from modelfactory.numerics.activation import Activation, Resolved, resolve, value_and_derivative

_DEGREES = 64
_REACH = 8.5  # standard deviations; beyond lies 2e-17 of the mass
_CELLS = 96  # per standard deviation, at least
_LOST = 0.02  # of the mass of a law, the most that may be where a function is not finite
_SATURATED_SLOPE = 1 - 0.97**2  # of tanh where |tanh| is 0.97, in shares of the steepest


class NotPredicted(Exception):
    """Why the signal cannot be followed through a call."""


@dataclass(frozen=True)
class Law:
    """A distribution as weighted points: `x` [N] in increasing order of the Gaussian behind it, `weight` [N] of sum 1."""

    x: Tensor
    weight: Tensor

    @property
    def mean(self) -> float:
        return (self.weight * self.x).sum().item()

    @property
    def second(self) -> float:
        return (self.weight * self.x * self.x).sum().item()

    def scaled(self, factor: float, shift: float = 0.0) -> Law:
        return Law(self.x * factor + shift, self.weight)


@dataclass(frozen=True)
class Response:
    """Moments of `f(x)`.

    Attributes:
        law: of `f(x)`.
        mean, second: `E f(x)`, `E f(x)^2`.
        slope: `E f'(x)^2`, by which the gradient's second moment is multiplied.
        growth: `d log E f(x)^2 / d log v`, how a deviation of the variance passes on.
        saturated: share where `f` of two finite ends is flat, NaN for an unbounded `f`.
        inactive: share where `f'` is 0.
        edges: the outputs beyond which `f` is saturated.
        rectifies: whether `f` is 0 where it is off, and never negative.
    """

    law: Law
    mean: float
    second: float
    slope: float
    growth: float
    saturated: float
    inactive: float
    edges: tuple[float, float]
    rectifies: bool
    _series: tuple[Tensor, ...]

    def together(self, r: float) -> float:
        """`E f(x) f(x')` at the correlation `r`."""
        return _sum(self._series[0], r, self.second)

    def slopes_together(self, r: float) -> float:
        """`E f'(x) f'(x')` at the correlation `r`."""
        return _sum(self._series[1], r, self.slope)

    def squares_together(self, r: float) -> float:
        """`E f(x)^2 f(x')^2 / (E f(x)^2)^2 - 1` at the correlation `r`: what a finite width leaves of chance."""
        return _excess(self._series[2], r)

    def squared_slopes_together(self, r: float) -> float:
        """`E f'(x)^2 f'(x')^2 / (E f'(x)^2)^2 - 1` at the correlation `r`."""
        return _excess(self._series[3], r)


def _sum(series: Tensor, r: float, whole: float) -> float:
    r = min(max(r, -1.0), 1.0)
    if r == 1.0:
        return whole
    powers = r ** torch.arange(len(series), dtype=torch.float64)
    tail = max(whole - series.sum().item(), 0.0)
    return (series * powers).sum().item() + tail * abs(r) ** (2 * _DEGREES)


def _excess(series: Tensor, r: float) -> float:
    if series[0] <= 0:
        return 0.0
    powers = min(max(r, 0.0), 1.0) ** torch.arange(len(series), dtype=torch.float64)
    return (series * powers).sum().item() / series[0].item() - 1


def respond(activation: Activation, mean: float = 0.0, variance: float = 1.0) -> Response:
    """What an activation makes of `N(mean, variance)`, to about 1e-5 of its size.

    By the midpoint rule on a grid whose cells end at multiples of a power of two, where the kinks of activations lie.

    Example:
        >>> found = respond("relu")
        >>> round(found.mean, 4), round(found.second, 4), round(found.slope, 4), round(found.together(0.0), 4)
        (0.3989, 0.5, 0.5, 0.1592)
    """
    resolved = resolve(activation)
    compute = _respond.__wrapped__ if resolved.key is None else _respond
    return compute(resolved, float(f"{mean:.12g}"), float(f"{variance:.12g}"))


@lru_cache(maxsize=512)
def _respond(resolved: Resolved, mean: float, variance: float) -> Response:
    z, law = gaussian(mean, variance)
    values, slopes = value_and_derivative(resolved.function, law.x)
    weight, (values, slopes) = finite_part(resolved.label, law.weight, values, slopes)
    second, slope = (weight * values**2).sum().item(), (weight * slopes**2).sum().item()
    stretch = math.sqrt(max(variance, 0.0)) * (weight * values * slopes * z).sum().item()
    limit, edges = (_flatness.__wrapped__ if resolved.key is None else _flatness)(resolved)
    rectifies = _rectifies(resolved) if resolved.key is not None else _rectifies.__wrapped__(resolved)
    flat = None if limit is None else ((slopes.abs() < limit) & ~(rectifies & (values == 0))).double()  # off is not saturated
    return Response(
        law=Law(values, weight),
        mean=(weight * values).sum().item(),
        second=second,
        slope=slope,
        growth=stretch / second if second > 0 else 0.0,
        saturated=(weight * flat).sum().item() if flat is not None else math.nan,
        inactive=(weight * (slopes == 0)).sum().item(),
        edges=edges,
        rectifies=rectifies,
        _series=_coefficients(z, weight, torch.stack([values, slopes, values**2, slopes**2])),
    )


def finite_part(label: str, weight: Tensor, *values: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Weights and values without the few points at which a function is not finite, such as a root of the tail below 0.

    Raises:
        NotPredicted: they are not few.
    """
    bad = torch.stack([~value.isfinite() for value in values]).any(0)
    if not bad.any():
        return weight, list(values)
    lost = weight[bad].sum().item()
    if not lost <= _LOST:
        raise NotPredicted(f"{label} is not finite for {lost:.0%} of what it gets")
    kept = torch.where(bad, torch.zeros_like(weight), weight)
    return kept / kept.sum(), [torch.where(bad, torch.zeros_like(value), value) for value in values]


def gaussian(mean: float, variance: float) -> tuple[Tensor, Law]:
    """Points `z` of a standard normal and the law of `mean + sqrt(variance) z`.

    Raises:
        NotPredicted: a moment is not finite.
    """
    if not (math.isfinite(mean) and math.isfinite(variance)):
        raise NotPredicted(f"its input has the mean {mean:g} and the variance {variance:g}")
    std = math.sqrt(max(variance, 0.0))
    if std <= 1e-12 * abs(mean) or std < 1e-150:
        zero = torch.zeros(1, dtype=torch.float64)
        return zero, Law(zero + mean, zero + 1)
    step = 2.0 ** round(math.log2(std / _CELLS))
    cells = torch.arange(math.floor((mean - _REACH * std) / step), math.ceil((mean + _REACH * std) / step), dtype=torch.float64)
    x = (cells + 0.5) * step
    z = (x - mean) / std
    weight = torch.exp(-z * z / 2)
    return z, Law(x, weight / weight.sum())


def _coefficients(z: Tensor, weight: Tensor, functions: Tensor) -> tuple[Tensor, ...]:
    """Squared Hermite coefficients [degrees] of each of the functions [F, N]."""
    if len(z) == 1:
        return tuple((functions**2)[:, :1])
    before, here, rows = torch.zeros_like(z), torch.ones_like(z), []
    for degree in range(_DEGREES):
        rows.append(here)
        before, here = here, (z * here - math.sqrt(degree) * before) / math.sqrt(degree + 1)
    basis = torch.stack(rows) * weight
    # sums of products, not matrix products: BLAS on several threads rounds otherwise
    return tuple((basis * function).sum(-1) ** 2 for function in functions)


@lru_cache(maxsize=64)
def _flatness(resolved: Resolved) -> tuple[float | None, tuple[float, float]]:
    """The slope below which an activation with two finite ends is flat, and the outputs beyond which it is; None for another."""
    far = torch.tensor([-1e6, -1e4, 1e4, 1e6], dtype=torch.float64)
    ends, _ = value_and_derivative(resolved.function, far)
    if not ends.isfinite().all() or (ends[0] - ends[1]).abs() > 1e-3 or (ends[2] - ends[3]).abs() > 1e-3 or ends[0] == ends[3]:
        return None, (-math.inf, math.inf)
    grid = (torch.arange(-4096, 4096, dtype=torch.float64) + 0.5) / 256
    outputs, slopes = value_and_derivative(resolved.function, grid)
    limit = (_SATURATED_SLOPE * slopes.abs().max()).item()
    lively = outputs[slopes.abs() >= limit]
    return limit, (lively.min().item(), lively.max().item())


@lru_cache(maxsize=64)
def _rectifies(resolved: Resolved) -> bool:
    grid = (torch.arange(-2048, 2048, dtype=torch.float64) + 0.5) / 256
    values, slopes = value_and_derivative(resolved.function, grid)
    return bool((values >= 0).all() and (slopes == 0).any() and (values[(slopes == 0) & (grid < 0)] == 0).all())


@lru_cache(maxsize=4096)
def _powers(resolved: Resolved, mean: float, variance: float) -> tuple[float, float, float]:
    _, law = gaussian(mean, variance)
    values, slopes = value_and_derivative(resolved.function, law.x)
    weight, (values, slopes) = finite_part(resolved.label, law.weight, values, slopes)
    moments = torch.stack([values, values**2, slopes**2]) * weight
    return tuple(moments.sum(-1).tolist())


def powers(activation: Activation, mean: float, variance: float) -> tuple[float, float, float]:
    """`E f(x)`, `E f(x)^2` and `E f'(x)^2` alone, sooner than `respond`."""
    resolved = resolve(activation)
    compute = _powers.__wrapped__ if resolved.key is None else _powers
    return compute(resolved, float(f"{mean:.9g}"), float(f"{variance:.9g}"))


def correlation(cross: float, mean: float, variance: float) -> float:
    """The correlation of two values with the cross moment `cross` and a common mean, within [-1, 1]."""
    return 0.0 if variance <= 0 else min(max((cross - mean * mean) / variance, -1.0), 1.0)


def interpolated(compute: Callable[[float], float], points: Tensor, nodes: int = 13) -> Tensor:
    """`compute` at each of `points` (> 0), by the polynomial in log through its values at Chebyshev's nodes.

    Example:
        >>> points = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
        >>> [round(value, 9) for value in interpolated(lambda v: v * v, points).tolist()]
        [1.0, 4.0, 25.0]
    """
    low, high = points.min().log().item(), points.max().log().item()
    if high - low < 1e-9:
        return torch.full_like(points, compute(math.exp((low + high) / 2)))
    angles = [math.pi * (k + 0.5) / nodes for k in range(nodes)]
    at = [math.cos(angle) for angle in angles]
    values = [math.log(max(compute(math.exp((low + high) / 2 + (high - low) / 2 * t)), 1e-300)) for t in at]
    place = ((points.log() - low) / (high - low) * 2 - 1).clamp(-1, 1)
    top, bottom = torch.zeros_like(place), torch.zeros_like(place)
    for k, (t, value) in enumerate(zip(at, values, strict=True)):
        gap = place - t
        share = (-1) ** k * math.sin(angles[k]) / torch.where(gap.abs() < 1e-12, torch.full_like(gap, 1e-12), gap)
        top, bottom = top + share * value, bottom + share
    return (top / bottom).exp()
