"""summary.csv: one row a job."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from typing import Any

from modelfactory.config.printable import finite, spreadsheet_cell
from modelfactory.sweeping.records import Job, Sweep

FIXED = ("job", "folder", "status")
SCORES = ("epoch", "step", "train_loss", "val_loss", "val_accuracy")
TEST_SCORES = ("test_loss", "test_accuracy")  # of the best epoch, where the data have a test split
LAST = ("seconds", "config_hash", "reason")


def summary_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """One row a job: job, folder (seen from the sweep's), status, each override, best_* and final_* scores, seconds, config_hash, reason.

    Where any job has scores of a test split, there are best_test_loss and best_test_accuracy too.

    Overrides that all jobs share have their column too; one that would hide another column has `override.` before its name.

    Example:
        >>> from pathlib import Path
        >>> jobs = (Job(0, Path("sweep", "0"), ("init=zeros", "seed=1"), "completed", best={"val_loss": 2.5}),)
        >>> row = summary_rows(Sweep(Path("sweep"), jobs))[0]
        >>> row["folder"], row["init"], row["seed"], row["best_val_loss"], row["final_val_loss"]
        ('0', 'zeros', '1', 2.5, None)
    """
    best = (*SCORES, *(score for score in TEST_SCORES if any(job.best.get(score) is not None for job in sweep.jobs)))
    taken = {*FIXED, *LAST, *(f"best_{score}" for score in best), *(f"final_{score}" for score in SCORES)}
    given = [_overrides(job) for job in sweep.jobs]
    names = {key: f"override.{key}" if key in taken else key for overrides in given for key in overrides}
    return [_row(sweep, job, overrides, names, best) for job, overrides in zip(sweep.jobs, given, strict=True)]


def _overrides(job: Job) -> dict[str, str]:
    """A job's overrides by key, without the + before one that adds a key."""
    parts = [override.lstrip("+").partition("=") for override in job.overrides]
    return {key: value for key, _, value in parts}


def _row(sweep: Sweep, job: Job, overrides: dict[str, str], names: dict[str, str], best: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"job": job.number, "folder": os.path.relpath(job.folder, sweep.folder), "status": job.status}
    row |= {name: overrides.get(key) for key, name in names.items()}
    row |= {f"best_{score}": job.best.get(score) for score in best}
    row |= {f"final_{score}": job.final.get(score) for score in SCORES}
    return row | {"seconds": job.seconds, "config_hash": job.config_hash or None, "reason": job.reason}


def summary_csv(sweep: Sweep) -> str:
    """The rows as CSV; what there is not is an empty cell, a reason keeps to its line, and no cell is a formula."""
    rows = summary_rows(sweep)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_cell(name) for name in rows[0]])
    writer.writerows([_cell(row[name]) for name in rows[0]] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return None if finite(value) is None else f"{value:.8g}"
    return spreadsheet_cell(value) if isinstance(value, str) else value
