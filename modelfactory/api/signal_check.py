"""Looks at a model on its data before it trains: signal.csv and signal.png, the first loss, and what would mend either."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config.errors import ConfigError, Problems, contained
from modelfactory.config.schema import check_value
from modelfactory.data.dataset import Data
from modelfactory.model.modes import kept_modes
from modelfactory.parameters.roles import describe
from modelfactory.planning.plan import make_plan
from modelfactory.signal_propagation.probe import Probe, probe, told_failures
from modelfactory.signal_propagation.table import SignalTable
from modelfactory.signal_propagation.verdict import INITS, is_fatal, summary
from modelfactory.training.loss import build_loss
from modelfactory.training.spec import SIGNALS

log = logging.getLogger(__name__)

_MOST_INPUTS = 128
_TOO_HIGH = 1.1  # times the loss of a guess: a hint from there on
_FAR_TOO_HIGH = 4.0  # a warning from there on: the first steps go into undoing it, or diverge


def check_signal(
    model: nn.Module, data: Data, config: Mapping[str, Any], folder: Path | None, pictures: bool = True
) -> tuple[list[str], list[str]]:
    """Measure the signal of a model that is about to train, write what is asked for, and say what is wrong; it never fails.

    Args:
        model: on its device; left as it was.
        data: of the training, whose first inputs are the batch.
        config: resolved; `trainer.signal` says what is written: picture (signal.csv and signal.png), histograms (that and
            signal_histograms.png), table (signal.csv) or none (nothing, and nothing is measured).
        folder: of the run; None: nothing is written.
        pictures: whether signal.png is drawn; else that is left to a report, and the table has the numbers.

    Returns:
        Warnings, of what will probably fail, and hints, of what could be better.
    """
    failures: list[str] = []
    with contained("the signal check", failures):
        return _measured(model, data, config, folder, pictures)
    return [f"{failure}; training goes on (trainer.signal=none leaves the check out)" for failure in failures], []


def _measured(
    model: nn.Module, data: Data, config: Mapping[str, Any], folder: Path | None, pictures: bool
) -> tuple[list[str], list[str]]:
    trainer = config.get("trainer") or {}
    wanted = check_value(trainer.get("signal", SIGNALS[0]), str, "trainer.signal", Problems(), {"choices": SIGNALS})
    parameter = next(model.parameters(), None)
    if wanted == "none" or parameter is None:
        return [], []
    x, y = (tensor.to(parameter.device) for tensor in data.train.sample(min(data.batch_size, _MOST_INPUTS)))
    with kept_modes(model):
        model.train()
        found = probe(model, x, seed=config.get("seed", 0), histograms=wanted == "histograms")
    warnings, hints = _said_of_signal(found, config)
    first_loss = _first_loss(model, found.found.output, y, data, trainer)
    if first_loss is not None:
        (warnings if first_loss[0] > _FAR_TOO_HIGH else hints).append(first_loss[1])
    said = summary(found.table)
    log.info("signal: %s", said or _all_well(found))
    if folder is not None:
        _write(found, folder, "table" if wanted == "picture" and not pictures else wanted, said)
    return warnings, hints


def _said_of_signal(found: Probe, config: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Warnings and hints: a fatal verdict with what is predicted to fix it, and what the architecture needs; others are hints."""
    failures = list(found.table.failures)
    warms_up = bool((config.get("scheduler") or {}).get("warmup_epochs"))
    remarks = () if warms_up else found.table.remarks
    said = summary(found.table)
    if not is_fatal(found.table):
        return [*remarks, *told_failures(failures)], [said] if said else []
    loaded = (config.get("backbone") or {}).get("weights") not in (None, False)  # which no other init would change
    mend = None
    if not loaded:
        with contained("the search for a fix", failures):
            mend = find_mend(config, found.predict)
    told = f"{said}; {mend} is predicted to fix it" if mend else f"{said}; see signal.csv"
    return [told, *remarks, *told_failures(failures)], []


def _all_well(found: Probe) -> str:
    rows = [row for row in found.table if not math.isnan(row.measured.forward)]
    if not rows:
        return "nothing to measure"
    last = rows[-1]
    return f"gets through {len(rows)} calls: rms {found.table.input_scale:.2g} at the input, {last.measured.forward:.2g} at the output"


def _first_loss(model: nn.Module, output: Any, y: Tensor, data: Data, trainer: Mapping[str, Any]) -> tuple[float, str] | None:
    """How many times ln C, the loss of a guess, a classifier's first loss is, and what to say of it; None where it is not above."""
    loss = build_loss(trainer.get("loss"), data.task, Problems())
    if data.task != "classification" or not isinstance(loss, nn.CrossEntropyLoss) or not isinstance(output, Tensor) or output.ndim != 2:
        return None
    with torch.no_grad():
        first = nn.functional.cross_entropy(output.float(), y, ignore_index=loss.ignore_index).item()
    guess = math.log(output.shape[1])
    if not first > _TOO_HIGH * guess:  # NaN where every target is ignored
        return None
    head = next((info.name for info in describe(model) if {"head", "weight"} <= set(info.roles)), "head.weight")
    spread = output.float().std(dim=1).mean().item()
    text = (
        f"the first loss is {first:.3g}, and a guess among {output.shape[1]} classes has ln {output.shape[1]} = {guess:.3g}: "
        f"the outputs have std {spread:.2g}; "
        f"'+init.rules.small_head={{match: {head}, scheme: lecun_normal, gain: 0.1}}' begins near the guess"
    )
    return first / guess, text


def _write(found: Probe, folder: Path, wanted: str, said: str) -> None:
    found.table.to_csv(folder / "signal.csv")
    if wanted in ("picture", "histograms"):
        found.table.plot(folder / "signal.png", said[:1].upper() + said[1:])
    if wanted == "histograms" and found.table.samples:
        found.table.plot(folder / "signal_histograms.png", histograms=True)


Predict = Callable[[Mapping[str, tuple[float | None, float | None]]], SignalTable]


def find_mend(config: Mapping[str, Any], predict: Predict) -> str | None:
    """An override of a config that lets the signal through, by its prediction; None where none of those tried does.

    Tried are first the gains that the config gives as numbers, at `auto`, as an override of a value wins over the choice of
    a group; then whole inits.

    Args:
        config: resolved and plain.
        predict: the table of the same model and data, of weights of other moments.

    Example:
        >>> from modelfactory.signal_propagation.table import SignalTable
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
