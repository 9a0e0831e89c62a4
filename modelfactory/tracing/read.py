"""Reads a model by what it computes: one recorded run, and every walk over it that was asked for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import nn

from modelfactory.tracing.graph import Graph
from modelfactory.tracing.labels import Labels
from modelfactory.tracing.record import record
from modelfactory.tracing.steps import Steps


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
