"""The trunk of a model: what all of the signal goes through; and the scores, which a softmax makes shares of."""

from __future__ import annotations

from modelfactory.signal_propagation.graph import NodeRef, SignalGraph, SignalNode, TensorRef, walk

_SHARES = frozenset("softmax _softmax softmin log_softmax".split())
_ATTENDS = frozenset(("scaled_dot_product_attention", "multi_head_attention_forward"))
_CONTRACTS = frozenset("matmul bmm baddbmm einsum linear addmm embedding".split()) | _SHARES | _ATTENDS


def trunk_of(graph: SignalGraph) -> set[int]:
    """The nodes that every way from an input to the outputs goes through.

    What has no weights behind it, such as a mask made of token ids, is no way of the signal.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from modelfactory.model.layers.containers import Residual
        >>> from modelfactory.signal_propagation.graph import trace
        >>> graph, _ = trace(nn.Sequential(nn.Linear(2, 2), Residual({"fc": nn.Linear(2, 2)})), torch.zeros(1, 2))
        >>> [graph.nodes[index].label for index in sorted(trunk_of(graph))]
        ['Linear', 'Residual']
    """
    trunk: set[int] = set()
    for node in graph:
        if node.op == "input":
            trunk |= _trunk_from(graph, node.index)
    return trunk


def _trunk_from(graph: SignalGraph, start: int) -> set[int]:
    """The nodes that every way from one input goes through."""
    reached, carries = {start}, {start} if graph.nodes[start].floating else set[int]()
    for node in graph.nodes[start + 1 :]:
        if any(index in reached for index in node.inputs):
            reached.add(node.index)
            if any(index in carries for index in node.inputs) or node.floating and _has_weights(node):
                carries.add(node.index)
    last_use = {index: node.index for node in graph if node.index in carries for index in node.inputs if index in carries}
    last_use |= {index: len(graph) for index in graph.outputs if index in carries}
    trunk, open_until = set[int](), set[int]()
    for index in sorted(carries & last_use.keys()):
        open_until = {one for one in open_until if last_use[one] > index}
        if index != start and not open_until:
            trunk.add(index)
        open_until.add(index)
    return trunk


def _has_weights(node: SignalNode) -> bool:
    return any(isinstance(item, TensorRef) and item.name is not None for item in walk((node.args, node.kwargs)))


def scores_of(graph: SignalGraph) -> set[int]:
    """The nodes that go into a softmax, or are a mask of scores, and nowhere else: how large they are is for the softmax to say.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from modelfactory.signal_propagation.graph import trace
        >>> graph, _ = trace(nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1)), torch.zeros(1, 2))
        >>> [graph.nodes[index].label for index in scores_of(graph)]
        ['Linear']
    """
    users: dict[int, list[SignalNode]] = {}
    for node in graph:
        for index in set(node.inputs):
            users.setdefault(index, []).append(node)
    scores: set[int] = set()
    for node in reversed(graph.nodes):
        uses = users.get(node.index, [])
        if uses and node.index not in graph.outputs and all(_takes_scores(use, node.index, scores) for use in uses):
            scores.add(node.index)
    return scores


def _takes_scores(use: SignalNode, index: int, scores: set[int]) -> bool:
    if use.op in _SHARES:
        return True
    if use.op in _ATTENDS:  # as a mask: the first three are query, key and value
        first = [item.node for item in walk(use.args[:3]) if isinstance(item, NodeRef)]
        first += [item.node for name in ("query", "key", "value") if isinstance(item := use.kwargs.get(name), NodeRef)]
        return index not in first
    return use.index in scores and use.op not in _CONTRACTS
