"""The coordinate check, from Python and the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.cli.main import main

SMALL = ("model=deep_mlp", "model.depth=2", "trainer.device=cpu")
WIDTHS = (32, 128, 512)


class Plain(nn.Module):
    """A net of one's own whose width is called `hidden`."""

    def __init__(self, hidden: int = 16):
        super().__init__()
        hiding = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(hidden), nn.ReLU())
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), hiding, nn.Linear(hidden, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def test_steps_change_more_in_wider_layers_but_by_mup():
    plain = mf.coordcheck(*SMALL, "init=lecun_normal", "optimizer=adam", widths=WIDTHS, depths=(), seeds=1).axes[0]
    assert plain.exponents["hidden.1.fc"] > 0.4 and not plain.stays and plain.largest[0] == "head"
    mup = mf.coordcheck(*SMALL, "init=mup", "optimizer=adam_mup", widths=WIDTHS, depths=(), seeds=1).axes[0]
    assert mup.stays and abs(mup.exponents["hidden.1.fc"]) < 0.15


def test_over_depths_the_last_block_is_compared():
    words = ("model=deep_mlp", "model.width=32", "trainer.device=cpu", "init=xavier_normal")
    (axis,) = mf.coordcheck(*words, widths=(), depths=(2, 8, 16), seeds=1).axes
    assert list(axis.changes) == ["hidden.-1.fc", "head"] and (axis.name, axis.sizes) == ("depth", (2, 8, 16))
    assert not axis.stays and "shrinks" in axis.told(), "the signal of deep nets vanishes by xavier, so steps change nothing of the output"


def test_the_best_learning_rate_of_wider_nets_is_smaller_by_adam():
    lrs = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    found = mf.coordcheck(*SMALL, "init=lecun_normal", "optimizer=adam", widths=(32, 512), depths=(), lrs=lrs, lr_steps=40, seeds=1)
    assert found.rates is not None and found.rates.moves is True and "moves" in str(found)
    assert found.rates.best[32] > 2 * found.rates.best[512]
    edge = mf.coordcheck(*SMALL, "init=lecun_normal", widths=(16, 32), depths=(), lrs=lrs[:3], steps=1, lr_steps=4, seeds=1)
    assert edge.rates is not None and edge.rates.moves is None and "inconclusive" in str(edge)


def test_a_model_of_ones_own_has_a_key_of_its_own_and_nothing_global_changes():
    mf.trust("tests")
    config = {
        "model": {"_target_": f"{__name__}.Plain", "hidden": 16},
        "data": {"_target_": "modelfactory.data.digits"},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.05},
        "init": "default",
    }
    state = torch.get_rng_state()
    first, second = (mf.coordcheck(config, widths=(8, 32), width_key="model.hidden", steps=2, seeds=1) for _ in range(2))
    assert first == second, "the same call gives the same numbers, dropout included"
    assert list(first.axes[0].changes) == ["body.1", "body.3"] and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=cnn", "--width-key", "model.wide"], "model.wide: the config has no such key"),
        (["model=mlp", "--widths", "64"], r"model.width: [64] are not two or more sizes"),
        (["model=mlp", "--widths", "a,b"], "--widths: 'a,b' is not a list of whole numbers"),
        (["model=mlp", "--depths", "2,4"], "model.depth: the config has no such key"),
        (["model=mlp", "--widths", "8,16", "--lr", "1e-3,1e-2"], "not three or more learning rates"),
        (["model=mlp", "--widths", "8,16", "init=xavier"], "xavier"),
    ],
)
def test_what_is_wrong_gives_status_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main(["coordcheck", *words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_command_leaves_a_table_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    small = ["--widths", "8,16", "--steps", "1", "--seeds", "1"]
    words = ["coordcheck", "model=mlp", "trainer.device=cpu", *small, "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "over widths: what the steps change" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    layers = [row["layer"] for row in json.loads(capsys.readouterr().out)["axes"][0]["layers"]]
    rows = list(csv.DictReader((tmp_path / "out" / "coordcheck.csv").read_text().splitlines()))
    assert layers == ["fc1", "fc2", "head"] and {row["layer"] for row in rows} == set(layers) and len(rows) == 6
    assert (tmp_path / "out" / "coordcheck.png").read_bytes().startswith(b"\x89PNG")
