"""The `sweep` key of a config: how the jobs of a sweep are run and gone on with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelfactory.config.errors import Problems
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
        isolate: each job in a process of its own, so that a crash harms no other.
        zip: axes to pair instead of crossing them: a list of swept keys of equally many values, or a list of such lists.
        gpus: how many GPUs jobs take turns on, one job on one at a time: job k takes GPU k % gpus, or else the next that
            is free; null: jobs see all.
        until: told: seeds are added until each scheme is told from the best; null: the jobs that were asked for.
        max_seeds: of a scheme, the most that `until` takes.
    """

    resume: str | None = AUTO
    on_error: str = key("continue", choices=("continue", "stop"))
    isolate: bool = True
    gpus: int | None = key(None, min=1)
    zip: Any = None
    until: str | None = key(None, choices=("told",))
    max_seeds: int = key(30, min=2)

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
    if spec.until is not None and spec.zip:
        problems.add(join(path, "until"), "adds seeds to a sweep that crosses its axes; leave out sweep.zip, or sweep.until")
    if spec.isolate and not POSSIBLE:
        problems.add(join(path, "isolate"), "true is not possible on this system; give false")
    return spec if len(problems) == found else None
