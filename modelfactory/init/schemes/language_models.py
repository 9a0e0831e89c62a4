"""Schemes of the language models of today; those of GPT-2 and of architectures without norms are among the depth-scaled ones.

Every mean is 0; the `*_std` functions are the exact standard deviation of an entry, truncation included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modelfactory.config.errors import SchemeError
from modelfactory.init.fans import Fans
from modelfactory.init.schemes.structured import _check_dims
from modelfactory.init.schemes.variance import _effective, _fill_normal, lecun_std


def depth_trunc_normal_(
    tensor: Tensor, layer: int, std: float = 0.02, cut: float = 3.0, *, generator: torch.Generator | None = None
) -> Tensor:
    """The projections that write to the residual stream, smaller the later their layer; nothing far out.

    Formula: s = std/sqrt(2 (l + 1)) in layer l = 0, 1, ...; N(0, s^2) without what is beyond `cut` s.

    Source: OLMo-core's `llama_depth`; torchtitan's Llama 3 (`depth_init`) has the same s, with bounds of +-2 that cut nothing.

    Use: residual_out of pre-norm language models, and `up` of their gated layers, with std .02 for all other weights; `init=llama` does it.

    Args:
        tensor: [out, in, ...].
        layer: l, the layer of the transformer, counted from 0.
        std: before the division.
        cut: where the normal is cut, in units of s: not a value of a weight.
        generator: where the draws come from.

    Example:
        >>> drawn = depth_trunc_normal_(torch.empty(64, 256), layer=1)
        >>> bool((drawn.abs() <= 0.03).all()), 0.009 < drawn.std().item() < 0.0105
        (True, True)
    """
    _check_cut("depth_trunc_normal", cut)
    return _fill_cut(tensor, _sigma_in_layer(tensor.shape, layer, std), cut, generator)


def depth_trunc_normal_std(shape: Sequence[int], fans: Fans | None, layer: int, std: float = 0.02, cut: float = 3.0) -> float:
    _check_cut("depth_trunc_normal", cut)
    return _sigma_in_layer(shape, layer, std) * cut_std(cut)


def _sigma_in_layer(shape: Sequence[int], layer: int, std: float) -> float:
    _check_dims("depth_trunc_normal", shape, 2)
    if not std >= 0:
        raise SchemeError(f"depth_trunc_normal needs std >= 0, not {std!r}")
    if not layer >= 0:
        raise SchemeError(f"depth_trunc_normal needs a layer counted from 0, not {layer!r}")
    return std / math.sqrt(2 * (layer + 1))


def fan_in_trunc_normal_(
    tensor: Tensor, gain: float = 1.0, cut: float = 3.0, *, fans: Fans | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """LeCun's rule without what is far out.

    Formula: s = g/sqrt(n_in); N(0, s^2) without what is beyond `cut` s.

    Source: the output layer of torchtitan's Llama 3 and of OLMo-core's `llama` (cut 3).

    Use: heads of language models that are not tied to the embedding.

    Args:
        tensor: [out, in, ...].
        gain: g.
        cut: where the normal is cut, in units of s.
        fans: used in place of the shape's.
        generator: where the draws come from.

    Example:
        >>> bool((fan_in_trunc_normal_(torch.empty(64, 100)).abs() <= 0.3).all())
        True
    """
    _check_cut("fan_in_trunc_normal", cut)
    return _fill_cut(tensor, lecun_std(tensor.shape, fans, gain), cut, generator)


def fan_in_trunc_normal_std(shape: Sequence[int], fans: Fans | None, gain: float = 1.0, cut: float = 3.0) -> float:
    _check_cut("fan_in_trunc_normal", cut)
    return lecun_std(shape, fans, gain) * cut_std(cut)


def spectral_(tensor: Tensor, gain: float = 1.0, *, fans: Fans | None = None, generator: torch.Generator | None = None) -> Tensor:
    """Normal with a spectral norm of the order of sqrt(n_out/n_in), so that features keep their size whatever the widths.

    Formula: N(0, s^2), s = g/sqrt(n_in) min(1, sqrt(n_out/n_in)).

    Source: Yang, Simon & Bernstein 2023 (arXiv 2310.17813, their equation for Gaussian weights); nanochat.

    Use: matrices whose learning rates go by width too (Muon, muP); `init=nanochat`, with what ends a branch and the head at 0.

    Args:
        tensor: [out, in, ...].
        gain: g.
        fans: used in place of the shape's.
        generator: where the draws come from.

    Example:
        >>> 0.015 < spectral_(torch.empty(16, 256)).std().item() < 0.017  # 1/16 sqrt(16/256)
        True
    """
    return _fill_normal(tensor, spectral_std(tensor.shape, fans, gain), generator)


def spectral_std(shape: Sequence[int], fans: Fans | None, gain: float = 1.0) -> float:
    given = _effective(shape, fans)
    return lecun_std(shape, fans, gain) * min(1.0, math.sqrt(given.fan_out / given.fan_in))


def cut_std(cut: float) -> float:
    """The standard deviation of N(0, 1) without what is beyond +-cut: sqrt(1 - 2 c f(c)/(2 F(c) - 1)), f its density, F its integral.

    Example:
        >>> round(cut_std(2.0), 6), round(cut_std(3.0), 6)
        (0.879626, 0.986578)
    """
    density = math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(1 - 2 * cut * density / math.erf(cut / math.sqrt(2)))


def _check_cut(scheme: str, cut: float) -> None:
    if not cut > 0:
        raise SchemeError(f"{scheme} needs cut > 0, in units of its sigma, not {cut!r}")


def _fill_cut(tensor: Tensor, sigma: float, cut: float, generator: torch.Generator | None) -> Tensor:
    if sigma == 0:
        return nn.init.zeros_(tensor)
    return nn.init.trunc_normal_(tensor, 0.0, sigma, -cut * sigma, cut * sigma, generator=generator)
