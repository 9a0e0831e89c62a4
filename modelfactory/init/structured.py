"""Schemes that make a tensor as a whole: orthogonal, delta, identity, sparse, sub-pixel. In place."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from modelfactory.activation import critical
from modelfactory.errors import SchemeError
from modelfactory.init.elementwise import kaiming_normal_, normal_
from modelfactory.init.fans import Fans, torch_fans


def eye_(tensor: Tensor) -> Tensor:
    """As much of the identity as a matrix holds.

    Raises:
        SchemeError: it is no matrix.
    """
    if tensor.ndim != 2:
        raise SchemeError(f"eye fills matrices, not a tensor of shape {tuple(tensor.shape)}; for convolutions use dirac")
    return nn.init.eye_(tensor)


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A convolution kernel that passes its input channels through, group by group.

    Raises:
        SchemeError: the kernel is not of a 1d, 2d or 3d convolution, or its outputs do not divide into `groups`.
    """
    if tensor.ndim not in (3, 4, 5):
        raise SchemeError(f"dirac fills convolution kernels, not a tensor of shape {tuple(tensor.shape)}; for matrices use eye")
    if tensor.shape[0] % groups:
        raise SchemeError(f"{tensor.shape[0]} outputs do not divide into {groups} groups")
    return nn.init.dirac_(tensor, groups)


def orthogonal_(tensor: Tensor, gain: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """gain times a (semi-)orthogonal matrix, Haar distributed: Q of a Gaussian's QR, signs corrected (Saxe et al. 2014).

    Further dimensions are taken into the columns. Keeps norms in linear nets of any depth.

    Raises:
        SchemeError: fewer than two dimensions.

    Example:
        >>> weight = orthogonal_(torch.empty(3, 5), generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(weight @ weight.T, torch.eye(3), atol=1e-6)
        True
    """
    if tensor.ndim < 2:
        raise SchemeError(f"orthogonal needs two dimensions, not the shape {tuple(tensor.shape)}")
    return nn.init.orthogonal_(tensor, gain, generator=generator)


def delta_orthogonal_(tensor: Tensor, gain: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """A convolution kernel of zeros but for its centre tap, gain times orthogonal columns (Xiao et al. 2018).

    Lets tanh nets of thousands of layers train. Needs C_out >= C_in.

    Raises:
        SchemeError: no kernel of a convolution, an even size, or fewer outputs than inputs.

    Example:
        >>> kernel = delta_orthogonal_(torch.empty(4, 3, 3, 3), generator=torch.Generator().manual_seed(0))
        >>> centre = kernel[:, :, 1, 1]
        >>> torch.allclose(centre.T @ centre, torch.eye(3), atol=1e-6), kernel.count_nonzero().item()
        (True, 12)
    """
    check_delta(tuple(tensor.shape))
    with torch.no_grad():
        tensor.zero_()
        centre = orthogonal_(torch.empty(tensor.shape[:2], dtype=tensor.dtype), gain, generator=generator)
        tensor[(slice(None), slice(None), *(size // 2 for size in tensor.shape[2:]))] = centre.to(tensor.device)
    return tensor


def check_delta(shape: tuple[int, ...]) -> None:
    """Raises SchemeError for a shape that `delta_orthogonal_` cannot fill."""
    if len(shape) not in (3, 4, 5):
        raise SchemeError(f"delta_orthogonal fills convolution kernels, not a tensor of shape {shape}")
    if shape[0] < shape[1]:
        raise SchemeError(f"delta_orthogonal needs as many outputs as inputs, and there are {shape[0]} for {shape[1]}")
    if any(size % 2 == 0 for size in shape[2:]):
        raise SchemeError(f"delta_orthogonal needs kernels of odd size, which have a centre, not {shape[2:]}")


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, *, generator: Generator | None = None) -> Tensor:
    """N(0, std^2) with ceil(sparsity * rows) zeros in each column (Martens 2010).

    Raises:
        SchemeError: it is no matrix, or the sparsity is not in [0, 1].
    """
    if tensor.ndim != 2:
        raise SchemeError(f"sparse fills matrices, not a tensor of shape {tuple(tensor.shape)}")
    if not 0 <= sparsity <= 1:
        raise SchemeError(f"sparsity {sparsity:g} is not a share between 0 and 1")
    rows, columns = tensor.shape
    zeros = math.ceil(sparsity * rows)
    with torch.no_grad():
        tensor.normal_(0, std, generator=generator)
        for column in range(columns):
            # torch's own loop, which draws its rows from the global generator whatever it is given
            tensor[torch.randperm(rows, generator=generator)[:zeros], column] = 0
    return tensor


def icnr_(
    tensor: Tensor,
    upscale_factor: int = 2,
    gain: float | None = None,
    *,
    fans: Fans | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """A kernel before PixelShuffle(r) whose r^2 sub-kernels are equal, so that it starts as nearest-neighbour upsampling.

    One Kaiming kernel of C_out / r^2 outputs, each repeated r^2 times in PixelShuffle's order (Aitken et al. 2017).

    Raises:
        SchemeError: the outputs do not divide by r^2.

    Example:
        >>> kernel = icnr_(torch.empty(8, 3, 3, 3), 2, generator=torch.Generator().manual_seed(0))
        >>> up = nn.functional.pixel_shuffle(nn.functional.conv2d(torch.ones(1, 3, 3, 3), kernel), 2)
        >>> bool((up == up[..., :1, :1]).all())
        True
    """
    check_icnr(tuple(tensor.shape), upscale_factor)
    with torch.no_grad():
        small = torch.empty(tensor.shape[0] // upscale_factor**2, *tensor.shape[1:], dtype=tensor.dtype)
        kaiming_normal_(small, nonlinearity="relu", gain=gain, fans=fans, generator=generator)
        return tensor.copy_(small.repeat_interleave(upscale_factor**2, dim=0))


def check_icnr(shape: tuple[int, ...], upscale_factor: int) -> None:
    """Raises SchemeError for a shape that `icnr_` cannot fill."""
    if len(shape) < 3 or shape[0] % upscale_factor**2:
        raise SchemeError(f"icnr needs a kernel whose outputs divide by {upscale_factor}^2, not the shape {shape}")


def critical_(
    tensor: Tensor,
    activation: str = "tanh",
    q: float = 1.0,
    sigma_b: float | None = None,
    *,
    gain: float | None = None,
    fans: Fans | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """N(0, sigma_w^2 / fan_in) on the edge of chaos: sigma_w^2 = 1 / E[f'(sqrt(q) z)^2] (Poole 2016; Schoenholz 2017).

    Args:
        activation: a name of torch.nn.functional.
        q: the variance of pre-activations that is to hold.
        sigma_b: with it, q is the fixed point that goes with this std of the biases, which the caller sets.
        gain: sigma_w itself, in place of all of these.
    """
    sigma = gain if gain is not None else math.sqrt(critical(activation, q, sigma_b)[0])
    return normal_(tensor, 0.0, sigma / math.sqrt((fans or torch_fans(tensor.shape)).fan_in), generator=generator)
