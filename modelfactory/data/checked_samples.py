"""Check the samples of a user's data set, and give them the types that a model trains on; errors name the sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modelfactory.config.errors import ConfigError, Problem
from modelfactory.config.schema import join


def sample_name(dataset: Any, index: int) -> str:
    """What a sample is called in an error: its file, where the dataset tells it, else its number.

    Example:
        >>> sample_name(torch.utils.data.TensorDataset(torch.zeros(3)), 2)
        'sample 2'
    """
    files, indices, inner = (getattr(dataset, attribute, None) for attribute in ("samples", "indices", "dataset"))
    if isinstance(files, list) and index < len(files) and isinstance(files[index], (list, tuple)):
        return str(files[index][0])
    if indices is not None and inner is not None:
        return sample_name(inner, int(indices[index]))
    return sample_name(inner, index) if isinstance(dataset, CheckedSamples) else f"sample {index}"


class CheckedSamples:
    """A dataset of a user's own, each sample of which is a pair of an input and a target in the types that a model trains on.

    Inputs become tensors of the default float type, or int64; targets int64 (bools and small integers too) or floats. Other attributes are
    those of the dataset.

    Args:
        part: what errors call it, such as "training".
        path: of the `data` group.
        num_classes: above every target that is a class; None: not known.
        ignored: a class that the loss ignores.

    Example:
        >>> pairs = torch.utils.data.StackDataset(np.zeros((2, 3)), [True, False])
        >>> x, y = CheckedSamples(pairs, "training")[0]
        >>> x.dtype, y
        (torch.float32, tensor(1))
    """

    def __init__(self, dataset: Any, part: str, path: str = "data", num_classes: int | None = None, ignored: int | None = None):
        self.dataset, self.part, self.path, self.num_classes, self.ignored = dataset, part, path, num_classes, ignored

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in self.__dict__:  # as when it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.dataset[index]
        if not isinstance(sample, (tuple, list)) or len(sample) != 2:
            keys = f" with the keys {', '.join(map(repr, sample))}" if isinstance(sample, Mapping) else ""
            size = f" of {len(sample)}" if isinstance(sample, (tuple, list)) else ""
            raise self._wrong(index, f"is a {type(sample).__name__}{size}{keys}; return a pair (input, target)")
        x, y = self._tensor(index, "input", sample[0]), self._tensor(index, "target", sample[1])
        y = as_targets(y)
        if not y.is_floating_point() and self.num_classes is not None:
            outside = labels_outside(y, self.num_classes, self.ignored)
            if outside is not None:
                fix = f"classes go from 0 to {self.num_classes - 1}: correct it, or give {join(self.path, 'num_classes')}"
                raise self._wrong(index, f"has the target {outside}, and {fix}", "num_classes")
        return as_inputs(x), y

    def _tensor(self, index: int, what: str, value: Any) -> Tensor:
        try:
            if isinstance(value, (Tensor, np.ndarray, np.generic, bool, int, float)):
                return torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):  # numpy's texts and objects
            pass
        wanted = "a tensor, such as torchvision.transforms.v2.ToImage makes of an image" if what == "input" else "a class number, or floats"
        kind = type(value)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        raise self._wrong(index, f"has the {what} of type {name}; return {wanted}")

    def _wrong(self, index: int, what: str, key: str = "_target_") -> ConfigError:
        return ConfigError([Problem(join(self.path, key), f"{sample_name(self.dataset, index)} of the {self.part} data {what}")])


def as_inputs(x: Tensor) -> Tensor:
    """Inputs in a type that models take: the default float, int64 for other integers; bytes and bools stay as they are.

    Example:
        >>> as_inputs(torch.zeros(2, dtype=torch.float64)).dtype, as_inputs(torch.zeros(2, dtype=torch.int32)).dtype
        (torch.float32, torch.int64)
    """
    if x.is_floating_point():
        return x.to(torch.get_default_dtype())
    return x.long() if x.dtype in (torch.int8, torch.int16, torch.int32) else x


def as_targets(y: Tensor) -> Tensor:
    """Targets in a type that losses take: int64 for classes, the default float for values.

    Example:
        >>> as_targets(torch.tensor([True, False])).tolist(), as_targets(torch.zeros(2, dtype=torch.float64)).dtype
        ([1, 0], torch.float32)
    """
    return y.to(torch.get_default_dtype()) if y.is_floating_point() else y.long()


def labels_outside(y: Tensor, num_classes: int, ignored: int | None) -> int | None:
    """The first target that is neither one of the classes nor ignored; None: there is none.

    Example:
        >>> labels_outside(torch.tensor([0, -100, 3]), num_classes=3, ignored=-100)
        3
    """
    if not y.numel() or 0 <= int(y.min()) and int(y.max()) < num_classes:
        return None
    outside = y[((y < 0) | (y >= num_classes)) & (y != ignored)]
    return int(outside[0]) if len(outside) else None
