"""An initialisation of the project's own: a function that fills a tensor in place, from the generator that it is given."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_uniform_(tensor: Tensor, low: float = 1.0, high: float = 8.0, generator: torch.Generator | None = None) -> Tensor:
    """Fill rows with vectors in random directions whose lengths are uniform in the logarithm, from `low` to `high`."""
    directions = torch.randn(tensor.shape, generator=generator)
    lengths = torch.empty(len(tensor), 1).uniform_(math.log(low), math.log(high), generator=generator).exp()
    return tensor.copy_(directions / directions.norm(dim=1, keepdim=True) * lengths)
