"""Standard output that nobody may read, and standard streams that the process may have been started without."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def say(text: str) -> None:
    """Prints a line of a run that is done, which it is also where nobody reads it."""
    try:
        print(text, flush=True)
    except (OSError, ValueError):
        silence()


def silence() -> None:
    """Lets what is still to be printed go nowhere: what reads the output has read enough, such as `| head`, or is gone."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_streams() -> None:
    """Opens standard streams that the process was started without (`>&-`), whose numbers files would be given otherwise."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:  # os.open gives the lowest free number
                os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))
