"""How much of the input passes straight through a stack of residual sums, each followed by a norm.

A sum of a stream and a branch of the powers `a` and `b`, normalised, leaves `a/(a + b)` of the stream; a stack of them the product. Where a
norm stands before each branch instead, the stream is never divided, and of L branches 1/(L + 1) is left. What a step of Adam does to the
output grows with the number of sums that have to carry it (Xiong et al. 2020; Liu et al. 2020), so that a deep post-norm stack does
not learn without warm-up, unless its branches are small (Wang et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from modelfactory.signal_propagation.graph import SignalGraph, SignalNode

_NORMS = frozenset(("layer_norm", "rms_norm"))
_PASSING = frozenset("dropout view reshape permute transpose contiguous clone flatten to float type_as".split())
_LEAST = 2.0**-14
"""Share of the power below which 60 steps of Adam leave a stack where it was; 12 blocks of xavier_normal have 2^-11 and learn slowly."""
_FEWEST = 16


def post_norm_warning(graph: SignalGraph, seconds: Mapping[int, float]) -> str | None:
    """What to say of a stack of sums that norms divide; None where enough passes straight.

    Args:
        seconds: second moment of each node's output.
    """
    shares = [share for node in graph if node.op in _NORMS and (share := _straight(graph, node, seconds)) is not None]
    left = math.prod(shares)
    if len(shares) < _FEWEST or left >= _LEAST:
        return None
    return (
        f"{len(shares)} residual sums with a norm after each leave {left:.0e} of what comes in: a post-norm stack of this depth "
        "hardly learns without warm-up of the learning rate: warm up, put norms before the branches, or scale with depth (init=deepnorm)"
    )


def _straight(graph: SignalGraph, norm: SignalNode, seconds: Mapping[int, float]) -> float | None:
    """The share of a stream in the residual sum that a norm divides; None where it divides no such sum."""
    node = graph.nodes[norm.inputs[0]] if norm.inputs else norm
    while node.op in _PASSING and node.inputs:
        node = graph.nodes[node.inputs[0]]
    if node.op != "add" or len(node.inputs) != 2 or node.inputs[0] == node.inputs[1]:
        return None
    stream, branch = sorted(node.inputs)
    if not _leads_to(graph, stream, branch):
        return None
    whole = seconds.get(stream, math.nan) + seconds.get(branch, math.nan)
    return seconds[stream] / whole if whole > 0 else None


def _leads_to(graph: SignalGraph, start: int, end: int) -> bool:
    """Whether a node's output goes into another one, by any way."""
    waiting, seen = [end], set[int]()
    while waiting:
        index = waiting.pop()
        if index == start:
            return True
        if index > start and index not in seen:
            seen.add(index)
            waiting.extend(graph.nodes[index].inputs)
    return False
