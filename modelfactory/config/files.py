"""Files written whole or not at all: beside their place, then moved there, so that whoever reads finds the old or the new one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TEMPORARY = ".tmp"
_LONGEST_NAME = 255
_LONGEST_PATH = 4096 - 64  # with room for the names of the files in it


def write_atomic(path: str | os.PathLike[str], write: Callable[[Path], Any]) -> None:
    """Calls `write` with a temporary path in the same folder, then moves that file to `path`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomic(Path(folder, "a.txt"), lambda file: file.write_text("whole"))
        ...     sorted(os.listdir(folder))
        ['a.txt']
    """
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}{_TEMPORARY}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask allows; safetensors makes files that only their owner can read
        write(temporary)
        temporary.chmod(mode)
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file whole or not at all."""
    write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


def name_problem(path: str | os.PathLike[str]) -> str | None:
    """What of a path no file system takes; None where nothing is known to be wrong.

    Example:
        >>> name_problem("runs/a"), name_problem("runs/" + "a" * 300)
        (None, 'has a name of 300 bytes, aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa..., and file systems take 255')
    """
    for part in Path(path).parts:
        if len(os.fsencode(part)) > _LONGEST_NAME:
            return f"has a name of {len(os.fsencode(part))} bytes, {part[:40]}..., and file systems take {_LONGEST_NAME}"
    length = len(os.fsencode(os.path.abspath(path)))
    return f"has a path of {length} bytes, and file systems take {_LONGEST_PATH}" if length > _LONGEST_PATH else None


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed process left in the folder of a run, in its checkpoints and in its features."""
    for pattern in ("", "checkpoint/", "features/"):
        for leftover in folder.glob(f"{pattern}.*{_TEMPORARY}"):
            leftover.unlink(missing_ok=True)
