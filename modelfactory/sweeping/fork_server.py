"""A process that has imported what the jobs need and forks one child for each: the end of one child harms no other.

It computes nothing itself, so that a child finds neither threads nor a device that another process began to use.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import pkgutil
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from modelfactory.config.log_config import configure_logging
from modelfactory.training.stopping import NUMBERS, Terminated

PRELOAD = (
    *("modelfactory.cli.train_job", "modelfactory.data.digits", "modelfactory.data.synthetic", "modelfactory.data.tabular"),
    *("numpy.random", "colorsys", "torch.utils._device"),
    "torch.fx.experimental.symbolic_shapes",  # with sympy, by which torch checks shapes of a convolution or a pooling without numbers
)
"""What jobs import, so that none has to: sympy takes longer than the training of a small model."""

GRACE_SECONDS = 20.0  # between asking a job to end and killing it


def serve(requests: int, answers: int, fork: bool) -> None:
    """Does what is asked for through the pipe `requests`, a line of JSON each, until that is closed.

    Answers with two lines of JSON: the number of the child, and when it has ended its exit status, negative for the signal that
    killed it. Without `fork` one request is done in this process itself, and its end is the answer.
    """
    ours = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *NUMBERS)}  # who asks decides what becomes of a job
    for name in PRELOAD:
        importlib.import_module(name)
    child_ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    with os.fdopen(requests, "rb", buffering=0) as source:
        while line := source.readline():
            request = json.loads(line)
            pid = fork_quietly() if fork else 0
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for descriptor in (child_ended, wake, answers, *((requests,) if fork else ())):
                    os.close(descriptor)
                _be_the_job(request, ours, None if fork else requests)
            _tell(answers, pid)
            status = _wait(pid, requests, child_ended)
            if status is None:
                return
            _tell(answers, status)


def _tell(answers: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # whoever asked is gone, which `requests` says too
        os.write(answers, json.dumps(number).encode() + b"\n")


def fork_quietly() -> int:
    """Fork this process, as `os.fork`."""
    with warnings.catch_warnings():  # from Python 3.12 on, for BLAS's idle threads, which do survive a fork
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _wait(pid: int, requests: int, child_ended: int) -> int | None:
    """The child's exit status; kills it and gives None when whoever asked is gone."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        ready, _, _ = select.select([requests, child_ended], [], [])
        if child_ended in ready:
            os.read(child_ended, 1024)
        if requests in ready:  # nobody asks for two jobs at once: the pipe was closed
            _end(pid)
            return None


def _end(pid: int) -> None:
    """Ends a job, which may save the step that it is at, with the processes that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until, done = time.monotonic() + GRACE_SECONDS, 0
    while not done and time.monotonic() < until:
        done, _ = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)
    if done:  # its number may be another's by now, that of its group only while a process is left in it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        return
    _kill_group(pid)
    os.waitpid(pid, 0)


def _kill_group(pid: int) -> None:
    """Ends a job with the processes that it started."""
    for end in (os.killpg, os.kill):
        try:
            end(pid, signal.SIGKILL)
        except ProcessLookupError:  # it had no time to become a group, or is gone
            continue


def _be_the_job(request: Mapping[str, Any], handlers: Mapping[Any, Any], asked_by: int | None) -> None:
    """Runs the request's function in this process and ends it."""

    def work() -> int:
        if asked_by is None:
            os.setpgid(0, 0)
            die_with_parent()
        for number, handler in {**handlers, signal.SIGCHLD: signal.SIG_DFL}.items():
            signal.signal(number, handler)
        if asked_by is not None:  # this is the server itself
            _die_with_pipe(asked_by)
        sys.path[:] = request["path"]
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        if request["logging"] is not None:
            configure_logging(**request["logging"])
        return pkgutil.resolve_name(request["function"])(**request["arguments"])

    end_with(work)


def end_with(work: Callable[[], int]) -> NoReturn:
    """Do a piece of work and end this process with the status that it returns."""
    code = 1
    try:
        code = work()
    except Terminated as stop:
        code = stop.status
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # one that there is not, or that nobody reads
                stream.flush()
        os._exit(code)


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent is gone, which otherwise nobody would notice."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _die_with_pipe(descriptor: int) -> None:
    """Ends this process when the pipe is closed at its other end."""
    import threading

    def watch() -> None:
        os.read(descriptor, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
