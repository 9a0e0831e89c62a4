"""Optimizers by `_target_`, with parameter groups picked by selectors.

optimizer:
  _target_: torch.optim.AdamW
  lr: 0.001
  groups:
    body: {match: "backbone.*", lr_scale: 0.1}
    no_decay: {role: [bias, norm], weight_decay: 0.0}
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from modelfactory import target
from modelfactory.eager import without_dynamo
from modelfactory.errors import ConfigError, Problem, Problems
from modelfactory.select import SELECTOR_KEYS, Selector, describe, nothing_picked
from modelfactory.spec import check_value, join

DEFAULT = {"_target_": "torch.optim.AdamW", "lr": 1e-3}
# Numbers that torch leaves unchecked or checks after a model has been built; none of them may be negative.
_NOT_NEGATIVE = frozenset({"lr", "weight_decay", "momentum", "eps", "alpha", "lr_decay", "lambd", "rho"})
_NEEDS_CLOSURE = ("LBFGS",)


@dataclass(frozen=True)
class GroupSpec:
    """One group of parameters: what picks it, and the options that differ from the optimizer's."""

    name: str
    selector: Selector
    options: dict[str, Any]


@dataclass(frozen=True)
class OptimizerSpec:
    """A class of torch.optim, its arguments, and the groups in the order of the config."""

    kind: type[Optimizer]
    arguments: dict[str, Any]
    groups: tuple[GroupSpec, ...]


def check_optimizer(mapping: Any, problems: Problems, path: str = "optimizer") -> OptimizerSpec | None:
    """The `optimizer` group of a config, or None after adding to `problems` all that is wrong.

    Example:
        >>> problems = Problems()
        >>> check_optimizer({"_target_": "torch.optim.AdamW", "lr": -1}, problems)
        >>> print(*problems)
        optimizer.lr: -1 is too small; give a number >= 0
    """
    found = len(problems)
    if not isinstance(mapping, Mapping):
        problems.add(path, f"{mapping!r} is not a mapping; give _target_, such as torch.optim.AdamW, and lr")
        return None
    name, arguments = target.split(mapping)
    groups = arguments.pop("groups", None)
    groups = {} if groups is None else groups
    kind = target.resolve(name, join(path, "_target_"), problems, kind="optimizer")
    if kind is None:
        return None
    if kind.__name__ in _NEEDS_CLOSURE:
        problems.add(join(path, "_target_"), f"{name!r} needs a closure, which the training loop has not; give torch.optim.AdamW")
        return None
    checked = _check_options(kind, arguments, path, problems)
    specs = _check_groups(kind, groups, join(path, "groups"), problems)
    if len(problems) == found:
        _try(kind, checked, specs, path, problems)
    return OptimizerSpec(kind, checked, specs) if len(problems) == found else None


def _check_options(
    kind: type[Optimizer], options: Mapping[str, Any], path: str, problems: Problems, also: tuple[str, ...] = ("groups",)
) -> dict[str, Any]:
    """The arguments in torch's types; `also` are the other keys that the place has."""
    if "params" in options:
        problems.add(join(path, "params"), "not a key here; the model's parameters are used, and groups pick among them")
        options = {key: value for key, value in options.items() if key != "params"}
    if options.get("differentiable"):
        problems.add(join(path, "differentiable"), "true needs a step that is differentiated, which the training loop has not; give false")
    plain = {key: value for key, value in options.items() if key not in _NOT_NEGATIVE}
    checked = target.check_arguments(kind, plain, path, problems, inferred={"params", *_NOT_NEGATIVE}, also=also) or {}
    takes = inspect.signature(kind).parameters
    for key in options.keys() & _NOT_NEGATIVE:
        if key not in takes:
            target.check_arguments(kind, {key: options[key]}, path, problems, inferred={"params"}, also=also)
        else:
            checked[key] = check_value(options[key], float, join(path, key), problems, {"min": 0})
    if "betas" in checked:
        before, where = len(problems), join(path, "betas")
        betas = check_value(checked["betas"], tuple[float, ...], where, problems)
        if len(problems) == before and len(betas) != 2 and kind.__module__.startswith("torch.optim"):
            problems.add(where, f"{list(betas)} is not two numbers; give such as [0.9, 0.999]")
        for beta in betas if len(problems) == before else ():
            if not 0 <= beta < 1:
                problems.add(where, f"{beta!r} is not in 0 <= beta < 1")
    return checked


def _check_groups(kind: type[Optimizer], groups: Any, path: str, problems: Problems) -> tuple[GroupSpec, ...]:
    if not isinstance(groups, Mapping):
        problems.add(path, f"{groups!r} is not a mapping; give named groups, each with match, module or role")
        return ()
    specs = []
    for name, group in groups.items():
        where = join(path, name)
        if group is None:  # a group of the config that a command line took out
            continue
        if not isinstance(group, Mapping):
            problems.add(where, f"{group!r} is not a mapping; give match, module or role, and lr_scale or another option")
            continue
        if name == "default":
            problems.add(where, "'default' is the group of all that no other picks; choose another name")
        selector = Selector.read(group, where, problems)
        options = {key: value for key, value in group.items() if key not in SELECTOR_KEYS}
        scale = check_value(options.pop("lr_scale", 1.0), float, join(where, "lr_scale"), problems, {"min": 0})
        if "lr" in options and "lr_scale" in group:
            problems.add(join(where, "lr_scale"), f"{group['lr_scale']!r} and lr: {options['lr']!r} are both given; give one")
        checked = _check_options(kind, options, where, problems, also=("lr_scale", *SELECTOR_KEYS))
        if selector is not None:
            specs.append(GroupSpec(str(name), selector, {"lr_scale": scale, **checked}))
    return tuple(specs)


def _try(kind: type[Optimizer], arguments: dict[str, Any], groups: tuple[GroupSpec, ...], path: str, problems: Problems) -> None:
    """Builds it on one small matrix, for what only torch's constructor knows (nesterov without momentum, ...)."""
    places = [(path, arguments), *((join(path, f"groups.{group.name}"), {**arguments, **group.options}) for group in groups)]
    for where, options in places:
        options = {key: value for key, value in options.items() if key != "lr_scale"}
        try:
            with without_dynamo():
                kind([torch.zeros(1, 1, requires_grad=True)], **options)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            problems.add(where, f"{kind.__name__} refuses it: {error}")
            return


def build_optimizer(
    mapping: Mapping[str, Any], model: nn.Module, *, thawed_later: Collection[str] = (), path: str = "optimizer"
) -> Optimizer:
    """A torch optimizer over the trainable parameters of `model`, with the groups of the config.

    A parameter is in one group: the last that picks it, else the first of the list, which has the optimizer's own
    options. Frozen ones are in none, but for those that `thawed_later` names. Each group carries its `name` and
    `lr_scale`. Where neither `fused` nor `foreach` is given, the fused kernel is used where the optimizer has one for
    the device, and the one of lists of tensors elsewhere.

    Raises:
        ConfigError: what `check_optimizer` says, a group that picks nothing, or nothing to train.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> groups = {"head": {"match": "1.*", "lr_scale": 10.0}}
        >>> optimizer = build_optimizer({"_target_": "torch.optim.SGD", "lr": 0.1, "groups": groups}, model)
        >>> [(group["name"], group["lr"], len(group["params"])) for group in optimizer.param_groups]
        [('default', 0.1, 2), ('head', 1.0, 2)]
    """
    problems = Problems()
    spec = check_optimizer(mapping, problems, path)
    if spec is None:
        raise ConfigError(problems)
    members = _members(spec, model, thawed_later, path)
    lr_argument = inspect.signature(spec.kind).parameters.get("lr")
    base_lr = spec.arguments.get("lr", None if lr_argument is None else lr_argument.default)
    param_groups = []
    for name, options, parameters in members:
        scale = options.get("lr_scale", 1.0)
        lr = {"lr": base_lr * scale} if isinstance(base_lr, (int, float)) else {}
        own = {**lr, **options, "lr_scale": scale}
        param_groups.append({"params": parameters, "name": name, **own})
    every = [parameter for group in param_groups for parameter in group["params"]]
    arguments = {**_implementation(spec, model, every), **spec.arguments}
    try:
        with without_dynamo():
            return spec.kind(param_groups, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError([Problem(path, f"{spec.kind.__name__} refuses this model: {error}")]) from error


def _members(
    spec: OptimizerSpec, model: nn.Module, thawed_later: Collection[str], path: str
) -> list[tuple[str, dict[str, Any], list[nn.Parameter]]]:
    """Name, options and parameters of each group that has any."""
    infos = describe(model)
    trainable = [info for info in infos if info.parameter.requires_grad or set(info.names) & set(thawed_later)]
    if not trainable:
        why = "every parameter of the model is frozen" if infos else "the model has no parameters"
        raise ConfigError([Problem(path, f"there is nothing to train: {why}")])
    problems = Problems()
    group_of = dict.fromkeys((info.name for info in trainable), -1)
    for index, group in enumerate(spec.groups):
        picked = group.selector.select(trainable)
        if not picked and not group.selector.optional:
            only_frozen = group.selector.select(infos)
            why = f"{group.selector} picks frozen parameters only (optional: true allows it)"
            problems.add(join(path, f"groups.{group.name}"), why if only_frozen else nothing_picked(group.selector, infos))
        for info in picked:
            group_of[info.name] = index
    problems.raise_if_any()
    options = [("default", {}), *((group.name, group.options) for group in spec.groups)]
    members = []
    for index, (name, own) in enumerate(options, start=-1):
        parameters = [info.parameter for info in trainable if group_of[info.name] == index]
        if parameters:
            members.append((name, own, parameters))
    return members


def _implementation(spec: OptimizerSpec, model: nn.Module, parameters: list[nn.Parameter]) -> dict[str, bool]:
    """`fused` or `foreach`, whichever this optimizer has for these parameters; nothing where the config chose."""
    takes = inspect.signature(spec.kind).parameters
    chosen = [spec.arguments.get(key) for key in ("fused", "foreach", "differentiable")]
    chosen += [group.options.get(key) for group in spec.groups for key in ("fused", "foreach", "differentiable")]
    sparse = any(getattr(module, "sparse", False) for module in model.modules())
    if any(value is not None for value in chosen) or sparse:
        return {}
    if "fused" in takes and {"cpu", "cuda", "xpu", "mps"}.issuperset(parameter.device.type for parameter in parameters):
        if all(parameter.is_floating_point() for parameter in parameters):
            return {"fused": True}
    return {"foreach": True} if "foreach" in takes else {}
