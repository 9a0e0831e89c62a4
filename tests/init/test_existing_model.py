"""Parameters that schemes cannot fill as they fill others: integers, complex numbers, expanded and empty ones, sizes to come."""

import math

import pytest
import torch
from torch import Tensor, nn

import modelfactory as mf

WEIGHTS = {"role": "weight", "scheme": "xavier_normal"}


def quantised() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    model[0].weight = nn.Parameter(torch.arange(-32, 32, dtype=torch.int8).reshape(8, 8), requires_grad=False)
    return model


@pytest.mark.parametrize("rule", [WEIGHTS, {"match": "*.weight", "scheme": "zeros"}, {"match": "*", "scheme": "default"}], ids=str)
def test_integers_are_left_as_they_are_and_told(rule):
    model = quantised()
    before = model[0].weight.clone()
    with pytest.warns(UserWarning, match=r"leaves 0\.weight as it is: int8, which no scheme fills"):
        ledger = mf.initialize(model, rule)
    assert torch.equal(model[0].weight, before) and "0.weight" not in {row.name for row in ledger}
    assert ledger["1.weight"].name == "1.weight"


def test_a_rule_that_names_integers_is_an_error():
    with pytest.raises(mf.ModelFactoryError, match=r"0\.weight holds int8, and zeros fills floating-point numbers"):
        mf.initialize(quantised(), {"match": "0.weight", "scheme": "zeros"})


class Codes(nn.Module):
    def __init__(self):
        super().__init__()
        self.codes = nn.Parameter(torch.randint(-128, 128, (8, 8), dtype=torch.int8), requires_grad=False)
        self.step, self.head = nn.Parameter(torch.full((8, 1), 0.01)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x @ (self.codes * self.step).T)


def test_integers_of_a_config_are_accounted_for_as_their_author_made_them(monkeypatch):
    monkeypatch.setenv("MODELFACTORY_TRUST", __name__)
    plan = mf.plan({"model": {"_target_": f"{__name__}.Codes"}, "data": {"input_shape": [8]}, "init": "kaiming_normal"})
    model = plan.build()
    row = plan.ledger["codes"]
    assert (row.dtype, row.origin, row.scheme) == ("int8", "default", "default") and len(model.get_parameter("codes").unique()) > 20


class Waves(nn.Module):
    """Complex weights on the spectrum of a signal."""

    def __init__(self, dtype: torch.dtype = torch.complex64):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(128, 96, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x, norm="ortho").to(self.weight.dtype) @ self.weight, n=190)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize(
    "scheme, mean, std",
    [
        ({"scheme": "normal", "std": 0.5}, 0, 0.5),
        ({"scheme": "normal", "mean": 2.0, "std": 0.1}, 2, 0.1),
        ({"scheme": "uniform", "a": -1.0, "b": 1.0}, 0, 1 / math.sqrt(3)),
        ({"scheme": "xavier_normal"}, 0, math.sqrt(2 / 224)),
        ({"scheme": "constant", "val": 3.0}, 3, 0),
    ],
    ids=["normal", "around 2", "uniform", "xavier", "constant"],
)
def test_complex_numbers_have_both_parts_with_the_variance_of_the_scheme(scheme, mean, std, dtype):
    model = Waves(dtype)
    row = mf.initialize(model, {"match": "weight", **scheme}, example=torch.empty(2, 254))["weight"]
    weight = model.weight.detach() - mean
    error = 5 * std / math.sqrt(2 * weight.numel())
    assert abs(float(weight.real.std()) - std / math.sqrt(2)) <= error and abs(float(weight.imag.std()) - std / math.sqrt(2)) <= error
    correlation = float((weight.real * weight.imag).mean())
    assert abs(correlation) <= 5 * std**2 / 2 / math.sqrt(weight.numel())
    assert (row.std, row.mean) == (pytest.approx(std, rel=0.03), pytest.approx(mean, abs=0.02))
    assert row.expected_std == pytest.approx(std)


def test_matrices_that_are_real_by_definition_are_refused_for_complex_numbers():
    with pytest.raises(mf.ModelFactoryError, match="orthogonal draws matrices that are real, and weight is complex"):
        mf.initialize(Waves(), {"match": "weight", "scheme": "orthogonal"})


def test_an_expanded_parameter_is_refused_before_anything_is_overwritten():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    model[1].weight = nn.Parameter(torch.ones(1, 4).expand(3, 4))
    before = model[0].weight.clone()
    with pytest.raises(mf.ModelFactoryError, match=r"1\.weight of shape \(3, 4\) is expanded"):
        mf.initialize(model, WEIGHTS)
    assert torch.equal(model[0].weight, before)


class Empty(nn.Module):
    def __init__(self):
        super().__init__()
        self.none, self.head = nn.Linear(0, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.none(x[:, :0]))


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("init", ["default", "kaiming_normal"])
def test_a_layer_without_inputs_is_initialised_as_torch_does(init, monkeypatch):
    monkeypatch.setenv("MODELFACTORY_TRUST", __name__)
    plan = mf.plan({"model": {"_target_": f"{__name__}.Empty"}, "data": {"input_shape": [4]}, "init": init})
    assert not plan.build().get_parameter("none.bias").any() and plan.ledger["none.bias"].expected_std == 0


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_sizes_that_come_with_the_first_batch_are_an_error_that_names_the_layers(monkeypatch):
    monkeypatch.setenv("MODELFACTORY_TRUST", __name__)
    with pytest.raises(mf.ConfigError, match=r"Lazy has net\.1 \(LazyLinear\), net\.2 \(LazyBatchNorm1d\), whose size comes"):
        mf.plan({"model": {"_target_": f"{__name__}.Lazy"}, "data": {"input_shape": [3, 4]}})
    with pytest.raises(mf.ConfigError, match=r"net\.1\.weight has no shape before the model's first batch"):
        mf.initialize(Lazy(), "xavier_normal")
