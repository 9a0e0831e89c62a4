"""When the files of an epoch are written: at once, or by trainings that take turns as seldom as takes a tenth of their time at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelfactory.training.checkpoint import PackedFile

_LEAST_SECONDS = 1.0
_SHARE = 0.1  # of the time, that writing takes
_MOST_BYTES = 256 * 2**20  # that all trainings of a pace may keep in memory


@dataclass
class Pace:
    """Tells each of several trainings, of which one after the other writes its files, when to write them.

    Example:
        >>> pace = Pace(members=10)
        >>> pace.took(0.5)  # so that a round of all of them takes 5 seconds
        >>> pace.is_due(49.0), pace.is_due(51.0)
        (False, True)
    """

    members: int
    _seconds: float = 0.0  # that one of them takes

    def took(self, seconds: float) -> None:
        self._seconds = seconds

    def is_due(self, since: float) -> bool:
        """Whether to write again, so many seconds after the last time."""
        return since >= max(_LEAST_SECONDS, self.members * self._seconds / _SHARE)

    def has_room(self, nbytes: int) -> bool:
        """Whether each of the trainings may keep so much in memory."""
        return self.members * nbytes <= _MOST_BYTES


class EpochFiles:
    """The files that epochs leave, each of the newest one: written at once, or at a pace.

    A process that is killed loses the epochs since they were written, which are trained again; on any other way out `write` leaves
    those of the last epoch.

    Args:
        pace: None: everything is written at once.
    """

    def __init__(self, pace: Pace | None):
        self._pace = pace
        self._metrics: Callable[[], None] | None = None
        self._best: list[tuple[Path, PackedFile]] = []
        self._last: list[tuple[Path, PackedFile]] = []
        self._since = time.monotonic()

    def put(self, metrics: Callable[[], None], files: Sequence[tuple[Path, PackedFile]], is_best: bool) -> None:
        """Take the files of an epoch; of the best one the checkpoint and then the weights, which nobody may find without it."""
        pace = self._pace
        self._metrics = metrics
        # until they are written the best epoch has two files, and one after it has another
        if pace is None or not pace.has_room(3 * sum(file.nbytes for _, file in files)):
            self._keep(files, is_best)
            self.write()
            return
        self._keep([(path, file.copied()) for path, file in files], is_best)
        if pace.is_due(time.monotonic() - self._since):
            self.write()

    def _keep(self, files: Sequence[tuple[Path, PackedFile]], is_best: bool) -> None:
        if is_best:
            self._best, self._last = list(files), []
        elif files:
            self._last = list(files)

    def write(self) -> None:
        """Write what waits."""
        if self._metrics is None:
            return
        begun = time.monotonic()
        self._metrics()
        for path, file in (*self._best, *self._last):
            file.save(path)
        self._metrics, self._best, self._last = None, [], []
        self._since = time.monotonic()
        if self._pace is not None:
            self._pace.took(self._since - begun)
