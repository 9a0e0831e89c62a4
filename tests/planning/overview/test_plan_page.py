"""What docs/plan.md shows is what the commands print, and the layout that it documents is that of --json."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

import modelfactory as mf
from modelfactory.cli import main as cli

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "plan.md").read_text()
COMMANDS = re.findall(r"```console\n\$ (.*?)\n(.*?)```", TEXT, re.DOTALL)


def page() -> Any:
    spec = importlib.util.spec_from_file_location("plan_page", ROOT / "docs" / "plan.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("command", "shown"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_the_page_shows_what_the_command_prints(command: str, shown: str):
    assert page().output(command) == shown, "run python docs/plan.py"


def test_the_documented_keys_are_those_of_the_json(capsys: pytest.CaptureFixture[str]):
    documented = {row[0]: re.findall(r"`(\w+)`", row[1]) for row in re.findall(r"^\| `(\w+)` \| (.*) \|$", TEXT, re.MULTILINE)}
    assert cli.main(["plan", "model=cnn", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(documented) == list(found)
    for name in ("layers", "rules", "signal"):
        assert set(found[name][0]) == set(documented[name])
    assert set(found["totals"]) == set(documented["totals"])
    assert set(found["parameters"][0]) == {*mf.Ledger([]).to_csv().strip().split(","), "names"}


def test_a_wrong_second_config_and_a_wrong_name_give_2(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["plan", "model=cnn", "--against", "model=cnn", "optimizer.lr=-1"]) == 2
    assert "--against optimizer.lr: -1 is too small" in capsys.readouterr().err
    assert cli.main(["explain", "hed.weight"]) == 2
    assert "did you mean 'head.weight'" in capsys.readouterr().err
    assert cli.main(["explain", "model=cnn"]) == 2
    assert "the name of a parameter comes first" in capsys.readouterr().err
    assert cli.main(["plan", "--jsn"]) == 2


@pytest.mark.parametrize("command", ["plan", "explain"])
def test_help_is_given_without_torch_and_with_examples(command: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main([command, "--help"]) == 0
    assert f"modelfactory {command}" in capsys.readouterr().out.split("examples")[1]
