"""Fans: how many weights meet in an output, and how many outputs an input reaches.

The effective fans belong to the operator, not to the weight's shape. Run it with ones as weights on ones as input:
the mean output is `fan_in`; the mean gradient of the outputs' sum at the input is `fan_out`. What follows computes
just that, in closed form: a convolution's count is a product over its spatial axes, since the mean over positions
of a product of counts along each axis is the product of their means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from modelfactory.config.errors import SchemeError
from modelfactory.parameters.known_layers import known_blocks
from modelfactory.parameters.residual import NORMS
from modelfactory.tracing.packed import Part


@dataclass(frozen=True)
class Fans:
    """Effective fans: no whole numbers where a stride or a padding makes them a mean.

    Attributes:
        fan_in: weights that act on one output.
        fan_out: outputs (times weights) that one input acts on.
    """

    fan_in: float
    fan_out: float


@dataclass(frozen=True)
class Block:
    """One matrix of a parameter; a packed parameter is several, stacked along its first axis.

    Attributes:
        rows: the block's part of the first axis, or of another, or None for the whole parameter.
        name: `query`, `forget`, ..., or "" for the whole parameter.
        fans: the fans of this block; None where nothing tells them.
        copied: the axes along which independent copies of it lie.
        order: the axes of a copy, those that come out first; None where they lie so.
    """

    rows: slice | Part | None
    name: str
    fans: Fans | None
    copied: tuple[int, ...] = ()
    order: tuple[int, ...] | None = None


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def torch_fans(shape: Sequence[int]) -> Fans:
    """Fans as torch.nn.init takes them from a shape alone: [out, in, *kernel].

    Wrong for grouped, strided, transposed and packed weights: see `operator_fans`.

    Raises:
        SchemeError: fewer than two dimensions.

    Example:
        >>> torch_fans((64, 1, 3, 3))
        Fans(fan_in=9.0, fan_out=576.0)
    """
    if len(shape) < 2:
        raise SchemeError(f"shape {tuple(shape)} has no fans: they need at least 2 dimensions")
    kernel = math.prod(shape[2:])
    return Fans(float(shape[1] * kernel), float(shape[0] * kernel))


def operator_fans(
    module: nn.Module, attr: str, input_shape: Sequence[int] | None = None, shape: Sequence[int] | None = None
) -> list[Block]:
    """The effective fans of parameter `attr` of `module`, one `Block` for each matrix packed into it.

    Known are Linear, Bilinear, Conv1-3d, ConvTranspose1-3d, Embedding and EmbeddingBag (the input is one-hot, so one
    weight acts on an output: fan_in 1, fan_out the embedding's width), RNN, LSTM, GRU and their cells,
    MultiheadAttention, and norms (elementwise: 1 and 1). Of Bilinear, fan_out is the mean over both inputs. Any
    other module's parameter gets `torch_fans`.

    Args:
        module: may be on the meta device.
        attr: the parameter's name in the module.
        input_shape: [N, C, *spatial] of a convolution's input. With it, positions at which the kernel lies on zero
            padding count less; without it, the fans are those far from every border. Circular, reflected and
            replicated padding lose nothing.

    Raises:
        SchemeError: the parameter has fewer than two dimensions, or the input does not fit the convolution.

    Example:
        >>> operator_fans(nn.Conv2d(64, 64, 3, groups=64), "weight")[0].fans
        Fans(fan_in=9.0, fan_out=9.0)
        >>> for block in operator_fans(nn.GRU(3, 5), "weight_ih_l0"):
        ...     print(block.name, block.rows, block.fans.fan_in)
        reset slice(0, 5, None) 3.0
        update slice(5, 10, None) 3.0
        new slice(10, 15, None) 3.0
    """
    fans = layer_fans(module, attr, input_shape, shape)
    return [Block(rows, name, fans) for rows, name in blocks(module, attr)]


def blocks(module: nn.Module, attr: str) -> list[tuple[slice | None, str]]:
    """The rows and the name of each block packed along the first axis of a parameter, also of a bias.

    Example:
        >>> blocks(nn.MultiheadAttention(4, 2), "in_proj_bias")
        [(slice(0, 4, None), 'query'), (slice(4, 8, None), 'key'), (slice(8, 12, None), 'value')]
        >>> blocks(nn.Linear(2, 2), "weight")
        [(None, '')]
    """
    names = known_blocks(module, attr)
    if not names:
        role = {"q": "query", "k": "key", "v": "value"}.get(attr[0], "") if attr.endswith("_proj_weight") else ""
        return [(None, role)]
    rows = getattr(module, attr).shape[0] // len(names)
    return [(slice(i * rows, (i + 1) * rows), name) for i, name in enumerate(names)]


def layer_fans(
    module: nn.Module, attr: str, input_shape: Sequence[int] | None = None, shape: Sequence[int] | None = None
) -> Fans:
    """Fans of one block of a parameter, as `operator_fans` gives them.

    Example:
        >>> layer_fans(nn.GRU(3, 5), "weight_ih_l0")
        Fans(fan_in=3.0, fan_out=5.0)
    """
    shape = tuple(getattr(module, attr).shape if shape is None else shape)
    if len(shape) < 2:
        raise SchemeError(f"{type(module).__name__}.{attr} of shape {shape} has no fans: they need at least 2 dimensions")
    if isinstance(module, _CONVOLUTIONS + _TRANSPOSED) and attr == "weight":
        return _convolution_fans(module, input_shape)
    if isinstance(module, nn.Bilinear) and attr == "weight":
        out, in1, in2 = shape
        return Fans(float(in1 * in2), 2 * out * in1 * in2 / (in1 + in2))
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and attr == "weight":
        return Fans(1.0, float(shape[1]))
    if isinstance(module, NORMS):
        return Fans(1.0, 1.0)
    if isinstance(module, nn.MultiheadAttention) and attr in ("bias_k", "bias_v"):  # a token appended to the sequence
        return Fans(1.0, float(shape[-1]))
    packed = len(blocks(module, attr))
    return torch_fans((shape[0] // packed, *shape[1:]))


def _convolution_fans(module: nn.Module, input_shape: Sequence[int] | None) -> Fans:
    if not isinstance(module, nn.modules.conv._ConvNd):
        raise TypeError(f"{type(module).__name__} is not a convolution")
    channels_in, channels_out = module.in_channels // module.groups, module.out_channels // module.groups
    axes = len(module.kernel_size)
    if input_shape is None:
        kernel, stride = math.prod(module.kernel_size), math.prod(module.stride)
        taps = (kernel / stride, float(kernel)) if module.transposed else (float(kernel), kernel / stride)
    else:
        if len(input_shape) != axes + 2:
            raise SchemeError(
                f"{type(module).__name__} takes an input of {axes + 2} dimensions [N, C, ...], not {tuple(input_shape)}"
            )
        means = [_mean_taps(module, axis, input_shape[axis + 2]) for axis in range(axes)]
        taps = math.prod(mean for mean, _ in means), math.prod(mean for _, mean in means)
    return Fans(channels_in * taps[0], channels_out * taps[1])


def _mean_taps(module: nn.modules.conv._ConvNd, axis: int, size: int) -> tuple[float, float]:
    """Along one axis: kernel taps that lie on the input, a mean over outputs; and those that reach an input, over inputs."""
    kernel, stride, dilation = module.kernel_size[axis], module.stride[axis], module.dilation[axis]
    left, right = _padding(module, axis)
    reach = dilation * (kernel - 1)
    if module.transposed:
        out = (size - 1) * stride - left - right + reach + module.output_padding[axis] + 1
        starts, limit = size, out
    else:
        out = (size + left + right - reach - 1) // stride + 1
        starts, limit = out, size
    if size < 1 or out < 1:
        raise SchemeError(f"an input of size {size} along spatial axis {axis} is too small for this {type(module).__name__}")
    if module.padding_mode != "zeros":
        return float(kernel), kernel * out / size
    hits = sum(_hits(starts, stride, tap * dilation - left, limit) for tap in range(kernel))
    return hits / out, hits / size


def _hits(starts: int, stride: int, offset: int, limit: int) -> int:
    """How many n in [0, starts) have 0 <= n * stride + offset < limit."""
    first = max(0, -(offset // stride))
    last = min(starts - 1, (limit - 1 - offset) // stride)
    return max(0, last - first + 1)


def _padding(module: nn.modules.conv._ConvNd, axis: int) -> tuple[int, int]:
    if module.padding == "valid":
        return 0, 0
    if module.padding == "same":
        total = module.dilation[axis] * (module.kernel_size[axis] - 1)
        return total // 2, total - total // 2
    width = module.padding[axis]
    if not isinstance(width, int):
        raise SchemeError(f"padding {module.padding!r} of {type(module).__name__} is not known: use torch's fans")
    return width, width
