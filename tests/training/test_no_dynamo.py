"""Each case runs in a process of its own, for what it measures is what a process has imported."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import modelfactory.training.no_dynamo
from modelfactory.training.no_dynamo import eager_step, eager_zero_grad, without_dynamo

ROOT = Path(modelfactory.training.no_dynamo.__file__).parents[2]
STEPS = """
import sys, torch
from torch import nn
from modelfactory.training.no_dynamo import *
def train(kind, options, eager):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    make = lambda: getattr(torch.optim, kind)(model.parameters(), lr=0.01, **options)
    if eager:
        with without_dynamo():
            optimizer = make()
        step, zero_grad = eager_step(optimizer), eager_zero_grad(optimizer)
    else:
        optimizer = make(); step, zero_grad = optimizer.step, optimizer.zero_grad
    for _ in range(5):
        model(torch.randn(7, 6)).square().sum().backward(); step(); zero_grad()
    if not eager:
        return model.state_dict(), optimizer.state_dict()
    with without_dynamo():
        optimizer.load_state_dict(optimizer.state_dict())
        return model.state_dict(), optimizer.state_dict()
def same(a, b):
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
"""
KINDS = [
    ("SGD", {"momentum": 0.9, "fused": True}),
    ("Adam", {"fused": True}),
    ("Adam", {"foreach": True, "amsgrad": True}),
    ("AdamW", {"fused": True}),
    ("RMSprop", {"momentum": 0.5}),
    ("Adagrad", {}),
    ("NAdam", {}),
]


def run(code):
    done = subprocess.run([sys.executable, "-W", "error", "-c", STEPS + code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_steps_and_state_equal_the_ordinary_ones_bit_for_bit_without_the_compiler():
    code = f"""
kinds = {KINDS!r}
ours = [train(kind, options, True) for kind, options in kinds]
print("torch._dynamo" in sys.modules)
theirs = [train(kind, options, False) for kind, options in kinds]
print("torch._dynamo" in sys.modules, *map(same, ours, theirs))
"""
    assert run(code) == ["False", "True"] + ["True"] * len(KINDS)


def test_torch_is_left_as_it_was():
    code = """
inner = torch.optim.Optimizer.zero_grad.__wrapped__
train("AdamW", {}, True)
print(hasattr(inner, "__dynamo_disable"))
optimizer = torch.optim.AdamW([torch.ones(2, requires_grad=True)]); optimizer.zero_grad(); optimizer.step()
print(inner.__dynamo_disable is not inner, "torch._dynamo" in sys.modules)
"""
    assert run(code) == ["False", "True", "True"]


def weight_and_optimizer(**options):
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    return weight, torch.optim.SGD([weight], lr=0.5, **options)


@pytest.fixture
def no_dynamo(monkeypatch):
    monkeypatch.setattr(modelfactory.training.no_dynamo, "dynamo_is_imported", lambda: False)


def test_the_step_goes_around_the_decorators(no_dynamo):
    weight, optimizer = weight_and_optimizer()
    step = eager_step(optimizer)
    assert step != optimizer.step and step() is None
    assert weight.tolist() == [0.5, 0.5] and "step" not in vars(optimizer)


def test_hooks_are_heard(no_dynamo):
    weight, optimizer = weight_and_optimizer()
    heard = []
    optimizer.register_step_post_hook(lambda *_: heard.append(1))
    assert eager_step(optimizer) == optimizer.step
    eager_step(optimizer)()
    assert heard == [1] and weight.tolist() == [0.5, 0.5]


def test_another_optimizer_keeps_its_own_step(no_dynamo):
    class Mine(torch.optim.SGD):
        pass

    assert eager_step(optimizer := Mine([nn.Parameter(torch.ones(1))], lr=0.1)) == optimizer.step
    _, differentiable = weight_and_optimizer(differentiable=True)
    assert eager_step(differentiable) == differentiable.step


def test_with_dynamo_imported_the_ordinary_step_is_used(monkeypatch):
    monkeypatch.setattr(modelfactory.training.no_dynamo, "dynamo_is_imported", lambda: True)
    _, optimizer = weight_and_optimizer()
    assert eager_step(optimizer) == optimizer.step


def test_zero_grad_drops_gradients_and_a_failing_block_takes_the_mark_back(no_dynamo):
    weight, optimizer = weight_and_optimizer()
    eager_zero_grad(optimizer)()
    assert weight.grad is None
    inner = torch.optim.Optimizer.state_dict.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
    before = getattr(inner, "__dynamo_disable", None)
    with pytest.raises(KeyError), without_dynamo():
        raise KeyError
    assert getattr(inner, "__dynamo_disable", None) is before
