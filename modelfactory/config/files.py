"""Files written whole or not at all: beside their place, then moved there, so that whoever reads finds the old or the new one."""

from __future__ import annotations

import os
import secrets
import stat
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
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(8)}{_TEMPORARY}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # made here: no link that somebody left is followed
        mode = temporary.stat().st_mode  # what the umask allows; safetensors makes files that only their owner can read
        write(temporary)
        temporary.chmod(mode)
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def read_text(path: Path, most_bytes: int = 64 * 2**20) -> str:
    """The text of a file that anybody may have written.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no plain file (a pipe would wait for ever), too large, cannot be opened, or is not UTF-8.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     read_text(Path(folder))
        Traceback (most recent call last):
        ValueError: it is no plain file
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no plain file")
        if about.st_size > most_bytes:
            raise ValueError(f"it has {about.st_size:,} bytes, more than {most_bytes:,}")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{error.strerror or error}") from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file whole or not at all."""
    write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files that a killed process left in `folder` and in its checkpoint folder."""
    for leftover in [*folder.glob(f".*{_TEMPORARY}"), *folder.glob(f"checkpoint/.*{_TEMPORARY}")]:
        leftover.unlink(missing_ok=True)
