"""What interpolations of a config lead to: nowhere, in a circle, or to more values than can be made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.config.schema import join

MAX_REPEATED = 50_000  # values that the interpolations of one config may add to those that are written
_REFERENCE = re.compile(r"\$\{\s*(\.*[\w\-.\[\]]+)\s*\}")
_NOWHERE = object()


def find_circles(cfg: DictConfig, paths: Iterable[Sequence[Any]] = ((),)) -> list[Problem]:
    """Find interpolations that stand inside of what they lead to, told from what is written: nothing is resolved.

    Args:
        paths: where to look; all of the config unless told.

    Raises:
        ConfigError: the interpolation with which there are too many values, since each may multiply what others lead to.

    Example:
        >>> print(*find_circles(OmegaConf.create({"a": {"b": "${a}"}})))
        a.b: '${a}' does not resolve: it leads in a circle
        >>> find_circles(OmegaConf.create({"a": ["x"] * 99, "b": ["${a}"] * 99, "c": ["${b}"] * 99}))
        Traceback (most recent call last):
        modelfactory.config.errors.ConfigError: c[4]: '${b}' is one too many: the interpolations repeat more than 50,000 values
    """
    written = _Written(OmegaConf.to_container(cfg, resolve=False))
    for path in paths:
        written.count(tuple(path))
    return written.circles


class _Written:
    """A config as it is written. A path is a tuple of keys and places."""

    def __init__(self, root: Any):
        self._root = root
        self.circles: list[Problem] = []
        self._sizes: dict[tuple[Any, ...], int] = {}
        self._open: set[tuple[Any, ...]] = set()
        self._repeated = 0

    def count(self, path: tuple[Any, ...]) -> None:
        """Count the values at a path, through interpolations on the way to it."""
        value = self._root
        for place, key in enumerate(path):
            if isinstance(value, str):  # what it leads to has the rest of the path
                self.size(path[:place], value)
                return
            value = value[key]
        self.size(path, value)

    def size(self, path: tuple[Any, ...], value: Any) -> int:
        """How many values there are once what is at this path is resolved."""
        if path in self._sizes:
            return self._sizes[path]
        self._open.add(path)
        if isinstance(value, str):
            size = 1 + sum(self._referred(path, value, match) for match in _REFERENCE.findall(value)) if "${" in value else 1
        else:
            size = 1 + sum(self.size((*path, key), item) for key, item in _items(value))
        self._open.discard(path)
        self._sizes[path] = size
        return size

    def _referred(self, path: tuple[Any, ...], text: str, reference: str) -> int:
        target, value = self._follow(path, reference)
        if value is _NOWHERE:
            return 0
        if target in self._open:
            self.circles.append(Problem(_told(path), f"{text!r} does not resolve: it leads in a circle"))
            return 0
        size = self.size(target, value)
        self._repeated += size
        if self._repeated > MAX_REPEATED:
            shown = text if len(text) <= 80 else f"{text[:80]}..."
            message = f"{shown!r} is one too many: the interpolations repeat more than {MAX_REPEATED:,} values"
            raise ConfigError([Problem(_told(path), message)])
        return size

    def _follow(self, path: tuple[Any, ...], reference: str, steps: int = 0) -> tuple[tuple[Any, ...], Any]:
        """Where a reference leads, through other references on the way; nowhere that can be told where it leads nowhere."""
        name = reference.lstrip(".")
        up = len(reference) - len(name)
        if up > len(path):
            return (), _NOWHERE
        way = path[: len(path) - up] if up else ()
        value = self._at(way)
        for part in filter(None, re.split(r"[.\[\]]", name)):
            found = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
            if found is not None and steps < len(self._open) + 50:
                way, value = self._follow(way, found[1], steps + 1)
            key = int(part) if isinstance(value, list) and part.lstrip("-").isdigit() else part
            value = next((item for own, item in _items(value) if own == key or str(own) == part), _NOWHERE)
            way = (*way, key)
            if value is _NOWHERE:
                return way, _NOWHERE
        return way, value

    def _at(self, path: tuple[Any, ...]) -> Any:
        value = self._root
        for key in path:
            value = value[key]
        return value


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _told(path: tuple[Any, ...]) -> str:
    """A path as errors show it."""
    text = ""
    for key in path:
        text = f"{text}[{key}]" if isinstance(key, int) and text else join(text, key)
    return text


def check_nodes(cfg: Any, paths: Iterable[Sequence[Any]], problems: Problems) -> None:
    """Add every interpolation that does not resolve and every value that is missing at these paths and below, each with its path."""
    for *above, key in paths:
        node, where = cfg, ""
        for step in above:
            where = _below(node, where, step)
            try:
                node = node[step]
            except (OmegaConfBaseException, RecursionError) as error:
                problems.add(where, f"does not resolve: {str(error).splitlines()[0]}")
                break
        else:
            _check_node(node, key, _below(node, where, key), problems)


def _below(node: Any, path: str, key: Any) -> str:
    return join(path, str(key)) if isinstance(node, DictConfig) else f"{path}[{key}]"


def _check_node(node: Any, key: Any, where: str, problems: Problems) -> None:
    raw = node._get_node(key)
    if raw is None:
        return
    if raw._is_missing():
        problems.add(where, "is missing (???); give a value")
        return
    try:
        child = node[key]
    except InterpolationToMissingValueError:
        return  # the value it leads to is reported at its own path
    except (OmegaConfBaseException, RecursionError) as error:
        circle = isinstance(error, RecursionError) or "ecursi" in str(error)
        why = "it leads in a circle" if circle else str(error).splitlines()[0]
        problems.add(where, f"{raw._value()!r} does not resolve: {why}")
        return
    if OmegaConf.is_config(child) and not raw._is_interpolation():
        for name in child.keys() if isinstance(child, DictConfig) else range(len(child)):
            _check_node(child, name, _below(child, where, name), problems)
