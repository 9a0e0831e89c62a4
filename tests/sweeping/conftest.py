"""Running sweeps: in this process with `sweep`, as a user does with `start`."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from modelfactory.cli import main as cli

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
QUICK = ("trainer=debug", "trainer.progress=none", "model.width=8", "hydra.sweep.dir=sweep")
TROUBLE = ("data._target_=trouble.trouble", "~data.val_fraction", "~data.split_seed")


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs `train -m ARGUMENTS` in a folder of its own; the exit status and what was written to stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("MODELFACTORY_TRUST", "trouble")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def run(*arguments: str):
        capsys.readouterr()
        status = cli.train(["-m", *arguments])
        for handler in [handler for handler in root.handlers if handler not in handlers]:
            root.removeHandler(handler)
            handler.close()
        out, err = capsys.readouterr()
        return status, out, err

    yield run
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def start(tmp_path: Path):
    """Starts `python train.py ARGUMENTS` in a folder of its own; whatever runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []
    path = os.pathsep.join([str(ROOT), str(HERE)])
    ours = {"PYTHONPATH": path, "MODELFACTORY_TRUST": "trouble"}

    def run(*arguments: str) -> subprocess.Popen[str]:
        variables = {"PYTHONWARNINGS": "error", **os.environ, **ours}
        words = [sys.executable, str(ROOT / "train.py"), *arguments]
        started.append(subprocess.Popen(words, cwd=tmp_path, env=variables, text=True, stdout=PIPE, stderr=PIPE))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def results(root: Path) -> dict[int, dict]:
    """The result.json of each job that has one, by the name of its folder."""
    files = {int(file.parent.name): file for file in root.glob("*/result.json")}
    return {number: json.loads(files[number].read_text()) for number in sorted(files)}
