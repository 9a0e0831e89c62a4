"""How the signal travels through each scheme's model at the start: what the runs' signal.csv say."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from modelfactory.config.files import read_text
from modelfactory.reporting.schemes import Arm
from modelfactory.sweeping.records import Job

# a figure's line: the column of signal.csv
LINES = {
    "forward": "forward_measured",
    "forward_predicted": "forward_predicted",
    "gradient": "gradient_measured",
    "gradient_predicted": "gradient_predicted",
}


_WELL = ("", "ok", "weak", "unexpected")


@dataclass(frozen=True)
class Signal:
    """A scheme's signal, layer by layer in the order of the forward pass.

    Attributes:
        layers: their names.
        forward, gradient: the measured scales, the median over the scheme's runs; None where there is none.
        forward_predicted, gradient_predicted: what the weights' variances say.
        verdicts: of the first run: "ok", or what is wrong with a layer.
    """

    layers: list[str]
    forward: list[float | None]
    forward_predicted: list[float | None]
    gradient: list[float | None]
    gradient_predicted: list[float | None]
    verdicts: list[str]

    @property
    def trouble(self) -> str:
        """The first layer with a bad verdict, and how many share it; "" where all are well.

        Example:
            >>> Signal(["a", "b", "c"], [], [], [], [], ["ok", "dead", "dead"]).trouble
            'dead at b, and 1 layer more'
        """
        first = next((index for index, verdict in enumerate(self.verdicts) if verdict not in _WELL), None)
        if first is None:
            return ""
        alike = self.verdicts.count(self.verdicts[first]) - 1
        return f"{self.verdicts[first]} at {self.layers[first]}" + (f", and {alike} layer{'' if alike == 1 else 's'} more" if alike else "")

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def read_signal(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's signal.csv; none where there is no such file.

    Raises:
        ValueError: the file is not one of a run.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     read_signal(Path(folder))
        []
    """
    try:
        text = read_text(folder / "signal.csv")
    except FileNotFoundError:
        return []
    try:
        table = csv.DictReader(text.splitlines(), strict=True)
        if "layer" not in (table.fieldnames or ()):
            raise ValueError("it has no column layer")
        rows = list(table)
    except csv.Error as error:
        raise ValueError(f"it is not the signal of a run: {error}") from error
    for row in rows:
        for column in LINES.values():
            float(row.get(column) or "nan")
    return rows


def scheme_signal(scheme: Arm) -> Signal | None:
    """The signal of a scheme; None when none of its runs measured it. Runs with other layers than the first are left out."""
    runs = [rows for rows in map(_rows, scheme.jobs) if rows]
    if not runs:
        return None
    layers = [row.get("layer") or "" for row in runs[0]]
    alike = [rows for rows in runs if [row.get("layer") or "" for row in rows] == layers]
    lines = {name: [_middle([rows[index].get(column) for rows in alike]) for index in range(len(layers))] for name, column in LINES.items()}
    return Signal(layers, **lines, verdicts=[row.get("verdict") or "" for row in runs[0]])


def _rows(job: Job) -> list[dict[str, str]]:
    try:
        return read_signal(job.folder)
    except ValueError:  # which the report says of the job
        return []


def _middle(cells: Sequence[str | None]) -> float | None:
    values = [float(cell) for cell in cells if cell]
    finite = [value for value in values if math.isfinite(value)]
    return float(f"{median(finite):.6g}") if finite else None
