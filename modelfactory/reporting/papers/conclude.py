"""Draw what the sweep of a paper's experiment found, once all of its runs are done."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path

from modelfactory.reporting.papers.outcome import Outcome
from modelfactory.sweeping.experiment import FIGURES
from modelfactory.sweeping.records import read_sweep


def conclude(folder: str | os.PathLike[str]) -> Outcome | None:
    """Draws the figure that a sweep's config asks for, and writes paper.png and paper.csv into the sweep's folder.

    Returns:
        What was found, printable; None where the config asks for no figure.

    Raises:
        ConfigError: there is no run in the folder.
        TrainingError: a run of the sweep did not complete.
    """
    sweep = read_sweep(folder)
    asked = sweep.jobs[0].config.get("experiment") if sweep.jobs else None
    name = asked.get("figure") if isinstance(asked, Mapping) else None
    if name not in FIGURES:
        return None
    outcome = importlib.import_module(f"modelfactory.reporting.papers.{name}").draw(sweep)
    outcome.write(Path(folder))
    return outcome
