"""What is changed of Hydra's own functions while our application runs or a config is composed, each with its reason.

Nothing is changed for longer, nor anywhere else, but for `hydra.utils.instantiate` of what names a function of this package that takes
a config. `tests/contract/test_hydra_patches.py` has a test for each, which fails when Hydra
changes under it, or no longer needs it.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import io
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import hydra
import hydra._internal.config_loader_impl as loader_module
import hydra._internal.hydra as hydra_module
import hydra._internal.instantiate._instantiate2 as instantiate_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException, OverrideParseException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, ListConfig

from modelfactory.config.yaml_files import replaced, yaml_checked

OF_1_4 = "execution_whitelist" in inspect.signature(hydra.main).parameters
VERSION_BASE: dict[str, Any] = {} if OF_1_4 else {"version_base": "1.3"}  # 1.4 has but one, and warns of the argument
LOAD = "_load_configuration" if OF_1_4 else "load_configuration"  # what every composing of ConfigLoaderImpl goes through
MOST_SHOWN = 60  # configs of a group that help shows; of more the first and how many there are
MOST_BASES = 64  # choices of groups that are kept: memory does not grow with the jobs of a sweep
MOST_WORDS = 4096  # overrides that are kept as they were parsed
_TARGETS = ("_target_", "_zen_target")  # hydra-zen's own, where a function of it stands before the target

Loading = Callable[[Callable[[list[str]], DictConfig], list[str], RunMode], DictConfig]
Launching = Callable[[Callable[[Any], Launcher], HydraContext, Any, DictConfig], Launcher]


def main_arguments(whitelist: Sequence[str]) -> dict[str, Any]:
    """Arguments of `hydra.main` that depend on its version; the whitelist is of what a config may name for Hydra to call."""
    return {"execution_whitelist": whitelist} if OF_1_4 else VERSION_BASE


def loading_by(loader: type[ConfigLoaderImpl]) -> AbstractContextManager[None]:
    """Has Hydra load configs by a loader of ours: it has no place to name one."""
    return replaced(hydra_module, "ConfigLoaderImpl", loader)


class Copies:
    """Copies of a config, by pickling it in memory: in a sixth of the time that `copy.deepcopy` takes.

    Classes go as they are, not by name: those of Hydra's plugins, whose modules it executes twice, are not found by theirs.
    """

    def __init__(self, config: DictConfig):
        self._classes: list[type] = []
        file = io.BytesIO()
        pickler = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)
        pickler.persistent_id = self._number  # pyright: ignore[reportAttributeAccessIssue]
        pickler.dump(config)
        self._bytes = file.getvalue()

    def _number(self, item: Any) -> int | None:
        if not isinstance(item, type):
            return None
        self._classes.append(item)
        return len(self._classes) - 1

    def make(self) -> DictConfig:
        unpickler = pickle.Unpickler(io.BytesIO(self._bytes))
        unpickler.persistent_load = self._classes.__getitem__  # pyright: ignore[reportAttributeAccessIssue]
        return unpickler.load()


@dataclass
class Bases:
    """What was composed of the files that a choice of groups names.

    Attributes:
        defaults: by config, chosen groups and places of configs: which files they are.
        configs: by the number of such a choice: its files as they are merged, with the list that they were merged of.
        files: by config and places of configs: the files that were read, as Hydra keeps them while it composes one config.
        words: overrides as they were parsed.
    """

    defaults: dict[Any, DefaultsList] = field(default_factory=dict)
    configs: dict[int, tuple[Any, Copies]] = field(default_factory=dict)
    files: dict[Any, CachingConfigRepository] = field(default_factory=dict)
    words: dict[str, Override] = field(default_factory=dict)


@contextmanager
def composed_from(bases: Bases) -> Iterator[None]:
    """Has Hydra copy what it composed of the same groups before, which is kept in `bases`, while the block runs.

    By itself it reads, parses and merges some twenty files again for each job of a sweep, and most jobs differ in values alone.
    """
    find, merge = vars(loader_module)["create_defaults_list"], ConfigLoaderImpl._compose_config_from_defaults_list
    read, parse = ConfigLoaderImpl._parse_overrides_and_create_caching_repo, OverridesParser.parse_rule

    def parse_rule(self: OverridesParser, s: str, rule_name: str) -> Any:
        if rule_name != "override":
            return parse(self, s, rule_name)
        if s not in bases.words:
            if len(bases.words) >= MOST_WORDS:
                bases.words.clear()
            bases.words[s] = parse(self, s, rule_name)
        return copy.copy(bases.words[s])

    def parse_and_open(self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *parsed: Any) -> tuple[list[Override], Any]:
        choice = (config_name, *(word for word in overrides if "hydra.searchpath" in word))
        if choice in bases.files:
            given = parsed[0] if parsed else None  # those of 1.4
            return _parsed(self, config_name, overrides) if given is None else given, bases.files[choice]
        words, files = read(self, config_name, overrides, *parsed)
        if len(bases.files) >= MOST_BASES:
            bases.files.clear()
        bases.files[choice] = files
        return words, files

    def create_defaults_list(*, repo: Any, config_name: str | None, overrides_list: list[Override], **about: Any) -> DefaultsList:
        values = Overrides(repo=repo, overrides_list=overrides_list).config_overrides
        groups = tuple(str(override.input_line) for override in overrides_list if not any(override is value for value in values))
        sources = tuple((source.provider, source.path) for source in repo.get_sources())
        choice = (config_name, groups, sources, *sorted(about.items()))
        if choice not in bases.defaults:
            if len(bases.defaults) >= MOST_BASES:
                bases.defaults.clear()
                bases.configs.clear()
            bases.defaults[choice] = find(repo=repo, config_name=config_name, overrides_list=overrides_list, **about)
        return replace(bases.defaults[choice], config_overrides=values)

    def compose(self: ConfigLoaderImpl, defaults: Any, repo: Any) -> DictConfig:
        known = bases.configs.get(id(defaults))
        if known is None or known[0] is not defaults:
            known = bases.configs[id(defaults)] = (defaults, Copies(merge(self, defaults=defaults, repo=repo)))
        return known[1].make()

    with ExitStack() as stack:
        stack.enter_context(replaced(loader_module, "create_defaults_list", create_defaults_list))
        stack.enter_context(replaced(ConfigLoaderImpl, "_compose_config_from_defaults_list", compose))
        stack.enter_context(replaced(ConfigLoaderImpl, "_parse_overrides_and_create_caching_repo", parse_and_open))
        stack.enter_context(replaced(OverridesParser, "parse_rule", parse_rule))
        yield


def _parsed(loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str]) -> list[Override]:
    if OF_1_4:
        return loader.parse_overrides(config_name, overrides)  # pyright: ignore[reportAttributeAccessIssue]
    return OverridesParser.create().parse_overrides(overrides)


@contextmanager
def patched(load: Loading, launch: Launching, plugin: Callable[[DictConfig], DictConfig]) -> Iterator[None]:
    """Has Hydra run our application in our way while the block runs.

    Args:
        load: composes a config, by a function of overrides, for overrides and a run mode: to tell every override that is refused,
            and to check Hydra's own node before Hydra calls anything that is named there.
        launch: makes the launcher of a sweep, by a function that makes Hydra's for what it is to call for each job: ours stands before it.
        plugin: gives the config that a launcher or a sweeper is made of, where Hydra would resolve it as it makes it.
    """
    changes = [
        (ConfigLoaderImpl, LOAD, _load(load)),
        (Plugins, "instantiate_launcher", _instantiate_launcher(launch)),
        (Plugins, "_instantiate", _instantiate(plugin)),
        # help names every config of a group, which of the backbones is a screen
        (hydra_module.Hydra, "format_config_groups", _format_config_groups()),
        # it stops at the first job that does not compose, where all are told before the first starts
        (Sweeper, "validate_batch_is_legal", lambda self, batch: None),
        # it prints a job's overrides before it raises what the job raised, which is told here
        (JobReturn, "return_value", property(_return_value, vars(JobReturn)["return_value"].fset)),
    ]
    if OF_1_4:
        changes += [
            (ConfigLoaderImpl, "parse_overrides", _parse_overrides()),
            (BasicSweeper, "split_arguments", _split_arguments()),
        ]
    else:
        changes += [
            # it takes a sweeper only from below hydra_plugins, which every Hydra program of the environment loads
            (Plugins, "is_in_toplevel_plugins_module", staticmethod(lambda name: True)),
            (sys.modules["hydra.main"], "get_args_parser", _parser),
        ]
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(replaced(owner, name, value))
        yield


def _load(load: Loading) -> Callable[..., DictConfig]:
    original = getattr(ConfigLoaderImpl, LOAD)

    def load_configuration(
        self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], run_mode: RunMode, *args: Any, **kwargs: Any
    ) -> DictConfig:
        def compose(given: list[str]) -> DictConfig:
            read = kwargs.get("parsed_overrides")  # those of 1.4, which are of all the words
            anew = {} if read is None or (given == overrides and not isinstance(read, _Unread)) else {"parsed_overrides": None}
            return original(self, config_name, given, run_mode, *args, **kwargs | anew)

        return load(compose, overrides, run_mode)

    return load_configuration


def _instantiate_launcher(launch: Launching) -> Callable[..., Launcher]:
    original = Plugins.instantiate_launcher

    def instantiate_launcher(self: Plugins, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> Launcher:
        return launch(lambda job: original(self, hydra_context, job, config), hydra_context, task_function, config)

    return instantiate_launcher


def _instantiate(plugin: Callable[[DictConfig], DictConfig]) -> Callable[..., Any]:
    original = Plugins._instantiate
    return lambda self, config: original(self, plugin(config))


def _format_config_groups() -> Callable[..., str]:
    original = hydra_module.Hydra.format_config_groups

    def format_config_groups(self: Any, *given: Any, **named: Any) -> str:
        return "".join(f"{_folded(line)}\n" for line in original(self, *given, **named).splitlines())

    return format_config_groups


def _folded(line: str, first: int = 6) -> str:
    group, _, named = line.partition(": ")
    names = named.split(", ")
    if len(names) <= MOST_SHOWN:
        return line
    return f"{group}: {', '.join(names[:first])} and {len(names) - first} more (`modelfactory list {group}`)"


def _return_value(done: JobReturn) -> Any:
    """What a job returned, or raises what it raised."""
    if done.status is JobStatus.FAILED:
        raise done._return_value
    return done._return_value


def _parser() -> argparse.ArgumentParser:
    """Hydra's own, whose options may stand between the overrides, as in `trainer=debug -m seed=0,1`; in 1.4 they may."""
    parser = get_args_parser()
    parser.parse_args = parser.parse_intermixed_args
    return parser


class _Unread(list[Override]):
    """Overrides of which some cannot be read, which is told where they are composed."""


def _parse_overrides() -> Callable[..., list[Override]]:
    """Hydra 1.4 reads the command line before it composes, and stops at the first word that it cannot read."""
    original = getattr(ConfigLoaderImpl, "parse_overrides")  # noqa: B009  (1.3 has none)

    def parse_overrides(self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], **given: Any) -> list[Override]:
        try:
            with yaml_checked():  # it reads the primary config, for the names of its options
                return original(self, config_name, overrides, **given)
        except OverrideParseException:
            if "alias_start" not in given:  # this is the composing
                raise
            return _Unread(map(_parse_or_stand_in, overrides))

    return parse_overrides


def _parse_or_stand_in(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return Override(OverrideType.CHANGE, "unread", ValueType.ELEMENT, None)


def _split_arguments() -> Any:
    """Hydra 1.4's sweeper writes `~key` as `~key=null`, which every job then takes for a condition that the value is null."""
    original = BasicSweeper.split_arguments

    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        bare = [override.get_key_element() for override in overrides if override.is_delete() and override.value_type is None]
        as_given = {f"{word}=null": word for word in bare}
        return [[[as_given.get(word, word) for word in job] for job in batch] for batch in original(overrides, max_batch_size)]

    return staticmethod(split_arguments)


def give_configs_as_they_stand(functions: Sequence[str]) -> None:
    """Have `hydra.utils.instantiate` leave alone what is inside of a node whose `_target_` is one of these, from now on.

    Hydra makes what is named inside first, which in a config of ours is every layer, each without the sizes that are inferred.
    `_recursive_: false` does the same, where a config says it; what a config says so itself still counts.

    Args:
        functions: full names, each as a config may write it.
    """
    original = instantiate_module.instantiate_node
    if getattr(original, "for_configs", None) is not None:
        return

    def instantiate_node(node: Any, *args: Any, **kwargs: Any) -> Any:
        above = node._get_parent() if isinstance(node, (DictConfig, ListConfig)) else None
        targets = [above[key] for key in _TARGETS if key in above] if isinstance(above, DictConfig) and "_recursive_" not in above else []
        if any(target in functions for target in targets):
            return node
        return original(node, *args, **kwargs)

    instantiate_node.for_configs = functions  # pyright: ignore[reportFunctionMemberAccess]
    instantiate_module.instantiate_node = instantiate_node
