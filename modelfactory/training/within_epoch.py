"""Where a training stands within an epoch, beside the state of its model and optimizer, and how another goes on from there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelfactory.numerics.rng import key
from modelfactory.training.device import random_state, seed_device, set_random_state
from modelfactory.training.loss import LossSum
from modelfactory.training.setup import Run
from modelfactory.training.update_ratio import UpdateWatch

log = logging.getLogger(__name__)


@dataclass
class Place:
    """How far an epoch is.

    Attributes:
        epoch: its number, from 1.
        step: optimizer steps of the training.
        updates: steps of this epoch that were not skipped.
        skipped: steps of this epoch that the loss scaler skipped.
        lr: that of the last update, which metrics.csv has.
    """

    epoch: int
    step: int
    updates: int
    skipped: int
    lr: float


def seed_epoch(seed: int, epoch: int, run: Run, step: int | None = None) -> None:
    """Seed what dropout and the like draw in an epoch, or from a step of it on, in each process apart."""
    later = "" if step is None else f".step.{step}"
    own = f".rank.{run.world.rank}" if run.world.rank else ""
    seed_device(key(seed, f"trainer.epoch.{epoch}{later}{own}"), run.device)


def state_within(place: Place, run: Run, seen: Mapping[str, int], losses: LossSum, watch: UpdateWatch) -> dict[str, Any]:
    """Plain data, the same in all processes, from which `resume_within` goes on."""
    own = {"samples": seen["samples"], "losses": losses.sums, "random": random_state(run.device)}
    return {**vars(place), "batches": seen["batches"], "watch": watch.state_dict(), "processes": run.world.gather(own)}


def resume_within(
    state: Mapping[str, Any], run: Run, seed: int, seen: dict[str, int], losses: LossSum, watch: UpdateWatch
) -> Place:
    """Put schedule, sums and generators where `state_within` found them; the numbers are those of a run that was not stopped.

    In another number of processes, or on another kind of device, what dropout draws begins a stream of its own.
    """
    place = Place(**{name: state[name] for name in ("epoch", "step", "updates", "skipped", "lr")})
    for _ in range(place.updates if run.schedule.each_step else 0):
        run.schedule.step_done()
    watch.load_state_dict(state["watch"])
    parts, same = state["processes"], len(state["processes"]) == run.world.size
    mine = [parts[run.world.rank]] if same else parts if run.world.is_first else []
    if state["batches"] < run.train_batches and place.step < run.max_steps:  # there are steps to come, whose rate may be another
        place.lr = run.schedule.lr
    seen["batches"], seen["samples"] = state["batches"], sum(part["samples"] for part in mine)
    losses.sums = [sum(part["losses"][index] for part in mine) for index in (0, 1)]
    if not same or not set_random_state(mine[0]["random"], run.device):
        seed_epoch(seed, place.epoch, run, place.step)
        log.warning("resume: not as many processes, or another device: what dropout draws differs from here to the end of the epoch")
    return place
