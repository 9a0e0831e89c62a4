"""`modelfactory eval RUN` and `modelfactory predict RUN FILES`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import modelfactory as mf
from modelfactory.cli.main import main

CONFIG = ("trainer.device=cpu", "trainer.progress=none", "trainer.signal=none", "model.width=8", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    mf.train(mf.compose(*CONFIG), run_dir=folder)
    x, _ = mf.build_data(mf.compose(*CONFIG)).val.sample(3)
    (folder / "rows.csv").write_text("\n".join(",".join(map(str, row)) for row in x.flatten(1).tolist()))
    torch.save(x, folder / "x.pt")
    return folder


def test_eval_prints_what_the_run_measured(run: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["eval", str(run), "--json"]) == 0
    measured, best = json.loads(capsys.readouterr().out), json.loads((run / "result.json").read_text())["best"]
    assert measured["split"] == "val"
    assert measured["loss"] == pytest.approx(best["val_loss"], rel=1e-5) and measured["accuracy"] == pytest.approx(best["val_accuracy"])
    assert main(["eval", str(run), "--split", "train"]) == 0
    assert capsys.readouterr().out.split()[::2] == ["split", "loss", "samples", "accuracy"]
    assert main(["eval", str(run), "--split", "test"]) == 2
    assert "split: 'test' is not a split of these data; choose one of train, val" in capsys.readouterr().err


def test_predict_prints_a_class_a_row(run: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["predict", str(run), str(run / "rows.csv")]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    expected = mf.load(run)(torch.load(run / "x.pt")).softmax(1).max(1)
    assert head == "sample,class,probability"
    assert [row.split(",")[1] for row in rows] == [str(label) for label in expected.indices.tolist()]
    assert [float(row.split(",")[2]) for row in rows] == pytest.approx(expected.values.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "nowhere"], "nowhere"),
        (["predict", "{run}", "no.csv"], "no.csv: there is no such file"),
        (["predict", "{run}", "a.gif2"], "a.gif2"),
    ],
)
def test_what_is_not_there_gives_2(run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main([word.format(run=run) for word in words]) == 2
    assert message in capsys.readouterr().err
