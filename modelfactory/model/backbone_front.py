"""What stands in front of a model's layers: the backbone, whose parameters are `backbone.*`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from modelfactory.config.errors import Problems
from modelfactory.config.schema import join
from modelfactory.model.backbone.construct import arguments_of, construct_backbone
from modelfactory.model.backbone.spec import BackboneSpec
from modelfactory.model.blueprint import Chain, Leaf, Node
from modelfactory.model.grammar import read_layers
from modelfactory.model.infer import BROKEN, Incoming, Inference, shape_of
from modelfactory.model.layers.sizes import shape_text
from modelfactory.parameters.layer_rules import Definition

BACKBONE = "backbone"
_SIZES = {"vit_": "image_size", "maxvit": "input_size", "timm/": "img_size"}  # of the images, where a model is made for one size


def read_front(spec: BackboneSpec, incoming: Incoming, problems: Problems, path: str = BACKBONE) -> tuple[Node | None, Incoming]:
    """The blueprint of a backbone and what leaves it, or None after telling what is wrong.

    Example:
        >>> node, features = read_front(BackboneSpec("resnet18"), torch.empty(2, 3, 32, 32, device="meta"), Problems())
        >>> features.shape
        torch.Size([2, 512])
    """
    if spec.layers is not None:
        return read_layers(spec.layers, incoming, problems, path)
    found = len(problems)
    in_channels = _channels(spec, shape_of(incoming), path, problems)
    if len(problems) > found:
        return None, BROKEN
    given = {"name": spec.name, "output": spec.output, "in_channels": in_channels, "arguments": arguments_of(spec)}
    leaf = Leaf(Definition(path), construct_backbone, given, shape_of(incoming))
    own = Problems()
    traits = Inference(own).run(leaf, path, incoming)
    if traits is None:
        hint = _size_hint(str(spec.name), shape_of(incoming), path)
        for problem in own:
            problems.add(problem.path, problem.message + (hint if problem.path == path else ""))
        return None, BROKEN
    if isinstance(traits.outgoing, Mapping):
        where = join(path, "output")
        problems.add(
            where, f"{spec.name} gives {', '.join(map(str, traits.outgoing))} together; name the layer where the features leave"
        )
        return None, BROKEN
    return leaf, traits.outgoing


def _size_hint(name: str, shape: torch.Size | None, path: str) -> str:
    """What may be wrong with images that a model cannot take, where it is made for one size of them."""
    argument = next((argument for start, argument in _SIZES.items() if name.startswith(start)), None)
    images = shape is not None and len(shape) == 4
    return f"; its size of images is an argument: {path}.arguments.{argument}" if argument is not None and images else ""


def _channels(spec: BackboneSpec, shape: torch.Size | None, path: str, problems: Problems) -> int:
    """The channels of the input: those of the data, which are given here only where the data does not say."""
    coming = shape[1] if shape is not None and len(shape) == 4 else None
    if spec.in_channels is not None and coming is not None and spec.in_channels != coming:
        shown = shape_text(shape) if shape is not None else ""
        problems.add(
            join(path, "in_channels"), f"{spec.in_channels} does not fit what comes in, {shown}: leave it out, or give {coming}"
        )
    in_channels = spec.in_channels or coming or 3
    if in_channels != 3 and spec.has_published_weights and spec.stem is None:
        problems.add(
            join(path, "stem"), f"missing: the weights are of 3 input channels and {in_channels} come in; give sum or repeat"
        )
    return in_channels


def put_in_front(front: Node, model: Node, config: Any, problems: Problems, path: str = "model") -> Node | None:
    """A model's blueprint with a backbone in front of its layers; None after telling why it cannot be.

    Args:
        config: the mapping under `model`.
    """
    found = len(problems)
    for name in ("_target_", "repeat"):
        if config.get(name) is not None:
            problems.add(
                join(path, name), f"{config[name]!r} leaves no place for a backbone, which stands in front of layers; give layers"
            )
    if len(problems) == found and isinstance(model, Chain) and any(name == BACKBONE for name, _ in model.children):
        problems.add(join(path, f"layers.{BACKBONE}"), f"{BACKBONE!r} names two modules; choose another name")
    if len(problems) > found or not isinstance(model, Chain) or model.container is not nn.Sequential:
        return None
    return replace(model, children=((BACKBONE, front), *model.children))
