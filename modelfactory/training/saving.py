"""When a training saves its state, `trainer.save.every`, and which of these checkpoints stay, `trainer.save.keep`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelfactory.config.errors import Problems
from modelfactory.config.files import write_atomic
from modelfactory.config.schema import join, key, read
from modelfactory.training.status import CHECKPOINT

if TYPE_CHECKING:
    from modelfactory.training.distributed import World

_FOLDER, _BEST = CHECKPOINT.parent, "best.safetensors"


@dataclass(frozen=True)
class EverySpec:
    """After how much a checkpoint is saved; null: not for that reason. One is saved after an epoch that is the best and at the end, too."""

    epochs: int | None = key(1, min=1)
    steps: int | None = key(None, min=1)
    minutes: float | None = key(None, above=0)


@dataclass(frozen=True)
class KeepSpec:
    """What stays beside the last checkpoint: that of the best epoch, and that of each so many epochs."""

    best: bool = False
    epochs: int | None = key(None, min=1)


@dataclass(frozen=True)
class SaveSpec:
    """The keys of `trainer.save`."""

    every: EverySpec = field(default_factory=EverySpec)
    keep: KeepSpec = field(default_factory=KeepSpec)

    def is_due(self, epoch: int, is_best: bool) -> bool:
        """Whether a checkpoint is saved after this epoch."""
        counts = [count for count in (self.every.epochs, self.keep.epochs) if count is not None]
        return is_best or any(epoch % count == 0 for count in counts)

    def kept(self, epoch: int, is_best: bool) -> Iterator[Path]:
        """The files, below the run directory, in which the checkpoint of this epoch stays."""
        if self.keep.epochs is not None and epoch % self.keep.epochs == 0:
            yield _FOLDER / f"epoch-{epoch}.safetensors"
        if self.keep.best and is_best:
            yield _FOLDER / _BEST


def read_save(mapping: Any, path: str, problems: Problems) -> SaveSpec:
    """The keys of `trainer.save`, those that are left out or wrong by their defaults; what is wrong goes to `problems`.

    Example:
        >>> problems = Problems()
        >>> read_save({"every": {"steps": 500}, "keep": {"bst": True}}, "trainer.save", problems).every
        EverySpec(epochs=1, steps=500, minutes=None)
        >>> print(*problems)
        trainer.save.keep.bst: not a key of trainer.save.keep; did you mean 'best'?
    """
    parts = {"every": EverySpec, "keep": KeepSpec}
    given = {} if mapping is None else mapping
    if not isinstance(given, Mapping) or given.keys() - parts.keys():
        problems.add(path, f"{mapping!r} is not a mapping of {' and '.join(parts)}")
        return SaveSpec()
    found = {name: read(kind, given.get(name) or {}, join(path, name), problems) for name, kind in parts.items()}
    return SaveSpec(**{name: spec for name, spec in found.items() if spec is not None})


class SaveTimes:
    """Tells within an epoch when to save, in every process after the same step.

    Example:
        >>> times = SaveTimes(EverySpec(steps=2), None, 1)
        >>> [times.are_due(step) for step in (1, 2, 3, 4)]
        [False, True, False, True]
    """

    def __init__(self, spec: EverySpec, world: World | None, check_every: int):
        self._spec, self._world, self._check_every, self._since = spec, world, check_every, time.monotonic()

    def are_due(self, step: int) -> bool:
        """Whether to save after this step of the training; the first process has the clock."""
        due = self._spec.steps is not None and step % self._spec.steps == 0
        if self._spec.minutes is not None and step % self._check_every == 0:
            late = time.monotonic() - self._since >= 60 * self._spec.minutes
            if self._world is not None:
                late = self._world.sum_numbers(late and self._world.is_first)[0] > 0
            due = due or late
        if due:
            self._since = time.monotonic()
        return due


def checkpoint_of(source: Path) -> Path:
    """The checkpoint that `trainer.resume` names: a file, or the last one of a run directory.

    Example:
        >>> checkpoint_of(Path("runs/a")).as_posix()
        'runs/a/checkpoint/last.safetensors'
    """
    return source if source.suffix == CHECKPOINT.suffix and not source.is_dir() else source / CHECKPOINT


def carry_kept(source: Path, folder: Path, epoch: int) -> None:
    """Copy the checkpoints that a run keeps, up to an epoch, to the directory of one that goes on with it there."""
    for file in (source / _FOLDER).glob("epoch-*.safetensors"):
        number = file.stem.removeprefix("epoch-")
        if number.isdigit() and int(number) <= epoch:
            write_atomic(folder / _FOLDER / file.name, lambda place, file=file: shutil.copyfile(file, place))
    best = source / _FOLDER / _BEST
    if best.is_file():
        write_atomic(folder / _FOLDER / _BEST, lambda place: shutil.copyfile(best, place))
