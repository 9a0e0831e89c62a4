"""Groups of the optimizer: named ones, layer-wise decay, no weight decay by role, and the model's own scales."""

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.config.compose import to_plain
from modelfactory.config.errors import ConfigError
from modelfactory.training.optimizer import build_optimizer
from modelfactory.training.trainer import train_model
from modelfactory.training.training_spec import training_spec

BASE = {"_target_": "torch.optim.AdamW", "lr": 0.1, "weight_decay": 0.3}


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))


def each(model, optimizer):
    """Group, learning rate and weight decay of each parameter."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert name_of[id(parameter)] not in found
            found[name_of[id(parameter)]] = (group["name"], round(group["lr"], 12), group["weight_decay"])
    return found


def test_layer_decay_multiplies_from_the_head_down():
    model = net()
    found = each(model, build_optimizer(training_spec({**BASE, "layer_decay": 0.5}).optimizer, model))
    assert found == {
        "0.weight": ("default.layer0", 0.025, 0.3),
        "0.bias": ("default.layer0", 0.025, 0.3),
        "1.weight": ("default.layer0", 0.025, 0.3),
        "1.bias": ("default.layer0", 0.025, 0.3),
        "3.weight": ("default.layer1", 0.05, 0.3),
        "3.bias": ("default.layer1", 0.05, 0.3),
        "4.weight": ("default.layer2", 0.1, 0.3),
        "4.bias": ("default.layer2", 0.1, 0.3),
    }


def test_all_of_it_goes_together():
    model = net()
    groups = {"body": {"match": "0.*", "lr_scale": 0.1}, "mid": {"match": "3.*", "lr": 1.0, "weight_decay": 0.5}}
    config = {**BASE, "layer_decay": 0.5, "no_decay": ["norm", "bias"], "groups": groups}
    optimizer = build_optimizer(training_spec(config).optimizer, model)
    assert each(model, optimizer) == {
        "1.weight": ("default.layer0.no_decay", 0.025, 0.0),
        "1.bias": ("default.layer0.no_decay", 0.025, 0.0),
        "4.weight": ("default.layer2", 0.1, 0.3),
        "4.bias": ("default.layer2.no_decay", 0.1, 0.0),
        "0.weight": ("body.layer0", 0.0025, 0.3),
        "0.bias": ("body.layer0.no_decay", 0.0025, 0.0),
        "3.weight": ("mid.layer1", 0.5, 0.5),
        "3.bias": ("mid.layer1.no_decay", 0.5, 0.0),
    }
    assert [group["name"].partition(".")[0] for group in optimizer.param_groups] == ["default"] * 3 + ["body"] * 2 + ["mid"] * 2


def test_the_steps_are_those_of_groups_by_hand():
    torch.manual_seed(0)
    ours, theirs, x = net(), net(), torch.randn(16, 4)
    theirs.load_state_dict(ours.state_dict())
    base = {**BASE, "_target_": "torch.optim.SGD", "momentum": 0.9}
    optimizer = build_optimizer(training_spec({**base, "layer_decay": 0.5, "no_decay": ["norm", "bias"]}).optimizer, ours)
    by_hand = torch.optim.SGD(
        [
            {"params": [p], "lr": 0.1 * 0.5 ** (2 - layer), "weight_decay": 0.3 if p.ndim > 1 else 0.0}
            for layer, modules in enumerate(([theirs[0], theirs[1]], [theirs[3]], [theirs[4]]))
            for module in modules
            for p in module.parameters()
        ],
        momentum=0.9,
    )
    for _ in range(5):
        for model, torchs in ((ours, optimizer), (theirs, by_hand)):
            torchs.zero_grad()
            model(x).square().mean().backward()
            torchs.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_ledger_says_the_groups_that_the_optimizer_has():
    cfg = to_plain(mf.compose("model=vit", "+optimizer.layer_decay=0.75", "+optimizer.no_decay=[norm, bias, embedding]"))
    plan = mf.plan(cfg)
    model = plan.build()
    optimizer = build_optimizer(training_spec(cfg["optimizer"]).optimizer, model)
    assert {row.name: row.group for row in plan.ledger} == {name: place[0] for name, place in each(model, optimizer).items()}
    assert plan.ledger["blocks.0.mlp.fc1.bias"].group == "default.layer1.no_decay"
    assert plan.ledger["positions.position_embedding"].group == "default.layer0.no_decay"


def test_frozen_layers_are_counted_too():
    model = net()
    mf.freeze(model, ["0.*", "1.*"])
    optimizer = build_optimizer(training_spec({**BASE, "layer_decay": 0.5}).optimizer, model)
    assert each(model, optimizer)["3.weight"] == ("default.layer1", 0.05, 0.3)


def test_metrics_have_the_learning_rate_before_any_scale(tmp_path):
    from modelfactory.data import build_data

    data = build_data({"_target_": "modelfactory.data.digits"})
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    settings = {"max_epochs": 2, "device": "cpu", "progress": "none", "limit_batches": 1}
    scheduler = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "eta_min": 0.01}
    result = train_model(model, data, training_spec({**BASE, "layer_decay": 0.1}, scheduler, settings))
    assert [row["lr"] for row in result.history] == [0.1, pytest.approx(0.055)]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layer_decay": 0}, "optimizer.layer_decay: 0 is too small; give a number > 0 and <= 1, or null"),
        ({"layer_decay": 1.5}, "optimizer.layer_decay: 1.5 is too large"),
        ({"layer_decay": "0.75"}, "optimizer.layer_decay: '0.75' is a text"),
        ({"layer_decai": 0.75}, "optimizer.layer_decai: .*did you mean 'layer_decay'"),
        ({"no_decay": True}, "optimizer.no_decay: True is true or false; give a list of texts"),
        ({"no_decay": ["norms"]}, "optimizer.no_decay: 'norms' is not a role; did you mean 'norm'"),
        ({"_target_": "torch.optim.Rprop", "no_decay": ["bias"]}, "weight decay, which Rprop has not"),
    ],
)
def test_a_wrong_value_is_told(keys, message):
    base = {key: value for key, value in BASE.items() if "_target_" not in keys or key != "weight_decay"}
    with pytest.raises(ConfigError, match=message):
        build_optimizer(training_spec({**base, **keys}).optimizer, net())
