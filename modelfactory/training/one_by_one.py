"""Layers in the middle of stacked models that each model computes by itself, one after another, on its own part of the batch.

Each model calls its own module on its own tensors, so that what it computes, draws and writes (running statistics) is what it would
alone, to the last bit, and its gradients go where they would alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from modelfactory.training.stackable import looped

_DRAWING = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.MultiheadAttention, nn.RNNBase)
"""Layers that draw; a module that is none of torch's may draw too."""


class Streams:
    """What the layers of each model draw from: the state of the device's generator, which each of them has for its own."""

    def __init__(self, states: Sequence[Any], device: torch.device):
        self._states, self._device = states, device

    @contextlib.contextmanager
    def of(self, place: int) -> Iterator[None]:
        """Lets what is drawn in the block come from the stream of a model, which goes on from there."""
        stream = self._states[place]
        if stream is None:
            yield
            return
        stream.put(self._device)
        try:
            yield
        finally:
            stream.take(self._device)


class Stream:
    """The state of the device's default generator for one model."""

    def __init__(self) -> None:
        self._state: Tensor | None = None
        self._seed: int | None = None

    def seed(self, value: int) -> None:
        self._seed = value

    def put(self, device: torch.device) -> None:
        generator = _generator(device)
        if self._seed is not None:
            generator.manual_seed(self._seed)
            self._seed = None
        elif self._state is not None:
            generator.set_state(self._state)

    def take(self, device: torch.device) -> None:
        self._state = _generator(device).get_state()


def _generator(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    return torch.get_device_module(device).default_generators[device.index or 0]


class Loops:
    """The models and streams over which the layers of a skeleton go, as long as a forward pass runs."""

    def __init__(self) -> None:
        self.models: Sequence[nn.Module] = ()
        self.streams = Streams((), torch.device("cpu"))

    @contextlib.contextmanager
    def over(self, models: Sequence[nn.Module], streams: Streams) -> Iterator[None]:
        self.models, self.streams = models, streams
        try:
            yield
        finally:
            self.models = ()


class OneByOne(nn.Module):
    """Stands in the skeleton for a layer of which each model calls its own."""

    def __init__(self, name: str, loops: Loops, draws: bool):
        super().__init__()
        self._name, self._loops, self._draws = name, loops, draws

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        call = _Call(self, spec)
        outputs = _EachModel.apply(call, *leaves)
        return pytree.tree_unflatten(list(outputs), call.made)  # pyright: ignore[reportArgumentType]

    def of(self, place: int, args: Any, kwargs: Any) -> Any:
        module = self._loops.models[place].get_submodule(self._name)
        if not self._draws:
            return module(*args, **kwargs)
        with self._loops.streams.of(place):
            return module(*args, **kwargs)


class _Call:
    """A call of a layer: how its arguments, and what it returns, are put together of tensors."""

    def __init__(self, layer: OneByOne, given: pytree.TreeSpec):
        self.layer, self.given, self.made = layer, given, None

    def of(self, place: int, leaves: Sequence[Any]) -> list[Any]:
        args, kwargs = pytree.tree_unflatten(list(leaves), self.given)
        outputs, self.made = pytree.tree_flatten(self.layer.of(place, args, kwargs))
        return outputs


class _EachModel(torch.autograd.Function):
    """Its rule for `torch.vmap` is all that there is: outside of a stack there is nothing to go over."""

    @staticmethod
    def forward(call: _Call, *leaves: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError("a layer of stacked models is called outside of their stack")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], call: _Call, *leaves: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        own = [[leaf] * info.batch_size if dim is None else leaf.unbind(dim) for leaf, dim in zip(leaves, in_dims[1:], strict=True)]
        made = [call.of(place, [leaf[place] for leaf in own]) for place in range(info.batch_size)]
        stacked = [torch.stack(part) if isinstance(part[0], Tensor) else part[0] for part in zip(*made, strict=True)]
        return tuple(stacked), tuple(0 if isinstance(part, Tensor) else None for part in stacked)


def skeleton_of(model: nn.Module) -> tuple[nn.Module, Loops]:
    """A module of the model's own children and parameters in which what does not stack is computed by each model itself."""
    loops = Loops()
    alone = dict(looped(model))

    def copied(module: nn.Module, name: str) -> nn.Module:
        if name in alone:
            return OneByOne(name, loops, draws(module))
        twin = object.__new__(type(module))
        twin.__dict__ = dict(module.__dict__)
        children = {key: copied(child, f"{name}.{key}" if name else key) for key, child in module.named_children()}
        twin.__dict__ |= {"_parameters": dict(module._parameters), "_modules": children}
        return twin

    return copied(model, ""), loops


def draws(module: nn.Module) -> bool:
    """Whether a layer may draw while it trains.

    Example:
        >>> draws(nn.Dropout()), draws(nn.Conv2d(1, 1, 1))
        (True, False)
    """
    return any(isinstance(part, _DRAWING) or not type(part).__module__.startswith("torch.nn.") for part in module.modules())
