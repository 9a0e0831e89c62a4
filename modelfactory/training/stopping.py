"""A signal that ends a run: SIGTERM, or SIGHUP when the terminal is closed. Within a training it waits until the step is done and saved.

Nothing here needs torch, so that the command line handles signals before anything is imported.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelfactory.training.distributed import World

NUMBERS = tuple(number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None)
_IMPATIENT_SECONDS = 5.0
_waiting: list[Stop] = []  # the trainings of the main thread that run, innermost last


class Terminated(KeyboardInterrupt, SystemExit):
    """A signal ended the run; where nobody catches this, the process ends with 128 plus its number, without a traceback.

    Example:
        >>> error = Terminated(15)
        >>> str(error), error.status
        ('interrupted by SIGTERM', 143)
    """

    def __init__(self, number: int, saved: str = ""):
        super().__init__(f"interrupted by {signal.Signals(number).name}{saved and f': {saved}'}")
        self.code = self.status = 128 + number  # the first is what Python ends with


class Stop:
    """Whether a signal asked a training to end, in one of its processes.

    Example:
        >>> stop = Stop()
        >>> stop.ask(15)
        >>> stop.asked(1), stop.agreed
        (True, 15)

    Attributes:
        agreed: the signal after which all processes end; 0 where there was none.
    """

    def __init__(self, world: World | None = None, every: int = 1):
        """Take the processes that end together, and after how many steps they tell each other."""
        self.agreed, self._number, self._since = 0, 0, 0.0
        self._world, self._every = world, every

    def ask(self, number: int) -> None:
        """Take a signal; one that comes again after seconds ends the process at once.

        A launcher sends it to a process and its parent forwards it, so that two at a time are one.
        """
        if self._number and time.monotonic() - self._since > _IMPATIENT_SECONDS:
            raise Terminated(number)
        if not self._number:
            self._number, self._since = number, time.monotonic()

    def asked(self, step: int) -> bool:
        """Whether to end after this step, in every process after the same one."""
        if self._world is None or self._world.size == 1:
            self.agreed = self._number
        elif not step % self._every:
            counts = self._world.sum_numbers(*(self._number == number for number in NUMBERS))
            self.agreed = next((number for number, count in zip(NUMBERS, counts, strict=True) if count), 0)
        return self.agreed > 0

    def raise_if_late(self) -> None:
        """Raise for a signal that came when there was no step to wait for any more."""
        if self._number and not self.agreed:
            raise Terminated(self._number)


def terminate(number: int, _frame: Any) -> None:
    """Handle a signal: have the training that runs end after its step, or end the process as Ctrl-C does."""
    if not _waiting:
        raise Terminated(number)
    for training in list(_waiting):  # one in another, or several that are trained together
        training.ask(number)


@contextmanager
def signals_handled(only_unhandled: bool = False) -> Iterator[None]:
    """Handle the signals that end a run by `terminate`, in the main thread; those that are ignored, as `nohup` sets, stay so.

    Args:
        only_unhandled: leave those to which somebody else listens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in NUMBERS}
    heard = [n for n, its in handlers.items() if its is signal.SIG_DFL or (its is not signal.SIG_IGN and not only_unhandled)]
    kept = {number: signal.signal(number, terminate) for number in heard}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextmanager
def stoppable(world: World, every: int) -> Iterator[Stop]:
    """Have signals wait for the training in the block, which looks at the `Stop` after each step; one that came too late ends it then.

    Args:
        every: after how many steps the processes of `world` tell each other.

    Raises:
        Terminated: a signal came, and the block did not look at it any more.
    """
    stop = Stop(world, every)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    with signals_handled(only_unhandled=True):
        _waiting.append(stop)
        try:
            yield stop
        finally:
            _waiting.remove(stop)
        stop.raise_if_late()
