"""The steps of several optimizers at once are, to the last bit, those that each takes by itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modelfactory.training.joint_step import JointStep
from modelfactory.training.no_dynamo import without_dynamo

OPTIONS: dict[str, tuple[type[Optimizer], list[dict[str, Any]]]] = {
    "sgd": (torch.optim.SGD, [{"momentum": 0.9, "nesterov": True, "fused": True}, {"lr": 0.1, "fused": True}]),
    "adam": (torch.optim.Adam, [{"fused": True}, {"fused": True, "betas": (0.8, 0.9)}]),
    "adamw": (torch.optim.AdamW, [{"fused": True}, {"fused": True, "lr": 0.1, "weight_decay": 0.3}]),
    "rmsprop": (torch.optim.RMSprop, [{"momentum": 0.5}, {"centered": True, "alpha": 0.9}]),
}


def made(name: str) -> tuple[list[nn.Module], list[Optimizer]]:
    kind, options = OPTIONS[name]
    with torch.random.fork_rng(devices=[]), without_dynamo():
        torch.manual_seed(0)
        models: list[nn.Module] = [nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)) for _ in range(4)]
        optimizers: list[Optimizer] = []
        for place, model in enumerate(models):
            groups = [{"params": list(model[0].parameters())}, {"params": list(model[1].parameters()), "lr": 0.05}]  # pyright: ignore[reportIndexIssue]
            optimizers.append(kind(groups, **{"lr": 0.01, **options[place % 2]}))  # pyright: ignore[reportCallIssue, reportArgumentType]
    return models, optimizers


def give_gradients(models: list[nn.Module], step: int) -> None:
    source = torch.Generator().manual_seed(step)
    for place, model in enumerate(models):
        for name, parameter in model.named_parameters():
            gradient = torch.randn(parameter.shape, generator=source)
            # one model leaves a parameter out, and another trains a part of it later
            left_out = (place == 1 and name == "1.bias") or (place == 2 and name.startswith("1.") and step < 2)
            parameter.grad = None if left_out else gradient


def everything(models: list[nn.Module], optimizers: list[Optimizer]) -> list[Any]:
    with without_dynamo():
        return [copy.deepcopy((model.state_dict(), optimizer.state_dict())) for model, optimizer in zip(models, optimizers, strict=True)]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("name", OPTIONS)
def test_steps_at_once_are_those_that_each_takes(name: str):
    models, optimizers = made(name)
    alone, own = made(name)
    joint = JointStep()
    for step in range(5):
        give_gradients(models, step)
        give_gradients(alone, step)
        chosen = range(4) if step < 3 else (0, 2, 3)  # one has ended
        for optimizer in (*optimizers, *own):
            optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)  # a schedule
        joint.of([optimizers[place] for place in chosen])
        for place in chosen:
            own[place].step()
        assert same(everything(models, optimizers), everything(alone, own)), step
