"""The steps of several optimizers at once: one call of the kernel for all parameters whose options are the same.

Each parameter keeps its own state, in its own optimizer, so that what a step computes, and what is saved, is what it is alone. Only the
time differs: a step of a small model is mostly the way to the kernel.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from modelfactory.training.no_dynamo import eager_step, without_dynamo
from modelfactory.training.requests import Step

_KINDS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop)


class JointStep:
    """Takes the steps of optimizers again and again, and remembers which of them go together.

    Example:
        >>> weights = [torch.ones(2, requires_grad=True) for _ in range(3)]
        >>> optimizers = [torch.optim.SGD([weight], lr=0.5) for weight in weights]
        >>> for weight in weights:
        ...     weight.sum().backward()
        >>> JointStep().of(optimizers)
        >>> [weight.tolist() for weight in weights]
        [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
    """

    def __init__(self) -> None:
        self._known: tuple[Any, ...] = ()
        self._joint: list[tuple[Optimizer, Any]] = []

    def take(self, requests: Sequence[Step]) -> None:
        """Take what is asked for, each by itself where it is of an optimizer that is not known to go with others."""
        optimizers = [request.run.optimizer for request in requests]
        if len(requests) > 1 and all(_is_plain(optimizer) for optimizer in optimizers):
            self.of(optimizers)
        else:
            for request in requests:
                request.answer()

    def of(self, optimizers: Sequence[Optimizer]) -> None:
        """Take a step of each of these."""
        bins: dict[Hashable, int] = {}
        places: list[int] = []
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                places.append(bins.setdefault(_key(optimizer, group), len(bins)))
        options = [dict(key[1]) for key in bins]  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]
        trained = tuple(_num_trained(group) for optimizer in optimizers for group in optimizer.param_groups)
        known = (tuple(map(id, optimizers)), tuple(places), trained)
        if known != self._known:
            self._joint = self._join(optimizers, places, list(bins))
            self._known = known
        for (joint, step), given in zip(self._joint, options, strict=True):
            joint.param_groups[0].update(given)
            step()

    def _join(self, optimizers: Sequence[Optimizer], places: Sequence[int], keys: Sequence[Any]) -> list[tuple[Optimizer, Any]]:
        """An optimizer for each kind of options, whose states are those of the parameters in their own optimizers."""
        chosen: list[list[tuple[Tensor, Optimizer]]] = [[] for _ in keys]
        groups = ((optimizer, group) for optimizer in optimizers for group in optimizer.param_groups)
        for place, (optimizer, group) in zip(places, groups, strict=True):
            chosen[place].extend((parameter, optimizer) for parameter in group["params"] if parameter.grad is not None)
        joint = []
        for (kind, given, _), members in zip(keys, chosen, strict=True):
            if not members:
                joint.append((kind([torch.zeros(())], **_arguments(kind, given)), _nothing))
                continue
            with without_dynamo():
                one = kind([parameter for parameter, _ in members], **_arguments(kind, given))
            if kind is not torch.optim.SGD or dict(given)["momentum"]:  # else it has no state, and an empty one would be saved
                for parameter, own in members:
                    one.state[parameter] = own.state[parameter]
            joint.append((one, eager_step(one)))
        return joint


def _nothing() -> None:
    pass


def _is_plain(optimizer: Optimizer) -> bool:
    """Whether an optimizer is one of torch's whose groups can be put together with those of others."""
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    if type(optimizer) not in _KINDS or any(hooks):
        return False
    tensors = any(isinstance(group[name], Tensor) for group in optimizer.param_groups for name in optimizer.defaults)
    return not tensors and not any(_is_mixed(optimizer, group) for group in optimizer.param_groups)


def _is_mixed(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Whether some parameters of a group of SGD have a momentum already, and others will begin with it."""
    if not isinstance(optimizer, torch.optim.SGD) or not group["momentum"]:
        return False
    return len({_has_momentum(optimizer, parameter) for parameter in group["params"] if parameter.grad is not None}) > 1


def _has_momentum(optimizer: Optimizer, parameter: Tensor) -> bool:
    return parameter in optimizer.state and optimizer.state[parameter].get("momentum_buffer") is not None


def _key(optimizer: Optimizer, group: dict[str, Any]) -> tuple[Any, ...]:
    """What groups of parameters have in common that go together."""
    given = ((name, group[name]) for name in optimizer.defaults)
    options = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in given)
    first = next((parameter for parameter in group["params"] if parameter.grad is not None), None)
    begins = isinstance(optimizer, torch.optim.SGD) and first is not None and not _has_momentum(optimizer, first)
    return type(optimizer), options, begins


def _num_trained(group: dict[str, Any]) -> int:
    return sum(parameter.grad is not None for parameter in group["params"])


def _arguments(kind: type[Optimizer], options: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in options if name != "decoupled_weight_decay"}
