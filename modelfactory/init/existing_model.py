"""Initialises parts of a model that exists already, by the same rules as one that a config describes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from modelfactory.config.compose import plain_nodes
from modelfactory.config.errors import ConfigError, Problem, Problems, SchemeError
from modelfactory.config.own_groups import read_groups
from modelfactory.config.schema import check_value
from modelfactory.init.assign import Assignment, assign, wants_shape
from modelfactory.init.auto import needs_acting, resolve_auto
from modelfactory.init.calibrate import CalibrateSpec, calibrate
from modelfactory.init.choose import Choice, Chooser, uses_auto_gain
from modelfactory.init.custom_scheme import as_it_was, is_own
from modelfactory.init.default import reset_of
from modelfactory.init.fill import fill, measure
from modelfactory.init.input_activation import acting_on
from modelfactory.init.ledger import Ledger, ledger_row
from modelfactory.init.rule_warnings import plan_warnings
from modelfactory.init.rules import InitSpec, Rule, read_init, read_rules
from modelfactory.numerics.fingerprint import digest
from modelfactory.parameters.roles import describe


def initialize(
    model: nn.Module,
    rules: Any,
    seed: int | None = None,
    example: torch.Tensor | None = None,
    fans: str | None = None,
    *,
    at: str | None = None,
) -> Ledger:
    """Initialise a part of an existing model, in place; every other parameter stays as it is, and so does every row of a
    packed one (query, key, value; gates) that no rule picks.

    Args:
        rules: one rule, `{"match": "fc2.*", "scheme": "xavier_normal"}`; several by name, `{"head": {...}, ...}`; a list of
            rules; the name of a scheme for all weights, with biases at 0; the `init` node of a config, `cfg.init`, of which rules that
            leave something as its author wrote it leave it as it is; or a config that has such a node, and `seed`.
        seed: with each parameter's name decides its values; None: the config's, or else 0.
        example: an input, for `gain: auto` and the fans of padded convolutions in modules with a forward of their own, and the batch
            for `calibrate`.
        fans: "effective" for the operator's, "torch" for torch's own; None: what the node says, or else the operator's.
        at: where in a config the groups are, as for `build`.

    Returns:
        A ledger with one row for each parameter that was set.

    Raises:
        ConfigError: a rule that is wrong, picks nothing, or cannot fill what it picks; a scheme of one's own that raises, leaves
            numbers unset, or writes elsewhere. The model is then as it was.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> ledger = initialize(model, {"match": "2.weight", "scheme": "xavier_normal", "gain": "auto"}, seed=0)
        >>> [(row.name, row.scheme, round(row.gain, 4)) for row in ledger]
        [('2.weight', 'xavier_normal', 1.4142)]
    """
    if at is not None or _is_config(rules):
        found = read_groups(rules, ("seed", "init"), at)
        with found.told():
            own_seed = _seed(found.config)
            return initialize(model, found.config.get("init"), own_seed if seed is None else seed, example, fans)
    seed = 0 if seed is None else seed
    problems = Problems()
    shape, dtype = (None, torch.float32) if example is None else (example.shape, example.dtype)
    spec, chooser, choices, assignments = _decide(model, rules, shape, dtype, fans, problems)
    if spec.calibrate is not None and example is None:
        method = spec.calibrate.method
        problems.add("init.calibrate", f"{method!r} needs data; give a batch of inputs as example=, or calibrate: null")
    for choice in choices:
        what = f"default: {type(choice.info.module).__name__}, which owns {choice.info.name}, "
        default = next((part for part in choice.parts or (choice,) if part.call.is_default), None)
        if default is not None and choice.info.computed is not None:
            problems.add(default.path, f"{what}computes {choice.info.computed.name}, which reset_parameters cannot set; give a scheme")
        elif default is not None and reset_of(choice.info.module) is None:
            problems.add(default.path, f"{what}has no reset_parameters; give a scheme")
    problems.raise_if_any()
    for warning in plan_warnings(assignments, spec.rules, chooser):
        warnings.warn(warning, UserWarning, stacklevel=2)
    digests: dict[str, str] = {}
    single = [part for item in assignments for part in item.parts or (item,)]
    risky = any(part.call.is_default or is_own(part) for part in single)  # code that is not of this package is called
    with as_it_was((*model.parameters(), *model.buffers()) if risky else ()):
        stats = fill(assignments, seed, {}, fresh=False, digests=digests, model=model)
    if spec.calibrate is not None and example is not None:
        assignments = _calibrate(model, example, spec.calibrate, assignments, stats, digests)
    rows = (ledger_row(item, numbers, "", item.info.parameter.requires_grad) for item, numbers in zip(assignments, stats, strict=True))
    return Ledger(rows, digests)


def foretell(
    model: nn.Module, rules: Any, shape: torch.Size | None = None, dtype: torch.dtype = torch.float32
) -> dict[str, tuple[float, float]]:
    """Mean and std of each parameter that `initialize` would set by these rules, by name; nothing is drawn.

    Raises:
        ConfigError: as `initialize`.

    Example:
        >>> foretell(nn.Linear(4, 2), "lecun_normal")
        {'weight': (0.0, 0.5), 'bias': (0.0, 0.0)}
    """
    problems = Problems()
    *_, assignments = _decide(model, rules, shape, dtype, None, problems)
    problems.raise_if_any()
    return {name: item.expected for item in assignments for name in item.info.names}


def _calibrate(
    model: nn.Module,
    batch: torch.Tensor,
    spec: CalibrateSpec,
    assignments: Sequence[Assignment],
    stats: list[tuple[float, float]],
    digests: dict[str, str],
) -> list[Assignment]:
    """Scale what was drawn on a batch; `stats` and `digests` are then of the scaled values."""
    names = {item.info.name for item in assignments}
    try:
        done = calibrate(model, batch, **asdict(spec), only=names)
    except SchemeError as error:
        raise ConfigError([Problem("init.calibrate", str(error))]) from error
    factors, changed = done.factors, list(assignments)
    for index, item in enumerate(assignments):
        name = item.info.name
        if name in factors:
            changed[index] = item.calibrated(done.method, factors[name])
            stats[index], digests[name] = measure(item.info.parameter), digest(item.info.parameter)
    return changed


def _decide(
    model: nn.Module, rules: Any, shape: torch.Size | None, dtype: torch.dtype, fans: str | None, problems: Problems
) -> tuple[InitSpec, Chooser, list[Choice], list[Assignment]]:
    """The rules as read, which of them sets what, and how."""
    rules = rules if rules is None or isinstance(rules, str) else plain_nodes(rules, resolve=True)
    if rules is None or isinstance(rules, str) or _is_node(rules):
        read = read_init(rules, "init", problems)
        spec = replace(read, rules=tuple(rule for rule in read.rules if not _leaves(rule))) if read is not None else InitSpec(())
    else:
        spec = InitSpec(read_rules(_as_named(rules), "rules", problems))
    counted: str = check_value(spec.fans if fans is None else fans, str, "fans", problems, {"choices": ("effective", "torch")})
    problems.raise_if_any()
    lazy = next((name for name, tensor in model.named_parameters() if is_lazy(tensor)), None)
    if lazy is not None:
        problems.add("model", f"{lazy} has no shape before the model's first batch; run it on one, then initialise it")
    problems.raise_if_any()
    infos = describe(model, None if shape is None else torch.empty(shape, dtype=dtype, device="meta"))
    chooser = Chooser(spec.rules, {}, problems)
    choices = chooser.choose(infos, whole=False)
    looks = uses_auto_gain(choices) or needs_acting(choices) or any(wants_shape(choice.info, choice.call) for choice in choices)
    acting = acting_on(infos) if looks else {}
    choices = resolve_auto(choices, acting)
    assignments = assign(choices, acting, counted, problems)
    return spec, chooser, choices, assignments


def _is_rule(value: Any) -> bool:
    return isinstance(value, Mapping) and "scheme" in value


def _is_node(rules: Any) -> bool:
    """Whether this is the `init` node of a config, and not rules by name."""
    return isinstance(rules, Mapping) and "rules" in rules and not _is_rule(rules) and not _is_rule(rules["rules"])


def _is_config(rules: Any) -> bool:
    """Whether this is a config that has the node."""
    return isinstance(rules, Mapping) and "init" in rules and not _is_rule(rules) and not _is_rule(rules["init"])


def _leaves(rule: Rule) -> bool:
    """Whether a rule is there to leave something as its author wrote it, which in a model that exists is as it is."""
    return rule.call.is_default and rule.selector.optional


def _seed(config: Mapping[str, Any]) -> int:
    problems = Problems()
    seed = check_value(config.get("seed", 0), int, "seed", problems, {"min": 0})
    problems.raise_if_any()
    return seed


def _as_named(rules: Any) -> Any:
    if _is_rule(rules):
        return {"rule": rules}
    if isinstance(rules, (list, tuple)):
        return {str(index): rule for index, rule in enumerate(rules)}
    return rules
