"""The parts of a group of jobs, each in a process of its own beside the others: one a core."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from modelfactory.sweeping.fork_server import die_with_parent, end_with, fork_quietly
from modelfactory.training.stopping import NUMBERS, Terminated

T = TypeVar("T")
POSSIBLE = sys.platform == "linux"
"""Whether a process that has imported torch can be forked."""


def parts_of(items: Sequence[T], count: int) -> list[Sequence[T]]:
    """Divide items into parts of almost equal length, in their order; none is empty.

    Example:
        >>> parts_of([0, 1, 2, 3, 4], 2), parts_of([0], 2)
        ([[0, 1, 2], [3, 4]], [[0]])
    """
    count = min(count, len(items))
    bounds = [-(-len(items) * index // count) for index in range(count + 1)]
    return [items[start:end] for start, end in zip(bounds[:-1], bounds[1:], strict=True)]


def in_processes(work: Callable[[T], int], parts: Sequence[T]) -> list[int]:
    """Have each part done by a fork of this process, which must have no threads that compute; returns their exit statuses.

    A signal that ends a run is passed on to them. This process ends as one of them did that was killed, when all have ended.

    Raises:
        Terminated: a signal came.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    children: list[int] = []
    with _passed_on(children) as (came, handlers):
        for part in parts:
            signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)  # one that comes now is heard by who is there then
            pid = fork_quietly()
            if pid == 0:
                die_with_parent()
                for number, handler in handlers.items():
                    signal.signal(number, handler)
            else:
                children.append(pid)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
            if pid == 0:
                end_with(lambda part=part: work(part))
        codes = [_ended(children) for _ in parts]
    if came:
        raise Terminated(came[0])
    killed = next((-code for code in codes if code < 0), None)
    if killed is not None:
        if killed != signal.SIGKILL:
            signal.signal(killed, signal.SIG_DFL)
        os.kill(os.getpid(), killed)
    return codes


def _ended(children: list[int]) -> int:
    """Waits for the first of the children, which is then none any more: its exit status, negative for a signal."""
    os.waitid(os.P_PID, children[0], os.WEXITED | os.WNOWAIT)
    pid = children.pop(0)  # from here on nobody sends it a signal, and its number is still its own
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def _passed_on(children: Sequence[int]) -> Iterator[tuple[list[int], dict[int, Any]]]:
    """Passes signals that end a run on to the children that have not ended; gives those that came, and the handlers of before."""
    came: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        came.append(number)
        for pid in children:
            os.kill(pid, number)

    kept = {number: signal.signal(number, pass_on) for number in NUMBERS if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield came, kept
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
