"""Read samples of a data set on disk with random draws keyed by (seed, epoch, index), and put them into batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modelfactory.config.errors import ConfigError, Problem
from modelfactory.numerics.rng import key

_DEPTH = 5  # of attributes in which generators are looked for
_MOST_ITEMS = 100  # of a container in which generators are looked for: a list of files has none


class KeyedSamples:
    """Samples of a dataset by (epoch, index), whose random draws depend on (seed, epoch, index) alone, whichever worker reads them.

    Keyed are the global generators of torch, numpy and Python, and those that the dataset and its transforms keep; all are
    left as they were.

    An item is the index with the sample, or with the ConfigError that reading it raised: workers hand errors over as texts only.

    Example:
        >>> class Noisy:
        ...     def __getitem__(self, index):
        ...         return np.random.rand(), index
        >>> KeyedSamples(Noisy(), seed=3)[1, 0] == KeyedSamples(Noisy(), seed=3)[1, 0]
        True
    """

    def __init__(self, dataset: Any, seed: int):
        self.dataset, self.seed = dataset, seed
        self._own = list(_own_generators(dataset, _DEPTH, set()))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: tuple[int, int]) -> tuple[int, Any]:
        epoch, index = place
        with _keyed(key(self.seed, f"data.sample.{epoch}.{index}"), self._own):
            try:
                return index, self.dataset[index]
            except ConfigError as error:
                return index, error


@contextmanager
def _keyed(sample_key: int, own: list[Any]) -> Iterator[None]:
    """Seeds all generators for a sample, and puts their states back."""
    kept = torch.get_rng_state(), random.getstate(), np.random.get_state(), [_state(generator) for generator in own]
    try:
        torch.default_generator.manual_seed(sample_key)
        random.seed(sample_key)
        np.random.seed([sample_key & 0xFFFFFFFF, sample_key >> 32])
        for place, generator in enumerate(own):
            _seed(generator, sample_key ^ (place + 1))
        yield
    finally:
        torch.set_rng_state(kept[0])
        random.setstate(kept[1])
        np.random.set_state(kept[2])
        for generator, state in zip(own, kept[3], strict=True):
            _put(generator, state)


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _put(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def _seed(generator: Any, seed: int) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    elif isinstance(generator, np.random.RandomState):
        generator.seed([seed & 0xFFFFFFFF, seed >> 32])
    elif isinstance(generator, random.Random):
        generator.seed(seed)
    else:
        generator.manual_seed(seed)


def _own_generators(value: Any, depth: int, seen: set[int]) -> Iterator[Any]:
    """Generators that an object keeps in its attributes, or in those of what it keeps there."""
    if id(value) in seen or isinstance(value, (Tensor, np.ndarray, str, bytes, type)):
        return
    seen.add(id(value))
    if isinstance(value, (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)):
        yield value
        return
    if isinstance(value, (list, tuple, Mapping)):
        inner = list(value.values() if isinstance(value, Mapping) else value) if len(value) <= _MOST_ITEMS else []
    else:
        inner = list(getattr(value, "__dict__", {}).values())
    for item in inner if depth else []:
        yield from _own_generators(item, depth - 1, seen)


def collate(items: list[tuple[int, Any]], name: Callable[[int], str] = "sample {}".format) -> Any:
    """A batch of items of `KeyedSamples`, or the ConfigError of the first that could not be read, or does not fit the others.

    Args:
        name: what a sample is called in an error, by its index.

    Example:
        >>> collate([(0, (torch.zeros(2), 1)), (1, (torch.ones(2), 0))])[1]
        tensor([1, 0])
        >>> print(collate([(0, (torch.zeros(2), 1)), (7, (torch.zeros(3), 1))]))
        data: the input of sample 0 is [2], that of sample 7 is [3]; all of a batch have to be equal
    """
    from torch.utils.data import default_collate

    for _, sample in items:
        if isinstance(sample, ConfigError):
            return sample
    first = items[0]
    for index, sample in items[1:]:
        for what, one, other in zip(("input", "target"), first[1], sample, strict=False):
            shapes = [list(value.shape) if isinstance(value, Tensor) else None for value in (one, other)]
            if shapes[0] != shapes[1] and None not in shapes:
                told = f"the {what} of {name(first[0])} is {shapes[0]}, that of {name(index)} is {shapes[1]}"
                return ConfigError([Problem("data", f"{told}; all of a batch have to be equal")])
    return default_collate([sample for _, sample in items])
