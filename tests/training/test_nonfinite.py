import pytest
import torch
from torch import nn

from modelfactory.training.nonfinite import not_finite


class Blow(nn.Module):
    def forward(self, x):
        return x * float("inf")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Linear(3, 3), Blow(), nn.Linear(3, 3)], "that of layer '1' \\(Blow\\); a smaller"),
        ([nn.Linear(3, 3), nn.Sequential(nn.ReLU(), Blow())], "that of layer '1.1' \\(Blow\\)"),
        ([nn.Linear(3, 3), nn.BatchNorm1d(3)], "every layer's output is finite, so it is the loss itself"),
    ],
)
def test_the_first_layer_with_an_output_that_is_not_finite_is_named(layers, message):
    error = not_finite(nn.Sequential(*layers), torch.ones(4, 3), float("nan"), step=7, epoch=2)
    with pytest.raises(type(error), match=f"the loss is nan at step 7 \\(epoch 2\\): .*{message}"):
        raise error


def test_a_parameter_that_is_not_finite_is_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    nn.init.constant_(model.get_parameter("1.bias"), float("inf"))
    assert "layer '1' (Linear), whose parameter '1.bias' is not finite" in str(
        not_finite(model, torch.ones(4, 3), 1.0, step=1, epoch=1)
    )


def test_the_layer_whose_half_precision_overflows_is_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    nn.init.constant_(model.get_parameter("1.weight"), 1e5)
    error = not_finite(model, torch.ones(4, 3), float("nan"), step=1, epoch=1, autocast=torch.autocast("cpu", torch.float16))
    assert "that of layer '1' (Linear)" in str(error)


def test_the_input_is_blamed_first():
    x = torch.ones(4, 3)
    x[2, 0] = float("nan")
    assert "the input is not finite in 1 of 4 samples" in str(not_finite(nn.Sequential(Blow()), x, 1.0, step=1, epoch=1))


def test_the_target_is_blamed_before_the_layers():
    y = torch.zeros(4, 2)
    y[1, 1] = y[3, 0] = float("nan")
    message = str(not_finite(nn.Sequential(nn.Linear(3, 2)), torch.ones(4, 3), float("nan"), step=1, epoch=1, y=y))
    assert message.endswith("the target is not finite in 2 of 4 samples; leave them out of the data set")
    classes = not_finite(nn.Sequential(Blow()), torch.ones(4, 3), 1.0, step=1, epoch=1, y=torch.zeros(4).long())
    assert "layer '0' (Blow)" in str(classes)


def test_tuples_are_looked_into_and_integers_passed_over():
    model = nn.LSTM(3, 2)
    nn.init.constant_(model.get_parameter("weight_hh_l0"), float("nan"))
    assert "the model (LSTM), whose parameter 'weight_hh_l0'" in str(not_finite(model, torch.ones(4, 3), 1.0, step=1, epoch=1))
    embedding = nn.Sequential(nn.Embedding(5, 2), Blow())
    assert "layer '1' (Blow)" in str(not_finite(embedding, torch.tensor([1, 2]), 1.0, step=1, epoch=1))


def test_buffers_and_hooks_are_as_before():
    model = nn.Sequential(nn.BatchNorm1d(3), Blow())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    not_finite(model, torch.randn(4, 3), 1.0, step=1, epoch=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
