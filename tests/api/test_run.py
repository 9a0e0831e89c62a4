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
from modelfactory.config.compose import to_plain
from modelfactory.config.errors import ConfigError
from modelfactory.model.weights.tensor_file import CHECKSUM_KEY

QUICK = ("trainer.max_epochs=2", "trainer.device=cpu", "trainer.progress=none")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    cfg = mf.compose("model=cnn", "init=xavier_normal", "seed=1", "trainer.limit_batches=6", *QUICK)
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
    keys = "status final best seconds config_hash init_hash init_version versions threads error warnings hints host pid started"
    assert list(record) == keys.split()
    assert record["status"] == "completed" and record["final"]["epoch"] == 2 and record["error"] is None
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


def test_the_ledger_file_has_the_columns_of_the_contract(run):
    folder, cfg, _ = run
    head, *rows = (folder / "ledger.csv").read_text().splitlines()
    assert head == (
        "name,shape,numel,dtype,module,role,origin,rule,scheme,fan_in,fan_out,gain,expected_mean,expected_std,mean,std,trainable,group"
    )
    assert [row.partition(",")[0] for row in rows] == [name for name, _ in mf.build(cfg).named_parameters()]


def test_load_gives_the_outputs_that_the_trained_model_gives(run):
    folder, _, result = run
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(mf.load(folder)(x), result.model.eval()(x))


def test_loading_draws_nothing_and_leaves_random_state_alone(run):
    folder, _, _ = run
    torch.manual_seed(1)
    state = torch.get_rng_state()
    mf.load(folder)
    assert torch.equal(state, torch.get_rng_state())


def test_load_keeps_what_was_frozen(tmp_path):
    cfg = mf.compose("model=cnn", "+freeze.rules.body={match: ['conv1.*', 'norm1.*']}", "trainer=debug", *QUICK[1:])
    mf.train(cfg, run_dir=tmp_path)
    model = mf.load(tmp_path)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {"norm1.weight", "norm1.bias", "conv1.weight"} | (
        {"conv1.bias"} & set(model.state_dict())
    )
    assert not model.train().norm1.training and model.norm2.training


NETS = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, width: int = 5):
        super().__init__()
        self.embed = nn.Linear(64, width)
        self.head = nn.Linear(width, 10)
        self.extra = nn.Linear(width, 10, bias=False)
        self.extra.weight = self.head.weight
        self.register_buffer("noise", torch.rand(width), persistent=False)
        self.offset = torch.randn(width)
    def forward(self, x):
        x = self.embed(x.flatten(1)) + self.noise + self.offset
        return self.head(x.relu()) + self.extra(x.tanh())
"""


def test_a_model_of_ones_own_comes_back_whole_and_only_when_trusted(tmp_path, monkeypatch):
    (tmp_path / "my_run_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MODELFACTORY_TRUST", "my_run_nets")
    cfg = to_plain(mf.compose("trainer=debug", "seed=4", *QUICK[1:]))
    cfg["model"], cfg["activation"] = {"_target_": "my_run_nets.Net", "width": 6}, None
    result = mf.train(cfg, run_dir=tmp_path / "run")
    x = torch.randn(3, 1, 8, 8)
    model = mf.load(tmp_path / "run")
    with torch.no_grad():
        assert torch.equal(model(x), result.model.eval()(x)) and model.extra.weight is model.head.weight
    rows = list(csv.DictReader((tmp_path / "run" / "ledger.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["embed.weight", "embed.bias", "head.weight = extra.weight", "head.bias"]
    monkeypatch.delenv("MODELFACTORY_TRUST")
    with pytest.raises(ConfigError, match=r"model._target_: 'my_run_nets.Net' is refused.*modelfactory.trust\(\"my_run_nets\"\)"):
        mf.load(tmp_path / "run")


def test_weights_of_another_model_are_refused(run, tmp_path):
    folder, _, _ = run
    with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        metadata = {key: text for key, text in file.metadata().items() if key != CHECKSUM_KEY}  # as another program would
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["head.weight"] = tensors["head.weight"][:3].contiguous()
    safetensors.torch.save_file(tensors, tmp_path / "other.safetensors", metadata)
    with pytest.raises(ConfigError, match=r"is of another model: head.weight is \[3, \d+\] in it and \[10, \d+\] here"):
        mf.load(tmp_path / "other.safetensors")


def test_a_plan_says_how_large_the_model_is_and_allocates_nothing():
    plan = mf.plan(mf.compose("model=mlp"))
    total = sum(row.numel for row in plan.ledger)
    assert f"parameters   {total:,} in {len(plan.ledger.rows)} tensors, all trainable" in str(plan)
    assert {parameter.device.type for parameter in plan.meta.parameters()} == {"meta"}


def test_a_config_without_data_trains_nothing(tmp_path):
    with pytest.raises(ConfigError, match="data: missing; give _target_"):
        mf.train({"model": {"layers": {"fc": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2}}}}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
