"""One job of a sweep, or one of a group, in whatever process it runs: it trains, and leaves a record however it ends."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from modelfactory.api.run import training_of
from modelfactory.config.errors import ConfigError, ModelFactoryError
from modelfactory.config.files import write_text
from modelfactory.config.target import trust
from modelfactory.data.dataset import Data
from modelfactory.data.spec import DataSource, load_source
from modelfactory.training.lock import locked
from modelfactory.training.pace import Pace
from modelfactory.training.requests import Request, alone
from modelfactory.training.result import Result, write_result
from modelfactory.training.resume import saved_hash
from modelfactory.training.status import RESULT, Heartbeat, config_hash, end_record, read_result, recorded, reopen_record, status_of, told

log = logging.getLogger(__name__)
DONE, FAILED = 0, 1


def job_of(
    config: dict[str, Any],
    folder: str,
    trusted: Sequence[str] = (),
    quiet: bool = False,
    load: Callable[[DataSource, int], Data] = load_source,
    pace: Pace | None = None,
) -> Generator[Request, Any, int]:
    """Train a resolved config in `folder`, going on from a checkpoint that an earlier try at the same config left there.

    It draws no picture of the signal: `modelfactory report` does, of the table that is left. `train_job` is the same alone; as a generator
    it yields what the training asks for.

    Args:
        trusted: packages that the caller's Python allowed configs to name.
        quiet: whether nothing is shown of its progress.
        load: loads the data of a config.
        pace: at which it writes its files, where it takes turns with others.

    Returns:
        The exit status; result.json and, for an unexpected error, error.txt say more.
    """
    trust(*trusted)
    try:
        with locked(Path(folder)):
            return (yield from _training(config, Path(folder), quiet, load, pace))
    except ConfigError as error:  # another process has the folder, and with it the record
        log.error(str(error))
        return FAILED


def _training(
    config: dict[str, Any], place: Path, quiet: bool, load: Callable[[DataSource, int], Data], pace: Pace | None
) -> Generator[Request, Any, int]:
    ours, before = config_hash(recorded(config)), read_result(place) or {}
    if before.get("config_hash") == ours:
        reopen_record(place)
    else:
        write_result(place / RESULT, Result(), recorded(config))  # from here on it is known who runs it
    (place / "error.txt").unlink(missing_ok=True)
    try:
        with Heartbeat(place / RESULT):
            # a checkpoint of another config, in a folder that was used, is none
            was_begun = before.get("config_hash") == ours == saved_hash(place)
            result = yield from training_of(
                config, place, resume=place if was_begun else None, pictures=False, quiet=quiet, load=load, pace=pace
            )
    except Exception as error:
        if not isinstance(error, ModelFactoryError):
            write_text(place / "error.txt", traceback.format_exc())
        end_record(place, status_of(error), told(error))
        return FAILED
    with contextlib.suppress(OSError, ValueError):  # it is done also where nobody reads it
        print(f"done: {result.outcome}: {place}", flush=True)
    return DONE


train_job = alone(job_of)
