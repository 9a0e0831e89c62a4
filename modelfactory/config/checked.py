"""Give Hydra its own node as plain values that were checked, and nothing else: what is looked at is what is used.

Hydra resolves its node bit by bit, each value when it is used, in whatever process that is, so that a value can be another one by
then, or resolve where it did not before. So each part that Hydra is about to use is resolved here once, in the process that uses it,
checked (`config.hydra_allowlist`, `config.log_config`), and put back as plain values. What does not resolve here is refused.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from modelfactory.config.errors import Problems, first_line
from modelfactory.config.hydra_allowlist import (
    check_below,
    check_callbacks,
    check_folder,
    check_plugin,
    check_search_path,
    check_variables,
)
from modelfactory.config.hydra_patches import Bases, composed_from
from modelfactory.config.log_config import check_logging
from modelfactory.config.target import trust, trusted, trusted_variables

_UNRESOLVED = object()


class CheckedLoader(ConfigLoaderImpl):
    """Loads configs as Hydra does, with search paths checked before anything is imported, and the node of a job as plain values.

    Launchers send it to the processes that run their jobs, where it carries what is trusted.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> CheckedLoader:
        made = memo[id(self)] = type(self).__new__(type(self))
        vars(made).update(copy.deepcopy(self._own(), memo))
        return made

    def _own(self) -> dict[str, Any]:
        """What goes with a copy: not the configs that were composed here."""
        return {name: value for name, value in vars(self).items() if name != "_bases"}

    def __getstate__(self) -> dict[str, Any]:
        return {**self._own(), "_trusted": (trusted(), trusted_variables())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        packages, variables = state["_trusted"]
        trust(*packages, variables=variables)
        vars(self).update({name: value for name, value in state.items() if name != "_trusted"})

    def _process_config_searchpath(self, config_name: str | None, parsed_overrides: Any, repo: Any) -> None:
        open_sources = repo.initialize_sources
        own = {(element.provider, element.path) for element in self.config_search_path.get_path()}  # from Python, and the command's

        def open_checked(search_path: Any) -> None:
            problems = Problems()
            for element in search_path.get_path():
                if (element.provider, element.path) not in own:
                    check_search_path(str(element.path), "hydra.searchpath", problems)
            problems.raise_if_any()
            open_sources(search_path)

        repo.initialize_sources = open_checked
        try:
            super()._process_config_searchpath(config_name, parsed_overrides, repo)
        finally:
            del repo.initialize_sources

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The config of a job; those that choose the same groups are composed from one base, as their files were for the first."""
        with composed_from(vars(self).setdefault("_bases", Bases())):
            return settle_job(super().load_sweep_config(master_config, sweep_overrides))


def plain_plugin(config: DictConfig) -> DictConfig:
    """The config of a launcher or a sweeper as plain values, checked just before it is made of them.

    Raises:
        ConfigError: everything in it that is refused or does not resolve.
    """
    node = _Node(config._get_root())
    plain = node.check_plugin(config._get_full_key(None).removeprefix("hydra."))
    node.problems.raise_if_any()
    made: Any = OmegaConf.create(plain)
    return made


def settle_run(config: DictConfig) -> None:
    """Makes what Hydra uses of its node for a run plain and checked, in place.

    Raises:
        ConfigError: everything in it that is refused or does not resolve.
    """
    node = _Node(config)
    folder = node.folder("run.dir", settled=True)
    if folder is not None:
        node.settle_job(folder, folder)
        node.settle_logging("hydra_logging", folder, Path.cwd())
    node.settle_callbacks()
    for plugin in ("launcher", "sweeper"):
        node.check_plugin(plugin, used=False)
    node.problems.raise_if_any()


def settle_sweep(config: DictConfig) -> None:
    """Makes what Hydra uses of its node for a whole sweep plain and checked, in place; launcher and sweeper when they are made.

    The sweep's directory stays as it is written, since the sweep may turn out to go on in another.

    Raises:
        ConfigError: everything in it that is refused or does not resolve.
    """
    node = _Node(config)
    node.settle_logging("hydra_logging", node.folder("sweep.dir") or Path.cwd(), Path.cwd())
    node.settle_callbacks()
    for plugin in ("launcher", "sweeper"):
        node.check_plugin(plugin)
    node.problems.raise_if_any()


def settle_shown(config: DictConfig) -> None:
    """Makes the logging of Hydra itself plain and checked, which is all that it uses where it shows a config or help.

    Raises:
        ConfigError: everything in it that is refused or does not resolve.
    """
    node = _Node(config)
    node.settle_logging("hydra_logging", Path.cwd(), Path.cwd())
    node.problems.raise_if_any()


def settle_job(config: DictConfig) -> DictConfig:
    """Makes what Hydra uses of its node for a job of a sweep plain and checked; `hydra.job.num` must be in the config.

    Returns:
        The config, changed in place: `hydra.runtime.output_dir` is the job's folder.

    Raises:
        ConfigError: everything in it that is refused or does not resolve.
    """
    node = _Node(config)
    if not OmegaConf.is_missing(config.hydra.job, "num"):
        node.put("job.id", str(config.hydra.job.num))
    root = node.folder("sweep.dir", settled=True)
    if root is not None:
        name = node.plain("sweep.subdir")
        if name is not _UNRESOLVED and check_below(name, root, "hydra.sweep.subdir", node.problems, "the sweep's directory"):
            node.put("sweep.subdir", name)
            node.settle_job(root / name, root)
    node.problems.raise_if_any()
    return config


class _Node:
    """Hydra's node of a config, whose parts are resolved, checked and put back one by one."""

    def __init__(self, config: Any):
        self._config, self.problems = config, Problems()

    def plain(self, part: str, used: bool = True) -> Any:
        """A part without interpolations; _UNRESOLVED where it has none, after saying why if the part is used."""
        path, found = f"hydra.{part}", len(self.problems)
        kept = HydraConfig.instance().cfg
        HydraConfig.instance().cfg = self._config
        try:
            value = OmegaConf.select(self._config, path, throw_on_missing=True)
            plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            _check_plain(plain, path, self.problems)
        except (OmegaConfBaseException, RecursionError) as error:
            where = str(getattr(error, "full_key", None) or path)
            if used:
                self.problems.add(where if where.startswith("hydra.") else path, f"does not resolve: {first_line(error)}")
            return _UNRESOLVED
        finally:
            HydraConfig.instance().cfg = kept
        return plain if len(self.problems) == found else _UNRESOLVED

    def put(self, part: str, value: Any) -> None:
        with read_write(self._config), open_dict(self._config), read_write(self._config.hydra), open_dict(self._config.hydra):
            OmegaConf.update(self._config, f"hydra.{part}", value, merge=False, force_add=True)

    def folder(self, part: str, settled: bool = False) -> Path | None:
        """A directory that is the user's to choose, put back as a whole path if it is to be settled; None after saying what is wrong."""
        name = self.plain(part)
        if name is _UNRESOLVED or not check_folder(name, f"hydra.{part}", self.problems):
            return None
        folder = Path(name).absolute()
        if settled:
            self.put(part, str(folder))
        return folder

    def settle_callbacks(self) -> None:
        plain = self.plain("callbacks")
        if plain is not _UNRESOLVED:
            check_callbacks(plain, "hydra.callbacks", self.problems)
            self.put("callbacks", plain)

    def settle_logging(self, part: str, folder: Path, start: Path) -> None:
        plain = self.plain(part)
        if plain is not _UNRESOLVED:
            self.put(part, check_logging(plain, f"hydra.{part}", self.problems, folder, start))

    def settle_job(self, folder: Path, top: Path) -> None:
        """Settles what Hydra uses of a job that runs in `folder` and may log below `top`."""
        self.put("runtime.output_dir", str(folder))
        chdir, output, variables = self.plain("job.chdir"), self.plain("output_subdir"), self.plain("job.env_set")
        self.settle_logging("job_logging", top, folder)
        if output is not _UNRESOLVED and output is not None:
            check_below(output, folder, "hydra.output_subdir", self.problems)
        if isinstance(variables, Mapping):
            check_variables(variables, "hydra.job.env_set", self.problems)  # those of env_copy are among them
        for part, value in (("job.chdir", chdir), ("output_subdir", output), ("job.env_set", variables)):
            if value is not _UNRESOLVED:
                self.put(part, value)

    def check_plugin(self, part: str, used: bool = True) -> Any:
        """The plain values of launcher or sweeper, after adding what is refused of them."""
        plain = self.plain(part, used)
        if plain is not _UNRESOLVED:
            check_plugin(plain, f"hydra.{part}", self.problems, (self.folder("sweep.dir") if used else None) or Path.cwd())
        return plain


def _check_plain(value: Any, path: str, problems: Problems) -> None:
    """Adds all that would be read differently again: an interpolation that is left as a text, and what is no plain data."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(item, f"{path}.{key}", problems)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_plain(item, f"{path}.{index}", problems)
    elif isinstance(value, str):
        if "${" in value:
            problems.add(path, f"{value!r} is refused: it does not resolve to a plain text")
    elif value is not None and not isinstance(value, (bool, int, float, os.PathLike)):
        problems.add(path, f"{value!r} is refused: it is no plain value")
