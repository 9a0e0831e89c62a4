"""The `sweep` key of a config: how the jobs of a sweep are run and gone on with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelfactory.config.errors import Problems, did_you_mean
from modelfactory.config.schema import join, key, read
from modelfactory.sweeping.process import POSSIBLE
from modelfactory.sweeping.records import SWEEP
from modelfactory.sweeping.zipped_axes import Groups, read_zip

AUTO = "auto"


@dataclass(frozen=True)
class SweepSpec:
    """The `sweep` key of a config.

    Attributes:
        resume: auto: go on with the same sweep, if it was interrupted; null: begin anew; or the directory of a sweep.
        on_error: continue, or stop: no further job starts after one that failed.
        isolate: each job, or group of jobs, in a process of its own, so that a crash harms no other.
        batch: auto: jobs that differ only in what stacks are trained together, as many at once as fit and as pay; off: each alone; or
            how many at once.
        zip: axes to pair instead of crossing them: a list of swept keys of equally many values, or a list of such lists.
        gpus: how many GPUs jobs take turns on, one job on one at a time: job k takes GPU k % gpus, or else the next that
            is free; null: jobs see all.
        until: told: seeds are added until each scheme is told from the best; null: the jobs that were asked for.
        max_seeds: of a scheme, the most that `until` takes.
    """

    resume: str | None = AUTO
    on_error: str = key("continue", choices=("continue", "stop"))
    isolate: bool = True
    batch: bool | int | str = AUTO
    gpus: int | None = key(None, min=1)
    zip: Any = None
    until: str | None = key(None, choices=("told",))
    max_seeds: int = key(30, min=2)

    @property
    def at_once(self) -> int | None:
        """How many jobs are trained together; None: as many as fit and as pay."""
        return None if self.batch == AUTO else 1 if self.batch in ("off", False) else int(self.batch)

    @property
    def zipped(self) -> Groups:
        return read_zip(self.zip, "sweep.zip", Problems())


def check_sweep(mapping: Any, problems: Problems, path: str = "sweep") -> SweepSpec | None:
    """The `sweep` key of a config, or None after adding to `problems` all that is wrong.

    Example:
        >>> problems = Problems()
        >>> check_sweep({"on_eror": "stop", "resume": "nowhere"}, problems)
        >>> print(*problems, sep="\\n")
        sweep.on_eror: not a key of sweep; did you mean 'on_error'?
    """
    spec = read(SweepSpec, {} if mapping is None else mapping, path, problems)
    if spec is None:
        return None
    found = len(problems)
    read_zip(spec.zip, join(path, "zip"), problems)
    if spec.resume not in (None, AUTO) and not Path(spec.resume, SWEEP).is_file():
        problems.add(join(path, "resume"), f"{spec.resume!r} has no {SWEEP}; give the directory of a sweep, auto, or null")
    if spec.gpus is not None and not spec.isolate:
        problems.add(join(path, "gpus"), "needs sweep.isolate=true: a process cannot change the GPUs it sees")
    if isinstance(spec.batch, bool) and spec.batch or isinstance(spec.batch, int) and spec.batch < 1 and spec.batch is not False:
        problems.add(join(path, "batch"), f"{spec.batch!r} is not a number of jobs; give auto, off, or an integer >= 1")
    elif isinstance(spec.batch, str) and spec.batch not in (AUTO, "off"):
        hint = did_you_mean(spec.batch, (AUTO, "off"))
        problems.add(join(path, "batch"), f"{spec.batch!r} is neither auto, off nor a number of jobs{hint}")
    if spec.until is not None and spec.zip:
        problems.add(join(path, "until"), "adds seeds to a sweep that crosses its axes; leave out sweep.zip, or sweep.until")
    if spec.isolate and not POSSIBLE:
        problems.add(join(path, "isolate"), "true is not possible on this system; give false")
    return spec if len(problems) == found else None
