"""What would mend a signal that does not get through: an override to paste, whose effect was predicted before it is named."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from modelfactory.errors import ConfigError
from modelfactory.planning import make_plan
from modelfactory.signalling.table import SignalTable
from modelfactory.signalling.verdict import INITS, is_fatal

Predict = Callable[[Mapping[str, tuple[float | None, float | None]]], SignalTable]


def find_mend(config: Mapping[str, Any], predict: Predict) -> str | None:
    """An override of a config that lets the signal through, by its prediction; None where none of those tried does.

    Tried are first the gains that the config gives as numbers, at `auto`, as an override of a value wins over the choice of
    a group; then whole inits.

    Args:
        config: resolved and plain.
        predict: the table of the same model and data, of weights of other moments.

    Example:
        >>> from modelfactory.signalling.table import SignalTable
        >>> layers = {"fc": {"_target_": "torch.nn.Linear", "out_features": 2}}
        >>> find_mend({"model": {"layers": layers}, "data": {"input_shape": [3]}}, lambda moments: SignalTable([]))
        'init=auto'
    """
    for override, changed in _candidates(config):
        try:
            plan = make_plan(changed)
        except ConfigError:  # an init that does not suit this model
            continue
        moments = {name: (row.expected_mean, row.expected_std) for row in plan.ledger for name in row.name.split(" = ")}
        if not is_fatal(predict(moments)):
            return override
    return None


def _candidates(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    rules = config["init"].get("rules") if isinstance(config.get("init"), Mapping) else None
    for name, rule in rules.items() if isinstance(rules, Mapping) else ():
        if isinstance(rule, Mapping) and isinstance(rule.get("gain"), (int, float)):
            changed = copy.deepcopy(dict(config))
            changed["init"]["rules"][name]["gain"] = "auto"
            yield f"init.rules.{name}.gain=auto", changed
    for scheme in INITS:
        yield f"init={scheme}", {**config, "init": scheme}
