"""Composite calls, written out in the operators that they are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from modelfactory.tracing.meta_shapes import attention_arguments


def _attention(mode: TorchFunctionMode, _func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """torch.nn.functional.multi_head_attention_forward without its masks, which change no shape: [L, N, E] or [L, E]."""
    given = attention_arguments(args, kwargs)
    with mode:
        query, key, value = given["query"], given["key"], given["value"]
        weights = [given[f"{letter}_proj_weight"] for letter in "qkv"]
        if not given["use_separate_proj_weight"]:
            weights = given["in_proj_weight"].chunk(3)
        biases = (None, None, None) if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        if given["bias_k"] is not None:
            k, v = (_longer(states, token) for states, token in ((k, given["bias_k"]), (v, given["bias_v"])))
        if given["add_zero_attn"]:
            k, v = (torch.cat([states, torch.zeros_like(states[:1])]) for states in (k, v))
        heads = given["num_heads"]
        q, k, v = (states.unflatten(-1, (heads, -1)).movedim(0, -2) for states in (q, k, v))
        if given["need_weights"]:
            shares = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
            mixed = shares @ v
            shares = shares.mean(-3) if given["average_attn_weights"] else shares
        else:
            mixed, shares = F.scaled_dot_product_attention(q, k, v), None
        mixed = mixed.movedim(-2, 0).flatten(-2)
        return F.linear(mixed, given["out_proj_weight"], given["out_proj_bias"]), shares


def _longer(states: Tensor, token: Tensor) -> Tensor:
    """States with a token more, which is a parameter."""
    token = token.flatten(0, 1) if states.ndim == 2 else token.expand(1, states.shape[1], -1)
    return torch.cat([states, token])


Lowering = Callable[[TorchFunctionMode, Any, tuple[Any, ...], dict[str, Any]], Any]
LOWERED: Mapping[Any, Lowering] = {F.multi_head_attention_forward: _attention}
"""By function, what makes the same of it in smaller calls, which are recorded."""
