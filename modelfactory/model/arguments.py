"""Arguments of layers that their own signatures do not judge."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from modelfactory.config.errors import Problems
from modelfactory.config.schema import join
from modelfactory.config.signature import parameters_of
from modelfactory.model.blueprint import Leaf, Node, walk
from modelfactory.model.layers.sizes import dimensions_of

_LOADING = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")
_FOR_EACH_DIMENSION = ("kernel_size", "stride", "padding", "dilation", "output_padding", "output_size")


def without_weights(target: Any, arguments: dict[str, Any], path: str, problems: Problems) -> dict[str, Any]:
    """The arguments of one of torchvision's builders so that it loads nothing, as some do unless told not to.

    Example:
        >>> from torchvision.models.segmentation import fcn_resnet50
        >>> without_weights(fcn_resnet50, {"num_classes": 3}, "model", Problems())
        {'num_classes': 3, 'weights': None, 'weights_backbone': None}
    """
    if not getattr(target, "__module__", "").startswith("torchvision.models"):
        return arguments
    for name in _LOADING:
        if arguments.get(name) not in (None, False):
            problems.add(join(path, name), f"{arguments[name]!r} is refused here; pretrained weights are loaded by backbone")
    kept = {name: value for name, value in arguments.items() if name not in _LOADING}
    return {**kept, **{name: None for name in _LOADING[:2] if name in inspect.signature(target).parameters}}


def with_batch_first(target: Any, arguments: dict[str, Any], path: str, problems: Problems) -> dict[str, Any]:
    """The arguments with `batch_first`, where the class has it: N comes first here, which is not torch's default.

    Example:
        >>> with_batch_first(nn.LSTM, {"hidden_size": 3}, "model.layers.lstm", Problems())
        {'hidden_size': 3, 'batch_first': True}
        >>> problems = Problems()
        >>> with_batch_first(nn.GRU, {"hidden_size": 3, "batch_first": False}, "model.layers.gru", problems)["batch_first"]
        True
        >>> print(*problems)
        model.layers.gru.batch_first: False would make the batch's dimension that of time, and mix its samples; leave it out
    """
    if "batch_first" not in parameters_of(target)[0]:
        return arguments
    given = arguments.get("batch_first", True)
    if not given:
        where = join(path, "batch_first")
        problems.add(where, f"{given!r} would make the batch's dimension that of time, and mix its samples; leave it out")
    return {**arguments, "batch_first": given or True}


def check_dimensions(target: Any, arguments: Mapping[str, Any], path: str, problems: Problems) -> None:
    """Adds what a convolution or pooling is given for another number of dimensions, which torch does not look at.

    Example:
        >>> import torch
        >>> problems = Problems()
        >>> check_dimensions(torch.nn.Conv2d, {"kernel_size": (3, 3, 3)}, "model.layers.conv", problems)
        >>> print(*problems)
        model.layers.conv.kernel_size: [3, 3, 3] has the length 3; Conv2d takes one number, or a list of 2
    """
    dimensions = dimensions_of(target)
    for name in _FOR_EACH_DIMENSION if dimensions is not None else ():
        value = arguments.get(name)
        if isinstance(value, (list, tuple)) and len(value) != dimensions:
            problems.add(
                join(path, name),
                f"{list(value)} has the length {len(value)}; {target.__name__} takes one number, or a list of {dimensions}",
            )
        elif name == "padding" and any(isinstance(size, int) and size < 0 for size in _as_list(value)):
            problems.add(join(path, name), f"{value!r} is too small; give whole numbers >= 0")


def _as_list(value: Any) -> list[Any] | tuple[Any, ...]:
    return value if isinstance(value, (list, tuple)) else [value]


# Layers of (N, C, T), whose channels are not last as those of (N, T, C) are.
_CHANNELS_BEFORE_TIME = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d)


def channel_dim(branch: Iterable[Node], num_dims: int) -> int:
    """Where, counted from the end, the channels are of what leaves a chain of layers.

    Example:
        >>> from modelfactory.parameters.layer_rules import Definition
        >>> layer = Definition("layer")
        >>> channel_dim([Leaf(layer, nn.Conv1d, {})], 3), channel_dim([Leaf(layer, nn.Linear, {})], 3)
        (-2, -1)
    """
    leaves = [part for node in branch for _, part in walk(node) if isinstance(part, Leaf)]
    first = num_dims > 3 or num_dims == 3 and any(leaf.target in _CHANNELS_BEFORE_TIME for leaf in leaves)
    return 1 - num_dims if first else -1
