"""Hydra's own application with a small config and a job that does nothing, in a folder with a module that is not trusted."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from modelfactory.cli.hydra_app import run_application
from modelfactory.config import target
from tests.contract.attacks import PAYLOAD

MINE = """
import logging
from os import system
from hydra.experimental.callback import Callback
class Thing(Callback):
    def __init__(self, **kwargs): self.given = kwargs
class Handler(logging.Handler):
    def __init__(self, **kwargs): super().__init__()
"""
SMALL = """
seed: 0
sweep: {isolate: false}
hydra:
  run: {dir: run}
  sweep: {dir: sweep, subdir: '${hydra.job.num}'}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder with a module that is not trusted, one that is, and links out of the run directories; logging as it was, afterwards."""
    for name in ("payload", "hubconf"):
        (tmp_path / f"{name}.py").write_text(PAYLOAD.format(marker=str(tmp_path / "ran")))
    (tmp_path / "trusted_here.py").write_text(MINE)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "small.yaml").write_text(SMALL)
    for folder in ("run", "sweep"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "out").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(target, "_TRUSTED", set())
    monkeypatch.setattr(target, "_TRUSTED_VARIABLES", set())
    monkeypatch.setenv("MODELFACTORY_TRUST", "trusted_here")
    monkeypatch.delenv("MODELFACTORY_TRUST_VARIABLES", raising=False)
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("PAYLOAD", "payload")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield tmp_path
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        handler.close()
    root.handlers[:], root.level = handlers, level
    for name in ("payload", "trusted_here", "hubconf"):
        sys.modules.pop(name, None)


def run(*words: str) -> list[Any]:
    """Runs Hydra's own application with a small config of ours, or the one that the words name; the configs that jobs got."""
    ran: list[Any] = []
    name = () if "-cn" in words else ("-cn", "small")
    run_application(ran.append, ["-cd", "own", *name, *words], lambda config: None)
    return ran


def everything(folder: Path) -> set[str]:
    """Every file and folder below, but for what imports and a sweeper's own record leave."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not {"__pycache__", "multirun.yaml"} & {*path.parts}}
