"""What an initialisation may ask of the data: how frequent the classes are, and a first batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from modelfactory.config.errors import SchemeError
from modelfactory.data.batches import make_batches
from modelfactory.data.dataset import Data
from modelfactory.init.structural_arguments import Evidence


def evidence_of(load: Callable[[], Data]) -> Evidence:
    """The evidence in what `load` gives, which is called once, when something is first asked.

    Example:
        >>> from modelfactory.data.dataset import Split
        >>> split = Split(torch.arange(4.0)[:, None], torch.tensor([0, 1, 1, 1]))
        >>> evidence = evidence_of(lambda: Data(split, split, "classification", 2, (1,), batch_size=2))
        >>> evidence.shares(), evidence.batch().shape
        ([0.25, 0.75], torch.Size([2, 1]))
    """
    loaded = cache(load)
    return Evidence(lambda: class_shares(loaded()), lambda: first_batch(loaded()))


def class_shares(data: Data) -> list[float]:
    """How large a share of the training samples each class has.

    Raises:
        SchemeError: the targets are no classes.
    """
    if data.task != "classification":
        raise SchemeError("the data are for regression: there are no classes whose priors could be counted; give p or priors")
    targets = data.train.y if data.train.y is not None else targets_of(data.train.dataset)
    counts = torch.bincount(targets.reshape(-1), minlength=data.num_classes).double()
    return (counts / counts.sum()).tolist()


def targets_of(dataset: Any) -> Tensor:
    """The targets of a dataset on disk, by its list of them where it has one, else sample by sample."""
    known = getattr(dataset, "targets", None)
    if known is not None:
        return torch.as_tensor(known, dtype=torch.int64)
    indices, whole = getattr(dataset, "indices", None), getattr(getattr(dataset, "dataset", None), "targets", None)
    if indices is not None and whole is not None:  # torch.utils.data.Subset
        return torch.as_tensor(whole, dtype=torch.int64)[torch.as_tensor(indices)]
    return torch.tensor([int(dataset[index][1]) for index in range(len(dataset))])  # pyright: ignore


def first_batch(data: Data) -> Tensor:
    """The inputs of the first training batch, on the CPU: those that the first step of the training sees."""
    batches = make_batches(data.train, data.batch_size, torch.device("cpu"), seed=data.seed)
    return next(iter(batches.epoch(1)))[0]
