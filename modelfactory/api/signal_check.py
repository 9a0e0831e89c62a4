"""Looks at a model on its data before it trains: signal.csv and signal.png, the first loss, and what would mend either."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config.errors import Problems, contained
from modelfactory.data.dataset import Data
from modelfactory.init.rules import InitSpec
from modelfactory.model.modes import kept_modes
from modelfactory.parameters.roles import describe
from modelfactory.planning.overview.signal import init_overrides, moments_of
from modelfactory.planning.plan import Plan
from modelfactory.planning.run_spec import RunSpec
from modelfactory.planning.spec import ModelSpec
from modelfactory.signal_propagation.probe import Probe, probe, told_failures
from modelfactory.signal_propagation.table import SignalTable
from modelfactory.signal_propagation.verdict import find_fix, is_fatal, summary
from modelfactory.training.loss import LossSpec, class_dim_of, make_loss

log = logging.getLogger(__name__)

_MOST_INPUTS = 128
_TOO_HIGH = 1.1  # times the loss of a guess: a hint from there on
_FAR_TOO_HIGH = 4.0  # a warning from there on: the first steps go into undoing it, or diverge


def check_signal(
    model: nn.Module, data: Data, spec: RunSpec, folder: Path | None, pictures: bool = True
) -> tuple[list[str], list[str]]:
    """Measure the signal of a model that is about to train, write what is asked for, and say what is wrong; it never fails.

    Args:
        model: on its device; left as it was.
        data: of the training, whose first inputs are the batch.
        spec: of the run; `trainer.signal` says what is written: picture (signal.csv and signal.png), histograms (that and
            signal_histograms.png), table (signal.csv) or none (nothing, and nothing is measured).
        folder: of the run; None: nothing is written.
        pictures: whether signal.png is drawn; else that is left to a report, and the table has the numbers.

    Returns:
        Warnings, of what will probably fail, and hints, of what could be better.
    """
    failures: list[str] = []
    with contained("the signal check", failures):
        return _measured(model, data, spec, folder, pictures)
    return [f"{failure}; training goes on (trainer.signal=none leaves the check out)" for failure in failures], []


def _measured(
    model: nn.Module, data: Data, spec: RunSpec, folder: Path | None, pictures: bool
) -> tuple[list[str], list[str]]:
    wanted = spec.training.trainer.signal
    parameter = next(model.parameters(), None)
    if wanted == "none" or parameter is None:
        return [], []
    x, y = (tensor.to(parameter.device) for tensor in data.train.sample(min(data.batch_size, _MOST_INPUTS)))
    with kept_modes(model):
        model.train()
        found = probe(model, x, seed=spec.model.seed, histograms=wanted == "histograms")
    warnings, hints = _said_of_signal(found, spec)
    first_loss = _first_loss(model, found.found.output, (x, y), data, spec.training.loss)
    if first_loss is not None:
        (warnings if first_loss[0] > _FAR_TOO_HIGH else hints).append(first_loss[1])
    said = summary(found.table)
    log.info("signal: %s", said or _all_well(found))
    if folder is not None:
        _write(found, folder, "table" if wanted == "picture" and not pictures else wanted, said)
    return warnings, hints


def _said_of_signal(found: Probe, spec: RunSpec) -> tuple[list[str], list[str]]:
    """Warnings and hints: a fatal verdict with what is predicted to fix it, and what the architecture needs; others are hints."""
    failures = list(found.table.failures)
    remarks = () if spec.training.scheduler.warmup_epochs else found.table.remarks
    said = summary(found.table)
    if not is_fatal(found.table):
        return [*remarks, *told_failures(failures)], [said] if said else []
    mend = None
    if spec.model.backbone is None or not spec.model.backbone.has_weights:  # which no other init would change
        with contained("the search for a fix", failures):
            mend = _find_fix(spec.model, found.predict)
    told = f"{said}; {mend} is predicted to fix it" if mend else f"{said}; see signal.csv"
    return [told, *remarks, *told_failures(failures)], []


def _all_well(found: Probe) -> str:
    rows = [row for row in found.table if not math.isnan(row.measured.forward)]
    if not rows:
        return "nothing to measure"
    last = rows[-1]
    return f"gets through {len(rows)} calls: rms {found.table.input_scale:.2g} at the input, {last.measured.forward:.2g} at the output"


def _first_loss(
    model: nn.Module, output: Any, batch: tuple[Tensor, Tensor], data: Data, of_run: LossSpec | None
) -> tuple[float, str] | None:
    """How many times ln C, the loss of a guess, a classifier's first loss is, and what to say of it; None where it is not above."""
    x, y = batch
    loss = make_loss(of_run, data.task, Problems())
    if data.task != "classification" or not isinstance(loss, nn.CrossEntropyLoss) or not isinstance(output, Tensor) or output.ndim < 2:
        return None
    output = output.movedim(class_dim_of(output, x, y), -1).flatten(0, -2)
    with torch.no_grad():
        first = nn.functional.cross_entropy(output.float(), y.flatten(), ignore_index=loss.ignore_index).item()
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


Predict = Callable[[Mapping[str, tuple[Any, ...]]], SignalTable]


def _find_fix(spec: ModelSpec, predict: Predict) -> str | None:
    """An override of a config that lets the signal through, by its prediction; None where none of those tried does.

    Args:
        predict: the table of the same model and data, of weights of other moments.
    """

    def fails(init: InitSpec) -> bool:
        ledger = Plan(replace(spec, init=init)).ledger
        return is_fatal(predict({name: moments_of(row) for row in ledger for name in row.name.split(" = ")}))

    return find_fix(init_overrides(spec.init), fails)
