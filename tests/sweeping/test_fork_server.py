"""The process that jobs are forked off has imported what they need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import importlib, json, os, sys
from modelfactory.sweeping.fork_server import PRELOAD
for name in PRELOAD:
    importlib.import_module(name)
before = set(sys.modules)
assert not {"matplotlib", "sklearn"} & before
from modelfactory.cli.train_job import train_job
for place, config in enumerate(json.loads(sys.stdin.read())):
    assert train_job(config, str(place)) == 0
print(json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux alone")
def test_a_job_imports_nothing_that_its_server_has_not(tmp_path: Path):
    import modelfactory as mf
    from modelfactory.config.compose import to_plain

    quick = ("trainer=debug", "trainer.device=cpu", "trainer.progress=none")
    jobs = [
        ("model=cnn", "optimizer=adam", "scheduler=cosine"),
        ("data=wine", "optimizer=sgd", "init=orthogonal"),
        ("data=fake", "init=auto"),
    ]
    configs = [{name: value for name, value in to_plain(mf.compose(*quick, *job)).items() if name != "sweep"} for job in jobs]
    done = subprocess.run([sys.executable, "-c", CHILD], input=json.dumps(configs), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
