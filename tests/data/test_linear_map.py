"""Inputs are white, and targets are what a linear map says."""

from __future__ import annotations

import torch

from modelfactory.data import build_data

CONFIG = {"_target_": "modelfactory.data.linear_map", "input_shape": [24], "num_classes": 5, "num_samples": 96, "num_val_samples": 40}


def test_inputs_are_white_and_the_targets_a_semi_orthogonal_map_of_them():
    data = build_data(CONFIG)
    for split, count in ((data.train, 96), (data.val, 40)):
        assert split.x is not None and split.y is not None
        assert torch.allclose(split.x.T @ split.x, count * torch.eye(24), atol=1e-3)
        found = torch.linalg.lstsq(split.x, split.y).solution.T
        assert torch.allclose(split.x @ found.T, split.y, atol=1e-4)
        assert torch.allclose(found @ found.T, torch.eye(5), atol=1e-4)
        assert abs(split.y.square().mean().item() - 1) < 1e-4
    assert data.task == "regression" and data.num_classes == 5


def test_samples_depend_on_their_seed_alone():
    one, again, other = build_data(CONFIG), build_data(CONFIG), build_data({**CONFIG, "sample_seed": 1})
    assert torch.equal(one.train.x, again.train.x) and torch.equal(one.val.y, again.val.y)
    assert not torch.equal(one.train.x, other.train.x) and not torch.equal(one.train.y, other.train.y)
