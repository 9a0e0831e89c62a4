"""What a sweep's folder says of it: sweep.json, written before the first job starts, and a result.json a job."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from modelfactory.config.errors import ConfigError, Problem
from modelfactory.config.files import read_text, write_text
from modelfactory.config.printable import finite, one_line, printable
from modelfactory.training.status import RESULT, config_hash, read_result, recorded

SWEEP = "sweep.json"
# what is made of a whole sweep, and cleared where one begins anew in a folder that was used
REPORTS = ("summary.csv", "curves.png", "report.html", "paper.png", "paper.csv", "optimization_results.yaml")
_MOST_BYTES = 2**30  # of sweep.json: thousands of jobs have a config each
_LOSSES = ("train_loss", "val_loss")
FINISHED = ("completed", "diverged")  # what would come out the same if it were run again


@dataclass(frozen=True)
class Job:
    """One job of a sweep, and how far it is.

    Attributes:
        number: its number in the sweep, from 0.
        folder: its run directory.
        overrides: what was changed for it on the command line, such as "init=zeros"; what all jobs share included.
        status: pending, running, completed, diverged, failed, killed or out_of_memory.
        reason: why it did not complete; None for one that is pending, running or completed.
        seconds: wall time of its training, None before its first epoch ended.
        final, best: epoch, step, train_loss, val_loss, val_accuracy of the last epoch and of the best; empty before the first.
        config: its whole config, resolved.
        config_hash: what it is known by when a sweep is resumed; where it was resumed from counts, as jobs may differ in it.
    """

    number: int
    folder: Path
    overrides: tuple[str, ...]
    status: str = "pending"
    reason: str | None = None
    seconds: float | None = None
    final: Mapping[str, Any] = field(default_factory=dict)
    best: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    config_hash: str = ""


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder, read at one moment.

    Attributes:
        folder: the sweep's folder; of a single run, the run's.
        jobs: all of them in the order of their numbers, those that have not begun included.
        axes: what differs between jobs: the keys of overrides whose values are not the same in all, in their order.
        overrides: those that all jobs share.
        title: for a job's number, what tells it from the others, such as "init=zeros seed=1".
    """

    folder: Path
    jobs: tuple[Job, ...]

    @cached_property
    def axes(self) -> tuple[str, ...]:
        values: dict[str, set[str | None]] = {}
        given = [_split(job.overrides) for job in self.jobs]
        for key in dict.fromkeys(key for overrides in given for key in overrides):
            values[key] = {overrides.get(key) for overrides in given}
        return tuple(key for key, found in values.items() if len(found) > 1)

    @property
    def overrides(self) -> tuple[str, ...]:
        axes = self.axes
        shared = _split(self.jobs[0].overrides) if self.jobs else {}
        return tuple(f"{key}={value}" for key, value in shared.items() if key not in axes)

    def values(self, job: Job) -> dict[str, str]:
        """A job's values on the axes, as texts.

        Example:
            >>> jobs = [Job(number, Path(str(number)), ("model=cnn", f"seed={number}")) for number in range(2)]
            >>> Sweep(Path("."), tuple(jobs)).values(jobs[1])
            {'seed': '1'}
        """
        given = _split(job.overrides)
        return {key: given[key] for key in self.axes if key in given}

    def title(self, job: Job) -> str:
        return " ".join(f"{key}={value}" for key, value in self.values(job).items())


def _split(overrides: Sequence[str]) -> dict[str, str]:
    """Overrides by their key, without the + or ++ before it, as they can be shown."""
    parts = [one_line(override.lstrip("+")).partition("=") for override in overrides]
    return {key: value for key, _, value in parts}


def read_sweep(folder: str | os.PathLike[str]) -> Sweep:
    """What a sweep's folder holds at this moment; also of a sweep that runs, or was killed half-way.

    The folder of a single run is read as a sweep of one job, and a folder of runs as a sweep of them.

    Raises:
        ConfigError: there is no run in the folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_sweep(Path(folder), [Job(0, Path(folder, "0"), ("seed=0",), config={"seed": 0}, config_hash="a")])
        ...     [(job.number, job.status, dict(job.config)) for job in read_sweep(folder).jobs]
        [(0, 'pending', {'seed': 0})]
    """
    root = Path(folder)
    if (root / SWEEP).is_file():
        entries = read_about(root).get("jobs", [])
        if not entries:
            raise ConfigError([Problem("", f"{root / SWEEP} lists no jobs")])
        return Sweep(root, tuple(_listed(root, entry) for entry in sorted(entries, key=lambda entry: entry["number"])))
    if (root / RESULT).is_file():
        return Sweep(root, (_unlisted(root, 0),))
    runs = sorted((path.parent for path in root.glob(f"*/{RESULT}")), key=lambda path: (not path.name.isdigit(), len(path.name), path))
    if not runs:
        raise ConfigError([Problem("", f"{str(root)!r} holds no run and no sweep; give a folder with {SWEEP} or {RESULT}")])
    return Sweep(root, tuple(_unlisted(run, number) for number, run in enumerate(runs)))


def read_about(root: Path) -> dict[str, Any]:
    """The sweep.json of a sweep's folder.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    try:
        about = json.loads(read_text(root / SWEEP, _MOST_BYTES))
        wrong = next((entry for entry in _jobs_of(about) if not _is_job(entry)), None)
        if wrong is not None:
            raise ValueError(f"a job that it lists is none: {wrong!r:.80}")
        return about
    except FileNotFoundError:
        raise ConfigError([Problem("", f"{str(root)!r} is no sweep: it has no {SWEEP}")]) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError([Problem("", f"{root / SWEEP} cannot be read: {error}")]) from error


def _jobs_of(about: Any) -> list[Any]:
    if not isinstance(about, dict) or not isinstance(about.get("jobs", []), list):
        raise ValueError("it lists no jobs")
    return about.get("jobs", [])


def _is_job(entry: Any) -> bool:
    kinds = {"number": int, "folder": str, "overrides": list, "config": dict, "config_hash": str}
    return isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in kinds.items())


def write_sweep(root: Path, jobs: Sequence[Job], about: Mapping[str, Any] | None = None) -> None:
    """Writes sweep.json: `about`, and for each job number, folder (seen from the root), overrides, config_hash, config."""
    entries = [
        {
            "number": job.number,
            "folder": os.path.relpath(job.folder, root),
            "overrides": list(job.overrides),
            "config_hash": job.config_hash,
            "config": job.config,
        }
        for job in jobs
    ]
    write_text(root / SWEEP, json.dumps({**(about or {}), "jobs": entries}, indent=1) + "\n")


def _listed(root: Path, entry: Mapping[str, Any]) -> Job:
    """A job of sweep.json, with what its folder says."""
    about = {name: entry[name] for name in ("number", "config", "config_hash")}
    overrides = tuple(map(str, entry["overrides"]))
    return read_job(Job(folder=Path(os.path.normpath(root / entry["folder"])), overrides=overrides, **about))


def read_job(job: Job) -> Job:
    """The job as its folder says that it is; a result of another config, which was there before, does not count."""
    record = read_result(job.folder)
    if record is not None and record.get("config_hash") not in (None, config_hash(recorded(job.config))):
        record = None
    return replace(job, **(_progress(record) or {"status": "pending", "reason": None, "seconds": None, "final": {}, "best": {}}))


def _unlisted(folder: Path, number: int) -> Job:
    """A run that no sweep.json lists."""
    record = read_result(folder)
    known = (record or {}).get("config_hash")
    job = Job(number, folder, (), config_hash=one_line(known) if isinstance(known, str) else "", **_progress(record))
    read: dict[str, Any] = {}
    for name, file, kind in (("config", "config.yaml", dict), ("overrides", ".hydra/overrides.yaml", list)):
        try:
            read[name] = _read_yaml(folder / file, kind)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            job = unreadable(job, file, error)
    return replace(job, config=read.get("config") or {}, overrides=tuple(map(str, read.get("overrides") or ())))


def unreadable(job: Job, file: str, error: Exception) -> Job:
    """The job as one that failed, since a file of it cannot be read; the first such file is named.

    Example:
        >>> unreadable(Job(0, Path("0"), (), "completed"), "metrics.csv", ValueError("it is empty")).reason
        'metrics.csv cannot be read: it is empty'
    """
    if job.reason is not None and "cannot be read" in job.reason:
        return job
    return replace(job, status="failed", reason=one_line(f"{file} cannot be read: {error}"))


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, which a run does not write: a few lines of them can stand for more than fits into memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases")
        return super().compose_node(parent, index)


def _read_yaml(path: Path, kind: type) -> Any:
    """What a YAML file holds, None where there is none.

    Raises:
        ValueError, YAMLError, RecursionError: it holds something else.
    """
    try:
        found = yaml.load(read_text(path), _PlainLoader)
    except FileNotFoundError:
        return None
    if found is not None and not isinstance(found, kind):
        raise ValueError(f"it holds a {type(found).__name__}")
    return found


def _progress(record: Mapping[str, Any] | None) -> dict[str, Any]:
    if record is None:
        return {}
    status, reason = record["status"], record.get("error")
    scores = {name: _scores(record.get(name)) for name in ("final", "best")}
    if status == "completed" and not any(found.get(name) is not None for found in scores.values() for name in _LOSSES):
        status, reason = "failed", f"{RESULT} says that it completed, and has no scores"
    seconds = _number(record.get("seconds"))
    return {"status": status, "reason": None if reason is None else printable(str(reason)), "seconds": seconds or None, **scores}


def _scores(found: Any) -> dict[str, Any]:
    """The numbers of an epoch; what is none is left out."""
    return {str(name): _number(value) for name, value in found.items()} if isinstance(found, Mapping) else {}


def _number(value: Any) -> float | int | None:
    return finite(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def objective(best: Mapping[str, Any], config: Mapping[str, Any]) -> float | None:
    """What a search may optimise: the best value of what the trainer monitors.

    Example:
        >>> objective({"val_loss": 0.5, "val_accuracy": 0.9}, {"trainer": {"monitor": "val_accuracy"}})
        0.9
    """
    return best.get((config.get("trainer") or {}).get("monitor", "val_loss"))
