"""Weights of the run of a config that is trained where it is not there yet."""

import csv
import json
import shutil

import pytest
import torch

import modelfactory as mf
from modelfactory.api.run import check
from modelfactory.config.compose import to_plain
from modelfactory.config.errors import ConfigError

QUIET = ("trainer.device=cpu", "trainer.progress=none")
SHORT = ["experiment=pretrain_digits", "trainer=debug", "scheduler.warmup_epochs=0", *QUIET, "trainer.signal=none"]


@pytest.fixture(scope="module")
def whole():
    return to_plain(mf.compose("backbone=cnn", "model=linear_head", "freeze=backbone", "trainer=debug", "trainer.signal=none", *QUIET))


def config(whole, **weights):
    return {**whole, "backbone": {**whole["backbone"], "weights": {"train": SHORT, **weights}}}


def test_the_run_is_trained_once_and_its_weights_are_what_is_frozen(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = config(whole)
    assert {row.origin for row in check(cfg).ledger if row.name.startswith("backbone.")} == {"pretrained"}
    assert list(tmp_path.iterdir()) == []  # checking trains nothing
    first = mf.train(cfg, run_dir="one")
    (folder,) = (tmp_path / "outputs" / "pretrained").iterdir()
    assert folder.name.startswith("pretrain_digits-") and json.loads((folder / "result.json").read_text())["status"] == "completed"
    moment = (folder / "model.safetensors").stat().st_mtime_ns
    second = mf.train(cfg, run_dir="two")
    assert (folder / "model.safetensors").stat().st_mtime_ns == moment
    before, after = mf.load(folder).state_dict(), first.model.state_dict()
    kept = [name for name in before if name.startswith("backbone.")]
    assert len(kept) == 18 and all(torch.equal(before[name], after[name]) for name in kept)
    assert all(torch.equal(value, second.model.state_dict()[name]) for name, value in after.items())
    rows = list(csv.DictReader((tmp_path / "one" / "ledger.csv").read_text().splitlines()))
    assert rows[0]["scheme"] == f"{folder.name}/model.safetensors:backbone.conv1.weight"
    shutil.rmtree(tmp_path / "outputs")
    assert torch.equal(mf.load("one").state_dict()["backbone.conv1.weight"], after["backbone.conv1.weight"])


def test_another_config_of_the_pretraining_is_another_run(whole, tmp_path):
    for seed in (0, 1):
        mf.build(config(whole, train=[*SHORT, f"seed={seed}"], folder=str(tmp_path)))
    mf.build(config(whole, train=[*SHORT, "trainer.progress=lines"], folder=str(tmp_path)))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_pretraining_that_fails_leaves_nothing_half(whole, tmp_path):
    with pytest.raises(mf.TrainingError, match="the loss is"):
        mf.train(config(whole, train=[*SHORT, "optimizer.lr=1e30"], folder=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"train": ["experiment=pretrain_digts"]}, "backbone.weights.train: experiment: .*did you mean 'pretrain_digits'"),
        ({"train": [*SHORT, "optimizer.lr=-1"]}, "backbone.weights.train: optimizer.lr: -1 is too small"),
        ({"train": "experiment=x"}, "backbone.weights.train: 'experiment=x' is a text; give a list of texts"),
        ({"train": SHORT, "foldr": "x"}, "backbone.weights.foldr: not a key of backbone.weights; did you mean 'folder'"),
        ({"folder": "x"}, "backbone.weights.train: missing; give the overrides of a run"),
    ],
)
def test_what_is_wrong_with_the_pretraining_is_told_with_all_else(whole, weights, message):
    wrong = {**whole, "backbone": {**whole["backbone"], "weights": weights}, "seed": -1}
    with pytest.raises(ConfigError, match=message) as caught:
        check(wrong)
    assert "\nseed: -1 is too small" in str(caught.value)


DEFAULTS = (
    "defaults: [data: digits_rgb, activation: relu, backbone: resnet18, model: linear_head, init: auto, freeze: none, "
    "optimizer: adamw, scheduler: constant, trainer: debug, experiment: null, _self_]\nseed: 0\n"
)


def trains_itself(tmp_path, *configs: str):
    """Configs of which each names the next as what its weights are trained by, and the last the first."""
    (tmp_path / "experiment").mkdir()
    for name, following in zip(configs, [*configs[1:], configs[0]], strict=True):
        weights = f"{{train: [+experiment={following}], config_dir: {tmp_path}}}"
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\nbackbone: {{weights: {weights}}}\n")
    (tmp_path / "config.yaml").write_text(DEFAULTS)
    return {"train": [f"+experiment={configs[0]}"], "config_dir": str(tmp_path)}


@pytest.mark.parametrize("configs", [("one",), ("one", "two"), ("one", "two", "three")], ids=len)
@pytest.mark.parametrize("use", [mf.plan, mf.build, check], ids=["plan", "build", "check"])
def test_a_pretraining_that_trains_itself_is_refused_at_once(tmp_path, use, configs):
    weights = trains_itself(tmp_path, *configs)
    layers = {"head": {"_target_": "torch.nn.Linear", "out_features": 3}}
    config = {"data": {"input_shape": [3, 32, 32]}, "model": {"layers": layers}, "backbone": {"name": "resnet18", "weights": weights}}
    circle = " -> ".join(rf"\[\+experiment={name}\] in {tmp_path}" for name in (*configs, configs[0]))
    with pytest.raises(ConfigError, match=rf"^backbone\.weights\.train: trains itself first: {circle}; one of them must have"):
        use(config)


def test_pretrainings_that_never_end_are_refused(tmp_path):
    weights_of_another = f"{{train: ['name=${{name}}a'], config_dir: {tmp_path}}}"
    (tmp_path / "config.yaml").write_text(f"{DEFAULTS}name: a\nbackbone: {{weights: {weights_of_another}}}\n")
    weights = {"train": [], "config_dir": str(tmp_path)}
    config = {"model": {"layers": {"id": {"_target_": "torch.nn.Identity"}}}, "backbone": {"name": "resnet18", "weights": weights}}
    with pytest.raises(ConfigError, match=r"^backbone\.weights\.train: needs more than 8 pretrainings, one before the other: "):
        mf.plan(config)
