"""One job on one GPU at a time: which GPU a job gets."""

from __future__ import annotations

import contextlib
import getpass
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

WAIT_SECONDS = 0.2


def visible_gpus(num: int, visible: str | None) -> list[str]:
    """The first `num` GPUs as CUDA_VISIBLE_DEVICES names them, of those that it names already, if it does.

    Example:
        >>> visible_gpus(2, None), visible_gpus(2, "5,3,1")
        (['0', '1'], ['5', '3'])
    """
    names = [name.strip() for name in visible.split(",")] if visible else [str(index) for index in range(num)]
    return names[:num]


@contextlib.contextmanager
def held_gpu(number: int, gpus: list[str], folder: Path | None = None) -> Iterator[str]:
    """A GPU that no other job of this user on this machine holds meanwhile: that of the job's number, or the next free one.

    Args:
        number: the job's number in its sweep.
        folder: where the locks are; the system's temporary folder when None.

    Example:
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with held_gpu(3, ["0", "1"], Path(place)) as first, held_gpu(5, ["0", "1"], Path(place)) as second:
        ...         print(first, second)
        1 0
    """
    import fcntl

    place = Path(tempfile.gettempdir(), f"modelfactory-gpus-{getpass.getuser()}") if folder is None else folder
    place.mkdir(parents=True, exist_ok=True)
    turns = [gpus[(number + turn) % len(gpus)] for turn in range(len(gpus))]
    while True:
        for name in turns:
            descriptor = os.open(place / name.replace("/", "_"), os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
            except BlockingIOError:
                os.close(descriptor)
                continue
            try:
                yield name
            finally:
                os.close(descriptor)
            return
        time.sleep(WAIT_SECONDS)
