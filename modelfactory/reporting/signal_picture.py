"""Draw the signal of runs from the tables that they left: a job of a sweep leaves no picture, a report draws it."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelfactory.config.errors import contained
from modelfactory.config.printable import one_line
from modelfactory.reporting.signals import read_signal
from modelfactory.signal_propagation.plot import draw
from modelfactory.signal_propagation.row import Numbers, SignalRow
from modelfactory.signal_propagation.table import NUMBERS, SignalTable
from modelfactory.sweeping.records import Job, Sweep

PICTURE = "signal.png"
log = logging.getLogger(__name__)


def draw_missing_signals(sweep: Sweep) -> list[Job]:
    """Draw signal.png of each job that asks for it and has none, or an older one than its signal.csv; return these jobs.

    Folders that a sweep names outside of its own are left alone, and a table that cannot be drawn is one warning.

    Example:
        >>> draw_missing_signals(Sweep(Path("nowhere"), (Job(0, Path("nowhere/0"), ()),)))
        []
    """
    failures, drawn = list[str](), list[Job]()
    root = sweep.folder.resolve()
    for job in sweep.jobs:
        if job.folder.resolve().is_relative_to(root) and _is_missing(job):
            with contained(f"{PICTURE} of job {job.number}", failures):
                _draw(job.folder)
                drawn.append(job)
    for failure in failures:
        log.warning(failure)
    return drawn


def _is_missing(job: Job) -> bool:
    table, picture = job.folder / "signal.csv", job.folder / PICTURE
    trainer = job.config.get("trainer")
    wanted = trainer.get("signal", "picture") if isinstance(trainer, Mapping) else "picture"
    if wanted != "picture" or not table.is_file():
        return False
    return not picture.is_file() or picture.stat().st_mtime < table.stat().st_mtime


def _draw(folder: Path) -> None:
    rows = [_row(number, cells) for number, cells in enumerate(read_signal(folder))]
    if not rows:
        raise ValueError("signal.csv has no rows")
    bad = next((row for row in rows if row.verdict not in ("ok", "weak", "unexpected")), None)
    title = "" if bad is None else f"{bad.verdict[:1].upper()}{bad.verdict[1:]} at {bad.layer or bad.label}"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a layer's name in a script that the font has not
        draw(SignalTable(rows, input_scale=math.nan), folder / PICTURE, title)  # which the table does not tell


def _row(number: int, cells: Mapping[str, Any]) -> SignalRow:
    """A row of signal.csv; empty cells are what is not known.

    Raises:
        ValueError: a cell is no number.
    """
    predicted, measured = (Numbers(**{name: _number(cells, f"{name}_{side}") for name in NUMBERS}) for side in ("predicted", "measured"))
    chance = _number(cells, "chance_forward"), _number(cells, "chance_gradient")
    texts = [one_line(cells.get(column) or "").replace("$", r"\$") for column in ("layer", "call", "kind", "verdict")]
    layer, label, kind, verdict = texts
    return SignalRow(number, layer, label, kind, (), predicted, measured, chance, verdict=verdict or "ok")


def _number(cells: Mapping[str, Any], column: str) -> float:
    return float(cells.get(column) or "nan")
