"""Running a function as a Hydra application, with what Hydra may call guarded, and configs checked before a folder is made."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from modelfactory.config.compose import register_plugins, with_experiment
from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.config.hydra_allowlist import check_hydra
from modelfactory.config.hydra_errors import NO_SUCH_KEY
from modelfactory.config.rejected_overrides import Refused, telling_all, with_the_rest
from modelfactory.config.search_path import config_folder
from modelfactory.sweeping.launcher import SweepLauncher, move_sweep, read_sweep_spec
from modelfactory.sweeping.spec import AUTO


def current_folder() -> Path:
    """The directory that Hydra made for what the application runs at present."""
    return Path(HydraConfig.get().runtime.output_dir)


@dataclass
class _Session:
    """What the callback must know of the application that runs.

    Attributes:
        started: Hydra has composed the config, so that an error from there on is no error of usage.
        folders: those that there were not before the run, innermost first.
        launcher: that of a sweep.
        refused: what of the overrides of a sweep Hydra refuses, which is told with what is wrong in its jobs.
    """

    check: Callable[[Any], object]
    started: bool = False
    folders: list[Path] = field(default_factory=list)
    launcher: SweepLauncher | None = None
    refused: tuple[Problem, ...] = ()

    def check_run(self, config: DictConfig) -> None:
        """Checks the config of a run, whose folder is the one to clean up from here on."""
        kept = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)
        try:  # configs may use ${hydra:runtime.output_dir}, which Hydra sets in the same way when it makes the directory
            folder = Path(config.hydra.run.dir).absolute()
            with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
                config.hydra.runtime.output_dir = str(folder)
            self.begin(folder)
            self.check(config)
        finally:
            HydraConfig.instance().cfg = kept

    def begin(self, folder: Path) -> None:
        self.started = True
        self.folders = [path for path in (folder, *folder.parents) if not path.exists()]

    def remove_unused(self) -> None:
        """Removes the directories made for a run that did not begin, if all that is in them is Hydra's own."""
        folder = self.folders[0] if self.folders else None
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


def _return_value(done: JobReturn) -> Any:
    """What a job returned, or raises what it raised; Hydra's own prints its overrides before that."""
    if done.status is JobStatus.FAILED:
        raise done._return_value
    return done._return_value


def _check_hydra_node(config: DictConfig, told: Sequence[Problem] = ()) -> None:
    problems = Problems()
    check_hydra(config.hydra, Plugins.instance().class_name_to_class, problems, OmegaConfBaseException)
    if problems:
        raise ConfigError([*told, *problems])


def _left_to_jobs(error: Refused, overrides: Sequence[str]) -> tuple[tuple[Problem, ...], Any]:
    """What is wrong with the overrides of a sweep, and its config, to which keys that it does not have are given back: jobs may have them."""
    config: Any = error.rest
    keys = {problem.path for problem in error.problems if problem.message.startswith(NO_SUCH_KEY) and problem.path}
    kept = list(config.hydra.overrides.task)
    back = [word for word in overrides if word not in kept and word.partition("=")[0] in keys]
    if back:
        config.hydra.overrides.task = [*(word for word in overrides if word in (*kept, *back)), *(w for w in kept if w not in overrides)]
    told = tuple(problem for problem in error.problems if problem.path not in {word.partition("=")[0] for word in back})
    return told, config


@contextmanager
def _guarded(session: _Session) -> Iterator[None]:
    """Checks Hydra's own node of every config it composes, before it calls anything that is named there.

    And puts our launcher before the one that a sweep's config names, and keeps Hydra from printing an error that is told here.
    """
    load, instantiate = ConfigLoaderImpl.load_configuration, Plugins.instantiate_launcher
    validate, told = Sweeper.validate_batch_is_legal, JobReturn.return_value

    def load_checked(
        self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], run_mode: RunMode, *args: Any, **kwargs: Any
    ) -> DictConfig:
        def composing(given: list[str]) -> DictConfig:
            return load(self, config_name, given, run_mode, *args, **kwargs)

        try:
            config = telling_all(composing)(overrides)
        except Refused as error:
            if error.rest is None or session.launcher is not None:
                raise
            _check_hydra_node(error.rest, error.problems)
            if run_mode is RunMode.MULTIRUN:  # told with what is wrong in the jobs
                session.refused, config = _left_to_jobs(error, overrides)
            elif any(word.startswith(_CALLBACK) for word in overrides):
                raise with_the_rest(error, session.check_run) from error
            else:
                raise
        _check_hydra_node(config)
        return config

    def instantiate_ours(self: Plugins, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> Launcher:
        def make(job: Any) -> Launcher:
            return instantiate(self, hydra_context, job, config)

        session.launcher = SweepLauncher(make, session.check, session.remove_unused, session.refused)
        session.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        return session.launcher

    ConfigLoaderImpl.load_configuration = load_checked
    Plugins.instantiate_launcher = instantiate_ours
    JobReturn.return_value = property(_return_value, told.fset)  # pyright: ignore[reportAttributeAccessIssue]
    Sweeper.validate_batch_is_legal = lambda self, batch: None  # which stops at the first job that does not compose
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration, Plugins.instantiate_launcher = load, instantiate
        Sweeper.validate_batch_is_legal, JobReturn.return_value = validate, told


def run_application(
    job: Callable[[DictConfig], Any],
    arguments: Sequence[str],
    check: Callable[[Any], object],
    swept: Callable[[Path], object] = lambda _: None,
) -> None:
    """Runs `job` as Hydra's own application on `arguments`, with all of Hydra's options; or a sweep of jobs.

    Args:
        job: gets the composed config of a run. Those of a sweep are done by `modelfactory.cli.train_job.train_job`.
        check: gets the config of a run, or of each job of a sweep, before anything is written; what it raises comes out.
        swept: gets the folder of a sweep that began, however it ended, before this returns or raises.

    Raises:
        ConfigError: the config cannot be composed, or the job raised it; a run directory made for nothing is gone.
        Exception: whatever else the job raised.
    """
    global _session
    register_plugins()
    words = _with_callback(list(arguments))
    program = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")(job)
    kept = sys.argv, os.environ.get("HYDRA_FULL_ERROR"), _session
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors are raised and not printed by Hydra
    session = _session = _Session(check)

    def run(given: list[str]) -> None:
        sys.argv = [sys.argv[0], *given]
        program()

    try:
        with _guarded(session):
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
