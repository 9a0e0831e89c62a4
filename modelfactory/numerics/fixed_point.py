"""How deep a signal reaches: chi_1 and the depth scales, of a layer of a model and of an endless net of one activation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modelfactory.config.errors import SchemeError
from modelfactory.numerics.activation import Activation
from modelfactory.numerics.gaussian_moments import Response, respond

_STEPS = 10_000


@dataclass(frozen=True)
class FixedPoint:
    """Where the signal of an endless net of `activation`, weights of variance `sigma_w^2/n`, biases of `sigma_b^2` settles.

    Attributes:
        q: variance of the pre-activations.
        c: correlation of the pre-activations of two different inputs.
        chi_1: by which the second moment of a gradient grows at each layer; at 1 the net is critical.
        xi_q: layers over which a deviation from `q` shrinks to 1/e.
        xi_c: layers over which a deviation from `c` shrinks to 1/e; infinite at the critical point.
    """

    q: float
    c: float
    chi_1: float
    xi_q: float
    xi_c: float


def fixed_point(activation: Activation, sigma_w: float, sigma_b: float = 0.0) -> FixedPoint:
    """The fixed point of the variance map `q -> sigma_w^2 E f(sqrt(q) z)^2 + sigma_b^2` and of the correlation map there.

    Formula: `chi_1 = sigma_w^2 E f'^2`, `1/xi_q = -log(chi_1 + sigma_w^2 E f f'')`,
    `1/xi_c = -log(sigma_w^2 E f'(u) f'(u'))` with `u`, `u'` of the correlation `c`.

    Source: Poole et al. 2016; Schoenholz et al. 2017; Hayou et al. 2019 (infinite scales for the rectifier).

    Raises:
        SchemeError: the variance goes to 0 or grows without end.

    Example:
        >>> found = fixed_point("tanh", sigma_w=1.5, sigma_b=0.1)
        >>> round(found.q, 3), round(found.c, 3), found.chi_1 > 1
        (0.813, 0.18, True)
    """
    q = 1.0
    for _ in range(_STEPS):
        after = sigma_w**2 * respond(activation, 0.0, q).second + sigma_b**2
        if not 1e-12 < after < 1e12:
            raise SchemeError(f"the variance goes to {'0' if after < 1 else 'infinity'} with sigma_w = {sigma_w:g}, sigma_b = {sigma_b:g}")
        settled = abs(after - q) <= 1e-13 * q
        q = after
        if settled:
            break
    found = respond(activation, 0.0, q)
    c = _settled_correlation(found, sigma_w, sigma_b, q)
    slope_q = sigma_w**2 * found.growth * found.second / q
    slope_c = sigma_w**2 * found.slopes_together(c)
    return FixedPoint(q, c, sigma_w**2 * found.slope, depth_scale(slope_q), depth_scale(slope_c))


def _settled_correlation(found: Response, sigma_w: float, sigma_b: float, q: float) -> float:
    """The stable fixed point of the correlation map, reached from 0.5; 1 where the net is ordered."""
    c = 0.5
    for _ in range(_STEPS):
        after = min((sigma_w**2 * found.together(c) + sigma_b**2) / q, 1.0)
        if abs(after - c) <= 1e-12:
            return after
        c = after
    return c


def depth_scale(slope: float) -> float:
    """`-1/log(slope)`: layers over which what each layer multiplies by `slope` shrinks to 1/e; infinite from 1 on.

    Example:
        >>> depth_scale(0.5), depth_scale(1.0)
        (1.4426950408889634, inf)
    """
    if not slope > 0:
        return 0.0
    return -1 / math.log(slope) if slope < 1 - 1e-9 else math.inf
