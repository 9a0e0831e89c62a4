"""Where a number that is not finite came from."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config.errors import TrainingError
from modelfactory.config.schema import join
from modelfactory.model.storages import tensors_in


def not_finite(
    model: nn.Module,
    x: Tensor,
    loss: float | Tensor,
    *,
    step: int,
    epoch: int,
    what: str = "loss",
    y: Tensor | None = None,
    autocast: AbstractContextManager[Any] | None = None,
) -> TrainingError:
    """The error of a loss that was not finite at `step`: names the input, the target, or the first layer whose output was not finite.

    `y` are the targets of `x`, or all that there are. Runs `x` through the model once more, within `autocast`, and puts its buffers
    back. Where the parameters were changed by the faulty step already, as on a device that is not waited for, the first such layer
    is the first of the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> _ = nn.init.constant_(model[0].bias, float("nan"))
        >>> str(not_finite(model, torch.ones(1, 2), float("nan"), step=3, epoch=1))[:32]
        'the loss is nan at step 3 (epoch'
    """
    value = float(loss.detach()) if isinstance(loss, Tensor) else loss
    head = f"the {what} is {value:g} at step {step} (epoch {epoch})"
    advice = "a smaller optimizer.lr or trainer.clip_norm may do"
    if x.is_floating_point() and not x.isfinite().all():
        bad = int((~x.isfinite()).reshape(len(x), -1).any(1).sum())
        return TrainingError(f"{head}: the input is not finite in {bad} of {len(x)} samples")
    if y is not None and y.is_floating_point() and not y.isfinite().all():
        bad = int((~y.isfinite()).reshape(len(y), -1).any(1).sum())
        return TrainingError(f"{head}: the target is not finite in {bad} of {len(y)} samples; leave them out of the data set")
    found = _first_layer(model, x, autocast or nullcontext())
    if found is None:
        return TrainingError(f"{head}: every layer's output is finite, so it is the loss itself; {advice}")
    name, layer = found
    where = f"layer {name!r} ({type(layer).__name__})" if name else f"the model ({type(layer).__name__})"
    own = [attr for attr, parameter in layer.named_parameters(recurse=False) if not parameter.isfinite().all()]
    why = f", whose parameter {join(name, own[0])!r} is not finite" if own else f"; {advice}"
    return TrainingError(f"{head}: the first output that is not finite is that of {where}{why}")


def _first_layer(model: nn.Module, x: Tensor, autocast: AbstractContextManager[Any]) -> tuple[str, nn.Module] | None:
    """The first module to finish, in the order of the forward pass, with an output that is not finite."""
    found: list[tuple[str, nn.Module]] = []
    names = {module: name for name, module in model.named_modules()}

    def look(module: nn.Module, _inputs: Any, output: Any) -> None:
        if not found and not all(tensor.isfinite().all() for tensor in tensors_in(output) if tensor.is_floating_point()):
            found.append((names[module], module))

    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    handles = [module.register_forward_hook(look) for module in names]
    try:
        with torch.no_grad():
            with autocast:
                model(x)
            for buffer, before in kept:
                buffer.copy_(before)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
