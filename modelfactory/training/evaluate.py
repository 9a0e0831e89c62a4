"""Measure a trained model: its loss and accuracy over a split, its outputs of given inputs."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from modelfactory.config.errors import ConfigError, Problems
from modelfactory.data.batches import make_batches
from modelfactory.data.dataset import Data
from modelfactory.model.modes import kept_modes
from modelfactory.training.loss import Correct, LossSpec, LossSum, check_fit, class_dim_of, make_loss, scores_of_tokens, with_classes_at
from modelfactory.training.loss_mean import known_mean


def measure_split(model: nn.Module, data: Data, split: str = "val", loss: LossSpec | None = None) -> dict[str, float]:
    """Measure a model over a split, on its device: the mean loss, of classes the accuracy, of text bits and perplexity; its modes stay.

    Args:
        split: "val", "train", or "test" where the data have that.
        loss: the `trainer.loss` of a config; None: cross entropy for classes, mean squares for values.

    Raises:
        ConfigError: no such split, or a loss that is wrong or does not go with the model.

    Example:
        >>> from modelfactory.data import build_data
        >>> data = build_data({"_target_": "modelfactory.data.digits"})
        >>> sorted(measure_split(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), data))
        ['accuracy', 'loss', 'samples']
    """
    problems, parts = Problems(), data.parts
    if split not in parts:
        problems.add("split", f"{split!r} is not a split of these data; choose one of {', '.join(parts)}")
    module = make_loss(loss, data.task, problems)
    if module is None or problems:
        raise ConfigError(problems)
    device = device_of(model)
    module = module.to(device)
    part = parts[split]
    mean = known_mean(module, data)
    losses, correct, kept, unit = LossSum(device, is_sum=mean.is_sum), Correct(mean.ignored), [], data.unit
    with in_evaluation(model), torch.no_grad():
        for index, (x, y) in enumerate(make_batches(part, data.val_batch_size or data.batch_size, device).epoch(1)):
            output = model(x)
            if not index and data.task == "classification":
                class_dim = class_dim_of(output, x, y)
                module, correct = with_classes_at(module, class_dim), Correct(mean.ignored, class_dim)
                unit = data.unit or ("token" if class_dim == -1 and not x.is_floating_point() else None)
            if not index:
                check_fit(module, output, y)
            if mean.is_known:
                losses.add(module(output, y), mean.weight(y))
            else:  # no mean over samples: of all at once
                kept.append((output, y))
            if data.task == "classification":
                correct.add(output, y)
        if kept:
            outputs, targets = (torch.cat(part) for part in zip(*kept, strict=True))
            losses.add(module(outputs, targets), len(targets))
    measured = {"loss": losses.mean(), "samples": len(part)}
    measured |= {name.removeprefix("val_"): value for name, value in scores_of_tokens(measured["loss"], unit).items()}
    return measured | ({"accuracy": correct.share()} if data.task == "classification" else {})


def compute_outputs(model: nn.Module, inputs: Tensor, batch_size: int = 256) -> Tensor:
    """Compute a model's outputs of inputs [N, ...] in evaluation mode, in batches, on the model's device; they come back on the CPU.

    Example:
        >>> compute_outputs(nn.Linear(3, 2), torch.zeros(5, 3), batch_size=2).shape
        torch.Size([5, 2])
    """
    device = device_of(model)
    with in_evaluation(model), torch.no_grad():
        return torch.cat([model(batch.to(device)).cpu() for batch in inputs.split(max(1, batch_size))])


def device_of(model: nn.Module) -> torch.device:
    """Tell where the first parameter or buffer of a model is; the CPU where it has none.

    Example:
        >>> device_of(nn.ReLU())
        device(type='cpu')
    """
    first = next(model.parameters(), None)
    first = next(model.buffers(), None) if first is None else first
    return torch.device("cpu") if first is None else first.device


@contextmanager
def in_evaluation(model: nn.Module):
    """Put a model into evaluation mode while the block runs; each module has its own mode again then.

    Example:
        >>> model = nn.Dropout()
        >>> with in_evaluation(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    with kept_modes(model):
        model.eval()
        yield
