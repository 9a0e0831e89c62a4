"""Jobs of a sweep that are trained as one stack, in one process: each leaves what it would have left alone."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelfactory.api.run import prepare
from modelfactory.cli.train_job import DONE, FAILED, job_of
from modelfactory.config.errors import ConfigError, Problems
from modelfactory.config.target import trust
from modelfactory.data.shared import SharedData
from modelfactory.sweeping.group import NOT_TOGETHER, ONE_BY_ONE
from modelfactory.sweeping.parts import POSSIBLE, in_processes, parts_of
from modelfactory.training.at_once import AtOnce, choose_number, one_thread
from modelfactory.training.device import check_device, kept_random_state
from modelfactory.training.distributed import ALONE
from modelfactory.training.pace import Pace
from modelfactory.training.setup import set_up
from modelfactory.training.together import CannotStack, train_together

log = logging.getLogger(__name__)


def train_group(
    members: Sequence[Mapping[str, Any]], trusted: Sequence[str] = (), at_once: int | None = None, own_process: bool = False
) -> int:
    """Train resolved configs as one stack of models, or as one on each core, each job in its own folder.

    The numbers of a job do not depend on how many there are: one that is trained here by itself has those that it has with others.

    Args:
        members: number, config and folder of each job; their configs differ only in what stacks.
        trusted: packages that the caller's Python allowed configs to name.
        at_once: how many to train at once; None: as many as fit and as pay.
        own_process: whether this process is there for the group alone, so that it may be forked for each core.

    Returns:
        The exit status: that of a job, FAILED where any job failed; NOT_TOGETHER: the jobs that are not done have to be trained alone;
        ONE_BY_ONE: none was begun, since several at once would be slower.
    """
    trust(*trusted)
    load = SharedData()
    # none is begun before the fork, which would not have it
    cores = one_thread() if own_process and len(members) > 1 and _may_be_forked(members[0]["config"]) else 1
    number, fits = (at_once or 1, at_once or 1) if at_once or len(members) == 1 else _number(members, load)
    cores = min(cores, fits, len(members))
    if number < 2 <= len(members) and cores < 2:
        return ONE_BY_ONE
    if cores < 2:
        return _train_part(members, members, number, trusted, load)
    log.info("sweep.batch: in %s processes side by side, a thread each", cores)
    codes = in_processes(
        lambda part: _train_part(part, members, max(1, number // cores), trusted, load), parts_of(members, cores)
    )
    if any(code not in (DONE, FAILED) for code in codes):
        return NOT_TOGETHER
    return FAILED if FAILED in codes else DONE


def _train_part(
    part: Sequence[Mapping[str, Any]], members: Sequence[Mapping[str, Any]], number: int, trusted: Sequence[str], load: SharedData
) -> int:
    """Trains some members of a group, so many at once."""
    code = DONE
    with members_logs(part, members[0]["folder"]) as turn:
        for start in range(0, len(part), number):
            chosen = part[start : start + number]
            pace = Pace(len(chosen)) if len(chosen) > 1 else None
            jobs = [job_of(member["config"], member["folder"], trusted, len(members) > 1, load, pace) for member in chosen]
            try:
                ended = train_together(jobs, lambda place, chosen=chosen: turn(chosen[place]))
            except CannotStack as error:
                log.warning("%s; the jobs are trained alone", error)
                return NOT_TOGETHER
            if any(end != DONE for end in ended):
                code = FAILED
    return code


def _may_be_forked(config: Mapping[str, Any]) -> bool:
    """Whether processes side by side may train jobs of such a config: on the CPU alone, where each has a core."""
    device = check_device((config.get("trainer") or {}).get("device", "auto"), "trainer.device", Problems())
    return POSSIBLE and device is not None and device.type == "cpu"


def _number(members: Sequence[Mapping[str, Any]], load: SharedData) -> tuple[int, int]:
    """How many to train at once, by a few steps of the first one's model, and how many fit.

    All of them where that one is wrong, so that each says so.
    """
    try:
        found = _measured(dict(members[0]["config"]), load, len(members))
    except (ConfigError, RuntimeError, OSError, MemoryError) as error:
        log.info("sweep.batch: how many fit is not known: %s", error)
        return len(members), 1
    log.info("sweep.batch: %s jobs, %s at once: %s", len(members), found.number, found.why)
    return found.number, found.fits


def _measured(config: dict[str, Any], load: SharedData, wanted: int) -> AtOnce:
    spec, data, built = prepare(config, load)
    device = spec.training.device
    with kept_random_state(device):
        run = set_up(built.model, data, spec.training, built.thaws, ALONE)
        x, y = next(run.train.epoch(1))
        return choose_number(built.model, run.loss, x, y, wanted)


@contextlib.contextmanager
def members_logs(members: Sequence[Mapping[str, Any]], configured: str) -> Iterator[Any]:
    """Have each job's log in its own folder: what is said while it has its turn in its own, and all else in those of all.

    Logging is configured for the folder of one job; its files are those of the others too, in their folders.

    Returns:
        A context for the turn of a job.
    """
    current: list[Mapping[str, Any]] = []
    first = Path(configured)
    changed: list[tuple[logging.Handler, Any]] = []
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and first in Path(handler.baseFilename).parents:
            name = Path(handler.baseFilename).relative_to(first)

            def emit(record: logging.LogRecord, handler: logging.FileHandler = handler, name: Path = name) -> None:
                line = handler.format(record) + handler.terminator
                for member in current or members:
                    with open(Path(member["folder"], name), "a", encoding=handler.encoding) as file:
                        file.write(line)

            changed.append((handler, handler.__dict__.get("emit")))
            handler.emit = emit  # pyright: ignore[reportAttributeAccessIssue]

    @contextlib.contextmanager
    def turn(member: Mapping[str, Any]) -> Iterator[None]:
        current[:] = [member]
        try:
            yield
        finally:
            current.clear()

    try:
        yield turn
    finally:
        for handler, _ in changed:
            del handler.__dict__["emit"]
