"""How large the first steps are, relative to what they change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modelfactory.training.update_ratio import LOOKED_AT, UpdateWatch


def run(model: nn.Module, optimizer: torch.optim.Optimizer, ratio: float, steps: int) -> UpdateWatch:
    watch = UpdateWatch(model, optimizer)
    step = watch.around(optimizer.step)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = ratio * parameter.detach()
        step()
    return watch


@pytest.mark.parametrize(("exponent", "said"), [(-1, "large"), (-3, None), (-6, "small")])
def test_the_ratio_is_that_of_the_step_to_the_weights(exponent: int, said: str | None):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    watch = run(model, torch.optim.SGD(model.parameters(), lr=1.0), 10.0**exponent, LOOKED_AT[-1])
    assert watch.ratios() == pytest.approx({"0.weight": exponent, "1.weight": exponent}, abs=1e-2)
    told = watch.tell()
    assert len(told) == (said is not None) and all(str(said) in warning for warning in told)
    assert watch.tell() == []


def test_small_updates_of_a_warm_up_are_no_news():
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.param_groups[0]["initial_lr"], optimizer.param_groups[0]["lr"] = 1.0, 1e-3
    assert run(model, optimizer, 1e-3, LOOKED_AT[-1]).warnings() == []


def test_a_run_that_goes_on_is_not_watched():
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = optimizer.step
    assert UpdateWatch(model, optimizer, done=100).around(step) is step


def test_frozen_matrices_and_vectors_are_left_out():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[0].requires_grad_(False)
    watch = run(model, torch.optim.SGD(model.parameters(), lr=1.0), 0.01, LOOKED_AT[0])
    assert set(watch.ratios()) == {"1.weight"}
