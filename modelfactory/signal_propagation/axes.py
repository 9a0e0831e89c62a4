"""Which dimension of an input its units (channels, features) lie in: the operator that takes it tells."""

from __future__ import annotations

from modelfactory.signal_propagation.graph import NodeRef, SignalGraph, SignalNode

_LAST = frozenset("linear layer_norm rms_norm multi_head_attention_forward lstm gru rnn_tanh rnn_relu addmm".split())
_SECOND = frozenset("batch_norm group_norm instance_norm".split())
_SAME = frozenset(
    "activation add sub mul multiply div truediv dropout clone contiguous detach data to float half bfloat16 double masked_fill where pow "
    "neg mean sum var std roll pad cat".split()
)
_NEW = -1
_MOVED = {"transpose": 2, "swapaxes": 2, "swapdims": 2}


def unit_of_input(graph: SignalGraph, index: int) -> int:
    """The dimension of the units of an input: the last for what goes into a linear layer, dimension 1 for images.

    The first call that tells decides; what leaves the shape as it is, swaps dimensions or adds one, is followed. 0 stands for
    a dimension that a call adds: one unit, such as the one channel of a sound.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from modelfactory.signal_propagation.graph import trace
        >>> tokens, _ = trace(nn.LayerNorm(8), torch.zeros(2, 5, 8))
        >>> images, _ = trace(nn.Conv2d(3, 4, 3), torch.zeros(2, 3, 8, 8))
        >>> unit_of_input(tokens, 0), unit_of_input(images, 0)
        (2, 1)
    """
    rank = len(graph.nodes[index].shape)
    places = {index: tuple(range(rank))}  # by node, which dimension of the input each of its own is
    for node in graph.nodes[index + 1 :]:
        before = next((place for place in node.inputs if place in places), None)
        if before is None:
            continue
        own, shape = places[before], graph.nodes[before].shape
        told = _told(node, before, len(shape))
        if told is not None:
            return max(own[told], 0)
        if node.op == "permute" or node.op in _MOVED or node.op in ("t", "T", "mT"):
            moved = _order(node, len(shape))
            if moved is not None:
                places[node.index] = tuple(own[dim] for dim in moved)
        elif node.op in _SAME and len(node.shape) == len(shape):
            places[node.index] = own
        elif (added := _added(node)) is not None and len(node.shape) == len(shape) + 1:
            places[node.index] = (*own[:added], _NEW, *own[added:])
    return min(1, max(rank - 1, 0))


def _told(node: SignalNode, before: int, rank: int) -> int | None:
    """The dimension of the units of what a call takes, None where it does not tell."""
    if node.op in _LAST:
        return rank - 1
    if node.op in ("matmul", "bmm") and node.args and isinstance(node.args[0], NodeRef) and node.args[0].node == before:
        return rank - 1
    if node.op in _SECOND or node.op.startswith("conv") or "pool" in node.op:
        return min(1, rank - 1)
    return None


def _added(node: SignalNode) -> int | None:
    """Where a call adds a dimension of size 1."""
    if node.op == "unsqueeze":
        dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        return dim % len(node.shape) if isinstance(dim, int) else None
    index = node.args[1] if node.op == "getitem" else ()
    if isinstance(index, tuple) and index.count(None) == 1 and all(item is None or item == slice(None) for item in index):
        return index.index(None)
    return None


def _order(node: SignalNode, rank: int) -> list[int] | None:
    """Which dimension of its input each dimension of the output is; None where that is not plain."""
    numbers = [item for item in (*node.args[1:], *node.kwargs.values()) if not isinstance(item, NodeRef)]
    dims = [dim % rank for item in numbers for dim in (item if isinstance(item, tuple) else (item,)) if isinstance(dim, int)]
    if node.op == "permute":
        return dims if sorted(dims) == list(range(rank)) else None
    order = list(range(rank))
    one, other = dims if len(dims) == 2 else (rank - 2, rank - 1)
    if rank > 1:
        order[one], order[other] = order[other], order[one]
    return order
