"""Gather what is wrong in the jobs of a sweep, each problem once with the jobs that have it."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from modelfactory.config.errors import Problem, Problems
from modelfactory.config.hydra_errors import NO_SUCH_KEY
from modelfactory.sweeping.records import Job

T = TypeVar("T")
log = logging.getLogger(__name__)
SILENT_SECONDS = 3.0  # after which a person wonders whether anything happens


class JobProblems:
    """The problems of some jobs.

    Example:
        >>> from pathlib import Path
        >>> gathered = JobProblems()
        >>> for number in range(2):
        ...     gathered.add(Job(number, Path(), ()), [Problem("seed", "is too small")])
        >>> [str(problem) for problem in gathered.told(3, lambda job: f"seed=-{job.number}")]
        ['seed: is too small (in 2 of 3 jobs, the first: seed=-0)']
    """

    def __init__(self) -> None:
        self._jobs: dict[Problem, list[Job]] = defaultdict(list)
        self._hints: dict[str, str] = {}

    def add(self, job: Job, problems: Iterable[Problem]) -> None:
        for problem in dict.fromkeys(problems):
            if problem.message.startswith(NO_SUCH_KEY):  # and a hint, which is of the keys that there are in this job
                self._hints.setdefault(problem.path, problem.message)
                problem = Problem(problem.path, NO_SUCH_KEY)
            self._jobs[problem].append(job)

    def told(self, count: int, title: Callable[[Job], str]) -> Iterator[Problem]:
        """Each problem; one that not all of the `count` jobs have says in how many it is, and a key that only some lack what would do."""
        for problem, jobs in self._jobs.items():
            lacks = problem.message == NO_SUCH_KEY
            if len(jobs) == count:
                yield Problem(problem.path, self._hints[problem.path]) if lacks else problem
            else:
                more = f", and in other jobs there is; ++{problem.path}=... sets it in every job" if lacks else ""
                yield Problem(problem.path, f"{problem.message}{more} (in {len(jobs)} of {count} jobs, the first: {title(jobs[0])})")


def chosen_too_late(config: DictConfig, sweep: DictConfig) -> list[Problem]:
    """Problems of a job that names another launcher or sweeper than its sweep has, which is chosen before there are jobs.

    Example:
        >>> from omegaconf import OmegaConf
        >>> job, sweep = (OmegaConf.create({"hydra": {"runtime": {"choices": {"hydra/launcher": name}}}}) for name in ("joblib", "basic"))
        >>> [problem.path for problem in chosen_too_late(job, sweep)]
        ['hydra.launcher']
    """
    found = []
    for name in ("launcher", "sweeper"):
        chosen, ours = (node.hydra.runtime.choices.get(f"hydra/{name}") for node in (config, sweep))
        if chosen != ours:
            message = f"{chosen!r} is named in what is swept, and a sweep has one {name}, chosen before its jobs"
            found.append(Problem(f"hydra.{name}", f"{message}; give hydra/{name}={chosen} on the command line"))
    return found


def without_seeds(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config without seeds that are right: whether all else is right does not depend on them.

    Example:
        >>> without_seeds({"seed": 3, "data": {"seed": -1}})
        {'data': {'seed': -1}}
    """
    data = config.get("data")
    plain = {name: value for name, value in config.items() if name != "seed" or not _is_seed(value)}
    if isinstance(data, Mapping) and _is_seed(data.get("seed")):
        plain["data"] = {name: value for name, value in data.items() if name != "seed"}
    return plain


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def swept_twice(words: Iterable[str]) -> list[Problem]:
    """The keys that a sweep is given more than once, of which Hydra's sweepers would take the last and drop the others in silence.

    Example:
        >>> print(*swept_twice(["model=cnn", "seed=0,1", "optimizer.lr=0.1", "+seed=3"]))
        seed: is given 2 times (seed=0,1 +seed=3), of which a sweep takes the last; give all values at once, as in seed=A,B,C
    """
    given: dict[str, list[Override]] = defaultdict(list)
    for override in OverridesParser.create().parse_overrides(list(words)):
        given[override.get_key_element().lstrip("+~")].append(override)
    problems = Problems()
    for key, found in given.items():
        if len(found) > 1 and any(override.is_sweep_override() for override in found):
            told = " ".join(str(override.input_line) for override in found)
            what = f"is given {len(found)} times ({told}), of which a sweep takes the last"
            problems.add(key, f"{what}; give all values at once, as in {key}=A,B,C")
    return list(problems)


def now_and_then(items: Sequence[T], told: str, seconds: float = SILENT_SECONDS) -> Iterator[T]:
    """Give each item, and log how many there were whenever so much time has passed without a word.

    Args:
        told: a format of two numbers: items so far, and all of them.

    Example:
        >>> list(now_and_then("abc", "%s of %s jobs are checked"))
        ['a', 'b', 'c']
    """
    since = math.inf  # what the first one takes is imports
    for place, item in enumerate(items):
        if time.monotonic() - since >= seconds:
            log.info(told, place, len(items))
            since = time.monotonic()
        yield item
        since = time.monotonic() if place == 0 else since
