"""Batch norm with the statistics of a whole batch, of which each process has a part; on any device, unlike `nn.SyncBatchNorm`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from modelfactory.training.distributed import World


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms of a model, by name.

    Example:
        >>> list(batch_norms(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))))
        ['1']
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


@contextlib.contextmanager
def synchronized(model: nn.Module, world: World) -> Iterator[None]:
    """Has the batch norms of a model use the mean and variance over all processes where they train; the model is as it was afterwards."""
    norms = batch_norms(model).values()
    for norm in norms:
        norm.forward = _Forward(norm, world)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


class _Forward:
    """The forward pass of a batch norm; what the batch norm itself does where it does not train."""

    def __init__(self, norm: _BatchNorm, world: World):
        self._norm, self._world, self._own = norm, world, norm.forward

    def __call__(self, input: Tensor) -> Tensor:
        norm, x = self._norm, input
        if not norm.training:
            return self._own(x)
        norm._check_input_dim(x)
        dims, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        own = values.new_full((1,), x.numel() / x.shape[1])
        sums = _sum(torch.cat([values.sum(dims), own]), self._world)
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean.view(shape)
        variance = _sum(centred.square().sum(dims), self._world) / count
        _update(norm, mean.detach(), variance.detach() * (count / (count - 1)))
        given = centred * (variance + norm.eps).rsqrt().view(shape)
        if norm.weight is not None:
            given = given * norm.weight.view(shape)
        if norm.bias is not None:
            given = given + norm.bias.view(shape)
        return given.to(x.dtype)


def _update(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics, by the momentum or to the mean over all batches, as torch does."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        share: Any = 1.0 / norm.num_batches_tracked.float() if norm.momentum is None else norm.momentum
        norm.running_mean.copy_((1 - share) * norm.running_mean + share * mean)
        norm.running_var.copy_((1 - share) * norm.running_var + share * variance)


def _sum(tensor: Tensor, world: World) -> Tensor:
    result: Any = _Sum.apply(tensor, world)
    return result


class _Sum(torch.autograd.Function):
    """A sum over processes, whose gradient is one too: every process's loss depends on what each of them put in."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World) -> Tensor:
        ctx.world = world
        return world.sum(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.world.sum(grads[0].clone()), None
