"""Schemes whose variance is set by fans and a gain, elementwise and in place.

With `fans=None` the fans are torch's, from the shape [out, in, *kernel], and torch's own schemes equal torch.nn.init
bit for bit under the same generator. `fans=` takes the operator's (`modelfactory.init.fans.operator_fans`). The `*_std`
functions are the exact standard deviation of an entry; every mean is 0. n_in and n_out are the fans, g the gain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from modelfactory.config.errors import SchemeError, did_you_mean
from modelfactory.init.fans import Fans, torch_fans
from modelfactory.numerics import activation as activations

FanMode = Literal["fan_in", "fan_out"]
ScalingMode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
Distribution = Literal["normal", "truncated_normal", "uniform"]

TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal cut at +-2."""

LINEAR = frozenset({"linear", *(f"conv{transpose}{n}d" for transpose in ("", "_transpose") for n in (1, 2, 3))})
_TORCH_GAINS = LINEAR | {"sigmoid", "tanh", "relu", "leaky_relu", "selu"}
_MEANS = {
    "fan_in": lambda fans: fans.fan_in,
    "fan_out": lambda fans: fans.fan_out,
    "fan_avg": lambda fans: (fans.fan_in + fans.fan_out) / 2,
    "fan_geo_avg": lambda fans: math.sqrt(fans.fan_in * fans.fan_out),
}


def xavier_uniform_(
    tensor: Tensor, gain: float = 1.0, *, fans: Fans | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Glorot's rule, uniform.

    Formula: U(-a, a), a = g sqrt(6/(n_in + n_out)); Var = 2 g^2/(n_in + n_out).

    Source: Glorot & Bengio 2010; torch.nn.init.xavier_uniform_.

    Use: tanh, sigmoid or linear layers, when the signal and the gradient matter alike.

    Example:
        >>> bool((xavier_uniform_(torch.empty(3, 3)).abs() <= 1).all())
        True
    """
    return _fill_uniform(tensor, xavier_std(tensor.shape, fans, gain), generator)


def xavier_normal_(
    tensor: Tensor, gain: float = 1.0, *, fans: Fans | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Glorot's rule, normal.

    Formula: N(0, 2 g^2/(n_in + n_out)).

    Source: Glorot & Bengio 2010; torch.nn.init.xavier_normal_.

    Use: tanh, sigmoid or linear layers, when the signal and the gradient matter alike. Where a text says "Xavier" and
    means 1/n_in, use `lecun_normal`.

    Example:
        >>> xavier_normal_(torch.empty(5, 3)).shape
        torch.Size([5, 3])
    """
    return _fill_normal(tensor, xavier_std(tensor.shape, fans, gain), generator)


def xavier_std(shape: Sequence[int], fans: Fans | None, gain: float = 1.0) -> float:
    fans = _effective(shape, fans)
    return _checked_gain(gain) * math.sqrt(2.0 / (fans.fan_in + fans.fan_out))


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: FanMode = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    gain: float | None = None,
    fans: Fans | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """He's rule, uniform.

    Formula: U(-b, b), b = g sqrt(3/n), n = n_in or n_out; g^2 = 2/(1 + a^2) for leaky_relu of slope a.

    Source: He et al. 2015; torch.nn.init.kaiming_uniform_.

    Use: layers after a rectifier.

    Args:
        tensor: [out, in, *kernel].
        a: negative slope of the rectifier, for `leaky_relu`.
        mode: `fan_in` keeps the signal's scale, `fan_out` the gradient's.
        nonlinearity: torch's gain for the names torch knows; for other activations the gain by quadrature.
        gain: used in place of the nonlinearity's.
        fans: used in place of the shape's.
        generator: where the draws come from.

    Example:
        >>> bool((kaiming_uniform_(torch.empty(4, 6)).abs() <= 1).all())
        True
    """
    return _fill_uniform(tensor, kaiming_std(tensor.shape, fans, a, mode, nonlinearity, gain), generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: FanMode = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    gain: float | None = None,
    fans: Fans | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """He's rule, normal.

    Formula: N(0, g^2/n), n = n_in or n_out; g^2 = 2/(1 + a^2) for leaky_relu of slope a. Arguments as `kaiming_uniform_`.

    Source: He et al. 2015; torch.nn.init.kaiming_normal_.

    Use: layers after a rectifier.

    Example:
        >>> kaiming_normal_(torch.empty(16, 3, 3, 3), mode="fan_out", nonlinearity="relu").shape
        torch.Size([16, 3, 3, 3])
    """
    return _fill_normal(tensor, kaiming_std(tensor.shape, fans, a, mode, nonlinearity, gain), generator)


def kaiming_std(
    shape: Sequence[int],
    fans: Fans | None,
    a: float = 0,
    mode: FanMode = "fan_in",
    nonlinearity: str = "leaky_relu",
    gain: float | None = None,
) -> float:
    fan = _fan(shape, fans, mode, ("fan_in", "fan_out"))
    return (nonlinearity_gain(nonlinearity, a) if gain is None else _checked_gain(gain)) / math.sqrt(fan)


def lecun_normal_(
    tensor: Tensor, gain: float = 1.0, *, fans: Fans | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """LeCun's rule, normal: unit variance through a linear layer.

    Formula: N(0, g^2/n_in). Not truncated; for the truncated one that Keras and JAX call by this name use
    `variance_scaling` with scale 1 and distribution truncated_normal.

    Source: LeCun, Bottou, Orr & Mueller 1998.

    Use: selu; and any other activation with its gain.

    Example:
        >>> lecun_normal_(torch.empty(5, 3)).shape
        torch.Size([5, 3])
    """
    return _fill_normal(tensor, lecun_std(tensor.shape, fans, gain), generator)


def lecun_uniform_(
    tensor: Tensor, gain: float = 1.0, *, fans: Fans | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """LeCun's rule, uniform: unit variance through a linear layer.

    Formula: U(-a, a), a = g sqrt(3/n_in); Var = g^2/n_in.

    Source: LeCun, Bottou, Orr & Mueller 1998.

    Use: selu; and any other activation with its gain.

    Example:
        >>> bool((lecun_uniform_(torch.empty(5, 3)).abs() <= 1).all())
        True
    """
    return _fill_uniform(tensor, lecun_std(tensor.shape, fans, gain), generator)


def lecun_std(shape: Sequence[int], fans: Fans | None, gain: float = 1.0) -> float:
    return _checked_gain(gain) / math.sqrt(_fan(shape, fans, "fan_in"))


def variance_scaling_(
    tensor: Tensor,
    scale: float = 1.0,
    mode: ScalingMode = "fan_in",
    distribution: Distribution = "truncated_normal",
    *,
    gain: float = 1.0,
    fans: Fans | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The variance `scale/fan` in any of three distributions, over any of four means of the fans.

    Formula: Var = g^2 scale/n; n = n_in, n_out, (n_in + n_out)/2 or sqrt(n_in n_out). The truncated normal is cut at two
    of its sigma, and sigma is divided by 0.87962566103423978 so that the variance is the one asked for.

    Source: tf.keras and jax.nn.initializers.variance_scaling.

    Use: to carry over what TensorFlow, Keras or JAX code says; every rule of this family is a case of it.

    Example:
        >>> variance_scaling_(torch.empty(5, 3), scale=2.0, mode="fan_avg", distribution="uniform").shape
        torch.Size([5, 3])
    """
    std = variance_scaling_std(tensor.shape, fans, scale, mode, distribution, gain)
    if distribution == "uniform":
        return _fill_uniform(tensor, std, generator)
    if distribution == "normal" or std == 0:
        return _fill_normal(tensor, std, generator)
    sigma = std / TRUNCATED_STD
    return nn.init.trunc_normal_(tensor, 0.0, sigma, -2 * sigma, 2 * sigma, generator=generator)


def variance_scaling_std(
    shape: Sequence[int],
    fans: Fans | None,
    scale: float = 1.0,
    mode: ScalingMode = "fan_in",
    distribution: Distribution = "truncated_normal",
    gain: float = 1.0,
) -> float:
    choices = ("normal", "truncated_normal", "uniform")
    if distribution not in choices:
        raise SchemeError(f"distribution {distribution!r} is not a choice{did_you_mean(str(distribution), choices)}")
    if not scale >= 0:
        raise SchemeError(f"scale = {scale!r} is not a variance; give a number >= 0")
    return _checked_gain(gain) * math.sqrt(scale / _fan(shape, fans, mode))


def fan_in_uniform_(tensor: Tensor, *, fans: Fans | None = None, generator: torch.Generator | None = None) -> Tensor:
    """Uniform within one over the root of fan_in: what torch.nn.Linear and Conv do by default.

    Formula: U[-1/sqrt(n_in), 1/sqrt(n_in)], Var = 1/(3 n_in).

    Source: LeCun, Bottou, Orr & Mueller 1998; torch writes it kaiming_uniform with a = sqrt(5).

    Use: to reproduce torch's default. In a deep net the signal shrinks by sqrt(3), with a rectifier sqrt(6), at each layer.

    Example:
        >>> bool((fan_in_uniform_(torch.empty(3, 4)).abs() <= 0.5).all())
        True
    """
    return _fill_uniform(tensor, fan_in_uniform_std(tensor.shape, fans), generator)


def fan_in_uniform_std(shape: Sequence[int], fans: Fans | None) -> float:
    return kaiming_std(shape, fans, a=math.sqrt(5))  # the same to the last bit as torch's default


def rule_of_thumb_(tensor: Tensor, *, fans: Fans | None = None, generator: torch.Generator | None = None) -> Tensor:
    """Uniform within one over fan_in; it kills a deep signal.

    Formula: U[-1/n_in, 1/n_in], Var = 1/(3 n_in^2).

    Source: passed on in tutorials; the usual rule has the root of n_in, see `fan_in_uniform`.

    Use: to see what goes wrong: at width 256 with a rectifier the signal is 1e-8 of itself after five layers. Plans that use it say so.

    Example:
        >>> bool((rule_of_thumb_(torch.empty(3, 4)).abs() <= 0.25).all())
        True
    """
    return _fill_uniform(tensor, rule_of_thumb_std(tensor.shape, fans), generator)


def rule_of_thumb_std(shape: Sequence[int], fans: Fans | None) -> float:
    return 1 / (math.sqrt(3) * _fan(shape, fans, "fan_in"))


@lru_cache
def nonlinearity_gain(nonlinearity: str, a: float) -> float:
    """torch's gain for the names that torch knows, and for other activations the one by quadrature.

    Raises:
        SchemeError: there is no such activation.

    Example:
        >>> round(nonlinearity_gain("relu", 0.0), 4), round(nonlinearity_gain("gelu", 0.0), 4)
        (1.4142, 1.5335)
    """
    if nonlinearity in _TORCH_GAINS:
        return nn.init.calculate_gain(nonlinearity, a)  # pyright: ignore[reportArgumentType]
    return activations.gain(nonlinearity)


def _fan(shape: Sequence[int], fans: Fans | None, mode: str, choices: tuple[str, ...] = tuple(_MEANS)) -> float:
    if mode not in choices:
        raise SchemeError(f"mode {mode!r} is not a choice{did_you_mean(str(mode), choices)}")
    return _MEANS[mode](_effective(shape, fans))


def _effective(shape: Sequence[int], fans: Fans | None) -> Fans:
    if fans is None:
        fans = torch_fans(shape)
    if 0 in shape:  # there is nothing to draw, so any fans do
        return Fans(1.0, 1.0)
    if not (fans.fan_in > 0 and fans.fan_out > 0):
        raise SchemeError(f"fan_in = {fans.fan_in:g} and fan_out = {fans.fan_out:g} must both be > 0")
    return fans


def _checked_gain(gain: float) -> float:
    if not (math.isfinite(gain) and gain >= 0):
        raise SchemeError(f"gain = {gain!r} is not a gain; give a number >= 0")
    return gain


_NOTHING = nullcontext()


def _no_grad(tensor: Tensor) -> AbstractContextManager[object]:
    """torch.no_grad, which costs as much as a small fill, only for a tensor that needs it."""
    return torch.no_grad() if tensor.requires_grad else _NOTHING


def _fill_normal(tensor: Tensor, std: float, generator: torch.Generator | None) -> Tensor:
    with _no_grad(tensor):
        return tensor.normal_(0.0, std, generator=generator)


def _fill_uniform(tensor: Tensor, std: float, generator: torch.Generator | None) -> Tensor:
    bound = math.sqrt(3.0) * std
    with _no_grad(tensor):
        return tensor.uniform_(-bound, bound, generator=generator)
