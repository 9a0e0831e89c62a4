"""The matrices that a parameter is made of, each with its fans: one, several that are packed, or a stack of copies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from modelfactory.config.errors import SchemeError
from modelfactory.init.fans import Block, Fans, layer_fans, torch_fans
from modelfactory.parameters.info import ParamInfo
from modelfactory.parameters.known_layers import decides
from modelfactory.parameters.residual import NORMS
from modelfactory.tracing.fans import TracedFans, convolution_fans
from modelfactory.tracing.operators import CONVOLUTIONS, TRANSPOSED
from modelfactory.tracing.packed import Part

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def blocks_of(info: ParamInfo, input_shape: Sequence[int] | None = None) -> tuple[Block, ...]:
    """The matrices of a parameter of two or more dimensions, each with its own fans.

    What the user declares comes first, then what the run of the model shows, then what torch's own classes are known for.

    Args:
        input_shape: of the layer's input; it decides the fans of a convolution that pads.

    Raises:
        SchemeError: nothing tells which of its axes are summed over.

    Example:
        >>> from modelfactory.parameters.roles import describe
        >>> [(block.name, block.fans.fan_out) for block in blocks_of(describe(nn.MultiheadAttention(4, 2))[0])]
        [('query', 4.0), ('key', 4.0), ('value', 4.0)]
    """
    if info.parameter.ndim < 2:
        return ()
    fans, copied, out = _whole(info, input_shape)
    if not info.parts:
        return (Block(None, "", fans, copied, _order(info, copied, out)),)
    names = info.packed if info.block is None else (info.packed[info.block],)
    found = []
    for name, part in zip(names, info.parts, strict=True):
        share = part.size / info.parameter.shape[part.axis]
        own = Fans(fans.fan_in, fans.fan_out * share) if part.axis in out else Fans(fans.fan_in * share, fans.fan_out)
        found.append(Block(_rows(part), name, own, copied, _order(info, copied, out)))
    return tuple(found)


def block_rows(info: ParamInfo) -> slice | Part:
    """Where one matrix of a packed parameter lies."""
    return _rows(info.parts[0])


def _rows(part: Part) -> slice | Part:
    plain = part.axis == 0 and (not part.atoms or (len(part.atoms) == 1 and part.atoms[0][1] == 1))
    return slice(part.start, part.start + part.size) if plain else part


def _whole(info: ParamInfo, input_shape: Sequence[int] | None) -> tuple[Fans, tuple[int, ...], tuple[int, ...]]:
    """Fans of the whole parameter, the axes along which its copies lie, and those that come out."""
    facts, module, shape = info.facts, info.module, tuple(info.parameter.shape)
    if facts.axes is not None:
        summed, out = facts.axes
        copied = tuple(axis for axis in range(len(shape)) if axis not in (*summed, *out))
        return Fans(_size(shape, summed), _size(shape, out)), copied, out
    if isinstance(module, NORMS) or isinstance(module, _EMBEDDINGS):
        return layer_fans(module, info.attr, None, shape), (), (0,)
    if decides(type(module)):
        appended = isinstance(module, nn.MultiheadAttention) and info.attr in ("bias_k", "bias_v")
        return Fans(1.0, float(shape[-1])) if appended else torch_fans(shape), (), (0,)
    plain = isinstance(module, _CONVOLUTIONS) and info.attr == "weight" and type(module).forward in _FORWARDS
    if plain:
        out = (1,) if module.transposed else (0,)
        return layer_fans(module, info.attr, input_shape, shape), (), out  # pyright: ignore
    if facts.fans:
        traced = facts.fans[0]
        return _traced(traced, info), traced.copied, traced.coming_out
    if facts.met:
        return Fans(1.0, float(shape[-1]) if "embedding" in facts.roles else 1.0), (), ()
    if info.attr == "weight" and isinstance(module, (nn.Linear, nn.Bilinear, *_CONVOLUTIONS)):
        return layer_fans(module, info.attr, input_shape, shape), (), (0,)
    reason = info.model.reading.graph.reason
    why = f"the model could not be run: {reason}" if reason is not None else "the run of the model does not use it"
    raise SchemeError(f"which of its axes are summed over is not known ({why}); declare it beside the layer by fans: {{in: [1], out: [0]}}")


_FORWARDS = tuple(kind.forward for kind in _CONVOLUTIONS)


def _traced(traced: TracedFans, info: ParamInfo) -> Fans:
    op = traced.node.op
    if op in CONVOLUTIONS or op in TRANSPOSED:
        return Fans(*convolution_fans(traced.node, borders=not info.model.reading.tried))
    return Fans(traced.fan_in, traced.fan_out)


def _size(shape: Sequence[int], axes: Sequence[int]) -> float:
    return float(math.prod(shape[axis] for axis in axes))


def _order(info: ParamInfo, copied: Sequence[int], out: Sequence[int]) -> tuple[int, ...] | None:
    """The axes of one copy with those that come out first; None where they lie so."""
    rest = [axis for axis in range(info.parameter.ndim) if axis not in copied]
    order = (*(axis for axis in rest if axis in out), *(axis for axis in rest if axis not in out))
    return None if not out or list(order) == rest else order


def take(tensor: Tensor, rows: slice | Part | None) -> Tensor:
    """The part of a tensor that a block is: a view where it is one, else a copy."""
    if rows is None or isinstance(rows, slice):
        return tensor if rows is None else tensor[rows]
    return tensor.index_select(rows.axis, torch.tensor(rows.positions, device=tensor.device))


def put(tensor: Tensor, rows: slice | Part | None, value: Tensor) -> None:
    """Writes the numbers of a block to where they belong."""
    if rows is None or isinstance(rows, slice):
        own = tensor if rows is None else tensor[rows]
        if own.data_ptr() != value.data_ptr():
            own.copy_(value)
    else:
        tensor.index_copy_(rows.axis, torch.tensor(rows.positions, device=tensor.device), value.to(tensor.dtype))


def matrices(tensor: Tensor, block: Block) -> Iterator[Tensor]:
    """Each copy of a block, its axes in the order (out, in)."""
    copies = [tensor]
    for axis in sorted(block.copied, reverse=True):
        copies = [one for copy in copies for one in copy.unbind(axis)]
    order = block.order
    if order is None:
        yield from copies
        return
    left = [axis for axis in range(tensor.ndim) if axis not in block.copied]
    for copy in copies:
        yield copy.permute([left.index(axis) for axis in order])


def matrix_shape(shape: Sequence[int], block: Block) -> tuple[int, ...]:
    """The shape of one copy of a block, its axes in the order (out, in)."""
    sizes = list(shape)
    if isinstance(block.rows, slice):
        sizes[0] = block.rows.stop - block.rows.start
    elif block.rows is not None:
        sizes[block.rows.axis] = block.rows.size
    order = block.order or [axis for axis in range(len(sizes)) if axis not in block.copied]
    return tuple(sizes[axis] for axis in order)
