"""Through attention: a mean over tokens whose weights lie between even ones and one token alone, by the spread of the scores.

What comes out is bounded by these two; in between `E a^2 = exp(s^2)/T^2` for scores of the spread `s` (lognormal weights).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from modelfactory.signal_propagation.graph import Node, Value
from modelfactory.signal_propagation.rules.base import Context, arguments, first_shape
from modelfactory.signal_propagation.state import Gradient, NotPredicted, State, flat


def softmax_forward(context: Context, node: Node, states: list[State]) -> State:
    """Of scores with the spread `s`, `E a^2 = exp(s^2)/T^2` (lognormal weights), no more than 1/T: one place takes all."""
    state = states[0]
    dim = arguments(node, ("input", "dim"))["dim"]
    count = node.shape[-1 if dim is None else dim]
    shared = _shares(max(state.second - max(state.pairs[1].item(), 0.0), 0.0), count)
    second, mean = shared / count, 1 / count
    return State(flat(second, len(node.shape)), mean, torch.full((4,), mean * mean, dtype=torch.float64), state.unit)


def _shares(spread: float, count: float) -> float:
    """The sum of the squared weights of a softmax over `count` scores of variance `spread`: between 1/count and 1."""
    return min(math.exp(min(spread, 50.0)) / count, 1.0)


def attention_forward(context: Context, node: Node, states: list[State]) -> State:
    """multi_head_attention_forward: projections, scores, a weighted mean over the tokens, the output projection."""
    value, shared = _attention(context, node, states)
    near, far, other, apart = value.pairs.tolist()
    mixed = shared * value.second + (1 - shared) * far
    crossed = shared * other + (1 - shared) * apart
    pairs = torch.tensor([far, far, crossed, apart], dtype=torch.float64)
    state = State(flat(mixed, value.power.ndim), value.mean, pairs, value.unit, None, value.chance, value.own)
    if node.op != "multi_head_attention_forward":
        return state
    given = node.kwargs | dict(zip(_MHA, node.args, strict=False))
    return _projected(context, state, given.get("out_proj_weight"), given.get("out_proj_bias"), None)


_MHA = (
    "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn dropout_p "
    "out_proj_weight out_proj_bias"
).split()
_SDPA = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")


def _projected(context: Context, state: State, weight: Any, bias: Any, rows: slice | None) -> State:
    if not isinstance(weight, Value):
        raise NotPredicted("its weights are computed")
    mean, variance = context.weights.moments(weight.name, weight.tensor, rows)
    fan = weight.tensor.shape[1]
    common = mean * mean * (fan * fan - fan) * state.mean**2
    scale = fan * (variance + mean * mean)
    power, pairs = state.power * scale + common, state.pairs * scale + common
    if isinstance(bias, Value):
        shift, spread = context.weights.moments(bias.name, bias.tensor, rows)
        power, pairs = power + spread + shift * shift, pairs + spread + shift * shift
    return State(
        flat(power.mean().item(), power.ndim), fan * mean * state.mean, pairs, state.power.ndim - 1, None, state.chance + state.own
    )


def _attention(context: Context, node: Node, states: list[State]) -> tuple[State, float]:
    """The values' state, and the sum of the squared attention weights of a token."""
    if node.op == "multi_head_attention_forward":
        given = node.kwargs | dict(zip(_MHA, node.args, strict=False))
        width = given["embed_dim_to_check"]
        packed = given["in_proj_weight"]
        heads = given["num_heads"]
        if packed is None:
            names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
            query, key, value = (_projected(context, state, given.get(name), None, None) for state, name in zip(states, names, strict=True))
        else:
            rows = [slice(k * width, (k + 1) * width) for k in range(3)]
            bias = given["in_proj_bias"]
            query, key, value = (_projected(context, state, packed, bias, part) for state, part in zip(states, rows, strict=True))
        length = context.graph.nodes[node.inputs[1]].shape[0]
        spread = query.second * key.second * (1 - max(key.cosines[1], 0.0))  # per head: d q k / sqrt(d)^2
        return value, _shares(spread, length) if heads else 1.0
    given = arguments(node, _SDPA)
    query, key, value = states[:3]
    shape = context.graph.nodes[node.inputs[1]].shape
    scale = given["scale"] if given["scale"] is not None else 1 / math.sqrt(shape[-1])
    spread = shape[-1] * scale**2 * query.second * key.second * (1 - max(key.cosines[1], 0.0))
    return value, _shares(spread, shape[-2] / (2 if given["is_causal"] else 1))


def attention_backward(context: Context, node: Node, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    """By way of the values alone: what goes through the scores is less by their spread."""
    value, shared = _attention(context, node, states)
    second = gradient.second
    if node.op == "multi_head_attention_forward":
        given = node.kwargs | dict(zip(_MHA, node.args, strict=False))
        second *= _power_back(context, given.get("out_proj_weight"), None)
        packed, width = given["in_proj_weight"], given["embed_dim_to_check"]
        entry = (packed, slice(2 * width, 3 * width)) if packed is not None else (given.get("v_proj_weight"), None)
        second *= _power_back(context, *entry)
    second *= shared + (1 - shared) * max(gradient.far, 0.0)
    far = 1.0 if gradient.far >= 1 else (1 - shared) / max(1 - shared + shared, 1e-9) if shared < 1 else gradient.far
    passed = Gradient(flat(second, states[2].power.ndim), far, gradient.chance)
    return [None, None, passed, *([None] * (len(states) - 3))]


def _power_back(context: Context, weight: Any, rows: slice | None) -> float:
    if not isinstance(weight, Value):
        raise NotPredicted("its weights are computed")
    mean, variance = context.weights.moments(weight.name, weight.tensor, rows)
    return (weight.tensor.shape[0] if rows is None else rows.stop - rows.start) * (variance + mean * mean)


def matmul_forward(context: Context, node: Node, states: list[State]) -> State:
    """Of two signals: a sum of independent products; of attention weights and values, a mean over tokens."""
    if len(states) < 2:
        raise NotPredicted("one of its factors is no signal")
    one, other = states[:2]
    count = first_shape(context, node)[-1]
    if abs(one.mean * count - 1) < 1e-6:  # rows that sum to 1: attention weights
        shared = min(one.second * count, 1.0)
        near, far, across, apart = other.pairs.tolist()
        pairs = torch.tensor([far, far, shared * across + (1 - shared) * apart, apart], dtype=torch.float64)
        return State(flat(shared * other.second + (1 - shared) * far, len(node.shape)), other.mean, pairs, len(node.shape) - 1)
    power = count * (one.second * other.second - one.mean**2 * other.mean**2) + count**2 * one.mean**2 * other.mean**2
    pairs = count * one.pairs * other.pairs
    return State(flat(power, len(node.shape)), count * one.mean * other.mean, pairs, len(node.shape) - 1)


def matmul_backward(context: Context, node: Node, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    one, other = states[:2]
    count = first_shape(context, node)[-1]
    rows, columns = node.shape[-2], node.shape[-1]
    if abs(one.mean * count - 1) < 1e-6:
        shared = min(one.second * count, 1.0)
        return [
            None,
            Gradient(flat(gradient.second * (shared + (1 - shared) * max(gradient.far, 0)), len(node.shape)), 1.0, gradient.chance),
        ]
    first = Gradient(flat(gradient.second * columns * other.second, one.power.ndim), 0.0, gradient.chance)
    second = Gradient(flat(gradient.second * rows * one.second, other.power.ndim), 0.0, gradient.chance)
    return [first, second]
