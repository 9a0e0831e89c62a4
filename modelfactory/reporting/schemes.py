"""From the jobs of a sweep to the schemes that it compares, and the number that each run is judged by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from modelfactory.config.errors import ConfigError, Problem, did_you_mean
from modelfactory.reporting.stats import Sample
from modelfactory.sweeping.records import Job, Sweep

HIGHER_IS_BETTER = {"val_loss": False, "train_loss": False, "val_accuracy": True, "test_loss": False, "test_accuracy": True}
EPOCHS = ("best", "final")
SEEDS = ("seed", "data.seed", "data.split_seed")
Block = tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """What the runs are judged by.

    Attributes:
        name: a column of metrics.csv.
        epoch: "best", the epoch that the run's monitored value is best at and whose weights it kept, or "final".
        monitor: what the best epoch is best by.
    """

    name: str
    epoch: str = "best"
    monitor: str = "val_loss"

    @property
    def higher_is_better(self) -> bool:
        return HIGHER_IS_BETTER[self.name]

    def of(self, job: Job) -> float | None:
        """A run's value; None where it did not complete, or has no finite one.

        Example:
            >>> from pathlib import Path
            >>> Metric("val_loss").of(Job(0, Path("0"), (), "completed", best={"val_loss": 0.5}))
            0.5
        """
        value = (job.best if self.epoch == "best" else job.final).get(self.name)
        if job.status != "completed" or value is None or not math.isfinite(value):
            return None
        return float(value)

    def __str__(self) -> str:
        better = "higher" if self.higher_is_better else "lower"
        epoch = "last epoch" if self.epoch == "final" else "best epoch"
        by = f" by {self.monitor}" if self.epoch == "best" and self.monitor != self.name else ""
        return f"{self.name} of the {epoch}{by}, {better} is better"


def choose_metric(sweep: Sweep, name: str | None = None, epoch: str = "best") -> Metric:
    """The metric asked for, else the one that the trainer monitors.

    Raises:
        ConfigError: there is no such metric, no run has one, or no such epoch.
    """
    monitors = Counter(_monitor(job.config) for job in sweep.jobs)
    monitor = monitors.most_common(1)[0][0] if monitors else "val_loss"
    name = monitor if name is None else name
    problems = []
    if name not in HIGHER_IS_BETTER:
        problems.append(Problem("metric", f"{name!r} is not a metric of a run{did_you_mean(name, HIGHER_IS_BETTER)}"))
    elif any(job.best for job in sweep.jobs) and all(job.best.get(name) is None for job in sweep.jobs if job.best):
        problems.append(Problem("metric", f"no run has a {name} in {sweep.folder}; give val_loss or train_loss"))
    if epoch not in EPOCHS:
        problems.append(Problem("epoch", f"{epoch!r} is not an epoch to compare at{did_you_mean(epoch, EPOCHS)}"))
    if problems:
        raise ConfigError(problems)
    return Metric(name, epoch, monitor)


def _monitor(config: Mapping[str, Any]) -> str:
    trainer = config.get("trainer")
    monitor = trainer.get("monitor") if isinstance(trainer, Mapping) else None
    return monitor if monitor in HIGHER_IS_BETTER else "val_loss"


@dataclass(frozen=True)
class Arm:
    """The jobs that differ by their seeds alone.

    Attributes:
        settings: its value on each axis that is compared; "(default)" where a job overrides nothing there.
        jobs: all of them, in the order of their numbers.
        values: the metric of each completed job, by what tells the scheme's jobs from each other: their seeds.
        missing: how many of the jobs have no value.
    """

    settings: tuple[str, ...]
    jobs: tuple[Job, ...]
    values: Mapping[Block, float]
    missing: int = 0

    @property
    def label(self) -> str:
        return ", ".join(self.settings) or "all jobs"

    @cached_property
    def sample(self) -> Sample | None:
        """n, mean and std over seeds; None when no job has a value."""
        return Sample.of(list(self.values.values())) if self.values else None

    def count(self, status: str) -> int:
        return sum(job.status == status for job in self.jobs)


def compared_axes(sweep: Sweep, by: Sequence[str] | None = None) -> tuple[str, ...]:
    """The axes whose values make a scheme: those asked for, else all but the seeds.

    Raises:
        ConfigError: one that was asked for is not an axis of the sweep.
    """
    axes = sweep.axes
    if by is None:
        return tuple(axis for axis in axes if axis not in SEEDS)
    wrong = [axis for axis in by if axis not in axes]
    if wrong:
        choices = did_you_mean(wrong[0], axes) if axes else "; all jobs have the same overrides"
        raise ConfigError([Problem("by", f"{wrong[0]!r} is not swept here{choices}")])
    return tuple(by)


def gather_schemes(sweep: Sweep, axes: Sequence[str], metric: Metric) -> list[Arm]:
    """The schemes of a sweep in the order of their first jobs; jobs alike in all overrides count as one, by their mean.

    Example:
        >>> from pathlib import Path
        >>> jobs = [Job(n, Path(str(n)), (f"init={'ab'[n // 2]}", f"seed={n % 2}"), "completed", best={"val_loss": n}) for n in range(4)]
        >>> [(s.label, dict(s.values)) for s in gather_schemes(Sweep(Path("."), tuple(jobs)), ["init"], Metric("val_loss"))]
        [('a', {('0',): 0.0, ('1',): 1.0}), ('b', {('0',): 2.0, ('1',): 3.0})]
    """
    others = [axis for axis in sweep.axes if axis not in axes]
    jobs: dict[Block, list[Job]] = {}
    values: dict[Block, dict[Block, list[float]]] = {}
    for job in sweep.jobs:
        given = sweep.values(job)
        key, block = (tuple(given.get(axis, "(default)") for axis in names) for names in (axes, others))
        jobs.setdefault(key, []).append(job)
        value = metric.of(job)
        if value is not None:
            values.setdefault(key, {}).setdefault(block, []).append(value)
    schemes = []
    for key, members in jobs.items():
        found = values.get(key, {})
        means = {block: Sample.of(numbers).mean for block, numbers in found.items()}
        schemes.append(Arm(key, tuple(members), means, len(members) - sum(map(len, found.values()))))
    return schemes
