"""An optimizer's state goes to parameters by name, whatever their order and groups."""

import pytest
import torch
from torch import nn

from modelfactory.config.errors import ConfigError
from modelfactory.training.checkpoint import read_state, save_state
from modelfactory.training.optimizer_state import load_named_state, named_state

KINDS = {
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "Adam": {"lr": 0.1, "amsgrad": True},
    "AdamW": {"lr": 0.1, "fused": True},
    "RMSprop": {"lr": 0.1, "momentum": 0.9, "centered": True},
    "Adagrad": {"lr": 0.1},
    "Adadelta": {"lr": 0.1},
    "Adafactor": {"lr": 0.1},
    "NAdam": {"lr": 0.1},
    "Rprop": {"lr": 0.1},
    "ASGD": {"lr": 0.1},
}


def net(sizes=(4, 4)):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, sizes[0]), nn.Linear(sizes[0], sizes[1]))


def step(model, optimizer, times=3):
    for number in range(times):
        optimizer.zero_grad()
        model(torch.full((2, 4), 1.0 + number)).pow(2).sum().backward()
        optimizer.step()


def of(kind, model, groups, **options):
    """An optimizer over groups of names."""
    named = dict(model.named_parameters())
    return getattr(torch.optim, kind)([{"params": [named[name] for name in names]} for names in groups], **options)


WHOLE = [["0.weight", "0.bias", "1.weight", "1.bias"]]
PARTS = [["1.bias", "0.weight"], ["1.weight"], ["0.bias"]]


@pytest.mark.parametrize("kind", KINDS)
def test_other_groups_and_another_order_go_on_with_the_same_bits(tmp_path, kind):
    torch_model, ours = net(), net()
    for model in (torch_model, ours):
        optimizer = of(kind, model, WHOLE, **KINDS[kind])
        step(model, optimizer)
        if model is torch_model:
            step(model, optimizer)
    save_state(tmp_path / "s", named_state(optimizer, ours))
    again = of(kind, ours, PARTS, **KINDS[kind])
    assert load_named_state(again, ours, read_state(tmp_path / "s"), "run") == []
    step(ours, again)
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in torch_model.state_dict().items())


def test_the_state_is_in_the_order_of_the_names_whenever_each_was_made():
    model = net()
    optimizer = of("SGD", model, WHOLE, lr=0.1, momentum=0.9)
    model[0].requires_grad_(False)
    step(model, optimizer)
    model[0].requires_grad_(True)
    step(model, optimizer)
    assert list(named_state(optimizer, model)["state"]) == WHOLE[0]


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)
def test_a_parameter_without_momentum_beside_one_with_it_begins_at_0(options):
    model = net()
    optimizer = of("SGD", model, [["0.weight"]], lr=0.1, momentum=0.9, **options)
    step(model, optimizer)
    again = of("SGD", model, WHOLE, lr=0.1, momentum=0.9, **options)
    (note,) = load_named_state(again, model, named_state(optimizer, model), "run")
    assert note == "0.bias, 1.weight, 1.bias did not train before, and begins without the optimizer's state"
    step(model, again)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_parameter_of_another_shape_is_refused_with_both_sides():
    one, other = net(), net((4, 5))
    state = named_state(of("Adam", one, WHOLE, lr=0.1), one)
    with pytest.raises(
        ConfigError, match=r"optimizer: the state of Adam belongs to other parameters: 1.weight is \[5, 4\] .* \[4, 4\] .* in run"
    ):
        load_named_state(of("Adam", other, WHOLE, lr=0.1), other, state, "run")


def test_what_an_optimizer_would_keep_and_there_is_not_is_refused_and_what_it_does_not_keep_is_dropped():
    model = net()
    plain, full = (of("Adam", model, WHOLE, lr=0.1, amsgrad=amsgrad) for amsgrad in (False, True))
    step(model, plain)
    step(model, full)
    with pytest.raises(ConfigError, match="optimizer.amsgrad: .* Adam then keeps 'max_exp_avg_sq' of each parameter, and run has none"):
        load_named_state(of("Adam", model, WHOLE, lr=0.1, amsgrad=True), model, named_state(plain, model), "run", ["optimizer.amsgrad"])
    again = of("Adam", model, WHOLE, lr=0.1)
    load_named_state(again, model, named_state(full, model), "run", ["optimizer.amsgrad"])
    assert set(again.state[model[0].weight]) == {"step", "exp_avg", "exp_avg_sq"}
