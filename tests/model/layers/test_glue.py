"""The small layers that chains need, against what one would write by hand."""

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.model.layers.glue import Item, Permute, PositionalEmbedding, Reduce, Select, SelfAttention

X = torch.arange(30.0).reshape(2, 5, 3)

SAME = [
    (Item(0), (X, 1), X),
    (Item(-1), (1, X), X),
    (Select(), X, X[:, -1]),
    (Select(dim=2, index=1), X, X[:, :, 1]),
    (Permute([0, 2, 1]), X, X.transpose(1, 2)),
    (Reduce(), X, X.mean(1)),
    (Reduce(dim=-1, how="sum"), X, X.sum(-1)),
    (Reduce(dim=2, how="max"), X, X.max(2).values),
]


@pytest.mark.parametrize(("module", "given", "expected"), SAME, ids=lambda value: repr(value) if isinstance(value, nn.Module) else "")
def test_they_do_what_they_say(module, given, expected):
    assert torch.equal(module(given), expected) and not module.state_dict()


def test_positions_are_added_and_drawn_at_their_std():
    torch.manual_seed(0)
    layer = PositionalEmbedding(length=50, embedding_dim=40, std=0.5)
    x = torch.randn(3, 50, 40)
    assert torch.equal(layer(x), x + layer.position_embedding) and layer.position_embedding.shape == (1, 50, 40)
    assert layer.position_embedding.std().item() == pytest.approx(0.5, rel=0.06)
    with pytest.raises(RuntimeError):
        layer(torch.randn(3, 49, 40))


def test_self_attention_is_attention_of_its_input_on_itself():
    layer = SelfAttention(6, 2, batch_first=True).eval()
    x = torch.randn(2, 5, 6)
    output, weights = layer(x)
    theirs = nn.MultiheadAttention(6, 2, batch_first=True).eval()
    theirs.load_state_dict(layer.state_dict())
    assert weights is None and torch.allclose(output, theirs(x, x, x)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda: Reduce(how="median"), "how is 'median'; give mean, sum or max"), (lambda: PositionalEmbedding(2, 3, -1.0), "std is -1")],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_in_a_config():
    layers = {
        "turn": {"_target_": "modelfactory.Permute", "dims": [0, 2, 1]},
        "position": {"_target_": "modelfactory.PositionalEmbedding"},
        "mean": {"_target_": "modelfactory.Reduce", "how": "max"},
    }
    model = mf.build({"model": {"layers": layers}, "data": {"input_shape": [3, 5]}, "init": "default"})
    assert list(model.state_dict()) == ["position.position_embedding"] and model.position.position_embedding.shape == (1, 5, 3)
    x = torch.randn(2, 3, 5)
    assert torch.equal(model(x), (x.transpose(1, 2) + model.get_parameter("position.position_embedding")).amax(1))
