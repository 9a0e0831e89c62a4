"""Several models of one architecture as one: one forward and one backward pass for all of them.

The parameters of layers that are known to stack are rows of one tensor, over which `torch.vmap` runs the forward pass. Every other
layer is computed by each model itself, one after another, on its own part of the batch (`modelfactory.training.one_by_one`): a
convolution, a norm with running statistics, dropout, a layer of somebody's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config.errors import ConfigError, Problem
from modelfactory.training.one_by_one import Streams, skeleton_of
from modelfactory.training.stackable import check_alike, loss_stacks, same_loss, stacked_names

TENSOR_FLOATS, ROW_FLOATS = 64, 1024  # to which tensors and rows are padded: kernels then take the same way for every model
Loss = Callable[[Any, Tensor], Tensor]


class Stacked:
    """Models whose parameters are rows of one tensor each.

    The numbers of a model are bit-identical whichever models it is stacked with, and those of the model alone to the accuracy of
    float32 (products of stacked matrices are summed in another order).

    Args:
        models: of the same modules and shapes, on one device; their stacked parameters are moved into the stack.
        losses: one for all models, or one for each: of a model's output and the targets of its batch.
        streams: what the layers of each model draw from; None: nothing is drawn.

    Raises:
        ConfigError: models that cannot be stacked, with the module that is in the way.

    Example:
        >>> models = [nn.Sequential(nn.Linear(3, 2)) for _ in range(4)]
        >>> stacked = Stacked(models, nn.CrossEntropyLoss())
        >>> losses = stacked.backward(torch.randn(4, 5, 3), torch.zeros(4, 5, dtype=torch.long))
        >>> losses.shape, models[3][0].weight.grad.shape
        (torch.Size([4]), torch.Size([2, 3]))
    """

    def __init__(self, models: Sequence[nn.Module], losses: nn.Module | Sequence[nn.Module], streams: Sequence[Any] | None = None):
        check_alike(models)
        self.models = list(models)
        self._losses = [losses] * len(models) if isinstance(losses, nn.Module) else list(losses)
        self._kinds = _kinds(self._losses)
        self._streams = [None] * len(models) if streams is None else list(streams)
        self._names = stacked_names(models[0])
        self._skeleton, self._loops = skeleton_of(models[0])
        self._own = [dict(model.named_parameters()) for model in models]
        self._flat, self._places, self._row = self._move()
        self._all = list(range(len(models)))
        self._leaves = self._leaves_of(self._flat, self._all)

    @property
    def draws(self) -> bool:
        """Whether a layer of the models draws while they train."""
        return self._loops.draws

    def _move(self) -> tuple[Tensor | None, dict[str, int], int]:
        """One flat tensor of rows, a model each, of which the stacked parameters of the models become parts; and where each begins."""
        first = {name: self._own[0][name] for name in self._names}
        places, end = {}, 0
        for name, tensor in first.items():
            places[name], end = end, end + _padded(tensor.numel(), TENSOR_FLOATS)
        row = _padded(end, ROW_FLOATS)
        if not first:
            return None, places, row
        some = next(iter(first.values()))
        if any(tensor.dtype != some.dtype for tensor in first.values()):
            raise ConfigError([Problem("sweep.batch", "models with parameters of several dtypes cannot be stacked")])
        flat = torch.zeros(len(self.models) * row, dtype=some.dtype, device=some.device)
        for index, own in enumerate(self._own):
            for name, place in places.items():
                shape = own[name].shape
                into = flat.as_strided(shape, _strides(shape), index * row + place)
                into.copy_(own[name].detach())
                own[name].data = into
        return flat, places, row

    def _leaves_of(self, flat: Tensor | None, rows: Sequence[int]) -> dict[str, Tensor]:
        """The stacked parameters [rows, ...] of a flat tensor, each of which trains where it does in any of the models."""
        leaves: dict[str, Tensor] = {}
        if flat is None:
            return leaves
        for name, place in self._places.items():
            shape = self._own[0][name].shape
            leaf = flat.as_strided((len(rows), *shape), (self._row, *_strides(shape)), place).detach()
            leaves[name] = leaf
        return leaves

    def _chosen(self, rows: Sequence[int] | None) -> tuple[list[int], dict[str, Tensor]]:
        """The rows, and their parameters: a copy of the same layout, so that kernels take the same way, where it is not all of them."""
        if rows is None or list(rows) == self._all:
            return self._all, self._leaves
        rows = list(rows)
        flat = None if self._flat is None else self._flat.reshape(len(self.models), self._row)[rows].reshape(-1)
        return rows, self._leaves_of(flat, rows)

    def backward(self, x: Tensor, y: Tensor, shares: Tensor | None = None, rows: Sequence[int] | None = None) -> Tensor:
        """Compute the loss of each model on its own batch, and add the gradients to those of its parameters.

        Args:
            x: [models, batch, ...].
            y: [models, batch, ...].
            shares: [models] by which each loss is multiplied before the backward pass.
            rows: the places of the models that the batches are of; None: all, in their order.

        Returns:
            The losses [models], before they are multiplied.
        """
        rows, leaves = self._chosen(rows)
        for name, leaf in leaves.items():
            leaf.grad = None
            leaf.requires_grad_(any(self._own[row][name].requires_grad for row in rows))
        losses = self._losses_of(self._forward(leaves, x, rows), y, rows)
        (losses if shares is None else losses * shares).sum().backward()
        for name, leaf in leaves.items():
            if leaf.grad is not None:
                for row, gradient in zip(rows, leaf.grad.unbind(0), strict=True):
                    parameter = self._own[row][name]
                    if not parameter.requires_grad:
                        continue
                    if parameter.grad is None:
                        parameter.grad = gradient
                    else:
                        parameter.grad += gradient
        return losses.detach()

    def evaluate(self, x: Tensor, y: Tensor, rows: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Give the output [models, batch, ...] of each model for its own batch, and its loss [models], without gradients."""
        rows, leaves = self._chosen(rows)
        with torch.no_grad():
            outputs = self._forward(leaves, x, rows)
            return outputs, self._losses_of(outputs, y, rows)

    def _forward(self, leaves: dict[str, Tensor], x: Tensor, rows: Sequence[int]) -> Tensor:
        def output_of(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(self._skeleton, parameters, (x,))

        with self._loops.over([self.models[row] for row in rows], Streams([self._streams[row] for row in rows], x.device)):
            return torch.vmap(output_of)(leaves, x)

    def _losses_of(self, outputs: Tensor, y: Tensor, rows: Sequence[int]) -> Tensor:
        """The loss of each model: at once of those that have the same one of torch's, since that is what a model's bits depend on."""
        kinds = [self._kinds[row] for row in rows]
        if len(set(kinds)) == 1 and loss_stacks(self._losses[rows[0]]):
            return torch.vmap(self._losses[rows[0]])(outputs, y)
        found: dict[int, Tensor] = {}
        for kind in dict.fromkeys(kinds):
            places = [place for place, own in enumerate(kinds) if own == kind]
            loss = self._losses[rows[places[0]]]
            if loss_stacks(loss):
                found |= zip(places, torch.vmap(loss)(outputs[places], y[places]).unbind(0), strict=True)
            else:
                found |= {place: self._losses[rows[place]](outputs[place], y[place]) for place in places}
        return torch.stack([found[place] for place in range(len(rows))])

    def without(self, left: Sequence[int]) -> Stacked:
        """The stack of the other models, when those of the places `left` have ended; these keep tensors of their own."""
        for index in left:
            for name in self._names:
                self._own[index][name].data = self._own[index][name].detach().clone()
        kept = [index for index in self._all if index not in set(left)]
        losses, streams = [self._losses[index] for index in kept], [self._streams[index] for index in kept]
        return Stacked([self.models[index] for index in kept], losses, streams)


def _padded(count: int, unit: int) -> int:
    return math.ceil(count / unit) * unit


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))


def _kinds(losses: Sequence[nn.Module]) -> list[int]:
    """A number for each loss, the same for those that compute the same."""
    known: list[nn.Module] = []
    kinds = []
    for loss in losses:
        place = next((place for place, other in enumerate(known) if same_loss(loss, other)), len(known))
        if place == len(known):
            known.append(loss)
        kinds.append(place)
    return kinds
