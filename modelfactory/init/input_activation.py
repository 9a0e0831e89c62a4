"""Find the activation that produces each layer's input (for `gain: auto`), in the recorded run of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelfactory.parameters.info import ParamInfo
from modelfactory.parameters.roles import describe
from modelfactory.tracing.activations import Applied as Applied  # what an activation that is called as a function is known as


@dataclass(frozen=True)
class InputActivation:
    """What acts on the input of a parameter's layer.

    Attributes:
        activation: a module or an elementwise function; None when the input is linear or normalised.
        source: where it is, in words: a module's name, or what stands there instead of an activation.
        shape: the batched shape of the layer's input, None when not known.
        known: False when it could not be found out.
        gated: whether the input is what the activation gives times another branch that is linear, as in a gated unit.
        averaged: over how many places a mean is taken before the layer; 1 without one.
        normed: whether norms alone take what the layer gives.
        in_stream: whether norms, and residual sums that norms take, do: a pre-norm stream.
    """

    activation: Callable[[Tensor], Tensor] | None
    source: str
    shape: torch.Size | None = None
    known: bool = True
    gated: bool = False
    averaged: float = 1.0
    normed: bool = False
    in_stream: bool = False


_SHARED = ("gated", "averaged", "normed", "in_stream")


def acting_on(infos: Sequence[ParamInfo]) -> dict[int, InputActivation]:
    """For each parameter (by `id`) what acts on the input of its layer."""
    return {id(info.parameter): _acting(info) for info in infos}


def _acting(info: ParamInfo) -> InputActivation:
    traced, reading = info.facts.activation, info.model.reading
    if traced is None:
        where = type(info.module).__name__
        why = f"the model could not be run: {reading.graph.reason}" if not info.model.is_read else f"the run does not use it in {where}"
        return InputActivation(None, f"not known: {why}", None, False)
    shape = None if reading.tried else torch.Size(traced.shape)
    return InputActivation(traced.function, traced.source, shape, **{name: getattr(traced, name) for name in _SHARED})


def find_acting(
    model: nn.Module, incoming: Mapping[str, torch.Size] | None = None, dtype: torch.dtype = torch.float32
) -> dict[int, InputActivation]:
    """For each parameter (by `id`) what acts on the input of its layer.

    Args:
        incoming: the batched shape of the model's input under "".
        dtype: of the model's input.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(), nn.Linear(4, 2))
        >>> acting = find_acting(model)
        >>> acting[id(model[3].weight)].source, acting[id(model[0].weight)].source
        ('1 (Tanh)', 'the input')
    """
    shape = (incoming or {}).get("")
    example = None if shape is None else torch.empty(shape, dtype=dtype, device="meta")
    return acting_on(describe(model, example))
