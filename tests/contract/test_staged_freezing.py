"""Staged unfreezing: `until: {epoch: N}`."""

import copy

import pytest
import torch

import modelfactory as mf
from modelfactory.config.compose import to_plain
from modelfactory.planning.materialize import Built
from modelfactory.training.checkpoint import read_weights
from modelfactory.training.optimizer import build_optimizer
from modelfactory.training.training_spec import training_spec

STAGED = (
    "model=cnn",
    "trainer.max_epochs=4",
    "trainer.device=cpu",
    "trainer.progress=none",
    "trainer.signal=none",
    "trainer.limit_batches=4",
    "+freeze.rules.body={before: head}",
    "+freeze.rules.top={after: act1, before: head, until: {epoch: 3}}",
    "+optimizer.groups.top={match: 'conv2.*', lr_scale: 0.5}",
)


def config(*overrides):
    return to_plain(mf.compose(*STAGED, *overrides))


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
def test_what_is_frozen_does_not_move_until_its_epoch(optimizer, monkeypatch):
    cfg = config(f"optimizer={optimizer}", "optimizer.weight_decay=0.5")
    plan = mf.plan(cfg)
    states = [state(plan.build())]
    before_epoch = Built.before_epoch

    def look(self, epoch):
        states.append(state(self.model))
        return before_epoch(self, epoch)

    monkeypatch.setattr(Built, "before_epoch", look)
    result = mf.train(cfg)
    assert result.model is not None
    states.append(state(result.model))
    start, *epochs = states
    always = {"conv1.weight", "norm1.weight", "norm1.bias", "norm1.running_mean", "norm1.running_var", "norm1.num_batches_tracked"}
    staged = {name.replace("1", "2") for name in always}
    for epoch, after in enumerate(epochs):  # at the beginning of epochs 1 to 4, and at the end
        assert always.isdisjoint(moved(start, after))
        assert moved(start, after) & staged == (set() if epoch < 3 else staged)
    assert {"head.weight", "head.bias"} <= moved(start, epochs[1])
    assert result.model.train()[4].training and not result.model[1].training


def test_the_optimizer_knows_of_it_from_the_start_and_keeps_nothing_for_it_until_then():
    cfg = config("optimizer.weight_decay=0.5")
    built = mf.plan(cfg).materialize()
    model = built.model
    optimizer = build_optimizer(training_spec(cfg["optimizer"]).optimizer, model, thawed_later=built.thaws)
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(every) == len({id(parameter) for parameter in every}) == 5
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    optimizer.step()
    assert len(optimizer.state) == 2  # the head's
    assert built.before_epoch(2) == []
    assert built.before_epoch(3) == ["conv2.weight", "norm2.weight", "norm2.bias"]
    model.train()(torch.randn(4, 1, 8, 8)).sum().backward()
    optimizer.step()
    assert {int(state["step"]) for state in optimizer.state.values()} == {1, 2}


def test_the_ledger_says_frozen_at_first_and_the_group_to_come():
    ledger = mf.plan(config()).ledger
    assert {row.name: (row.trainable, row.group) for row in ledger} == {
        "conv1.weight": (False, ""),
        "norm1.weight": (False, ""),
        "norm1.bias": (False, ""),
        "conv2.weight": (False, "top.epoch3"),
        "norm2.weight": (False, "default.epoch3"),
        "norm2.bias": (False, "default.epoch3"),
        "head.weight": (True, "default"),
        "head.bias": (True, "default"),
    }


class Stopped(BaseException):
    pass


def test_a_run_stopped_before_or_after_the_thaw_goes_on_bit_for_bit(tmp_path, monkeypatch):
    noisy = ("+model.layers.drop={_target_: torch.nn.Dropout, p: 0.3}", "scheduler=cosine", "scheduler.warmup_epochs=0")
    with_dropout = config(*noisy)
    layers = with_dropout["model"]["layers"]
    layers["head"] = layers.pop("head")  # the dropout stands before it
    mf.train(with_dropout, run_dir=tmp_path / "straight")
    expected = read_weights(tmp_path / "straight" / "checkpoint" / "last.safetensors")
    before_epoch = Built.before_epoch
    for stop_at in (2, 3, 4):  # the epoch before the thaw, the one that begins with it, the one after it
        folder = tmp_path / str(stop_at)

        def stopping(self, epoch, stop_at=stop_at):
            if epoch == stop_at:
                raise Stopped
            return before_epoch(self, epoch)

        with monkeypatch.context() as patched, pytest.raises(Stopped):
            patched.setattr(Built, "before_epoch", stopping)
            mf.train(with_dropout, run_dir=folder)
        with_dropout["trainer"]["resume"] = str(folder)
        result = mf.train(with_dropout, run_dir=folder)
        with_dropout["trainer"]["resume"] = None
        found = read_weights(folder / "checkpoint" / "last.safetensors")
        assert expected.tensors.keys() == found.tensors.keys() and len(result.history) == 4
        assert all(torch.equal(expected.tensors[name], found.tensors[name]) for name in expected.tensors)


@pytest.mark.parametrize(("epoch", "frozen"), [(2, 6), (4, 3)])
def test_a_loaded_model_is_frozen_as_at_the_epoch_of_its_weights(tmp_path, epoch, frozen):
    cfg = config(f"trainer.max_epochs={epoch}", "trainer.limit_batches=null")
    best = mf.train(cfg, run_dir=tmp_path).best
    assert best["epoch"] == epoch
    for model in (mf.load(tmp_path), copy.deepcopy(mf.load(tmp_path))):
        assert sum(not parameter.requires_grad for parameter in model.parameters()) == frozen
        assert model.train()[4].training is (frozen == 3) and not model[1].training


def test_thawing_for_epochs_that_do_not_come_is_told(caplog):
    with caplog.at_level("WARNING"):
        mf.train(config("trainer.max_epochs=1"))
    assert "freeze.rules.top.until.epoch: 3 is after the last epoch, 1, so what it picks stays frozen" in caplog.text


WRONG = [
    ({"until": 3}, "freeze.rules.a.until: 3 does not say until when; give {epoch: 3}"),
    ({"until": {"epoch": 1}}, "freeze.rules.a.until.epoch: 1 is too small; give a whole number >= 2"),
    ({"until": {"epoch": 2.5}}, "freeze.rules.a.until.epoch: 2.5 is a number"),
    ({"until": {"step": 3}}, "freeze.rules.a.until: {'step': 3} does not say until when"),
    ({"until": {"epoch": 3}, "frozen": False}, "thaws nothing, since frozen is false"),
    ({"untill": {"epoch": 3}}, "freeze.rules.a.untill: not a key of a freeze rule; did you mean 'until'?"),
]


@pytest.mark.parametrize(("keys", "message"), WRONG, ids=str)
def test_a_wrong_until_is_told_with_its_path(keys, message):
    wrong = config()
    wrong["freeze"]["rules"]["a"] = {"match": "conv1.*", **keys}
    with pytest.raises(mf.ConfigError) as caught:
        mf.plan(wrong)
    assert message in str(caught.value)


def test_a_model_that_is_all_frozen_at_first_is_refused():
    with pytest.raises(mf.ConfigError, match="there is nothing to train at first: every parameter is frozen until a later epoch"):
        mf.train(config("+freeze.rules.all={match: '*', until: {epoch: 2}}"))
