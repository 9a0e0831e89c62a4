"""Optimizers by `_target_`, with parameter groups picked by selectors.

optimizer:
  _target_: torch.optim.AdamW
  lr: 0.001
  groups:
    body: {match: "backbone.*", lr_scale: 0.1}
  layer_decay: 0.75        # each layer has 0.75 of the learning rate of the one after it
  no_decay: [norm, bias]   # roles without weight decay
  completep: {base_width: 64, base_branches: 4}
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from modelfactory.config import target
from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.config.schema import check_value, join
from modelfactory.parameters.completep import Multipliers, of_muon, of_sgd
from modelfactory.parameters.groups import GROUPING_KEYS, GroupAssignment, Grouping, GroupSpec, place_parameters, read_grouping
from modelfactory.parameters.info import ParamInfo
from modelfactory.parameters.roles import describe
from modelfactory.parameters.selector import SELECTOR_KEYS, nothing_picked
from modelfactory.training.muon import Muon
from modelfactory.training.no_dynamo import without_dynamo

DEFAULT = {"_target_": "torch.optim.AdamW", "lr": 1e-3}
# Numbers that torch leaves unchecked or checks after a model has been built; none of them may be negative.
NOT_NEGATIVE = frozenset({"lr", "weight_decay", "momentum", "eps", "alpha", "lr_decay", "lambd", "rho"})
_NEEDS_CLOSURE = ("LBFGS",)


@dataclass(frozen=True)
class OptimizerSpec:
    """A class of torch.optim, its arguments, and what differs between parts of the model."""

    kind: type[Optimizer]
    arguments: dict[str, Any]
    grouping: Grouping


def read_optimizer(mapping: Any, problems: Problems, path: str = "optimizer") -> OptimizerSpec | None:
    """The `optimizer` group of a config, AdamW at 0.001 where there is none; None after adding to `problems` all that is wrong.

    Example:
        >>> problems = Problems()
        >>> read_optimizer({"_target_": "torch.optim.AdamW", "lr": -1}, problems)
        >>> print(*problems)
        optimizer.lr: -1 is too small; give a number >= 0
    """
    found = len(problems)
    mapping = DEFAULT if mapping is None else mapping
    if not isinstance(mapping, Mapping):
        problems.add(path, f"{mapping!r} is not a mapping; give _target_, such as torch.optim.AdamW, and lr")
        return None
    name, arguments = target.split(mapping)
    given = {key: arguments.pop(key) for key in GROUPING_KEYS if key in arguments}
    kind = target.resolve(name, join(path, "_target_"), problems, kind="optimizer")
    if kind is None:
        return None
    if kind.__name__ in _NEEDS_CLOSURE:
        problems.add(join(path, "_target_"), f"{name!r} needs a closure, which the training loop has not; give torch.optim.AdamW")
        return None
    checked = _check_options(kind, arguments, path, problems)
    grouping = read_grouping(given, path, problems)
    grouping = replace(grouping, groups=tuple(_check_group(kind, group, join(path, "groups"), problems) for group in grouping.groups))
    if grouping.no_decay and "weight_decay" not in inspect.signature(kind).parameters:
        problems.add(join(path, "no_decay"), f"{list(grouping.no_decay)} is of weight decay, which {kind.__name__} has not; give []")
    if grouping.completep is not None:
        grouping = replace(grouping, turned=_turned(kind, checked, grouping, join(path, "completep"), problems))
    if len(problems) == found:
        _try(kind, checked, grouping.groups, path, problems)
    return OptimizerSpec(kind, checked, grouping) if len(problems) == found else None


def _turned(
    kind: type[Optimizer], arguments: Mapping[str, Any], grouping: Grouping, path: str, problems: Problems
) -> Callable[[Multipliers, Mapping[str, Any]], Multipliers]:
    """How CompleteP's multipliers for Adam become this optimizer's; one that it is not known of is a problem."""

    def unchanged(adam: Multipliers, options: Mapping[str, Any]) -> Multipliers:
        return adam

    def sgd(adam: Multipliers, options: Mapping[str, Any]) -> Multipliers:
        return of_sgd(adam)

    def muon(adam: Multipliers, options: Mapping[str, Any]) -> Multipliers:
        given = {**arguments, **options}
        return of_muon(adam, given.get("adjust_lr", "match_rms_adamw") == "match_rms_adamw") if given.get("muon") else adam

    known = {torch.optim.AdamW: unchanged, torch.optim.Adam: unchanged, torch.optim.SGD: sgd, Muon: muon}
    if kind not in known:
        problems.add(path, f"is not known of {kind.__name__}; give AdamW, Adam, SGD or modelfactory.Muon, or completep: null")
    every = [arguments, *({**arguments, **group.options} for group in grouping.groups)]
    if kind is torch.optim.Adam and any(each.get("weight_decay") and not each.get("decoupled_weight_decay") for each in every):
        problems.add(path, "has no rule for the weight decay of Adam, which is a part of the gradient; give torch.optim.AdamW")
    return known.get(kind, unchanged)


def _check_options(
    kind: type[Optimizer], options: Mapping[str, Any], path: str, problems: Problems, also: tuple[str, ...] = GROUPING_KEYS
) -> dict[str, Any]:
    """The arguments in torch's types; `also` are the other keys that the place has."""
    if "params" in options:
        problems.add(join(path, "params"), "not a key here; the model's parameters are used, and groups pick among them")
        options = {key: value for key, value in options.items() if key != "params"}
    if options.get("differentiable"):
        problems.add(join(path, "differentiable"), "true needs a step that is differentiated, which the training loop has not; give false")
    plain = {key: value for key, value in options.items() if key not in NOT_NEGATIVE}
    checked = target.check_arguments(kind, plain, path, problems, inferred={"params", *NOT_NEGATIVE}, also=also) or {}
    takes = inspect.signature(kind).parameters
    for key in options.keys() & NOT_NEGATIVE:
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


def _check_group(kind: type[Optimizer], group: GroupSpec, path: str, problems: Problems) -> GroupSpec:
    """The group with its options in torch's types."""
    checked = _check_options(kind, group.options, join(path, group.name), problems, also=("lr_scale", "base_width", *SELECTOR_KEYS))
    return replace(group, options=checked)


def _try(kind: type[Optimizer], arguments: dict[str, Any], groups: tuple[GroupSpec, ...], path: str, problems: Problems) -> None:
    """Builds it on one small matrix, for what only torch's constructor knows (nesterov without momentum, ...)."""
    places = [(path, arguments), *((join(path, f"groups.{group.name}"), {**arguments, **group.options}) for group in groups)]
    for where, options in places:
        try:
            with without_dynamo():
                kind([torch.zeros(1, 1, requires_grad=True)], **options)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            problems.add(where, f"{kind.__name__} refuses it: {error}")
            return


def build_optimizer(
    spec: OptimizerSpec,
    model: nn.Module,
    *,
    thawed_later: Mapping[str, int] | None = None,
    path: str = "optimizer",
) -> Optimizer:
    """A torch optimizer over the trainable parameters of `model`, with the groups of the config.

    A parameter is in one group: the last that picks it, else the default one, which has the optimizer's own options;
    `layer_decay`, `no_decay`, `base_width` and `completep` divide groups further. Frozen parameters are in none, but for those of
    `thawed_later`, which have no gradient and so are passed over until then: no step, no weight decay, no state.
    Each group carries its `name`, `lr_scale` and `unscaled_lr`. Where neither `fused` nor `foreach` is given, the fused
    kernel is used where the optimizer has one for the device, and the one of lists of tensors elsewhere.

    Args:
        thawed_later: names of parameters that are frozen at first, with the epoch that thaws each.

    Raises:
        ConfigError: a group that picks nothing, or nothing to train.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> groups = {"head": {"match": "1.*", "lr_scale": 10.0}}
        >>> spec = read_optimizer({"_target_": "torch.optim.SGD", "lr": 0.1, "groups": groups}, Problems())
        >>> optimizer = build_optimizer(spec, model)
        >>> [(group["name"], group["lr"], len(group["params"])) for group in optimizer.param_groups]
        [('default', 0.1, 2), ('head', 1.0, 2)]
    """
    infos = describe(model)
    trainable = [info for info in infos if info.parameter.requires_grad or thawed_later and set(info.names) & set(thawed_later)]
    if not trainable:
        why = "every parameter of the model is frozen" if infos else "the model has no parameters"
        raise ConfigError([Problem(path, f"there is nothing to train: {why}")])
    if not any(info.parameter.requires_grad for info in trainable):
        raise ConfigError([Problem(path, "there is nothing to train at first: every parameter is frozen until a later epoch")])
    _check_picked(spec.grouping, infos, trainable, path)
    if spec.grouping.completep is not None:
        _check_untied(trainable, join(path, "completep"))
    groups: dict[tuple[int, str], dict[str, Any]] = {}
    places = place_parameters(model, trainable, spec.grouping, thawed_later)
    for info, place in zip(trainable, places, strict=True):
        lr = _given(spec, place, "lr")
        own = {**place.options, **({"lr": lr * place.lr_scale, "unscaled_lr": lr} if isinstance(lr, (int, float)) else {})}
        for name, scale in (("weight_decay", place.decay_scale), ("eps", place.eps_scale)):
            if scale != 1 and isinstance(value := _given(spec, place, name), (int, float)):
                own[name] = value * scale
        rank = -1 if place.spec is None else spec.grouping.groups.index(place.spec)
        group = groups.setdefault((rank, place.group), {"params": [], "name": place.group, **own, "lr_scale": place.lr_scale})
        group["params"].append(info.parameter)
    param_groups = [groups[place] for place in sorted(groups, key=lambda place: place[0])]  # the default one first
    arguments = {**_implementation(spec, model, [info.parameter for info in trainable]), **spec.arguments}
    try:
        with without_dynamo():
            return spec.kind(param_groups, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError([Problem(path, f"{spec.kind.__name__} refuses this model: {error}")]) from error


def _given(spec: OptimizerSpec, place: GroupAssignment, name: str) -> Any:
    """An option as a group, or the optimizer, has it; None of one that it does not take."""
    takes = inspect.signature(spec.kind).parameters.get(name)
    return None if takes is None else place.options.get(name, spec.arguments.get(name, takes.default))


def _check_untied(infos: Sequence[ParamInfo], path: str) -> None:
    tied = next((info for info in infos if "tied" in info.roles and "embedding" in info.roles), None)
    if tied is not None:
        what = f"the head is the embedding {tied.name}, and one matrix cannot have the learning rates of both"
        raise ConfigError([Problem(path, f"{what}; give the head its own, by tie: null beside it (model.layers.head.tie=null)")])


def _check_picked(grouping: Grouping, infos: Sequence[ParamInfo], trainable: Sequence[ParamInfo], path: str) -> None:
    problems = Problems()
    for group in grouping.groups:
        if not group.selector.optional and not group.selector.select(trainable):
            only_frozen = group.selector.select(infos)
            why = f"{group.selector} picks frozen parameters only (optional: true allows it)"
            problems.add(join(path, f"groups.{group.name}"), why if only_frozen else nothing_picked(group.selector, infos))
    problems.raise_if_any()


def _implementation(spec: OptimizerSpec, model: nn.Module, parameters: list[nn.Parameter]) -> dict[str, bool]:
    """`fused` or `foreach`, whichever this optimizer has for these parameters; nothing where the config chose."""
    takes = inspect.signature(spec.kind).parameters
    chosen = [spec.arguments.get(key) for key in ("fused", "foreach", "differentiable")]
    chosen += [group.options.get(key) for group in spec.grouping.groups for key in ("fused", "foreach", "differentiable")]
    sparse = any(getattr(module, "sparse", False) for module in model.modules())
    if any(value is not None for value in chosen) or sparse:
        return {}
    if "fused" in takes and {"cpu", "cuda", "xpu", "mps"}.issuperset(parameter.device.type for parameter in parameters):
        if all(parameter.is_floating_point() for parameter in parameters):
            return {"fused": True}
    return {"foreach": True} if "foreach" in takes else {}
