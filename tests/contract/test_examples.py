"""Every example runs, as does the project that `modelfactory new` writes, also with the console script."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import modelfactory as mf
from modelfactory.cli.main import main
from modelfactory.config import beside

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PROJECT = ("data=spirals", "data.num_points=100", "model=fourier_net", "init=log_uniform")
QUICK = ("trainer.max_epochs=1", "trainer.device=cpu", "trainer.progress=none", "trainer.signal=none")
LOOPS = {"plain_loop": (), "lightning": ("lightning",), "hf_trainer": ("transformers", "accelerate")}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(beside, "_folders", [])


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.filterwarnings("ignore::Warning")  # those of other libraries about themselves
def test_a_loop_of_another_library_trains_a_model_of_a_config(name: str):
    for library in LOOPS[name]:
        pytest.importorskip(library, reason=f"the example is of {library}, which is not installed")
    train = runpy.run_path(str(EXAMPLES / name / "train.py"))["main"]
    assert train("model.width=32", "optimizer.lr=0.01", "trainer.max_epochs=2") > 0.8


def test_the_cells_of_the_notebook_run_in_order_and_show_tables():
    pytest.importorskip("pandas")
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    scope: dict[str, object] = {}
    shown = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"], "the notebook is kept without outputs"
        *lines, last = "".join(cell["source"]).splitlines()
        exec("\n".join(lines), scope)  # noqa: S102
        value = eval(last, scope) if not re.match(r"[\w.]+ = ", last) else exec(last, scope)  # noqa: S307, S102
        shown += hasattr(value, "_repr_html_") and "<table" in value._repr_html_()
    assert shown >= 4


def test_the_project_is_an_application_of_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """In a process of its own, as Hydra sets the logging of a whole process."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "other_project" / "train.py"), "data.num_points=200", "hydra.run.dir=run", *QUICK],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "two spirals: best epoch 1, " in done.stdout
    assert "other_project.schemes.log_uniform_" in Path("run/ledger.csv").read_text()


def test_a_new_project_has_its_own_name_and_is_found_by_the_console_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MODELFACTORY_TRUST", "my_flowers")
    assert main(["new", "my-flowers"]) == 0
    assert "  my_flowers/layers.py\n" in capsys.readouterr().out
    assert not [path for path in Path("my-flowers").rglob("*.*") if path.is_file() and "other_project" in path.read_text()]
    words = ["-cd", "my-flowers/conf", *PROJECT]
    assert main(["explain", "fourier.frequencies", *words]) == 0
    assert "my_flowers.schemes.log_uniform_" in capsys.readouterr().out
    assert main(["train", *words, *QUICK, "hydra.run.dir=run"]) == 0
    assert mf.evaluate("run")["samples"] == 20
    model = mf.load("run")
    lengths = model.fourier.frequencies.norm(dim=1)
    assert type(model.fourier).__module__ == "my_flowers.layers" and bool(((lengths > 0.9) & (lengths < 8.1)).all())
    assert model(torch.zeros(1, 2)).shape == (1, 2)


def test_what_is_not_trusted_is_not_looked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.delenv("MODELFACTORY_TRUST", raising=False)
    main(["new", "my_weeds"])
    (Path("my_weeds") / "tensorboard_stand_in.py").write_text("raise SystemExit('executed')")
    assert main(["plan", "-cd", "my_weeds/conf", *PROJECT]) == 2
    assert "set MODELFACTORY_TRUST=my_weeds" in capsys.readouterr().err
    assert importlib.util.find_spec("tensorboard_stand_in") is None and "my_weeds" not in sys.modules


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["full"], "full is not empty; give a folder"),
        (["a/class"], "--name: 'class' cannot be the name of a package"),
        (["a/b", "--name", "torch"], "--name: 'torch' is the name of another module"),
        (["a/b", "--name", "1x"], "--name: '1x' cannot be the name of a package"),
    ],
)
def test_a_folder_or_name_that_cannot_be_is_refused(words: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    assert main(["new", *words]) == 2
    assert told in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["full"]


def test_every_example_is_named_in_the_docs():
    page = (ROOT / "docs" / "your_project.md").read_text()
    names = [path.name for path in EXAMPLES.iterdir() if path.name != "__pycache__"]
    assert names and not [name for name in names if f"examples/{name}" not in page]
