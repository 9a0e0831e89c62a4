"""`report`: reads a sweep's folder, and writes what it says of it: summary.csv, curves.png and report.html."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from modelfactory.config.files import write_text
from modelfactory.config.notebook import html_text
from modelfactory.config.printable import one_line
from modelfactory.reporting.curves import COLUMNS, History, read_history, scheme_bands
from modelfactory.reporting.page import page
from modelfactory.reporting.plot import draw_curves
from modelfactory.reporting.ranking import rank
from modelfactory.reporting.schemes import choose_metric, compared_axes, gather_schemes
from modelfactory.reporting.sequential import level_of
from modelfactory.reporting.signal_picture import draw_missing_signals
from modelfactory.reporting.signals import read_signal, scheme_signal
from modelfactory.reporting.summary_csv import summary_csv, summary_rows
from modelfactory.reporting.text import Ranking, failures_text, outcome, ranking_text, state, wrapped
from modelfactory.sweeping.records import Sweep, read_sweep, unreadable

FILES = ("summary.csv", "curves.png", "report.html")


@dataclass(frozen=True)
class Report:
    """What a sweep says; `print` shows the ranking and the failures.

    Attributes:
        sweep: its jobs.
        ranking: the schemes by their mean, with the comparison to the best; printable.
        histories: what the metrics.csv of each job has, by the job's number.
    """

    sweep: Sweep
    ranking: Ranking
    histories: Mapping[int, History] = field(default_factory=dict, repr=False)

    @property
    def summary(self) -> list[dict[str, Any]]:
        """The rows of summary.csv, one a job."""
        return summary_rows(self.sweep)

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        """Give what a notebook shows."""
        return html_text(self.text())

    def text(self, failures: bool = True) -> str:
        """What `print` shows, with or without the jobs that did not complete."""
        head = wrapped(f"{state(self.sweep)}. {self.ranking.metric}.")
        parts = [head, ranking_text(self.ranking), failures_text(self.sweep) if failures else ""]
        return "\n\n".join(part for part in parts if part)

    def plain(self) -> dict[str, Any]:
        """The report as plain data, for JSON: what cannot be told is None."""
        return {
            "folder": str(self.sweep.folder),
            "metric": asdict(self.ranking.metric),
            "axes": list(self.ranking.axes),
            "num_comparisons": self.ranking.num_comparisons,
            "alpha": self.ranking.alpha,
            "ranking": [_plain(row) for row in self.ranking.rows],
            "jobs": self.summary,
        }

    def write(self) -> None:
        """Writes summary.csv, curves.png and report.html into the sweep's folder, each whole or not at all."""
        folder, schemes = self.sweep.folder, [row.scheme for row in self.ranking.rows]
        bands = [scheme_bands(scheme, self.histories) for scheme in schemes]
        signals = [scheme_signal(scheme) for scheme in schemes]
        write_text(folder / "summary.csv", summary_csv(self.sweep))
        title = one_line(" ".join([folder.resolve().name, *self.sweep.overrides]))
        draw_curves(folder / "curves.png", title, [(scheme.label, curves) for scheme, curves in zip(schemes, bands, strict=True)])
        write_text(folder / "report.html", page(self.sweep, self.ranking, bands, signals))


def _plain(row: Any) -> dict[str, Any]:
    sample, compared = row.scheme.sample, row.comparison
    numbers = {} if sample is None else asdict(sample)
    told = {} if compared is None else asdict(compared)
    plain = {
        "scheme": row.scheme.label,
        "rank": row.rank,
        "outcome": outcome(row),
        "jobs": [job.number for job in row.scheme.jobs],
        "values": list(row.scheme.values.values()),
        **{name: numbers.get(name) for name in ("n", "mean", "std")},
        "comparison": told or None,
    }
    return _without_nan(plain)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report(
    folder: str | os.PathLike[str],
    *,
    metric: str | None = None,
    epoch: str = "best",
    by: Sequence[str] | None = None,
    write: bool = True,
    pictures: bool = True,
) -> Report:
    """Reports on a sweep, also one that runs still or is half failed, or on a single run.

    Args:
        folder: the sweep's, or the run's; summary.csv, curves.png and report.html go there.
        metric: val_loss, train_loss or val_accuracy, test_loss or test_accuracy; None: what the trainer monitored.
        epoch: whose score counts, the "best" by the monitored value or the "final".
        by: the swept keys that make a scheme, such as ["init"]; all others are paired like seeds. None: all but the seeds.
        write: whether the files are written.
        pictures: whether signal.png is drawn for each job that has signal.csv alone; it takes a tenth of a second a job.

    Raises:
        ConfigError: no run is in the folder; there is no such metric, epoch or swept key.

    Example:
        >>> import tempfile
        >>> import modelfactory as mf
        >>> cfg = mf.compose("trainer=debug", "trainer.device=cpu", "trainer.progress=none")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = mf.train(cfg, run_dir=folder)
        ...     print(mf.report(folder))
        1 job: 1 completed. val_loss of the best epoch, lower is better.
        ...
    """
    sweep, histories = _with_files(read_sweep(folder))
    chosen, axes = choose_metric(sweep, metric, epoch), compared_axes(sweep, by)
    schemes = gather_schemes(sweep, axes, chosen)
    made = Report(sweep, rank(schemes, chosen, axes, level_of(sweep, len(schemes))), histories)
    if write and pictures:
        draw_missing_signals(made.sweep)
    if write:
        made.write()
    return made


def _with_files(sweep: Sweep) -> tuple[Sweep, dict[int, History]]:
    """The sweep, in which a job with an unreadable file has failed for that reason, and each job's history."""
    jobs, histories = [], {}
    for job in sweep.jobs:
        histories[job.number] = {column: {} for column in COLUMNS}
        try:
            histories[job.number] = read_history(job.folder)
        except ValueError as error:
            job = unreadable(job, "metrics.csv", error)
        try:
            read_signal(job.folder)
        except ValueError as error:
            job = unreadable(job, "signal.csv", error)
        jobs.append(job)
    return replace(sweep, jobs=tuple(jobs)), histories
