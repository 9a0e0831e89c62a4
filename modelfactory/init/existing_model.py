"""Initialises parts of a model that exists already, by the same rules as one that a config describes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from modelfactory.config.errors import Problems
from modelfactory.config.schema import check_value
from modelfactory.init.assign import Assignment, assign, wants_shape
from modelfactory.init.auto import needs_acting, resolve_auto
from modelfactory.init.choose import Choice, Chooser, uses_auto_gain
from modelfactory.init.custom_scheme import as_it_was, is_own
from modelfactory.init.default import reset_of
from modelfactory.init.fill import fill
from modelfactory.init.input_activation import acting_on
from modelfactory.init.ledger import Ledger, ledger_row
from modelfactory.init.rule_warnings import plan_warnings
from modelfactory.init.rules import Rule, read_init, read_rules
from modelfactory.parameters.roles import describe


def initialize(model: nn.Module, rules: Any, seed: int = 0, example: torch.Tensor | None = None, fans: str = "effective") -> Ledger:
    """Initialises a part of an existing model, in place; every other parameter stays as it is, and so does every row of a
    packed one (query, key, value; gates) that no rule picks.

    Args:
        rules: one rule, `{"match": "fc2.*", "scheme": "xavier_normal"}`; several by name, `{"head": {...}, ...}`; a list of
            rules; or the name of a scheme for all weights, with biases at 0.
        seed: with each parameter's name decides its values.
        example: an input, for `gain: auto` and the fans of padded convolutions in modules with a forward of their own.
        fans: "effective" for the operator's, "torch" for torch's own.

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
    problems = Problems()
    shape, dtype = (None, torch.float32) if example is None else (example.shape, example.dtype)
    read, chooser, choices, assignments = _decide(model, rules, shape, dtype, fans, problems)
    for choice in choices:
        what = f"default: {type(choice.info.module).__name__}, which owns {choice.info.name}, "
        default = next((part for part in choice.parts or (choice,) if part.call.is_default), None)
        if default is not None and choice.info.computed is not None:
            problems.add(default.path, f"{what}computes {choice.info.computed.name}, which reset_parameters cannot set; give a scheme")
        elif default is not None and reset_of(choice.info.module) is None:
            problems.add(default.path, f"{what}has no reset_parameters; give a scheme")
    problems.raise_if_any()
    for warning in plan_warnings(assignments, read, chooser):
        warnings.warn(warning, UserWarning, stacklevel=2)
    digests: dict[str, str] = {}
    single = [part for item in assignments for part in item.parts or (item,)]
    risky = any(part.call.is_default or is_own(part) for part in single)  # code that is not of this package is called
    with as_it_was((*model.parameters(), *model.buffers()) if risky else ()):
        stats = fill(assignments, seed, {}, fresh=False, digests=digests, model=model)
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
    *_, assignments = _decide(model, rules, shape, dtype, "effective", problems)
    problems.raise_if_any()
    return {name: item.expected for item in assignments for name in item.info.names}


def _decide(
    model: nn.Module, rules: Any, shape: torch.Size | None, dtype: torch.dtype, fans: str, problems: Problems
) -> tuple[Sequence[Rule], Chooser, list[Choice], list[Assignment]]:
    """The rules as read, which of them sets what, and how."""
    if isinstance(rules, str):
        spec = read_init(rules, "init", problems)
        read = tuple(rule for rule in spec.rules if not rule.call.is_default) if spec is not None else ()
    else:
        read = read_rules(_as_named(rules), "rules", problems)
    fans = check_value(fans, str, "fans", problems, {"choices": ("effective", "torch")})
    problems.raise_if_any()
    lazy = next((name for name, tensor in model.named_parameters() if is_lazy(tensor)), None)
    if lazy is not None:
        problems.add("model", f"{lazy} has no shape before the model's first batch; run it on one, then initialise it")
    problems.raise_if_any()
    infos = describe(model, None if shape is None else torch.empty(shape, dtype=dtype, device="meta"))
    chooser = Chooser(read, {}, problems)
    choices = chooser.choose(infos, whole=False)
    looks = uses_auto_gain(choices) or needs_acting(choices) or any(wants_shape(choice.info, choice.call) for choice in choices)
    acting = acting_on(infos) if looks else {}
    choices = resolve_auto(choices, acting)
    assignments = assign(choices, acting, fans, problems)
    return read, chooser, choices, assignments


def _as_named(rules: Any) -> Any:
    if isinstance(rules, Mapping) and "scheme" in rules:
        return {"rule": rules}
    if isinstance(rules, Mapping) and set(rules) == {"rules"}:
        return rules["rules"]
    if isinstance(rules, (list, tuple)):
        return {str(index): rule for index, rule in enumerate(rules)}
    return rules
