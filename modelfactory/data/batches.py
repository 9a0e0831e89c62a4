"""Batches: slices of tensors on the device for data in memory, a DataLoader with workers for data on disk."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from modelfactory.config.errors import ConfigError
from modelfactory.data.checked_samples import sample_name
from modelfactory.data.dataset import Split, keyed_permutation
from modelfactory.data.samples import KeyedSamples, collate

# Samples are put into the order of an epoch this many bytes at a time: one gather for many batches is what makes
# slices fast, and bounds the second copy on the device.
_GATHERED_BYTES = 64 * 2**20


def make_batches(
    split: Split, batch_size: int, device: torch.device, *, seed: int | None = None, num_workers: int = 0, drop_last: bool = False
) -> MemoryBatches | LoaderBatches:
    """The batches of a split on `device`; in the order of the split when `seed` is None, else shuffled each epoch.

    The order of an epoch depends on (seed, epoch) alone, and so does the augmentation of a sample of a dataset on
    disk, on (seed, epoch, its index), whatever the number of workers. The last batch may be smaller, unless `drop_last` is true.

    Example:
        >>> split = Split(torch.zeros(5, 3), torch.arange(5))
        >>> [len(y) for x, y in make_batches(split, 2, torch.device("cpu")).epoch(1)]
        [2, 2, 1]
    """
    if split.x is not None and split.y is not None:
        return MemoryBatches(split.x, split.y, batch_size, device, seed, drop_last=drop_last)
    return LoaderBatches(split.dataset, batch_size, device, seed, num_workers, drop_last)


class MemoryBatches:
    """Batches of tensors `x` [N, ...] and `y` [N, ...], which live on the device; with `moved` False x stays where it is."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        device: torch.device,
        seed: int | None = None,
        moved: bool = True,
        drop_last: bool = False,
    ):
        self.x, self.y = x.to(device) if moved else x, y.to(device)
        self.device, self.batch_size, self.seed = device, batch_size, seed
        sample_bytes = max(1, x[:1].numel() * x.element_size())
        self._chunk = batch_size * max(1, _GATHERED_BYTES // (sample_bytes * batch_size))
        self._used = len(x) // batch_size * batch_size if drop_last else len(x)

    def __len__(self) -> int:
        return -(-self._used // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch `epoch`, counted from 1."""
        if self.seed is None:
            for x, y in zip(self.x[: self._used].split(self.batch_size), self.y[: self._used].split(self.batch_size), strict=True):
                yield x.to(self.device), y
            return
        order = keyed_permutation(len(self.x), self.seed, f"data.epoch.{epoch}")[: self._used].to(self.device)
        for indices in order.split(self._chunk):
            x, y = self.x[indices.to(self.x.device)].to(self.device), self.y[indices]
            yield from zip(x.split(self.batch_size), y.split(self.batch_size), strict=True)


class LoaderBatches:
    """Batches of a dataset on disk through `torch.utils.data.DataLoader`; its workers live as long as this object."""

    def __init__(
        self, dataset: Any, batch_size: int, device: torch.device, seed: int | None = None, num_workers: int = 0, drop_last: bool = False
    ):
        from torch.utils.data import DataLoader

        self.device = device
        self._sampler = _EpochSampler(len(dataset), seed)
        self._loader = DataLoader(
            KeyedSamples(dataset, seed or 0),  # pyright: ignore[reportArgumentType]
            batch_size,
            sampler=self._sampler,
            num_workers=num_workers,
            collate_fn=partial(collate, name=partial(sample_name, dataset)),
            drop_last=drop_last,
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # its draw of the workers' base seed must not come from the global generator
        )

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch `epoch`, counted from 1.

        Raises:
            ConfigError: a sample cannot be read, or does not fit the others of its batch.
        """
        if self._sampler.seed is not None:  # validation stays what it is
            self._sampler.epoch = epoch
        for batch in self._loader:
            if isinstance(batch, ConfigError):
                raise batch
            x, y = batch
            yield x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)


class _EpochSampler:
    """Yields (epoch, index): the epoch travels with the index to workers that outlive it."""

    def __init__(self, size: int, seed: int | None):
        self.size, self.seed, self.epoch = size, seed, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.seed is None:
            order = range(self.size)
        else:
            order = keyed_permutation(self.size, self.seed, f"data.epoch.{self.epoch}").tolist()
        return ((self.epoch, index) for index in order)
