"""A function in a process of its own: however that ends, the caller is told and can go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from modelfactory.sweeping.gpus import held_gpu
from modelfactory.sweeping.process import Server, told_exit
from modelfactory.training.status import process_is_alive


def request(function: str, environment: dict[str, str] | None = None, **arguments):
    given = {"function": function, "arguments": arguments, "environment": os.environ | (environment or {}), "logging": None}
    return {**given, "cwd": str(Path.cwd()), "path": sys.path}


@pytest.mark.parametrize("fork", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_caller_is_told_how_a_process_ended(fork: bool, tmp_path: Path):
    calls = [("os._exit", {"status": 3}, 3), ("os.abort", {}, -signal.SIGABRT), ("modelfactory.nothing", {}, 1)]
    server = Server(fork)
    for function, arguments, status in calls:
        assert server.call(request(function, **arguments)) == status
        if not fork:  # it serves one
            server.close()
            server = Server(fork)
    script = f"import os; open({str(tmp_path / 'told')!r}, 'w').write(os.environ['COLOUR'])"
    assert server.call(request("runpy.run_path", {"COLOUR": "blue"}, path_name=_script(tmp_path, script))) in (1, 0)
    assert (tmp_path / "told").read_text() == "blue" and "COLOUR" not in os.environ
    server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux alone")
def test_the_caller_of_a_server_that_is_killed_goes_on_when_its_job_is_gone(tmp_path: Path):
    server, told = Server(), tmp_path / "told"
    # it takes as long to die as a process with much memory may
    text = f"import ctypes, os, time; ctypes.CDLL(None).prctl(1, 0); os.replace(__file__, {str(told)!r}); time.sleep(1); os._exit(0)"
    asked = request("runpy.run_path", path_name=_script(tmp_path, text))

    def kill() -> None:
        while not told.exists():
            time.sleep(0.01)
        os.kill(server._process.pid, signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    assert server.call(asked) == -signal.SIGKILL
    assert server._job is not None and not process_is_alive(server._job)
    killing.join(10)


def _script(folder: Path, text: str) -> str:
    (folder / "script.py").write_text(text)
    return str(folder / "script.py")


def test_an_exit_status_is_told_in_words():
    assert told_exit(0) == "its process ended with status 0"
    assert told_exit(-15) == "its process was killed by SIGTERM"
    assert told_exit(-200) == "its process was killed by signal 200"


def test_a_job_waits_for_a_gpu_and_takes_the_first_that_is_free(tmp_path: Path):
    taken: list[str] = []

    def take() -> None:
        with held_gpu(1, ["a", "b"], tmp_path) as gpu:
            taken.append(gpu)

    waiting = threading.Thread(target=take)
    with held_gpu(0, ["a", "b"], tmp_path) as first:
        with held_gpu(2, ["a", "b"], tmp_path) as second:
            assert (first, second) == ("a", "b")
            waiting.start()
            time.sleep(0.1)
            assert taken == []
        waiting.join(10)
        assert taken == ["b"]
