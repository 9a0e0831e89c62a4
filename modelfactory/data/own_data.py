"""What a data function of a project's own returned, as the data of a training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from modelfactory.config.errors import ConfigError, Problem
from modelfactory.config.schema import join
from modelfactory.data.checked_samples import CheckedSamples, as_inputs, as_targets
from modelfactory.data.dataset import PART_NAMES, Data, Split, data_of_splits
from modelfactory.data.determinism import is_repeatable


def as_data(made: Any, known_classes: int | None, path: str, ignored: int) -> Data:
    """What a factory returned as Data, in types that a model trains on: a pair of torch datasets becomes one, and so do three.

    Args:
        known_classes: what `num_classes` declares; None: they are counted, in memory, or named by the data set.

    Raises:
        ConfigError: it returned something else, a set without samples, or one that does not tell its classes.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> pairs = TensorDataset(torch.zeros(2, 3), torch.tensor([0, 1]))
        >>> as_data((pairs, pairs, pairs), None, "data", -100).num_classes
        2
    """
    if isinstance(made, Data):
        num_classes = made.num_classes if made.task == "classification" else None
        parts = {name: _converted(split, PART_NAMES[name], path, num_classes, ignored) for name, split in made.parts.items()}
        return _with_warning(replace(made, **parts))
    where = join(path, "_target_")
    if not (isinstance(made, tuple) and len(made) in (2, 3) and all(map(is_dataset, made))):
        hint = "return modelfactory.data.Data, or a pair of torch datasets with a length (training, validation), or three with a test set"
        raise ConfigError([Problem(where, f"returned {type(made).__name__}; {hint}")])
    for name, part in zip(PART_NAMES.values(), made, strict=False):
        if len(part) == 0:
            raise ConfigError([Problem(where, f"returned a {name} set without samples; return one sample or more")])
    splits = [Split(*part.tensors) if _has_tensors(part) else Split(dataset=part) for part in made]
    named = zip(PART_NAMES.values(), splits, strict=False)
    splits = [_converted(split, name, path, known_classes, ignored) for name, split in named]
    train = splits[0]
    x, y = train.sample(1)
    task = "regression" if y.is_floating_point() else "classification"
    num_classes = y[0].numel() if task == "regression" else known_classes or _num_classes(train, path, ignored)
    for split in splits if task == "classification" else ():
        if split.dataset is not None:
            split.dataset.num_classes = num_classes
    return _with_warning(data_of_splits(splits, task, num_classes, x.shape[1:]))


def _with_warning(data: Data) -> Data:
    """The data, with a warning where the samples of a data set on disk cannot be made the same again."""
    if data.train.dataset is None or not len(data.train) or is_repeatable(data.train.dataset):
        return data
    warning = (
        "the training samples are not the same when they are read again with the same seed: the data set draws from a generator that "
        "cannot be seeded, so that this run cannot be repeated; draw from the global generators of numpy, torch or random"
    )
    return replace(data, warnings=(*data.warnings, warning))


def _converted(split: Split, name: str, path: str, num_classes: int | None, ignored: int) -> Split:
    """A split in types that a model trains on: in memory at once, on disk as its samples are read."""
    if split.x is not None and split.y is not None:
        return Split(as_inputs(split.x), as_targets(split.y))
    return Split(dataset=CheckedSamples(split.dataset, name, path, num_classes, ignored))


def _num_classes(split: Split, path: str, ignored: int) -> int:
    if split.y is not None:
        return max(1, int(torch.where(split.y == ignored, 0, split.y).max()) + 1)
    if hasattr(split.dataset, "classes"):
        return len(split.dataset.classes)
    raise ConfigError([Problem(join(path, "num_classes"), "missing; a dataset that does not name its classes needs it")])


def is_dataset(part: Any) -> bool:
    """Whether something has samples and a length.

    Example:
        >>> is_dataset([(1, 2)]), is_dataset(3)
        (True, False)
    """
    return hasattr(part, "__getitem__") and hasattr(part, "__len__")


def _has_tensors(dataset: Any) -> bool:
    from torch.utils.data import TensorDataset

    return isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2
