"""`init=auto` against named schemes, task by task: whether it is worse than the best of them anywhere, by a paired test over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelfactory.config.errors import TrainingError
from modelfactory.reporting.palette import LIGHT
from modelfactory.reporting.papers.outcome import Outcome, PaperFinding, completed, dress, new_figure
from modelfactory.reporting.stats import Holm, Sample, holm
from modelfactory.reporting.text import ALPHA
from modelfactory.sweeping.records import Job, Sweep

OURS = "auto"
_SEEDS = ("seed", "data.seed", "data.split_seed")

Scores = Mapping[str, Mapping[str, float]]
"""By scheme and seed, the validation loss of the best epoch."""


@dataclass(frozen=True)
class Task:
    """One task's scores.

    Attributes:
        name: the swept overrides but for the scheme and the seed.
        means: of the validation loss, by scheme.
        best: the named scheme of the least mean.
        difference: of auto's loss to that scheme's, over the seeds that both have.
    """

    name: str
    means: Mapping[str, float]
    best: str
    difference: Sample


def tasks_of(jobs: Sequence[Job]) -> list[Task]:
    """The tasks of a sweep, in the order in which they come.

    Raises:
        TrainingError: a task lacks auto, or has nothing beside it.
    """
    scores: dict[str, dict[str, dict[str, float]]] = {}
    given = [{key: value for key, _, value in (word.lstrip("+").partition("=") for word in job.overrides)} for job in jobs]
    swept = {key for words in given for key in words if len({other.get(key) for other in given}) > 1}
    for job, all_words in zip(jobs, given, strict=True):
        words = {key: value for key, value in all_words.items() if key in swept}
        scheme, seeds = words.pop("init", OURS), [f"{key}={words.pop(key)}" for key in _SEEDS if key in words]
        task = " ".join(f"{key}={value}" for key, value in words.items())
        scores.setdefault(task, {}).setdefault(scheme, {})[" ".join(seeds)] = job.best["val_loss"]
    return [_task(name, found) for name, found in scores.items()]


def _task(name: str, scores: Scores) -> Task:
    if OURS not in scores or len(scores) < 2:
        raise TrainingError(f"the figure compares init=auto with other schemes, and {name or 'the sweep'} has {', '.join(scores)}")
    means = {scheme: Sample.of(list(found.values())).mean for scheme, found in scores.items()}
    best = min((scheme for scheme in means if scheme != OURS), key=lambda scheme: means[scheme])
    ours, theirs = scores[OURS], scores[best]
    return Task(name, means, best, Sample.of([ours[seed] - theirs[seed] for seed in ours if seed in theirs]))


def verdicts(tasks: Sequence[Task]) -> list[str]:
    """Better, worse or not told, by Student's paired test at 5% with Holm's correction over the tasks.

    Example:
        >>> verdicts([Task("a", {}, "x", Sample(8, -1.0, 0.1)), Task("b", {}, "x", Sample(8, 0.01, 0.1))])
        ['better', 'not told']
    """
    p = [task.difference.p_zero() for task in tasks]
    tests: list[Holm] = holm([1.0 if math.isnan(one) else one for one in p])
    return [_verdict(task, test) for task, test in zip(tasks, tests, strict=True)]


def _verdict(task: Task, test: Holm) -> str:
    return "not told" if test.p > ALPHA else "better" if task.difference.mean < 0 else "worse"


def draw(sweep: Sweep) -> Outcome:
    """The validation loss of each scheme over that of auto, a row a task, and what the test says."""
    tasks = tasks_of(completed(sweep))
    told = verdicts(tasks)
    schemes = [scheme for scheme in dict.fromkeys(scheme for task in tasks for scheme in task.means) if scheme != OURS]
    figure = new_figure(8, 0.32 * len(tasks) + 1.4)
    axis = figure.subplots()
    for index, scheme in enumerate(schemes):
        known = [(row, task.means[scheme] / task.means[OURS]) for row, task in enumerate(tasks) if scheme in task.means]
        axis.scatter([ratio for _, ratio in known], [row for row, _ in known], color=LIGHT[index % len(LIGHT)], label=scheme, zorder=3)
    axis.axvline(1.0, color="#666666", linewidth=1)
    axis.set_xscale("log")
    axis.set_yticks(range(len(tasks)), [f"{task.name} ({verdict})" for task, verdict in zip(tasks, told, strict=True)], fontsize=8)
    axis.invert_yaxis()
    axis.legend(frameon=False, fontsize=8)
    dress(axis, "validation loss over that of init=auto", "right of the line: auto is better")
    findings = [
        PaperFinding(f"{task.name}: auto {task.means[OURS]:.4g}, {verdict} against the best, {task.best}", "", task.means[task.best])
        for task, verdict in zip(tasks, told, strict=True)
    ]
    counts = ", ".join(f"{told.count(verdict)} {verdict}" for verdict in ("better", "not told", "worse"))
    return Outcome(f"init=auto against the best of {', '.join(schemes)} on {len(tasks)} tasks: {counts}", findings, figure)
