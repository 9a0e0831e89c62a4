"""Schemes that look at no fans, elementwise and in place: torch.nn.init's distributions and constants.

Each equals torch.nn.init bit for bit under the same generator. `*_moments` are the mean and standard deviation of
an entry. In each docstring the paragraphs Formula, Source and Use are what the documentation of schemes is made of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modelfactory.config.errors import SchemeError
from modelfactory.init.fans import Fans
from modelfactory.init.schemes.variance import _no_grad


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
    """Uniform between two bounds.

    Formula: U[a, b), mean (a + b)/2, std (b - a)/sqrt(12).

    Source: torch.nn.init.uniform_.

    Use: when a paper gives its bounds. It is the same at any width, so deep nets need a scheme with fans.

    Example:
        >>> bool((uniform_(torch.empty(3, 4), -0.1, 0.1).abs() <= 0.1).all())
        True
    """
    uniform_moments(tensor.shape, None, a, b)
    with _no_grad(tensor):
        return tensor.uniform_(a, b, generator=generator)


def uniform_moments(shape: Sequence[int], fans: Fans | None, a: float = 0.0, b: float = 1.0) -> tuple[float, float]:
    if not a <= b:
        raise SchemeError(f"uniform needs a <= b, not a = {a!r} and b = {b!r}")
    return (a + b) / 2, (b - a) / math.sqrt(12)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
    """Normal of a given mean and standard deviation.

    Formula: N(mean, std^2).

    Source: torch.nn.init.normal_.

    Use: embeddings and transformers (std = 0.02). It is the same at any width, so deep nets need a scheme with fans.

    Example:
        >>> normal_(torch.empty(3, 4), std=0.02).shape
        torch.Size([3, 4])
    """
    normal_moments(tensor.shape, None, mean, std)
    with _no_grad(tensor):
        return tensor.normal_(mean, std, generator=generator)


def normal_moments(shape: Sequence[int], fans: Fans | None, mean: float = 0.0, std: float = 1.0) -> tuple[float, float]:
    if not std >= 0:
        raise SchemeError(f"normal needs std >= 0, not {std!r}")
    return mean, std


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Normal, cut off at two absolute bounds.

    Formula: N(mean, std^2) given a <= w <= b. The bounds are values, not multiples of std: with std = 0.02 the default
    bounds cut nothing. Cut at mean +- 2 std, the standard deviation is 0.87962566103423978 std.

    Source: torch.nn.init.trunc_normal_.

    Use: vision transformers (std = 0.02, a = -0.04, b = 0.04 for a true cut at two sigma).

    Example:
        >>> bool((trunc_normal_(torch.empty(50, 4), std=0.02, a=-0.04, b=0.04).abs() <= 0.04).all())
        True
    """
    _check_bounds(std, a, b)
    return nn.init.trunc_normal_(tensor, mean, std, a, b, generator=generator)


def trunc_normal_moments(
    shape: Sequence[int], fans: Fans | None, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> tuple[float, float]:
    """Exact mean and standard deviation; NaN where the bounds lie so far in a tail that float64 sees no mass there."""
    _check_bounds(std, a, b)
    low, high = (a - mean) / std, (b - mean) / std
    sign = 1.0
    if low > 0:  # take the tail on the side where erfc keeps its digits
        low, high, sign = -high, -low, -1.0
    mass = (math.erfc(-high / math.sqrt(2)) - math.erfc(-low / math.sqrt(2))) / 2
    if mass < 1e-290:
        return math.nan, math.nan
    at_low, at_high = (math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / mass for z in (low, high))
    shift = at_low - at_high
    variance = 1 + low * at_low - high * at_high - shift * shift
    return mean + sign * std * shift, std * math.sqrt(max(variance, 0.0))


def _check_bounds(std: float, a: float, b: float) -> None:
    if not (std > 0 and a < b):
        raise SchemeError(f"trunc_normal needs std > 0 and a < b, not std = {std!r}, a = {a!r} and b = {b!r}")


def constant_(tensor: Tensor, val: float) -> Tensor:
    """One value everywhere.

    Formula: w = val.

    Source: torch.nn.init.constant_.

    Use: biases and scales. A weight matrix of equal entries keeps its units equal forever.

    Example:
        >>> constant_(torch.empty(2), 0.25)
        tensor([0.2500, 0.2500])
    """
    with _no_grad(tensor):
        return tensor.fill_(val)


def constant_moments(shape: Sequence[int], fans: Fans | None, val: float) -> tuple[float, float]:
    return float(val), 0.0


def ones_(tensor: Tensor) -> Tensor:
    """One everywhere.

    Formula: w = 1.

    Source: torch.nn.init.ones_.

    Use: scales of norms.

    Example:
        >>> ones_(torch.empty(2))
        tensor([1., 1.])
    """
    with _no_grad(tensor):
        return tensor.fill_(1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Zero everywhere.

    Formula: w = 0.

    Source: torch.nn.init.zeros_.

    Use: biases, the last layer of a residual branch, a head whose first loss is to be ln C. On hidden weight matrices
    no unit ever learns.

    Example:
        >>> zeros_(torch.empty(2))
        tensor([0., 0.])
    """
    with _no_grad(tensor):
        return tensor.zero_()
