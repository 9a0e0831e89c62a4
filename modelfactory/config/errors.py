"""Errors that name where (the config path), what (the value) and what would do (the nearest choice)."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

log = logging.getLogger(__name__)


class ModelFactoryError(Exception):
    """Base of every error this package raises on purpose."""


class SchemeError(ModelFactoryError, ValueError):
    """A scheme cannot fill a tensor of this shape; the caller adds the config path."""


class TrainingError(ModelFactoryError, RuntimeError):
    """The training diverged: a loss that is not finite."""


class RankFailed(ModelFactoryError, RuntimeError):
    """Another process of the same training failed; `status` is what that makes of the run."""

    def __init__(self, message: str, status: str):
        self.status = status
        super().__init__(message)

    def __reduce__(self):
        return type(self), (str(self), self.status)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config, at one path.

    Example:
        >>> str(Problem("optimizer.lr", "-1 is not a learning rate; give a number > 0"))
        'optimizer.lr: -1 is not a learning rate; give a number > 0'
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(ModelFactoryError, ValueError):
    """The config is wrong. Holds every problem found, not the first one only."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self):
        return type(self), (self.problems,)


class Problems:
    """Gathers problems so that all of them are reported at once.

    Example:
        >>> problems = Problems()
        >>> problems.add("seed", "'x' is not a whole number")
        >>> problems.raise_if_any()
        Traceback (most recent call last):
        modelfactory.config.errors.ConfigError: seed: 'x' is not a whole number
    """

    def __init__(self) -> None:
        self._problems: list[Problem] = []

    def add(self, path: str, message: str) -> None:
        self._problems.append(Problem(path, message))

    def extend(self, other: Iterable[Problem]) -> None:
        self._problems.extend(other)

    def raise_if_any(self) -> None:
        if self._problems:
            raise ConfigError(self._problems)

    def __bool__(self) -> bool:
        return bool(self._problems)

    def __len__(self) -> int:
        return len(self._problems)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._problems)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice most like `word`, ignoring case, or None when nothing is close."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(word: str, choices: Iterable[str], limit: int = 12) -> str:
    """The tail of an error about `word`: the nearest choice, else the choices.

    Example:
        >>> did_you_mean("kaiming_normall", ["kaiming_normal", "zeros"])
        "; did you mean 'kaiming_normal'?"
        >>> did_you_mean("x", ["ones", "zeros"])
        '; choose one of ones, zeros'
    """
    choices = list(choices)
    close = nearest(word, choices)
    if close is not None:
        return f"; did you mean {close!r}?"
    if not choices:
        return ""
    shown = ", ".join(choices[:limit])
    return f"; choose one of {shown}" + (", ..." if len(choices) > limit else "")


def first_line(error: BaseException) -> str:
    """What an error of other code says, in one line.

    Example:
        >>> first_line(ValueError("too long\\nand more"))
        'too long'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def contained(place: str, failures: list[str]) -> Iterator[None]:
    """Keeps what a diagnosis raises to itself: a line of `failures` says where it was and what it raised, and the run goes on.

    Around what looks at code of any kind, such as a model of the user's own, and never around what a run needs.

    Args:
        place: the layer or operator that was looked at.

    Example:
        >>> failures = []
        >>> with contained("block.0 (matmul)", failures):
        ...     [].pop()
        >>> failures
        ['block.0 (matmul): IndexError: pop from empty list']
    """
    try:
        yield
    except Exception as error:
        failures.append(f"{place}: {type(error).__name__}: {first_line(error)}")
        log.debug("%s", failures[-1], exc_info=True)
