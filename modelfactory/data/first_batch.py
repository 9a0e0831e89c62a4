"""What an initialisation may ask of the data: how frequent the classes are, and a first batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from modelfactory.config.errors import SchemeError
from modelfactory.data.batches import make_batches
from modelfactory.data.checked_samples import CheckedSamples
from modelfactory.data.dataset import Data
from modelfactory.init.structural_arguments import DataStatistics


def evidence_of(load: Callable[[], Data]) -> DataStatistics:
    """The evidence in what `load` gives, which is called once, when something is first asked.

    Example:
        >>> from modelfactory.data.dataset import Split
        >>> split = Split(torch.arange(4.0)[:, None], torch.tensor([0, 1, 1, 1]))
        >>> evidence = evidence_of(lambda: Data(split, split, "classification", 2, (1,), batch_size=2))
        >>> evidence.shares(), evidence.batch().shape
        ([0.25, 0.75], torch.Size([2, 1]))
    """
    loaded = cache(load)
    return DataStatistics(lambda: class_shares(loaded()), lambda: first_batch(loaded()))


def class_shares(data: Data) -> list[float]:
    """How large a share of the training samples each class has.

    Raises:
        SchemeError: the targets are no classes.
    """
    if data.task != "classification":
        raise SchemeError("the data are for regression: there are no classes whose priors could be counted; give p or priors")
    if hasattr(data.train.dataset, "class_counts"):
        counts = data.train.dataset.class_counts().double()
    else:
        targets = data.train.y if data.train.y is not None else targets_of(data.train.dataset)
        targets = targets.reshape(-1)
        counts = torch.bincount(targets[(targets >= 0) & (targets < data.num_classes)], minlength=data.num_classes).double()
    return (counts / counts.sum()).tolist()


def targets_of(dataset: Any) -> Tensor:
    """The classes of a dataset on disk, by its list of them where it has one, else sample by sample."""
    known = known_targets(dataset)
    return known if known is not None else torch.tensor([int(dataset[index][1]) for index in range(len(dataset))])


def known_targets(dataset: Any) -> Tensor | None:
    """The classes that a dataset on disk lists (`targets`, also of a Subset); None where it lists none.

    Example:
        >>> from torchvision.datasets import FakeData
        >>> known_targets(FakeData(3)) is None
        True
    """
    if isinstance(dataset, CheckedSamples):
        return known_targets(dataset.dataset)
    listed, indices = getattr(dataset, "targets", None), getattr(dataset, "indices", None)
    if listed is None and indices is not None:  # torch.utils.data.Subset
        inner = known_targets(getattr(dataset, "dataset", None))
        return None if inner is None else inner[torch.as_tensor(indices, dtype=torch.int64)]
    if listed is None or len(listed) != len(dataset):
        return None
    try:
        targets = torch.as_tensor(listed)
    except (TypeError, ValueError, RuntimeError):  # something else by this name
        return None
    return None if targets.is_floating_point() else targets.long()


def first_batch(data: Data) -> Tensor:
    """The inputs of the first training batch, on the CPU: those that the first step of the training sees."""
    batches = make_batches(data.train, data.batch_size, torch.device("cpu"), seed=data.seed, drop_last=data.drop_last)
    return next(iter(batches.epoch(1)))[0]
