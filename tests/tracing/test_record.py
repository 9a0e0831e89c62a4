"""One run of a model is recorded, and leaves the model and the world as they were."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

from modelfactory.tracing.read import read, read_by_trying
from modelfactory.tracing.record import record


class Stateful(nn.Module):
    """Keeps a cache and counts its calls, as some models do."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.calls, self.cache, self.seen = 0, {}, []

    def forward(self, x):
        self.calls += 1
        h = F.relu(self.norm(self.conv(x)))
        self.cache["h"] = self.last = h
        self.seen.append(h)
        return self.fc(F.dropout(h, 0.5, self.training).mean((2, 3)))


@pytest.mark.parametrize("training", [False, True])
def test_a_run_leaves_everything_as_it_was(training: bool):
    model = Stateful()
    model.conv.eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    states = torch.get_rng_state(), random.getstate()
    graph = record(model, torch.zeros(2, 3, 8, 8), training=training)
    assert graph.reason is None and graph.on_meta
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameters[name] is parameter for name, parameter in model.named_parameters())
    assert (model.calls, model.cache, model.seen) == (0, {}, []) and not hasattr(model, "last")
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert not torch_module._global_forward_hooks and not torch_module._global_forward_pre_hooks
    assert not any(module._forward_hooks for module in model.modules())


def test_a_tag_stays_on_no_tensor_of_the_callers():
    x = torch.zeros(2, 3, 8, 8)
    record(Stateful(), x)
    assert not vars(x)


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        raise ValueError("not today")


def test_why_a_model_cannot_be_run_is_a_value():
    model = Failing()
    assert record(model, torch.zeros(1, 3)).reason == "ValueError: not today"
    assert model.fc.weight.device.type == "cpu"
    assert read_by_trying(nn.ModuleDict({"a": nn.Linear(2, 2)})).graph.reason == "ModuleDict has no forward"
    lazy = nn.Sequential(nn.LazyLinear(3))
    assert record(lazy, torch.zeros(1, 3)).reason == "0.weight has no shape yet"


class ByValue(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        h = self.a(x)
        return self.b(h) if h.isfinite().all().item() else h


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_control_flow_by_value_is_run_with_numbers(device: str):
    with torch.device(device):
        model = ByValue()
    graph = record(model, torch.zeros(2, 3))
    assert graph.reason is None and not graph.on_meta and set(graph.parameters) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert record(model, torch.zeros(2, 3), with_numbers=False).reason is not None


class Auxiliary(nn.Module):
    """A second head in training alone."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.aux = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        h = self.body(x).relu()
        return (self.head(h), self.aux(h)) if self.training else self.head(h)


def test_the_mode_in_which_more_takes_part_is_read():
    assert "aux.weight" in read(Auxiliary(), torch.zeros(1, 3)).graph.parameters


def test_writes_in_place_are_followed_through_views():
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            out = torch.zeros(x.shape[0], 3)
            out[:, :] = self.a(x)
            half = out[:, :1]
            half.mul_(2)
            return self.b(out)

    graph = record(Writing(), torch.zeros(2, 3))
    last = graph.nodes[-1]
    assert last.op == "linear" and last.inputs[0].node is not None
    assert [node.op for node in graph].count("written") >= 1


@pytest.mark.slow
def test_a_deep_model_is_recorded_in_the_time_of_two_runs_on_meta():
    import time

    with torch.device("meta"):
        model = nn.Sequential(*(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True) for _ in range(100)))
        x = torch.zeros(2, 8, 32)

    def best(call) -> float:
        times = []
        for _ in range(5):
            begin = time.process_time()
            call()
            times.append(time.process_time() - begin)
        return min(times)

    model.eval()
    with torch.no_grad():
        plain = best(lambda: model(x))
    assert best(lambda: record(model, x)) <= 2 * plain
