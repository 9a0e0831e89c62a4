"""Schemes whose entries depend on each other: identities, orthogonal matrices, sparse columns, repeated kernels.

torch's own equal torch.nn.init bit for bit under the same generator. `*_moments` are the mean and standard deviation
of an entry, over entries and draws; they raise as the scheme itself would for a shape it cannot fill.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from modelfactory.config.errors import SchemeError, did_you_mean
from modelfactory.init.fans import Fans
from modelfactory.init.schemes import variance
from modelfactory.init.schemes.variance import _no_grad
from modelfactory.numerics.qr import orthonormal
from modelfactory.numerics.threads import one_lapack_thread

_LARGE = 512  # from here a matrix is factorised by blocks, which is quicker than LAPACK
SubKernel = Literal[
    "kaiming_normal", "kaiming_uniform", "lecun_normal", "lecun_uniform", "xavier_normal", "xavier_uniform", "orthogonal"
]


def eye_(tensor: Tensor) -> Tensor:
    """The identity, as far as the matrix goes.

    Formula: w_ij = 1 where i = j, else 0.

    Source: torch.nn.init.eye_.

    Use: square linear layers, recurrent weights of a rectified RNN (Le, Jaitly & Hinton 2015).

    Raises:
        SchemeError: not a matrix.

    Example:
        >>> eye_(torch.empty(2, 3))
        tensor([[1., 0., 0.],
                [0., 1., 0.]])
    """
    eye_moments(tensor.shape, None)
    return nn.init.eye_(tensor)


def eye_moments(shape: Sequence[int], fans: Fans | None) -> tuple[float, float]:
    _check_dims("eye", shape, 2, 2)
    return _share_of_ones(min(shape), math.prod(shape))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A convolution that passes on as many channels as it can, unchanged.

    Formula: w[c, c, centre] = 1, else 0; in each group alike.

    Source: torch.nn.init.dirac_; Zagoruyko & Komodakis 2017.

    Use: convolutions that are to start as the identity.

    Args:
        tensor: [out, in, *kernel], 3 to 5 dimensions.
        groups: those of the convolution (a rule may leave them out); they divide `out`.

    Raises:
        SchemeError: the shape is no convolution's, or groups do not divide it.

    Example:
        >>> dirac_(torch.empty(1, 1, 3))
        tensor([[[0., 1., 0.]]])
    """
    dirac_moments(tensor.shape, None, groups)
    return nn.init.dirac_(tensor, groups)


def dirac_moments(shape: Sequence[int], fans: Fans | None, groups: int = 1) -> tuple[float, float]:
    _check_dims("dirac", shape, 3, 5)
    _check_groups("dirac", shape, groups)
    return _share_of_ones(groups * min(shape[0] // groups, shape[1]), math.prod(shape))


def orthogonal_(tensor: Tensor, gain: float = 1, *, generator: torch.Generator | None = None) -> Tensor:
    """A random matrix with orthonormal rows, or columns if those are fewer.

    Formula: W = g Q, Q from the sign-corrected QR of a Gaussian, so uniform (Haar); W W^T = g^2 I or W^T W = g^2 I.
    More than two dimensions are flattened to [out, rest]. std = g/sqrt(max(rows, columns)).

    The last bits of torch's own depend on the number of threads; these do not. They are torch's under
    `torch.set_num_threads(1)` where rows or columns are fewer than 512, and up to rounding in larger matrices.

    Source: Saxe, McClelland & Ganguli 2014; torch.nn.init.orthogonal_.

    Use: deep linear and tanh nets, recurrent weights (one block per gate). For convolutions `delta_orthogonal`
    keeps the signal's norm; this one only keeps that of a flattened patch.

    Raises:
        SchemeError: fewer than two dimensions.

    Example:
        >>> w = orthogonal_(torch.empty(2, 3))
        >>> torch.allclose(w @ w.T, torch.eye(2), atol=1e-5)
        True
    """
    orthogonal_moments(tensor.shape, None, gain)
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    with _no_grad(tensor):
        if min(rows, columns) < _LARGE or tensor.dtype not in (torch.float32, torch.float64) or not tensor.is_cpu:
            with one_lapack_thread():
                return nn.init.orthogonal_(tensor, gain, generator=generator)
        gaussian = tensor.new_empty((rows, columns)).normal_(0, 1, generator=generator)
        q = orthonormal(gaussian) if rows >= columns else orthonormal(gaussian.T.contiguous()).T
        return tensor.copy_(q.view(tensor.shape) if q.is_contiguous() else q.reshape(tensor.shape)).mul_(gain)


def orthogonal_moments(shape: Sequence[int], fans: Fans | None, gain: float = 1) -> tuple[float, float]:
    _check_dims("orthogonal", shape, 2)
    return 0.0, abs(gain) / math.sqrt(max(shape[0], math.prod(shape[1:]), 1))


def delta_orthogonal_(tensor: Tensor, gain: float = 1.0, groups: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
    """A convolution that is zero but at its centre tap, where it is orthogonal: it keeps the norm of a signal.

    Formula: w[:, :, centre] = g Q with Q^T Q = I, else 0; in each group alike. std = g/sqrt(out/groups * taps).

    Source: Xiao et al. 2018.

    Use: very deep convolutional nets without norms or skips, with tanh.

    Args:
        tensor: [out, in/groups, *kernel], 3 to 5 dimensions; `out/groups` at least the second axis.
        gain: g.
        groups: those of the convolution (a rule may leave them out); they divide `out`.
        generator: where the draws come from.

    Raises:
        SchemeError: the shape is no convolution's, groups do not divide it, or it has fewer channels out than in.

    Example:
        >>> w = delta_orthogonal_(torch.empty(4, 2, 3))
        >>> torch.allclose(w[:, :, 1].T @ w[:, :, 1], torch.eye(2), atol=1e-5), w[:, :, 0].abs().sum().item()
        (True, 0.0)
    """
    delta_orthogonal_moments(tensor.shape, None, gain, groups)
    centre = (..., *(size // 2 for size in tensor.shape[2:]))
    with torch.no_grad():
        tensor.zero_()
        if tensor.numel() > 0:
            for group in tensor[centre].chunk(groups):
                group.copy_(orthogonal_(tensor.new_empty(group.shape), gain, generator=generator))
    return tensor


def delta_orthogonal_moments(shape: Sequence[int], fans: Fans | None, gain: float = 1.0, groups: int = 1) -> tuple[float, float]:
    _check_dims("delta_orthogonal", shape, 3, 5)
    _check_groups("delta_orthogonal", shape, groups)
    out = shape[0] // groups
    if out < shape[1]:
        each = "" if groups == 1 else " in each group"
        raise SchemeError(
            f"delta_orthogonal needs at least as many channels out as in, this tensor has {out} out and {shape[1]} in{each}"
        )
    return 0.0, abs(gain) / math.sqrt(max(out * math.prod(shape[2:]), 1))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, *, generator: torch.Generator | None = None) -> Tensor:
    """Normal columns, of each of which a fixed share is zero.

    Formula: N(0, std^2), and ceil(sparsity rows) entries of each column 0; the standard deviation of an entry is
    std sqrt(1 - s), s the share that is really zero.

    Source: Martens 2010; torch.nn.init.sparse_, which takes the zeros' places from the global generator even when
    one is given. Here both come from `generator`, so the values are torch's under `torch.manual_seed`.

    Use: units that see few inputs at a strength that does not depend on the width.

    Raises:
        SchemeError: not a matrix, or `sparsity` is not in [0, 1].

    Example:
        >>> (sparse_(torch.empty(4, 3), sparsity=0.5) == 0).sum(0)
        tensor([2, 2, 2])
    """
    sparse_moments(tensor.shape, None, sparsity, std)
    rows, columns = tensor.shape
    num_zeros = math.ceil(sparsity * rows)
    with torch.no_grad():
        tensor.normal_(0, std, generator=generator)
        for column in range(columns):
            tensor[torch.randperm(rows, generator=generator)[:num_zeros], column] = 0
    return tensor


def sparse_moments(shape: Sequence[int], fans: Fans | None, sparsity: float, std: float = 0.01) -> tuple[float, float]:
    _check_dims("sparse", shape, 2, 2)
    if not (0 <= sparsity <= 1 and std >= 0):
        raise SchemeError(f"sparse needs 0 <= sparsity <= 1 and std >= 0, not sparsity = {sparsity!r} and std = {std!r}")
    rows = max(shape[0], 1)
    return 0.0, std * math.sqrt(1 - math.ceil(sparsity * rows) / rows)


def icnr_(
    tensor: Tensor,
    upscale_factor: int = 2,
    scheme: SubKernel = "kaiming_normal",
    *,
    gain: float | None = None,
    fans: Fans | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A convolution before PixelShuffle that starts as nearest-neighbour upsampling: no checkerboard.

    Formula: a kernel of out/r^2 channels is drawn by `scheme`, and each of its channels repeated r^2 times in a row
    (repeat_interleave on the first axis: the order in which PixelShuffle reads them).

    Source: Aitken et al. 2017.

    Use: the convolution just before torch.nn.PixelShuffle(r).

    Args:
        tensor: [out, in, height, width], r^2 dividing `out`.
        upscale_factor: r, that of PixelShuffle.
        scheme: what the sub-kernel is drawn by.
        gain: the scheme's gain; None for its own.
        fans: used in place of the sub-kernel's.
        generator: where the draws come from.

    Raises:
        SchemeError: not a 2-d convolution's shape, r^2 does not divide it, or there is no such scheme.

    Example:
        >>> w = icnr_(torch.empty(8, 3, 3, 3))
        >>> torch.equal(w[0], w[3]), torch.equal(w[3], w[4])
        (True, False)
    """
    sub_shape = _sub_shape(tensor.shape, upscale_factor, scheme)
    with torch.no_grad():
        sub = tensor.new_empty(sub_shape)
        arguments = {} if gain is None else {"gain": gain}
        if scheme == "orthogonal":
            orthogonal_(sub, **arguments, generator=generator)
        else:
            _SUB_KERNELS[scheme][0](sub, **arguments, fans=fans, generator=generator)
        return tensor.copy_(sub.repeat_interleave(upscale_factor**2, dim=0))


def icnr_moments(
    shape: Sequence[int],
    fans: Fans | None,
    upscale_factor: int = 2,
    scheme: SubKernel = "kaiming_normal",
    gain: float | None = None,
) -> tuple[float, float]:
    sub_shape = _sub_shape(shape, upscale_factor, scheme)
    arguments = {} if gain is None else {"gain": gain}
    if scheme == "orthogonal":
        return orthogonal_moments(sub_shape, None, **arguments)
    return 0.0, _SUB_KERNELS[scheme][1](sub_shape, fans, **arguments)


_SUB_KERNELS = {
    "kaiming_normal": (variance.kaiming_normal_, variance.kaiming_std),
    "kaiming_uniform": (variance.kaiming_uniform_, variance.kaiming_std),
    "lecun_normal": (variance.lecun_normal_, variance.lecun_std),
    "lecun_uniform": (variance.lecun_uniform_, variance.lecun_std),
    "xavier_normal": (variance.xavier_normal_, variance.xavier_std),
    "xavier_uniform": (variance.xavier_uniform_, variance.xavier_std),
}


def _sub_shape(shape: Sequence[int], upscale_factor: int, scheme: str) -> tuple[int, ...]:
    _check_dims("icnr", shape, 4, 4)
    if scheme != "orthogonal" and scheme not in _SUB_KERNELS:
        raise SchemeError(f"scheme {scheme!r} is not a choice{did_you_mean(str(scheme), [*_SUB_KERNELS, 'orthogonal'])}")
    if upscale_factor < 1 or shape[0] % upscale_factor**2:
        square = upscale_factor**2
        raise SchemeError(
            f"icnr needs upscale_factor^2 = {square} to divide the {shape[0]} output channels of shape {tuple(shape)}"
        )
    return shape[0] // upscale_factor**2, *shape[1:]


def _check_dims(name: str, shape: Sequence[int], least: int, most: int | None = None) -> None:
    if len(shape) < least or (most is not None and len(shape) > most):
        needed = f"at least {least}" if most is None else str(least) if least == most else f"{least} to {most}"
        raise SchemeError(f"{name} needs {needed} dimensions, this tensor has shape {tuple(shape)}")


def _check_groups(name: str, shape: Sequence[int], groups: int) -> None:
    if groups < 1 or shape[0] % groups:
        raise SchemeError(f"{name}: {groups} groups do not divide the {shape[0]} output channels of shape {tuple(shape)}")


def _share_of_ones(ones: int, numel: int) -> tuple[float, float]:
    share = ones / max(numel, 1)
    return share, math.sqrt(share * (1 - share))
