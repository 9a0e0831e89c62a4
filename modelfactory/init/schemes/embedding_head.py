"""Schemes for the first and the last of a model: what it says before it has learnt anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from modelfactory.config.errors import SchemeError
from modelfactory.init.fans import Fans
from modelfactory.init.schemes.structured import _check_dims
from modelfactory.init.schemes.variance import _effective, _fill_normal, _fill_uniform, _no_grad, lecun_std


def tied_embedding_(
    tensor: Tensor, std: float | None = None, *, generator: torch.Generator | None = None
) -> Tensor:
    """An embedding that is also the output layer: logits of unit size at first.

    Formula: N(0, 1/d), d the width of the embedding; or N(0, std^2). A normalised state has length sqrt(d), so that logits have
    std 1 and the first loss is about ln V + 1/2; N(0, 1), torch's own, gives logits of std sqrt(d).

    Source: Vaswani et al. 2017 (d^-1/2); Radford et al. 2019 (std = 0.02).

    Use: wherever an embedding's weight is the head's too; `init=tied_embedding` picks embeddings and tied weights.

    Args:
        tensor: [num_embeddings, d].
        std: given in place of d^-1/2.
        generator: where the draws come from.

    Example:
        >>> tied_embedding_(torch.empty(1000, 64)).std().item() < 0.13
        True
    """
    return _fill_normal(tensor, tied_embedding_std(tensor.shape, None, std), generator)


def tied_embedding_std(shape: Sequence[int], fans: Fans | None, std: float | None = None) -> float:
    _check_dims("tied_embedding", shape, 2)
    if std is not None and not std >= 0:
        raise SchemeError(f"tied_embedding needs std >= 0, not {std!r}")
    return 1 / math.sqrt(max(shape[-1], 1)) if std is None else std


def centred_normal_(
    tensor: Tensor, gain: float = 1.0, *, fans: Fans | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Normal weights, of which those of each output add up to 0: what all inputs of a layer have in common is not seen.

    Formula: w_oi = s (z_oi - mean_i z_oi) with z of N(0, 1) and s = g/sqrt(n_in (1 - 1/n)), n the weights of an output: variance g^2/n_in.

    Source: Huang et al. 2017 (centred weight normalisation), here at the start alone.

    Use: a head behind relu and its like, whose outputs have a mean: the mean makes logits that are a guess by chance, the same for
    every input, and larger than what tells inputs apart where a mean over places comes between. `init=auto` does it.

    Args:
        tensor: [out, in, ...], at least two weights for each output.
        gain: g.
        fans: the operator's; None: those of torch.
        generator: where the draws come from.

    Raises:
        SchemeError: fewer than two dimensions, or one weight for each output.

    Example:
        >>> centred_normal_(torch.empty(3, 64)).sum(1).abs().max().item() < 1e-5
        True
    """
    std = centred_normal_moments(tensor.shape, fans, gain)[1]
    with torch.no_grad():
        if tensor.numel():
            rows = tensor.normal_(0, 1, generator=generator).view(len(tensor), -1)
            rows.sub_(rows.mean(1, keepdim=True)).mul_(std / math.sqrt(1 - 1 / rows.shape[1]))
    return tensor


def centred_normal_moments(shape: Sequence[int], fans: Fans | None, gain: float = 1.0) -> tuple[float, float]:
    _check_dims("centred_normal", shape, 2)
    if math.prod(shape[1:]) == 1:
        raise SchemeError(f"centred_normal needs at least two weights for each output, this tensor has shape {tuple(shape)}")
    return 0.0, lecun_std(shape, fans, gain)


def prior_bias_(tensor: Tensor, p: float | None = None, priors: Sequence[float] | None = None) -> Tensor:
    """A last bias by which the model says how frequent each class is before it has seen anything.

    Formula: b = -log((1 - p)/p) for logits of which each is a sigmoid's; b_c = log p_c for a softmax's, p_c the classes' shares.

    Source: Lin, Goyal, Girshick, He & Dollar 2017 (p = 0.01); the log-priors are the softmax's same condition.

    Use: the head's bias where classes are far from equally frequent. With `zero_head` the first loss is the entropy of the shares.

    Args:
        tensor: [classes].
        p: what each sigmoid is to say at first.
        priors: the classes' shares; they are divided by their sum.

    Raises:
        SchemeError: neither or both are given, p is not inside of (0, 1), or there is no share above 0 for each class.

    Example:
        >>> torch.sigmoid(prior_bias_(torch.empty(2), p=0.01))
        tensor([0.0100, 0.0100])
        >>> torch.softmax(prior_bias_(torch.empty(2), priors=[3, 1]), 0)
        tensor([0.7500, 0.2500])
    """
    values = _prior_values(tensor.shape, p, priors)
    with _no_grad(tensor):
        return tensor.copy_(torch.tensor(values, dtype=torch.float64)) if len(values) > 1 else tensor.fill_(values[0])


def prior_bias_moments(
    shape: Sequence[int], fans: Fans | None, p: float | None = None, priors: Sequence[float] | None = None
) -> tuple[float, float]:
    values = _prior_values(shape, p, priors)
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def _prior_values(shape: Sequence[int], p: float | None, priors: Sequence[float] | None) -> list[float]:
    """One value for all, or one a class."""
    if (p is None) == (priors is None):
        raise SchemeError("prior_bias needs p (sigmoids) or priors (a softmax), and not both")
    if priors is None:
        if p is None or not 0 < p < 1:
            raise SchemeError(f"prior_bias needs 0 < p < 1, not {p!r}")
        return [-math.log((1 - p) / p)]
    if tuple(shape) != (len(priors),):
        raise SchemeError(f"prior_bias has {len(priors)} priors for a tensor of shape {tuple(shape)}")
    rare = [index for index, share in enumerate(priors) if not (math.isfinite(share) and share > 0)]
    if rare:
        raise SchemeError(f"class {rare[0]} has the prior {priors[rare[0]]!r}, whose logarithm is no number; give priors above 0")
    total = math.fsum(priors)
    return [math.log(share / total) for share in priors]


def mup_(
    tensor: Tensor,
    base_width: float,
    gain: float = 1.0,
    *,
    fans: Fans | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The output layer of the maximal update parametrisation: its logits shrink as the model gets wider.

    Formula: N(0, g^2/(n_in m)), m = n_in/base_width: variance base_width/n_in^2, that of `lecun_normal` at the base width.

    Source: Yang & Hu 2021; Yang et al. 2022, table 3.

    Use: the head, with `lecun_normal` for all other weights and Adam's learning rate divided by m for hidden and output weights
    (`optimizer=adam_mup`); `init=mup` has the rules. Zero is as good for the head, and independent of the width.

    Args:
        tensor: [out, in].
        base_width: the width at which the learning rate was found; the same whatever the width of this model.
        gain: g.
        fans: used in place of the shape's.
        generator: where the draws come from.

    Example:
        >>> mup_(torch.empty(100, 400), base_width=100).std().item() < 0.026
        True
    """
    return _fill_normal(tensor, mup_std(tensor.shape, fans, base_width, gain), generator)


def mup_std(shape: Sequence[int], fans: Fans | None, base_width: float, gain: float = 1.0) -> float:
    if not base_width > 0:
        raise SchemeError(f"mup needs base_width > 0, not {base_width!r}")
    return gain * math.sqrt(base_width) / _effective(shape, fans).fan_in


def siren_(
    tensor: Tensor, first: bool, w0: float = 30.0, *, fans: Fans | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Weights between sines of high frequency.

    Formula: U(-1/n_in, 1/n_in) in the first layer, U(-sqrt(6/n_in)/w0, sqrt(6/n_in)/w0) in the others; the activation is sin(w0 x).
    The fixed point of the variance q of w0 x is q = 1 - exp(-2 q): std 0.893.

    Source: Sitzmann et al. 2020; torch's default has the same form, 1/sqrt(n_in).

    Use: implicit representations of images, shapes and sounds by sines.

    Args:
        tensor: [out, in].
        first: whether it is the layer on the coordinates.
        w0: the frequency, in the first layer and between the others alike.
        fans: used in place of the shape's.
        generator: where the draws come from.

    Example:
        >>> bool((siren_(torch.empty(8, 6), first=False).abs() <= 1 / 30).all())
        True
    """
    return _fill_uniform(tensor, siren_std(tensor.shape, fans, first, w0), generator)


def siren_std(shape: Sequence[int], fans: Fans | None, first: bool, w0: float = 30.0) -> float:
    if not w0 > 0:
        raise SchemeError(f"siren needs w0 > 0, not {w0!r}")
    fan_in = _effective(shape, fans).fan_in
    return 1 / (math.sqrt(3) * fan_in) if first else math.sqrt(2 / fan_in) / w0
