"""What a training saves after each epoch, and how another goes on from it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from modelfactory.config.errors import ConfigError, Problem
from modelfactory.config.files import write_atomic
from modelfactory.model.weights.files import WEIGHTS
from modelfactory.training.checkpoint import CHECKPOINT, load_into, read_state, save_state, save_weights
from modelfactory.training.no_dynamo import without_dynamo
from modelfactory.training.result import SCORES, Result, write_metrics
from modelfactory.training.setup import Run

log = logging.getLogger(__name__)


def save_epoch(run: Run, model: nn.Module, result: Result, stale: int, is_best: bool, config: Any) -> None:
    """The files of a finished epoch: the best weights first, so that no checkpoint speaks of weights that are not there."""
    folder = result.run_dir
    if folder is None:
        return
    if is_best:
        save_weights(folder / WEIGHTS, model, config, {f"modelfactory.{name}": str(value) for name, value in result.best.items()})
    with without_dynamo():
        optimizer = run.optimizer.state_dict()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer,
        "schedule": run.schedule.state_dict(),
        "scaler": None if run.scaler is None else run.scaler.state_dict(),
        "stale": stale,
        "best": result.best,
        "history": result.history,
    }
    save_state(folder / CHECKPOINT, state)
    write_metrics(folder / "metrics.csv", result.history)


def resume(source: Path, run: Run, model: nn.Module, result: Result) -> tuple[int, int, int]:
    """Puts model, optimizer, schedule, scaler and records where the run in `source` left them; steps, epochs, stale."""
    path = "trainer.resume"
    state = read_state(source / CHECKPOINT)
    load_into(model, state["model"], path, str(source / CHECKPOINT))
    try:
        with without_dynamo():
            run.optimizer.load_state_dict(state["optimizer"])
        run.schedule.load_state_dict(state["schedule"])
    except (ValueError, KeyError) as error:
        raise ConfigError([Problem(path, f"{source} was trained with other settings: {error}")]) from error
    if run.scaler is not None and state["scaler"] is not None:
        run.scaler.load_state_dict(state["scaler"])
    result.history, result.best = state["history"], state["best"]
    last = result.history[-1]
    result.final, result.seconds = {name: last[name] for name in SCORES}, last["seconds"]
    whole = last["epoch"] * -(-run.train_batches // run.spec.accumulate)
    if last["step"] != whole and last["step"] < run.max_steps:
        message = f"{source} stopped at step {last['step']}, within epoch {last['epoch']}; only whole epochs can be gone on from"
        raise ConfigError([Problem(path, message)])
    if result.run_dir is not None and result.run_dir.resolve() != source.resolve():
        write_atomic(result.run_dir / WEIGHTS, lambda file: shutil.copyfile(source / WEIGHTS, file))
    if last["epoch"] >= run.spec.max_epochs or last["step"] >= run.max_steps:
        result.warnings.append(f"nothing is left to train: {source} has {last['epoch']} epochs already; give a larger trainer.max_epochs")
        log.warning(result.warnings[-1])
    else:
        log.info("goes on from %s after epoch %d", source, last["epoch"])
    return last["step"], last["epoch"], state["stale"]
