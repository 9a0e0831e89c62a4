"""Find what the mean of a loss is over, so that the losses of batches add up to the loss of all their samples.

Torch's losses are known by their definitions, a custom one may declare it by a method `denominator(y)`, and what neither tells is tried on
random outputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config.printable import finite
from modelfactory.data.dataset import IGNORED, Data, Split
from modelfactory.data.first_batch import known_targets

_OVER_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
_OVER_ELEMENTS = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.PoissonNLLLoss,
    nn.KLDivLoss,
    nn.SoftMarginLoss,
    nn.HingeEmbeddingLoss,
)
_OVER_SAMPLES = (nn.MultiMarginLoss, nn.MultiLabelMarginLoss, nn.MultiLabelSoftMarginLoss)
_TRIED = 24  # random samples on which an unknown loss is tried
_PARTITIONS = ((3, 21), (9, 15), (8, 8, 8))
_TOLERANCE = 1e-4  # float32 adds up to 1e-6; a mean over something else is off by a tenth


@dataclass(frozen=True)
class LossMean:
    """How the losses of batches are put together.

    The loss of the samples of several batches is `sum(loss_b * weight(y_b)) / sum(weight(y_b))`; of a loss that is a sum, `sum(loss_b)`.

    Attributes:
        denominator: gives for the targets of a batch what its mean is over, a number or a tensor of one; None: nothing is known that would
            make batches add up, so that only the loss of all samples at once is right.
        is_sum: whether the loss is a sum over the batch, not a mean.
        ignored: the target that counts neither for the loss nor for the accuracy; None: all count.
        may_be_empty: whether nothing may count in a batch.
        is_declared: whether the loss itself says what its mean is over.
    """

    denominator: Callable[[Tensor], Any] | None
    is_sum: bool = False
    ignored: int | None = None
    may_be_empty: bool = False
    is_declared: bool = False

    @property
    def is_known(self) -> bool:
        return self.is_sum or self.denominator is not None

    def weight(self, y: Tensor) -> Any:
        """What the loss of a batch with targets `y` counts for in a mean over batches; a mean of sums is over samples."""
        return len(y) if self.is_sum or self.denominator is None else self.denominator(y)


def known_mean(loss: nn.Module, data: Data) -> LossMean:
    """What the mean of a loss is over, by torch's definition or the loss's own `denominator(y)`.

    Args:
        data: whose targets tell whether any is ignored, where they are in memory.

    Example:
        >>> split = Split(torch.zeros(3, 1), torch.tensor([0, 1, 1]))
        >>> loss = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 2.0]))
        >>> float(known_mean(loss, Data(split, split, "classification", 2, (1,))).weight(split.y))
        4.5
    """
    ignored = getattr(loss, "ignore_index", None)
    ignored = ignored if isinstance(ignored, int) else None
    declared = getattr(loss, "denominator", None)
    if callable(declared):
        return LossMean(declared, ignored=ignored, may_be_empty=True, is_declared=True)
    kind = next((kind for kind in (*_OVER_CLASSES, *_OVER_ELEMENTS, *_OVER_SAMPLES) if _is_torchs(loss, kind)), None)
    if kind is None:
        return LossMean(None, ignored=ignored)
    if loss.reduction == "sum":
        return LossMean(None, is_sum=True, ignored=ignored)
    if kind in _OVER_CLASSES:
        return _over_classes(loss, data)
    if kind in _OVER_SAMPLES or loss.reduction == "batchmean":
        return LossMean(len)
    return LossMean(_over_elements(data))


def _is_torchs(loss: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a loss computes what torch's own class computes: a subclass may compute anything."""
    return isinstance(loss, kind) and type(loss).forward is kind.forward


def _over_elements(data: Data) -> Callable[[Tensor], float]:
    """The elements of a batch, counted in those of a first sample, so that samples of one shape count 1 each."""
    unit = max(1, math.prod(data.train.sample(1)[1].shape[1:]))

    def elements(y: Tensor) -> float:
        return len(y) * (math.prod(y.shape[1:]) / unit)

    return elements


def _over_classes(loss: nn.Module, data: Data) -> LossMean:
    """The mean of torch's cross entropy: over the class weights of targets that are not ignored, or over rows of class shares."""
    weight: Any = loss.weight
    ignored: Any = loss.ignore_index
    has_zero = weight is not None and bool((weight == 0).any())
    some_ignored = has_ignored(data, ignored)
    elements = _over_elements(data)

    def denominator(y: Tensor) -> Any:
        if y.is_floating_point() or (weight is None and some_ignored is False):
            return elements(y)
        return counted(y, weight, ignored).sum()

    def counts_nothing(split: Split) -> bool:
        y = split.y
        return y is not None and not y.is_floating_point() and bool((counted(y, weight, ignored).reshape(len(y), -1) == 0).all(1).any())

    may_be_empty = has_zero or some_ignored is not False
    if all(split.y is not None for split in data.parts.values()):
        may_be_empty = may_be_empty and any(map(counts_nothing, data.parts.values()))
    return LossMean(denominator, ignored=None if some_ignored is False else ignored, may_be_empty=may_be_empty)


def has_ignored(data: Data, ignored: int | None) -> bool | None:
    """Whether any target is the ignored class; None: not known, as a data set on disk does not list its targets.

    Example:
        >>> split = Split(torch.zeros(2, 1), torch.tensor([0, -100]))
        >>> has_ignored(Data(split, split, "classification", 1, (1,)), -100)
        True
    """
    targets = [known_targets(split.dataset) if split.y is None else split.y for split in data.parts.values()]
    found = [None if y is None else bool((y == ignored).any()) for y in targets]
    return None if None in found else any(found)


def counted(y: Tensor, weight: Tensor | None, ignored: int) -> Tensor:
    """What each target of `y` (classes) counts for in torch's weighted mean: 0 where it is ignored.

    Example:
        >>> counted(torch.tensor([0, 2, -100]), torch.tensor([0.5, 1.0, 4.0]), -100).tolist()
        [0.5, 4.0, 0.0]
    """
    counts = y != ignored
    return counts if weight is None else torch.where(counts, weight.to(y.device)[torch.where(counts, y, 0)], 0)


def find_mean(loss: nn.Module, output: Tensor, y: Tensor, num_classes: int, ignored: int | None = None) -> LossMean:
    """Tries what the mean of an unknown loss is over: samples, a sum, or the targets that a cross entropy in it counts.

    The loss of random outputs is compared with those of parts of them. Where no mean fits, `denominator` is None.

    Args:
        output: of the model for a few samples, whose shape is taken; `y`: their targets.
        num_classes: from which random targets are drawn, where they are classes.
        ignored: a target that the loss ignores, with which it is tried too; None: there is none.

    Example:
        >>> class Halved(nn.Module):
        ...     def forward(self, output, y):
        ...         return nn.functional.mse_loss(output, y) / 2
        >>> find_mean(Halved(), torch.zeros(2, 1), torch.zeros(2, 1), 1).denominator is len
        True
    """
    tried = _Tried.of(loss, output, y, num_classes, ignored)
    if tried is None:
        return LossMean(None, is_sum=getattr(loss, "reduction", None) == "sum", ignored=ignored)
    if tried.fits(len):
        return LossMean(len, ignored=ignored)
    if tried.adds_up():
        return LossMean(None, is_sum=True, ignored=ignored)
    for weight, skipped in _class_weights(loss):

        def denominator(targets: Tensor, weight: Tensor | None = weight, skipped: int = skipped) -> Tensor:
            return counted(targets, weight, skipped).sum()

        if not y.is_floating_point() and tried.fits(denominator):
            return LossMean(denominator, ignored=ignored, may_be_empty=True)
    return LossMean(None, ignored=ignored)


def fits(mean: LossMean, loss: nn.Module, output: Tensor, y: Tensor, num_classes: int) -> bool:
    """Whether what a loss declares its mean to be over makes the losses of parts add up; True where it cannot be tried.

    Example:
        >>> fits(LossMean(len), nn.MSELoss(), torch.zeros(2, 1), torch.zeros(2, 1), 1)
        True
    """
    tried = _Tried.of(loss, output, y, num_classes, mean.ignored)
    return tried is None or mean.denominator is None or tried.fits(mean.denominator)


def _class_weights(loss: nn.Module) -> Iterator[tuple[Tensor | None, int]]:
    """Class weights and ignored class of a loss and of the losses that it holds."""
    for module in loss.modules():
        weight, ignored = getattr(module, "weight", None), getattr(module, "ignore_index", IGNORED)
        if isinstance(ignored, int) and (weight is None or isinstance(weight, Tensor) and weight.ndim == 1):
            yield weight, ignored


@dataclass(frozen=True)
class _Tried:
    """A loss of random outputs: the value of all samples, and for each partition the value and the targets of each part."""

    whole: float
    parts: Sequence[Sequence[tuple[float, Tensor]]]

    @staticmethod
    def of(loss: nn.Module, output: Tensor, y: Tensor, num_classes: int, ignored: int | None) -> _Tried | None:
        """The loss tried; None where no random outputs give finite numbers."""
        try:
            loss = copy.deepcopy(loss).cpu()  # a class out of range ends the process on a GPU, and a loss may count its calls
        except (RuntimeError, TypeError, ValueError):
            return None
        for targets in _targets(y.cpu(), num_classes, ignored):
            for outputs in _outputs(output.detach().float().cpu()):
                whole = _value(loss, outputs, targets)
                if whole is None:
                    continue
                cut = [zip(outputs.split(sizes), targets.split(sizes), strict=True) for sizes in map(list, _PARTITIONS)]
                parts = [[(_value(loss, a, b), b) for a, b in pieces] for pieces in cut]
                if all(value is not None for pieces in parts for value, _ in pieces):
                    return _Tried(whole, parts)  # pyright: ignore[reportArgumentType]
        return None

    def fits(self, denominator: Callable[[Tensor], Any]) -> bool:
        for pieces in self.parts:
            weights = [float(denominator(y)) for _, y in pieces]
            total = sum(weights)
            if not total or not self._is_whole(sum(value * weight for (value, _), weight in zip(pieces, weights, strict=True)) / total):
                return False
        return True

    def adds_up(self) -> bool:
        return all(self._is_whole(sum(value for value, _ in pieces)) for pieces in self.parts)

    def _is_whole(self, value: float) -> bool:
        largest = max(abs(self.whole), *(abs(part) for pieces in self.parts for part, _ in pieces))
        return abs(value - self.whole) <= _TOLERANCE * largest


def _value(loss: nn.Module, output: Tensor, y: Tensor) -> float | None:
    try:
        with torch.no_grad():
            value = float(loss(output, y))
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None
    return finite(value)


def _targets(y: Tensor, num_classes: int, ignored: int | None) -> Iterator[Tensor]:
    """Targets like `y`: its values again and again, or random classes, of which a quarter is ignored where the loss takes that."""
    if y.is_floating_point():
        yield torch.cat([y] * -(-_TRIED // len(y)))[:_TRIED]
        return
    source = torch.Generator().manual_seed(0)
    classes = torch.randint(num_classes, (_TRIED, *y.shape[1:]), generator=source)
    if ignored is not None:
        yield torch.where(torch.rand(classes.shape, generator=source) < 0.25, ignored, classes)
    yield classes


def _outputs(output: Tensor) -> Iterator[Tensor]:
    """Random outputs of the model's shape: of any sign, positive, as probabilities, and last the model's own."""
    drawn = torch.randn(_TRIED, *output.shape[1:], generator=torch.Generator().manual_seed(0))
    yield drawn
    yield drawn.abs() + 0.1
    yield drawn.softmax(1) if drawn.ndim > 1 and drawn.shape[1] > 1 else drawn.sigmoid()
    yield torch.cat([output] * -(-_TRIED // len(output)))[:_TRIED]
