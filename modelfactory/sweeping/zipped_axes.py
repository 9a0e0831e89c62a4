"""Pair axes of a sweep, which Hydra crosses: with `sweep.zip: [model.width, optimizer.lr]` the first width goes with the first rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from modelfactory.config.errors import Problems, did_you_mean

_PATH = "sweep.zip"
Groups = tuple[tuple[str, ...], ...]


def read_zip(value: Any, path: str, problems: Problems) -> Groups:
    """The groups of axes that `sweep.zip` pairs: a list of keys, or a list of such lists; what is wrong goes to `problems`.

    Example:
        >>> read_zip(["model.width", "optimizer.lr"], "sweep.zip", Problems())
        (('model.width', 'optimizer.lr'),)
        >>> problems = Problems()
        >>> read_zip([["a", "b"], ["b", "c"]], "sweep.zip", problems)
        ()
        >>> print(*problems)
        sweep.zip: 'b' is named twice; an axis is in one list only
    """
    if value is None:
        return ()
    lists = value if isinstance(value, (list, tuple)) and all(isinstance(item, (list, tuple)) for item in value) else [value]
    for keys in lists:
        if not isinstance(keys, (list, tuple)) or len(keys) < 2 or not all(isinstance(key, str) for key in keys):
            problems.add(path, f"{value!r} does not name axes; give a list of two swept keys or more, or a list of such lists")
            return ()
    twice = [key for key, count in Counter(key for keys in lists for key in keys).items() if count > 1]
    if twice:
        problems.add(path, f"{twice[0]!r} is named twice; an axis is in one list only")
        return ()
    return tuple(map(tuple, lists))


class ZippedAxes:
    """Takes of all combinations those in which paired axes are at the same place.

    Args:
        lengths: how many values each swept key has, in the order in which Hydra crosses them: those of the last change fastest.

    Example:
        >>> zipped = ZippedAxes((("a", "b"),), {"a": 2, "b": 2})
        >>> zipped.take([["a=1", "b=x"], ["a=1", "b=y"], ["a=2", "b=x"], ["a=2", "b=y"]])
        [['a=1', 'b=x'], ['a=2', 'b=y']]
    """

    def __init__(self, groups: Groups, lengths: Mapping[str, int]):
        self._groups, self._lengths = groups, dict(lengths)

    def take(self, jobs: Sequence[Sequence[str]], first: int = 0) -> list[Sequence[str]]:
        """The jobs in which paired axes go together, of jobs that are numbered from `first` in the order of all combinations."""
        return [job for number, job in enumerate(jobs, first) if self._go_together(number)]

    def _go_together(self, number: int) -> bool:
        places = {}
        for key, length in reversed(self._lengths.items()):
            number, places[key] = divmod(number, length)
        return all(len({places[key] for key in keys}) == 1 for keys in self._groups)


def zipped_axes(groups: Groups, config: DictConfig, loader: ConfigLoader) -> ZippedAxes:
    """The axes that a sweep pairs.

    Args:
        config: of the sweep, with Hydra's node.

    Raises:
        ConfigError: a key is not swept, axes have not equally many values, or the sweeper chooses the values itself.
    """
    problems, sweeper = Problems(), str(config.hydra.sweeper.get("_target_"))
    if not sweeper.endswith("BasicSweeper"):
        problems.add(_PATH, f"pairs values that are listed, and {sweeper.rpartition('.')[2]} chooses them; give null")
        problems.raise_if_any()
    lengths = _swept(config, loader)
    for keys in groups:
        missing = [key for key in keys if key not in lengths]
        for key in missing:
            problems.add(_PATH, f"{key!r} is not swept{did_you_mean(key, lengths) if lengths else ', and no other key is'}")
        if not missing and len({lengths[key] for key in keys}) > 1:
            told = ", ".join(f"{key} has {lengths[key]}" for key in keys)
            problems.add(_PATH, f"paired axes need equally many values: {told}")
    problems.raise_if_any()
    return ZippedAxes(groups, lengths)


def _swept(config: DictConfig, loader: ConfigLoader) -> dict[str, int]:
    """How many values each swept key has, in the order in which Hydra's own sweeper crosses them."""
    words = [*(f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()), *config.hydra.overrides.task]
    lengths: dict[str, int] = {}
    for override in OverridesParser.create(config_loader=loader).parse_overrides(words):
        if override.is_sweep_override() and override.is_discrete_sweep():
            lengths[override.get_key_element().lstrip("+")] = len(list(override.sweep_string_iterator()))
    return lengths
