"""What interpolations of a config lead to: nowhere, in a circle, or to more values than can be made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.config.schema import join

MAX_REPEATED = 50_000  # values that the interpolations of one config may add to those that are written
_REFERENCE = re.compile(r"\$\{\s*(\.*[\w\-.\[\]]+)\s*\}")
_NOWHERE = object()


def find_circles(cfg: DictConfig) -> list[Problem]:
    """The interpolations that stand inside of what they lead to, told from what is written: nothing is resolved.

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
    written.size((), _NOWHERE)
    return written.circles


class _Written:
    """A config as it is written. A path is a tuple of keys and places."""

    def __init__(self, root: Any):
        self._root = root
        self.circles: list[Problem] = []
        self._sizes: dict[tuple[Any, ...], int] = {}
        self._open: set[tuple[Any, ...]] = set()
        self._repeated = 0

    def size(self, path: tuple[Any, ...], value: Any) -> int:
        """How many values there are once what is at this path is resolved."""
        value = self._root if value is _NOWHERE else value
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


def check_nodes(node: Any, path: str, problems: Problems) -> None:
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
            check_nodes(child, where, problems)
