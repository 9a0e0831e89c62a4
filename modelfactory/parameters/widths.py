"""How many features a parameter takes, and how many it writes to."""

from __future__ import annotations

import math

from modelfactory.parameters.info import ParamInfo
from modelfactory.tracing.operators import CONVOLUTIONS, TRANSPOSED


def input_width(info: ParamInfo) -> int | None:
    """How many features or channels a matrix mixes, by what the run of the model sums over; None for vectors and depthwise kernels,
    which mix none.

    Example:
        >>> from torch import nn
        >>> from modelfactory.parameters.roles import describe
        >>> [input_width(info) for info in describe(nn.Sequential(nn.Linear(4, 3), nn.Conv2d(6, 6, 3, groups=6)))]
        [4, None, None, None]
    """
    shape = info.parameter.shape
    if len(shape) < 2:
        return None
    axes = _axes(info)
    if axes is not None:
        return math.prod(shape[axis] for axis in axes[0])
    width: int = shape[0] // info.module.groups if getattr(info.module, "transposed", False) else shape[1]  # pyright: ignore
    return width if width > 1 or getattr(info.module, "groups", 1) == 1 else None


def output_width(info: ParamInfo) -> int | None:
    """How many features a parameter writes to; None of a scalar.

    Example:
        >>> from torch import nn
        >>> from modelfactory.parameters.roles import describe
        >>> [output_width(info) for info in describe(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3)))]
        [4, 3, 3]
    """
    shape = info.parameter.shape
    if info.parameter.numel() == 1 or not shape:
        return None
    if len(shape) < 2 or "weight" not in info.roles:
        return shape[-1] if len(shape) < 3 or shape[-1] > 1 else info.parameter.numel()  # a scale of channels is [C, 1, 1]
    axes = _axes(info)
    if axes is not None:
        return math.prod(shape[axis] for axis in axes[1])
    return shape[1] * info.module.groups if getattr(info.module, "transposed", False) else shape[0]  # pyright: ignore


def _axes(info: ParamInfo) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The axes that are summed over and that come out, declared or seen; None of a convolution, whose taps are no features."""
    if info.facts.axes is not None:
        return info.facts.axes
    fans = info.facts.fans[:1]
    if not fans or fans[0].node.op in (*CONVOLUTIONS, *TRANSPOSED) or not fans[0].summed:
        return None
    return fans[0].summed, fans[0].coming_out
