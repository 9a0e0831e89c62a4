"""Schemes whose scale follows from how deep a residual net is: as many branches as are added up, as many layers as each has.

`branches`, `branch_layers`, `depth`, `width` and `undivided` are plain numbers here; a rule of a config may leave them out, and has them
from the model's own structure. Means are 0 where nothing else is said; the `*_std` functions are the exact standard deviation of an entry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modelfactory.config.errors import SchemeError
from modelfactory.init.fans import Fans
from modelfactory.init.schemes.structured import _check_dims
from modelfactory.init.schemes.variance import _fill_normal, _fill_uniform, kaiming_std, lecun_std, xavier_std

_SQRT2 = math.sqrt(2.0)


def gpt2_(tensor: Tensor, branches: int, std: float = 0.02, *, generator: torch.Generator | None = None) -> Tensor:
    """The projections that write to the residual stream, smaller the more of them there are.

    Formula: N(0, std^2/B), B residual branches in the model: with 2 a transformer layer, std/sqrt(2 L).

    Source: Radford et al. 2019 (section 2.3: "a factor of 1/sqrt(N) where N is the number of residual layers").

    Use: residual_out of pre-norm transformers, with N(0, 0.02^2) for all other weights and embeddings; `init=gpt2` does both.

    Args:
        tensor: [out, in, ...].
        branches: B.
        std: before the division.
        generator: where the draws come from.

    Example:
        >>> gpt2_(torch.empty(64, 256), branches=24).std().item() < 0.005
        True
    """
    return _fill_normal(tensor, gpt2_std(tensor.shape, None, branches, std), generator)


def gpt2_std(shape: Sequence[int], fans: Fans | None, branches: int, std: float = 0.02) -> float:
    _check_dims("gpt2", shape, 2)
    if not std >= 0:
        raise SchemeError(f"gpt2 needs std >= 0, not {std!r}")
    return std / math.sqrt(_counted("gpt2", "branches", branches))


def fixup_(
    tensor: Tensor,
    branches: int,
    branch_layers: int,
    gain: float = _SQRT2,
    *,
    fans: Fans | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """He's rule, smaller by the number of residual branches, for the layers of a branch but its last.

    Formula: N(0, g^2/n_in) L^(-1/(2m - 2)), L branches in the model of m layers each, g = sqrt(2). The last layer of each branch,
    and the classifier, are 0.

    Source: Zhang, Dauphin & Ma 2019.

    Use: deep residual nets without norm layers; `init=fixup` sets the last layers and the head to 0 too. The paper adds
    learned scalar biases and multipliers, which are layers and no initialisation.

    Args:
        tensor: [out, in, *kernel].
        branches: L.
        branch_layers: m, of the branch that this layer is in; at least 2.
        gain: g.
        fans: used in place of the shape's.
        generator: where the draws come from.

    Raises:
        SchemeError: a branch of one layer, which is its last and so 0.

    Example:
        >>> fixup_(torch.empty(64, 64), branches=16, branch_layers=2).std().item() < 0.06
        True
    """
    return _fill_normal(tensor, fixup_std(tensor.shape, fans, branches, branch_layers, gain), generator)


def fixup_std(shape: Sequence[int], fans: Fans | None, branches: int, branch_layers: int, gain: float = _SQRT2) -> float:
    count = _counted("fixup", "branches", branches)
    if not branch_layers >= 2:
        raise SchemeError(
            f"fixup has no scale for a branch of {branch_layers} layers: its one layer is the last, which is 0; give it scheme: zeros"
        )
    return kaiming_std(shape, fans, gain=gain) * count ** (-1 / (2 * branch_layers - 2))


def t_fixup_(
    tensor: Tensor,
    depth: float,
    decoder: bool = False,
    *,
    fans: Fans | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Xavier's rule for the values, outputs and MLPs of a transformer that is to train without warm-up and layer norm.

    Formula: U(-a, a), a = s sqrt(6/(n_in + n_out)); s = 0.67 N^(-1/4) in an encoder of N layers, (9 N)^(-1/4) in a decoder of N.

    Source: Huang, Perez, Ba & Volkovs 2020.

    Use: value and output projections and MLP weights; queries and keys keep s = 1, and embeddings have `t_fixup_embedding`.
    `init=t_fixup` does all of it. Taking out the layer norms is up to the model.

    Args:
        tensor: [out, in].
        depth: N, layers of the encoder or decoder that this one is in.
        decoder: whether that is a decoder, which attends to an encoder.
        fans: used in place of the shape's.
        generator: where the draws come from.

    Example:
        >>> bool((t_fixup_(torch.empty(3, 3), depth=16).abs() <= 0.335).all())
        True
    """
    return _fill_uniform(tensor, t_fixup_std(tensor.shape, fans, depth, decoder), generator)


def t_fixup_std(shape: Sequence[int], fans: Fans | None, depth: float, decoder: bool = False) -> float:
    layers = _counted("t_fixup", "depth", depth)
    return xavier_std(shape, fans, (9 * layers) ** -0.25 if decoder else 0.67 * layers**-0.25)


def t_fixup_embedding_(tensor: Tensor, depth: float, *, generator: torch.Generator | None = None) -> Tensor:
    """The embeddings that belong to `t_fixup`.

    Formula: N(0, 1/d) (9 N)^(-1/4), d the width of the embedding, N the layers of the decoder (of the encoder where there is no
    decoder).

    Source: Huang, Perez, Ba & Volkovs 2020.

    Use: with `t_fixup` alone.

    Example:
        >>> t_fixup_embedding_(torch.empty(1000, 16), depth=6).std().item() < 0.1
        True
    """
    return _fill_normal(tensor, t_fixup_embedding_std(tensor.shape, None, depth), generator)


def t_fixup_embedding_std(shape: Sequence[int], fans: Fans | None, depth: float) -> float:
    _check_dims("t_fixup_embedding", shape, 2)
    return (9 * _counted("t_fixup_embedding", "depth", depth)) ** -0.25 / math.sqrt(max(shape[-1], 1))


def deepnorm_(
    tensor: Tensor,
    depth: float,
    other_depth: float = 0,
    decoder: bool = False,
    *,
    fans: Fans | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Xavier's rule with the gain beta of a very deep post-norm transformer.

    Formula: N(0, 2 b^2/(n_in + n_out)). b = (8 N)^(-1/4) where there is an encoder or a decoder of N layers alone; with N layers of
    encoder and M of decoder b = 0.87 (N^4 M)^(-1/16) in the encoder and (12 M)^(-1/4) in the decoder.

    Source: Wang et al. 2022 (DeepNet), table of figure 2.

    Use: value and output projections and MLP weights of LN(a x + f(x)); queries and keys keep gain 1. The factor a is the model's:
    (2 N)^(1/4); with `modelfactory.Residual(scale=1/a)` before the norm the sum is the same, since the norm divides by its scale.

    Args:
        tensor: [out, in].
        depth: layers of the encoder or decoder that this one is in.
        other_depth: layers of the other, 0 without one.
        decoder: whether this one is in the decoder.
        fans: used in place of the shape's.
        generator: where the draws come from.

    Example:
        >>> deepnorm_(torch.empty(64, 64), depth=32).std().item() < 0.04
        True
    """
    return _fill_normal(tensor, deepnorm_std(tensor.shape, fans, depth, other_depth, decoder), generator)


def deepnorm_std(
    shape: Sequence[int], fans: Fans | None, depth: float, other_depth: float = 0, decoder: bool = False
) -> float:
    layers = _counted("deepnorm", "depth", depth)
    if not other_depth:
        beta = (8 * layers) ** -0.25
    elif decoder:
        beta = (12 * layers) ** -0.25
    else:
        beta = 0.87 * (layers**4 * other_depth) ** (-1 / 16)
    return xavier_std(shape, fans, beta)


def small_init_(tensor: Tensor, width: int, *, generator: torch.Generator | None = None) -> Tensor:
    """One small normal for all of a transformer's weights: what Xavier gives its MLP, which is 4 times as wide.

    Formula: N(0, 2/(d + 4 d)) = N(0, 2/(5 d)), d the width of the residual stream.

    Source: Nguyen & Salazar 2019; GPT-NeoX.

    Use: pre-norm transformers.

    Args:
        tensor: [out, in, ...].
        width: d.
        generator: where the draws come from.

    Example:
        >>> small_init_(torch.empty(64, 64), width=1000).std().item() < 0.022
        True
    """
    return _fill_normal(tensor, small_init_std(tensor.shape, None, width), generator)


def small_init_std(shape: Sequence[int], fans: Fans | None, width: int) -> float:
    _check_dims("small_init", shape, 2)
    return math.sqrt(2 / (5 * _counted("small_init", "width", width)))


def completep_(
    tensor: Tensor,
    base_branches: float,
    undivided: float,
    gain: float = 1.0,
    *,
    fans: Fans | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """What ends a residual branch, as much smaller as there are more branches than at the base: their sum learns alike at any depth.

    Formula: N(0, g^2 c^2/n_in), c = base_branches/B, B residual branches in the model; g c in the scale of a norm that ends a branch.

    Source: Dey et al. 2025, table 1 with alpha = 1: the multiplier 1/m_L of a branch, taken into the weights before it.

    Use: residual_end, with `lecun_normal` for other weights, `mup` for the head, and learning rates, weight decay and eps by
    `optimizer=adamw_completep`; `init=completep` has the rules. In a `modelfactory.Residual` with `base_branches`, which has the
    multiplier itself, c is 1.

    Args:
        tensor: [out, in, ...], or a norm's scale [features].
        base_branches: at how many branches c is 1: those of the model whose learning rate is used.
        undivided: B, or base_branches where the branch's container divides.
        gain: g.
        fans: used in place of the shape's.
        generator: where the draws come from.

    Example:
        >>> completep_(torch.empty(64, 256), base_branches=4, undivided=16).std().item() < 0.017
        True
    """
    mean, std = completep_moments(tensor.shape, fans, base_branches, undivided, gain)
    return _fill_normal(tensor, std, generator) if tensor.ndim > 1 else nn.init.constant_(tensor, mean)


def completep_moments(
    shape: Sequence[int], fans: Fans | None, base_branches: float, undivided: float, gain: float = 1.0
) -> tuple[float, float]:
    _check_dims("completep", shape, 1)
    part = _counted("completep", "base_branches", base_branches) / _counted("completep", "undivided", undivided)
    return (gain * part, 0.0) if len(shape) == 1 else (0.0, lecun_std(shape, fans, gain * part))


def _counted(scheme: str, name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise SchemeError(f"{scheme} needs {name} > 0, not {value!r}")
    return value
