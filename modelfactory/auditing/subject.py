"""The model of an audit: each parameter with the statistics of its values, and what its run says of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.auditing.finding import pattern
from modelfactory.parameters.info import ParamInfo
from modelfactory.parameters.roles import describe
from modelfactory.tracing.fans import TracedFans
from modelfactory.tracing.graph import Node, Value
from modelfactory.tracing.operators import COPIES, JOINS, PERMUTES, RESHAPES, SLICES, SPREADS
from modelfactory.tracing.read import Reading

VIEWS = RESHAPES | PERMUTES | COPIES | SLICES | SPREADS | JOINS
_SAMPLED = 8


@dataclass(eq=False)
class AuditedParameter:
    """A parameter with numbers about its values.

    Attributes:
        info: what it is in the model.
        values: of floating point, detached; None where there are none (on the meta device, or of integers).
    """

    info: ParamInfo
    values: Tensor | None

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def pattern(self) -> str:
        return pattern(self.info.name)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.info.parameter.shape)

    @property
    def trains(self) -> bool:
        return self.info.parameter.requires_grad

    @cached_property
    def roles(self) -> tuple[str, ...]:
        return self.info.roles

    @cached_property
    def is_matrix(self) -> bool:
        """Whether it is multiplied with the signal as a matrix, or looked up in."""
        return len(self.shape) > 1 and self.info.computed is None and self.roles[0] in ("weight", "embedding", "recurrent")

    @cached_property
    def _moments(self) -> tuple[float, float, float, float]:
        """Mean, standard deviation, least and largest; NaN among them where the values are not finite."""
        values = self.values
        if values is None or not values.numel():
            return math.nan, math.nan, math.nan, math.nan
        values = values if values.dtype in (torch.float32, torch.float64) else values.float()
        std, mean = torch.std_mean(values, correction=0)
        low, high = torch.aminmax(values)
        found = torch.stack([mean, std, low, high]).double().tolist()
        return found[0], found[1], found[2], found[3]

    @property
    def mean(self) -> float:
        return self._moments[0]

    @property
    def std(self) -> float:
        return self._moments[1]

    @property
    def low(self) -> float:
        return self._moments[2]

    @property
    def high(self) -> float:
        return self._moments[3]

    @property
    def rms(self) -> float:
        return math.hypot(self.mean, self.std)

    @property
    def is_zero(self) -> bool:
        return self.low == self.high == 0

    @property
    def is_constant(self) -> bool:
        """Whether all of its numbers are one number."""
        return self.low == self.high

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def fans(self) -> TracedFans | None:
        """Of the first product that takes it."""
        return next(iter(self.info.facts.fans), None)

    def has(self, *roles: str) -> bool:
        return any(role in self.roles for role in roles)

    @property
    def rows(self) -> Tensor | None:
        """Its values as units x inputs: of a stack of matrices those of all; None of what is no matrix."""
        values = self.values
        if values is None or values.ndim < 2:
            return None
        fans = self.fans
        if fans is None or not fans.summed or self.roles[0] == "embedding":
            return values.flatten(0, -2) if self.roles[0] == "embedding" else values.flatten(1)
        outer = [axis for axis in range(values.ndim) if axis not in fans.summed]
        if not outer:
            return None
        return values.permute(*outer, *fans.summed).flatten(len(outer)).flatten(0, len(outer) - 1)

    @cached_property
    def fingerprint(self) -> tuple[float, ...]:
        """Some of its numbers, by which two that are equal are found."""
        values = self.values
        if values is None or not values.numel():
            return ()
        flat = values.reshape(-1)
        places = [place * (len(flat) - 1) // (_SAMPLED - 1) for place in range(_SAMPLED)]
        return tuple(flat[places].double().tolist())


@dataclass(eq=False)
class Subject:
    """A model under audit.

    Attributes:
        model: as it is given, and left.
        example: an input of it; None where none is known.
        loaded: names whose values come from a checkpoint, and so are no initial ones.
        notes: what could not be looked at.
        unwritten: parameters that nothing wrote, about whose values there is no more to say.
    """

    model: nn.Module
    example: Any = None
    loaded: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)
    unwritten: set[str] = field(default_factory=set)

    @cached_property
    def all_items(self) -> list[AuditedParameter]:
        return [AuditedParameter(info, _values(info.parameter)) for info in describe(self.model, self.example)]

    @cached_property
    def items(self) -> list[AuditedParameter]:
        """Those with values that something wrote and no checkpoint gave; asked for once those that nothing wrote are known."""
        given = (item for item in self.all_items if not self.loaded.intersection(item.info.names))
        return [item for item in given if item.is_finite and item.name not in self.unwritten]

    @cached_property
    def by_name(self) -> dict[str, AuditedParameter]:
        return {name: item for item in self.all_items for name in item.info.names}

    @cached_property
    def reading(self) -> Reading | None:
        """What was read of a run of the model; None where it could not be run."""
        infos = [item.info for item in self.all_items]
        if not infos:
            return None
        facts = infos[0].model
        if not facts.is_read:
            self.notes.append(f"the model could not be traced, and what shows in its run was not looked at: {facts.reading.graph.reason}")
            return None
        return facts.reading

    def groups(self) -> Iterator[list[AuditedParameter]]:
        """The trained matrices of one shape that repeats of one layer have under one name, in order."""
        found: dict[tuple[str, tuple[int, ...]], list[AuditedParameter]] = {}
        for item in self.items:
            if item.is_matrix and item.trains:
                found.setdefault((item.pattern, item.shape), []).append(item)
        yield from found.values()

    # What is done with a parameter, and with what comes of it

    def is_plain(self, item: AuditedParameter, node: Node) -> bool:
        """Whether a product takes a parameter as it is, and not what is computed from it (a standardised weight, a scaled one)."""
        value = self.reading.steps.weight(node) if self.reading is not None else None
        return value is not None and is_view(value, item.name)

    def is_normalised(self, node: Node) -> bool:
        """Whether what a product gives goes nowhere but into a norm, which undoes its scale."""
        if self.reading is None:
            return False
        steps = self.reading.steps
        found = [user for user, _ in steps.uses(node.output)]
        return bool(found) and all(steps.kind(user) == "norm" for user in found)

    def gets_through(self, without: set[int]) -> bool:
        """Whether an output of the model depends on an input by calls other than these."""
        if self.reading is None:
            return True
        graph = self.reading.graph
        reached = {value.index for value in graph.inputs}
        for node in graph.nodes:
            if node.index not in without and any(value.index in reached for value in node.inputs):
                reached |= {value.index for value in node.outputs}
        return any(value.index in reached for value in graph.outputs) or not graph.outputs

    def factor(self, node: Node) -> float:
        """The constant by which the signal is multiplied right before or right after a product."""
        if self.reading is None:
            return 1.0
        steps, found = self.reading.steps, 1.0
        value = node.output
        while len(value.users) == 1 and steps.kind(value.users[0]) in ("carry", "scale") and value.users[0].outputs:
            found *= _number(value.users[0])
            value = value.users[0].output
        signals = steps.signals(node)
        value = signals[0] if signals else None
        while value is not None and value.node is not None and steps.kind(value.node) in ("carry", "scale"):
            found *= _number(value.node)
            signals = steps.signals(value.node)
            value = signals[0] if signals else None
        return found


def is_view(value: Value, name: str) -> bool:
    """Whether a value is a parameter, or a view, a copy or a part of it."""
    while value.node is not None:
        if value.node.op not in VIEWS or not value.node.inputs:
            return False
        value = value.node.inputs[0]
    return value.name == name or value.kind == "parameter"


def _number(node: Node) -> float:
    """The number that a call multiplies with; 1 of any other."""
    numbers = [item for item in node.args if isinstance(item, (int, float)) and not isinstance(item, bool)]
    constants = [value.tensor for value in node.inputs if value.tensor is not None and value.numel == 1 and not value.tensor.is_meta]
    numbers += [constant.item() for constant in constants]
    if len(numbers) != 1:
        return 1.0
    if node.op in ("mul", "multiply", "imul"):
        return float(numbers[0])
    if node.op in ("div", "divide", "true_divide", "idiv") and numbers[0]:
        return 1 / float(numbers[0])
    return 1.0


def _values(parameter: Tensor) -> Tensor | None:
    if isinstance(parameter, nn.parameter.UninitializedParameter) or parameter.is_meta or parameter.is_complex():
        return None
    return parameter.detach() if parameter.is_floating_point() else None
