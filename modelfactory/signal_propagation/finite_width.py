"""How the power of single inputs spreads about the mean: what a finite width does to activations whose variance map is unstable.

Given its own power an input's units are independent, so that its power goes on as a Markov chain: to the mean that the
activation makes of it, with the chance of finitely many units. Where the map grows faster than the power (gelu, silu,
mish, hardswish) inputs drift apart, and the mean over them is not what the mean power would give. Backward the same
chain is gone through the other way about: what a gradient is worth depends on the power of its input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from modelfactory.numerics.activation import Activation, resolve, value_and_derivative
from modelfactory.numerics.gaussian_moments import gaussian

_REACH, _STEP = 7.0, 0.1


@lru_cache(maxsize=1)
def grid() -> Tensor:
    """Logs of an input's power relative to a reference [K]."""
    count = round(_REACH / _STEP)
    return torch.arange(-count, count + 1, dtype=torch.float64) * _STEP


@dataclass(frozen=True)
class Passage:
    """What an activation makes of inputs of unlike power.

    Attributes:
        second, slope: means over the inputs of `E f^2` and `E f'^2`.
        weights: of the powers afterwards [K], about the new mean.
        moved: from each power before to each afterwards [K, K], as a gradient sees it: the units that let more of it through
            also make the power larger.
        slopes: `E f'^2` at each power before [K].
    """

    second: float
    slope: float
    weights: Tensor
    moved: Tensor
    slopes: Tensor


def spread_of(variance: float) -> Tensor:
    """The weights [K] of a lognormal power of mean 1 and this variance of its log."""
    return _binned(torch.tensor([-variance / 2], dtype=torch.float64), torch.tensor([variance], dtype=torch.float64))[0]


def _binned(centre: Tensor, variance: Tensor) -> Tensor:
    """Normal laws [J] on the grid [J, K]."""
    edges = torch.cat([grid() - _STEP / 2, grid()[-1:] + _STEP / 2])
    std = variance.clamp(min=(0.3 * _STEP) ** 2).sqrt()  # no narrower than a cell shows
    reached = torch.special.ndtr((edges - centre[:, None]) / std[:, None])
    weights = reached.diff(dim=1)
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-300)


def pass_on(function: Activation, weights: Tensor, second: float, units: int) -> Passage:
    """Inputs of power `second exp(grid)` with these weights, mean 0, through an activation of so many units."""
    resolved = resolve(function).function
    z, law = gaussian(0.0, 1.0)
    scale = (grid().exp() * second).sqrt()
    values, slopes = value_and_derivative(resolved, scale[:, None] * z)
    squares = values * values
    powers, steep = (squares * law.weight).sum(1), (slopes * slopes * law.weight).sum(1)
    noise = ((squares * squares * law.weight).sum(1) / powers.clamp(min=1e-300) ** 2 - 1) / units
    mean = (weights * powers).sum().item()
    centre = (powers / mean).clamp(min=1e-30).log()
    variance = (1 + noise).log()
    after = weights @ _binned(centre - variance / 2, variance)
    both = (squares * slopes * slopes * law.weight).sum(1) / (powers * steep).clamp(min=1e-300) - 1
    moved = _binned(centre - variance / 2 + both / units, variance)
    return Passage(mean, (weights * steep).sum().item(), after / after.sum(), moved, steep)


def shifted(weights: Tensor, share: float) -> Tensor:
    """The weights after a bias of this share of the power, the same for all inputs, was added."""
    centre = (grid().exp() * (1 - share) + share).log()
    moved = _binned(centre, torch.zeros_like(centre))
    after = weights @ moved
    return after / after.sum()


def correction(weights: Tensor) -> float:
    """The mean power of these weights, which rounding to the grid leaves a little off 1."""
    return (weights * grid().exp()).sum().item()


def is_needed(growth: float) -> bool:
    """Whether an activation's variance map is unstable, so that the spread matters."""
    return growth > 1.01 and math.isfinite(growth)
