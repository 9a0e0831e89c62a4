"""Residual and Parallel, as modules that a person may use without a config."""

import copy

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.model.layers.containers import Parallel, Residual


def fc(n: int = 4, m: int = 4) -> nn.Linear:
    return nn.Linear(n, m)


X = torch.linspace(-1, 1, 12).reshape(3, 4)


def test_residual_is_the_sum_of_its_branch_and_its_input():
    block = Residual({"a": fc(), "act": nn.Tanh(), "b": fc()})
    assert torch.equal(block(X), X + block.b(torch.tanh(block.a(X)))) and list(block.state_dict())[0] == "a.weight"


def test_a_shortcut_wherever_it_stands_is_the_other_way():
    for names in (("shortcut", "a", "b"), ("a", "shortcut", "b"), ("a", "b", "shortcut")):
        block = Residual({name: fc() for name in names}, scale=0.5)
        assert torch.equal(block(X), block.shortcut(X) + 0.5 * block.b(block.a(X)))


@pytest.mark.parametrize("scale", [0.0, -2.0, 0.3])
def test_a_fixed_scale_has_no_parameter(scale):
    block = Residual({"a": fc()}, scale=scale)
    assert torch.equal(block(X), X + scale * block.a(X)) and [name for name, _ in block.named_parameters()] == ["a.weight", "a.bias"]


@pytest.mark.parametrize(("options", "shape"), [({}, ()), ({"channels": 4}, (4,)), ({"channels": 5, "channel_dim": -3}, (5, 1, 1))])
def test_a_learned_scale_starts_where_it_is_told_and_learns(options, shape):
    block = Residual({"a": nn.Identity()}, learn_scale=0.25, **options)
    assert block.scale.shape == shape and bool((block.scale == 0.25).all())
    x = torch.randn(2, 5, 4, 4)
    assert torch.allclose(block(x), 1.25 * x)
    block(x).sum().backward()
    assert block.scale.grad.shape == shape
    block.scale.data.fill_(9), block.reset_parameters()
    assert bool((block.scale == 0.25).all())


def test_rezero_is_the_identity_at_first_and_its_scale_has_a_gradient():
    block = Residual({"a": fc()}, learn_scale=0.0)
    assert torch.equal(block(X), X)
    block(X).square().sum().backward()
    assert block.scale.grad.abs() > 0 and not block.a.weight.grad.any()


def test_parallel_by_cat_and_by_sum():
    a, b, c = fc(4, 2), fc(4, 2), fc(4, 2)
    both = {"a": a, "b": b, "c": c}
    assert torch.equal(Parallel(both)(X), torch.cat([a(X), b(X), c(X)], 1))
    assert torch.equal(Parallel(both, "cat", dim=0)(X), torch.cat([a(X), b(X), c(X)], 0))
    assert torch.equal(Parallel(both, "sum")(X), a(X) + b(X) + c(X))
    one = Parallel({"a": a}, "sum")
    out = one(X)
    assert torch.equal(out, a(X))


def test_sum_changes_no_branch_in_place():
    kept = []

    class Keeps(nn.Module):
        def forward(self, x):
            kept.append(x * 2)
            return kept[-1]

    Parallel({"a": Keeps(), "b": Keeps()}, "sum")(X)
    assert torch.equal(kept[0], X * 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Residual({"a": fc()}, scale=1.0, learn_scale=1.0), "give scale .fixed. or learn_scale .learned., not both"),
        (lambda: Residual({}), "the branch has no layer"),
        (lambda: Residual({"shortcut": fc()}), "the branch has no layer"),
        (lambda: Parallel({}), "there is no branch"),
        (lambda: Parallel({"a": fc()}, "stack"), "combine is 'stack'; give cat or sum"),
    ],
)
def test_what_makes_no_container_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_they_copy_export_and_are_named_by_the_package():
    model = nn.Sequential(mf.Residual({"a": fc()}, learn_scale=0.5), mf.Parallel({"a": fc(4, 2), "b": nn.Identity()}))
    exported = torch.export.export(model, (X,)).module()
    for other in (copy.deepcopy(model), exported):
        assert torch.allclose(other(X), model(X))
    assert "scale=learned()" in repr(model) and "combine=cat, dim=1" in repr(model)


def test_the_last_matrix_of_a_branch_is_known_to_rules():
    model = nn.Sequential(Residual({"a": fc(), "b": fc(), "act": nn.ReLU(), "shortcut": fc()}))
    ledger = mf.initialize(model, {"role": "residual_out", "scheme": "zeros"})
    assert [row.name for row in ledger] == ["0.b.weight", "0.b.bias"] and torch.equal(model(X), model[0].shortcut(X))
