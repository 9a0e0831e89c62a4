"""The state of an optimizer by the names of its parameters, so that no parameter is ever given another's.

Torch's own `state_dict` numbers parameters by their place in the groups: a group moved, a layer frozen or two groups listed in
another order give a momentum to the wrong parameter, and a buffer of the wrong size is written out of bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modelfactory.config.errors import ConfigError, Problem
from modelfactory.training.no_dynamo import eager_step, without_dynamo

_IMPLEMENTATION = ("fused", "foreach", "capturable")
_OF_VALUES = ("lr", "lr_scale", "unscaled_lr", "weight_decay", "betas", "eps", "alpha")  # on which what is kept does not depend


def named_state(optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """The optimizer's `state_dict` with names in place of numbers, and the shape and dtype of each parameter.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> state = named_state(torch.optim.SGD(model.parameters(), lr=0.1), model)
        >>> state["param_groups"][0]["params"], state["parameters"]["weight"]
        (['weight', 'bias'], [[1, 2], 'torch.float32'])
    """
    names = _names(optimizer, model)
    with without_dynamo():
        state = optimizer.state_dict()
    kept = {names[key] if isinstance(key, int) else key: value for key, value in state["state"].items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        "parameters": {name: _signature(parameter) for name, parameter in zip(names, parameters, strict=True)},
        "state": {name: kept[name] for name in dict.fromkeys([*names, *kept]) if name in kept},
        "param_groups": [{**group, "params": [names[index] for index in group["params"]]} for group in state["param_groups"]],
    }


def load_named_state(
    optimizer: Optimizer, model: nn.Module, saved: Mapping[str, Any], source: str, changed: Sequence[str] = ()
) -> list[str]:
    """Give each parameter its own state of `named_state`; the optimizer's groups and options stay as they are.

    Args:
        source: what an error calls the run that was saved.
        changed: config paths of what the optimizer was not saved with.

    Returns:
        A line for parameters that begin without a state, and one for states that no parameter takes.

    Raises:
        ConfigError: a parameter has another shape or dtype, or the optimizer as it is keeps what the saved one did not.
    """
    names = _names(optimizer, model)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kind = type(optimizer).__name__
    for name, parameter in zip(names, parameters, strict=True):
        before, here = saved["parameters"].get(name), _signature(parameter)
        if before is not None and list(before) != here:
            message = f"{name} is {here[0]} {here[1]} here and {list(before[0])} {before[1]} in {source}"
            raise ConfigError([Problem("optimizer", f"the state of {kind} belongs to other parameters: {message}")])
    states = {index: dict(saved["state"][name]) for index, name in enumerate(names) if saved["state"].get(name)}
    if changed:
        _check_kept(optimizer, states, source, changed)
    _fill_momentum(optimizer, states)
    others = {key: value for key, value in saved["state"].items() if key not in saved["parameters"]}
    with without_dynamo():
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": {**states, **others}, "param_groups": groups})
    return list(_left_over(names, saved))


def _names(optimizer: Optimizer, model: nn.Module) -> list[str]:
    """The name of each parameter, in the order of the groups."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [name_of[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _signature(parameter: Tensor) -> list[Any]:
    return [list(parameter.shape), str(parameter.dtype)]


def _left_over(names: Sequence[str], saved: Mapping[str, Any]) -> Iterator[str]:
    here = set(names)
    fresh = [name for name in names if name not in saved["parameters"]]
    dropped = [name for name in saved["parameters"] if name not in here]
    if fresh:
        yield f"{_some(fresh)} did not train before, and begins without the optimizer's state"
    if dropped:
        yield f"{_some(dropped)} does not train any more, and the optimizer's state of it is dropped"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _check_kept(optimizer: Optimizer, states: dict[int, dict[str, Any]], source: str, changed: Sequence[str]) -> None:
    """Take from the states what the optimizer does not keep, and raise where it keeps what they do not have.

    What it keeps is seen on a small parameter of as many dimensions, after one step.
    """
    kept: dict[tuple[int, int], set[str]] = {}
    index = -1
    for number, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            index += 1
            if index not in states:
                continue
            case = (number, parameter.ndim)
            if case not in kept:
                kept[case] = _kept_by(optimizer, group, parameter.ndim)
            missing = sorted(kept[case] - states[index].keys())
            if missing:
                what = f"{type(optimizer).__name__} then keeps {', '.join(map(repr, missing))} of each parameter, and {source} has none"
                cause = [path for path in changed if path.rpartition(".")[2] not in _OF_VALUES] or changed
                raise ConfigError([Problem(path, f"cannot be changed when the run is resumed: {what}") for path in cause])
            states[index] = {key: value for key, value in states[index].items() if key in kept[case]}


def _kept_by(optimizer: Optimizer, group: Mapping[str, Any], ndim: int) -> set[str]:
    options = {key: value for key, value in group.items() if key not in ("params", *_IMPLEMENTATION)}
    parameter = torch.zeros([2] * ndim, requires_grad=True)
    parameter.grad = torch.ones([2] * ndim)
    kind: Any = type(optimizer)
    with without_dynamo():
        small = kind([{"params": [parameter], **options}])
    eager_step(small)()
    return {key for key, value in small.state[parameter].items() if value is not None}


def _fill_momentum(optimizer: Optimizer, states: dict[int, dict[str, Any]]) -> None:
    """Begin the momentum of SGD at 0 where others of the group have one: its fused step takes all of a group, or none."""
    if not isinstance(optimizer, torch.optim.SGD):
        return
    index = 0
    for group in optimizer.param_groups:
        places = range(index, index + len(group["params"]))
        index += len(group["params"])
        has = [states.get(place, {}).get("momentum_buffer") is not None for place in places]
        if group["momentum"] and any(has) and not all(has):
            for place, parameter, there in zip(places, group["params"], has, strict=True):
                if not there:
                    states[place] = {"momentum_buffer": torch.zeros_like(parameter)}
