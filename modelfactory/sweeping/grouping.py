"""Which jobs of a sweep are trained together: those whose configs differ only in what models of one stack may differ in."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelfactory.sweeping.records import Job
from modelfactory.training.status import config_hash

log = logging.getLogger(__name__)

MOST = 256
"""Jobs of a group, where nobody says how many."""
_FREE = ("seed", "init", "freeze", "optimizer", "scheduler", "sweep")
_FREE_OF = {
    "data": ("seed",),
    "trainer": (
        *("max_epochs", "max_steps", "patience", "monitor", "clip_norm", "accumulate", "loss"),
        *("signal", "progress", "check_every"),
    ),
}


@dataclass(frozen=True)
class Group:
    """Jobs that are one task of a launcher.

    Attributes:
        jobs: several that are trained together, or one.
        why_alone: why it is trained as a run is, by itself; None: as a part of a stack, which it has to itself where the others of the
            sweep are done, so that its numbers are what they would have been with them.
    """

    jobs: tuple[Job, ...]
    why_alone: str | None = None


def shared_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config the jobs of one group have in common.

    Example:
        >>> shared_config({"seed": 1, "init": "zeros", "data": {"seed": 2, "batch_size": 8}, "model": {"width": 4}})
        {'data': {'batch_size': 8}, 'model': {'width': 4}}
    """
    shared = {name: value for name, value in config.items() if name not in _FREE}
    for group, names in _FREE_OF.items():
        if isinstance(shared.get(group), Mapping):
            shared[group] = {name: value for name, value in shared[group].items() if name not in names}
    return shared


def why_never(config: Mapping[str, Any]) -> str | None:
    """What in a config has the job trained alone; None: nothing that the config tells.

    Example:
        >>> why_never({"trainer": {"precision": "bf16"}}), why_never({"trainer": {}})
        ('trainer.precision is bf16', None)
    """
    trainer, data = (config.get(group) or {} for group in ("trainer", "data"))
    if trainer.get("precision", "fp32") != "fp32":
        return f"trainer.precision is {trainer['precision']}"
    for name in ("compile", "cache_features", "resume", "tracker", "deterministic"):
        if trainer.get(name) not in (None, False, "none", "off"):
            return f"trainer.{name} is {trainer[name]}"
    if data.get("num_workers"):
        return "data.num_workers: the data are on disk, and each job reads them for itself"
    return None


def plan_groups(
    jobs: Sequence[Job], why_alone: Callable[[Job], str | None], most: int, tasks: int = 1, every: Sequence[Job] | None = None
) -> list[Group]:
    """Put jobs into groups, in the order of the first job of each.

    Args:
        why_alone: why a job is trained alone, whichever others there are.
        every: all jobs of the sweep, of which some may be done; None: there are no others.
        most: jobs of a group.
        tasks: how many run side by side, so that there are as many groups at least.

    Example:
        >>> from pathlib import Path
        >>> jobs = [Job(number, Path(), (), config={"seed": number, "model": number // 4}) for number in range(5)]
        >>> [[job.number for job in group.jobs] for group in plan_groups(jobs, lambda job: None, 3)]
        [[0, 1], [2, 3], [4]]
    """
    alike: dict[str, list[Job]] = {}
    groups: list[Group] = []
    for job in jobs:
        why = "sweep.batch is off" if most == 1 else why_never(job.config) or why_alone(job)
        if why is None:
            alike.setdefault(config_hash(shared_config(job.config)), []).append(job)
        else:
            groups.append(Group((job,), why))
    others = Counter(config_hash(shared_config(job.config)) for job in (jobs if every is None else every))
    for known, same in alike.items():
        count = min(len(same), max(math.ceil(len(same) / most), tasks))
        size = math.ceil(len(same) / count)
        for start in range(0, len(same), size):
            chosen = tuple(same[start : start + size])
            groups.append(Group(chosen, None if others[known] > 1 else "no other job differs from it only in what stacks"))
    return sorted(groups, key=lambda group: group.jobs[0].number)


def tell_groups(groups: Sequence[Group]) -> None:
    """Log which jobs are trained together, and why the others are not."""
    together = [group for group in groups if group.why_alone is None]
    if together:
        shown = "; ".join(numbers(job.number for job in group.jobs) for group in together)
        count = sum(len(group.jobs) for group in together)
        trained = "1 job is trained" if count == 1 else f"{count} jobs are trained"
        log.info("sweep.batch: %s in %s: %s", trained, _groups(len(together)), shown)
    alone: dict[str, list[int]] = {}
    for group in groups:
        if group.why_alone is not None:
            alone.setdefault(group.why_alone, []).append(group.jobs[0].number)
    for why, those in alone.items():
        log.info("sweep.batch: %s trained alone: %s", f"job {those[0]} is" if len(those) == 1 else f"jobs {numbers(those)} are", why)


def _groups(count: int) -> str:
    return "1 group" if count == 1 else f"{count} groups"


def numbers(found: Iterable[int]) -> str:
    """Numbers of jobs in few words.

    Example:
        >>> numbers([0, 1, 2, 5, 7, 8])
        '0-2, 5, 7-8'
    """
    runs: list[list[int]] = []
    for number in sorted(found):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def side_by_side(launcher: Mapping[str, Any]) -> int:
    """How many tasks a launcher of Hydra runs at once on this machine; 1 where that is not known.

    Example:
        >>> side_by_side({"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", "n_jobs": 2})
        2
    """
    name = str(launcher.get("_target_")).rpartition(".")[2]
    given = launcher.get("n_jobs") if name == "JoblibLauncher" else None
    if not isinstance(given, int) or isinstance(given, bool):
        return 1
    return given if given > 0 else max(1, (os.cpu_count() or 1) + 1 + given)
