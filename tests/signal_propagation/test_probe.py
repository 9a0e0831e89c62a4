"""What one batch shows, of any module; and that the module does not notice."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import modelfactory as mf
from modelfactory.signal_propagation.measure import measure
from modelfactory.signal_propagation.probe import look, probe
from modelfactory.signal_propagation.verdict import summary


class Functional(nn.Module):
    """A forward of one's own: functional and in-place activations, a residual sum, batch norm, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv1(x)))
        x = x + F.gelu(self.conv2(x))
        return self.head(F.dropout(x.mean((2, 3)), 0.5, self.training))


def by_hand(model: Functional, x: Tensor, weights: Tensor) -> dict[str, tuple[float, ...]]:
    """Second moments of outputs and of their gradients, each call kept apart by a clone."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> Tensor:
        value.retain_grad()
        kept[name] = value
        return value.clone()

    h = keep("conv1", model.conv1(x))
    h = keep("norm", model.norm(h))
    h = keep("act", torch.relu(h))
    branch = keep("conv2", model.conv2(h))
    h = keep("sum", h + F.gelu(branch))
    keep("head", model.head(h.mean((2, 3)))).backward(weights)
    return {
        name: (value.square().mean().item(), value.grad.square().mean().item()) for name, value in kept.items() if value.grad is not None
    }


def test_it_measures_what_a_loop_by_hand_measures():
    torch.manual_seed(0)
    model = Functional().train()
    x = torch.randn(16, 3, 8, 8)
    model.eval()
    model.norm.train()
    table = mf.signal(model, x, seed=3)
    weights = torch.randn(16, 5, generator=torch.Generator().manual_seed(3))
    expected = by_hand(copy.deepcopy(model), x, weights)
    for name, (second, gradient) in expected.items():
        row = next(row for row in table if row.label == "add") if name == "sum" else table[name]
        assert row.measured.forward**2 == pytest.approx(second, rel=1e-4), name
        assert row.measured.gradient**2 == pytest.approx(gradient, rel=1e-4), name


@pytest.mark.parametrize("training", [True, False])
def test_the_module_is_left_as_it_was(training):
    model = Functional().train(training)
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    before = copy.deepcopy(model.state_dict())
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    x, state = torch.randn(4, 3, 8, 8), torch.random.get_rng_state()
    kept = x.clone()
    mf.signal(model, x)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(x, kept) and not x.requires_grad and not hasattr(x, "_signal_node")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(parameter.grad, gradients[name]) for name, parameter in model.named_parameters() if parameter.grad is not None)
    assert all(module.training == training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())


def test_a_module_that_fails_is_left_as_it_was_too():
    model = Functional()
    model.head = nn.Linear(7, 5)
    x = torch.randn(4, 3, 8, 8)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        mf.signal(model, x)
    assert torch.equal(model.norm.running_mean, before["norm.running_mean"])
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_frozen_parameters_do_not_hide_the_gradient():
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 8)).requires_grad_(False)
    for row in mf.signal(model, torch.randn(32, 64)):
        assert row.measured.gradient == pytest.approx(row.predicted.gradient, rel=0.2)


def test_what_is_not_predicted_goes_on_from_what_was_measured():
    class Last(nn.Module):
        def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
            return x[0][:, -1]

    torch.manual_seed(0)
    model = nn.Sequential(nn.LSTM(16, 256, batch_first=True), Last(), nn.Linear(256, 256))
    rows = list(mf.signal(model, torch.randn(64, 5, 16)))
    assert "goes on from what was measured" in rows[0].note
    assert rows[-1].predicted.forward == pytest.approx(rows[-1].measured.forward, rel=0.1)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "convnext_tiny"])
def test_models_of_torchvision_are_predicted_in_every_layer(name):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name)
    if name == "convnext_tiny":
        model.features = model.features[:2]
        model.classifier[0] = nn.LayerNorm([96, 1, 1])
        model.classifier[2] = nn.Linear(96, 10)
    table = mf.signal(model, torch.randn(8, 3, 64, 64))
    assert not any(row.note for row in table)
    ratios = torch.tensor([row.measured.forward / row.predicted.forward for row in table]).log()
    assert ratios.abs().median() < 0.02
    if name == "resnet18":
        backward = torch.tensor([row.measured.gradient / row.predicted.gradient for row in table]).log()
        assert backward.abs().median() < 0.15


def test_a_batch_without_a_tensor_is_refused():
    with pytest.raises(ValueError, match="the example has no tensor"):
        measure(nn.Linear(2, 2), (3,))


def test_what_mends_a_module_is_named_and_mends():
    torch.manual_seed(0)
    layers = [layer for _ in range(25) for layer in (nn.Linear(128, 128), nn.ReLU())]
    model, batch = nn.Sequential(*layers, nn.Linear(128, 10)), torch.randn(64, 128)
    (said,) = mf.signal(model, batch).warnings  # torch's default, whose biases keep a signal that tells nothing
    assert "the gradient vanishes" in said and said.endswith("mf.initialize(model, 'auto', example=batch) is predicted to fix it")
    mf.initialize(model, "auto", example=batch)
    assert mf.signal(model, batch).warnings == ()


def test_a_model_of_doubles_is_measured():
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    table = mf.signal(model, torch.randn(64, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    expected = model[0].weight.square().sum(1).add(model[0].bias.square()).mean().sqrt().item()
    assert table["0"].measured.forward == pytest.approx(expected, rel=0.3)


def test_a_look_gives_the_verdicts_of_a_probe_and_predicts_where_they_hang_on_it():
    torch.manual_seed(0)
    well = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    shut = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    nn.init.constant_(shut[0].bias, -3.0)
    alike = nn.Sequential(*(layer for _ in range(40) for layer in (nn.Linear(32, 32), nn.ReLU())))
    for layer in alike[::2]:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.normal_(layer.bias)
    for model, predicts in ((well, False), (shut, True), (alike, True)):
        x = torch.randn(32, 32)
        seen, whole = look(model, x).table, probe(model, x).table
        assert [repr(row.measured) for row in seen] == [repr(row.measured) for row in whole]
        assert summary(seen) == summary(whole)
        assert any(math.isfinite(row.predicted.forward) for row in seen) is predicts
