"""Layers in the middle of stacked models that each model computes by itself, one after another, on its own part of the batch.

Each model calls its own module on its own tensors, so that what it computes, draws and writes (running statistics) is what it would
alone, to the last bit, and its gradients go where they would alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from modelfactory.training.stackable import looped, stacks

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
    """The state of a device's default generator for one model, from which whatever is done in the turn of this model draws."""

    def __init__(self, state: Tensor | None = None) -> None:
        self._state = state

    def put(self, device: torch.device) -> None:
        """Has the generator of the device go on where this stream was left."""
        if self._state is not None:
            _generator(device).set_state(self._state)

    def take(self, device: torch.device) -> None:
        """Keeps where the generator of the device is."""
        self._state = _generator(device).get_state()


def _generator(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    return torch.get_device_module(device).default_generators[device.index or 0]


class Loops:
    """The models and streams over which the layers of a skeleton go, as long as a forward pass runs; and whether any of them draws."""

    def __init__(self) -> None:
        self.draws = False
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
    """Stands in the skeleton for layers, one after another, of which each model calls its own."""

    def __init__(self, names: Sequence[str], loops: Loops, draws: bool):
        super().__init__()
        self._names, self._loops, self._draws = names, loops, draws
        loops.draws |= draws

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        call = _Call(self, spec)
        outputs = _EachModel.apply(call, *leaves)
        return pytree.tree_unflatten(list(outputs), call.made)  # pyright: ignore[reportArgumentType]

    def of(self, place: int, args: Any, kwargs: Any) -> Any:
        """What the layers of the model of a place give."""
        with self._loops.streams.of(place) if self._draws else contextlib.nullcontext():
            first, *others = (self._loops.models[place].get_submodule(name) for name in self._names)
            output = first(*args, **kwargs)
            for module in others:
                output = module(output)
            return output


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
        # contiguous, so that a model's part lies in memory in the same way whatever the stack
        own = [
            [leaf] * info.batch_size if dim is None else leaf.movedim(dim, 0).contiguous().unbind(0)
            for leaf, dim in zip(leaves, in_dims[1:], strict=True)
        ]
        made = [call.of(place, [leaf[place] for leaf in own]) for place in range(info.batch_size)]
        stacked = [torch.stack(part) if isinstance(part[0], Tensor) else part[0] for part in zip(*made, strict=True)]
        return tuple(stacked), tuple(0 if isinstance(part, Tensor) else None for part in stacked)


def skeleton_of(model: nn.Module) -> tuple[nn.Module, Loops]:
    """A module of the model's own children and parameters in which what does not stack is computed by each model itself.

    In a chain, layers without parameters between two such layers go with them, so that the batch is divided once.
    """
    loops = Loops()
    alone = dict(looped(model))

    def copied(module: nn.Module, name: str) -> nn.Module:
        twin = object.__new__(type(module))
        twin.__dict__ = dict(module.__dict__)
        children: dict[str, nn.Module] = {}
        for run in _runs(module, name, alone):
            paths = [f"{name}.{key}" if name else key for key, _ in run]
            if paths[0] in alone:
                children[run[0][0]] = OneByOne(paths, loops, any(draws(child) for _, child in run))
            else:
                children |= {key: copied(child, path) for (key, child), path in zip(run, paths, strict=True)}
        twin.__dict__ |= {"_parameters": dict(module._parameters), "_modules": children}
        return twin

    return copied(model, ""), loops


def _runs(module: nn.Module, name: str, alone: Collection[str]) -> Iterator[list[tuple[str, nn.Module]]]:
    """The children of a module, each by itself; in a chain those that each model computes itself together, and what is between them."""
    run: list[tuple[str, nn.Module]] = []
    between: list[tuple[str, nn.Module]] = []
    for key, child in module.named_children():
        if (f"{name}.{key}" if name else key) in alone:
            run, between = [*run, *between, (key, child)], []
        elif run and next(child.parameters(), None) is None:
            between.append((key, child))
        else:
            yield from [run] * bool(run)
            yield from ([part] for part in (*between, (key, child)))
            run, between = [], []
        if run and type(module) is not nn.Sequential:
            yield run
            run = []
    yield from [run] * bool(run)
    yield from ([part] for part in between)


def draws(module: nn.Module) -> bool:
    """Whether a layer may draw while it trains.

    Example:
        >>> draws(nn.Dropout()), draws(nn.Conv2d(1, 1, 1))
        (True, False)
    """
    parts = [part for part in module.modules() if not stacks(part)]
    return any(isinstance(part, _DRAWING) or not type(part).__module__.startswith("torch.nn.") for part in parts)
