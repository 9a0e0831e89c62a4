"""Sizes that follow from the incoming tensor, so that a config need not say them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from modelfactory.layers.glue import PositionalEmbedding


@dataclass(frozen=True)
class SizeRule:
    """`argument` of a layer is dimension `dim` of its (batched) input.

    Attributes:
        argument: the constructor argument, such as in_features.
        dim: 1 for channels and features (N, C, ...), -1 for the last.
    """

    argument: str
    dim: int

    def of(self, shape: torch.Size) -> int | None:
        """The size, or None when the input has no such dimension."""
        return shape[self.dim] if len(shape) > abs(self.dim) else None


_CHANNELS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TABLE: dict[type, tuple[SizeRule, ...]] = {
    nn.Linear: (SizeRule("in_features", -1),),
    **{layer: (SizeRule("in_channels", 1),) for layer in _CHANNELS},
    nn.modules.batchnorm._NormBase: (SizeRule("num_features", 1),),
    nn.LayerNorm: (SizeRule("normalized_shape", -1),),
    nn.RMSNorm: (SizeRule("normalized_shape", -1),),
    nn.GroupNorm: (SizeRule("num_channels", 1),),
    nn.RNNBase: (SizeRule("input_size", -1),),
    nn.MultiheadAttention: (SizeRule("embed_dim", -1),),
    nn.TransformerEncoderLayer: (SizeRule("d_model", -1),),
    nn.PReLU: (SizeRule("num_parameters", 1),),
    PositionalEmbedding: (SizeRule("length", 1), SizeRule("embedding_dim", -1)),
}


def size_rules(layer: Callable[..., Any]) -> tuple[SizeRule, ...]:
    """The sizes of this layer class that its input tells; empty when there are none.

    Example:
        >>> [rule.argument for rule in size_rules(nn.Conv2d)]
        ['in_channels']
    """
    if not isinstance(layer, type):
        return ()
    return next((_TABLE[base] for base in layer.__mro__ if base in _TABLE), ())


def shape_text(shape: torch.Size | tuple[int, ...]) -> str:
    """A batched shape as errors show it.

    Example:
        >>> shape_text((2, 1, 8, 8))
        '[N, 1, 8, 8]'
    """
    return "[" + ", ".join(["N", *map(str, shape[1:])]) + "]"
