"""Text, or any file, as bytes: windows of `context` bytes, of each of which a causal model predicts the byte after."""

from __future__ import annotations

import mmap
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.config.schema import join
from modelfactory.data.dataset import PART_NAMES, Data, Split, data_of_splits, keyed_permutation

BYTES = 256
_BETWEEN = b"\0"  # two files of a folder: a byte that text has not


class Windows:
    """Windows of a sequence of bytes: the input is `context` of them, the target of each the byte after it.

    Args:
        tokens: the bytes, uint8, such as those of a file that is mapped into memory.
        context: bytes of an input.
        stride: from the start of a window to that of the next.

    Example:
        >>> windows = Windows(torch.arange(8, dtype=torch.uint8), context=3, stride=3)
        >>> len(windows), [part.tolist() for part in windows[1]]
        (2, [[3, 4, 5], [4, 5, 6]])
    """

    def __init__(self, tokens: Tensor, context: int, stride: int):
        self.tokens, self.context, self.stride = tokens, context, stride
        self._windows = tokens.unfold(0, context + 1, stride)  # a view: nothing is read yet

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        window = self._windows[index].long()
        return window[:-1], window[1:]

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Several windows at once: inputs and targets [N, context], int64."""
        windows = self._windows[indices].long()
        return windows[:, :-1], windows[:, 1:]

    def class_counts(self) -> Tensor:
        """How often each byte is there."""
        return torch.bincount(self.tokens, minlength=BYTES)


def byte_windows(
    path: str | None = None,
    context: int = 128,
    stride: int | None = None,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    test_fraction: float | None = None,
) -> Data:
    """Bytes of a file or of all files of a folder, with the byte after each as its target; 256 classes.

    A file is mapped into memory, and its last part is held out: first the validation part, then the test part, if any. Of a folder whole
    files are, with a byte 0 between two. Bytes at the end that make no whole window are left out.

    Args:
        path: a file of any kind, or a folder; null: the sources of Python's standard library, which are on every machine.
        context: bytes of an input.
        stride: from one training window to the next; null: `context`, so that each byte is a target once. Validation has that always.
        val_fraction: of the bytes, held out.
        split_seed: which files of a folder are held out.
        test_fraction: of the bytes, held out besides; null: there is no test part.

    Raises:
        ConfigError: no such file, none in the folder, or fewer bytes than a window of each part needs.

    Example:
        >>> data = byte_windows(context=32)
        >>> data.num_classes, data.input_shape, data.train.sample(2)[0].shape
        (256, (32,), torch.Size([2, 32]))
    """
    problems = Problems()
    files = check_bytes({"path": path, "test_fraction": test_fraction}, problems)
    problems.raise_if_any()
    if path is not None and Path(path).is_file():
        tokens = _mapped(Path(path))
        held = [round(len(tokens) * fraction) for fraction in (val_fraction, test_fraction) if fraction is not None]
        parts = list(tokens.split([len(tokens) - sum(held), *held]))
    else:
        parts = [_joined(part) for part in _divided(files, val_fraction, test_fraction, split_seed)]
    where = path if path is not None else "the standard library"
    for name, part in zip(PART_NAMES.values(), parts, strict=False):
        if len(part) <= context:
            message = f"{context} is too long: the {name} part of {where} has {len(part)} bytes; give a shorter one, or more files"
            raise ConfigError([Problem("data.context", message)])
    train, *others = parts
    windows = [Windows(train, context, stride or context), *(Windows(part, context, context) for part in others)]
    return data_of_splits([Split(dataset=part) for part in windows], "classification", BYTES, (context,), unit="byte")


def check_bytes(arguments: Mapping[str, Any], problems: Problems, at: str = "data") -> list[Path]:
    """The files of a `path`, sorted, after adding to `problems` what is wrong with it.

    Example:
        >>> problems = Problems()
        >>> check_bytes({"path": "no_such_file"}, problems)
        []
        >>> print(*problems)
        data.path: there is no file or folder 'no_such_file'; give one, or null for the sources of Python's standard library
    """
    given = arguments.get("path")
    place = Path(sysconfig.get_path("stdlib") if given is None else given)
    if place.is_file():
        return [place]
    if not place.is_dir():
        fix = "give one, or null for the sources of Python's standard library"
        problems.add(join(at, "path"), f"there is no file or folder {str(given)!r}; {fix}")
        return []
    there = sorted(place.glob("*.py") if given is None else place.rglob("*"))
    shown = (file for file in there if not any(part.startswith(".") for part in file.relative_to(place).parts))
    found = [file for file in shown if file.is_file() and file.stat().st_size]
    needed = 2 if arguments.get("test_fraction") is None else 3
    if len(found) < needed:
        what = ("no file", "one file", "two files")[len(found)] + " with bytes in " + ("them" if len(found) == 2 else "it")
        needs = "two, of which one is held out" if needed == 2 else "three, a training, a validation and a test file"
        problems.add(join(at, "path"), f"{str(place)!r} has {what}; a folder needs {needs}; give the file itself")
    return found


def _divided(files: Sequence[Path], val_fraction: float, test_fraction: float | None, seed: int) -> list[list[Path]]:
    """The files of each part, in their order: about the fractions of the bytes, but one file at least."""
    order = [files[index] for index in keyed_permutation(len(files), seed, "data.split").tolist()]
    total = sum(file.stat().st_size for file in files)
    val = _held_out(order[: len(order) - (1 if test_fraction is None else 2)], total * val_fraction)
    held = [val]
    if test_fraction is not None:
        held.append(_held_out(order[: len(val) : -1], total * test_fraction))
    taken = {file for part in held for file in part}
    return [[file for file in files if file not in taken], *([file for file in files if file in part] for part in held)]


def _held_out(files: Sequence[Path], wanted: float) -> list[Path]:
    """The first files that together have so many bytes: one at least."""
    chosen: list[Path] = []
    for file in files:
        if chosen and wanted <= 0:
            break
        chosen.append(file)
        wanted -= file.stat().st_size
    return chosen


def _mapped(file: Path) -> Tensor:
    if not file.stat().st_size:
        return torch.empty(0, dtype=torch.uint8)
    with file.open("rb") as stream:
        return torch.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)


def _joined(files: Sequence[Path]) -> Tensor:
    return torch.frombuffer(bytearray(_BETWEEN.join(file.read_bytes() for file in files)), dtype=torch.uint8)
