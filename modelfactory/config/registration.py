"""What Hydra knows of this package, and only for as long as it is asked: our configs on the search path, our plugins.

Nothing lies below `hydra_plugins`, where every Hydra program of the environment would load it. A program of somebody else that
wants our groups says `hydra.searchpath: [pkg://modelfactory.conf]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import PLUGIN_TYPES, Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.plugins.plugin import Plugin
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.version import VersionBase

from modelfactory.config.search_path import config_folder

_OF_ONE_PROGRAM = (GlobalHydra, JobRuntime, VersionBase)  # singletons that composing sets


class ModelFactorySearchPath(SearchPathPlugin):
    """Appends modelfactory's configs to the search path, unless they are on it already."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        folder = config_folder()
        for element in search_path.get_path():
            path = str(element.path).removeprefix("file://")
            if element.provider == "modelfactory" or (path and "://" not in path and Path(path).resolve() == folder):
                return
        search_path.append(provider="modelfactory", path=f"file://{folder}")


@dataclass
class OptunaConf:
    """The keys of `hydra/sweeper=optuna`."""

    _target_: str = "modelfactory.sweeping.optuna_sweeper.OptunaSweeper"
    n_trials: int = 20  # in all, those of a search that is gone on with included
    batch: int = 1  # trials that are chosen at once: more than one with a launcher that runs jobs side by side
    direction: str | None = None  # minimize or maximize what trainer.monitor names; null: whichever is better
    sampler: str = "tpe"  # tpe, random or cmaes
    seed: int = 0  # decides what is tried
    params: dict[str, str] | None = None  # what is swept beside the command line: optimizer.lr: tag(log,interval(1e-4,1e-1))


@contextmanager
def registered(*plugins: type[Plugin]) -> Iterator[None]:
    """While the block runs Hydra knows our configs, `hydra/sweeper=optuna` as ours, and `plugins`; then all is as it was.

    Hydra's state of the program that runs at present, if there is one, is put aside for the same time.

    Example:
        >>> with registered():
        ...     ModelFactorySearchPath in Plugins.instance().discover(SearchPathPlugin)
        True
        >>> ModelFactorySearchPath in Plugins.instance().discover(SearchPathPlugin)
        False
    """
    known = Plugins.instance()  # first: loading the plugins that are installed registers theirs
    added = [plugin for plugin in (ModelFactorySearchPath, *plugins) if plugin not in known.discover()]
    sweepers = ConfigStore.instance().repo.setdefault("hydra", {}).setdefault("sweeper", {})
    theirs = sweepers.pop("optuna.yaml", None)
    aside = {kind: Singleton._instances.pop(kind, None) for kind in _OF_ONE_PROGRAM}
    try:
        for plugin in added:
            known.register(plugin)
        ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=OptunaConf, provider="modelfactory")
        yield
    finally:
        for plugin in added:
            del known.class_name_to_class[f"{plugin.__module__}.{plugin.__name__}"]
            for kind in PLUGIN_TYPES:
                if issubclass(plugin, kind):
                    known.plugin_type_to_subclass_list[kind].remove(plugin)
        del sweepers["optuna.yaml"]
        if theirs is not None:
            sweepers["optuna.yaml"] = theirs
        for kind, instance in aside.items():
            Singleton._instances.pop(kind, None)
            if instance is not None:
                Singleton._instances[kind] = instance
