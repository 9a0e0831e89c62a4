"""A model in two: the beginning that is frozen for good, whose features may be kept, and the rest that trains on them.

`divide` finds that beginning; `why_not_fixed` tries whether it gives the same for a sample in every epoch, and says why not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from modelfactory.config.errors import Problems
from modelfactory.config.schema import join

PATH = "trainer.cache_features"
# without parameters and without chance: what may go into the features behind the last frozen layer
_PLAIN = (
    nn.Flatten,
    nn.Identity,
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)


@dataclass(frozen=True)
class Parts:
    """A chain in two: the beginning that is frozen for good, and the rest; the names are those in the whole model."""

    body: nn.Sequential
    head: nn.Sequential


def divide(model: nn.Module, thaws: Mapping[str, int] | None, problems: Problems) -> Parts | None:
    """The frozen beginning of a model and the rest, or None after saying why there is none.

    Args:
        thaws: names of parameters that are frozen at first, with the epoch that thaws each.

    Example:
        >>> from modelfactory.parameters.freezing import freeze
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2))
        >>> names = freeze(model, ["0.*"])
        >>> parts = divide(model, None, Problems())
        >>> list(parts.body._modules), list(parts.head._modules)
        (['0', '1'], ['2', '3'])
    """
    if not _is_plain_chain(model):
        problems.add(PATH, f"{type(model).__name__} is not a chain of layers, so there is no place to divide it; give false")
        return None
    body, head = _divide(model, "", {} if thaws is None else thaws)
    if body is not None:
        return Parts(body, head)
    name, first = next((name, child) for name, child in model._modules.items() if child is not None and _has_parameters(child))
    trains = [own for own, parameter in first.named_parameters(name) if parameter.requires_grad]
    if not trains:
        own, epoch = next((own, thaws[own]) for own, _ in first.named_parameters(name) if thaws and own in thaws)
        why = f"{own} trains from epoch {epoch} on, so the features would change; take that until away"
    elif len(trains) == len(list(first.parameters())):
        why = f"the first layer with parameters, {name!r}, is not frozen; freeze it (freeze.rules)"
    else:
        more = f" and {len(trains) - 1} more train" if len(trains) > 1 else " trains"
        why = f"{name!r} is frozen in part only: {trains[0]}{more}; freeze all of it"
    problems.add(PATH, f"{why}, or give false")
    return None


def _divide(chain: nn.Sequential, name: str, thaws: Mapping[str, int]) -> tuple[nn.Sequential | None, nn.Sequential]:
    children = [(attr, child) for attr, child in chain._modules.items() if child is not None]
    end = 0
    for index, (attr, child) in enumerate(children):
        if not _has_parameters(child):
            continue
        inner = join(name, attr)
        if not any(parameter.requires_grad or own in thaws for own, parameter in child.named_parameters(inner)):
            end = index + 1
            continue
        if _is_plain_chain(child):
            body, head = _divide(child, inner, thaws)
            if body is not None:
                return _chain([*children[:index], (attr, body)]), _chain([(attr, head), *children[index + 1 :]])
        break
    while 0 < end < len(children) and isinstance(children[end][1], _PLAIN):
        end += 1
    return (_chain(children[:end]) if end else None), _chain(children[end:])


def _is_plain_chain(module: nn.Module) -> TypeGuard[nn.Sequential]:
    return type(module) is nn.Sequential and not module._forward_hooks and not module._forward_pre_hooks


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _chain(children: list[tuple[str, nn.Module]]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(children))


def why_not_fixed(model: nn.Module, body: nn.Sequential, x: Tensor, autocast: AbstractContextManager[Any]) -> str | None:
    """Why `body`, the beginning of `model`, does not give the same for the samples `x` each time; None: it does.

    Looks for draws from global generators, buffers that move, another result in training than in evaluation, and a result
    that depends on other samples of the batch.
    """
    kept = {name: buffer.clone() for name, buffer in body.named_buffers()}
    with torch.no_grad(), autocast:
        model.train()
        state = _random_state(x.device)
        in_training: Any = body(x)
        if not torch.equal(state, _random_state(x.device)):
            name = _first_random(body, x)
            return f"{name} acts by chance in training; freeze.dropout=false holds a part that is frozen whole"
        for name, buffer in body.named_buffers():
            if not torch.equal(buffer, kept[name]):
                return f"{name} moves in training; freeze the layer that it is of, with its parameters"
        model.eval()
        features: Any = body(x)
        among_others: Any = body(torch.cat([x, torch.zeros_like(x)]))
    last = next(reversed(body._modules))
    if not isinstance(features, Tensor):
        return f"{last!r} gives {type(features).__name__}, not a tensor"
    if not torch.equal(features.nan_to_num(), in_training.nan_to_num()):
        return f"what {last!r} gives in training is not what it gives in evaluation; hold it in evaluation mode"
    difference = (among_others[: len(x)].float() - features.float()).norm()
    if difference > 0.05 * features.float().norm():  # far above any rounding, far below what batch statistics do
        return f"what {last!r} gives for a sample depends on the other samples of the batch"
    return None


def _random_state(device: torch.device) -> Tensor:
    state = torch.get_rng_state()
    return state if device.type == "cpu" else torch.cat([state, torch.get_device_module(device).get_rng_state(device)])


def _first_random(body: nn.Module, x: Tensor) -> str:
    """The innermost module that draws first."""
    found: list[str] = []
    before: dict[nn.Module, Tensor] = {}
    names = {module: name for name, module in body.named_modules() if name}

    def begin(module: nn.Module, _inputs: Any) -> None:
        before[module] = _random_state(x.device)

    def end(module: nn.Module, _inputs: Any, _output: Any) -> None:
        if not found and not torch.equal(before[module], _random_state(x.device)):
            found.append(f"{names[module]} ({type(module).__name__})")

    handles = [handle for m in names for handle in (m.register_forward_pre_hook(begin), m.register_forward_hook(end))]
    try:
        body(x)
    finally:
        for handle in handles:
            handle.remove()
    return found[0]
