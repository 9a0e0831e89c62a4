"""FLOPs of calls of torch, by the formulas of torch.utils.flop_counter: a multiplication and an addition count as two.

Calls whose result is known from shapes are counted here from shapes too; every other call is seen by `Counting`, as
the operators that it comes to.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry

from modelfactory.tracing.meta_shapes import attended, attention_arguments

# the formulas themselves, without the wrapper that takes the shapes of tensors
mm_flop, bmm_flop = inspect.unwrap(flop_counter.mm_flop), inspect.unwrap(flop_counter.bmm_flop)


class Counting(TorchDispatchMode):
    """Adds up the FLOPs of every operator that runs under it.

    Args:
        add: called with the FLOPs, and what comes out, of each operator that has any.

    Example:
        >>> with Counting(lambda flops, out: print(flops, out.shape)):
        ...     _ = torch.ones(2, 3) @ torch.ones(3, 5)
        60 torch.Size([2, 5])
    """

    def __init__(self, add: Callable[[int, Any], None]):
        super().__init__()
        self._add = add

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:
                parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
        out = func(*args, **kwargs)
        if formula is not None:
            self._add(formula(*args, **kwargs, out_val=out), out)
        return out


def flops_of(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """FLOPs of a call that `modelfactory.tracing.meta_shapes.known_result` knows; 0 of one that multiplies no matrices.

    Example:
        >>> x, weight = torch.empty(2, 3, device="meta"), torch.empty(5, 3, device="meta")
        >>> flops_of(F.linear, (x, weight), {}, torch.empty(2, 5, device="meta"))
        60
    """
    rule = _RULES.get(func)
    return 0 if rule is None else rule(args, kwargs, out)


def _linear(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> int:
    width = args[0].shape[-1]
    return mm_flop((out.numel() // out.shape[-1], width), (width, out.shape[-1]))


def _conv(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> int:
    return conv_flop_count(list(args[0].shape), list(args[1].shape), list(out.shape))


def _product(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> int:
    """A matrix product of two tensors, of the last two dimensions each."""
    rows, inner, columns = args[0].shape[-2], args[0].shape[-1], args[1].shape[-1]
    return bmm_flop((out.numel() // (rows * columns), rows, inner), (out.numel() // (rows * columns), inner, columns))


def _scaled_dot_product(args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> int:
    query, key, value = (tensor.shape for tensor in args[:3])
    return _attend(math.prod(query[:-2]), query[-2], key[-2], query[-1], value[-1])


def _attend(stack: int, queries: int, keys: int, width: int, width_out: int) -> int:
    """Scores of each query with each key, and the means of the values by them."""
    return bmm_flop((stack, queries, width), (stack, width, keys)) + bmm_flop((stack, queries, keys), (stack, keys, width_out))


def _recurrent(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Every matrix of the weights once for each sample and time step."""
    steps = args[0].numel() // args[0].shape[-1]
    matrices = (weight for weight in args[2] if weight.ndim == 2)
    return sum(mm_flop((steps, weight.shape[1]), (weight.shape[1], weight.shape[0])) for weight in matrices)


def _attention(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Three projections, the scores, their mean over the values, and the projection of what leaves.

    Inputs are [L, N, E] here, or [L, E] without a batch, whatever the module's batch_first says.
    """
    given = attention_arguments(args, kwargs)
    query, width, heads = given["query"], given["embed_dim_to_check"], given["num_heads"]
    positions = query.numel() // query.shape[-1]
    total = mm_flop((positions, width), (width, width))
    for tensor in (query, given["key"], given["value"]):
        total += mm_flop((tensor.numel() // tensor.shape[-1], tensor.shape[-1]), (tensor.shape[-1], width))
    stack = positions // query.shape[0] * heads
    return total + _attend(stack, query.shape[0], attended(given), width // heads, width // heads)


_RULES: dict[Any, Callable[[tuple[Any, ...], dict[str, Any], Any], int]] = {
    F.linear: _linear,
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _conv),
    **dict.fromkeys((torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__), _product),
    **dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), _recurrent),
    F.scaled_dot_product_attention: _scaled_dot_product,
    F.multi_head_attention_forward: _attention,
}
