"""What is known of a parameter by the class of torch.nn that owns it, for what no trace has seen: roles and packed blocks."""

from __future__ import annotations

import re
from functools import cache

from torch import nn

from modelfactory.parameters.residual import MATRICES, NORMS

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_GATED = (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_GATES = {
    nn.LSTM: ("input", "forget", "cell", "output"),
    nn.LSTMCell: ("input", "forget", "cell", "output"),
    nn.GRU: ("reset", "update", "new"),
    nn.GRUCell: ("reset", "update", "new"),
}
_OF_GATES = re.compile(r"(weight|bias)_(ih|hh)(_l\d+)?(_reverse)?")
_SEPARATE = {"q_proj_weight": "query", "k_proj_weight": "key", "v_proj_weight": "value"}


def decides(owner: type) -> bool:
    """Whether the class alone tells what its parameters are there for, whatever a run shows: recurrent layers and torch's attention.

    Example:
        >>> decides(nn.LSTM), decides(nn.Linear)
        (True, False)
    """
    return issubclass(owner, (*_RECURRENT, nn.MultiheadAttention))


@cache
def known_roles(owner: type, attr: str, ndim: int) -> tuple[str, ...] | None:
    """The roles of a parameter of a class of torch.nn, None of any other.

    Example:
        >>> known_roles(nn.BatchNorm2d, "bias", 1), known_roles(nn.Linear, "weight", 2), known_roles(nn.Module, "scale", 1)
        (('norm', 'bias'), ('weight',), None)
    """
    is_bias = attr.startswith("bias") or attr.endswith("bias")
    if issubclass(owner, NORMS):
        return (("norm", "bias") if is_bias else ("norm",)) if attr in ("weight", "bias") else None
    if issubclass(owner, _RECURRENT):
        gate = ("gate",) if issubclass(owner, _GATED) and not attr.startswith("weight_hr") else ()
        kind = "bias" if is_bias else "recurrent" if attr.startswith("weight_hh") else "weight"
        return (kind, *(("weight",) if kind == "recurrent" else ()), *gate)
    if issubclass(owner, nn.MultiheadAttention):
        if attr.startswith("in_proj"):
            return ("bias" if is_bias else "weight", "query", "key", "value")
        return ("weight", _SEPARATE[attr]) if attr in _SEPARATE else ("other",)
    if issubclass(owner, _EMBEDDINGS):
        return ("embedding",) if attr == "weight" else None
    if issubclass(owner, nn.PReLU):
        return ("activation",) if attr == "weight" else None
    if issubclass(owner, MATRICES) and attr in ("weight", "bias"):
        return ("bias",) if is_bias else ("weight",)
    return None


def known_blocks(module: nn.Module, attr: str) -> tuple[str, ...]:
    """The names of the blocks that a parameter packs along its first axis by its class, in order; () for one that is one matrix.

    Example:
        >>> known_blocks(nn.LSTM(2, 3), "bias_hh_l0")
        ('input', 'forget', 'cell', 'output')
    """
    if isinstance(module, nn.MultiheadAttention):
        return ("query", "key", "value") if attr in ("in_proj_weight", "in_proj_bias") else ()
    if isinstance(module, _RECURRENT):
        names = next((names for kind, names in _GATES.items() if isinstance(module, kind)), ())
        return names if _OF_GATES.fullmatch(attr) else ()
    return ()
