"""The folders of a sweep's jobs: each job has its own, and the file system takes its name."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from modelfactory.config.errors import Problem
from modelfactory.config.files import name_problem
from modelfactory.sweeping.records import Job

PATH = "hydra.sweep.subdir"
_HINT = "give ${hydra.job.num}, or ${hydra:job.override_dirname}"


def folder_problems(jobs: Iterable[Job], title: Callable[[Job], str]) -> Iterator[Problem]:
    """Give a problem for each folder that several jobs would train into, and for names that are too long.

    Args:
        title: what tells a job from the others.

    Example:
        >>> from pathlib import Path
        >>> jobs = [Job(number, Path("sweep/one"), (f"seed={number}",)) for number in range(2)]
        >>> print(*folder_problems(jobs, lambda job: job.overrides[0]))
        hydra.sweep.subdir: jobs 0 (seed=0) and 1 (seed=1) would both train into ...sweep/one; give ${hydra.job.num}, or ...
    """
    by_folder: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        by_folder[os.path.realpath(job.folder)].append(job)
    for folder, meeting in by_folder.items():
        first, *others = meeting
        if others:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            both = f"jobs {first.number} ({title(first)}) and {others[0].number} ({title(others[0])}){more}"
            yield Problem(PATH, f"{both} would {'all' if more else 'both'} train into {folder}; {_HINT}, without exclude_keys")
        if wrong := name_problem(first.folder):
            yield Problem(PATH, f"the folder of job {first.number} {wrong}; {_HINT} with hydra.job.config.override_dirname.exclude_keys")
            return  # the others have names of the same kind


def quoted(text: str) -> str:
    """A text as a value in an override.

    Example:
        >>> quoted("it's")
        "'it\\\\'s'"
    """
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${") + "'"
