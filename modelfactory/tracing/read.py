"""Reads a model by what it computes: one recorded run, and every walk over it that was asked for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import nn

from modelfactory.tracing.branches import TracedBranch, traced_branches
from modelfactory.tracing.fans import TracedFans, traced_fans
from modelfactory.tracing.graph import Graph
from modelfactory.tracing.labels import Labels
from modelfactory.tracing.packed import Part, packed_parts
from modelfactory.tracing.record import record
from modelfactory.tracing.roles import TracedRoles, traced_roles
from modelfactory.tracing.steps import Steps
from modelfactory.tracing.uses import Use, uses_of_parameters


class Reading:
    """A recorded graph with what was read from it, each once and only when it is asked for."""

    def __init__(self, graph: Graph):
        self.graph = graph

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
    def roles(self) -> TracedRoles:
        return traced_roles(self.steps, self.uses, self.parts, self.branches)


def read(model: nn.Module, inputs: Any) -> Reading:
    """Records a model in evaluation mode, or in training mode where more of its parameters take part.

    Example:
        >>> import torch
        >>> len(read(nn.Linear(2, 3), torch.zeros(1, 2)).graph)
        1
    """
    graph = record(model, inputs)
    if graph.reason is None and len(graph.parameters) < sum(1 for _ in model.parameters()):
        trained = record(model, inputs, training=True)
        if trained.reason is None and len(trained.parameters) > len(graph.parameters):
            graph = trained
    return Reading(graph)
