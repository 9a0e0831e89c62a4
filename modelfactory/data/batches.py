"""Batches: slices of tensors on the device for data in memory, a DataLoader with workers for data on disk."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modelfactory.config.errors import ConfigError
from modelfactory.data.checked_samples import sample_name
from modelfactory.data.dataset import Split, keyed_permutation
from modelfactory.data.samples import KeyedSamples, collate
from modelfactory.numerics.threads import num_cores

# Samples are put into the order of an epoch this many bytes at a time: one gather for many batches is what makes
# slices fast, and bounds the second copy on the device.
_GATHERED_BYTES = 64 * 2**20


class BatchPart(NamedTuple):
    """Part `index` of `count` equal parts of each batch, as one of several processes has it.

    Example:
        >>> [BatchPart(index, 3).of(range(7)) for index in range(3)]
        [range(0, 2), range(2, 4), range(4, 7)]
    """

    index: int = 0
    count: int = 1

    def of(self, batch: Any) -> Any:
        """The part of a batch of samples or indices; parts differ by one sample at most, and may be empty."""
        size = len(batch)
        return batch[size * self.index // self.count : size * (self.index + 1) // self.count]


WHOLE = BatchPart()


def make_batches(
    split: Split,
    batch_size: int,
    device: torch.device,
    *,
    seed: int | None = None,
    num_workers: int = 0,
    drop_last: bool = False,
    part: BatchPart = WHOLE,
) -> MemoryBatches | TakenBatches | LoaderBatches:
    """The batches of a split on `device`; in the order of the split when `seed` is None, else shuffled each epoch.

    The order of an epoch depends on (seed, epoch) alone, and so does the augmentation of a sample of a dataset on
    disk, on (seed, epoch, its index), whatever the number of workers. The last batch may be smaller, unless `drop_last` is true.
    Of each batch of `batch_size` samples the `part` is given, of a last one an empty part too.

    Example:
        >>> split = Split(torch.zeros(5, 3), torch.arange(5))
        >>> [len(y) for x, y in make_batches(split, 2, torch.device("cpu")).epoch(1)]
        [2, 2, 1]
    """
    if split.x is not None and split.y is not None:
        return MemoryBatches(split.x, split.y, batch_size, device, seed, drop_last=drop_last, part=part)
    if hasattr(split.dataset, "take"):
        return TakenBatches(split.dataset, batch_size, device, seed, drop_last, part)
    return LoaderBatches(split.dataset, batch_size, device, seed, num_workers, drop_last, part)


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
        part: BatchPart = WHOLE,
    ):
        self.part = part
        self.x, self.y = x.to(device) if moved else x, y.to(device)
        self.device, self.batch_size, self.seed = device, batch_size, seed
        sample_bytes = max(1, x[:1].numel() * x.element_size())
        self._chunk = batch_size * max(1, _GATHERED_BYTES // (sample_bytes * batch_size))
        self._used = len(x) // batch_size * batch_size if drop_last else len(x)

    def __len__(self) -> int:
        return -(-self._used // self.batch_size)

    def epoch(self, epoch: int, skipped: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch `epoch`, counted from 1, but for the first `skipped` of them in one that is shuffled."""
        if self.seed is None:
            for x, y in zip(self.x[: self._used].split(self.batch_size), self.y[: self._used].split(self.batch_size), strict=True):
                yield self.part.of(x).to(self.device), self.part.of(y)
            return
        order = keyed_permutation(len(self.x), self.seed, f"data.epoch.{epoch}")[skipped * self.batch_size : self._used].to(self.device)
        for indices in order.split(self._chunk):
            parts = [self.part.of(batch) for batch in indices.split(self.batch_size)]
            indices, sizes = torch.cat(parts), [len(part) for part in parts]
            x, y = self.x[indices.to(self.x.device)].to(self.device), self.y[indices]
            yield from zip(x.split(sizes), y.split(sizes), strict=True)


class TakenBatches:
    """Batches of a data set that gives many samples at once, by `take(indices)`."""

    def __init__(
        self, dataset: Any, batch_size: int, device: torch.device, seed: int | None = None, drop_last: bool = False, part: BatchPart = WHOLE
    ):
        self.dataset, self.batch_size, self.device, self.seed, self.part = dataset, batch_size, device, seed, part
        self._used = len(dataset) // batch_size * batch_size if drop_last else len(dataset)

    def __len__(self) -> int:
        return -(-self._used // self.batch_size)

    def epoch(self, epoch: int, skipped: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch `epoch`, counted from 1, but for the first `skipped` of them."""
        count = len(self.dataset)
        order = torch.arange(count) if self.seed is None else keyed_permutation(count, self.seed, f"data.epoch.{epoch}")
        for indices in order[skipped * self.batch_size : self._used].split(self.batch_size):
            x, y = self.dataset.take(self.part.of(indices))
            yield x.to(self.device), y.to(self.device)


class LoaderBatches:
    """Batches of a dataset on disk through `torch.utils.data.DataLoader`; its workers live as long as this object."""

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        device: torch.device,
        seed: int | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
        part: BatchPart = WHOLE,
    ):
        from torch.utils.data import DataLoader

        self.device = device
        self._sampler = _EpochSampler(len(dataset), batch_size, seed, drop_last, part)
        self._loader = DataLoader(
            KeyedSamples(dataset, seed or 0),  # pyright: ignore[reportArgumentType]
            batch_sampler=self._sampler,
            num_workers=min(num_workers, num_cores()),  # no number depends on it, and more would take turns
            collate_fn=partial(collate, name=partial(sample_name, dataset)),
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # its draw of the workers' base seed must not come from the global generator
        )

    def __len__(self) -> int:
        return len(self._sampler)

    def epoch(self, epoch: int, skipped: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch `epoch`, counted from 1, but for the first `skipped` of them in one that is shuffled.

        Raises:
            ConfigError: a sample cannot be read, or does not fit the others of its batch.
        """
        if self._sampler.seed is not None:  # validation stays what it is
            self._sampler.epoch, self._sampler.skipped = epoch, skipped
        given, x, y = skipped, None, None
        for batch in self._loader:
            if isinstance(batch, ConfigError):
                raise batch
            x, y = batch
            yield x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
            given += 1
        if given < len(self) and x is None:  # what was skipped is all that came before it
            self._sampler.skipped = 0
            x, y = next(iter(self._loader))
        if given < len(self) and x is not None and y is not None:  # the last batch has fewer samples than it has parts
            yield x[:0].to(self.device), y[:0].to(self.device)


class _EpochSampler:
    """Yields the samples of each batch as (epoch, index): the epoch travels with the index to workers that outlive it."""

    def __init__(self, size: int, batch_size: int, seed: int | None, drop_last: bool, part: BatchPart):
        self.size, self.batch_size, self.seed, self.part = size, batch_size, seed, part
        self.epoch = self.skipped = 0
        self._used = size // batch_size * batch_size if drop_last else size

    def __len__(self) -> int:
        return -(-self._used // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if self.seed is None:
            order: Any = range(self.size)
        else:
            order = keyed_permutation(self.size, self.seed, f"data.epoch.{self.epoch}").tolist()
        for start in range(self.skipped * self.batch_size, self._used, self.batch_size):
            indices = self.part.of(order[start : min(start + self.batch_size, self._used)])
            if indices:
                yield [(self.epoch, index) for index in indices]
