"""Schemes that draw every entry alike, and constants. In place, named as torch.nn.init names them.

With `fans=None` each equals torch.nn.init's function of that name bit for bit under the same generator; `fans` puts the
operator's effective fans in the place of those that torch reads off the shape. Uniform schemes of variance s^2 draw
from U(-a, a) with a = sqrt(3) s.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from modelfactory.activation import gain as computed_gain
from modelfactory.errors import SchemeError
from modelfactory.init.fans import Fans, torch_fans

TRUNCATED_STD = 0.87962566103423978
"""Std of a standard normal truncated at +-2."""

Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
Distribution = Literal["normal", "truncated_normal", "uniform"]


_NOTHING = nullcontext()


def _no_grad(tensor: Tensor) -> AbstractContextManager[object]:
    """torch.no_grad, which costs as much as a small fill, only for a tensor that needs it."""
    return torch.no_grad() if tensor.requires_grad else _NOTHING


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """U(a, b)."""
    with _no_grad(tensor):
        return tensor.uniform_(a, b, generator=generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """N(mean, std^2)."""
    with _no_grad(tensor):
        return tensor.normal_(mean, std, generator=generator)


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, *, generator: Generator | None = None
) -> Tensor:
    """N(mean, std^2) redrawn outside of [a, b]. The bounds are absolute: std 0.02 with +-2 cuts nothing off.

    Raises:
        SchemeError: a >= b.
    """
    if a >= b:
        raise SchemeError(f"a = {a:g} is not below b = {b:g}")
    return nn.init.trunc_normal_(tensor, mean, std, a, b, generator=generator)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Every entry `val`."""
    with _no_grad(tensor):
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Every entry 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Every entry 0."""
    return constant_(tensor, 0.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, *, fans: Fans | None = None, generator: Generator | None = None) -> Tensor:
    """U(-a, a) of variance 2 gain^2 / (fan_in + fan_out), which keeps signal and gradient between the two (Glorot and Bengio 2010).

    Example:
        >>> weight = xavier_uniform_(torch.empty(20, 40), generator=torch.Generator().manual_seed(0))
        >>> bool(weight.abs().max() <= math.sqrt(6 / 60))
        True
    """
    std = _xavier_std(fans or torch_fans(tensor.shape), gain)
    return uniform_(tensor, -math.sqrt(3.0) * std, math.sqrt(3.0) * std, generator=generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, *, fans: Fans | None = None, generator: Generator | None = None) -> Tensor:
    """N(0, 2 gain^2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return normal_(tensor, 0.0, _xavier_std(fans or torch_fans(tensor.shape), gain), generator=generator)


def _xavier_std(fans: Fans, gain: float) -> float:
    return gain * math.sqrt(2.0 / (fans.fan_in + fans.fan_out))


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    gain: float | None = None,
    fans: Fans | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """U(-b, b) of variance gain^2 / fan, which keeps a rectified signal's second moment (He et al. 2015).

    Args:
        a: slope of the rectifier below 0, read when `nonlinearity` is leaky_relu.
        mode: fan_in keeps the signal, fan_out the gradient.
        nonlinearity: whose gain of torch.nn.init.calculate_gain is used.
        gain: used in its place when given.
    """
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity, gain, fans)
    return uniform_(tensor, -bound, bound, generator=generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    gain: float | None = None,
    fans: Fans | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """N(0, gain^2 / fan): 2 / fan_in for ReLU (He et al. 2015). Arguments as for `kaiming_uniform_`.

    Example:
        >>> weight = kaiming_normal_(torch.empty(500, 800), nonlinearity="relu", generator=torch.Generator().manual_seed(0))
        >>> round(weight.std().item() * math.sqrt(800 / 2), 2)
        1.0
    """
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity, gain, fans), generator=generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str, gain: float | None, fans: Fans | None) -> float:
    fans = fans or torch_fans(tensor.shape)
    gain = kaiming_gain(a, nonlinearity) if gain is None else gain
    return gain / math.sqrt(fan_of(fans, mode))


@lru_cache
def kaiming_gain(a: float, nonlinearity: str) -> float:
    """torch's gain for a nonlinearity by name, and where torch's table ends the one computed by quadrature.

    Raises:
        SchemeError: no such activation.

    Example:
        >>> round(kaiming_gain(0.0, "relu"), 4), round(kaiming_gain(0.0, "gelu"), 4)
        (1.4142, 1.5335)
    """
    try:
        return nn.init.calculate_gain(nonlinearity, a)  # pyright: ignore[reportArgumentType]
    except ValueError:
        return computed_gain(nonlinearity)


def fan_of(fans: Fans, mode: str) -> float:
    """The fan that a mode names: fan_in, fan_out, their mean, or their geometric mean."""
    if mode == "fan_in":
        return fans.fan_in
    if mode == "fan_out":
        return fans.fan_out
    return (fans.fan_in + fans.fan_out) / 2 if mode == "fan_avg" else math.sqrt(fans.fan_in * fans.fan_out)


def lecun_normal_(tensor: Tensor, gain: float = 1.0, *, fans: Fans | None = None, generator: Generator | None = None) -> Tensor:
    """N(0, gain^2 / fan_in): keeps a linear or self-normalising (SELU) signal (LeCun, Bottou, Orr and Mueller 1998).

    The article behind this project calls it Xavier's; Glorot's own has (fan_in + fan_out) / 2 in the place of fan_in.
    """
    return normal_(tensor, 0.0, gain / math.sqrt((fans or torch_fans(tensor.shape)).fan_in), generator=generator)


def lecun_uniform_(tensor: Tensor, gain: float = 1.0, *, fans: Fans | None = None, generator: Generator | None = None) -> Tensor:
    """U(-a, a) of variance gain^2 / fan_in (LeCun, Bottou, Orr and Mueller 1998)."""
    bound = gain * math.sqrt(3.0 / (fans or torch_fans(tensor.shape)).fan_in)
    return uniform_(tensor, -bound, bound, generator=generator)


def fan_in_uniform_(tensor: Tensor, *, fans: Fans | None = None, generator: Generator | None = None) -> Tensor:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): torch's default for Linear and Conv, variance 1 / (3 fan_in) (LeCun 1998)."""
    bound = 1.0 / math.sqrt((fans or torch_fans(tensor.shape)).fan_in)
    return uniform_(tensor, -bound, bound, generator=generator)


def rule_of_thumb_(tensor: Tensor, *, fans: Fans | None = None, generator: Generator | None = None) -> Tensor:
    """U(-1/fan_in, 1/fan_in), variance 1 / (3 fan_in^2): the article's; it kills a deep signal, `fan_in_uniform_` is meant."""
    bound = 1.0 / (fans or torch_fans(tensor.shape)).fan_in
    return uniform_(tensor, -bound, bound, generator=generator)


def variance_scaling_(
    tensor: Tensor,
    scale: float = 1.0,
    mode: Mode = "fan_in",
    distribution: Distribution = "truncated_normal",
    *,
    gain: float = 1.0,
    fans: Fans | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Variance gain^2 scale / fan, as in TensorFlow, Keras and JAX.

    truncated_normal is cut at two sigmas, and sigma is divided by 0.8796 so that the variance holds.

    Example:
        >>> weight = variance_scaling_(torch.empty(400, 600), 2.0, generator=torch.Generator().manual_seed(0))
        >>> round(weight.std().item() * math.sqrt(600 / 2), 2)
        1.0
    """
    std = gain * math.sqrt(scale / fan_of(fans or torch_fans(tensor.shape), mode))
    if distribution == "uniform":
        return uniform_(tensor, -math.sqrt(3.0) * std, math.sqrt(3.0) * std, generator=generator)
    if distribution == "normal":
        return normal_(tensor, 0.0, std, generator=generator)
    sigma = std / TRUNCATED_STD
    return trunc_normal_(tensor, 0.0, sigma, -2 * sigma, 2 * sigma, generator=generator)


def truncated_moments(mean: float, std: float, a: float, b: float) -> tuple[float, float]:
    """Mean and std of N(mean, std^2) truncated to [a, b].

    Example:
        >>> round(truncated_moments(0.0, 1.0, -2.0, 2.0)[1], 12) == round(TRUNCATED_STD, 12)
        True
    """
    low, high = (a - mean) / std, (b - mean) / std
    mass = (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
    at_low, at_high = (math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in (low, high))
    shift = (at_low - at_high) / mass
    variance = 1 + (low * at_low - high * at_high) / mass - shift * shift
    return mean + std * shift, std * math.sqrt(max(variance, 0.0))
