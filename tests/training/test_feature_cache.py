"""Features once: the same numbers as without, or a refusal that says why."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.config.compose import to_plain
from modelfactory.config.errors import ConfigError, TrainingError
from modelfactory.data import Split, build_data
from modelfactory.training.checkpoint import read_weights
from modelfactory.training.trainer import train_model
from modelfactory.training.training_spec import training_spec

QUIET = {"device": "cpu", "progress": "none", "max_epochs": 3}
FROZEN = (
    "model=cnn",
    "trainer.device=cpu",
    "trainer.progress=none",
    "trainer.signal=none",
    "trainer.max_epochs=3",
    "+freeze.rules.body={before: head}",
    "scheduler=cosine",
    "scheduler.warmup_epochs=0",
)


def config(*overrides, dropout=True):
    plain = to_plain(mf.compose(*FROZEN, *overrides))
    if dropout:
        layers = plain["model"]["layers"]
        layers["drop"] = {"_target_": "torch.nn.Dropout", "p": 0.3}
        layers["head"] = layers.pop("head")
    return plain


def tensors(folder):
    return read_weights(folder / "checkpoint" / "last.safetensors").tensors


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def numbers(result):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in result.history]


@pytest.fixture(scope="module")
def digits():
    return build_data({"_target_": "modelfactory.data.digits"})


class OnDisk(torch.utils.data.Dataset):
    """The digits one at a time; with `noisy_from` the samples from there on are drawn anew each time."""

    def __init__(self, split, noisy_from=10**9):
        self.split, self.noisy_from = split, noisy_from

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        noise = torch.rand(()) if index >= self.noisy_from else 0
        return self.split.x[index] + noise, int(self.split.y[index])


def on_disk(data, **keys):
    return replace(data, train=Split(dataset=OnDisk(data.train, **keys)), val=Split(dataset=OnDisk(data.val)))


def net(*middle, frozen=("0.*", "1.*")):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), *middle, nn.Linear(144, 10))
    mf.freeze(model, frozen)
    return model


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    folder = tmp_path_factory.mktemp("without")
    return mf.train(config(), run_dir=folder), folder


@pytest.mark.parametrize("where", [True, "memory", "disk"])
def test_the_numbers_are_those_without_bit_for_bit(without, tmp_path, where):
    cfg = config()
    cfg["trainer"]["cache_features"] = where
    result = mf.train(cfg, run_dir=tmp_path)
    assert numbers(result) == numbers(without[0]) and same(tensors(tmp_path), tensors(without[1]))
    assert (tmp_path / "features").is_dir() is (where == "disk")
    loaded, expected = mf.load(tmp_path), mf.load(without[1])
    assert same(loaded.state_dict(), expected.state_dict())


@pytest.mark.parametrize("keys", [{"accumulate": 3, "clip_norm": 0.5}, {"limit_batches": 4}, {"max_steps": 30}, {"precision": "bf16"}])
def test_settings_of_the_loop_go_with_it(keys):
    results = []
    for where in (False, "memory"):
        cfg = config()
        cfg["trainer"] |= {**keys, "cache_features": where}
        results.append(mf.train(cfg))
    assert numbers(results[0]) == numbers(results[1])
    assert results[0].model is not None and results[1].model is not None
    assert same(results[0].model.state_dict(), results[1].model.state_dict())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_on_disk_gives_the_same(digits, workers):
    found = []
    for where in (False, "memory"):
        model = net(nn.Dropout(0.2))
        data = replace(on_disk(digits), num_workers=workers if where else 0)
        found.append((numbers(train_model(model, data, training_spec(trainer={**QUIET, "max_epochs": 2, "cache_features": where}))), model))
    assert found[0][0] == found[1][0] and same(found[0][1].state_dict(), found[1][1].state_dict())


def test_what_is_frozen_is_run_once_a_sample_and_not_once_an_epoch(digits):
    counts = []
    for epochs in (1, 5):
        model, seen = net(), []
        model[0].register_forward_hook(lambda _module, inputs, _output, seen=seen: seen.append(len(inputs[0])))
        train_model(model, digits, training_spec(trainer={**QUIET, "max_epochs": epochs, "cache_features": True}))
        counts.append(sum(seen))
    tried = counts[0] - len(digits.train) - len(digits.val)  # what looks beforehand whether model, loss and features fit
    assert counts[0] == counts[1] and 0 < tried < 64


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_run_goes_on_bit_for_bit(without, tmp_path, where, caplog):
    cfg = config(f"trainer.cache_features={where}", "trainer.max_epochs=2", "scheduler.T_max=3")
    mf.train(cfg, run_dir=tmp_path)
    with caplog.at_level(logging.INFO):
        cfg["trainer"] |= {"max_epochs": 3, "resume": str(tmp_path)}
        mf.train(cfg, run_dir=tmp_path)
    assert ("found again" in caplog.text) is (where == "disk")
    assert same(tensors(tmp_path), tensors(without[1]))


def test_features_of_other_weights_or_data_are_not_found_again(tmp_path, caplog):
    for keys, again in (({}, False), ({}, True), ({"seed": 5}, False), ({"data": {"split_seed": 1}}, False)):
        cfg = config("trainer.cache_features=disk", "trainer.max_epochs=1")
        cfg["seed"] = keys.get("seed", 0)
        cfg["data"] |= keys.get("data", {})
        caplog.clear()
        with caplog.at_level(logging.INFO):
            mf.train(cfg, run_dir=tmp_path)
        assert ("found again" in caplog.text) is again


@pytest.mark.parametrize("how", ["bit", "short", "missing", "index"])
def test_features_that_are_damaged_are_computed_again(tmp_path, caplog, how):
    cfg = config("trainer.cache_features=disk")
    mf.train(cfg, run_dir=tmp_path / "straight")
    mf.train({**cfg, "trainer": {**cfg["trainer"], "max_epochs": 1}}, run_dir=tmp_path / "run")
    file = tmp_path / "run" / "features" / ("index.safetensors" if how == "index" else "train.bin")
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.unlink()
    if how != "missing":
        file.write_bytes(content[:-64] if how == "short" else content)
    with caplog.at_level("INFO"):
        mf.train(cfg, run_dir=tmp_path / "run", resume=tmp_path / "run")
    assert "are computed again" in caplog.text and "found again" not in caplog.text
    assert same(tensors(tmp_path / "run"), tensors(tmp_path / "straight"))


def test_the_validation_part_is_kept_as_far_as_it_is_used(digits, caplog):
    with caplog.at_level(logging.INFO):
        train_model(net(), digits, training_spec(trainer={**QUIET, "limit_batches": 1, "cache_features": True}))
    assert "1438 + 64 samples" in caplog.text


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 4)

    def forward(self, x):
        return self.fc(x), x


class Centred(nn.Module):
    """Centres over the batch."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * (x - x.mean(0, keepdim=True))


class Noisy(nn.Linear):
    """Another result in training, whatever its mode."""

    def train(self, mode=True):
        self.is_training = mode
        return super().train(mode)

    def forward(self, x):
        return super().forward(x) + getattr(self, "is_training", False)


def chain(*modules, freeze, **keys):
    model = nn.Sequential(nn.Flatten(), *modules)
    mf.freeze(model, freeze, **keys)
    return model


REFUSED = {
    "nothing is frozen": (lambda: net(frozen=()), "the first layer with parameters, '0', is not frozen"),
    "frozen in part": (
        lambda: chain(nn.Linear(64, 8), nn.Linear(8, 10), freeze=["1.weight"]),
        "'1' is frozen in part only: 1.bias trains; freeze all of it",
    ),
    "one of its own": (lambda: mf_module(), "Net is not a chain of layers"),
    "dropout": (
        lambda: chain(nn.Sequential(nn.Linear(64, 8), nn.Dropout()), nn.Linear(8, 10), freeze=["1.*"], dropout=True),
        "1.1 (Dropout) acts by chance in training; freeze.dropout=false holds",
    ),
    "a pair": (lambda: chain(Pair(), mf.Item(0), nn.Linear(4, 10), freeze=["1.*"]), "'1' gives tuple, not a tensor"),
    "batch statistics": (lambda: chain(Centred(), nn.Linear(64, 10), freeze=["1.*"]), "depends on the other samples of the batch"),
    "another mode": (lambda: unheld(), "what '1' gives in training is not what it gives in evaluation"),
}


def mf_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(64, 8), nn.Linear(8, 10)

        def forward(self, x):
            return self.head(self.body(x.flatten(1)))

    model = Net()
    mf.freeze(model, ["body.*"])
    return model


def unheld():
    model = nn.Sequential(nn.Flatten(), Noisy(64, 8), nn.Linear(8, 10))
    model[1].requires_grad_(False)
    return model


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_the_reason_where_it_would_not_be_the_same(name, digits, tmp_path):
    make, message = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        train_model(make(), digits, training_spec(trainer={**QUIET, "cache_features": True}), run_dir=tmp_path / "run")
    assert message in str(caught.value) and str(caught.value).startswith("trainer.cache_features: ")
    assert not (tmp_path / "run").exists()


def test_statistics_that_move_are_refused(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    for module in model[1:3]:
        module.requires_grad_(False)  # by hand: nothing holds the norm
    with pytest.raises(ConfigError, match="trainer.cache_features: 2.running_mean moves in training"):
        train_model(model, digits, training_spec(trainer={**QUIET, "cache_features": True}))


def test_stages_that_thaw_what_would_be_kept_are_refused_before_anything_is_built():
    staged = "+freeze.rules.body={before: head, until: {epoch: 2}}"
    cfg = to_plain(mf.compose("model=cnn", staged, "trainer.cache_features=true"))
    with pytest.raises(ConfigError, match="trainer.cache_features: conv1.weight trains from epoch 2 on, so the features would change"):
        mf.plan(cfg), mf.train(cfg)


def test_what_is_frozen_for_good_is_kept_where_a_later_part_is_thawed():
    staged = ("+freeze.rules.top={match: ['conv2.*', 'norm2.*'], until: {epoch: 2}}", "trainer.max_epochs=2")
    results = [mf.train(config(*staged, f"trainer.cache_features={where}")) for where in ("false", "memory")]
    assert numbers(results[0]) == numbers(results[1])


def test_random_samples_are_refused(digits):
    with pytest.raises(ConfigError, match="the training samples are drawn with chance, .*data.transforms"):
        train_model(net(), on_disk(digits, noisy_from=0), training_spec(trainer={**QUIET, "cache_features": True}))
    with pytest.raises(TrainingError, match="sample 70 is drawn with chance"):
        train_model(net(), on_disk(digits, noisy_from=70), training_spec(trainer={**QUIET, "cache_features": True}))


def test_features_that_are_not_numbers_are_told_with_their_layer(digits):
    model = net()
    nn.init.constant_(model[0].bias, float("nan"))
    with pytest.raises(TrainingError, match="the feature is nan .* layer '0' .Conv2d., whose parameter '0.bias' is not finite"):
        train_model(model, digits, training_spec(trainer={**QUIET, "cache_features": True}))


def test_a_loss_that_is_not_finite_names_the_layer_of_the_rest(digits):
    model = net()
    nn.init.constant_(model[4].bias, float("inf"))
    with pytest.raises(TrainingError, match="layer '4' .Linear., whose parameter '4.bias' is not finite"):
        train_model(model, digits, training_spec(trainer={**QUIET, "cache_features": True}))


def test_on_disk_without_a_run_directory_is_refused(digits):
    with pytest.raises(ConfigError, match="'disk' needs a run directory"):
        train_model(net(), digits, training_spec(trainer={**QUIET, "cache_features": "disk"}))


def test_nothing_of_it_is_in_a_model_that_is_trained_with_it(digits):
    model = net()
    keys = list(model.state_dict())
    train_model(model, digits, training_spec(trainer={**QUIET, "max_epochs": 1, "cache_features": True}))
    assert list(model.state_dict()) == keys and model(digits.val.x[:2]).shape == (2, 10)


@pytest.mark.parametrize("kept", ["memory", "disk"])
def test_the_test_split_is_measured_by_its_features(tmp_path, kept):
    settings = [config("+data.test_fraction=0.1", f"trainer.cache_features={how}", "trainer.max_epochs=2") for how in (False, kept)]
    plain, cached = (mf.train(cfg, run_dir=tmp_path / str(index)) for index, cfg in enumerate(settings))
    assert cached.best["test_loss"] == pytest.approx(plain.best["test_loss"], rel=1e-6)
    assert (tmp_path / "1" / "features" / "test.bin").is_file() is (kept == "disk")
    if kept == "disk":
        again = config("+data.test_fraction=0.1", "trainer.cache_features=disk", "trainer.max_epochs=3")
        assert mf.train(again, run_dir=tmp_path / "1", resume=tmp_path / "1").final["epoch"] == 3
