"""Data of a project's own that makes trouble where the config says so; tests put this file's folder on the path."""

import os
import signal

from modelfactory.data import digits


def trouble(how: str = "none", once: str | None = None, note: str | None = None, transforms: None = None):
    """Digits, after what `how` says; only if the file `once`, which is then made, is not there yet."""
    if note is not None:
        with open(note, "a") as file:
            print(os.environ.get("CUDA_VISIBLE_DEVICES"), file=file)
    if once is not None:
        try:
            open(once, "x").close()  # for one of the processes side by side
        except FileExistsError:
            return digits()
    if how == "raise":
        raise OSError("the disk is on fire")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(0)
    if how == "memory":
        raise MemoryError("no room")
    return digits()
