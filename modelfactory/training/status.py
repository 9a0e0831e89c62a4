"""How far a run is, as its result.json tells it from its first moment on, and whether who wrote that is still alive.

Nothing here needs torch, so that whoever watches over runs, or lists them, is quick.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelfactory.config.errors import RankFailed, TrainingError
from modelfactory.config.files import read_text, write_text

RESULT = "result.json"
CHECKPOINT = Path("checkpoint", "last.safetensors")
# what a run writes beside its result.json, and clears in this order where it begins anew in a folder that was used
RUN_FILES = (
    *(CHECKPOINT, "config.yaml", "ledger.csv", "metrics.csv", "model.safetensors", "error.txt"),
    *("signal.csv", "signal.png", "signal_histograms.png"),
)
# mappings whose order means something: layers run in it, and a later rule or group wins
_ORDERED = ("layers", "rules", "groups", "train", "val")
STATUSES = ("pending", "running", "completed", "diverged", "failed", "killed", "out_of_memory")
BEAT_SECONDS = 10.0  # between two signs of life; a process that gave none for STALE_SECONDS is taken for dead
STALE_SECONDS = 120.0


def config_hash(config: Any) -> str:
    """16 hex digits of the SHA-256 of the config as JSON with sorted keys.

    The order of layers, of rules and of groups counts, as it does in what they mean; a `trainer.resume` of null does not.

    Example:
        >>> config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
        True
        >>> config_hash({"layers": {"a": 1, "b": 2}}) == config_hash({"layers": {"b": 2, "a": 1}})
        False
    """
    trainer = config.get("trainer") if isinstance(config, Mapping) else None
    if isinstance(trainer, Mapping) and "resume" in trainer and trainer["resume"] is None:
        config = {**config, "trainer": {name: value for name, value in trainer.items() if name != "resume"}}
    return hashlib.sha256(json.dumps(_with_order(config), sort_keys=True).encode()).hexdigest()[:16]


def _with_order(value: Any, name: object = None) -> Any:
    """The value with lists of pairs in place of mappings whose order means something."""
    if isinstance(value, Mapping):
        items = {str(key): _with_order(item, key) for key, item in value.items()}
        return [list(pair) for pair in items.items()] if is_ordered(name) else items
    return [_with_order(item) for item in value] if isinstance(value, (list, tuple)) else value


def is_ordered(name: object) -> bool:
    """Whether the order of the keys of a mapping of this name means something.

    Example:
        >>> is_ordered("layers"), is_ordered("optimizer")
        (True, False)
    """
    return name in _ORDERED


def recorded(config: Any) -> Any:
    """The config as a run records it: without where it was resumed from, so that a run that was stopped leaves what one leaves
    that was not.

    Example:
        >>> recorded({"seed": 0, "trainer": {"max_epochs": 2, "resume": "runs/a"}})
        {'seed': 0, 'trainer': {'max_epochs': 2, 'resume': None}}
    """
    trainer = config.get("trainer") if isinstance(config, Mapping) else None
    if not isinstance(trainer, Mapping) or trainer.get("resume") is None:
        return config
    return {**config, "trainer": {**trainer, "resume": None}}


def who() -> dict[str, Any]:
    """The process that writes, as a result.json names it: host and pid."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def status_of(error: BaseException) -> str:
    """What a run that `error` ended is called.

    Example:
        >>> status_of(MemoryError()), status_of(KeyboardInterrupt()), status_of(OSError("the disk is full"))
        ('out_of_memory', 'killed', 'failed')
    """
    if isinstance(error, RankFailed):
        return error.status
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return "out_of_memory"  # torch's own class is of the device, and on the CPU there is the message alone
    if isinstance(error, TrainingError):
        return "diverged"
    return "killed" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "failed"


def told(error: BaseException) -> str:
    """An error as a record keeps it.

    Example:
        >>> told(OSError("the disk is full")), told(KeyboardInterrupt())
        ('OSError: the disk is full', 'interrupted')
    """
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result.json of a run's folder, None where there is none; a run whose process is gone is told as killed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(f"{folder}/result.json", '{"status": "running", "host": "nowhere", "pid": 1}')
        ...     os.utime(f"{folder}/result.json", (0, 0))
        ...     read_result(Path(folder))["status"]
        'killed'
    """
    try:
        record = json.loads(read_text(folder / RESULT))
        beat = (folder / RESULT).stat().st_mtime
        if not isinstance(record, dict) or record.get("status") not in STATUSES:
            raise ValueError("it has no status of a run")
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        return {"status": "failed", "error": f"{RESULT} cannot be read: {error}"}
    if record["status"] == "running" and not is_alive(record, beat):
        place = f"process {record.get('pid')} on {record.get('host')}"
        record |= {"status": "killed", "error": f"killed while running: {place} is gone"}
    return record


def is_alive(record: Mapping[str, Any], beat: float) -> bool:
    """Whether the process that wrote `record`, last renewed at `beat`, lives: by signs of life and, on this host, by its number."""
    if not isinstance(record.get("pid"), int) or time.time() - beat > STALE_SECONDS:
        return False
    return record.get("host") != socket.gethostname() or process_is_alive(record["pid"])


def process_is_alive(pid: int) -> bool:
    """Whether there is a process of this number on this machine that has not ended.

    Example:
        >>> process_is_alive(os.getpid())
        True
    """
    if os.name == "nt":  # there, os.kill ends the process whatever the signal
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # no Linux, or it ended just now
        return os.name == "posix" and not Path("/proc/self/stat").exists()
    return stat.rpartition(")")[2].split()[0] != "Z"  # one that ended, of which nobody took note


def end_record(folder: Path, status: str, error: str) -> None:
    """Closes the result.json of a run that ended before it did so itself; one that is closed, or of another process that lives, stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     end_record(Path(folder), "killed", "its process was killed by SIGKILL")
        ...     end_record(Path(folder), "failed", "too late")
        ...     read_result(Path(folder))["status"]
        'killed'
    """
    file = folder / RESULT
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # nothing there, or nothing that says how it ended
        record = {"status": "running"} | who()
    if not isinstance(record, dict) or record.get("status") != "running":
        return
    if record.get("pid") == os.getpid() or not is_alive(record, file.stat().st_mtime):
        write_text(file, json.dumps(record | {"status": status, "error": error}, indent=2) + "\n")


def reopen_record(folder: Path) -> None:
    """Says in the result.json of a run that ended that this process runs it again.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     end_record(Path(folder), "killed", "interrupted")
        ...     reopen_record(Path(folder))
        ...     read_result(Path(folder))["status"]
        'running'
    """
    record = read_result(folder) or {}
    write_text(folder / RESULT, json.dumps(record | {"status": "running", "error": None} | who(), indent=2) + "\n")


def clear_run(folder: Path) -> None:
    """Remove what an older run left in a folder in which one begins anew, all but result.json.

    The checkpoint goes first: whoever finds one finds no less than what it was saved with.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(f"{folder}/metrics.csv", "epoch")
        ...     write_text(f"{folder}/notes.txt", "mine")
        ...     clear_run(Path(folder))
        ...     os.listdir(folder)
        ['notes.txt']
    """
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)
    if (folder / CHECKPOINT.parent).is_dir() and not any((folder / CHECKPOINT.parent).iterdir()):
        (folder / CHECKPOINT.parent).rmdir()


class Heartbeat:
    """Renews the time of a file, such as a result.json, while the block runs, whatever the process is busy with."""

    def __init__(self, file: Path):
        self._file, self._over = file, threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            if self._file.exists():
                os.utime(self._file)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()
