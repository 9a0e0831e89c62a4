"""Weights at the edge of chaos, elementwise and in place: the variance follows from the activation between the layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from modelfactory.init.fans import Fans
from modelfactory.init.schemes.variance import _no_grad, lecun_normal_, lecun_std
from modelfactory.numerics.activation import Activation, critical


def critical_(
    tensor: Tensor,
    activation: Activation = "tanh",
    q: float = 1.0,
    sigma_b: float | None = None,
    *,
    fans: Fans | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Normal weights at the edge of chaos of an activation.

    Formula: N(0, sigma_w^2/n_in), sigma_w^2 = 1/E f'(sqrt(q) z)^2. The biases that belong to it
    are those of `critical_bias`.

    Source: Poole et al. 2016; Schoenholz et al. 2017; Hayou et al. 2019.

    Use: very deep nets without norms, of a smooth activation.

    Args:
        tensor: [out, in, *kernel].
        activation: the activation between the layers, as for `modelfactory.numerics.activation.moments`.
        q: the variance of the pre-activations that is to stay as it is.
        sigma_b: given in place of q: the standard deviation of the biases.
        fans: used in place of the shape's.
        generator: where the draws come from.

    Raises:
        SchemeError: the activation has no critical point there.

    Example:
        >>> critical_(torch.empty(5, 3), "tanh", q=0.5).shape
        torch.Size([5, 3])
    """
    return lecun_normal_(tensor, _sigma_w(activation, q, sigma_b), fans=fans, generator=generator)


def critical_std(
    shape: Sequence[int], fans: Fans | None, activation: Activation = "tanh", q: float = 1.0, sigma_b: float | None = None
) -> float:
    return lecun_std(shape, fans, _sigma_w(activation, q, sigma_b))


def _sigma_w(activation: Activation, q: float, sigma_b: float | None) -> float:
    return math.sqrt(critical(activation, q, sigma_b)[0])


def critical_bias_(
    tensor: Tensor,
    activation: Activation = "tanh",
    q: float = 1.0,
    sigma_b: float | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The biases that belong to `critical` weights.

    Formula: N(0, sigma_b^2), sigma_b^2 = q - sigma_w^2 E f(sqrt(q) z)^2, so that pre-activations keep the variance q.

    Source: Poole et al. 2016; Schoenholz et al. 2017.

    Use: with `critical`, of the same activation and the same q (or sigma_b); `init=critical` has both.

    Raises:
        SchemeError: the activation has no critical point there.

    Example:
        >>> critical_bias_(torch.empty(3), "relu")
        tensor([0., 0., 0.])
    """
    std = critical_bias_moments(tensor.shape, None, activation, q, sigma_b)[1]
    with _no_grad(tensor):
        return tensor.normal_(0.0, std, generator=generator) if std > 0 else tensor.zero_()


def critical_bias_moments(
    shape: Sequence[int], fans: Fans | None, activation: Activation = "tanh", q: float = 1.0, sigma_b: float | None = None
) -> tuple[float, float]:
    return 0.0, math.sqrt(max(critical(activation, q, sigma_b)[1], 0.0))
