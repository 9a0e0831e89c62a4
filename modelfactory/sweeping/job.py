"""One task of a sweep, a job or a group of jobs, as Hydra's launchers call it in whatever process they run jobs."""

from __future__ import annotations

import copy
import logging
import os
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from modelfactory.config.compose import to_plain
from modelfactory.config.errors import ModelFactoryError
from modelfactory.sweeping.gpus import held_gpu, visible_gpus
from modelfactory.sweeping.group import FUNCTION, NOT_TOGETHER, ONE_BY_ONE, Member
from modelfactory.sweeping.grouping import numbers
from modelfactory.sweeping.process import call_isolated, num_oom_kills, told_exit
from modelfactory.sweeping.records import objective
from modelfactory.sweeping.spec import SweepSpec
from modelfactory.training.status import end_record, read_result

log = logging.getLogger(__name__)
_PATHS = (
    ("trainer", "resume"),
    ("data", "root"),
    ("backbone", "weights"),
    ("backbone", "weights", "folder"),
    ("backbone", "weights", "config_dir"),
)
STOPPED = ".stopped"  # the file that says a job failed where sweep.on_error is stop


class JobFailed(ModelFactoryError, RuntimeError):
    """A job of a sweep did not complete; its folder says why."""


@dataclass(frozen=True)
class SweepJob:
    """What Hydra calls for each task, in whatever process its launcher runs jobs: a function that can be pickled.

    Attributes:
        trusted: packages that the Python that began the sweep allows.
        cwd: where the sweep was begun, and where its jobs are too, if there is such a folder where they run.
        function: full name of what does a job: `function(config, folder, trusted)` leaves a result.json.
        groups: the jobs that are trained as one stack, by the number of the first, for which the launcher calls.
    """

    spec: SweepSpec
    trusted: tuple[str, ...]
    cwd: str
    function: str = "modelfactory.cli.train_job.train_job"
    groups: dict[int, tuple[Member, ...]] = field(default_factory=dict, compare=False)

    def __call__(self, cfg: DictConfig) -> float | None:
        """Does the job, or those that are trained with it; returns the best monitored value of the job.

        Raises:
            JobFailed: it did not complete, or another of its group.
        """
        node = HydraConfig.get()
        folder, number, root = Path(node.runtime.output_dir), int(node.job.num), Path(node.sweep.dir)
        if self.spec.on_error == "stop" and (root / STOPPED).exists():
            return None
        config = job_config(cfg, self.cwd if node.job.chdir else None)
        members = self.groups.get(number) or (Member(number, str(folder), config),)
        cwd = self.cwd if Path(self.cwd).is_dir() and not node.job.chdir else str(Path.cwd())
        place = _Place(number, cwd, {"config": _logging(node), "folder": str(root), "trusted": list(self.trusted)}, str(folder))
        try:
            left = self._together(members, place) if len(members) > 1 else members
            for member in left:
                self._alone(member, place, stacked=number in self.groups)
                self._told(member, root)
        except KeyboardInterrupt as error:
            for member in members:
                if member.number == number or member.status != "pending":
                    end_record(Path(member.folder), "killed", str(error) or "interrupted")
            raise
        failed = [member for member in members if self._told(member, root, quiet=member in left)]
        if failed:
            first = failed[0]
            raise JobFailed(f"job {first.number} {first.status}: {first.reason}")
        record = read_result(folder) or {}
        return objective(record.get("best") or {}, config)

    def _told(self, member: Member, root: Path, quiet: bool = False) -> bool:
        """Whether a job did not complete, which is logged and, where the sweep is to stop then, left in its folder."""
        if member.status == "completed":
            return False
        if not quiet:
            log.error("job %s %s: %s", member.number, member.status, member.reason)
        if self.spec.on_error == "stop":
            (root / STOPPED).touch()
        return True

    def _together(self, members: Sequence[Member], place: _Place) -> Sequence[Member]:
        """Trains jobs together; returns those that have to be trained one by one, as they have not ended by themselves."""
        shown = numbers(member.number for member in members)
        log.info("jobs %s are trained together", shown)
        code, (_, reason) = self._stacked(members, place)
        if code == ONE_BY_ONE:
            return members
        if code == NOT_TOGETHER:
            return [member for member in members if member.was_cut]
        left = [member for member in members if member.status in ("pending", "running", "killed")]  # when the process ended
        if left:
            log.error("jobs %s: %s; each of %s is run once more, alone", shown, reason, numbers(member.number for member in left))
        return left

    def _stacked(self, members: Sequence[Member], place: _Place) -> tuple[int, tuple[str, str]]:
        arguments = {"members": [asdict(member) for member in members], "trusted": list(self.trusted), "at_once": self.spec.at_once}
        arguments["own_process"] = self.spec.isolate and self.spec.gpus is None
        return self._call(FUNCTION, arguments, place)

    def _alone(self, member: Member, place: _Place, stacked: bool) -> None:
        """Trains one job, by itself as a run is, or, where it stacks, so that it has the numbers that it has with others."""
        place, folder = place.of(member), Path(member.folder)
        code, ended = self._stacked([member], place) if stacked else (NOT_TOGETHER, None)
        if code == NOT_TOGETHER:
            arguments = {"config": member.config, "folder": member.folder, "trusted": list(self.trusted)}
            code, ended = self._call(self.function, arguments, place)
        if self.spec.isolate and ended is not None:
            end_record(folder, *ended)

    def _call(self, function: str, arguments: Mapping[str, Any], place: _Place) -> tuple[int, tuple[str, str]]:
        """Calls a function where the jobs run; its exit status, and what that makes of a job that has not ended."""
        if not self.spec.isolate:
            return pkgutil.resolve_name(function)(**arguments), ("failed", "it did not end")
        environment, kills = dict(os.environ), num_oom_kills()
        if self.spec.gpus is None:
            code = call_isolated(function, arguments, environment, place.cwd, place.logging)
        else:
            with held_gpu(place.number, visible_gpus(self.spec.gpus, environment.get("CUDA_VISIBLE_DEVICES"))) as gpu:
                log.info("job %s is on GPU %s", place.number, gpu)
                code = call_isolated(function, arguments, environment | {"CUDA_VISIBLE_DEVICES": gpu}, place.cwd, place.logging)
        starved = code == -9 and num_oom_kills() > kills
        status = "out_of_memory" if starved else "killed" if code < 0 else "failed"
        return code, (status, f"{told_exit(code)}{', by the kernel for lack of memory' if starved else ''}")


@dataclass(frozen=True)
class _Place:
    """Where a task runs: the number by which it has its GPU, the directory it is in, and how it logs, into which folder."""

    number: int
    cwd: str
    logging: dict[str, Any]
    folder: str

    def of(self, member: Member) -> _Place:
        """That of one job of a group, whose log is in its own folder."""
        return replace(self, number=member.number, folder=member.folder, logging=_moved(self.logging, self.folder, member.folder))


def _moved(value: Any, before: str, after: str) -> Any:
    """A logging configuration whose files are in another folder."""
    if isinstance(value, dict):
        return {name: _moved(item, before, after) for name, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, before, after) for item in value]
    inside = isinstance(value, str) and value.startswith(before + os.sep)
    return after + value[len(before) :] if inside else value


def job_config(cfg: Any, started_in: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """The plain config of one job, without what is the sweep's.

    Args:
        started_in: where the command was given, for a job that is elsewhere (`hydra.job.chdir`): relative paths mean what they
            meant there.

    Example:
        >>> job_config({"trainer": {"resume": "runs/a"}}, "/home/me")
        {'trainer': {'resume': '/home/me/runs/a'}}
    """
    from modelfactory.data.count_classes import count_classes  # which imports torch

    config = to_plain(cfg, count_classes)
    config.pop("sweep", None)
    return config if started_in is None else _with_whole_paths(copy.deepcopy(config), Path(started_in))


def _with_whole_paths(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    for *groups, name in _PATHS:
        node: Any = config
        for group in groups:
            node = node.get(group) if isinstance(node, dict) else None
        value = node.get(name) if isinstance(node, dict) else None
        # weights may also be the name of published ones
        if isinstance(value, str) and "://" not in value and (name != "weights" or (folder / value).exists()):
            node[name] = str(folder / value)
    return config


def _logging(node: Any) -> Any:
    if node.job_logging is None:
        return None
    plain: Any = OmegaConf.to_container(node.job_logging, resolve=True)
    return plain
