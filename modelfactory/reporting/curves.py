"""The curves of a sweep: what each run's metrics.csv has, and a scheme's middle and range over its seeds."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from modelfactory.config.files import read_text
from modelfactory.config.printable import finite
from modelfactory.reporting.schemes import Arm

COLUMNS = ("train_loss", "val_loss", "val_accuracy")
MOST_POINTS = 200  # of one curve; a longer one is thinned evenly
History = Mapping[str, Mapping[int, float]]


def read_history(folder: Path) -> dict[str, dict[int, float]]:
    """Each of COLUMNS by epoch, of a run's metrics.csv; without what is empty or not finite. Empty where there is no file.

    Raises:
        ValueError: the file is not one of a run.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "metrics.csv").write_text("epoch,train_loss,val_loss,val_accuracy\\n1,2.5,nan,\\n")
        ...     read_history(Path(folder))
        {'train_loss': {1: 2.5}, 'val_loss': {}, 'val_accuracy': {}}
    """
    found: dict[str, dict[int, float]] = {column: {} for column in COLUMNS}
    try:
        text = read_text(folder / "metrics.csv")
    except FileNotFoundError:
        return found
    try:
        rows = csv.DictReader(text.splitlines(), strict=True)
        if "epoch" not in (rows.fieldnames or ()):
            raise ValueError("it has no column epoch")
        for row in rows:
            for column in COLUMNS:
                value = finite(float(row.get(column) or math.nan))
                if value is not None:
                    found[column][int(row["epoch"])] = value
    except (TypeError, KeyError, csv.Error) as error:
        raise ValueError(f"it is not the metrics of a run: {error}") from error
    return found


@dataclass(frozen=True)
class Band:
    """A scheme's curve over its seeds.

    Attributes:
        epochs: from 1; those that any seed has.
        middle, low, high: the median, least and largest over the seeds that have the epoch.
        ends: epoch and value where a run ended that did not complete.
    """

    epochs: tuple[int, ...] = ()
    middle: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    ends: tuple[tuple[int, float], ...] = ()


def band(histories: Sequence[Mapping[int, float]], broken: Sequence[bool]) -> Band:
    """The band of one column.

    Args:
        histories: a column of each run, by epoch.
        broken: whether the run ended without completing.

    Example:
        >>> band([{1: 3.0, 2: 1.0}, {1: 5.0}], [False, True])
        Band(epochs=(1, 2), middle=(4.0, 1.0), low=(3.0, 1.0), high=(5.0, 1.0), ends=((1, 5.0),))
    """
    epochs = thinned(sorted({epoch for history in histories for epoch in history}))
    values = [[history[epoch] for history in histories if epoch in history] for epoch in epochs]
    ends = [max(history.items()) for history, is_broken in zip(histories, broken, strict=True) if is_broken and history]
    return Band(tuple(epochs), tuple(map(median, values)), tuple(map(min, values)), tuple(map(max, values)), tuple(ends))


def thinned(epochs: Sequence[int], most: int = MOST_POINTS) -> list[int]:
    """At most `most` of the epochs, evenly, the first and the last with them.

    Example:
        >>> thinned(list(range(1, 11)), 4)
        [1, 4, 7, 10]
    """
    if len(epochs) <= most:
        return list(epochs)
    return [epochs[round(index * (len(epochs) - 1) / (most - 1))] for index in range(most)]


def scheme_bands(scheme: Arm, histories: Mapping[int, History]) -> dict[str, Band]:
    """The band of each of COLUMNS that any job of a scheme has; `histories` by the job's number."""
    broken = [job.status not in ("completed", "running", "pending") for job in scheme.jobs]
    made = {column: band([histories[job.number][column] for job in scheme.jobs], broken) for column in COLUMNS}
    return {column: curve for column, curve in made.items() if curve.epochs}


def wants_log(bands: Sequence[Band]) -> bool:
    """Whether values are spread so far, and all above 0, that a logarithmic axis shows more.

    Example:
        >>> wants_log([Band((1, 2), (2.3, 0.01), (2.3, 0.01), (2.3, 0.01))])
        True
    """
    values = [value for curve in bands for value in (*curve.low, *curve.high)]
    return bool(values) and min(values) > 0 and max(values) > 5 * min(values)
