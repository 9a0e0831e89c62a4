"""`modelfactory list`: what there is, a line each, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modelfactory.cli.main import main

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.mark.parametrize("group", ["init", "backbone", "activation", "experiment"])
def test_every_config_of_a_group_has_a_line_that_says_something(group: str, capsys: pytest.CaptureFixture[str]):
    assert main(["list", group]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in rows] == sorted(file.stem for file in (CONF / group).glob("*.yaml"))
    assert all(len(text) > 3 for _, text in rows)


def test_a_pattern_picks_by_a_glob_or_a_part_of_the_name(capsys: pytest.CaptureFixture[str]):
    assert main(["list", "backbone", "resnet1*"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == ["resnet101", "resnet152", "resnet18"] and out.count("; pretrained") == 3
    assert main(["list", "model", "deep"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["deep_cnn", "deep_mlp", "deep_residual"]


def test_a_projects_own_configs_are_listed_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# Mine alone\nlayers: {}\n")
    assert main(["list", "model", "mi*", "-cd", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "mine  Mine alone\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [(["inti"], "'inti' is not a group; did you mean 'init'?"), (["init", "kaimingg_normal"], "did you mean 'kaiming_normal'?")],
)
def test_what_is_not_there_is_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["list", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_module_is_the_console_script_and_lists_without_torch():
    code = "import sys, runpy; sys.argv[1:] = ['list', 'init', 'auto']; sys.modules['torch'] = None; "
    code += "runpy.run_module('modelfactory', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("auto  Scheme and gain of each layer")
    done = subprocess.run([sys.executable, "-m", "modelfactory", "lits"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "'lits' is not a command; did you mean 'list'?" in done.stderr
