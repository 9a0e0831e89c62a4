"""Fewer classes, and few training samples of each: `data.classes` and `data.per_class`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from modelfactory.config.errors import Problems
from modelfactory.config.schema import join
from modelfactory.data.dataset import Data, Split, keyed_permutation
from modelfactory.data.first_batch import targets_of


def narrow(data: Data, classes: Sequence[int] | None, per_class: int | None, seed: int, path: str, problems: Problems) -> Data:
    """The samples of some classes, `per_class` training samples of each; what is wrong goes to `problems`.

    Class `classes[i]` becomes class i. Which samples are taken depends on (seed, class) alone, so those of 10 a class are
    among those of 20. The validation part, and the test part, have all samples of the classes.

    Example:
        >>> split = Split(torch.arange(6.0)[:, None], torch.tensor([0, 1, 2, 0, 1, 2]))
        >>> narrowed = narrow(Data(split, split, "classification", 3, (1,)), [2, 0], 1, 0, "data", Problems())
        >>> sorted(narrowed.train.y.tolist()), narrowed.val.x.flatten().tolist(), narrowed.val.y.tolist()
        ([0, 1], [0.0, 2.0, 3.0, 5.0], [1, 0, 1, 0])
    """
    if classes is None and per_class is None:
        return data
    given = {"classes": classes, "per_class": per_class}
    if data.task != "classification":
        for name in (name for name, value in given.items() if value is not None):
            problems.add(join(path, name), f"{given[name]!r} is of classes, and the data has values; give null")
        return data
    if data.train.sample(1)[1].ndim > 1:
        for name in (name for name, value in given.items() if value is not None):
            why = "is of samples of one class each, and these have a target at each place; give null"
            problems.add(join(path, name), f"{given[name]!r} {why}")
        return data
    chosen = list(range(data.num_classes)) if classes is None else list(classes)
    wrong = [label for label in chosen if not 0 <= label < data.num_classes]
    if wrong or not chosen or len(set(chosen)) < len(chosen):
        why = f"{wrong[0]} is no class" if wrong else "is empty" if not chosen else f"{chosen} names a class twice"
        problems.add(join(path, "classes"), f"{why}; give some of 0 to {data.num_classes - 1}")
        return data
    few = per_class is not None
    order = {label: index for index, label in enumerate(chosen)}
    labels = data.train.y if data.train.y is not None else targets_of(data.train.dataset)
    indices = []
    for label in chosen:
        own = (labels == label).nonzero()[:, 0]
        if per_class is not None and len(own) < per_class:
            message = f"{per_class} is more than the {len(own)} training samples that there are of class {label}"
            problems.add(join(path, "per_class"), message)
        indices.append(own[keyed_permutation(len(own), seed, f"data.per_class.{label}")[:per_class]] if few else own)
    held_out = {name: _take(split, _of_classes(split, chosen), order) for name, split in data.parts.items() if name != "train"}
    return replace(data, train=_take(data.train, torch.cat(indices).sort().values, order), num_classes=len(chosen), **held_out)


def _of_classes(split: Split, chosen: Sequence[int]) -> Tensor:
    """The indices of all samples of some classes."""
    labels = split.y if split.y is not None else targets_of(split.dataset)
    return torch.isin(labels, torch.tensor(chosen)).nonzero()[:, 0]


def _take(split: Split, indices: Tensor, order: Mapping[int, int]) -> Split:
    if split.x is None or split.y is None:
        return Split(dataset=Narrowed(split.dataset, indices.tolist(), order))
    table = torch.full((max(order) + 1,), -1)
    table[list(order)] = torch.tensor(list(order.values()))
    return Split(split.x[indices.to(split.x.device)], table.to(split.y.device)[split.y[indices.to(split.y.device)]])


class Narrowed:
    """Some samples of a dataset on disk, with their classes counted anew."""

    def __init__(self, dataset: Any, indices: list[int], order: Mapping[int, int]):
        self.dataset, self.indices, self.order = dataset, indices, dict(order)
        known = targets_of(dataset)
        self.targets = [self.order[int(known[index])] for index in indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]][0], self.targets[index]
