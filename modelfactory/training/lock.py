"""One process at a time in the directory of a run or a sweep: a lock that the system releases however its owner ends."""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelfactory.config.errors import ConfigError, Problem
from modelfactory.training.status import read_result, who

try:
    import fcntl
except ImportError:  # no POSIX system: what result.json says has to do
    fcntl = None

log = logging.getLogger(__name__)
LOCK = ".lock"
_held: dict[str, int] = {}  # the folders that this process has, and how often
_guard = threading.Lock()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a directory while the block runs; within a block of this process that holds it, do nothing.

    The lock is one of records (`lockf`): it is released when its process ends, and is not inherited by the workers that it started,
    who may outlive it. Where the file system has no locks, the process of this machine that result.json names as running
    has the folder.

    Raises:
        ConfigError: another process has it, with the name of its owner.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     with locked(Path(name)):
        ...         inside = os.listdir(name)
        ...     inside, os.listdir(name)
        (['.lock'], [])
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = str(folder.resolve())
    with _guard:
        _held[place] = _held.get(place, 0) + 1
        is_ours = _held[place] > 1
    descriptor = None
    try:
        if not is_ours:
            descriptor = _acquire(folder)
        yield
    finally:
        with _guard:
            _held[place] -= 1
        if descriptor is not None:
            (folder / LOCK).unlink(missing_ok=True)
            os.close(descriptor)


def _acquire(folder: Path) -> int | None:
    """The open lock file; None where there are no locks."""
    while True:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        with contextlib.ExitStack() as unless_held:
            unless_held.callback(os.close, descriptor)
            if not _try_lock(descriptor, folder):
                return None
            if _is_at(descriptor, folder / LOCK):  # else its owner removed it just now
                os.truncate(descriptor, 0)
                os.write(descriptor, json.dumps(who() | {"user": _user()}).encode())
                unless_held.pop_all()
                return descriptor


def _try_lock(descriptor: int, folder: Path) -> bool:
    if fcntl is not None:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):
            raise _taken(folder, _read_owner(descriptor)) from None
        except OSError as error:
            log.info("%s has no locks: %s", folder, error)
    record, ours = read_result(folder) or {}, who()
    if record.get("status") == "running" and record.get("host") == ours["host"] and record.get("pid") != ours["pid"]:
        raise _taken(folder, record)
    return False


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _read_owner(descriptor: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:  # it has the lock and is about to write who it is
        return {}
    return owner if isinstance(owner, dict) else {}


def _taken(folder: Path, owner: dict[str, Any]) -> ConfigError:
    named = f"process {owner['pid']}" if "pid" in owner else "another process"
    named += f" of {owner['user']}" if owner.get("user") else ""
    named += f" on {owner['host']}" if owner.get("host") and owner["host"] != who()["host"] else ""
    return ConfigError([Problem("", f"{named} is at work in {folder}; wait for it, end it, or give another directory")])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user without a name, as in a container
        return str(os.getuid()) if hasattr(os, "getuid") else ""
