"""The `experiment` key of a config: the paper's figure that a sweep draws, and its arms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelfactory.config.errors import Problems, did_you_mean
from modelfactory.config.schema import join, key, read

FIGURES = ("auto_tasks", "fixup2019", "glorot2010", "he2015", "mup2022", "saxe2014", "xiao2018")
"""Each is a module of `modelfactory.reporting.papers` with a function `draw(sweep) -> Outcome`."""


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
