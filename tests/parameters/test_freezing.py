import copy
import pickle

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.config.errors import ConfigError
from modelfactory.parameters.freezing import hold, release


def test_frozen_is_bit_identical_after_training_with_its_statistics():
    cfg = mf.compose(
        "model=cnn", "+freeze.rules.body={match: ['conv*', 'norm1.*']}", "trainer.max_epochs=2", "trainer.device=cpu"
    )
    cfg.trainer.progress = "none"
    plan = mf.plan(cfg)
    before = {name: tensor.clone() for name, tensor in plan.build().state_dict().items()}
    result = mf.train(cfg)
    assert result.model is not None
    after = result.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {name for name in before if name.startswith(("conv", "norm1."))}
    assert frozen.isdisjoint(moved) and {"head.weight", "norm2.running_mean", "norm2.weight"} <= moved
    assert {row.name for row in plan.ledger if not row.trainable} == {
        name for name in frozen if "running" not in name and "num" not in name
    }


def test_frozen_norms_stay_whoever_calls_train():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    mf.freeze(model, ["0.*", "1.*"])
    for held in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        held.train()
        assert not held[1].training and held[2].training
        before = held[1].running_mean.clone()
        held(torch.randn(16, 3) + 5)
        assert torch.equal(held[1].running_mean, before)


def test_a_norm_without_parameters_is_held_with_what_is_around_it():
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False)), nn.Linear(4, 2))
    mf.freeze(model, ["0.*"])
    assert not model.train()[0][1].training


def test_freeze_beside_a_layer_exempts_it_from_rules_by_kind():
    layers = {
        "a": {"_target_": "torch.nn.Linear", "out_features": 3, "freeze": True},
        "b": {"_target_": "torch.nn.Linear", "out_features": 2},
    }
    layers["b"]["freeze"] = False
    config = {"model": {"layers": layers}, "data": {"input_shape": [3]}}
    frozen = {
        name: not p.requires_grad
        for name, p in mf.build({**config, "freeze": {"rules": {"all": {"role": "weight"}}}}).named_parameters()
    }
    assert frozen == {"a.weight": True, "a.bias": True, "b.weight": False, "b.bias": False}
    named = mf.build({**config, "freeze": {"rules": {"b": {"match": "b.*"}}}})
    assert not any(parameter.requires_grad for parameter in named.parameters())


def test_a_rule_that_picks_nothing_is_an_error_with_the_nearest():
    with pytest.raises(ConfigError, match=r"freeze\[0\]: \{match: 0.wieght\} picks no parameter; did you mean '0.weight'"):
        mf.freeze(nn.Sequential(nn.Linear(2, 2)), ["0.wieght"])
    with pytest.raises(ConfigError, match="freeze.rules.x: .*picks no parameter"):
        mf.build(mf.compose("+freeze.rules.x={match: backbone.*}"))


def test_freezing_nothing_changes_nothing():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert mf.freeze(model, [{"role": "embedding", "optional": True}]) == []
    assert all(parameter.requires_grad for parameter in model.parameters()) and model.train()[1].training


def trained(model: nn.Module, x: torch.Tensor, steps: int = 5) -> None:
    """A loop as others write it: train() at every step, and an optimizer that is given everything."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(steps):
        model.train()
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def moved(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


HOW = {"itself": lambda model: model, "copy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_a_foreign_model_trains_in_its_head_alone(how):
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(0)
    model = mobilenet_v3_small(num_classes=3)
    names = mf.freeze(model, ["features.*", {"match": "classifier.0.*"}])
    assert names == [name for name, _ in model.named_parameters() if name.startswith(("features", "classifier.0"))]
    model = how(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained(model, torch.randn(4, 3, 32, 32), steps=2)
    assert moved(model, before) == {"classifier.3.weight", "classifier.3.bias"}


def test_a_norm_that_is_frozen_in_part_goes_on():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    mf.freeze(model, ["0.*", "1.weight"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained(model, torch.randn(8, 3) + 2)
    assert {"1.running_mean", "1.bias"} <= moved(model, before) and "1.weight" not in moved(model, before)


def stochastic_parts():
    """Frozen parts that act by chance in training, as modules and inside of a forward."""
    from torchvision.ops import StochasticDepth

    attention = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5, batch_first=True)
    return {
        "dropout": nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)),
        "rrelu": nn.Sequential(nn.Linear(4, 4), nn.RReLU()),
        "drop path": nn.Sequential(nn.Linear(4, 4), StochasticDepth(0.5, "row")),
        "attention": attention,
    }


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
@pytest.mark.parametrize("part", stochastic_parts().values(), ids=stochastic_parts())
def test_a_part_frozen_whole_is_a_fixed_function_unless_it_is_said(part, how):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4)
    for dropout in (False, True):
        model = nn.Sequential(copy.deepcopy(part), nn.Linear(4, 2))
        mf.freeze(model, ["0.*"], dropout=dropout)
        model = how(model).train()
        model[0].train()
        assert torch.equal(model[0](x), model[0](x)) is not dropout
        assert model[1].training and torch.equal(model.eval()(x), model(x))


def test_dropout_of_a_chain_is_of_the_frozen_part_where_frozen_layers_are_around_it():
    def layer():
        return nn.Linear(4, 4)

    model = nn.Sequential(nn.Dropout(), layer(), nn.Dropout(), layer(), nn.Dropout(), layer(), nn.Dropout(), layer())
    mf.freeze(model, ["1.*", "3.*", "7.*"])
    assert [module.training for module in model.train()] == [False, False, False, False, True, True, True, False]


def test_a_recurrent_layer_without_dropout_may_pass_gradients_on_any_device():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.LSTM(4, 4)), nn.LSTM(4, 4, 2, dropout=0.5))
    mf.freeze(model, ["1.*", "2.*"])
    assert model.train()[1][0].training and not model[2].training and not model.eval()[1][0].training


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_the_vectors_of_a_frozen_spectral_norm_do_not_move(norm):
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Linear(40, 40)), nn.Linear(40, 2))
    mf.freeze(model, ["0.*"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained(model, torch.randn(8, 40))
    assert moved(model, before) == {"1.weight", "1.bias"}


def test_statistics_can_be_let_go_again():
    norm = nn.BatchNorm1d(3)
    hold(norm)
    assert not norm.train().training and not norm.eval().training
    release(norm), release(norm)
    assert norm.train().training and "train" not in vars(norm)


def test_a_frozen_model_compiles_to_the_same_graph_of_names():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    keys = list(model.state_dict())
    mf.freeze(model, "*")
    assert list(model.state_dict()) == keys and type(model[1]) is nn.BatchNorm1d
    assert torch.export.export(model, (torch.zeros(2, 3),)).module()(torch.ones(2, 3)).shape == (2, 4)


WRONG = [
    ({"rule": {}}, "freeze.rule: not a key of freeze; did you mean 'rules'?"),
    ({"rules": {"a": {"mach": "x"}}}, "freeze.rules.a.mach: not a key of a freeze rule; did you mean 'match'?"),
    ({"rules": {"a": {"match": "fc.*", "frozen": "no"}}}, "freeze.rules.a.frozen: 'no' is a text; give true or false"),
    ({"rules": {"a": "fc.*"}}, "freeze.rules.a: 'fc.*' is not a rule"),
    ({"rules": ["fc.*"]}, "freeze.rules: ['fc.*'] is not a mapping"),
    ("fc.*", "freeze: 'fc.*' is not a mapping"),
    ({"rules": {"a": {"role": "wieght"}}}, "freeze.rules.a.role: 'wieght' is not a role; did you mean 'weight'?"),
    ({"rules": {"a": {}}}, "freeze.rules.a: picks nothing"),
    ({"rules": {"a": {"module": "Conv2"}}}, "freeze.rules.a: {module: Conv2} picks no parameter"),
]


@pytest.mark.parametrize(("group", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_group_is_told_with_its_path(group, message):
    layers = {"fc": {"_target_": "torch.nn.Linear", "out_features": 2}}
    with pytest.raises(ConfigError) as caught:
        mf.plan({"model": {"layers": layers}, "data": {"input_shape": [3]}, "freeze": group})
    assert message in str(caught.value)


@pytest.mark.parametrize("what", [[3], [{"match": "a", "scheme": "zeros"}], [{}], [{"role": "x"}]])
def test_an_error_of_freeze_leaves_the_model_trainable(what):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(ConfigError, match=r"freeze\[1\]"):
        mf.freeze(model, ["0.*", *what])
    assert all(parameter.requires_grad for parameter in model.parameters()) and model.train()[1].training


def test_later_rules_win_and_a_rule_of_null_is_none():
    layers = {name: {"_target_": "torch.nn.Linear", "out_features": 2} for name in ("a", "b")}
    rules = {"all": {"match": "*"}, "not_b": {"match": "b.*", "frozen": False}, "gone": None}
    plan = mf.plan({"model": {"layers": layers}, "data": {"input_shape": [3]}, "freeze": {"rules": rules}})
    assert {row.name: row.trainable for row in plan.ledger} == {"a.weight": False, "a.bias": False, "b.weight": True, "b.bias": True}
    assert {name: p.requires_grad for name, p in plan.build().named_parameters()} == {row.name: row.trainable for row in plan.ledger}


def test_tied_weights_are_frozen_by_either_name():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    assert mf.freeze(model, ["b.weight"]) == ["a.weight"] and not model["a"].weight.requires_grad


class PlainStatistics(nn.Module):
    """Norms without parameters, before and after a layer, in a forward of one's own."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.Linear(8, 4)
        self.late = nn.BatchNorm1d(4, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.late(self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3))))


HELD = [
    ({"before": "fc"}, {"bn"}),
    ({"after": "fc"}, {"late"}),
    ({"match": "bn.*"}, {"bn"}),
    ({"match": "*.running_mean"}, {"bn", "late"}),
    ({"role": "norm"}, {"bn", "late"}),
    ({"module": "BatchNorm1d"}, {"late"}),
    ({"match": "fc.*"}, set()),
    ({"match": "bn.*", "before": "conv", "optional": True}, set()),
]


@pytest.mark.parametrize("selector, still", HELD, ids=[str(case[0]) for case in HELD])
def test_statistics_of_norms_without_parameters_are_picked_by_name_class_and_place(selector, still):
    model = PlainStatistics()
    mf.freeze(model, [selector])
    for held in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        held.train()
        before = {name: held.get_submodule(name).running_mean.clone() for name in ("bn", "late")}
        held(torch.randn(8, 3, 10, 10))
        assert {name for name, mean in before.items() if torch.equal(held.get_submodule(name).running_mean, mean)} == still


def test_statistics_move_again_from_the_epoch_that_thaws_them(monkeypatch):
    monkeypatch.setenv("MODELFACTORY_TRUST", __name__)
    target = {"_target_": f"{__name__}.PlainStatistics"}
    rules = {"body": {"before": "fc", "until": {"epoch": 3}}, "late": {"match": "late.*"}}
    built = mf.plan({"model": target, "data": {"input_shape": [3, 10, 10]}, "freeze": {"rules": rules}}).materialize()
    model = built.model
    seen = []
    for epoch in (1, 2, 3):
        built.before_epoch(epoch)
        model.train()
        seen.append((model.get_submodule("bn").training, model.get_submodule("late").training))
    assert seen == [(False, False), (False, False), (True, False)]


@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm], ids=["old", "parametrized"])
def test_the_vectors_of_a_spectral_norm_stay_with_its_frozen_weight(norm):
    model = nn.Sequential(norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    mf.freeze(model, ["0.*weight*"])
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()(torch.randn(3, 4))
    assert before and all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert model.get_parameter("0.bias").requires_grad
