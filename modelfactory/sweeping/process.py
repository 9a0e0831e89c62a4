"""Calling a function in a process of its own, so that however it ends, the caller goes on and is told."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelfactory.sweeping.fork_server import GRACE_SECONDS
from modelfactory.training.status import process_is_alive

POSSIBLE = os.name == "posix"
_FORKS = sys.platform == "linux"  # elsewhere a fork of a process with this many libraries is not safe, and each job gets a new one
# it ends without the second that Python takes to take apart what it imported
_BOOT = """import os, sys, json
sys.path[:] = json.loads(sys.argv[1])
from modelfactory.sweeping.fork_server import serve
serve({}, {}, {})
os._exit(0)"""


class Server:
    """The other end of `modelfactory.sweeping.fork_server`: a process ready to run a job, which may die."""

    def __init__(self, fork: bool = _FORKS):
        requests, self._ask = os.pipe()
        answer, answers = os.pipe()
        self._answers = open(answer, "rb", buffering=0)
        self._job: int | None = None  # the process that it forked last
        code = _BOOT.format(requests, answers, fork)
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(sys.path)],
            pass_fds=(requests, answers),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the caller
        )
        self.fork = fork
        atexit.register(self.close)
        os.close(requests)
        os.close(answers)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def call(self, request: Mapping[str, Any]) -> int:
        """Has the request done and waits until the process that did it is gone; its exit status, negative for a signal."""
        line = json.dumps(request).encode() + b"\n"
        try:
            with contextlib.suppress(BrokenPipeError):  # it died: the answer says how
                while line:
                    line = line[os.write(self._ask, line) :]
            self._job = self._number()
            status = self._number() if self._job is not None else None
            return self._ended() if status is None else status
        except BaseException:  # interrupted: the job ends with the server
            self.close()
            raise

    def _number(self) -> int | None:
        """What the server says next; None: it has ended."""
        line = self._answers.readline()
        return int(line) if line.endswith(b"\n") else None

    def _ended(self) -> int:
        """The exit status of the server, once it and the job that the kernel ends with it are gone."""
        status, until = self._process.wait(), time.monotonic() + GRACE_SECONDS
        while self._job is not None and process_is_alive(self._job) and time.monotonic() < until:
            time.sleep(0.01)
        return status

    def close(self) -> None:
        """Ends the server, and a job that it runs."""
        atexit.unregister(self.close)
        for close in (lambda: os.close(self._ask), self._answers.close):
            with contextlib.suppress(OSError):
                close()
        try:
            self._process.wait(GRACE_SECONDS + 5)  # it lets its job save the step that it is at
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._ended()


_server: Server | None = None


def start_server() -> None:
    """Starts this process's server, if it has none: what it imports is imported while the caller does something else.

    It stays for the next sweep of this process, and ends with it.
    """
    global _server
    if POSSIBLE and (_server is None or not _server.alive):
        _server = Server()


def call_isolated(
    function: str,
    arguments: Mapping[str, Any],
    environment: Mapping[str, str],
    cwd: str,
    logging: Mapping[str, Any] | None = None,
) -> int:
    """Calls a function in a process of its own; returns its exit status, negative for the signal that killed it.

    Args:
        function: its full name, such as "modelfactory.cli.train_job.train_job"; what it returns is the exit status.
        arguments: keyword arguments that JSON can hold.
        environment: all of the process's environment variables.
        cwd: the folder that it is in.
        logging: arguments of modelfactory.config.log_config.configure_logging; None: logging stays as it is.

    Example:
        >>> call_isolated("os._exit", {"status": 3}, {}, "/"), call_isolated("os.abort", {}, {}, "/") == -signal.SIGABRT
        (3, True)
    """
    global _server
    start_server()
    server = _server
    if server is None:
        raise RuntimeError("jobs cannot have a process of their own on this system")
    request = {"function": function, "arguments": arguments, "environment": dict(environment), "logging": logging}
    if not server.fork:  # it serves one job; the next one's starts beside it
        _server = Server()
    return server.call({**request, "cwd": cwd, "path": sys.path})


def told_exit(code: int) -> str:
    """An exit status in words.

    Example:
        >>> told_exit(3), told_exit(-9)
        ('its process ended with status 3', 'its process was killed by SIGKILL')
    """
    if code >= 0:
        return f"its process ended with status {code}"
    try:
        return f"its process was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"its process was killed by signal {-code}"


def num_oom_kills() -> int:
    """How many processes the kernel killed for lack of memory, in this control group and on this machine, where it tells."""
    total = 0
    for file, key in (("/sys/fs/cgroup/memory.events", "oom_kill"), ("/proc/vmstat", "oom_kill")):
        with contextlib.suppress(OSError):
            for line in Path(file).read_text().splitlines():
                name, _, value = line.partition(" ")
                total += int(value) if name == key else 0
    return total
