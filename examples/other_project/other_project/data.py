"""Two spirals: points of the plane, of two classes that no straight line tells apart."""

from __future__ import annotations

import math

import torch
from torch.utils.data import TensorDataset


def spirals(num_points: int = 1000, turns: float = 1.5, noise: float = 0.05, points_seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """Give a training and a validation set of pairs (point [2] float, class 0 or 1); the arguments are keys of the config."""
    generator = torch.Generator().manual_seed(points_seed)
    along = torch.rand(num_points, generator=generator).sqrt()
    classes = torch.arange(num_points) % 2
    angle = 2 * math.pi * turns * along + math.pi * classes
    points = torch.stack([along * angle.cos(), along * angle.sin()], dim=1)
    points += noise * torch.randn(points.shape, generator=generator)
    held_out = num_points // 5
    return TensorDataset(points[held_out:], classes[held_out:]), TensorDataset(points[:held_out], classes[:held_out])
