"""A run that is killed at any of its file operations leaves each file old or new, and is resumed as if it had not been killed.

The first process counts the operations; then one is killed at each of them (at every 15th, without `slow`), and another
resumes what it left. All are forks of one process that has imported what they need.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelfactory.model.weights.tensor_file import read_tensors

STEP = 15
# What the forks do: trains into a folder, and is killed at the n-th operation there, in the folder named by `where`.
RUNS = '''
import json, os, signal, sys, traceback
import torch
torch.set_num_threads(1)
import logging
import modelfactory as mf
logging.disable(logging.CRITICAL)
from modelfactory.cli.train_job import train_job
from modelfactory.config.compose import to_plain

words = ["model.width=4", "trainer.device=cpu", "trainer.progress=none", "trainer.signal=table", "trainer.limit_batches=2",
         "optimizer=sgd", "scheduler=step", "scheduler.step_size=1", "scheduler.gamma=0.01", "trainer.max_epochs=3",
         "+freeze.rules.body={before: head}", "trainer.cache_features=disk", "trainer.save.every.steps=1", "trainer.save.keep.epochs=2"]
CONFIG = to_plain(mf.compose(*words))
CONFIG.pop("sweep")
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "shutil.copyfile"}
count = 0

def watch(folder, kill_at):
    def hook(event, arguments):
        global count
        if event in EVENTS and any(isinstance(a, (str, os.PathLike)) and str(a).startswith(folder) for a in arguments[:2]):
            if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def fork(folder, kill_at):
    """The end of a process that runs the job, and how many operations it made."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            watch(folder, kill_at)
            code = train_job(CONFIG, folder)
            os.write(write, str(count).encode())
        except BaseException:
            traceback.print_exc()
            code = 9
        os._exit(code)
    os.close(write)
    _, status = os.waitpid(pid, 0)
    told = os.read(read, 100)
    os.close(read)
    return os.waitstatus_to_exitcode(status), int(told or 0)

root, step = sys.argv[1], int(sys.argv[2])
code, total = fork(f"{root}/straight", 0)
print(json.dumps([code, total]), flush=True)
for number in range(1 if step == 1 else 3, total + 1, step):
    print(json.dumps([number, fork(f"{root}/{number}", number)[0]]), flush=True)
'''
AGAIN = "\nfor line in sys.stdin:\n    print(json.dumps(fork(line.strip(), 0)[0]), flush=True)\n"


def contents(folder: Path) -> dict[str, object]:
    """Every file of a run, without times and the process."""
    found: dict[str, object] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = str(file.relative_to(folder)), file.read_bytes()
        if name == "result.json":
            found[name] = {key: value for key, value in json.loads(content).items() if key not in ("seconds", "started", "host", "pid")}
        elif name == "metrics.csv":
            found[name] = [row.rpartition(",")[0] for row in content.decode().splitlines()]
        else:
            found[name] = content
    return found


def check_whole(folder: Path) -> None:
    """Each file that is there can be read to its end, whatever moment it is of."""
    for file in folder.rglob("*"):
        if file.name.endswith(".safetensors"):
            read_tensors(file)
        elif file.name.endswith(".json"):
            assert json.loads(file.read_text())["status"] in ("running", "completed", "killed")
        elif file.name.endswith(".csv") and not file.name.startswith("."):
            rows = list(csv.reader(file.read_text().splitlines()))
            assert rows and len({len(row) for row in rows}) == 1
        elif file.name.endswith(".yaml"):
            assert file.read_text().endswith("\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("step", [STEP, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_a_file_operation_leaves_old_or_new_files_and_a_run_that_is_resumed_to_the_same_bytes(tmp_path: Path, step: int):
    command = [sys.executable, "-W", "ignore", "-c", RUNS + AGAIN, str(tmp_path), str(step)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        lines = (line for line in process.stdout if line[:1] in "[0123456789")
        code, total = json.loads(next(lines))
        assert code == 0 and total > 40
        expected = contents(tmp_path / "straight")
        for number in range(1 if step == 1 else 3, total + 1, step):
            assert json.loads(next(lines)) == [number, -signal.SIGKILL]
            folder = tmp_path / str(number)
            check_whole(folder)
        for number in range(1 if step == 1 else 3, total + 1, step):
            folder = tmp_path / str(number)
            process.stdin.write(f"{folder}\n")
            process.stdin.flush()
            assert json.loads(next(lines)) == 0
            found = contents(folder)
            assert found.keys() == expected.keys(), number
            assert [name for name in found if found[name] != expected[name]] == [], number
        process.stdin.close()
