"""Schemes without chance whose values are a pattern: upsampling kernels, identities and Hadamard matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from modelfactory.config.errors import SchemeError
from modelfactory.init.fans import Fans
from modelfactory.init.schemes.structured import _check_dims
from modelfactory.init.schemes.variance import _no_grad


def bilinear_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A transposed convolution that starts as bilinear upsampling, channel by channel.

    Formula: w[c, c] = the product over the spatial axes of k_i = 1 - |i - centre|/f, f = ceil(size/2), centre = (size - 1)/2 for an even
    size and f - 1 for an odd one; 0 between different channels; in each group alike.

    Source: Long, Shelhamer & Darrell 2015.

    Use: a transposed convolution of stride f whose kernel has size 2 f (or 2 f - 1).

    Args:
        tensor: [in, out/groups, *kernel], 3 to 5 dimensions.
        groups: those of the convolution (a rule may leave them out); they divide `in`.

    Raises:
        SchemeError: the shape is no convolution's, or groups do not divide it.

    Example:
        >>> bilinear_(torch.empty(1, 1, 4))
        tensor([[[0.2500, 0.7500, 0.7500, 0.2500]]])
    """
    bilinear_moments(tensor.shape, None, groups)
    kernel = _tent(tensor.shape[2:], tensor)
    per_group = tensor.shape[0] // groups
    with _no_grad(tensor):
        tensor.zero_()
        for channel in range(tensor.shape[0]):
            if channel % per_group < tensor.shape[1]:
                tensor[channel, channel % per_group] = kernel
    return tensor


def bilinear_moments(shape: Sequence[int], fans: Fans | None, groups: int = 1) -> tuple[float, float]:
    _check_dims("bilinear", shape, 3, 5)
    if groups < 1 or shape[0] % groups:
        raise SchemeError(f"bilinear: {groups} groups do not divide the {shape[0]} input channels of shape {tuple(shape)}")
    sums = squares = float(groups * min(shape[0] // groups, shape[1]))
    for size in shape[2:]:
        taps = _taps(size)
        sums, squares = sums * math.fsum(taps), squares * math.fsum(tap * tap for tap in taps)
    count = max(math.prod(shape), 1)
    return sums / count, math.sqrt(max(squares / count - (sums / count) ** 2, 0.0))


def _taps(size: int) -> list[float]:
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    return [1 - abs(index - centre) / factor for index in range(size)]


def _tent(sizes: Sequence[int], like: Tensor) -> Tensor:
    kernel = torch.ones((), dtype=like.dtype, device=like.device)
    for size in sizes:
        kernel = kernel[..., None] * torch.tensor(_taps(size), dtype=like.dtype, device=like.device)
    return kernel


def zero_hadamard_(tensor: Tensor) -> Tensor:
    """Zeros and ones alone, without chance, and yet no two units alike: ZerO.

    Formula: the identity, as far as it goes, where n_out <= n_in; else c I H I, H the Hadamard matrix of size 2^m >= n_out, m =
    ceil(log2 n_out), c = 2^(-(m - 1)/2). A convolution has this at its centre tap, and is 0 elsewhere.

    Source: Zhao, Schaefer & Anandkumar 2022, algorithm 1.

    Use: residual nets whose start is not to depend on a seed.

    Args:
        tensor: [out, in] or [out, in, *kernel].

    Raises:
        SchemeError: fewer than 2 dimensions, or more than 5.

    Example:
        >>> zero_hadamard_(torch.empty(4, 2)).sign()
        tensor([[ 1.,  1.],
                [ 1., -1.],
                [ 1.,  1.],
                [ 1., -1.]])
    """
    zero_hadamard_moments(tensor.shape, None)
    rows, columns = tensor.shape[:2]
    centre = (..., *(size // 2 for size in tensor.shape[2:]))
    with _no_grad(tensor):
        tensor.zero_()
        if tensor.numel() == 0:
            return tensor
        matrix = tensor[centre] if tensor.ndim > 2 else tensor
        if rows <= columns:
            matrix.fill_diagonal_(1)
        else:
            matrix.copy_(_hadamard(rows, columns, tensor) * _hadamard_scale(rows))
    return tensor


def zero_hadamard_moments(shape: Sequence[int], fans: Fans | None) -> tuple[float, float]:
    _check_dims("zero_hadamard", shape, 2, 5)
    rows, columns, count = shape[0], shape[1], max(math.prod(shape), 1)
    if rows <= columns:
        share = min(rows, columns) / count
        return share, math.sqrt(share * (1 - share))
    scale = _hadamard_scale(rows)
    mean = scale * float(_hadamard(rows, columns, torch.empty(0)).sum()) / count
    return mean, math.sqrt(max(scale * scale * rows * columns / count - mean * mean, 0.0))


def _hadamard_scale(rows: int) -> float:
    return 2 ** (-(math.ceil(math.log2(rows)) - 1) / 2)


def _hadamard(rows: int, columns: int, like: Tensor) -> Tensor:
    """The corner of Sylvester's matrix: (-1)^(number of bits that i and j share)."""
    shared = torch.arange(rows)[:, None] & torch.arange(columns)[None, :]
    parity = torch.zeros_like(shared)
    while bool(shared.any()):
        parity ^= shared & 1
        shared = shared >> 1
    return (1 - 2 * parity).to(like.dtype)
