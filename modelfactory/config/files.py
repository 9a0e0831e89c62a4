"""Files written whole or not at all: beside their place, then moved there, so that whoever reads finds the old or the new one."""

from __future__ import annotations

import os
import secrets
import stat
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
