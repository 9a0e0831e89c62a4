"""The loss of a training, whether it fits the targets, and the sums from which an epoch's metrics come."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config import target
from modelfactory.config.errors import ConfigError, Problem, Problems, TrainingError, first_line
from modelfactory.config.schema import join
from modelfactory.data.dataset import IGNORED
from modelfactory.training.distributed import ALONE, World

_CLASS_LOSSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
_VALUE_LOSSES = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.PoissonNLLLoss,
    nn.KLDivLoss,
)
_TENSORS = frozenset({"weight", "pos_weight"})
_LARGEST_EXPONENT = 709.0  # of e in a double


@dataclass(frozen=True)
class LossSpec:
    """A loss module by its `_target_`, and its arguments.

    Attributes:
        tensors: arguments that are lists in a config, and tensors for the module.
    """

    factory: Callable[..., nn.Module]
    arguments: Mapping[str, Any]
    tensors: Mapping[str, Any]

    @property
    def ignored(self) -> int:
        """The class that the loss ignores, so that targets may be of it."""
        return _ignored(self.arguments.get("ignore_index"))

    def make(self) -> nn.Module:
        """Make the module."""
        tensors = {key: torch.tensor(value, dtype=torch.float32) for key, value in self.tensors.items()}
        return self.factory(**self.arguments, **tensors)


def read_loss(mapping: Any, problems: Problems, path: str = "trainer.loss") -> LossSpec | None:
    """The loss that a config names, or None: there is none, or what is wrong has been added to `problems`.

    Example:
        >>> problems = Problems()
        >>> read_loss({"_target_": "torch.nn.CrossEntropyLoss", "smoothing": 0.1}, problems)
        >>> print(*problems)
        trainer.loss.smoothing: not an argument of CrossEntropyLoss; did you mean 'label_smoothing'?
    """
    if mapping is None:
        return None
    if not isinstance(mapping, Mapping):
        problems.add(path, f"{mapping!r} is not a mapping; give _target_, such as torch.nn.CrossEntropyLoss, or null")
        return None
    name, arguments = target.split(mapping)
    factory = target.resolve(name, join(path, "_target_"), problems, kind="loss")
    if factory is None:
        return None
    found = len(problems)
    tensors = {key: value for key, value in arguments.items() if key in _TENSORS and isinstance(value, (list, tuple))}
    rest = {key: value for key, value in arguments.items() if key not in tensors}
    checked = target.check_arguments(factory, rest, path, problems, inferred=tensors) or {}
    for key, value in tensors.items():
        if not all(isinstance(item, (int, float)) and math.isfinite(item) for item in value):
            problems.add(join(path, key), f"{value!r} is not a list of numbers")
    if arguments.get("reduction") == "none":
        problems.add(join(path, "reduction"), "'none' gives no one number to train on; give mean or sum")
    if len(problems) != found:
        return None
    spec = LossSpec(factory, checked, tensors)
    try:
        loss = spec.make()
        if isinstance(loss, _CLASS_LOSSES):  # torch looks at some of the arguments no sooner than this
            loss(torch.zeros(1, 2 if loss.weight is None else len(loss.weight)), torch.zeros(1, dtype=torch.int64))
        elif isinstance(loss, _VALUE_LOSSES) and not tensors:
            loss(torch.full((1, 1), 0.5), torch.full((1, 1), 0.5))
    except (TypeError, ValueError, RuntimeError) as error:
        problems.add(path, f"{name} refuses {arguments}: {first_line(error)}")
        return None
    return spec


def make_loss(spec: LossSpec | None, task: str | None, problems: Problems, path: str = "trainer.loss") -> nn.Module | None:
    """The loss module of a task, or None after saying in `problems` that it is of another one.

    Without a spec it is CrossEntropyLoss for classification and MSELoss for regression. A task of None is not known yet.

    Example:
        >>> make_loss(None, "classification", Problems())
        CrossEntropyLoss()
        >>> problems = Problems()
        >>> make_loss(read_loss({"_target_": "torch.nn.MSELoss"}, problems), "classification", problems)
        >>> print(*problems)
        trainer.loss: MSELoss wants float targets, and the data has classes; give torch.nn.CrossEntropyLoss, or null
    """
    if spec is None:
        return nn.MSELoss() if task == "regression" else nn.CrossEntropyLoss()
    loss = spec.make()
    wrong = _wrong_task(loss, task)
    if wrong:
        problems.add(path, wrong)
    return None if wrong else loss


def _wrong_task(loss: nn.Module, task: str | None) -> str:
    name = type(loss).__name__
    if task == "classification" and isinstance(loss, _VALUE_LOSSES):
        return f"{name} wants float targets, and the data has classes; give torch.nn.CrossEntropyLoss, or null"
    if task == "regression" and isinstance(loss, _CLASS_LOSSES):
        return f"{name} wants classes, and the data has float targets; give torch.nn.MSELoss, or null"
    return ""


def ignored_target(trainer: Any) -> int:
    """The class that the loss of a `trainer` group ignores, whatever else is in the group: it may be another project's.

    Example:
        >>> ignored_target({"loss": {"_target_": "torch.nn.CrossEntropyLoss", "ignore_index": 255}}), ignored_target(None)
        (255, -100)
    """
    loss = trainer.get("loss") if isinstance(trainer, Mapping) else None
    return _ignored(loss.get("ignore_index") if isinstance(loss, Mapping) else None)


def _ignored(given: Any) -> int:
    return given if isinstance(given, int) and not isinstance(given, bool) else IGNORED


def are_class_shares(y: Tensor) -> bool:
    """Whether targets [N, classes] are shares of classes, such as one-hot vectors: none negative, each row a sum of 1.

    Example:
        >>> are_class_shares(torch.eye(3)), are_class_shares(torch.tensor([[0.5, 0.6]])), are_class_shares(torch.ones(4, 1))
        (True, False, False)
    """
    if not y.is_floating_point() or y.ndim < 2 or y.shape[1] < 2:
        return False
    return bool((y >= 0).all()) and bool(((y.sum(1) - 1).abs() < 1e-3).all())


class ClassesLast(nn.Module):
    """A loss of classes over outputs [N, ..., classes], as models of tokens give them; torch's has the classes in dimension 1.

    Example:
        >>> loss = ClassesLast(nn.CrossEntropyLoss())
        >>> round(loss(torch.zeros(2, 3, 8), torch.zeros(2, 3, dtype=torch.int64)).item(), 3)  # ln 8
        2.079
    """

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        return self.loss(output.movedim(-1, 1), y)


def class_dim_of(output: Any, x: Tensor, y: Tensor) -> int:
    """Which dimension of a classifier's output has the classes: 1 as torch's losses want it, or the last, as models of tokens have it.

    Where the sizes allow both, it is the last for inputs that are token ids, and 1 for others.

    Args:
        output: of the inputs `x`, whose targets are `y` [N, ...].

    Example:
        >>> class_dim_of(torch.zeros(2, 3, 8), torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64))
        -1
        >>> class_dim_of(torch.zeros(2, 8, 3, 3), torch.zeros(2, 1, 3, 3), torch.zeros(2, 3, 3, dtype=torch.int64))
        1
    """
    if y.is_floating_point() or not isinstance(output, Tensor) or output.ndim < 3 or output.shape[:-1] != y.shape:
        return 1
    return 1 if output.shape[2:] == y.shape[1:] and x.is_floating_point() else -1


def with_classes_at(loss: nn.Module, class_dim: int) -> nn.Module:
    """The loss for outputs that have their classes in a dimension: one of torch's is told, any other takes outputs as they are."""
    return ClassesLast(loss) if class_dim == -1 and isinstance(loss, _CLASS_LOSSES) else loss


def check_fit(loss: nn.Module, output: Any, y: Tensor, path: str = "trainer.loss") -> None:
    """Raises ConfigError where the model's `output` [N, ...] cannot be compared with the targets `y` [N, ...].

    A loss of torch broadcasts [N] against [N, 1] to N x N with a warning, and an index out of range on a GPU ends the
    process; both are caught here, on one batch.
    """
    if isinstance(loss, ClassesLast) and isinstance(output, Tensor):
        loss, output = loss.loss, output.movedim(-1, 1)
    name = type(loss).__name__
    if not isinstance(output, Tensor):
        raise ConfigError([Problem("model", f"returns {type(output).__name__}, not a tensor; {name} cannot be computed of it")])
    shapes = f"the model's output is {list(output.shape)} and the targets are {list(y.shape)}"
    if isinstance(loss, _VALUE_LOSSES) and output.shape != y.shape:
        fix = f"give the last layer {list(y.shape)[1:]} outputs" if y.ndim > 1 else "return targets of shape [1] from the data set"
        raise ConfigError([Problem(path, f"{name} compares equal shapes, and {shapes}; {fix}")])
    if isinstance(loss, _CLASS_LOSSES) and not y.is_floating_point():
        if output.ndim != y.ndim + 1 or output.shape[:1] != y.shape[:1] or output.shape[2:] != y.shape[1:]:
            one_hot = output.shape == y.shape and are_class_shares(y.float())
            hint = "; the targets are one-hot vectors: return their argmax(1) from the data set" if one_hot else ""
            if y.ndim == 2 and y.shape[1] == 1:
                hint = "; return a class as a number from the data set, not in a list of one"
            raise ConfigError([Problem(path, f"{name} wants [N, classes] against [N], and {shapes}{hint}")])
    try:
        value = loss(output, y)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ConfigError([Problem(path, f"{name} cannot compare them, {shapes}, {y.dtype}: {error}")]) from error
    if not isinstance(value, Tensor) or value.ndim != 0:
        raise ConfigError([Problem(path, f"{name} gives no one number to train on")])


def check_num_classes(output: Tensor, num_classes: int, class_dim: int = 1) -> None:
    """Raises ConfigError where a classifier's `output` [N, classes, ...] has fewer classes than the data."""
    if output.ndim > 1 and output.shape[class_dim] < num_classes:
        message = f"gives {output.shape[class_dim]} classes and the data has {num_classes}; give the last layer {num_classes} outputs"
        raise ConfigError([Problem("model", message)])


def scores_of_tokens(loss: float, unit: str | None) -> dict[str, float]:
    """What a mean loss per target, in nats, is in the units of language models: bits of a byte, perplexity.

    Example:
        >>> {name: round(value, 2) for name, value in scores_of_tokens(1.3863, "byte").items()}
        {'val_bits_per_byte': 2.0, 'val_perplexity': 4.0}
    """
    if unit is None:
        return {}
    bits = {"val_bits_per_byte": loss / math.log(2)} if unit == "byte" else {}
    return bits | {"val_perplexity": math.exp(loss) if loss < _LARGEST_EXPONENT else math.inf}


class LossSum:
    """The mean loss over an epoch, numerator and denominator summed apart, and the first step at which the loss was not finite.

    On the CPU a loss is read at each step, which costs nothing there. On other devices losses are kept where they are
    and read together at `read`, so that no step waits for the device.
    """

    def __init__(self, device: torch.device, *, is_sum: bool = False):
        self.reads_each = device.type == "cpu"
        self._is_sum = is_sum  # a loss that is summed over the batch already
        self._total, self._weight = 0.0, 0.0
        self._kept: list[Tensor] = []
        self._weights: list[Any] = []

    def add(self, loss: Tensor, weight: Any) -> bool:
        """Takes the loss of a batch that counts for `weight`, a number or a tensor of one; False where it is known not to be finite.

        A batch that counts for 0 adds nothing, and its loss, the mean of nothing, is not looked at.
        """
        if not self.reads_each:
            self._kept.append(loss.detach())
            self._weights.append(weight)
            return True
        return self._add(loss.item(), float(weight) if isinstance(weight, Tensor) else weight)

    def _add(self, value: float, weight: float) -> bool:
        if not weight:
            return True
        self._total += value if self._is_sum else value * weight
        self._weight += weight
        return math.isfinite(value)

    def read(self) -> tuple[int, float] | None:
        """Reads what was kept; of the first loss there that is not finite, how many batches ago it was and its value."""
        if not self._kept:
            return None
        values = torch.stack(self._kept).tolist()
        weights = self._weights
        if any(isinstance(weight, Tensor) for weight in weights):
            device = self._kept[0].device
            weights = torch.stack([torch.as_tensor(weight, dtype=torch.float32, device=device) for weight in weights]).tolist()
        finite = [self._add(value, weight) for value, weight in zip(values, weights, strict=True)]
        self._kept.clear()
        self._weights.clear()
        bad = ((len(values) - 1 - index, values[index]) for index, is_finite in enumerate(finite) if not is_finite)
        return next(bad, None)

    @property
    def sums(self) -> list[float]:
        """Numerator and denominator of what was read."""
        return [self._total, self._weight]

    @sums.setter
    def sums(self, sums: Sequence[float]) -> None:
        self._total, self._weight = sums

    def mean(self, world: World = ALONE) -> float:
        """The mean over all that was added, in all processes.

        Raises:
            TrainingError: nothing that was added counts.
        """
        self.read()
        total, weight = world.sum_numbers(self._total, self._weight)
        if not weight:
            raise TrainingError("the loss ignores every target of the epoch, so that it has no mean (trainer.loss.ignore_index, weight)")
        return total / weight


class Correct:
    """The share of targets that the largest output names, summed on the device and read once; ignored targets do not count."""

    def __init__(self, ignored: int | None = None, class_dim: int = 1) -> None:
        self._ignored, self._class_dim = ignored, class_dim
        self._right: Any = 0
        self._size: Any = 0

    def add(self, output: Tensor, y: Tensor) -> None:
        """`output` [N, classes, ...], or with the classes at `class_dim`, and `y` [N, ...], or class shares [N, classes, ...]."""
        if y.is_floating_point():
            y = y.argmax(1)
        right = output.argmax(self._class_dim) == y
        if self._ignored is not None:
            counts = y != self._ignored
            self._right += (right & counts).sum()
            self._size += counts.sum()
        else:
            self._right += right.sum()
            self._size += y.numel()

    def share(self, world: World = ALONE) -> float:
        """The share in all processes; NaN where no target counts."""
        right, size = world.sum_numbers(int(self._right), int(self._size))
        return right / size if size else math.nan
