"""Find this package's groups in the config of any project: at its root, or under a package of it.

What is not among them is left alone: it is neither resolved nor checked, and may be anything.

An interpolation means what it means to OmegaConf. One that leads nowhere as it stands, since its file was put under a package
(`${activation}` in a model under `net`), means the nearest of that name: what is beside the model, or else on a level above it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from modelfactory.config.compose import as_config, in_plain_words, needs_resolving, plain_nodes, resolve_paths
from modelfactory.config.errors import ConfigError, Problem
from modelfactory.config.inferred import Infer, with_num_classes
from modelfactory.config.nesting import check_nesting

_REFERENCE = re.compile(r"\$\{\s*(\.*)([A-Za-z_][\w-]*)((?:[.\[][\w\-\]]+)*)(?=\s*\}|\.\$\{)")
_SHAPES = {"init": {"rules", "calibrate", "fans"}, "freeze": {"rules", "dropout"}}  # of the groups, which a model has keys of too
_NOWHERE = object()
Path = tuple[Any, ...]


@dataclass(frozen=True)
class OwnGroups:
    """Groups of a config, resolved, as a plain dict.

    Attributes:
        config: the groups by name.
        paths: where each is in the config that was given.
    """

    config: dict[str, Any]
    paths: Mapping[str, Path]

    @contextmanager
    def told(self) -> Iterator[None]:
        """Raise the errors of the block with their paths as they are in the config that was given."""
        moved = {name: ".".join(map(str, path)) for name, path in self.paths.items() if path != (name,)}
        try:
            yield
        except ConfigError as error:
            if not moved:
                raise
            raise ConfigError(Problem(_moved(problem.path, moved), problem.message) for problem in error.problems) from error


def _moved(path: str, moved: Mapping[str, str]) -> str:
    name, dot, rest = path.partition(".")
    return f"{moved[name]}{dot}{rest}".strip(".") if name in moved else path


def read_groups(cfg: Any, groups: Collection[str], at: str | None = None, infer: Infer | None = None) -> OwnGroups:
    """Read those of `groups` that a config has, resolved, and leave all else alone.

    A group is taken from the level that `at` names, or else from the nearest above it. The model is on that level: under `model`, or
    the level itself where its keys are those of a model.

    Args:
        cfg: a DictConfig, also one that is part of another (`cfg.net`), which is as `at="net"`; or a plain mapping.
        at: where the groups are, such as "net"; None: at the root.
        infer: counts the classes of data whose `num_classes` is null, where something refers to it; None: it stays null.

    Raises:
        ConfigError: it is no config, there is nothing at `at`, or what is in the groups does not resolve.

    Example:
        >>> cfg = {"lr": "???", "net": {"layers": {"act": "${activation}"}, "init": "zeros"}, "activation": {"_target_": "torch.nn.ReLU"}}
        >>> read_groups(cfg, ("seed", "model", "activation", "init"), at="net").config["model"]
        {'layers': {'act': {'_target_': 'torch.nn.ReLU'}}}
    """
    root, level = _root_of(cfg)
    level = (*level, *_parts(at)) if at else level
    if isinstance(root, DictConfig):
        written: Any = OmegaConf.to_container(root, resolve=False)
    else:
        written = root
    level, node = _level(written, level)
    paths = _find(written, level, groups)
    model = [key for key in node if key not in _taken(node, groups)] if paths.get("model") == level else []
    wanted: dict[Any, Path] = {name: path for name, path in paths.items() if name != "model" or not model}
    wanted |= {("model", key): (*level, key) for key in model}
    if not isinstance(root, DictConfig):
        own = {name: _at(root, path) for name, path in wanted.items()}
        check_nesting(own, OmegaConf.is_config)
        if not needs_resolving(own):
            return OwnGroups(in_plain_words(_with_model(own, model)), paths | {"model": paths.get("model", (*level, "model"))})
        written = _copy(root, wanted.values())
    if level:
        _Names(written, level, groups, bool(model)).settle(paths)
    config = root if not level and isinstance(root, DictConfig) else as_config(written)
    if infer is not None and "data" in paths:
        config = with_num_classes(config, paths["data"], infer)
    resolved = resolve_paths(config, wanted)
    return OwnGroups(in_plain_words(_with_model(resolved, model)), paths | {"model": paths.get("model", (*level, "model"))})


def _with_model(values: Mapping[Any, Any], model: Collection[Any]) -> dict[Any, Any]:
    """The groups, with the keys of a model that stand on their own level put together."""
    groups = {name: value for name, value in values.items() if not isinstance(name, tuple)}
    return groups | {"model": {key: values["model", key] for key in model}} if model else groups


def _root_of(cfg: Any) -> tuple[Any, Path]:
    """The config that a config is part of, and where it is there."""
    if isinstance(cfg, Mapping) and not OmegaConf.is_config(cfg):
        return cfg, ()
    if not isinstance(cfg, DictConfig):
        raise ConfigError([Problem("", f"{cfg!r} is not a config; give a DictConfig or a dict")])
    path: list[Any] = []
    node: Any = cfg
    while isinstance(above := node._get_parent(), (DictConfig, ListConfig)):
        path.insert(0, node._key())
        node = above
    return (node, tuple(path)) if isinstance(node, DictConfig) else (cfg, ())


def _parts(at: str) -> Path:
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"[.\[\]]+", at) if part)


def _level(root: Mapping[Any, Any], path: Path, follow: int = 20) -> tuple[Path, Mapping[Any, Any]]:
    """The mapping at a path, and where it really is: `net: ${nets.small}` leads there."""
    node, where = root, ()
    for key in path:
        node, where = _step(node, key), (*where, key)
        found = _REFERENCE.match(node) if isinstance(node, str) and follow else None
        if found is not None and not found[1] and node[found.end() :].strip() == "}":
            where, node = _level(root, _parts(found[2] + found[3]), follow - 1)
    if not isinstance(node, Mapping):
        name = ".".join(map(str, path))
        known = [str(key) for key, item in root.items() if isinstance(item, Mapping)]
        what = "there is nothing there" if node is _NOWHERE else f"{node!r} is not a mapping"
        shown = f" ({', '.join(known)})" if known else ""
        raise ConfigError([Problem(name, f"{what}; give at= the path of a mapping with model{shown}")])
    return where, node


def _step(node: Any, key: Any) -> Any:
    if isinstance(node, Mapping):
        return next((node[name] for name in (key, str(key)) if name in node), _NOWHERE)
    if isinstance(node, (list, tuple)) and isinstance(key, int) and key < len(node):
        return node[key]
    return _NOWHERE


def _at(root: Any, path: Iterable[Any]) -> Any:
    """What is at a path; what an interpolation on the way stands for where there is one; `_NOWHERE` where there is nothing."""
    for key in path:
        if isinstance(root, str) and "${" in root:
            return root
        root = _step(root, key)
    return root


def _find(root: Mapping[Any, Any], level: Path, groups: Collection[str]) -> dict[str, Path]:
    """Where each group is: on the level, or the nearest above it; the model on the level only."""
    node = _at(root, level)
    taken = _taken(node, groups)
    paths: dict[str, Path] = {}
    for name in groups:
        if name == "model":
            if name in node or _is_model(node):
                paths[name] = (*level, name) if name in node else level
            continue
        places = (level[:length] for length in range(len(level), -1, -1))
        for place in places:
            above = _at(root, place)
            if isinstance(above, Mapping) and (name in taken if place == level else name in above):
                paths[name] = (*place, name)
                break
    return paths


def _is_model(node: Mapping[Any, Any]) -> bool:
    return "model" not in node and (isinstance(node.get("layers"), Mapping) or isinstance(node.get("_target_"), str))


def _taken(node: Mapping[Any, Any], groups: Collection[str]) -> set[str]:
    """Which keys of a level are groups: all of their names, but for those that are a model's own where the level is a model."""
    if not _is_model(node):
        return {name for name in node if name in groups}
    known = set(_SHAPES) if "_target_" in node else set(groups)
    return {name for name in node if name in known and (name not in _SHAPES or _is_group(name, node[name]))}


def _is_group(name: str, value: Any) -> bool:
    """Whether this is the group `init` or `freeze`, and not what says it of a single layer."""
    return bool(_SHAPES[name] & set(value)) if isinstance(value, Mapping) else value is None or isinstance(value, str)


def _copy(root: Mapping[Any, Any], own: Iterable[Path]) -> dict[Any, Any]:
    """A copy of what OmegaConf can have: all of what is ours, and of the rest what is plain and not left to code."""
    ours = {path[0] for path in own}
    copied = {}
    for key, value in root.items():
        if key in ours:
            copied[key] = plain_nodes(value)
        elif isinstance(key, str):
            try:
                check_nesting({key: value}, OmegaConf.is_config)
                copied[key] = plain_nodes(OmegaConf.to_container(as_config({key: value}), resolve=False))[key]
            except ConfigError:  # what is not ours may be anything; what refers to it is told that it is not there
                continue
    return copied


class _Names:
    """Interpolations in the groups of a package, of which those that lead nowhere are made to lead to the nearest of their name."""

    def __init__(self, root: dict[Any, Any], level: Path, groups: Collection[str], is_model: bool):
        self._root, self._level, self._groups, self._is_model = root, level, groups, is_model

    def settle(self, paths: Mapping[str, Path]) -> None:
        for path in paths.values():
            value = _at(self._root, path)
            settled = self._settled(value, path)
            holder = _at(self._root, path[:-1])
            if isinstance(holder, (dict, list)):
                holder[path[-1]] = settled

    def _settled(self, value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return {key: self._settled(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._settled(item, (*path, place)) for place, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        found = _REFERENCE.match(value)
        seed = found is not None and (found[2], found[3]) == ("seed", "") and value[found.end() :].strip() == "}"
        if found is not None and seed and not self._target(found, path):
            return 0  # what the seed is where none is given
        return _REFERENCE.sub(lambda match: self._written(match, path), value)

    def _written(self, match: re.Match[str], path: Path) -> str:
        target = self._target(match, path)
        if target is None or target is match:
            return match[0]
        return "${" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in target).removeprefix(".")

    def _target(self, match: re.Match[str], path: Path) -> Any:
        """Where a reference shall lead: the match itself where it may stay as it is; None where there is nothing of its name."""
        dots, name, rest = len(match[1]), match[2], _parts(match[3])
        beside = path[: len(path) - dots] if dots else ()
        misses_the_level = self._is_model and dots and beside == self._level[:-1] and name in self._groups
        if dots <= len(path) and _at(self._root, (*beside, name, *rest)) is not _NOWHERE and not (
            misses_the_level and _at(self._root, (*self._level, name)) is not _NOWHERE
        ):
            return match
        for length in range(len(self._level), -1, -1):
            place = (*self._level[:length], name, *rest)
            if _at(self._root, place) is not _NOWHERE and path[: len(place)] != place:
                return place
        itself = (*self._level, *rest)
        if self._is_model and name == "model" and rest and _at(self._root, itself) is not _NOWHERE:
            return itself
        return None
