"""Where Hydra and OmegaConf are: composing configs, turning them into the plain dicts that all else works on, and
running a function as a Hydra application.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from modelfactory.complaints import complaint
from modelfactory.errors import ConfigError, Problem, Problems
from modelfactory.guard import check_hydra
from modelfactory.spec import join

_T = TypeVar("_T")


def config_folder() -> Path:
    """The folder of the package's own configs: inside the package when installed, beside it in a checkout.

    Example:
        >>> (config_folder() / "config.yaml").is_file()
        True
    """
    here = Path(__file__).resolve().parent
    return here / "conf" if (here / "conf").is_dir() else here.parent / "conf"


def register_plugins() -> None:
    """Tells Hydra of the search path plugin, which it does not always find in an editable install."""
    from hydra_plugins.modelfactory_searchpath import ModelFactorySearchPath

    Plugins.instance().register(ModelFactorySearchPath)


def compose(*overrides: str, config_dir: str | os.PathLike[str] | None = None, config_name: str = "config") -> DictConfig:
    """The config that `python train.py OVERRIDES` uses, without Hydra's own node.

    Works inside a running Hydra application too.

    Args:
        overrides: as on the command line, such as "model=cnn", "experiment=digits_cnn" or "+init.rules.mine={...}".
        config_dir: a project's own folder of configs; its groups come first and this package's are still found.
        config_name: the primary config.

    Raises:
        ConfigError: a group, option or key that there is not, with its path and the nearest one.

    Example:
        >>> compose("model=deep_mlp", "model.depth=3").model.depth
        3
    """
    register_plugins()
    folder = config_folder() if config_dir is None else Path(config_dir).resolve()
    if not folder.is_dir():
        raise ConfigError([Problem("config_dir", f"{str(config_dir)!r} is not a folder")])
    with _hydra_put_aside(), hydra.initialize_config_dir(config_dir=str(folder), version_base="1.3"):
        return _with_experiment(lambda given: hydra.compose(config_name, overrides=given), overrides)


@contextmanager
def _hydra_put_aside() -> Iterator[None]:
    """Hydra's global state put aside, so that composing works while an application runs."""
    kept = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:  # asked for again: Hydra's own context managers put another instance in its place
        GlobalHydra.instance().clear()
        if kept is not None:
            GlobalHydra.instance().initialize(kept)


def _with_experiment(composing: Callable[[list[str]], _T], overrides: Iterable[str]) -> _T:
    """Calls `composing` so that both `experiment=x` and `+experiment=x` work, whether or not the primary config has the group."""
    given = list(overrides)
    without_plus = [word.removeprefix("+") if word.startswith("+experiment=") else word for word in given]
    try:
        try:
            return composing(without_plus)
        except HydraException as error:
            if given == without_plus or "Could not override 'experiment'" not in str(error):
                raise
            return composing(given)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError([complaint(error)]) from error


def to_plain(cfg: Any) -> dict[str, Any]:
    """A config as a plain dict with every interpolation resolved, without Hydra's own node.

    Args:
        cfg: a DictConfig, or a plain dict, in which `${...}` is resolved too.

    Raises:
        ConfigError: it is no mapping, or interpolations lead nowhere or in a circle, or values are missing (`???`); all of
            them, each with its path.

    Example:
        >>> to_plain({"width": 8, "model": {"size": "${width}"}})
        {'width': 8, 'model': {'size': 8}}
        >>> to_plain({"model": {"size": "${widht}"}})
        Traceback (most recent call last):
        modelfactory.errors.ConfigError: model.size: '${widht}' does not resolve: Interpolation key 'widht' not found
    """
    if isinstance(cfg, Mapping) and not OmegaConf.is_config(cfg):
        if not _needs_resolving(cfg):
            return {str(key): value for key, value in cfg.items()}
        try:
            cfg = OmegaConf.create(_plain_nodes(cfg), flags={"allow_objects": True})
        except OmegaConfBaseException as error:
            raise ConfigError([complaint(error)]) from error
    if not isinstance(cfg, DictConfig):
        raise ConfigError([Problem("", f"{cfg!r} is not a config; give a DictConfig or a dict")])
    if "hydra" in cfg:
        cfg = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])  # pyright: ignore[reportArgumentType]
    try:
        plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        problems = Problems()
        _check_nodes(cfg, "", problems)
        raise ConfigError(list(problems) or [complaint(error)]) from error
    return {str(key): value for key, value in plain.items()}


def _needs_resolving(config: Mapping[Any, Any]) -> bool:
    """Whether there is a `${`, a `???`, or a node of OmegaConf anywhere (`{**cfg, ...}` has such)."""
    waiting: list[Any] = [config]
    while waiting:
        value = waiting.pop()
        if OmegaConf.is_config(value):
            return True
        if isinstance(value, str):
            if "${" in value or value == "???":
                return True
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
    return False


def _plain_nodes(value: Any) -> Any:
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=False)
    if isinstance(value, Mapping):
        return {key: _plain_nodes(item) for key, item in value.items()}
    return [_plain_nodes(item) for item in value] if isinstance(value, (list, tuple)) else value


def _check_nodes(node: Any, path: str, problems: Problems) -> None:
    """Adds every interpolation that does not resolve and every value that is missing, each with its path."""
    for key in node.keys() if isinstance(node, DictConfig) else range(len(node)):
        where = join(path, str(key)) if isinstance(node, DictConfig) else f"{path}[{key}]"
        raw = node._get_node(key)
        if raw is None:
            continue
        if raw._is_missing():
            problems.add(where, "is missing (???); give a value")
            continue
        try:
            child = node[key]
        except InterpolationToMissingValueError:
            continue  # the value it leads to is reported at its own path
        except (OmegaConfBaseException, RecursionError) as error:
            circle = isinstance(error, RecursionError) or "ecursi" in str(error)
            why = "it leads in a circle" if circle else str(error).splitlines()[0]
            problems.add(where, f"{raw._value()!r} does not resolve: {why}")
            continue
        if OmegaConf.is_config(child) and not raw._is_interpolation():
            _check_nodes(child, where, problems)


def to_yaml(plain: Mapping[str, Any]) -> str:
    """A plain config as YAML, in its own order; texts that YAML would read as numbers are quoted.

    Example:
        >>> print(to_yaml({"seed": 0, "model": {"depth": 2, "name": "1e-3"}}), end="")
        seed: 0
        model:
          depth: 2
          name: '1e-3'
    """
    return OmegaConf.to_yaml(OmegaConf.create(_plain_nodes(plain), flags={"allow_objects": True}))


@dataclass(frozen=True)
class Job:
    """Where a job of an application runs.

    Attributes:
        folder: the directory Hydra made for it.
        number: its number in a sweep, None for a run.
        overrides: what tells it from the others of a sweep.
    """

    folder: Path
    number: int | None
    overrides: str


def current_job() -> Job:
    """The job that the application runs at present."""
    config = HydraConfig.get()
    number = None if config.mode is None or config.mode.name == "RUN" else int(config.job.num)
    return Job(Path(config.runtime.output_dir), number, str(config.job.override_dirname))


@dataclass
class _Session:
    """What the callback must know of the application that runs.

    Attributes:
        started: Hydra has composed the config, so that an error from there on is no error of usage.
        folders: those that there were not before the run, innermost first.
    """

    check: Callable[[DictConfig], object]
    started: bool = False
    folders: list[Path] = field(default_factory=list)

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
        kept = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)
        try:  # configs may use ${hydra:runtime.output_dir}, which Hydra sets in the same way when it makes the directory
            folder = Path(config.hydra.run.dir).absolute()
            with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
                config.hydra.runtime.output_dir = str(folder)
            _session.begin(folder)
            _session.check(config)
        except Exception as error:
            raise _Stop from error
        finally:
            HydraConfig.instance().cfg = kept

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if _session is not None:
            _session.begin(Path(config.hydra.sweep.dir).absolute())


_SHOWING = {"-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info", "-sc", "--shell-completion"}


def _with_callback(words: list[str]) -> list[str]:
    """The words with an override that adds the callback, which a primary config of the user's own would not have."""
    if _SHOWING & {word.partition("=")[0] for word in words}:
        return words
    callback = f"++hydra.callbacks.modelfactory._target_={CheckBeforeRun.__module__}.{CheckBeforeRun.__qualname__}"
    overrides = [index for index, word in enumerate(words) if "=" in word and not word.startswith("-")]
    place = overrides[-1] + 1 if overrides else len(words)  # beside the others: the parser takes one row of overrides
    return [*words[:place], callback, *words[place:]]


@contextmanager
def _guarded() -> Iterator[None]:
    """Checks Hydra's own node of every config it composes, before it calls anything that is named there."""
    load = ConfigLoaderImpl.load_configuration

    def load_checked(*args: Any, **kwargs: Any) -> DictConfig:
        config = load(*args, **kwargs)
        problems = Problems()
        check_hydra(config.hydra, Plugins.instance().class_name_to_class, problems, OmegaConfBaseException)
        problems.raise_if_any()
        return config

    ConfigLoaderImpl.load_configuration = load_checked
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = load


def run_application(job: Callable[[DictConfig], Any], arguments: Sequence[str], check: Callable[[DictConfig], object]) -> None:
    """Runs `job` as Hydra's own application on `arguments`, with all of Hydra's options.

    Args:
        job: gets the composed config, once, or once a job of a sweep.
        check: gets the config of a run before a directory is made for it; what it raises comes out.

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
        with _guarded():
            _with_experiment(run, words)
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
        sys.argv, full_error, _session = kept
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
