"""What a sweep adds to Hydra's launchers, whichever runs its jobs: all jobs are checked before the first starts and listed in
sweep.json, and those that are done are left out when the sweep is gone on with.
"""

from __future__ import annotations

import glob
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from modelfactory.config.checked import settle_job
from modelfactory.config.errors import ConfigError, Problem, Problems, did_you_mean
from modelfactory.config.hydra_errors import complaint
from modelfactory.config.rejected_overrides import Refused
from modelfactory.config.target import trusted
from modelfactory.sweeping.folders import folder_problems, quoted
from modelfactory.sweeping.group import Member, why_alone, why_no_group
from modelfactory.sweeping.grouping import MOST, plan_groups, side_by_side, tell_groups
from modelfactory.sweeping.hydra_folder import HydraFolders, folder_override, number_override
from modelfactory.sweeping.job import STOPPED, JobFailed, SweepJob, job_config
from modelfactory.sweeping.job_problems import JobProblems, chosen_too_late, now_and_then, swept_twice, without_seeds
from modelfactory.sweeping.process import start_server
from modelfactory.sweeping.records import FINISHED, REPORTS, SWEEP, Job, Sweep, objective, read_about, read_job, read_sweep, write_sweep
from modelfactory.sweeping.spec import AUTO, SweepSpec, check_sweep
from modelfactory.sweeping.zipped_axes import ZippedAxes, zipped_axes
from modelfactory.training.lock import locked
from modelfactory.training.status import RESULT, Heartbeat, clear_run, config_hash, is_alive, who

log = logging.getLogger(__name__)
LATEST = 20  # sweeps among which an interrupted one is looked for
_HERE = ("BasicLauncher", "JoblibLauncher", "LocalLauncher")  # their jobs run on this machine


class _Numbers(int):
    """The initial number of a batch, to which launchers add a job's place: that gives the job's own number in the sweep."""

    numbers: Sequence[int] = ()

    def __add__(self, place: int) -> int:
        return self.numbers[place]


class SweepLauncher(Launcher):
    """Stands before the launcher that the config names, which it makes when the sweep's folder is known.

    Args:
        make: makes the launcher for a function that it calls for each job.
        check: raises ConfigError for the config of a job that is wrong.
        moved: called when the sweep turns out to go on in another folder than the config says.
        refused: what is wrong with the overrides of the whole sweep, which is told with what is wrong with its jobs.
    """

    def __init__(
        self,
        make: Callable[[Any], Launcher],
        check: Callable[[Any], object],
        moved: Callable[[], object],
        refused: Sequence[Problem] = (),
    ):
        self._make, self._check, self._moved, self._refused = make, check, moved, refused
        self._inner: Launcher | None = None
        self._jobs: dict[int, Job] = {}  # all that sweep.json lists, by number
        self._about: dict[str, Any] = {}
        self._zipped: ZippedAxes | None = None
        self._alone: dict[str, str | None] = {}  # why jobs are trained alone, by their config without seeds
        self._left_out = 0  # jobs of all combinations that paired axes leave out

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config
        self._spec = read_sweep_spec(config)
        self._folders = HydraFolders(lambda words: hydra_context.config_loader.load_sweep_config(config, words))
        self._refused = [*self._refused, *swept_twice(config.hydra.overrides.task)]
        if self._spec.isolate:
            start_server()

    @property
    def root(self) -> Path:
        return Path(str(self._config.hydra.sweep.dir)).absolute()

    @property
    def launched(self) -> bool:
        """Whether there was any job."""
        return bool(self._jobs)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Launches what is not done of a batch of jobs; one JobReturn for each of the batch."""
        setup_globals()
        if not job_overrides:
            raise ConfigError(self.why_empty())
        first, all_of_them = initial_job_idx - self._left_out, len(job_overrides)
        job_overrides = self._paired(job_overrides, initial_job_idx)
        self._left_out += all_of_them - len(job_overrides)
        if not job_overrides:  # of this batch of them
            return []
        batch = self._checked(job_overrides, first)
        self.begin(batch)
        if self._inner is None:
            self._task = SweepJob(self._spec, trusted(), str(Path.cwd()))
            self._inner = self._make(self._task)
        batch = self._numbered(batch)
        waiting = [job for job in batch if job.status not in (*FINISHED, "running")]
        if len(waiting) < len(batch):
            log.info("%s of %s jobs are done in %s", len(batch) - len(waiting), len(batch), self.root)
        if waiting:
            leading = self._grouped(waiting)
            first = _Numbers(leading[0].number)
            first.numbers = [job.number for job in leading]
            with self._listed():
                try:
                    self._inner.launch([self._words(job) for job in leading], initial_job_idx=first)
                except Exception as error:
                    log.error("%s: %s: %s", type(self._inner).__name__, type(error).__name__, error)
                    if any(read_job(job).status == "pending" for job in waiting):  # else each job's folder says what became of it
                        raise
        return [self._returned(read_job(job)) for job in batch]

    def _grouped(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs for which the launcher is called: those that are trained alone, and the first of each group of others."""
        why = why_no_group(self._spec, self._config.hydra, self._context.callbacks.callbacks)

        def alone(job: Job) -> str | None:
            return why or self._alone.get(config_hash(without_seeds(job.config)))

        groups = plan_groups(jobs, alone, self._spec.at_once or MOST, side_by_side(self._config.hydra.launcher), list(self._jobs.values()))
        self._task.groups.clear()
        if self._spec.at_once != 1:
            tell_groups(groups)
        for _, *others in (group.jobs for group in groups):
            for job in others:
                self._folders.leave(job, self._words(job))
        self._folders.forget()
        self._task.groups.update((group.jobs[0].number, tuple(map(Member.of, group.jobs))) for group in groups if group.why_alone is None)
        return [group.jobs[0] for group in groups]

    def _words(self, job: Job) -> list[str]:
        """The overrides that a launcher is given for a job: with its folder, so that it is the one that is recorded, and its number."""
        return [*job.overrides, folder_override(job.folder, self.root), number_override(job.number)]

    @contextmanager
    def _listed(self) -> Iterator[None]:
        """sweep.json lists all jobs, and while the block runs it says which process sees to them."""
        jobs = [self._jobs[number] for number in sorted(self._jobs)]
        with locked(self.root):
            write_sweep(self.root, jobs, self._about | who())
            try:
                with Heartbeat(self.root / SWEEP):
                    yield
            finally:
                write_sweep(self.root, jobs, self._about)

    def _paired(self, job_overrides: Sequence[Sequence[str]], first: int) -> Sequence[Sequence[str]]:
        """Of the jobs of a batch those in which the axes of `sweep.zip` go together."""
        if self._zipped is None and self._spec.zipped:
            self._zipped = zipped_axes(self._spec.zipped, self._config, self._context.config_loader)
        return job_overrides if self._zipped is None else self._zipped.take(job_overrides, first)

    def why_empty(self) -> list[Problem]:
        """What on the command line makes a sweep without a job."""
        loader, problems = self._context.config_loader, Problems()
        parser = OverridesParser.create(config_loader=loader)
        words = list(self._config.hydra.overrides.task)
        for word, override in zip(words, parser.parse_overrides(words), strict=True):
            if override.is_sweep_override() and override.is_discrete_sweep() and not list(override.sweep_string_iterator()):
                key, value = override.get_key_element(), word.partition("=")[2]
                problems.add(key, f"{value!r} finds nothing{did_you_mean(value, loader.get_group_options(key), limit=40)}")
        return list(problems) or [Problem("", "the sweep has no job; give an override with several values, such as seed=0,1")]

    def _compose(self, overrides: tuple[str, ...], number: int, refused: list[Problem] | None = None) -> Job:
        """A job as its config says, in the folder of its number; without overrides that are refused when there is a list for them.

        Words of the sweep itself are no part of a job: neither of what it is called nor of its folder's name.
        """
        given = tuple(word for word in overrides if not word.lstrip("+").startswith("sweep."))
        kept = HydraConfig.instance().cfg
        try:
            try:
                config = self._context.config_loader.load_sweep_config(self._config, [*given, number_override(number)])
            except Refused as error:
                if error.rest is None or refused is None:
                    raise
                refused.extend(error.problems)
                config = settle_job(error.rest)
            if refused is not None:
                refused.extend(chosen_too_late(config, self._config))
            HydraConfig.instance().cfg = config  # pyright: ignore[reportAttributeAccessIssue] (all that `set_config` does but a copy)
            folder = Path(config.hydra.runtime.output_dir)
            plain = job_config(config, Path.cwd() if config.hydra.job.chdir else None)
            job = Job(number, folder, given, config=plain, config_hash=config_hash(plain))
            if self._spec.at_once != 1:
                self._folders.keep(job, config, self.root)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError([complaint(error)]) from error
        finally:
            HydraConfig.instance().cfg = kept
        return job

    def _checked(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
        """The jobs of a batch.

        Raises:
            ConfigError: everything that is wrong with any job's config, each time with the jobs that it is wrong in.
        """
        wrong = JobProblems()
        checked: dict[str, tuple[Problem, ...]] = {}
        batch = []
        for place, overrides in enumerate(now_and_then(job_overrides, "%s of %s jobs are checked")):
            job = Job(first + place, Path(), tuple(overrides))
            refused: list[Problem] = []
            try:
                job = self._compose(tuple(overrides), first + place, refused)
                known = config_hash(without_seeds(job.config))
                if known not in checked:
                    checked[known] = self._problems(job.config, known)
                told = [*refused, *checked[known]]
            except ConfigError as error:
                told = [*refused, *error.problems]
            batch.append(job)
            wrong.add(job, told)
        title = Sweep(Path(), tuple(batch)).title
        problems = Problems()
        problems.extend(self._refused)
        problems.extend(folder_problems((job for job in batch if job.config), title))
        problems.extend(wrong.told(len(batch), title))
        problems.raise_if_any()
        return batch

    def _problems(self, config: Mapping[str, Any], known: str) -> tuple[Problem, ...]:
        try:
            plan = self._check(self._as_checked_here(config))
        except ConfigError as error:
            return error.problems
        if self._spec.at_once != 1:
            self._alone[known] = why_alone(plan)
        return ()

    def _as_checked_here(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config to check on this machine: whether another has a device is for that one to say."""
        launcher, trainer = str(self._config.hydra.launcher.get("_target_")), config.get("trainer")
        if launcher.rpartition(".")[2] in _HERE or not isinstance(trainer, Mapping):
            return config
        return {**config, "trainer": {**trainer, "device": "cpu", "precision": "fp32"}}

    def begin(self, batch: Sequence[Job] = ()) -> list[Job]:
        """Finds out whether this goes on with a sweep, and with which: one that had `batch` too; returns the jobs it has."""
        if self._about:
            return list(self._jobs.values())
        command = sorted(word for word in self._config.hydra.overrides.task if not word.lstrip("+").startswith("sweep."))
        about = {"command": command, "created": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        resumed = self._spec.resume not in (None, AUTO)
        if self._spec.resume == AUTO:
            found = self._interrupted(batch, command)
            resumed = found is not None
            if found is not None and found != self.root:
                move_sweep(self._config, found)
                self._moved()
        move_sweep(self._config, self.root)  # for processes that are elsewhere, a whole path
        there = read_about(self.root) if (self.root / SWEEP).is_file() else {}
        if there and is_alive(there, (self.root / SWEEP).stat().st_mtime):
            runs = f"runs: process {there.get('pid')} on {there.get('host')}"
            path = "sweep.resume" if resumed else "hydra.sweep.dir"
            raise ConfigError([Problem(path, f"the sweep in {self.root} {runs}; wait for it or end it first")])
        if not resumed:
            self._about = about
        else:
            self._about = {name: value for name, value in read_about(self.root).items() if name != "jobs"}
            self._jobs = {job.number: job for job in read_sweep(self.root).jobs}
            log.info("going on with the sweep in %s (sweep.resume=null begins anew)", self.root)
        for name in (STOPPED, *(() if resumed else REPORTS)):
            (self.root / name).unlink(missing_ok=True)
        return list(self._jobs.values())

    def _interrupted(self, batch: Sequence[Job], command: Sequence[str]) -> Path | None:
        """The latest sweep of the same command and configs that is not done, or is in this very folder."""
        raw = str(self._config.hydra.sweep._get_node("dir")._value())
        pattern = re.sub(r"\$\{now:[^}]*\}", "*", raw)
        pattern = glob.escape(str(self.root)) if "${" in pattern else pattern
        files = sorted(glob.glob(str(Path(pattern, SWEEP))), key=lambda file: Path(file).stat().st_mtime, reverse=True)
        for file in files[:LATEST]:
            folder = Path(file).parent.absolute()
            about = read_about(folder)
            known = {entry["config_hash"] for entry in about["jobs"]}
            if about.get("command") != command or not {job.config_hash for job in batch} <= known:
                continue
            if is_alive(about, Path(file).stat().st_mtime):
                continue
            if folder == self.root or any(job.status not in FINISHED for job in read_sweep(folder).jobs):
                return folder
        return None

    def _numbered(self, batch: Sequence[Job]) -> list[Job]:
        """The batch with the numbers, folders and states of jobs that the sweep knows, and free numbers for the others."""
        known: dict[str, list[Job]] = defaultdict(list)
        for number in sorted(self._jobs):
            known[self._jobs[number].config_hash].append(self._jobs[number])
        numbered, added = [], []
        for job in batch:
            if known[job.config_hash]:
                job = read_job(known[job.config_hash].pop(0))
            else:
                if job.number in self._jobs:
                    job = self._compose(job.overrides, max(self._jobs) + 1)
                added.append(job)
            self._jobs[job.number] = job
            numbered.append(job)
        problems = list(folder_problems(self._jobs.values(), Sweep(Path(), tuple(self._jobs.values())).title))
        if problems:
            raise ConfigError(problems)
        for job in added:  # of what was there before
            (job.folder / RESULT).unlink(missing_ok=True)
            clear_run(job.folder)
        return numbered

    def _returned(self, job: Job) -> JobReturn:
        """What the sweeper is told of a job; the basic one would end the sweep at the first that failed."""
        result = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)
        if job.status == "completed":
            result.return_value = objective(job.best, job.config)
        elif not str(self._config.hydra.sweeper.get("_target_")).endswith("BasicSweeper"):
            result.status = JobStatus.FAILED
            result.return_value = JobFailed(f"job {job.number} {job.status}: {job.reason}")
        return result


def read_sweep_spec(config: DictConfig) -> SweepSpec:
    """The `sweep` key of a composed config.

    Raises:
        ConfigError: all that is wrong with it.
    """
    node, problems = OmegaConf.select(config, "sweep"), Problems()
    spec = check_sweep(OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node, problems)
    if spec is None:
        raise ConfigError(problems)
    return spec


def move_sweep(config: DictConfig, folder: Path) -> None:
    """Lets the sweep of a composed config, and all of its jobs, be in `folder`."""
    given = config.hydra.overrides.hydra
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.sweep.dir = str(folder)
        given.append(f"hydra.sweep.dir={quoted(str(folder))}")
