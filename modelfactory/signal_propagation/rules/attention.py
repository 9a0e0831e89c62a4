"""Through attention: a mean over tokens whose weights lie between even ones and one token alone, by the spread of the scores.

What comes out is bounded by these two; in between the sum of the squared weights is that of a softmax over as many normal scores, of their
spread, as a mask shows tokens (`numerics.softmax_shares`). Back it goes by way of the values, and by way of the scores:
`dz = a (da - sum a da)`, `da = g v`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from modelfactory.numerics.gaussian_moments import NotPredicted
from modelfactory.numerics.softmax_shares import Shares, softmax_shares
from modelfactory.signal_propagation.graph import NodeRef, SignalNode, TensorRef
from modelfactory.signal_propagation.masking import Shown, all_shown, causal, shown_by
from modelfactory.signal_propagation.rules.base import Context, arguments
from modelfactory.signal_propagation.state import Gradient, State, flat

_MHA = (
    "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn dropout_p "
    "out_proj_weight out_proj_bias training key_padding_mask need_weights attn_mask"
).split()
_SDPA = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")


def softmax_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """Shares of scores: at each place of the dimension `1/n` in the mean, and together between `1/n` and 1 in power."""
    state = states[0]
    dim = arguments(node, ("input", "dim"))["dim"]
    count = node.shape[-1 if dim is None else dim]
    left = _left(state, node, count)
    shared = softmax_shares(_spread(state), left.counts).squared
    mean = 1 / count
    pairs = torch.tensor([mean * mean, mean * mean, left.inverse / count, mean * mean], dtype=torch.float64)
    return State(flat(shared / count, len(node.shape)), mean, pairs, state.unit, shown=left)


def _left(state: State, node: SignalNode, count: int) -> Shown:
    """What a mask leaves of scores."""
    return state.shown or all_shown(node.shape[-2] if len(node.shape) > 1 else 1, count)


def _spread(state: State) -> float:
    """The variance of the scores within a row."""
    row = state.pairs[1].item() if state.row is None else state.row
    return max(state.second - max(row, 0.0), 0.0)


def softmax_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    """`dz = a (da - sum a da)`: what a row has in common goes, and most of what one share alone gets."""
    dim = arguments(node, ("input", "dim"))["dim"]
    count = node.shape[-1 if dim is None else dim]
    left = _left(states[0], node, count)
    power = softmax_shares(_spread(states[0]), left.counts).jacobian / count * gradient.second * (1 - gradient.common)
    return [Gradient(flat(power, len(node.shape)), gradient.far, gradient.chance, balanced=1 / max(left.inverse, 1e-300))]


@dataclass(frozen=True)
class _Heads:
    """Attention as the heads see it.

    Attributes:
        query, key, value: the states of the tokens in a head.
        rows, keys, width: how many tokens ask, how many are asked, and units a head.
        scale: what scores are multiplied by.
        left: what a mask leaves of the scores.
        groups: queries that share a head of keys and values.
    """

    query: State
    key: State
    value: State
    rows: int
    keys: int
    width: int
    scale: float
    left: Shown
    groups: int = 1

    @property
    def shares(self) -> Shares:
        """The attention weights of a token, of scores whose spread keys make for one query."""
        apart = max(self.key.second - max(self.key.pairs[1].item(), 0.0), 0.0)
        return softmax_shares(self.width * self.scale**2 * self.query.second * apart, self.left.counts)

    @property
    def shared(self) -> float:
        """The sum of the squared attention weights of a token."""
        return self.shares.squared


def mixed(value: State, shared: float, left: Shown) -> State:
    """A mean over tokens."""
    near, far, other, apart = value.pairs.tolist()
    second = shared * value.second + (1 - shared) * far
    beside = left.overlap * value.second + (1 - left.overlap) * far
    crossed = left.inverse * other + (1 - left.inverse) * apart
    across = left.overlap * other + (1 - left.overlap) * apart
    pairs = torch.tensor([beside, beside, crossed, across], dtype=torch.float64)
    return State(flat(second, value.power.ndim), value.mean, pairs, value.unit, None, value.chance, value.own)


def mixed_back(gradient: Gradient, shared: float, left: Shown, rows: int, keys: int, dims: int) -> Gradient:
    """To the values: of every token that attends to one, by its share, and of all together where their gradients agree."""
    alone = rows * shared / keys
    far = max(gradient.far, 0.0)
    together = alone + far * max(left.gathered - rows * left.inverse / keys, 0.0)
    between = rows * max(1 - shared, 0.0) / (keys * (keys - 1)) if keys > 1 else 0.0
    between += far * max((rows / keys) ** 2 - rows / keys**2, 0.0)
    return Gradient(flat(gradient.second * together, dims), min(between / max(together, 1e-300), 1.0), gradient.chance)


def _scored_back(heads: _Heads, gradient: Gradient, dims: int) -> tuple[Gradient, Gradient]:
    """To queries and keys, by way of the scores.

    A query gets `sum_s dz_s k_s`, and `dz_s` depends on `v_s`, which comes of the same token as `k_s`: over the tokens that are
    shown this adds the scatter of the keys times their number.
    """
    value_apart = max(heads.value.second - max(heads.value.pairs[1].item(), 0.0), 0.0)
    left = heads.left
    scores = heads.width * gradient.second * value_apart * heads.shares.jacobian / heads.keys * heads.scale**2
    key_apart = max(heads.key.second - max(heads.key.pairs[1].item(), 0.0), 0.0)
    far = max(gradient.far, 0.0)
    met = key_apart * (1 + heads.key.scatter / max(left.inverse, 1e-300))
    query = Gradient(flat(heads.keys * scores * met, dims), 0.0, gradient.chance)
    agreed = heads.query.second + (heads.rows - 1) * far * max(heads.query.pairs[1].item(), 0.0)
    key = Gradient(flat(heads.rows * scores * agreed, dims), 0.0, gradient.chance)
    return query, key


def attention_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """scaled_dot_product_attention: scores, and a weighted mean over the tokens."""
    heads = _heads_of(context, node, states)
    return mixed(heads.value, heads.shared, heads.left)


def attention_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    heads = _heads_of(context, node, states)
    dims = len(node.shape)
    value = mixed_back(gradient, heads.shared, heads.left, heads.rows, heads.keys, dims)
    query, key = _scored_back(heads, gradient, dims)
    given = arguments(node, _SDPA)
    passed = {"query": query, "key": key.scaled(heads.groups), "value": value.scaled(heads.groups)}
    back: list[Gradient | None] = [passed[name] for name in passed if isinstance(given[name], NodeRef)]
    return back + [None] * (len(states) - len(back))


def _heads_of(context: Context, node: SignalNode, states: list[State]) -> _Heads:
    given = arguments(node, _SDPA)
    queue = list(states)
    query, key, value = (_operand(context, given[name], queue) for name in ("query", "key", "value"))
    shapes = [_shape(context, given[name]) for name in ("query", "key")]
    rows, keys, width = shapes[0][-2], shapes[1][-2], shapes[0][-1]
    scale = given["scale"] if given["scale"] is not None else 1 / math.sqrt(width)
    left = all_shown(rows, keys)
    if given["is_causal"]:
        left = causal(rows, keys)
    elif isinstance(given["attn_mask"], TensorRef):
        left = shown_by(given["attn_mask"]) or left
    groups = shapes[0][-3] // shapes[1][-3] if len(shapes[0]) > 3 else 1
    return _Heads(query, key, value, rows, keys, width, scale, left, max(groups, 1))


def _operand(context: Context, value: Any, queue: list[State]) -> State:
    """The state of a signal, or of a parameter or a constant: the same for all inputs."""
    if isinstance(value, NodeRef):
        return queue.pop(0)
    if not isinstance(value, TensorRef):
        raise NotPredicted(f"an operand is {type(value).__name__}")
    mean, variance = context.weights.moments(value.name, value.tensor)
    square = mean * mean
    pairs = torch.tensor([square, square, square + variance, square], dtype=torch.float64)
    return State(flat(square + variance, value.tensor.ndim), mean, pairs, value.tensor.ndim - 1)


def _shape(context: Context, value: Any) -> tuple[int, ...]:
    return context.graph.nodes[value.node].shape if isinstance(value, NodeRef) else tuple(value.tensor.shape)


def module_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """multi_head_attention_forward: projections, scores, a weighted mean over the tokens, the output projection."""
    given = arguments(node, tuple(_MHA))
    heads = _projected_heads(context, node, given, states)
    made = mixed(heads.value, heads.shared, heads.left)
    return _projected(context, made, given["out_proj_weight"], given["out_proj_bias"], None)


def module_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    given = arguments(node, tuple(_MHA))
    heads = _projected_heads(context, node, given, states)
    inner = gradient.scaled(_power_back(context, given["out_proj_weight"], None))
    dims = len(node.shape)
    value = mixed_back(inner, heads.shared, heads.left, heads.rows, heads.keys, dims)
    passed = (*_scored_back(heads, inner, dims), value)
    weights = [_projection(given, place) for place in range(3)]
    back: list[Gradient | None] = []
    for part, (weight, _, rows), name in zip(passed, weights, _MHA[:3], strict=True):
        if isinstance(given[name], NodeRef):
            back.append(part.scaled(_power_back(context, weight, rows)))
    return back + [None] * (len(states) - len(back))


def _projection(given: dict[str, Any], place: int) -> tuple[Any, Any, slice | None]:
    """The weight, bias and rows by which query, key or value is projected."""
    width = given["embed_dim_to_check"]
    if given["in_proj_weight"] is not None:
        return given["in_proj_weight"], given["in_proj_bias"], slice(place * width, (place + 1) * width)
    return given.get(("q_proj_weight", "k_proj_weight", "v_proj_weight")[place]), None, None


def _projected_heads(context: Context, node: SignalNode, given: dict[str, Any], states: list[State]) -> _Heads:
    queue, made = list(states), []
    for place, name in enumerate(_MHA[:3]):
        weight, bias, rows = _projection(given, place)
        made.append(_projected(context, _operand(context, given[name], queue), weight, bias, rows))
    shapes = [_shape(context, given[name]) for name in ("query", "key")]
    batched = len(shapes[0]) > 2  # tokens come first here, whatever the module's batch_first
    rows, keys = (shape[0] if batched else shape[-2] for shape in shapes)
    width = given["embed_dim_to_check"] // (given["num_heads"] or 1)
    left = all_shown(rows, keys)
    mask = given["attn_mask"]
    if isinstance(mask, TensorRef) and (mask.tensor.dtype is not torch.bool or not mask.tensor.is_meta):
        hides = mask.tensor.dtype is torch.bool  # here true is what is hidden
        left = shown_by(replace(mask, tensor=~mask.tensor) if hides else mask) or left
    return _Heads(made[0], made[1], made[2], rows, keys, width, 1 / math.sqrt(width), left)


def _projected(context: Context, state: State, weight: Any, bias: Any, rows: slice | None) -> State:
    if not isinstance(weight, TensorRef):
        raise NotPredicted("its weights are computed")
    mean, variance = context.weights.moments(weight.name, weight.tensor, rows)
    fan = weight.tensor.shape[1]
    common = mean * mean * (fan * fan - fan) * state.mean**2
    scale = fan * (variance + mean * mean)
    power, pairs = state.power * scale + common, state.pairs * scale + common
    if isinstance(bias, TensorRef):
        shift, spread = context.weights.moments(bias.name, bias.tensor, rows)
        power, pairs = power + spread + shift * shift, pairs + spread + shift * shift
    unit, chance, scatter = state.power.ndim - 1, state.chance + state.own, state.scatter + 1 / fan
    return State(flat(power.mean().item(), power.ndim), fan * mean * state.mean, pairs, unit, None, chance, scatter=scatter)


def _power_back(context: Context, weight: Any, rows: slice | None) -> float:
    if not isinstance(weight, TensorRef):
        raise NotPredicted("its weights are computed")
    mean, variance = context.weights.moments(weight.name, weight.tensor, rows)
    return (weight.tensor.shape[0] if rows is None else rows.stop - rows.start) * (variance + mean * mean)
