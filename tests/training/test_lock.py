"""One process at a time in a directory, and the lock of one that died is free."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

import modelfactory as mf
from modelfactory.cli.train_job import train_job
from modelfactory.config.errors import ConfigError
from modelfactory.training import lock
from modelfactory.training.lock import LOCK, locked
from modelfactory.training.status import RESULT

CONFIG = {
    "data": {"_target_": "modelfactory.data.wine", "input_shape": [13], "num_classes": 3, "batch_size": 64},
    "model": {"layers": {"head": {"_target_": "torch.nn.Linear", "out_features": 3}}},
    "trainer": {"max_epochs": 1, "device": "cpu", "progress": "none", "signal": "none"},
}
HOLD = """
import sys, time
from pathlib import Path
from modelfactory.training.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def owner(tmp_path):
    """A process that has the lock of tmp_path, until a line is written to it."""
    held = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with held:
        assert held.stdout is not None and held.stdout.readline() == "held\n"
        yield held
        held.kill()


def test_the_owner_of_a_directory_is_named_and_nothing_of_it_is_touched(owner, tmp_path):
    before = {"status": "running", "host": os.uname().nodename, "pid": owner.pid}
    (tmp_path / RESULT).write_text(json.dumps(before))
    with pytest.raises(ConfigError, match=f"process {owner.pid} of .+ is at work in {tmp_path}; wait for it, end it, or give"):
        mf.train(CONFIG, run_dir=tmp_path)
    assert train_job(CONFIG, str(tmp_path)) == 1
    assert json.loads((tmp_path / RESULT).read_text()) == before
    assert sorted(os.listdir(tmp_path)) == [LOCK, RESULT]


def test_the_lock_of_a_process_that_was_killed_is_free(owner, tmp_path):
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert (tmp_path / LOCK).exists()
    assert mf.train(CONFIG, run_dir=tmp_path).status == "completed"
    assert not (tmp_path / LOCK).exists()


def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(tmp_path):
    code = HOLD.replace("sys.stdin.readline()", "import os\n    if os.fork() == 0: time.sleep(60)\n    os.kill(os.getpid(), 9)")
    code = code.replace('print("held", flush=True)', "")
    parent = subprocess.Popen([sys.executable, "-c", code, tmp_path], start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        parent.wait()
        with locked(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    finally:
        os.killpg(parent.pid, signal.SIGKILL)


def test_within_its_own_block_a_process_has_the_lock_already(tmp_path):
    with locked(tmp_path), locked(tmp_path / "." / ""):
        pass
    assert not (tmp_path / LOCK).exists()


def test_a_link_that_somebody_left_is_not_followed(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "mine.txt")
    with pytest.raises(OSError, match=LOCK), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_where_there_are_no_locks_the_record_says_who_has_the_directory(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    mf.train(CONFIG, run_dir=tmp_path)
    record = json.loads((tmp_path / RESULT).read_text())
    (tmp_path / RESULT).write_text(json.dumps(record | {"status": "running", "pid": os.getppid()}))
    with pytest.raises(ConfigError, match=f"process {os.getppid()} is at work in {tmp_path}"):
        mf.train(CONFIG, run_dir=tmp_path)
