"""Files written whole or not at all: beside their place, then moved there, so that whoever reads finds the old or the new one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TEMPORARY = ".tmp"


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


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed process left in the folder of a run, in its checkpoints and in its features."""
    for pattern in ("", "checkpoint/", "features/"):
        for leftover in folder.glob(f"{pattern}.*{_TEMPORARY}"):
            leftover.unlink(missing_ok=True)
