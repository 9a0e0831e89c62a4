"""What common calls of torch give, from shapes alone: tracing a model asks this tens of times faster than the meta device.

Only calls whose result is plain from their operands are here; `known_result` says None for every other, which then
runs on the meta device.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from modelfactory.numerics.activation import ACTIVATIONS


def known_result(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any | None:
    """A meta tensor (or what the call returns) in the shape that `func(*args, **kwargs)` has, None when not known here.

    Example:
        >>> x, weight = torch.empty(2, 3, 8, 8, device="meta"), torch.empty(5, 3, 3, 3, device="meta")
        >>> known_result(torch.conv2d, (x, weight, None, (2, 2), (1, 1)), {}).shape
        torch.Size([2, 5, 4, 4])
        >>> known_result(torch.sort, (x,), {}) is None
        True
    """
    rule = _RULES.get(func)
    return None if rule is None else rule(args, kwargs)


class KnownShapes(TorchFunctionMode):
    """Calls that `known_result` knows do not reach the meta device, whose matrix products import torch._dynamo (1 s).

    Example:
        >>> with KnownShapes():
        ...     torch.nn.Linear(3, 5)(torch.empty(2, 3, device="meta")).shape
        torch.Size([2, 5])
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = known_result(func, args, kwargs or {})
        return func(*args, **(kwargs or {})) if result is None else result


def _empty(shape: Any, like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device="meta")


def _same(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    first = args[0] if args else kwargs.get("input")
    return _empty(first.shape, first) if isinstance(first, Tensor) else None


def _by_channel(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Norms and PReLU, whose other tensors have one number a channel (PReLU's may have one in all)."""
    if not args or args[0].ndim < 2:
        return None
    others = [value for value in (*args[1:], *kwargs.values()) if isinstance(value, Tensor)]
    return _same(args, kwargs) if all(other.numel() in (args[0].shape[1], 1) for other in others) else None


def _by_last(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Layer norms, over the last dimensions."""
    if len(args) < 2:
        return None
    over = tuple(args[1])
    return _same(args, kwargs) if over and tuple(args[0].shape[-len(over) :]) == over else None


def _sum(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    if len(args) == 2 and not kwargs and isinstance(args[0], Tensor) and isinstance(args[1], Tensor):
        if args[0].dtype == args[1].dtype:
            return _empty(torch.broadcast_shapes(args[0].shape, args[1].shape), args[0])
    return None


def _sum_in_place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    if len(args) == 2 and not kwargs and isinstance(args[1], (int, float)):
        return args[0]
    total = _sum(args, kwargs)
    return total if total is not None and total.shape == args[0].shape else None


def _linear(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    if len(args) < 2 or args[0].shape[-1] != args[1].shape[-1]:
        return None
    return _empty((*args[0].shape[:-1], args[1].shape[0]), args[0])


_CONV_DEFAULTS = (None, 1, 0, 1, 1)  # bias, stride, padding, dilation, groups


def _conv(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    if len(args) < 2 or kwargs:
        return None
    x, weight = args[:2]
    _, stride, padding, dilation, groups = (*args[2:], *_CONV_DEFAULTS[len(args) - 2 :])
    dims = weight.ndim - 2
    if isinstance(padding, str) or x.ndim != weight.ndim or x.shape[1] != weight.shape[1] * groups:
        return None
    settings = zip(x.shape[2:], weight.shape[2:], *(_each(value, dims) for value in (stride, padding, dilation)), strict=True)
    spatial = [(size + 2 * pad - gap * (kernel - 1) - 1) // step + 1 for size, kernel, step, pad, gap in settings]
    return _empty((x.shape[0], weight.shape[0], *spatial), x) if all(size > 0 for size in spatial) else None


def _each(value: Any, dims: int) -> tuple[Any, ...]:
    if value is None or isinstance(value, int):
        return (value,) * dims
    return tuple(value) * dims if len(value) == 1 else tuple(value)


def _adaptive(dims: int) -> Callable[[tuple[Any, ...], dict[str, Any]], Tensor | None]:
    def rule(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        if len(args) != 2 or kwargs or args[0].ndim < dims + 1:
            return None
        sizes = [own if given is None else given for given, own in zip(_each(args[1], dims), args[0].shape[-dims:], strict=True)]
        return _empty((*args[0].shape[:-dims], *sizes), args[0])

    return rule


def _mean(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The mean over one dimension, as `x.mean(1)`."""
    if len(args) != 2 or kwargs or not isinstance(args[1], int) or not -args[0].ndim <= args[1] < args[0].ndim:
        return None
    shape = list(args[0].shape)
    del shape[args[1]]
    return _empty(shape, args[0])


def _recurrent(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """torch.lstm, gru, rnn_tanh and rnn_relu of one tensor: (x, state, weights, ..., bidirectional, batch_first)."""
    if len(args) != 9 or kwargs:
        return None
    x, state, bidirectional = args[0], args[1], args[7]
    states = state if isinstance(state, (tuple, list)) else (state,)
    width = states[0].shape[-1] * (2 if bidirectional else 1)
    return (_empty((*x.shape[:-1], width), x), *(_empty(one.shape, one) for one in states))


_ATTENTION = inspect.signature(F.multi_head_attention_forward)


def attention_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of torch.nn.functional.multi_head_attention_forward by name, its defaults too."""
    bound = _ATTENTION.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def attended(given: dict[str, Any]) -> int:
    """How many positions each query looks at: those of the keys, and what the module appends to them."""
    return given["key"].shape[0] + (given["bias_k"] is not None) + bool(given["add_zero_attn"])


def _attention(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    given = attention_arguments(args, kwargs)
    query = given["query"]
    if not given["need_weights"]:
        return _empty(query.shape, query), None
    batch = query.shape[1:2] if query.ndim == 3 else ()
    heads = () if given["average_attn_weights"] else (given["num_heads"],)
    return _empty(query.shape, query), _empty((*batch, *heads, query.shape[0], attended(given)), query)


def _product(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """A product of matrices, or of stacks of them."""
    if len(args) != 2 or kwargs or not all(isinstance(value, Tensor) and value.ndim >= 2 for value in args):
        return None
    one, other = args
    if one.shape[-1] != other.shape[-2] or one.dtype != other.dtype:
        return None
    stack = torch.broadcast_shapes(one.shape[:-2], other.shape[:-2])
    return _empty((*stack, one.shape[-2], other.shape[-1]), one)


def _scaled_dot_product(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    if len(args) < 3 or kwargs.get("enable_gqa") or args[0].ndim < 3 or not args[0].ndim == args[1].ndim == args[2].ndim:
        return None
    return _empty((*args[0].shape[:-1], args[2].shape[-1]), args[0])


def _softmax(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    return None if len(args) > 2 or kwargs.get("dtype") is not None else _same(args, kwargs)


_RULES: dict[Any, Callable[[tuple[Any, ...], dict[str, Any]], Any]] = {
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _conv),
    **dict.fromkeys((F.batch_norm, F.group_norm, F.instance_norm, torch.prelu), _by_channel),
    **dict.fromkeys((F.layer_norm, F.rms_norm), _by_last),
    **dict.fromkeys((getattr(F, name) for name in ACTIVATIONS if hasattr(F, name) and name != "prelu"), _same),
    **dict.fromkeys((F.dropout, torch.relu, torch.relu_, torch.tanh, torch.sigmoid, Tensor.relu, Tensor.tanh, Tensor.sigmoid), _same),
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__), _sum),
    **dict.fromkeys((Tensor.add_, Tensor.__iadd__), _sum_in_place),
    **dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), _recurrent),
    **{pool: _adaptive(dims) for dims, pool in enumerate((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d), 1)},
    **dict.fromkeys((torch.mean, Tensor.mean), _mean),
    **dict.fromkeys((torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__), _product),
    **dict.fromkeys((F.softmax, torch.softmax, Tensor.softmax), _softmax),
    F.scaled_dot_product_attention: _scaled_dot_product,
    F.linear: _linear,
    F.multi_head_attention_forward: _attention,
}
