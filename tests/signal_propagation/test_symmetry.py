"""Layers whose units start equal and stay equal, told before training; and that it is so."""

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.init.fill import measure
from modelfactory.model.layers.containers import Residual
from modelfactory.parameters.roles import describe
from modelfactory.signal_propagation.symmetry import find_symmetric


def said(model: nn.Module) -> list[str]:
    infos = describe(model)
    return find_symmetric(infos, [measure(info.parameter)[1] for info in infos])


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def test_a_random_model_is_none():
    assert said(chain()) == []


@pytest.mark.parametrize(("value", "why"), [(0.0, "all of its weights are 0, so no signal"), (0.3, "all of its weights are equal")])
def test_a_constant_layer_is_symmetric(value, why):
    model = chain()
    nn.init.constant_(model[2].weight, value), nn.init.zeros_(model[2].bias)
    (text,) = said(model)
    assert text.startswith("the 8 units of 2 are symmetric: ") and why in text


def test_all_are_named_in_one_line():
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(7)))
    for layer in model:
        nn.init.ones_(layer.weight)
    (text,) = said(model)
    assert "the 4 units of 0 are symmetric" in text and "(so are those of 1, 2, 3, ...)" in text


def test_what_can_become_different_all_the_same_is_not_told():
    model = chain()
    nn.init.zeros_(model[4].weight), nn.init.zeros_(model[4].bias)  # the head
    assert said(model) == []
    model = chain()
    nn.init.zeros_(model[2].weight), nn.init.normal_(model[2].bias)  # biases tell its units apart
    assert said(model) == []
    zero_end = nn.Sequential(nn.Linear(4, 4), Residual({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}), nn.Linear(4, 2))
    nn.init.zeros_(zero_end[1].b.weight), nn.init.zeros_(zero_end[1].b.bias)
    assert said(zero_end) == []
    single = nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 3))
    nn.init.ones_(single[0].weight), nn.init.zeros_(single[0].bias)
    assert said(single) == []


def test_units_of_a_transposed_convolution_are_its_second_dimension():
    model = nn.Sequential(nn.ConvTranspose2d(5, 3, 2), nn.Flatten(), nn.Linear(27, 2))
    nn.init.ones_(model[0].weight), nn.init.zeros_(model[0].bias)
    assert "the 3 units of 0" in said(model)[0]


def test_numbers_that_are_not_there_are_not_judged():
    infos = describe(chain())
    assert find_symmetric(infos, [float("nan")] * len(infos)) == []


def test_symmetric_units_stay_the_same_unit_in_training():
    model = chain()
    nn.init.constant_(model[0].weight, 0.2), nn.init.zeros_(model[0].bias)
    nn.init.constant_(model[2].weight, 0.2), nn.init.zeros_(model[2].bias)
    assert said(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.randn(64, 4), torch.randint(0, 2, (64,))
    for _ in range(20):
        optimizer.zero_grad(), nn.functional.cross_entropy(model(x), y).backward(), optimizer.step()
    rows = model[2].weight.detach()
    assert torch.allclose(rows.std(1), torch.zeros(8), atol=1e-6)


def test_what_was_drawn_is_warned_of():
    layers = {"a": {"_target_": "torch.nn.Linear", "out_features": 5}, "b": {"_target_": "torch.nn.Linear", "out_features": 2}}
    plan = mf.plan({"model": {"layers": layers}, "data": {"input_shape": [3]}, "init": "zeros"})
    assert any("the 5 units of a are symmetric" in warning for warning in plan.materialize().warnings)
