"""Sweeps made up for the tests: folders as runs leave them, without the runs."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelfactory.sweeping.records import Job, write_sweep
from modelfactory.training.status import config_hash

METRICS = ("epoch", "step", "train_loss", "val_loss", "val_accuracy", "lr", "seconds")


def leave_run(folder: Path, job: Job, losses: Sequence[float], accuracy: bool = True, error: str | None = None) -> None:
    """What a run leaves: metrics.csv, and result.json unless it is pending."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for epoch, loss in enumerate(losses, 1):
        score = math.exp(-loss) if accuracy and math.isfinite(loss) else None
        row = {"epoch": epoch, "step": 10 * epoch, "train_loss": 0.8 * loss, "val_loss": loss, "val_accuracy": score}
        rows.append({**row, "lr": 0.1, "seconds": 0.1 * epoch})
    if rows:
        with open(folder / "metrics.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, METRICS)
            writer.writeheader()
            writer.writerows(rows)
    best = min(rows, key=lambda row: row["val_loss"], default={})
    record = {"status": job.status, "best": best, "final": rows[-1] if rows else {}, "seconds": 0.1 * len(rows)}
    record |= {"config_hash": job.config_hash, "error": error, "host": "elsewhere", "pid": 1}
    if job.status != "pending":
        (folder / "result.json").write_text(json.dumps(record))


def job_of(number: int, root: Path, overrides: Sequence[str], status: str = "completed", **config: Any) -> Job:
    known = {"trainer": {"monitor": "val_loss"}, **dict(text.lstrip("+").split("=", 1) for text in overrides), **config}
    return Job(number, root / str(number), tuple(overrides), status, config=known, config_hash=config_hash(known))


def make_sweep(
    root: Path,
    levels: Mapping[str, float | str],
    seeds: int = 3,
    epochs: int = 6,
    noise: float = 0.02,
    axis: str = "init",
    accuracy: bool = True,
) -> Path:
    """A sweep of schemes x seeds; a level is the loss that a scheme comes to, or the status that its runs end with."""
    jobs, rng = [], random.Random(0)
    for scheme, level in levels.items():
        for seed in range(seeds):
            status = level if isinstance(level, str) else "completed"
            job = job_of(len(jobs), root, (f"{axis}={scheme}", f"seed={seed}", "trainer.max_epochs=6"), status)
            jobs.append(job)
            reached = rng.gauss(0.0, noise) + (level if isinstance(level, float) else 1.0)
            losses = [reached + 2.3 * math.exp(-1.2 * epoch) for epoch in range(1, epochs + 1)]
            bad = status in ("diverged", "failed", "killed", "out_of_memory")
            error = f"TrainingError: the loss is nan at step 3, seed {seed}" if bad else None
            count = {"pending": 0, "running": epochs // 2, "diverged": 2, "failed": 0}.get(status, epochs)
            leave_run(job.folder, job, losses[:count], accuracy, error)
    write_sweep(root, [replace(job, status="pending") for job in jobs])
    return root
