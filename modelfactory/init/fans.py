"""Effective fans: how many inputs an output sums over, and how many outputs an input reaches, in the operator itself.

With ones as weights on ones as input the mean output of an operator is its effective fan_in, and the mean gradient on
the input its effective fan_out. `operator_fans` gives these in closed form; the tests run the operators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from modelfactory.errors import SchemeError

_GATES = {"LSTM": ("input", "forget", "cell", "output"), "GRU": ("reset", "update", "new")}


@dataclass(frozen=True)
class Fans:
    """Inputs an output sums over, and outputs an input reaches; not whole numbers where padding cuts some off."""

    fan_in: float
    fan_out: float


@dataclass(frozen=True)
class Block:
    """A part of a stored tensor that acts as one matrix: rows of dimension 0 (None: all), its name and its fans."""

    rows: slice | None
    name: str
    fans: Fans | None


def torch_fans(shape: Sequence[int]) -> Fans:
    """torch.nn.init's own fans, from the shape alone: fan_in = shape[1] * taps, fan_out = shape[0] * taps.

    Raises:
        SchemeError: fewer than two dimensions.

    Example:
        >>> torch_fans((64, 1, 3, 3))
        Fans(fan_in=9.0, fan_out=576.0)
    """
    if len(shape) < 2:
        raise SchemeError(f"a tensor of shape {tuple(shape)} has no fans; it needs two dimensions")
    taps = math.prod(shape[2:])
    return Fans(float(shape[1] * taps), float(shape[0] * taps))


def operator_fans(module: nn.Module, attr: str, input_shape: Sequence[int] | None = None) -> list[Block]:
    """The effective fans of parameter `attr` of `module`, one block for each matrix that is packed in it.

    Args:
        input_shape: the batched shape of the layer's input, (N, C, *spatial). A zero-padded or transposed convolution
            needs it to count what padding cuts off; without it the fans are those far from the border.

    Returns:
        An empty list where an operator has no fans (biases, norms); embeddings pick one row, so their fan_in is 1.

    Example:
        >>> depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        >>> operator_fans(depthwise, "weight")[0].fans
        Fans(fan_in=9.0, fan_out=9.0)
        >>> [block.name for block in operator_fans(nn.MultiheadAttention(8, 2), "in_proj_weight")]
        ['query', 'key', 'value']
    """
    parameter = getattr(module, attr)
    if parameter is None or attr.startswith("bias") or attr.endswith("bias"):
        return []
    if isinstance(module, nn.modules.conv._ConvNd):
        return [Block(None, "", _conv_fans(module, input_shape))]
    if isinstance(module, nn.Bilinear):
        return [
            Block(
                None, "", Fans(float(module.in1_features * module.in2_features), float(module.out_features * module.in2_features))
            )
        ]
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return [Block(None, "", Fans(1.0, float(parameter.shape[1])))]
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return _gate_blocks(module, attr, parameter)
    if isinstance(module, nn.MultiheadAttention) and attr == "in_proj_weight":
        size = module.embed_dim
        return [
            Block(slice(i * size, (i + 1) * size), name, Fans(float(size), float(size)))
            for i, name in enumerate(("query", "key", "value"))
        ]
    if parameter.ndim < 2 or isinstance(module, (nn.LayerNorm, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.RMSNorm)):
        return []
    return [Block(None, "", torch_fans(parameter.shape))]


def _gate_blocks(module: nn.Module, attr: str, parameter: torch.Tensor) -> list[Block]:
    """One block a gate: rows of hidden_size in torch's order (LSTM i, f, g, o; GRU r, z, n)."""
    kind = getattr(module, "mode", type(module).__name__.removesuffix("Cell"))
    names = _GATES.get(kind, ("",)) if not attr.startswith("weight_hr") else ("",)
    rows, columns = parameter.shape[0] // len(names), parameter.shape[1]
    fans = Fans(float(columns), float(rows))
    if len(names) == 1:
        return [Block(None, "", fans)]
    return [Block(slice(i * rows, (i + 1) * rows), name, fans) for i, name in enumerate(names)]


def _conv_fans(module: Any, input_shape: Sequence[int] | None) -> Fans:
    """C_in/g and C_out/g times the mean number of taps that land, a product over the spatial dimensions."""
    groups, dims = module.groups, len(module.kernel_size)
    sizes = list(input_shape[-dims:]) if input_shape is not None else [None] * dims
    per_output = per_input = 1.0
    for index, size in enumerate(sizes):
        kernel, stride, dilation = module.kernel_size[index], module.stride[index], module.dilation[index]
        if module.transposed:
            out, inward = _transposed_taps(kernel, stride, dilation, module.padding[index], module.output_padding[index], size)
        else:
            before, after = _padding(module, index)
            circular = module.padding_mode != "zeros"
            out, inward = _taps(kernel, stride, dilation, before, after, size, circular)
        per_output, per_input = per_output * out, per_input * inward
    return Fans(module.in_channels / groups * per_output, module.out_channels / groups * per_input)


def _padding(module: Any, index: int) -> tuple[int, int]:
    if module.padding == "valid":
        return 0, 0
    if module.padding == "same":
        total = module.dilation[index] * (module.kernel_size[index] - 1)
        return total // 2, total - total // 2
    return module.padding[index], module.padding[index]


@cache
def _taps(kernel: int, stride: int, dilation: int, before: int, after: int, size: int | None, wraps: bool) -> tuple[float, float]:
    """Mean taps an output sums over, and mean outputs an input reaches, along one dimension of a convolution."""
    if size is None:
        return float(kernel), kernel / stride
    outputs = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
    if wraps:
        landed = outputs * kernel
    else:
        landed = sum(0 <= i * stride - before + k * dilation < size for i in range(outputs) for k in range(kernel))
    return landed / outputs, landed / size


@cache
def _transposed_taps(kernel: int, stride: int, dilation: int, padding: int, extra: int, size: int | None) -> tuple[float, float]:
    """The same of a transposed convolution, where each input spreads over `kernel` outputs."""
    if size is None:
        return kernel / stride, float(kernel)
    outputs = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
    landed = sum(0 <= i * stride + k * dilation - padding < outputs for i in range(size) for k in range(kernel))
    return landed / outputs, landed / size
