"""What the trainer is given: a training, a validation and maybe a test split, in memory or on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modelfactory.config.errors import ConfigError
from modelfactory.data.samples import KeyedSamples, collate
from modelfactory.numerics.rng import generator

IGNORED = -100
"""The class that torch's losses ignore unless they are told another: a target that does not count."""


@dataclass(frozen=True)
class Split:
    """Samples in memory (`x` and `y`), or a `torch.utils.data.Dataset` of pairs on disk (`dataset`).

    Attributes:
        x: inputs [N, *input_shape], float.
        y: targets: classes [N, ...] int64, or values [N, ...] float.
        dataset: an indexable of (input, target) pairs with a length; `x` and `y` are None then. One that has `take(indices)` gives whole
            batches at once.
    """

    x: Tensor | None = None
    y: Tensor | None = None
    dataset: Any = None

    def __len__(self) -> int:
        return len(self.dataset) if self.x is None else len(self.x)

    def sample(self, size: int) -> tuple[Tensor, Tensor]:
        """The first `size` samples, stacked, on the CPU or wherever the split is in memory; the same each time.

        Raises:
            ConfigError: one cannot be read.

        Example:
            >>> Split(torch.zeros(5, 3), torch.arange(5)).sample(2)[1]
            tensor([0, 1])
        """
        if self.x is not None and self.y is not None:
            return self.x[:size], self.y[:size]
        keyed = KeyedSamples(self.dataset, seed=0)
        batch = collate([keyed[0, index] for index in range(min(size, len(self.dataset)))])
        if isinstance(batch, ConfigError):
            raise batch
        return batch


@dataclass(frozen=True)
class Data:
    """A training and a validation split, a test split where there is one, and how they are batched.

    Attributes:
        task: "classification" (integer targets) or "regression" (float targets).
        num_classes: classes, or values a sample in regression: the size of the model's output.
        input_shape: the shape of one input, without the batch.
        batch_size: samples a training batch; `val_batch_size` for validation (None: the same).
        seed: decides the order of the training batches, and the augmentation of a dataset on disk.
        num_workers: processes that load a dataset on disk.
        drop_last: whether a last training batch that is smaller is left out.
        warnings: what there is to say of the data, such as files that were left out.
        unit: what a target is where the loss is told per target, such as "byte"; None: a loss is told as it is.
        test: samples on which nothing is chosen, neither an epoch nor a setting: the best epoch is measured on them. None: there are none.
    """

    train: Split
    val: Split
    task: str
    num_classes: int
    input_shape: tuple[int, ...]
    batch_size: int = 64
    val_batch_size: int | None = None
    seed: int = 0
    num_workers: int = 0
    drop_last: bool = False
    warnings: tuple[str, ...] = ()
    unit: str | None = None
    test: Split | None = None

    @property
    def parts(self) -> dict[str, Split]:
        """The splits that there are, by the names that they have in a config: train, val, test.

        Example:
            >>> split = Split(torch.zeros(2, 1), torch.zeros(2, 1))
            >>> list(Data(split, split, "regression", 1, (1,)).parts)
            ['train', 'val']
        """
        given = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in given.items() if split is not None}


PART_NAMES = {"train": "training", "val": "validation", "test": "test"}
"""What errors call the splits."""


def data_of_splits(splits: Sequence[Split], task: str, num_classes: int, input_shape: Sequence[int], **about: Any) -> Data:
    """Make data of a training split, a validation split and, where it is given, a test split.

    Args:
        about: other attributes of `Data`.

    Example:
        >>> split = Split(torch.zeros(2, 3), torch.zeros(2, 1))
        >>> data_of_splits([split, split, split], "regression", 1, (3,)).test is split
        True
    """
    train, val, *test = splits
    return Data(train, val, task, num_classes, tuple(input_shape), test=test[0] if test else None, **about)


def keyed_permutation(size: int, seed: int, name: str) -> Tensor:
    """A permutation of `size` indices (int64, on the CPU) that depends on (seed, name) alone.

    Example:
        >>> torch.equal(keyed_permutation(9, 0, "a"), keyed_permutation(9, 0, "a"))
        True
    """
    return torch.randperm(size, generator=generator(seed, name))


def split_indices(
    size: int, val_fraction: float, seed: int, classes: Tensor | None = None, test_fraction: float | None = None
) -> list[Tensor]:
    """Indices of a training and a validation part, each sorted, and with `test_fraction` of a test part.

    With `classes` [size] they have the same fraction of each class. What is held out for one does not depend on the fraction of the
    other: they are taken from the two ends of one order.

    Example:
        >>> train, val = split_indices(10, 0.2, seed=0, classes=torch.arange(10) % 2)
        >>> len(train), (val % 2).tolist() in ([0, 1], [1, 0])
        (8, True)
        >>> [len(part) for part in split_indices(10, 0.2, seed=0, test_fraction=0.3)]
        [5, 2, 3]
    """
    order = keyed_permutation(size, seed, "data.split")
    orders = [order] if classes is None else [order[classes[order] == label] for label in classes.unique()]
    part_of = torch.zeros(size, dtype=torch.int64)
    for own in orders:
        part_of[own[len(own) - round(len(own) * (test_fraction or 0)) :]] = 2
        part_of[own[: round(len(own) * val_fraction)]] = 1
    return [(part_of == part).nonzero()[:, 0] for part in range(2 if test_fraction is None else 3)]


def standardise(train: Tensor, *others: Tensor, dims: tuple[int, ...] | None = None) -> list[Tensor]:
    """(x - mean) / std of each part with the mean and std of the training part over `dims` (all when None; population std).

    Over the training part the result has mean 0 and rms 1, in each cell that is left of `dims`; a constant cell
    becomes 0.

    Example:
        >>> train, _ = standardise(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0]]))
        >>> train.flatten().tolist()
        [-1.0, 1.0]
    """
    over = tuple(range(train.ndim)) if dims is None else dims
    std, mean = torch.std_mean(train.double() if train.numel() < 1e6 else train, dim=over, correction=0, keepdim=True)
    std, mean = std.float(), mean.float()
    std = torch.where(std > 0, std, torch.ones_like(std))
    return [(part.float() - mean) / std for part in (train, *others)]
