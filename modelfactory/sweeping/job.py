"""One job of a sweep, as Hydra's launchers call it in whatever process they run jobs."""

from __future__ import annotations

import copy
import logging
import os
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from modelfactory.config.compose import to_plain
from modelfactory.config.errors import ModelFactoryError
from modelfactory.sweeping.gpus import held_gpu, visible_gpus
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
    """What Hydra calls for each job, in whatever process its launcher runs jobs: a function that can be pickled.

    Attributes:
        trusted: packages that the Python that began the sweep allows.
        cwd: where the sweep was begun, and where its jobs are too, if there is such a folder where they run.
        function: full name of what does the job: `function(config, folder, trusted)` leaves a result.json.
    """

    spec: SweepSpec
    trusted: tuple[str, ...]
    cwd: str
    function: str = "modelfactory.cli.train_job.train_job"

    def __call__(self, cfg: DictConfig) -> float | None:
        """Does the job; returns its best monitored value.

        Raises:
            JobFailed: it did not complete.
        """
        node = HydraConfig.get()
        folder, number, root = Path(node.runtime.output_dir), int(node.job.num), Path(node.sweep.dir)
        if self.spec.on_error == "stop" and (root / STOPPED).exists():
            return None
        config = job_config(cfg, self.cwd if node.job.chdir else None)
        try:
            cwd = self.cwd if Path(self.cwd).is_dir() and not node.job.chdir else str(Path.cwd())
            self._do(config, folder, number, cwd, {"config": _logging(node), "folder": str(root), "trusted": list(self.trusted)})
        except KeyboardInterrupt as error:
            end_record(folder, "killed", str(error) or "interrupted")
            raise
        record = read_result(folder) or {}
        if record.get("status") == "completed":
            return objective(record.get("best") or {}, config)
        log.error("job %s %s: %s", number, record.get("status"), record.get("error"))
        if self.spec.on_error == "stop":
            (root / STOPPED).touch()
        raise JobFailed(f"job {number} {record.get('status')}: {record.get('error')}")

    def _do(self, config: dict[str, Any], folder: Path, number: int, cwd: str, logging_request: dict[str, Any]) -> None:
        arguments = {"config": config, "folder": str(folder), "trusted": list(self.trusted)}
        if not self.spec.isolate:
            pkgutil.resolve_name(self.function)(**arguments)
            return
        environment, kills = dict(os.environ), num_oom_kills()
        if self.spec.gpus is None:
            code = call_isolated(self.function, arguments, environment, cwd, logging_request)
        else:
            with held_gpu(number, visible_gpus(self.spec.gpus, environment.get("CUDA_VISIBLE_DEVICES"))) as gpu:
                log.info("job %s is on GPU %s", number, gpu)
                code = call_isolated(self.function, arguments, environment | {"CUDA_VISIBLE_DEVICES": gpu}, cwd, logging_request)
        starved = code == -9 and num_oom_kills() > kills
        status = "out_of_memory" if starved else "killed" if code < 0 else "failed"
        reason = f"{told_exit(code)}{', by the kernel for lack of memory' if starved else ''}"
        end_record(folder, status, reason)


def job_config(cfg: Any, started_in: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """The plain config of one job, without what is the sweep's.

    Args:
        started_in: where the command was given, for a job that is elsewhere (`hydra.job.chdir`): relative paths mean what they
            meant there.

    Example:
        >>> job_config({"trainer": {"resume": "runs/a"}}, "/home/me")
        {'trainer': {'resume': '/home/me/runs/a'}}
    """
    config = to_plain(cfg)
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
