"""Running a function as a Hydra application, with what Hydra may call guarded, and configs checked before a folder is made."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict, read_write

from modelfactory.config.checked import CheckedLoader, plain_plugin, settle_run, settle_shown, settle_sweep
from modelfactory.config.compose import with_experiment
from modelfactory.config.errors import ConfigError, Problem
from modelfactory.config.files import name_problem
from modelfactory.config.hydra_errors import NO_SUCH_KEY
from modelfactory.config.hydra_patches import loading_by, main_arguments, patched
from modelfactory.config.log_config import whitelist
from modelfactory.config.registration import registered
from modelfactory.config.rejected_overrides import Refused, telling_all, with_the_rest
from modelfactory.config.search_path import config_folder
from modelfactory.sweeping.launcher import SweepLauncher, move_sweep, read_sweep_spec
from modelfactory.sweeping.optuna_sweeper import OptunaSweeper
from modelfactory.sweeping.seeds import UntilTold
from modelfactory.sweeping.spec import AUTO
from modelfactory.training.launched import launched

if TYPE_CHECKING:
    from modelfactory.training.distributed import World


def current_folder() -> Path:
    """The directory that Hydra made for what the application runs at present."""
    return Path(HydraConfig.get().runtime.output_dir)


def started_in() -> str | None:
    """Where the command was given, for a run that `hydra.job.chdir` puts into its own directory; else None."""
    node = HydraConfig.get()
    return str(node.runtime.cwd) if node.job.chdir else None


@dataclass
class _Session:
    """What the callback must know of the application that runs.

    Attributes:
        started: Hydra has composed the config, so that an error from there on is no error of usage.
        folders: those that there were not before the run, innermost first.
        launcher: that of a sweep.
        refused: what of the overrides of a sweep Hydra refuses, which is told with what is wrong in its jobs.
        world: the processes of a run that a launcher started together, which have one folder; None: there is this one.
    """

    check: Callable[[Any], object]
    started: bool = False
    folders: list[Path] = field(default_factory=list)
    launcher: SweepLauncher | None = None
    refused: tuple[Problem, ...] = ()
    world: World | None = None

    def check_run(self, config: DictConfig) -> None:
        """Checks the config of a run, whose folder is the one to clean up from here on."""
        kept = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)
        try:  # configs may use ${hydra:runtime.output_dir}, which Hydra sets in the same way when it makes the directory
            folder = Path(config.hydra.run.dir).absolute()
            if self.world is not None:
                folder = Path(self.world.gather(str(folder))[0])  # the time is in its name, which is not the same in every process
                with read_write(config.hydra), open_dict(config.hydra):
                    config.hydra.run.dir = str(folder)
                    if not self.world.is_first:  # it writes nothing, and its log file would be in the folder of its own time
                        config.hydra.output_subdir = None
                        config.hydra.job_logging = {"version": 1, "disable_existing_loggers": False, "root": {"level": "ERROR"}}
            if wrong := name_problem(folder):
                raise ConfigError([Problem("hydra.run.dir", f"the run directory {wrong}; give a shorter one")])
            with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
                config.hydra.runtime.output_dir = str(folder)
            self.begin(folder)
            self.check(config)
        finally:
            HydraConfig.instance().cfg = kept

    def load(self, compose: Callable[[list[str]], DictConfig], overrides: list[str], run_mode: RunMode) -> DictConfig:
        """Composes with Hydra's own node settled; the jobs of a sweep have theirs settled where they run.

        Raises:
            ConfigError: every override that is refused, and what is wrong besides.
        """
        try:
            config = telling_all(compose)(overrides)
        except Refused as error:
            if error.rest is None or self.launcher is not None:
                raise
            _settle(error.rest, overrides, run_mode, error.problems)
            if run_mode is RunMode.MULTIRUN:  # told with what is wrong in the jobs
                self.refused, config = _left_to_jobs(error, overrides)
            elif any(word.startswith(_CALLBACK) for word in overrides):
                raise with_the_rest(error, self.check_run) from error
            else:
                raise
        if self.launcher is None:
            _settle(config, overrides, run_mode)
        return config

    def launch(self, make: Callable[[Any], Launcher], context: HydraContext, task_function: Any, config: DictConfig) -> Launcher:
        """Makes our launcher, which stands before the one that the sweep's config names."""
        self.launcher = UntilTold(make, self.check, self.remove_unused, self.refused, further=_further_seeds)
        self.launcher.setup(hydra_context=context, task_function=task_function, config=config)
        return self.launcher

    def begin(self, folder: Path) -> None:
        self.started = True
        self.folders = [path for path in (folder, *folder.parents) if not path.exists()]

    def remove_unused(self) -> None:
        """Removes the directories made for a run that did not begin, if all that is in them is Hydra's own."""
        folder = self.folders[0] if self.folders and (self.world is None or self.world.is_first) else None
        if folder is None or not folder.is_dir():
            return
        own = [path for path in folder.iterdir() if path.name in (".hydra", "multirun.yaml") or path.suffix == ".log"]
        if len(own) < len(list(folder.iterdir())):
            return
        for path in (inner for outer in own for inner in ([*outer.iterdir(), outer] if outer.is_dir() else [outer])):
            path.rmdir() if path.is_dir() else path.unlink()
        for path in self.folders:
            if any(path.iterdir()):
                break
            path.rmdir()


_session: _Session | None = None


class _Stop(BaseException):
    """Carries an error through Hydra, which turns the exceptions of callbacks into warnings."""


class CheckBeforeRun(Callback):
    """Checks a run's whole config before Hydra makes the run's directory."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        if _session is None:
            return
        try:
            _session.check_run(config)
        except Exception as error:
            raise _Stop from error

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if _session is None:
            return
        try:
            if (size := launched().size) > 1:
                message = f"a sweep is started by one process, and there are {size}; start it without torchrun"
                raise ConfigError([Problem("hydra.mode", message)])
            resume = read_sweep_spec(config).resume
            if resume not in (None, AUTO):
                move_sweep(config, Path(resume).absolute())
            _session.begin(Path(config.hydra.sweep.dir).absolute())
        except Exception as error:
            raise _Stop from error


_CALLBACK = "++hydra.callbacks.modelfactory._target_="
_SHOWING = {"-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info", "-sc", "--shell-completion"}


def _with_callback(words: list[str]) -> list[str]:
    """The words with an override that adds the callback, which a primary config of the user's own would not have."""
    if _SHOWING & {word.partition("=")[0] for word in words}:
        return words
    callback = f"{_CALLBACK}{CheckBeforeRun.__module__}.{CheckBeforeRun.__qualname__}"
    overrides = [index for index, word in enumerate(words) if "=" in word and not word.startswith("-")]
    place = overrides[-1] + 1 if overrides else len(words)  # beside the others: the parser takes one row of overrides
    return [*words[:place], callback, *words[place:]]


def _further_seeds(folder: Path, most: int) -> tuple[int, ...]:
    """Asked only by a sweep with `sweep.until`: what ranks one is imported then."""
    from modelfactory.reporting.sequential import further_seeds

    return further_seeds(folder, most)


def _left_to_jobs(error: Refused, overrides: Sequence[str]) -> tuple[tuple[Problem, ...], Any]:
    """What is wrong with the overrides of a sweep, and its config, to which keys that it has not are given back: jobs may have them."""
    config: Any = error.rest
    keys = {problem.path for problem in error.problems if problem.message.startswith(NO_SUCH_KEY) and problem.path}
    kept = list(config.hydra.overrides.task)
    back = [word for word in overrides if word not in kept and word.partition("=")[0] in keys]
    if back:
        config.hydra.overrides.task = [*(word for word in overrides if word in (*kept, *back)), *(w for w in kept if w not in overrides)]
    told = tuple(problem for problem in error.problems if problem.path not in {word.partition("=")[0] for word in back})
    return told, config


def _settle(config: DictConfig, overrides: Sequence[str], run_mode: RunMode, told: Sequence[Problem] = ()) -> None:
    """Has Hydra's own node plain and checked, as far as Hydra is about to use it, before it calls anything that is named there."""
    begins = any(word.startswith(_CALLBACK) for word in overrides)
    settle = settle_shown if not begins else settle_sweep if run_mode is RunMode.MULTIRUN else settle_run
    try:
        settle(config)
    except ConfigError as error:
        raise ConfigError([*told, *error.problems]) from error


def run_application(
    job: Callable[[DictConfig], Any],
    arguments: Sequence[str],
    check: Callable[[Any], object],
    swept: Callable[[Path], object] = lambda _: None,
    world: World | None = None,
) -> None:
    """Runs `job` as Hydra's own application on `arguments`, with all of Hydra's options; or a sweep of jobs.

    Args:
        job: gets the composed config of a run. Those of a sweep are done by `modelfactory.cli.train_job.train_job`.
        check: gets the config of a run, or of each job of a sweep, before anything is written; what it raises comes out.
        swept: gets the folder of a sweep that began, however it ended, before this returns or raises.
        world: the processes of a run that a launcher started together, each of which calls this; None: there is this one.

    Raises:
        ConfigError: the config cannot be composed, or the job raised it; a run directory made for nothing is gone.
        Exception: whatever else the job raised.
    """
    global _session
    if any(word.startswith("--e") for word in arguments):  # --experimental-rerun, also shortened
        raise ConfigError([Problem("--experimental-rerun", "is refused: it reads a pickle; trainer.resume goes on with a run")])
    words = _with_callback(list(arguments))
    kept = sys.argv, os.environ.get("HYDRA_FULL_ERROR"), _session
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors are raised and not printed by Hydra
    session = _session = _Session(check, world=world)

    def run(given: list[str]) -> None:
        sys.argv = [sys.argv[0], *given]
        hydra.main(config_path=str(config_folder()), config_name="config", **main_arguments(whitelist()))(job)()

    try:
        with registered(OptunaSweeper), loading_by(CheckedLoader), patched(session.load, session.launch, plain_plugin):
            with_experiment(run, words)
        if session.launcher is not None and not session.launcher.launched:
            raise ConfigError(session.launcher.why_empty())
    except _Stop as stop:
        raise (stop.__cause__ or stop) from None
    except ConfigError:
        session.remove_unused()
        raise
    except ValueError as error:
        if session.started:
            raise
        raise ConfigError([Problem("", str(error))]) from error
    finally:
        if session.launcher is not None and session.launcher.launched:
            swept(session.launcher.root)
        sys.argv, full_error, _session = kept
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
