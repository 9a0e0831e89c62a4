"""A group of jobs as one task: the statuses with which its process ends, and what is left to do alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from modelfactory.sweeping.records import FINISHED, Job
from modelfactory.sweeping.spec import SweepSpec
from modelfactory.training.status import read_result

NOT_TOGETHER, ONE_BY_ONE = 4, 5
"""What the process of a group ends with where its jobs have to be trained alone, or are better so."""
FUNCTION = "modelfactory.cli.train_group.train_group"


@dataclass(frozen=True)
class Member:
    """A job of a group, as it travels to where the group runs."""

    number: int
    folder: str
    config: dict[str, Any]

    @staticmethod
    def of(job: Job) -> Member:
        return Member(job.number, str(job.folder), dict(job.config))

    @property
    def status(self) -> str:
        return str((read_result(Path(self.folder)) or {}).get("status", "pending"))

    @property
    def reason(self) -> str | None:
        return (read_result(Path(self.folder)) or {}).get("error")

    @property
    def was_cut(self) -> bool:
        """Whether it ended because its group did."""
        return self.status not in FINISHED and (self.status in ("pending", "running") or str(self.reason).startswith("CannotStack"))


def why_alone(plan: Any) -> str | None:
    """Why the model of a plan is trained alone; None: it stacks, or nothing is known of it."""
    from modelfactory.training.stackable import why_alone

    return why_alone(plan.meta) if hasattr(plan, "meta") else "its model is not known"


def why_no_group(spec: SweepSpec, hydra: Any, callbacks: Sequence[Any] = ()) -> str | None:
    """Why no job of a sweep is trained with another; None: some may be.

    Args:
        hydra: the `hydra` node of the sweep's config.
        callbacks: those of Hydra that the sweep has.
    """
    if spec.on_error == "stop":
        return "sweep.on_error is stop: no job begins before the one before it has ended"
    for callback in callbacks:
        if any(getattr(type(callback), name, None) is not getattr(Callback, name) for name in ("on_job_start", "on_job_end")):
            return f"hydra.callbacks: {type(callback).__name__} is called as each job begins and ends"
    return "hydra.job.chdir: each job is in its own directory" if hydra.job.chdir else None
