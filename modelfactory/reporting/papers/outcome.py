"""What an experiment found: its numbers beside those that are known of it, and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from modelfactory.config.errors import TrainingError
from modelfactory.config.files import write_atomic, write_text
from modelfactory.config.printable import aligned
from modelfactory.reporting.palette import LIGHT
from modelfactory.sweeping.records import Job, Sweep

FILES = ("paper.png", "paper.csv")
"""What `Outcome.write` leaves in the sweep's folder."""


@dataclass(frozen=True)
class PaperFinding:
    """One number.

    Attributes:
        what: what was measured, and on what.
        reference: what others found in this setting, as a text; empty where nothing is known.
        found: the number measured here; None where there is none, such as the steps to a target that is never reached.
    """

    what: str
    reference: str
    found: float | None

    @property
    def cell(self) -> str:
        return "never" if self.found is None else f"{self.found:.4g}"


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Attributes:
        title: one line.
        findings: the numbers.
        figure: a matplotlib figure.
    """

    title: str
    findings: Sequence[PaperFinding]
    figure: Any = field(repr=False)

    def __str__(self) -> str:
        rows = [("", "reference", "found"), *((row.what, row.reference, row.cell) for row in self.findings)]
        return "\n".join([self.title, "", *aligned(rows)])

    def write(self, folder: Path) -> None:
        """Writes paper.png and paper.csv, each whole or not at all."""
        picture, table = FILES
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("what", "reference", "found"))
        writer.writerows((row.what, row.reference, row.cell) for row in self.findings)
        write_text(folder / table, text.getvalue())
        write_atomic(folder / picture, lambda file: self.figure.savefig(file, format="png"))


def completed(sweep: Sweep) -> tuple[Job, ...]:
    """All jobs of the sweep.

    Raises:
        TrainingError: one did not complete, so that there is nothing to compare; with each one's reason.
    """
    missing = [
        f"job {job.number} is {job.status}{f' ({job.reason})' if job.reason else ''}"
        for job in sweep.jobs
        if job.status != "completed"
    ]
    if missing:
        raise TrainingError(f"the experiment compares runs that are not all there: {'; '.join(missing)}")
    return sweep.jobs


def grouped(jobs: Iterable[Job], *paths: str) -> dict[tuple[Any, ...], list[Job]]:
    """Jobs by what their configs have at some paths, in the order in which they come.

    Example:
        >>> jobs = [Job(n, Path(str(n)), (), config={"model": {"depth": depth}}) for n, depth in enumerate((3, 5, 3))]
        >>> {key: [job.number for job in found] for key, found in grouped(jobs, "model.depth").items()}
        {(3,): [0, 2], (5,): [1]}
    """
    found: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        found.setdefault(tuple(at(job.config, path) for path in paths), []).append(job)
    return found


def at(config: Mapping[str, Any], path: str) -> Any:
    """What a config has at a dotted path.

    Raises:
        TrainingError: nothing, so that the figure is not for such a config.

    Example:
        >>> at({"model": {"depth": 3}}, "model.depth")
        3
    """
    value: Any = config
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise TrainingError(f"the experiment's figure tells runs apart by {path}, which a run's config does not have")
        value = value[key]
    return value


def chosen(job: Job, key: str) -> str:
    """What the command line, or the sweep, gave a job for a key; "" where it gave nothing.

    Example:
        >>> chosen(Job(0, Path("0"), ("init=fixup", "+seed=1")), "init")
        'fixup'
    """
    return next((value for name, _, value in (word.lstrip("+").partition("=") for word in job.overrides) if name == key), "")


def read_metrics(job: Job) -> list[dict[str, float]]:
    """The rows of a job's metrics.csv; what is empty there is left out."""
    rows = csv.DictReader((job.folder / "metrics.csv").read_text(encoding="utf-8").splitlines())
    return [{name: float(cell) for name, cell in row.items() if cell} for row in rows]


def curve(jobs: Sequence[Job], column: str) -> tuple[list[float], list[float], list[float], list[float]]:
    """Steps, and over the jobs the median, least and largest of a column of metrics.csv at each of them."""
    histories = [{row["step"]: row[column] for row in read_metrics(job)} for job in jobs]
    steps = sorted(set.intersection(*(set(history) for history in histories)))
    values = [[history[step] for history in histories] for step in steps]
    return steps, [median(each) for each in values], [min(each) for each in values], [max(each) for each in values]


def new_figure(width: float, height: float) -> Any:
    """An empty figure, that no screen is needed for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def dress(axis: Any, title: str, x: str, y: str = "") -> None:
    """The look that all panels share."""
    axis.set_title(title, loc="left", fontsize=10)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(color="#e3e6e8", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def draw_curve(axis: Any, jobs: Sequence[Job], column: str, label: str, index: int) -> None:
    """The median of a column over the jobs, against the step, with their range as a band."""
    steps, middle, low, high = curve(jobs, column)
    axis.plot(steps, middle, color=LIGHT[index], linewidth=1.8, label=label)
    axis.fill_between(steps, low, high, color=LIGHT[index], alpha=0.15, linewidth=0)
