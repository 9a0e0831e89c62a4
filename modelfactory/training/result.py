"""What a run leaves beside its weights: metrics.csv and result.json."""

from __future__ import annotations

import contextlib
import csv
import functools
import importlib.metadata
import io
import json
import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelfactory.config.files import remove_leftovers, write_text
from modelfactory.config.notebook import html_table, html_text
from modelfactory.numerics.rng import INIT_VERSION
from modelfactory.training.lock import locked
from modelfactory.training.status import RESULT, Heartbeat, config_hash, status_of, told, who

METRICS = ("epoch", "step", "train_loss", "val_loss", "val_accuracy", "lr", "seconds")
SCORES = METRICS[:5]
SKIPPED = "skipped_steps"  # a column of fp16: steps of the epoch that the loss scaler skipped


@dataclass
class Result:
    """What a training gave.

    Attributes:
        status: running, completed, diverged, failed, killed or out_of_memory.
        final, best: epoch, step, train_loss, val_loss and val_accuracy (None in regression) of the last epoch, and of
            the best by the monitored value; empty before the first epoch ends. Of data with a test split `best` has test_loss and
            test_accuracy too.
        seconds: wall time of the training, resumed parts included.
        history: one row of METRICS an epoch, with fp16 `skipped_steps` too, of text `val_bits_per_byte` and `val_perplexity`.
        run_dir: where the files are; None: nothing was written.
        model: the trained model, with the weights of the last epoch; those of the best are in model.safetensors.
        error: why it did not complete.
        warnings: what was said before training, and of its first steps, that will probably fail.
        hints: what could be better, though it will probably train.
        started: when, in UTC.
        init_hash: the ledger's fingerprint of the values that the training began with; None where it is not known.
        resumed: for each time that it was resumed under other settings, from where, after which epoch, and what was changed to
            what; empty for a run that is what its config says from its first epoch on.
        processes: how many trained it together.
        weights_checksum: SHA-256 of the best epoch's weights, with their names; equal for equal trainings. None where nothing is written.
    """

    status: str = "running"
    final: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    run_dir: Path | None = None
    model: nn.Module | None = field(default=None, repr=False)
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    started: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    init_hash: str | None = None
    resumed: list[dict[str, Any]] = field(default_factory=list)
    processes: int = 1
    weights_checksum: str | None = field(default=None, repr=False)

    @property
    def outcome(self) -> str:
        """The best epoch in a few words.

        Example:
            >>> Result(best={"epoch": 3, "step": 69, "train_loss": 0.04, "val_loss": 0.15488, "val_accuracy": 0.94429}).outcome
            'best epoch 3, val_loss 0.1549, val_accuracy 0.9443'
        """
        if not self.best:
            return "no epoch"
        told = [f"best epoch {self.best['epoch']}"]
        for name in ("val_loss", "val_accuracy", "test_loss", "test_accuracy"):
            value = self.best.get(name)
            told += [] if value is None else [f"{name} {value:{'.4g' if name.endswith('loss') else '.4f'}}"]
        return ", ".join(told)

    def _repr_html_(self) -> str:
        """Give what a notebook shows: how it ended, what was said, and a row an epoch."""
        heads = [name for name in METRICS if any(row.get(name) is not None for row in self.history)]
        rows = ([_shown(row.get(name)) for name in heads] for row in self.history)
        above = f"{self.status}: {self.error or self.outcome}" + (f": {self.run_dir}" if self.run_dir is not None else "")
        said = [*(f"warning: {words}" for words in self.warnings), *(f"hint: {words}" for words in self.hints)]
        return html_text("\n".join([above, *said])) + (html_table(heads, rows) if heads else "")


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def write_metrics(path: Path, history: Iterable[Mapping[str, Any]]) -> None:
    """Writes metrics.csv, columns METRICS and those that some trainings have besides, as `skipped_steps`; what there is none of is empty.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_metrics(Path(folder, "metrics.csv"), [dict.fromkeys(METRICS, 1) | {"val_accuracy": None}])
        ...     Path(folder, "metrics.csv").read_text().splitlines()[1]
        '1,1,1,1,,1,1'
    """
    rows, text = list(history), io.StringIO(newline="")
    columns = dict.fromkeys([*METRICS, *(name for row in rows for name in row)])
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_seconds(path: Path) -> dict[int, float]:
    """The seconds of each epoch that a metrics.csv has; those of rows that cannot be read are left out.

    Example:
        >>> read_seconds(Path("nowhere.csv"))
        {}
    """
    seconds: dict[int, float] = {}
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                with contextlib.suppress(KeyError, TypeError, ValueError):
                    seconds[int(row["epoch"])] = float(row["seconds"])
    except (OSError, ValueError, csv.Error):
        return seconds
    return seconds


def write_result(path: Path, result: Result, config: Any) -> None:
    """Write result.json: how the run went, its hashes and versions, who ran it, and from what it was resumed under other settings."""
    record = {
        "status": result.status,
        "final": _finite(result.final),
        "best": _finite(result.best),
        "seconds": round(result.seconds, 3),
        "config_hash": None if config is None else config_hash(config),
        "init_hash": result.init_hash,
        "init_version": INIT_VERSION,
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "error": result.error,
        "warnings": result.warnings,
        "hints": result.hints,
        **who(),
        "started": result.started,
        **({"processes": result.processes} if result.processes > 1 else {}),
        **({"resumed": result.resumed} if result.resumed else {}),
    }
    write_text(path, json.dumps(record, indent=2) + "\n")


class Recorded:
    """Keeps result.json true: running, with signs of life, then completed, or what ended it with the error."""

    def __init__(self, result: Result, config: Any):
        self.result, self.config = result, config
        self._open = contextlib.ExitStack()

    def _write(self, status: str, error: str | None = None) -> None:
        self.result.status, self.result.error = status, error
        if self.result.run_dir is not None:
            write_result(self.result.run_dir / RESULT, self.result, self.config)

    def __enter__(self) -> None:
        folder = self.result.run_dir
        with contextlib.ExitStack() as opened:
            if folder is not None:
                opened.enter_context(locked(folder))
                remove_leftovers(folder)
            self._write("running")
            if folder is not None:
                opened.enter_context(Heartbeat(folder / RESULT))
            self._open = opened.pop_all()

    def __exit__(self, kind: Any, error: BaseException | None, _trace: Any) -> None:
        with self._open:
            self._write("completed" if error is None else status_of(error), None if error is None else told(error))


def _finite(scores: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in scores.items()}


def versions() -> dict[str, str]:
    """The versions that decide the numbers."""
    return {"modelfactory": _own_version(), "torch": str(torch.__version__), "python": platform.python_version()}


@functools.cache
def _own_version() -> str:
    try:
        return importlib.metadata.version("modelfactory")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
