"""Which activation acts on a layer: through modules, through functions, and where it cannot be known."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import modelfactory as mf
from modelfactory.config.errors import ConfigError
from modelfactory.init.input_activation import find_acting
from modelfactory.model.layers.containers import Parallel, Residual
from modelfactory.numerics.activation import gain

LINEAR, RELU, LEAKY, TANH = 1.0, 2**0.5, 1.3867504905630728, gain("tanh")


class Bent(nn.Module):
    """An activation that nobody has seen before."""

    def forward(self, x):
        return x * torch.sigmoid(1.7 * x) + 0.1 * torch.sin(x)


def gains(model: nn.Module, *shape: int) -> dict[str, float]:
    """The gain of what acts on each weight; NaN where it is not known."""
    found = find_acting(model, {"": torch.Size(shape)} if shape else None)
    names = {id(parameter): name for name, parameter in model.named_parameters() if name.endswith("weight")}
    assert set(names) <= set(found)
    unknown = float("nan")
    return {
        name: unknown if not (one := found[key]).known else LINEAR if one.activation is None else gain(one.activation)
        for key, name in names.items()
    }


BETWEEN = [
    ([nn.ReLU()], RELU),
    ([nn.ReLU(inplace=True)], RELU),
    ([nn.LeakyReLU(0.2)], LEAKY),
    ([nn.GELU()], gain("gelu")),
    ([nn.Tanh()], TANH),
    ([nn.PReLU()], gain(nn.LeakyReLU(0.25))),
    ([Bent()], gain(Bent())),
    ([], LINEAR),
    ([nn.ReLU(), nn.Dropout(), nn.Unflatten(1, (2, 3)), nn.Flatten()], RELU),
    ([nn.ReLU(), nn.Identity()], RELU),
    ([nn.Tanh(), nn.ReLU()], RELU),
    ([nn.ReLU(), nn.LayerNorm(6)], LINEAR),
    ([nn.ReLU(), nn.LayerNorm(6, elementwise_affine=False)], LINEAR),
    ([nn.ReLU(), nn.BatchNorm1d(6, affine=False, track_running_stats=False)], LINEAR),
    ([nn.LayerNorm(6), nn.ReLU()], RELU),
    ([nn.ReLU(), nn.Softmax(-1)], LINEAR),
    ([Residual({"fc": nn.Linear(6, 6), "act": nn.ReLU()})], LINEAR),
    ([Residual({"act": nn.ReLU()}), nn.Tanh()], TANH),
    ([Parallel({"a": nn.Sequential(nn.Linear(6, 3), nn.ReLU()), "b": nn.Sequential(nn.Linear(6, 3), nn.ReLU())})], RELU),
    ([Parallel({"a": nn.Sequential(nn.Linear(6, 3), nn.ReLU()), "b": nn.Sequential(nn.Linear(6, 3), nn.Tanh())})], LINEAR),
    ([Parallel({"a": nn.ReLU(), "b": nn.ReLU()}, "sum")], LINEAR),
    ([Parallel({"a": nn.LeakyReLU(0.2), "b": nn.LeakyReLU(0.5)})], LINEAR),
]


@pytest.mark.parametrize(
    ("between", "expected"),
    BETWEEN,
    ids=lambda value: "-".join(type(m).__name__ for m in value) if isinstance(value, list) else "",
)
def test_of_the_modules_between_two_layers(between, expected):
    found = gains(nn.Sequential(nn.Linear(6, 6), *between, nn.Linear(6, 6)))
    names = list(found)
    assert found[names[0]] == LINEAR and found[names[-1]] == pytest.approx(expected)


def test_pooling_lets_an_activation_through():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 2), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten())
    model.append(nn.Linear(2, 2))
    assert list(gains(model).values()) == pytest.approx([LINEAR, gain("gelu"), TANH])


class Own(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.between = between

    def forward(self, x):
        return self.second(self.between(self.first(x)))


CALLED = {
    "F.relu": (F.relu, RELU),
    "in place by position": (lambda x: F.relu(x, True), RELU),
    "torch.relu": (torch.relu, RELU),
    "method": (lambda x: x.relu(), RELU),
    "in-place method": (lambda x: x.relu_(), RELU),
    "leaky": (lambda x: F.leaky_relu(x, 0.2), LEAKY),
    "leaky by name": (lambda x: F.leaky_relu(x, negative_slope=0.2, inplace=True), LEAKY),
    "tanh": (torch.tanh, TANH),
    "elu": (lambda x: F.elu(x, alpha=0.5), gain(nn.ELU(0.5))),
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), gain(nn.GELU("tanh"))),
    "dropout": (lambda x: F.dropout(F.relu(x), 0.5), RELU),
    "views": (lambda x: F.relu(x).view(-1, 2, 3).transpose(1, 2).reshape(-1, 6), RELU),
    "halves": (lambda x: torch.cat(F.relu(x).chunk(2, -1), -1), RELU),
    "two kinds": (lambda x: torch.cat([F.relu(x[:, :3]), torch.tanh(x[:, 3:])], -1), LINEAR),
    "two slopes": (lambda x: torch.cat([F.leaky_relu(x[:, :3], 0.2), F.leaky_relu(x[:, 3:], 0.5)], -1), LINEAR),
    "norm": (lambda x: F.layer_norm(F.relu(x), (6,)), LINEAR),
    "sum": (lambda x: x + F.relu(x), LINEAR),
    "softmax": (lambda x: F.softmax(x, -1), LINEAR),
    "nothing": (lambda x: x, LINEAR),
    "module": (nn.LeakyReLU(0.2, inplace=True), LEAKY),
    "chain": (nn.Sequential(nn.ReLU(), nn.Dropout()), RELU),
    "prelu": (nn.PReLU(), gain(nn.LeakyReLU(0.25))),
    "unseen": (Bent(), gain(Bent())),
}


@pytest.mark.parametrize("name", CALLED)
def test_of_what_is_called_in_a_forward_of_ones_own(name):
    between, expected = CALLED[name]
    found = gains(Own(between), 2, 6)
    assert found["first.weight"] == LINEAR and found["second.weight"] == pytest.approx(expected, rel=1e-6)


def test_an_own_module_in_a_chain_is_given_what_acts_before_it():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), Own(torch.tanh))
    found = find_acting(model, {"2": torch.Size((2, 6))})
    assert found[id(model[2].first.weight)].source == "1 (ReLU)"
    assert gain(found[id(model[2].second.weight)].activation) == pytest.approx(TANH)


def test_recurrent_weights_see_their_own_state():
    relu, lstm = nn.RNN(3, 4, nonlinearity="relu"), nn.LSTM(3, 4)
    found = find_acting(nn.Sequential(nn.ReLU(), relu))
    assert gain(found[id(relu.weight_hh_l0)].activation) == gain(found[id(relu.weight_ih_l0)].activation) == pytest.approx(RELU)
    assert find_acting(lstm)[id(lstm.weight_hh_l0)].activation is None


def test_looking_changes_nothing_and_takes_no_memory_of_the_model():
    model = Own(nn.ReLU())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    gains(model.eval(), 2, 6)
    assert torch.equal(state, torch.get_rng_state()) and not model.training and not model.between._forward_hooks
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Branches(nn.Module):
    """Its way depends on values: it is run with numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = self.first(x)
        return self.second(F.relu(x) if x.sum() > 0 else x)


class Unrunnable(Branches):
    """No input of any shape comes through it."""

    def forward(self, x):
        raise NotImplementedError("there is no forward yet")


def test_a_way_that_depends_on_values_is_run_with_numbers_and_an_unknown_input_is_found_by_trying():
    assert gains(Branches(), 2, 6)["second.weight"] in (LINEAR, pytest.approx(RELU))
    assert gains(Own(F.relu))["second.weight"] == pytest.approx(RELU)


@pytest.mark.parametrize("example", [torch.zeros(2, 6), None])
@pytest.mark.parametrize("model", [Unrunnable()])
def test_what_cannot_be_known_is_an_error_and_changes_nothing(model, example):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match="rules.rule.gain: auto: what acts on second.weight is not known") as caught:
        mf.initialize(model, {"match": "second.weight", "scheme": "xavier_normal", "gain": "auto"}, example=example)
    assert "give data.input_shape, or the gain as a number" in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_in_torchvisions_models():
    import torchvision

    resnet = torchvision.models.resnet18(num_classes=3)
    found = gains(resnet, 2, 3, 64, 64)
    assert found["conv1.weight"] == LINEAR and found["layer1.0.conv1.weight"] == pytest.approx(RELU)  # through the pool
    assert found["layer1.0.conv2.weight"] == found["layer2.0.downsample.0.weight"] == found["fc.weight"] == pytest.approx(RELU)
    assert found["bn1.weight"] == LINEAR
