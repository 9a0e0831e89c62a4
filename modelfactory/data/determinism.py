"""Whether a data set on disk gives the same sample each time."""

from __future__ import annotations

import random
import sys
from typing import Any

import torch

from modelfactory.config.errors import ConfigError, TrainingError
from modelfactory.data.samples import KeyedSamples


class Fixed:
    """A dataset of which each sample may be asked once only, since it would be the same again; one that draws is an error."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        before = _states()
        sample = self.dataset[index]
        if not _same(before, _states()):
            raise TrainingError(f"sample {index} is drawn with chance, though the first samples were not; it cannot be kept")
        return sample


def draws_at_random(dataset: Any, index: int) -> bool:
    """Whether `dataset[index]` draws from a global generator, or is not the same the second time.

    Example:
        >>> draws_at_random([(torch.zeros(2), 1)], 0)
        False
    """
    before = _states()
    first, second = dataset[index], dataset[index]
    return not _same(before, _states()) or not _same(list(first), list(second))


def is_repeatable(dataset: Any) -> bool:
    """Whether the first sample is the same when it is read twice with all generators seeded alike.

    Example:
        >>> is_repeatable([(torch.rand(2), 1)])
        True
    """
    keyed = KeyedSamples(dataset, seed=0)
    (_, first), (_, second) = keyed[0, 0], keyed[0, 0]
    return isinstance(first, ConfigError) or _same(first, second)


def _states() -> list[Any]:
    """The states of torch's, Python's and, where it is in use, NumPy's global generators."""
    numpy = sys.modules.get("numpy")
    return [torch.get_rng_state(), random.getstate(), *([numpy.random.get_state()[1:3]] if numpy is not None else [])]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())  # NaN is NaN
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    return bool((one == other).all()) if hasattr(one == other, "all") else bool(one == other)  # an array of NumPy's has it
