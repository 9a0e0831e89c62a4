"""Which layer of a model each parameter belongs to, counted from the input: what layer-wise learning rates go by.

The layers are read off the structure. The model itself, the part named `backbone` in it, and every chain (`nn.Sequential`,
`nn.ModuleList`, or children numbered from 0) are opened and their children gone through in order; so is a part that holds
more than half of all parameters, such as the encoder of a vision transformer. What is not opened is one layer: a block with
its branches, a convolution. Copies in a chain, which have parameters of the same shapes, are blocks and not opened. What has
no matrix of its own (norms, positions) belongs to the layer before it. Parameters that an opened part itself owns (class tokens,
positions) belong to the first layer. All that follows a `backbone` is the head, one layer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from torch import nn

from modelfactory.config.schema import join

BACKBONE = "backbone"
_TABLES = re.compile(r"embed|token|pos")  # added to what passes, and no layer of their own


def layer_of_each(model: nn.Module) -> dict[str, int]:
    """The layer of every parameter, by each of its names, from 0 at the input to the head.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
        >>> layer_of_each(model)
        {'0.weight': 0, '0.bias': 0, '1.weight': 0, '1.bias': 0, '4.weight': 1, '4.bias': 1}
    """
    half = sum(parameter.numel() for parameter in model.parameters()) / 2
    number = -1
    layers: dict[str, int] = {}
    in_head = False
    has_backbone = BACKBONE in model._modules
    for name, module, opened in _units(model, "", half):
        if opened:
            layers |= {join(name, attr): 0 for attr, parameter in module._parameters.items() if parameter is not None}
            continue
        parameters = dict(module.named_parameters(name, remove_duplicate=False))
        if not parameters:
            continue
        after_backbone = has_backbone and number >= 0 and not f"{name}.".startswith(f"{BACKBONE}.")
        if after_backbone and not in_head or not in_head and any(_is_matrix(*item) for item in parameters.items()):
            number += 1
        in_head = after_backbone
        layers |= dict.fromkeys(parameters, max(number, 0))
    return {name: layers[name] for name, _ in model.named_parameters(remove_duplicate=False)}


def _units(module: nn.Module, name: str, half: float) -> Iterator[tuple[str, nn.Module, bool]]:
    """The parts in order, each with whether it is opened: its own parameters then come alone, and its children after it."""
    yield name, module, True
    chain = _is_chain(module)
    forms = Counter(_form(child) for child in module.children()) if chain else Counter()
    for attr, child in module.named_children():
        inner = join(name, attr)
        if inner == BACKBONE:
            opened = True
        elif chain:
            opened = _is_chain(child) and forms[_form(child)] == 1
        else:
            opened = _is_chain(child) or len(child._modules) > 0 and sum(p.numel() for p in child.parameters()) > half
        if opened:
            yield from _units(child, inner, half)
        else:
            yield inner, child, False


def _is_chain(module: nn.Module) -> bool:
    """By its type, or by its children's names, which are all that is left of it in a traced model."""
    return type(module) in (nn.Sequential, nn.ModuleList) or bool(module._modules) and all(map(str.isdigit, module._modules))


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not _TABLES.search(name.rpartition(".")[2])


def _form(module: nn.Module) -> tuple[type, tuple[tuple[str, tuple[int, ...]], ...]]:
    return type(module), tuple((name, tuple(parameter.shape)) for name, parameter in module.named_parameters())
