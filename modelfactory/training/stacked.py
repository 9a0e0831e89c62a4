"""Several models of one architecture as one: one forward and one backward pass for all of them.

How it is meant to serve the one training loop. The loop of a job asks for few things: the loss of a batch with its gradients, the loss
of a validation batch, a step. As a generator it yields what it asks for and is sent the answer; for one job the answer is computed at
once, for a group the requests of all jobs that wait are answered by one call of `Stacked`. A job that diverges, stops early or is done
is a generator that ended: `without` makes the stack of those that are left. All else (order of the data, clipping by a model's own
norm, its optimizer, schedule, records, files) is of the job and stays as it is, since the parameters, gradients and buffers of each
model are views of the stack and keep their identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config.errors import ConfigError, Problem

TENSOR_FLOATS, ROW_FLOATS = 64, 1024  # to which tensors and rows are padded: kernels then take the same way for every model
_DRAWING = (nn.modules.dropout._DropoutNd, nn.RReLU)
_RUNNING = (nn.modules.batchnorm._NormBase,)
"""Layers with running statistics: vmap makes a copy of a stack of them, so that what a forward writes there is lost, and sums over a
batch in an order that depends on how many channels all models have together (seen in torch 2.14). They want a forward of their own."""


class Stacked:
    """Models whose parameters and buffers are rows of one tensor each.

    The numbers of a model are bit-identical whichever models it is stacked with, and those of the model alone to the accuracy of
    float32 (products of stacked matrices are summed in another order).

    Args:
        models: of the same modules and shapes, on one device; their tensors are moved into the stack.
        loss: of a model's output and the targets of its batch.

    Raises:
        ConfigError: models that cannot be stacked, with the module that is in the way.

    Example:
        >>> models = [nn.Linear(3, 2) for _ in range(4)]
        >>> stacked = Stacked(models, nn.CrossEntropyLoss())
        >>> losses = stacked.backward(torch.randn(4, 5, 3), torch.zeros(4, 5, dtype=torch.long))
        >>> losses.shape, models[3].weight.grad.shape
        (torch.Size([4]), torch.Size([2, 3]))
    """

    def __init__(self, models: Sequence[nn.Module], loss: Callable[[Any, Tensor], Tensor]):
        _check_alike(models)
        self.models, self._loss = list(models), loss
        self._skeleton = models[0]
        self._parameters = self._stack([dict(model.named_parameters()) for model in models])
        self._buffers = self._stack([dict(model.named_buffers()) for model in models])
        self._gradients = {name: torch.zeros_like(tensor) for name, tensor in self._parameters.items()}
        self._trained = [name for name, parameter in models[0].named_parameters() if parameter.requires_grad]
        for name in self._trained:
            self._parameters[name].requires_grad_()

    def _stack(self, held: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """A tensor [models, ...] for each name, whose rows the models' own tensors become."""
        stacked: dict[str, Tensor] = {}
        for dtype in dict.fromkeys(tensor.dtype for tensor in held[0].values()):
            chosen = {name: tensor for name, tensor in held[0].items() if tensor.dtype == dtype}
            places, end = {}, 0
            for name, tensor in chosen.items():
                places[name], end = end, end + _padded(tensor.numel(), TENSOR_FLOATS)
            row = _padded(end, ROW_FLOATS)
            flat = torch.zeros(len(held) * row, dtype=dtype, device=next(iter(chosen.values())).device)
            for name, tensor in chosen.items():
                strides = torch.empty(tensor.shape, device="meta").stride()
                stacked[name] = flat.as_strided((len(held), *tensor.shape), (row, *strides), places[name])
                for own, into in zip((tensors[name] for tensors in held), stacked[name], strict=True):
                    into.copy_(own.detach())
                    own.data = into
        return {name: stacked[name] for name in held[0]}

    def backward(self, x: Tensor, y: Tensor, scale: Tensor | None = None) -> Tensor:
        """Compute the loss of each model on its own batch, and the gradients, which become those of its parameters.

        Args:
            x: [models, batch, ...].
            y: [models, batch, ...].
            scale: by which each loss is multiplied before the backward pass; gradients add up, as in torch.

        Returns:
            The losses [models], before they are scaled.
        """
        losses = self._losses(x, y)
        for name in self._trained:
            self._parameters[name].grad = None
        (losses if scale is None else losses * scale).sum().backward()
        for name in self._trained:
            found = self._parameters[name].grad
            if found is not None:
                self._hand_out(name, found)
        return losses.detach()

    def _hand_out(self, name: str, found: Tensor) -> None:
        """Give each model its gradient, added to the one that it has."""
        kept = self._gradients[name]
        for index, model in enumerate(self.models):
            parameter = model.get_parameter(name)
            if parameter.grad is None:
                kept[index].copy_(found[index])
                parameter.grad = kept[index]
            else:
                parameter.grad += found[index]

    def _losses(self, x: Tensor, y: Tensor) -> Tensor:
        def loss_of(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return self._loss(torch.func.functional_call(self._skeleton, (parameters, buffers), (x,)), y)

        return torch.vmap(loss_of)(self._parameters, self._buffers, x, y)

    def outputs(self, x: Tensor) -> Any:
        """The output of each model, in the mode in which the first is, for its own inputs `x` [models, batch, ...]; without gradients."""
        with torch.no_grad():
            call = torch.vmap(lambda own, buffers, x: torch.func.functional_call(self._skeleton, (own, buffers), (x,)))
            return call(self._parameters, self._buffers, x)

    def without(self, left: Sequence[int]) -> Stacked:
        """The stack of the other models, when those of the places `left` have ended; these keep tensors of their own."""
        for index in left:
            for tensor in (*self.models[index].parameters(), *self.models[index].buffers()):
                tensor.data = tensor.detach().clone()
        return Stacked([model for index, model in enumerate(self.models) if index not in set(left)], self._loss)


def _padded(count: int, unit: int) -> int:
    return math.ceil(count / unit) * unit


def _check_alike(models: Sequence[nn.Module]) -> None:
    """Raise for models that are not of one architecture, or whose forward pass draws or writes, so that their numbers would be others."""
    first = [(name, type(module), module.extra_repr()) for name, module in models[0].named_modules()]
    shapes = [(name, tensor.shape, tensor.dtype) for name, tensor in models[0].state_dict(keep_vars=True).items()]
    names = {id(tensor) for tensor in (*models[0].parameters(), *models[0].buffers())}
    if len(names) < len(list(models[0].named_parameters(remove_duplicate=False))) + len(list(models[0].named_buffers())):
        raise ConfigError([Problem("sweep.batch", "models with tied parameters cannot be stacked")])
    for name, module in models[0].named_modules():
        if isinstance(module, _DRAWING):
            raise ConfigError([Problem("sweep.batch", f"layer {name!r} ({type(module).__name__}) draws, and cannot be stacked")])
        if isinstance(module, _RUNNING) and module.running_mean is not None:
            what = f"layer {name!r} ({type(module).__name__}) keeps statistics of its batches, and cannot be stacked"
            raise ConfigError([Problem("sweep.batch", what)])
    for model in models[1:]:
        same = [(name, type(module), module.extra_repr()) for name, module in model.named_modules()] == first
        if not same or [(name, tensor.shape, tensor.dtype) for name, tensor in model.state_dict(keep_vars=True).items()] != shapes:
            raise ConfigError([Problem("sweep.batch", "models of different architectures cannot be stacked")])
        if [p.requires_grad for p in model.parameters()] != [p.requires_grad for p in models[0].parameters()]:
            raise ConfigError([Problem("sweep.batch", "models that freeze different parameters cannot be stacked")])
