"""Composing configs, and turning them into the plain dicts that all else works on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import hydra
import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from omegaconf.omegaconf import get_omega_conf_dumper  # pyright: ignore[reportPrivateImportUsage] (another home in each version)

from modelfactory.config.checked import CheckedLoader
from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.config.hydra_errors import complaint
from modelfactory.config.hydra_patches import VERSION_BASE, loading_by
from modelfactory.config.inferred import Infer, with_num_classes
from modelfactory.config.interpolations import check_nodes, find_circles
from modelfactory.config.nesting import check_depth, check_nesting, with_text_names
from modelfactory.config.registration import registered
from modelfactory.config.rejected_overrides import no_experiment_group, telling_all
from modelfactory.config.search_path import config_folder

_T = TypeVar("_T")
_MAY_BE_NONE = ("backbone", "freeze")  # groups that have a config of this name
_one_at_a_time = threading.RLock()  # Hydra's state is the process's


def compose(*overrides: str, config_dir: str | os.PathLike[str] | None = None, config_name: str = "config") -> DictConfig:
    """The config that `python train.py OVERRIDES` uses, without Hydra's own node.

    Works inside a running Hydra application too.

    Args:
        overrides: as on the command line, such as "model=cnn", "experiment=digits_cnn" or "+init.rules.mine={...}".
        config_dir: a project's own folder of configs; its groups come first and this package's are still found.
        config_name: the primary config.

    Raises:
        ConfigError: every group, option or key that there is not, with its path and the nearest one.

    Example:
        >>> compose("model=deep_mlp", "model.depth=3").model.depth
        3
    """
    folder = config_folder() if config_dir is None else Path(config_dir).resolve()
    if not folder.is_dir():
        raise ConfigError([Problem("config_dir", f"{str(config_dir)!r} is not a folder")])
    with _one_at_a_time, registered(), loading_by(CheckedLoader):
        with hydra.initialize_config_dir(config_dir=str(folder), **VERSION_BASE):
            return with_experiment(telling_all(lambda given: hydra.compose(config_name, overrides=given)), overrides)


def as_given(cfg: Any, overrides: Sequence[str] = ()) -> Any:
    """Give the config that a call is about: one that is composed already, the overrides of one, or a YAML file with overrides.

    Raises:
        ConfigError: a string that is neither; or overrides after a config, which has been composed.

    Example:
        >>> as_given("model=cnn", ["seed=3"]).seed
        3
        >>> as_given("model")
        Traceback (most recent call last):
        modelfactory.config.errors.ConfigError: 'model' is neither an override, such as model=cnn, nor the path of a YAML file
    """
    if not isinstance(cfg, (str, os.PathLike)):
        if overrides:
            words = " ".join(map(str, overrides))
            raise ConfigError([Problem("", f"{words!r} comes after a config; overrides go to mf.compose, and device= and at= have names")])
        return cfg
    file = Path(cfg)
    if file.suffix == ".yml":
        raise ConfigError([Problem("", f"{str(cfg)!r} ends in .yml, and Hydra reads .yaml alone; give it that name")])
    if file.suffix == ".yaml":
        if not file.is_file():
            raise ConfigError([Problem("", f"there is no file {str(cfg)!r} in {Path.cwd()}")])
        return compose(*overrides, config_dir=file.resolve().parent, config_name=file.name)
    for word in map(str, (cfg, *overrides)):
        if "=" not in word and not word.startswith("~"):
            raise ConfigError([Problem("", f"{word!r} is neither an override, such as model=cnn, nor the path of a YAML file")])
    return compose(str(cfg), *overrides)


def with_experiment(composing: Callable[[list[str]], _T], overrides: Iterable[str]) -> _T:
    """Calls `composing` so that both `experiment=x` and `+experiment=x` work, whether or not the primary config has the group."""
    given = list(overrides)
    without_plus = [word.removeprefix("+") if word.startswith("+experiment=") else word for word in given]
    try:
        try:
            return composing(without_plus)
        except HydraException as error:
            if given == without_plus or not no_experiment_group(error):
                raise
            return composing(given)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError([complaint(error)]) from error
    except ValueError as error:
        if not str(error).startswith("Config group override"):
            raise
        raise ConfigError([complaint(error)]) from error


def to_plain(cfg: Any, infer: Infer | None = None) -> dict[str, Any]:
    """A config as a plain dict with every interpolation resolved, without Hydra's own node.

    Args:
        cfg: a DictConfig, or a plain dict, in which `${...}` is resolved too.
        infer: counts the classes of data whose `num_classes` is null, where something refers to it; None: it stays null.

    Raises:
        ConfigError: it is no mapping, or has no end, or interpolations lead nowhere or in a circle, or values are missing (`???`), or
            a layer has no name that is a text; all of one kind at once, each with its path.

    Example:
        >>> to_plain({"width": 8, "model": {"size": "${width}"}})
        {'width': 8, 'model': {'size': 8}}
        >>> to_plain({"model": {"size": "${widht}"}})
        Traceback (most recent call last):
        modelfactory.config.errors.ConfigError: model.size: '${widht}' does not resolve: Interpolation key 'widht' not found
    """
    return in_plain_words(_resolved(cfg, infer))


def in_plain_words(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Give a resolved config with null for a group that is switched off, and strings for the names of layers, rules and groups.

    Raises:
        ConfigError: a name that cannot be told.

    Example:
        >>> in_plain_words({"backbone": "none", "model": {"layers": {0: {}}}})
        {'backbone': None, 'model': {'layers': {'0': {}}}}
    """
    plain = {str(key): value for key, value in config.items()}
    for group in _MAY_BE_NONE:
        if plain.get(group) is False or plain.get(group) == "none":
            plain[group] = None
    problems = Problems()
    named = with_text_names(plain, problems)
    problems.raise_if_any()
    return named


def _resolved(cfg: Any, infer: Infer | None) -> Mapping[Any, Any]:
    if isinstance(cfg, Mapping) and not OmegaConf.is_config(cfg):
        check_nesting(cfg, OmegaConf.is_config)
        if not needs_resolving(cfg):
            return cfg
        cfg = as_config(cfg)
    if not isinstance(cfg, DictConfig):
        raise ConfigError([Problem("", f"{cfg!r} is not a config; give a DictConfig or a dict")])
    cfg = cfg if infer is None else with_num_classes(cfg, ("data",), infer)
    return resolve_paths(cfg, {key: (key,) for key in cfg if key != "hydra"})


def as_config(config: Mapping[Any, Any]) -> DictConfig:
    """Make a DictConfig of a plain mapping, in which there may be nodes of OmegaConf and objects of any class.

    Raises:
        ConfigError: OmegaConf cannot have such keys or values, or it has no end.

    Example:
        >>> as_config({"width": 8, "size": "${width}"}).size
        8
    """
    try:
        made: Any = OmegaConf.create(plain_nodes(config), flags={"allow_objects": True})
        return made
    except OmegaConfBaseException as error:
        raise ConfigError([complaint(error)]) from error
    except RecursionError as error:
        check_depth(config)
        raise ConfigError([complaint(error)]) from error


def resolve_paths(cfg: DictConfig, paths: Mapping[Any, Sequence[Any]]) -> dict[Any, Any]:
    """Resolve what is at these paths of a config, and nothing else of it.

    Raises:
        ConfigError: interpolations that lead nowhere or in a circle, values that are missing (`???`), each with its path.

    Example:
        >>> resolve_paths(OmegaConf.create({"lr": "???", "net": {"size": "${..width}"}, "width": 8}), {"net": ["net"]})
        {'net': {'size': 8}}
    """
    circles: list[Problem] = []
    try:
        circles = find_circles(cfg, paths.values())
        return {name: _value_at(cfg, path) for name, path in paths.items()}
    except (OmegaConfBaseException, RecursionError) as error:
        problems = Problems()
        check_nodes(cfg, paths.values(), problems)
        told = {problem.path for problem in problems}
        problems.extend(circle for circle in circles if circle.path not in told)
        raise ConfigError(list(problems) or [complaint(error)]) from error


def _value_at(cfg: Any, path: Sequence[Any]) -> Any:
    node = cfg
    for key in path:
        if isinstance(node, DictConfig) and OmegaConf.is_missing(node, key):
            raise MissingMandatoryValue(f"Missing mandatory value: {key}")
        node = node[key]
    return OmegaConf.to_container(node, resolve=True, throw_on_missing=True) if OmegaConf.is_config(node) else node


def needs_resolving(config: Mapping[Any, Any]) -> bool:
    """Whether there is a `${`, a `???`, or a node of OmegaConf anywhere (`{**cfg, ...}` has such).

    Example:
        >>> needs_resolving({"size": [8, "${width}"]}), needs_resolving({"size": 8})
        (True, False)
    """
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


def plain_nodes(value: Any, resolve: bool = False) -> Any:
    """Copy mappings and lists; nodes of OmegaConf as they are written, with their interpolations, unless `resolve`.

    Raises:
        ConfigError: with `resolve`, what does not resolve.

    Example:
        >>> plain_nodes({"size": OmegaConf.create(["${width}"])})
        {'size': ['${width}']}
        >>> plain_nodes(OmegaConf.create({"size": 8, "net": {"width": "${size}"}}).net, resolve=True)
        {'width': 8}
    """
    if OmegaConf.is_config(value):
        try:
            return OmegaConf.to_container(value, resolve=resolve, throw_on_missing=resolve)
        except OmegaConfBaseException as error:
            raise ConfigError([complaint(error)]) from error
    if isinstance(value, Mapping):
        return {key: plain_nodes(item, resolve) for key, item in value.items()}
    return [plain_nodes(item, resolve) for item in value] if isinstance(value, (list, tuple)) else value


def to_yaml(plain: Mapping[str, Any]) -> str:
    """A plain config as YAML, in its own order; texts that YAML would read as numbers are quoted.

    Example:
        >>> print(to_yaml({"seed": 0, "model": {"depth": 2, "name": "1e-3"}}), end="")
        seed: 0
        model:
          depth: 2
          name: '1e-3'
    """
    return plain_yaml(plain_nodes(plain))


def plain_yaml(value: Any) -> str:
    """Dicts, lists and plain values as YAML, as OmegaConf writes it, several times as fast where PyYAML has its own library.

    Example:
        >>> print(plain_yaml(["seed=0", "yes"]), end="")
        - seed=0
        - 'yes'
    """
    return yaml.dump(value, default_flow_style=False, allow_unicode=True, sort_keys=False, Dumper=_dumper())


@cache
def _dumper() -> Any:
    kind = type("PlainDumper", (getattr(yaml, "CDumper", yaml.Dumper),), {})
    kind.add_representer(str, get_omega_conf_dumper().str_representer)
    kind.add_multi_representer(Enum, lambda dumper, item: dumper.represent_str(item.name))
    return kind


def with_value(cfg: Any, path: str, value: Any) -> DictConfig:
    """Copy a config that is not resolved yet with another value at a dotted path, which it has.

    Raises:
        ConfigError: it has no such key.

    Example:
        >>> with_value({"model": {"width": 8, "size": "${.width}"}}, "model.width", 16).model.size
        16
    """
    made = OmegaConf.create(plain_nodes(cfg), flags={"allow_objects": True})
    if not has_path(made, path):
        raise ConfigError([Problem(path, "the config has no such key")])
    OmegaConf.update(made, path, value)
    return made  # pyright: ignore[reportReturnType]


def has_path(cfg: Any, path: str) -> bool:
    """Whether a config has a key at a dotted path.

    Example:
        >>> has_path({"model": {"width": 8}}, "model.width"), has_path({"model": {}}, "model.width")
        (True, False)
    """
    node = cfg
    for key in path.split("."):
        if not isinstance(node, (Mapping, DictConfig)) or key not in node:
            return False
        node = node[key]
    return True
