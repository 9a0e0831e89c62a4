"""Sizes that follow from the incoming tensor, so that a config need not say them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from modelfactory.config.errors import Problems, did_you_mean
from modelfactory.config.signature import parameters_of
from modelfactory.model.layers.glue import PositionalEmbedding
from modelfactory.model.layers.transformer import Attention, GatedMLP


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


DECLARED = "modelfactory_sizes"
MAX_NUMBERS = 2**58  # in one input: two of 8 bytes each make 2^62 bytes, the last power of two that torch's sizes hold
_SPATIAL = ("torch.nn.modules.conv", "torch.nn.modules.pooling")
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
    Attention: (SizeRule("embed_dim", -1),),
    GatedMLP: (SizeRule("in_features", -1),),
    PositionalEmbedding: (SizeRule("length", 1), SizeRule("embedding_dim", -1)),
}


def size_rules(layer: Callable[..., Any]) -> tuple[SizeRule, ...]:
    """The sizes of this layer class that its input tells; empty when there are none.

    A class of one's own declares them by `modelfactory_sizes`: dimensions of the batched input, by argument of the constructor.

    Example:
        >>> [rule.argument for rule in size_rules(nn.Conv2d)]
        ['in_channels']
        >>> class Scale(nn.Module):
        ...     modelfactory_sizes = {"channels": 1}
        >>> size_rules(Scale)
        (SizeRule(argument='channels', dim=1),)
    """
    if not isinstance(layer, type):
        return ()
    for base in layer.__mro__:
        if DECLARED in vars(base):
            return tuple(SizeRule(name, dim) for name, dim in vars(base)[DECLARED].items()) if why_no_sizes(layer) is None else ()
        if base in _TABLE:
            return _TABLE[base]
    return ()


def why_no_sizes(layer: Callable[..., Any]) -> str | None:
    """What is wrong with the sizes that a class declares; None where nothing is, or it declares none.

    Example:
        >>> class Scale(nn.Module):
        ...     modelfactory_sizes = {"chanels": 1}
        ...     def __init__(self, channels): ...
        >>> why_no_sizes(Scale)
        "modelfactory_sizes of Scale has 'chanels', which is no argument of it; did you mean 'channels'?"
    """
    declared = getattr(layer, DECLARED, None) if isinstance(layer, type) else None
    if declared is None:
        return None
    who = f"{DECLARED} of {layer.__name__}"
    if not isinstance(declared, Mapping):
        return f'{who} is {declared!r}; give dimensions of the batched input by argument, such as {{"channels": 1}}'
    named, takes_any = parameters_of(layer)
    for name, dim in declared.items():
        if name not in named and not takes_any:
            return f"{who} has {name!r}, which is no argument of it{did_you_mean(str(name), named)}"
        if not isinstance(dim, int) or isinstance(dim, bool) or dim == 0:
            return f"{who} has {dim!r} for {name!r}; give the dimension of the batched input, 1 or more, or -1 for the last"
    return None


def check_input_shape(value: Any, path: str, problems: Problems) -> tuple[int, ...] | None:
    """The `data.input_shape` of a config: sizes without the batch, or None after saying what is wrong with them.

    Example:
        >>> problems = Problems()
        >>> check_input_shape([1, 0, 8], "data.input_shape", problems)
        >>> print(*problems)
        data.input_shape: [1, 0, 8] holds 0; give sizes >= 1, without the batch, such as [1, 28, 28]
    """
    given = "give sizes >= 1, without the batch, such as [1, 28, 28]"
    if not isinstance(value, (list, tuple)):
        problems.add(path, f"{value!r} is not a list; {given}")
        return None
    for size in value:
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            problems.add(path, f"{list(value)!r} holds {size!r}; {given}")
            return None
    if math.prod(value) >= MAX_NUMBERS:
        problems.add(path, f"{list(value)!r} holds 2^58 numbers or more, whose bytes 64 bits cannot count; give smaller sizes")
        return None
    return tuple(value)


def dimensions_of(layer: Callable[..., Any]) -> int | None:
    """How many spatial dimensions a convolution or a pooling of torch works over; None of other layers.

    Example:
        >>> dimensions_of(nn.MaxPool2d), dimensions_of(nn.Linear)
        (2, None)
    """
    if not isinstance(layer, type):
        return None
    last = next((base.__name__ for base in layer.__mro__ if base.__module__ in _SPATIAL and base.__name__.endswith("d")), "")
    return int(last[-2]) if last[-2:-1].isdigit() else None


def shape_text(shape: torch.Size | tuple[int, ...]) -> str:
    """A batched shape as errors show it.

    Example:
        >>> shape_text((2, 1, 8, 8))
        '[N, 1, 8, 8]'
    """
    return "[" + ", ".join(["N", *map(str, shape[1:])]) + "]"
