"""The parts of a group, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelfactory.sweeping.parts import POSSIBLE, parts_of

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="a process that has imported torch is forked on Linux alone")
PARENT = """
import os, signal, sys, time
from pathlib import Path
from modelfactory.sweeping.parts import in_processes
from modelfactory.training.stopping import Terminated

folder = Path(sys.argv[1])

def work(part):
    (folder / f"pid{part}").write_text(str(os.getpid()))
    exec(WHAT)
    return part

WHAT = sys.argv[2]
try:
    print(in_processes(work, [3, 4]), flush=True)
except Terminated as stop:
    sys.exit(stop.status)
"""


def start(folder: Path, what: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PARENT, str(folder), what], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def pids(folder: Path) -> list[int]:
    """Of the processes of both parts, when they have begun."""
    files = [folder / "pid3", folder / "pid4"]
    until = time.monotonic() + 60
    while not all(file.exists() and file.read_text() for file in files) and time.monotonic() < until:
        time.sleep(0.01)
    return [int(file.read_text()) for file in files]


@pytest.mark.parametrize(("length", "count"), [(1, 1), (1, 4), (5, 2), (7, 3), (64, 5)])
def test_parts_have_almost_equal_lengths(length, count):
    parts = parts_of(list(range(length)), count)
    assert [item for part in parts for item in part] == list(range(length))
    assert len(parts) == min(length, count) and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_each_part_has_a_process_and_a_status(tmp_path):
    out, err = start(tmp_path, "print('said', flush=True)").communicate(timeout=60)
    assert out.splitlines()[-1] == "[3, 4]" and out.count("said") == 2, err
    assert len(set(pids(tmp_path))) == 2


def test_an_error_in_one_is_its_status_and_the_other_goes_on(tmp_path):
    out, err = start(tmp_path, "if part == 3: raise RuntimeError('no')").communicate(timeout=60)
    assert out == "[1, 4]\n" and "RuntimeError: no" in err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_a_part_that_is_killed_ends_the_process_in_the_same_way_when_the_other_is_done(tmp_path, number):
    parent = start(tmp_path, f"os.kill(os.getpid(), {number}) if part == 3 else (time.sleep(.5), (folder / 'done').touch())")
    parent.communicate(timeout=60)
    assert parent.returncode == -number and (tmp_path / "done").exists()


def test_a_signal_that_ends_a_run_reaches_every_part(tmp_path):
    heard = "signal.signal(signal.SIGTERM, lambda *_, part=part: ((folder / f'heard{part}').touch(), os._exit(143)))"
    parent = start(tmp_path, f"{heard}; (folder / f'ready{{part}}').touch(); time.sleep(60)")
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("ready*"))) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    parent.terminate()
    parent.communicate(timeout=60)
    assert parent.returncode == 143 and len(list(tmp_path.glob("heard*"))) == 2


def test_no_part_outlives_the_process(tmp_path):
    parent = start(tmp_path, "time.sleep(60)")
    children = pids(tmp_path)
    parent.kill()
    parent.communicate(timeout=60)
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text() for pid in children):
        assert time.monotonic() < until
        time.sleep(0.01)
