"""Jobs of a sweep that are trained as one stack, in one process: each leaves what it would have left alone."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelfactory.api.run import prepare
from modelfactory.cli.train_job import DONE, FAILED, job_of
from modelfactory.config.errors import ConfigError
from modelfactory.config.target import trust
from modelfactory.data.shared import SharedData
from modelfactory.sweeping.group import NOT_TOGETHER, ONE_BY_ONE
from modelfactory.training.at_once import AtOnce, choose_number
from modelfactory.training.device import kept_random_state
from modelfactory.training.distributed import ALONE
from modelfactory.training.setup import set_up
from modelfactory.training.together import CannotStack, train_together

log = logging.getLogger(__name__)


def train_group(members: Sequence[Mapping[str, Any]], trusted: Sequence[str] = (), at_once: int | None = None) -> int:
    """Train resolved configs as one stack of models, each in its own folder.

    The numbers of a job do not depend on how many there are: one that is trained here by itself has those that it has with others.

    Args:
        members: number, config and folder of each job; their configs differ only in what stacks.
        trusted: packages that the caller's Python allowed configs to name.
        at_once: how many to train at once; None: as many as fit and as pay.

    Returns:
        The exit status: that of a job, FAILED where any job failed; NOT_TOGETHER: the jobs that are not done have to be trained alone;
        ONE_BY_ONE: none was begun, since several at once would be slower.
    """
    trust(*trusted)
    load = SharedData()
    number = len(members) if len(members) == 1 else at_once or _number(members, load)
    if number < min(2, len(members)):
        return ONE_BY_ONE
    code = DONE
    with members_logs(members) as turn:
        for start in range(0, len(members), number):
            chosen = members[start : start + number]
            jobs = [job_of(member["config"], member["folder"], trusted, quiet=len(members) > 1, load=load) for member in chosen]
            try:
                ended = train_together(jobs, lambda place, chosen=chosen: turn(chosen[place]))
            except CannotStack as error:
                log.warning("%s; the jobs are trained alone", error)
                return NOT_TOGETHER
            if any(end != DONE for end in ended):
                code = FAILED
    return code


def _number(members: Sequence[Mapping[str, Any]], load: SharedData) -> int:
    """How many to train at once, by a few steps of the first one's model; all of them where that one is wrong, so that each says so."""
    try:
        found = _measured(dict(members[0]["config"]), load, len(members))
    except (ConfigError, RuntimeError, OSError, MemoryError) as error:
        log.info("sweep.batch: how many fit is not known: %s", error)
        return len(members)
    log.info("sweep.batch: %s jobs, %s at once: %s", len(members), found.number, found.why)
    return found.number


def _measured(config: dict[str, Any], load: SharedData, wanted: int) -> AtOnce:
    spec, data, built = prepare(config, load)
    device = spec.training.device
    with kept_random_state(device):
        run = set_up(built.model, data, spec.training, built.thaws, ALONE)
        x, y = next(run.train.epoch(1))
        return choose_number(built.model, run.loss, x, y, wanted)


@contextlib.contextmanager
def members_logs(members: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """Have each job's log in its own folder: what is said while it has its turn in its own, and all else in those of all.

    Logging is configured for the first job; its files are those of the others too, in their folders.

    Returns:
        A context for the turn of a job.
    """
    current: list[Mapping[str, Any]] = []
    first = Path(members[0]["folder"])
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
