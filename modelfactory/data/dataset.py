"""What the trainer is given: a training and a validation split, in memory or on disk."""

from __future__ import annotations

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
    """A training and a validation split, and how they are batched.

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


def keyed_permutation(size: int, seed: int, name: str) -> Tensor:
    """A permutation of `size` indices (int64, on the CPU) that depends on (seed, name) alone.

    Example:
        >>> torch.equal(keyed_permutation(9, 0, "a"), keyed_permutation(9, 0, "a"))
        True
    """
    return torch.randperm(size, generator=generator(seed, name))


def split_indices(size: int, val_fraction: float, seed: int, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Indices of a training and a validation part, each sorted; with `classes` [size] the same fraction of each class.

    Example:
        >>> train, val = split_indices(10, 0.2, seed=0, classes=torch.arange(10) % 2)
        >>> len(train), (val % 2).tolist() in ([0, 1], [1, 0])
        (8, True)
    """
    order = keyed_permutation(size, seed, "data.split")
    if classes is None:
        val = order[: round(size * val_fraction)]
    else:
        of_order = classes[order]
        parts = [order[of_order == label] for label in classes.unique()]
        val = torch.cat([part[: round(len(part) * val_fraction)] for part in parts])
    chosen = torch.zeros(size, dtype=torch.bool)
    chosen[val] = True
    return (~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0]


def standardise(train: Tensor, val: Tensor, dims: tuple[int, ...] | None = None) -> tuple[Tensor, Tensor]:
    """(x - mean) / std with the mean and std of the training part over `dims` (all when None; population std).

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
    return (train.float() - mean) / std, (val.float() - mean) / std
