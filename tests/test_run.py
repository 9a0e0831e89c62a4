"""A run from its config to its files, and back."""

import csv
import json
import subprocess
import sys

import pytest
import safetensors.torch
import torch
import yaml

import modelfactory as mf
from modelfactory.errors import ConfigError

QUICK = ("trainer.max_epochs=2", "trainer.device=cpu", "trainer.progress=none")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    cfg = mf.compose("model=cnn", "init=xavier_normal", "seed=1", *QUICK)
    return folder, cfg, mf.train(cfg, run_dir=folder)


def test_a_run_leaves_the_files_of_the_contract(run):
    folder, cfg, result = run
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"config.yaml", "ledger.csv", "metrics.csv", "result.json", "model.safetensors"} <= names
    assert any(name.startswith("checkpoint/") for name in names) and not any(name.startswith(".") for name in names)
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["layers"]["conv1"]["out_channels"] == 32
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert list(rows[0]) == ["epoch", "step", "train_loss", "val_loss", "val_accuracy", "lr", "seconds"] and len(rows) == 2
    record = json.loads((folder / "result.json").read_text())
    assert list(record) == ["status", "final", "best", "seconds", "config_hash", "versions", "error"]
    assert record["status"] == "done" and record["final"]["epoch"] == 2 and record["error"] is None
    assert result.best["val_accuracy"] == record["best"]["val_accuracy"]


def test_the_ledger_of_a_run_is_of_the_initial_values(run):
    folder, cfg, _ = run
    rows = {row["name"]: row for row in csv.DictReader((folder / "ledger.csv").read_text().splitlines())}
    for name, parameter in mf.build(cfg).named_parameters():
        assert float(rows[name]["std"]) == pytest.approx(parameter.std(correction=0).item(), abs=1e-6), name


def test_load_gives_the_model_back_from_its_one_file(run, tmp_path):
    folder, _, _ = run
    for place in (folder / "model.safetensors", folder):
        model = mf.load(place)
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        assert model.state_dict().keys() == tensors.keys() and not model.training
        assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_load_refuses_what_is_not_trusted_and_what_is_not_whole(run, tmp_path):
    folder, _, _ = run
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    evil = {"model": {"_target_": "os.system", "command": "true"}}
    safetensors.torch.save_file(tensors, tmp_path / "evil.safetensors", {"modelfactory.config": json.dumps(evil)})
    with pytest.raises(ConfigError, match="model._target_: 'os.system' is refused"):
        mf.load(tmp_path / "evil.safetensors")
    safetensors.torch.save_file(tensors, tmp_path / "bare.safetensors")
    with pytest.raises(ConfigError, match="carries no config"):
        mf.load(tmp_path / "bare.safetensors")
    (tmp_path / "half.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ConfigError, match="is not a safetensors file"):
        mf.load(tmp_path / "half.safetensors")


def test_the_same_config_gives_the_same_numbers(run):
    _, cfg, result = run
    again = mf.train(cfg)
    assert [{**row, "seconds": 0} for row in again.history] == [{**row, "seconds": 0} for row in result.history]


def test_a_plain_dict_does_all_of_it():
    layers = {
        "flatten": {"_target_": "torch.nn.Flatten"},
        "fc": {"_target_": "torch.nn.Linear", "out_features": "${data.num_classes}"},
    }
    config = {
        "seed": 3,
        "data": {"_target_": "modelfactory.data.digits", "input_shape": [1, 8, 8], "num_classes": 10},
        "model": {"layers": layers},
        "init": "xavier_normal",
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
        "trainer": {"max_epochs": 2, "device": "cpu", "progress": "none"},
    }
    assert mf.plan(config).ledger["fc.weight"].fan_in == 64
    assert mf.build(config)[1].out_features == 10
    assert mf.train(config).best["val_accuracy"] > 0.7


def test_every_group_is_checked_before_anything_is_made(tmp_path):
    cfg = mf.compose("optimizer.lr=-1", "trainer.max_epochs=0", "data.batch_size=0", "scheduler=cosine", *QUICK[1:])
    cfg.model.layers.fc1.out_features = 0
    with pytest.raises(ConfigError) as caught:
        mf.train(cfg, run_dir=tmp_path / "run")
    paths = {problem.path for problem in caught.value.problems}
    assert {"optimizer.lr", "trainer.max_epochs", "data.batch_size", "model.layers.fc1.out_features"} <= paths
    assert not (tmp_path / "run").exists()


def test_a_training_process_imports_nothing_that_it_does_not_use():
    code = (
        "import sys, modelfactory as mf;"
        "mf.train(mf.compose('trainer=debug', 'trainer.device=cpu', 'trainer.progress=none'));"
        "print([name for name in ('torchvision', 'matplotlib', 'sklearn', 'scipy', 'torch._dynamo', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
