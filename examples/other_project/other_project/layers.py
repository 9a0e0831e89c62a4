"""A layer of the project's own: any nn.Module will do."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Fourier(nn.Module):
    """Sines and cosines of linear maps of the input: [N, in_features] to [N, 2 * num_frequencies]."""

    modelfactory_sizes = {"in_features": -1}  # the last dimension of what comes in, so that a config need not say it

    def __init__(self, in_features: int, num_frequencies: int = 16):
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(num_frequencies, in_features))

    def forward(self, x: Tensor) -> Tensor:
        angles = nn.functional.linear(x, self.frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
