"""What a run says of the signal before it trains, what it leaves of it, and that what it names as a mend mends."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import modelfactory as mf

QUICK = ("trainer.progress=none", "trainer.device=cpu", "trainer.max_epochs=1", "trainer.limit_batches=2")
DEEP = ("experiment=deep_relu", "trainer.device=cpu", "trainer.progress=none")


def test_a_run_leaves_its_signal(tmp_path: Path):
    mf.train(mf.compose("model=cnn", "trainer.signal=histograms", *QUICK), run_dir=tmp_path)
    rows = list(csv.DictReader((tmp_path / "signal.csv").read_text().splitlines()))
    assert [row["layer"] for row in rows][:4] == ["conv1", "norm1", "act1", "pool1"]
    for row in rows:
        few = 0.4 if row["layer"] == "head" else 0.2  # its ten outputs are one draw of few
        assert float(row["forward_measured"]) == pytest.approx(float(row["forward_predicted"]), rel=few), row
    for name in ("signal.png", "signal_histograms.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("wanted", "files"), [("none", set()), ("table", {"signal.csv"}), ("picture", {"signal.csv", "signal.png"})])
def test_a_config_chooses_what_is_left(wanted: str, files: set[str], tmp_path: Path):
    mf.train(mf.compose(f"trainer.signal={wanted}", *QUICK), run_dir=tmp_path)
    assert {file.name for file in tmp_path.glob("signal*")} == files


def test_looking_changes_no_number(tmp_path: Path):
    """Dropout, batch norm and shuffling: the trained weights are the same to the last bit."""
    dropout = "+model.layers.drop={_target_: torch.nn.Dropout, p: 0.1}"
    models = [mf.train(mf.compose("model=cnn", f"trainer.signal={wanted}", dropout, *QUICK)).model for wanted in ("none", "table")]
    one, other = (model.state_dict() for model in models if model is not None)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_deep_net_that_cannot_learn_is_called_out_and_the_mend_makes_it_learn(tmp_path: Path, caplog):
    broken = (*DEEP, "init=xavier_normal", "init.rules.weights.gain=1")
    result = mf.train(mf.compose(*broken, "trainer.max_epochs=2"), run_dir=tmp_path)
    said = next(warning for warning in result.warnings if "the signal vanishes" in warning)
    assert said in caplog.text and said in json.loads((tmp_path / "result.json").read_text())["warnings"]
    assert result.final["train_loss"] == pytest.approx(2.302, abs=0.01) and result.final["val_accuracy"] < 0.2
    mend = re.search(r"; (\S+) is predicted to fix it", said)
    assert mend is not None
    mended = mf.train(mf.compose(*broken, "trainer.max_epochs=8", mend[1]))
    assert not any("vanishes" in warning for warning in mended.warnings)
    assert min(row["train_loss"] for row in mended.history) < 1.9
    assert max(row["val_accuracy"] for row in mended.history) > 0.3


def test_a_first_loss_far_above_a_guess_is_told_and_its_mend_mends():
    loud = ("+init.rules.head={match: head.weight, scheme: normal, std: 1.0}", *QUICK)
    (said,) = (warning for warning in mf.train(mf.compose(*loud)).warnings if "the first loss" in warning)
    mend = re.search(r"'(\+init.rules[^']+)'", said)
    assert mend is not None and "ln 10 = 2.3" in said
    mended = mf.train(mf.compose(*loud, mend[1]))
    assert not any("the first loss" in told for told in (*mended.warnings, *mended.hints))


def test_updates_out_of_proportion_are_told():
    loud = ("optimizer=sgd", "optimizer.lr=300", "+optimizer.maximize=false", "init=normal", "trainer.clip_norm=1.0")
    result = mf.train(mf.compose(*loud, "trainer.progress=none", "trainer.device=cpu", "trainer.max_epochs=1"))
    assert any("the first updates are large" in warning for warning in result.warnings)


@pytest.mark.parametrize("init", ["kaiming_normal", "xavier_normal", "auto"])
def test_the_first_run_warns_of_nothing(init: str, tmp_path: Path, caplog):
    """A first loss a little above that of a guess is a hint: information, in result.json, and no warning."""
    result = mf.train(mf.compose(f"init={init}", *QUICK), run_dir=tmp_path)
    record = json.loads((tmp_path / "result.json").read_text())
    assert result.warnings == record["warnings"] == [] and result.hints == record["hints"]
    assert not [entry for entry in caplog.records if entry.levelname == "WARNING"]
    assert init != "kaiming_normal" or "the first loss" in result.hints[0]


def test_a_signal_check_that_fails_is_one_warning_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch):
    def fails(*_args: object, **_kwargs: object) -> None:
        raise ZeroDivisionError("of this test")

    monkeypatch.setattr("modelfactory.api.signal_check.probe", fails)
    result = mf.train(mf.compose(*QUICK))
    assert result.status == "completed"
    assert [text for text in result.warnings if "the signal check: ZeroDivisionError: of this test" in text] == list(result.warnings)


def post_norm(depth: int, *overrides: str) -> dict[str, Any]:
    """A stack of sums with a norm after each, of xavier_normal, which leave half of the stream each."""
    config: Any = OmegaConf.to_container(mf.compose("init=xavier_normal", *QUICK, *overrides), resolve=True)
    block = {
        "body": {"_target_": "modelfactory.Residual", "layers": {"fc": {"_target_": "torch.nn.Linear", "out_features": 32}}},
        "norm": {"_target_": "torch.nn.LayerNorm"},
    }
    layers = {
        "flatten": {"_target_": "torch.nn.Flatten"},
        "stem": {"_target_": "torch.nn.Linear", "out_features": 32},
        "blocks": {"repeat": depth, "layers": block},
        "head": {"_target_": "torch.nn.Linear", "out_features": 10},
    }
    return {**config, "model": {"layers": layers}}


@pytest.mark.parametrize(
    ("depth", "overrides", "is_warned"), [(18, (), True), (6, (), False), (18, ("scheduler=cosine", "scheduler.warmup_epochs=0.5"), False)]
)
def test_a_deep_post_norm_stack_is_warned_of_unless_the_config_warms_up(depth: int, overrides: tuple[str, ...], is_warned: bool):
    config = post_norm(depth, *overrides)
    assert any("post-norm stack" in warning for warning in mf.train(config).warnings) == is_warned
    assert overrides or ("post-norm stack" in str(mf.plan(config)).replace("\n", " ")) == is_warned


def test_an_output_that_is_large_is_a_hint_and_no_warning():
    """Adam learns it all the same, so that it is not called a fault."""
    result = mf.train(mf.compose("+init.rules.head={match: head.weight, scheme: lecun_normal, gain: 16}", "trainer.signal=table", *QUICK))
    assert any("the output is large" in hint for hint in result.hints)
    assert not any("the output is large" in warning for warning in result.warnings)
