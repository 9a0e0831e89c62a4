"""Experiments that have something to say when all of their runs are done: papers, told again with a picture and numbers.

A config of the `experiment` group may say `experiment: {figure: NAME}`; once its sweep has ended, the figure of that name reads the
sweep's folder, and leaves paper.png and paper.csv in it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelfactory.errors import Problems, did_you_mean
from modelfactory.spec import join, key, read

if TYPE_CHECKING:  # what draws is imported when something is drawn, not with every run
    from modelfactory.experiment.outcome import Outcome

__all__ = ["FIGURES", "FILES", "ExperimentSpec", "check_experiment", "conclude"]

FIGURES = ("fixup2019", "glorot2010", "he2015", "mup2022", "saxe2014", "xiao2018")
"""Each is a module here with a function `draw(sweep) -> Outcome`."""

FILES = ("paper.png", "paper.csv")
"""What `conclude` writes into the sweep's folder."""


@dataclass(frozen=True)
class ExperimentSpec:
    """The `experiment` key of a config.

    Attributes:
        figure: what is drawn of the sweep when it has ended; null: nothing.
        arm: which of `arms` this run is; null: none.
        arms: name -> what differs, for the rest of the config to take by `${experiment.arms.${experiment.arm}.KEY}`: so one
            swept key, `experiment.arm`, may go with several others.
    """

    figure: str | None = key(None, choices=FIGURES)
    arm: str | None = None
    arms: dict = key({})


def check_experiment(mapping: Any, problems: Problems, path: str = "experiment") -> ExperimentSpec | None:
    """The `experiment` key of a config, or None after adding to `problems` all that is wrong.

    Example:
        >>> problems = Problems()
        >>> check_experiment({"figure": "saxe2013"}, problems)
        >>> print(*problems)
        experiment.figure: 'saxe2013' is not a choice; did you mean 'saxe2014'?
    """
    spec = read(ExperimentSpec, mapping, path, problems)
    if spec is not None and spec.arm is not None and spec.arm not in spec.arms:
        problems.add(join(path, "arm"), f"{spec.arm!r} is not one of the arms{did_you_mean(spec.arm, spec.arms)}")
        return None
    return spec


def conclude(folder: str | os.PathLike[str]) -> Outcome | None:
    """Draws the figure that a sweep's config asks for, and writes paper.png and paper.csv into the sweep's folder.

    Returns:
        What was found, printable; None where the config asks for no figure.

    Raises:
        ConfigError: there is no run in the folder.
        TrainingError: a run of the sweep did not complete.
    """
    from modelfactory.sweep import read_sweep

    sweep = read_sweep(folder)
    asked = sweep.jobs[0].config.get("experiment") if sweep.jobs else None
    name = asked.get("figure") if isinstance(asked, Mapping) else None
    if name not in FIGURES:
        return None
    outcome = importlib.import_module(f"modelfactory.experiment.{name}").draw(sweep)
    outcome.write(Path(folder))
    return outcome
