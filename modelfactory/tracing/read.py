"""Reads a model by what it computes: one recorded run, and every walk over it that was asked for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import nn

from modelfactory.tracing.activations import TracedActivation, traced_activations
from modelfactory.tracing.branches import TracedBranch, traced_branches
from modelfactory.tracing.fans import TracedFans, traced_fans
from modelfactory.tracing.graph import Graph
from modelfactory.tracing.inputs import candidate_inputs
from modelfactory.tracing.labels import Labels
from modelfactory.tracing.packed import Part, packed_parts
from modelfactory.tracing.record import record
from modelfactory.tracing.roles import TracedRoles, traced_roles
from modelfactory.tracing.steps import Steps
from modelfactory.tracing.uses import Use, biases_of_weights, uses_of_parameters

_ENOUGH = 2


class Reading:
    """A recorded graph with what was read from it, each once and only when it is asked for.

    Attributes:
        tried: whether its input was made up, so that sizes that follow from the input's are not the model's.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.tried = False

    @cached_property
    def labels(self) -> Labels:
        return Labels(self.graph)

    @cached_property
    def steps(self) -> Steps:
        return Steps(self.graph, self.labels)

    @cached_property
    def uses(self) -> dict[str, list[Use]]:
        return uses_of_parameters(self.steps)

    @cached_property
    def fans(self) -> dict[str, list[TracedFans]]:
        return traced_fans(self.steps)

    @cached_property
    def branches(self) -> list[TracedBranch]:
        return traced_branches(self.steps)

    @cached_property
    def parts(self) -> dict[str, list[Part]]:
        return packed_parts(self.steps)

    @cached_property
    def activations(self) -> dict[str, TracedActivation]:
        return traced_activations(self.steps)

    @cached_property
    def biases(self) -> dict[str, list[str]]:
        return biases_of_weights(self.steps)

    @cached_property
    def roles(self) -> TracedRoles:
        return traced_roles(self.steps, self.uses, self.parts, self.branches)


def read(model: nn.Module, inputs: Any, with_numbers: bool = True) -> Reading:
    """Records a model in evaluation mode, or in training mode where more of its parameters take part.

    Example:
        >>> import torch
        >>> len(read(nn.Linear(2, 3), torch.zeros(1, 2)).graph)
        1
    """
    graph = record(model, inputs, with_numbers=with_numbers)
    if graph.reason is None and len(graph.parameters) < sum(1 for _ in model.parameters()):
        trained = record(model, inputs, training=True, with_numbers=with_numbers)
        if trained.reason is None and len(trained.parameters) > len(graph.parameters):
            graph = trained
    return Reading(graph)


def read_by_trying(model: nn.Module) -> Reading:
    """Reads a model of which no input is known, on the first of `candidate_inputs` that it runs on.

    What is read of sizes (`Reading.tried`) is that of an input that was made up.

    Example:
        >>> found = read_by_trying(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
        >>> found.graph.reason is None, found.tried
        (True, True)
    """
    if type(model).forward is nn.Module.forward:
        return Reading(Graph(reason=f"{type(model).__name__} has no forward"))
    best: Reading | None = None
    longest: tuple[int, Any] = (-1, None)
    reason = "it takes no input that its layers suggest"
    for count, inputs in enumerate(candidate_inputs(model)):
        found = read(model, inputs, with_numbers=False)
        if found.graph.reason is not None:
            if len(found.graph) > longest[0]:
                longest, reason = (len(found.graph), inputs), found.graph.reason
            continue
        if best is None or len(found.graph.parameters) > len(best.graph.parameters):
            best = found
        if len(best.graph.parameters) == sum(1 for _ in model.parameters()) or count >= _ENOUGH:
            break
    if best is None and longest[0] > 0:
        found = read(model, longest[1])
        best = found if found.graph.reason is None else None
    best = Reading(Graph(reason=reason)) if best is None else best
    best.tried = True
    return best
