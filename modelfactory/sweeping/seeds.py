"""More seeds for the jobs of a sweep: the same overrides with seeds that are not taken yet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn

from modelfactory.sweeping.launcher import SweepLauncher
from modelfactory.sweeping.records import Job, write_sweep

log = logging.getLogger(__name__)
_SEED = "seed"



class UntilTold(SweepLauncher):
    """Adds seeds to a sweep with `sweep.until: told`, batch after batch, until its question is answered or the seeds are spent.

    Args:
        further: gives, of a sweep whose jobs have ended and the most seeds to be spent, the numbers of seeds at which it was looked at, and
            last the number that it is to have.
    """

    def __init__(self, *args: Any, further: Callable[[Path, int], Sequence[int]]):
        super().__init__(*args)
        self._further = further

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Launches a batch of jobs, and those that are added to it; one JobReturn for each."""
        returned = super().launch(job_overrides, initial_job_idx)
        more = self._more() if self._spec.until is not None and returned else []
        return [*returned, *self.launch(more, max(self._jobs) + 1)] if more else returned

    def _more(self) -> list[tuple[str, ...]]:
        """The jobs to add; the look is noted in sweep.json."""
        most, jobs = self._spec.max_seeds, [self._jobs[number] for number in sorted(self._jobs)]
        looks = self._further(self.root, most)
        more = with_seeds(jobs, looks[-1])
        self._about |= {"looks": list(looks[:-1] if more else looks), "max_seeds": most}
        write_sweep(self.root, jobs, self._about)
        if more:
            log.info("not told at %s seeds: going on to %s (sweep.max_seeds=%s)", *looks[-2:], most)
        return more


def with_seeds(jobs: Sequence[Job], count: int) -> list[tuple[str, ...]]:
    """Give the overrides of the jobs by which each combination of the other overrides comes to have so many seeds; the next free numbers.

    Example:
        >>> from pathlib import Path
        >>> jobs = [Job(n, Path(str(n)), (f"init={name}", f"seed={seed}")) for n, (name, seed) in enumerate([("a", 0), ("b", 0)])]
        >>> with_seeds(jobs, 2), with_seeds(jobs, 1)
        ([('init=a', 'seed=1'), ('init=b', 'seed=1')], [])
    """
    taken: dict[tuple[str, ...], list[int]] = {}
    for job in jobs:
        rest = tuple(word for word in job.overrides if _key(word) != _SEED)
        taken.setdefault(rest, []).append(_seed_of(job))
    top = max((seed for seeds in taken.values() for seed in seeds), default=-1)
    most = max((len(seeds) for seeds in taken.values()), default=0)
    return [(*rest, f"{_SEED}={top + 1 + index}") for index in range(max(count - most, 0)) for rest in taken]


def _seed_of(job: Job) -> int:
    given = next((word.partition("=")[2] for word in job.overrides if _key(word) == _SEED), None)
    return int(job.config.get(_SEED) or 0) if given is None else int(given)


def _key(word: str) -> str:
    return word.lstrip("+").partition("=")[0]
