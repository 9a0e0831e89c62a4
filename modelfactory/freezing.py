"""Freezing: parameters that do not train, and norm layers whose statistics do not move.

A frozen parameter has `requires_grad` False. A norm layer with running statistics all of whose parameters are frozen
stays in evaluation mode whatever calls `model.train()`, so that it uses, and keeps, the statistics it has. So does any
other innermost module with buffers, such as a spectral norm, whose vectors move in training mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from modelfactory.definition import Definition
from modelfactory.errors import Problems, did_you_mean
from modelfactory.select import SELECTOR_KEYS, ParamInfo, Selector, describe, nothing_picked, read_selector
from modelfactory.spec import check_value, join

_RULE_KEYS = (*SELECTOR_KEYS, "frozen")


@dataclass(frozen=True)
class FreezeRule:
    """One named rule: what it picks is frozen, or with `frozen` False is not."""

    path: str
    selector: Selector
    frozen: bool = True


@dataclass(frozen=True)
class FreezeSpec:
    """The `freeze` group: its rules in order; a later one wins."""

    rules: tuple[FreezeRule, ...] = field(default=())


def read_freeze(value: Any, path: str, problems: Problems) -> FreezeSpec | None:
    """The `freeze` group, `{rules: {name: {match: ..., frozen: true}}}`, or None after adding what is wrong.

    Example:
        >>> read_freeze({"rules": {"body": {"match": "body.*"}}}, "freeze", Problems()).rules[0].selector.match
        ('body.*',)
    """
    found = len(problems)
    if value is None:
        return FreezeSpec()
    if not isinstance(value, Mapping):
        problems.add(path, f"{value!r} is not a mapping; give rules: {{name: {{match: ...}}}}")
        return None
    for name in value:
        if name != "rules":
            problems.add(join(path, name), f"not a key of freeze{did_you_mean(str(name), ('rules',))}")
    rules = []
    given = {} if value.get("rules") is None else value["rules"]
    if not isinstance(given, Mapping):
        problems.add(join(path, "rules"), f"{given!r} is not a mapping; give name: {{match: ...}}")
        given = {}
    for name, rule in given.items():
        where = join(join(path, "rules"), name)
        if rule is None:  # a rule of the config that a command line took out
            continue
        if not isinstance(rule, Mapping):
            problems.add(where, f"{rule!r} is not a rule; give a mapping of match, module or role")
            continue
        for key in rule:
            if key not in _RULE_KEYS:
                problems.add(join(where, key), f"not a key of a freeze rule{did_you_mean(str(key), _RULE_KEYS)}")
        selector = Selector.read(rule, where, problems)
        frozen = check_value(rule.get("frozen", True), bool, join(where, "frozen"), problems)
        if selector is not None:
            rules.append(FreezeRule(where, selector, frozen))
    return FreezeSpec(tuple(rules)) if len(problems) == found else None


def choose_frozen(
    infos: Sequence[ParamInfo], spec: FreezeSpec, definitions: Mapping[str, Definition], problems: Problems
) -> set[int]:
    """The `id` of every parameter to freeze. A rule that picks nothing is a problem, unless it is optional."""
    if not spec.rules and all(definition.freeze is None for definition in definitions.values()):
        return set()
    frozen = set()
    for info in infos:
        winner = next((rule for rule in reversed(spec.rules) if rule.selector.picks(info)), None)
        beside = _beside(info.module_name, definitions)
        if winner is not None and (beside is None or winner.selector.names_parameters):
            beside = winner.frozen
        if beside:
            frozen.add(id(info.parameter))
    for rule in spec.rules:
        if not rule.selector.optional and not rule.selector.select(infos):
            problems.add(rule.path, nothing_picked(rule.selector, infos))
    return frozen


def _beside(module_name: str, definitions: Mapping[str, Definition]) -> bool | None:
    """What the innermost layer around a module says of freezing."""
    while True:
        definition = definitions.get(module_name)
        if definition is not None and definition.freeze is not None:
            return definition.freeze
        if not module_name:
            return None
        module_name = module_name.rpartition(".")[0]


def apply_frozen(model: nn.Module, frozen: set[int]) -> None:
    """Freezes the parameters with these ids, and holds the statistics of norm layers that are frozen whole."""
    if not frozen:
        return
    for parameter in model.parameters():
        if id(parameter) in frozen:
            parameter.requires_grad_(False)
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            for norm in module.modules():
                if _keeps_statistics(norm):
                    hold_statistics(norm)


def _keeps_statistics(module: nn.Module) -> bool:
    own = any(buffer is not None for buffer in module._buffers.values())
    return own and (not module._modules or getattr(module, "running_mean", None) is not None)


def hold_statistics(norm: nn.Module) -> None:
    """Keeps a norm layer in evaluation mode, also when `train()` is called on it or on what holds it.

    Example:
        >>> norm = nn.BatchNorm1d(3)
        >>> hold_statistics(norm)
        >>> nn.Sequential(norm).train()[0].training
        False
    """
    norm.train(False)
    norm.__dict__["train"] = partial(_stay, norm)


def release_statistics(norm: nn.Module) -> None:
    """Undoes `hold_statistics`."""
    norm.__dict__.pop("train", None)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """In place of `module.train`: a frozen norm layer stays in evaluation mode."""
    return nn.Module.train(module, False)


def freeze(model: nn.Module, what: Iterable[Any]) -> list[str]:
    """Freezes parameters of any model, built here or not, and holds the statistics of norm layers frozen whole.

    Args:
        what: globs over parameter names, or selectors (mappings of match, module, role).

    Returns:
        The names of the parameters that the selectors picked, in the model's order.

    Raises:
        ConfigError: a selector picks nothing, or is none.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        >>> freeze(model, ["0.*", {"role": "norm"}])
        ['0.weight', '0.bias', '1.weight', '1.bias']
        >>> model.train()[1].training
        False
    """
    problems = Problems()
    infos = describe(model)
    if isinstance(what, (str, Mapping)):
        what = [what]
    picked = set()
    for index, item in enumerate(what):
        selector = read_selector(item, f"freeze[{index}]", problems)
        found = selector.select(infos) if selector is not None else []
        if selector is not None and not found and not selector.optional:
            problems.add(f"freeze[{index}]", nothing_picked(selector, infos))
        picked.update(id(info.parameter) for info in found)
    problems.raise_if_any()
    apply_frozen(model, picked)
    return [info.name for info in infos if id(info.parameter) in picked]
