"""Freezing: parameters that do not train, and parts that stay in evaluation mode.

A frozen parameter has `requires_grad` False. A part of the model all of whose parameters are frozen is frozen whole: it
stays in evaluation mode, whatever calls `model.train()`. So norm layers use, and keep, the statistics they have, and
dropout and drop path do not act: the part is a fixed function, and what follows sees in training what it sees in validation.
With `dropout` true they go on acting as in training, and only what keeps statistics is held: norm layers, and other
innermost modules with buffers, such as a spectral norm, whose vectors move in training mode.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm

from modelfactory.config.compose import plain_nodes
from modelfactory.config.errors import Problems, did_you_mean
from modelfactory.config.own_groups import read_groups
from modelfactory.config.schema import check_value, join
from modelfactory.parameters.info import ParamInfo
from modelfactory.parameters.layer_rules import Definition
from modelfactory.parameters.residual import Outline
from modelfactory.parameters.roles import describe
from modelfactory.parameters.selector import SELECTOR_KEYS, Selector, nothing_picked, read_selector

_RULE_KEYS = (*SELECTOR_KEYS, "frozen", "until")
_KEYS = ("rules", "dropout")


@dataclass(frozen=True)
class FreezeRule:
    """One named rule: what it picks is frozen, or with `frozen` False is not.

    Attributes:
        until: the epoch, counted from 1, that thaws it: the first in which it trains; None: never.
    """

    path: str
    selector: Selector
    frozen: bool = True
    until: int | None = None


@dataclass(frozen=True)
class FreezeSpec:
    """The `freeze` group.

    Attributes:
        rules: in order; a later one wins.
        dropout: whether dropout and drop path go on acting in parts frozen whole.
    """

    rules: tuple[FreezeRule, ...] = field(default=())
    dropout: bool = False


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
        if name not in _KEYS:
            problems.add(join(path, name), f"not a key of freeze{did_you_mean(str(name), _KEYS)}")
    dropout = check_value(value.get("dropout", False), bool, join(path, "dropout"), problems)
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
        until = _read_until(rule.get("until"), join(where, "until"), problems)
        if until is not None and frozen is False:
            problems.add(join(where, "until"), f"{rule['until']!r} thaws nothing, since frozen is false; give one of them")
        if selector is not None:
            rules.append(FreezeRule(where, selector, frozen, until))
    return FreezeSpec(tuple(rules), dropout) if len(problems) == found else None


def _read_until(value: Any, path: str, problems: Problems) -> int | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != {"epoch"}:
        problems.add(path, f"{value!r} does not say until when; give {{epoch: 3}}, the first epoch in which it trains")
        return None
    return check_value(value["epoch"], int, join(path, "epoch"), problems, {"min": 2})


def choose_frozen(
    infos: Sequence[ParamInfo], spec: FreezeSpec, definitions: Mapping[str, Definition], problems: Problems
) -> dict[int, int | None]:
    """The `id` of every parameter to freeze, and of every module that has buffers and no parameters, with the epoch that thaws it
    (None: never).

    One rule decides over a parameter, and decides for the whole training: what it thaws is not caught by an earlier one.
    A rule that picks nothing is a problem, unless it is optional.
    """
    if not spec.rules and all(definition.freeze is None for definition in definitions.values()):
        return {}
    frozen: dict[int, int | None] = {}
    for info in infos:
        winner = next((rule for rule in reversed(spec.rules) if rule.selector.picks(info)), None)
        _decide(frozen, id(info.parameter), winner, _beside(info.module_name, definitions))
    outline = infos[0].outline if infos else Outline()
    for name, module in outline.stateful:
        winner = next((rule for rule in reversed(spec.rules) if rule.selector.picks_state(name, module, outline)), None)
        _decide(frozen, id(module), winner, _beside(name, definitions))
    for rule in spec.rules:
        if not rule.selector.optional and not rule.selector.select(infos) and not _states(rule.selector, infos):
            problems.add(rule.path, nothing_picked(rule.selector, infos))
    return frozen


def _decide(frozen: dict[int, int | None], key: int, winner: FreezeRule | None, beside: bool | None) -> None:
    """Enters what the last rule that picks it, or what stands beside its layer, says of one parameter or module."""
    if winner is not None and (beside is None or winner.selector.names_parameters):
        if winner.frozen:
            frozen[key] = winner.until
    elif beside:
        frozen[key] = None


def _states(selector: Selector, infos: Sequence[ParamInfo]) -> list[nn.Module]:
    """The modules with buffers and without parameters that a selector picks."""
    outline = infos[0].outline if infos else Outline()
    return [module for name, module in outline.stateful if selector.picks_state(name, module, outline)]


def _beside(module_name: str, definitions: Mapping[str, Definition]) -> bool | None:
    """What the innermost layer around a module says of freezing."""
    while True:
        definition = definitions.get(module_name)
        if definition is not None and definition.freeze is not None:
            return definition.freeze
        if not module_name:
            return None
        module_name = module_name.rpartition(".")[0]


def apply_frozen(model: nn.Module, frozen: Collection[int], dropout: bool = False) -> None:
    """Freezes the parameters with these ids, and holds the parts that are frozen whole in evaluation mode, as well as the modules
    with these ids, which have buffers and no parameters.

    Args:
        frozen: a mapping has the epoch that thaws each; None: never.
    """
    if not frozen:
        return
    for parameter in model.parameters():
        if id(parameter) in frozen:
            parameter.requires_grad_(False)
    for module in model.modules():
        if id(module) in frozen:
            hold(module, picked=True, until=frozen.get(id(module)) if isinstance(frozen, Mapping) else None)
    for module in _to_hold(model, dropout):
        hold(module)


def thaw(model: nn.Module, thaws: Mapping[str, int], epoch: int, dropout: bool = False) -> list[str]:
    """Thaws what is due at the beginning of `epoch`; returns the names of what was frozen until now.

    Parts that are not frozen whole any more follow `model.train()` again.

    Args:
        thaws: parameter names, with the first epoch in which each trains.
        dropout: as in `FreezeSpec`.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        >>> names = freeze(model, ["0.*", "1.*"])
        >>> thaw(model, {"1.weight": 3, "1.bias": 3}, epoch=3)
        ['1.weight', '1.bias']
        >>> model.train()[1].training
        True
    """
    due = [name for name, at in thaws.items() if at <= epoch and not model.get_parameter(name).requires_grad]
    states = [module for module in model.modules() if (until := _how_held(module).get("until")) is not None and until <= epoch]
    for module in states:
        release(module)
    if due or states:
        for name in due:
            model.get_parameter(name).requires_grad_(True)
        still = _to_hold(model, dropout)
        for module in model.modules():
            if module not in still and _is_held(module):
                release(module)
    return due


def _to_hold(model: nn.Module, dropout: bool) -> set[nn.Module]:
    """Modules that stay in evaluation mode as the parameters are frozen at present."""
    picked = {module for module in model.modules() if _how_held(module).get("picked") or _moves_frozen(module)}
    whole = {module for module in model.modules() if _is_frozen_whole(module)}
    tops = [*whole, *(child for module in model.modules() for child in _between(module, whole))]
    inside = {inner for module in tops for inner in module.modules()}
    if dropout:
        return picked | {module for module in inside if _keeps_statistics(module)}
    # cuDNN has no gradient through a recurrent layer in evaluation mode, which is the same where there is no dropout
    return picked | {module for module in inside if not (isinstance(module, nn.RNNBase) and not module.dropout)}


def _is_frozen_whole(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _moves_frozen(module: nn.Module) -> bool:
    """Whether a hook of this module would move vectors that go with a frozen weight: torch.nn.utils.spectral_norm."""
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, SpectralNorm)]
    return any(not getattr(module, f"{hook.name}_orig").requires_grad for hook in hooks)


def _between(module: nn.Module, whole: Collection[nn.Module]) -> Iterator[nn.Module]:
    """Children of a chain without parameters before one that is frozen whole, with nothing that trains right before them."""
    if type(module) is not nn.Sequential:
        return
    waiting: list[nn.Module] = []
    passed = True  # whether what came last, if anything, is frozen whole
    for child in module:
        if next(child.parameters(), None) is None:
            waiting.append(child)
            continue
        if passed and child in whole:
            yield from waiting
        waiting, passed = [], child in whole


def _keeps_statistics(module: nn.Module) -> bool:
    own = any(buffer is not None for buffer in module._buffers.values())
    return own and (not module._modules or getattr(module, "running_mean", None) is not None)


def hold(module: nn.Module, picked: bool = False, until: int | None = None) -> None:
    """Keeps a module in evaluation mode, also when `train()` is called on it or on what holds it.

    Args:
        picked: whether it is held for itself, and not for its parameters, which are frozen.
        until: the epoch that releases what is picked; None: never.

    Example:
        >>> norm = nn.BatchNorm1d(3)
        >>> hold(norm)
        >>> nn.Sequential(norm).train()[0].training
        False
    """
    module.training = False
    if not picked:
        picked, until = _how_held(module).get("picked", False), _how_held(module).get("until")
    module.__dict__["train"] = partial(_stay, module, **({"picked": True, "until": until} if picked else {}))


def release(module: nn.Module) -> None:
    """Undoes `hold`; the module stays in evaluation mode until `train()` is called."""
    module.__dict__.pop("train", None)


def _is_held(module: nn.Module) -> bool:
    return getattr(module.__dict__.get("train"), "func", None) is _stay


def _how_held(module: nn.Module) -> Mapping[str, Any]:
    """What `hold` was told; empty where the module is not held."""
    return module.__dict__["train"].keywords if _is_held(module) else {}


def _stay(module: nn.Module, mode: bool = True, picked: bool = False, until: int | None = None) -> nn.Module:
    """In place of `module.train`: what is held stays in evaluation mode, and each child does what is due to itself."""
    module.training = False
    for child in module.children():
        child.train(mode)
    return module


def freeze(model: nn.Module, what: Any, dropout: bool | None = None, *, at: str | None = None) -> list[str]:
    """Freeze parameters of any model, built here or not, and hold parts frozen whole in evaluation mode.

    Args:
        what: globs over parameter names, or selectors (mappings of match, module, role, before, after); or the `freeze` node of a
            config, `cfg.freeze`, or a config that has one. What its rules thaw at an epoch is frozen.
        dropout: whether dropout and drop path go on acting in parts frozen whole; what keeps statistics never moves. None: what the
            node says, or else no.
        at: where in a config the groups are, as for `build`.

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
    if at is not None or isinstance(what, Mapping) and "freeze" in what:
        found = read_groups(what, ("freeze",), at)
        with found.told():
            return freeze(model, found.config.get("freeze"), dropout)
    problems = Problems()
    infos = describe(model)
    what = what if isinstance(what, str) else plain_nodes(what, resolve=True)
    if what is None or isinstance(what, Mapping) and "rules" in what:
        spec = read_freeze(what, "freeze", problems)
        problems.raise_if_any()
        picked = set(choose_frozen(infos, spec or FreezeSpec(), {}, problems))
        dropout = spec.dropout if dropout is None and spec is not None else dropout
    else:
        picked = _pick(infos, [what] if isinstance(what, (str, Mapping)) else what, problems)
    problems.raise_if_any()
    apply_frozen(model, picked, bool(dropout))
    return [info.name for info in infos if id(info.parameter) in picked]


def _pick(infos: Sequence[ParamInfo], what: Iterable[Any], problems: Problems) -> set[int]:
    """The `id` of each parameter that a glob or selector picks."""
    picked = set()
    for index, item in enumerate(what):
        selector = read_selector(item, f"freeze[{index}]", problems)
        found = selector.select(infos) if selector is not None else []
        states = _states(selector, infos) if selector is not None else []
        if selector is not None and not found and not states and not selector.optional:
            problems.add(f"freeze[{index}]", nothing_picked(selector, infos))
        picked.update(id(info.parameter) for info in found)
        picked.update(map(id, states))
    return picked
