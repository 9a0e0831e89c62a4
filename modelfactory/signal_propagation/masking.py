"""Masks of scores: what they hide, and what they leave of the shares that a softmax makes of what they show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from modelfactory.signal_propagation.graph import TensorRef

HIDDEN = -5e3
"""A score at or below this is hidden: softmax makes 0 of it."""
_MASKS = 8  # of a mask for each input or head, those that are looked at
WEIGHING = frozenset(
    "conv1d conv2d conv3d softmax _softmax matmul bmm einsum linear addmm embedding batch_norm layer_norm group_norm rms_norm "
    "scaled_dot_product_attention multi_head_attention_forward".split()
)
"""Calls that add no mask, and behind which nothing is left of one."""


@dataclass(frozen=True)
class Shown:
    """What rows of scores show, as means over rows `t` that each show `n_t` of so many keys `s`.

    Attributes:
        inverse: of `1/n_t`: the sum of the squared shares of a row whose scores are alike.
        gathered: the mean over keys of `(sum_t 1/n_t)^2` over the rows that show them.
        overlap: the mean over pairs of rows of the sum of products of their shares.
        counts: numbers `n_t`, near ones taken together, each with the share of the rows that show so many.
    """

    inverse: float
    gathered: float
    overlap: float
    counts: tuple[tuple[int, float], ...]


def shown(visible: Tensor) -> Shown:
    """What a mask leaves: `visible` [..., rows, keys] is true where a score counts.

    Example:
        >>> shown(torch.ones(3, 4).bool())
        Shown(inverse=0.25, gathered=0.5625, overlap=0.25, counts=((4, 1.0),))
    """
    whole = visible.reshape(-1, *visible.shape[-2:])[:_MASKS].double()
    count = whole.sum(-1, keepdim=True).clamp(min=1)
    shares = whole / count
    rows, keys = shares.shape[-2:]
    inverse = (shares * shares).sum(-1).mean().item()
    gathered = shares.sum(-2).square().mean().item()
    overlap = (keys * gathered - rows * inverse) / (rows * (rows - 1)) if rows > 1 else inverse
    return Shown(inverse, gathered, overlap, _together(count))


def _together(count: Tensor) -> tuple[tuple[int, float], ...]:
    """Counts with their shares; those within a quarter of each other as one, at their harmonic mean."""
    numbers, times = count.flatten().unique(return_counts=True)
    groups: dict[int, list[tuple[float, float]]] = {}
    for number, many in zip(numbers.tolist(), times.tolist(), strict=True):
        groups.setdefault(round(math.log(number) / math.log(1.25)) if len(numbers) > 24 else round(number), []).append((number, many))
    total = count.numel()
    means = [(sum(many for _, many in group), sum(many / number for number, many in group)) for group in groups.values()]
    return tuple((max(round(many / inverse), 1), many / total) for many, inverse in means)


def all_shown(rows: int, keys: int) -> Shown:
    """What there is without a mask."""
    return Shown(1 / keys, (rows / keys) ** 2, 1 / keys, ((keys, 1.0),))


@lru_cache(maxsize=64)
def causal(rows: int, keys: int) -> Shown:
    """What a causal mask leaves, by which a row shows the keys up to its own."""
    return shown(torch.ones(rows, keys, dtype=torch.bool).tril())


def is_mask(value: Any) -> bool:
    """Whether a constant hides entries of what it is added to, or of what it stands in for."""
    if not isinstance(value, TensorRef) or value.tensor.is_meta or not value.tensor.is_floating_point() or not value.tensor.numel():
        return False
    return bool(value.tensor.min() <= HIDDEN)


def shown_by(value: TensorRef) -> Shown | None:
    """What a mask leaves that is added to scores, or is true where they count; None where its values are not known."""
    if value.tensor.is_meta:
        return None
    visible = value.tensor if value.tensor.dtype is torch.bool else value.tensor > HIDDEN
    return shown(visible) if visible.ndim > 1 else None
