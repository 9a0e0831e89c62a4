"""One row a layer: what it is, what leaves it, what it holds and costs, and how its parameters are initialised."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from modelfactory.config.schema import join
from modelfactory.init.ledger import LedgerRow
from modelfactory.planning.overview.memory import itemsize
from modelfactory.planning.overview.trace import BATCH, Trace

# Modules that call nothing of what they hold, or hold what is not a layer: one row with all of their parameters.
_WHOLE = (nn.MultiheadAttention,)
_PARAMETRIZED = "parametrizations"


@dataclass(frozen=True)
class LayerNode:
    """One module that has parameters, buffers or a cost of its own, or holds no other.

    Attributes:
        name: its full name, "" for the model itself.
        kind: its class.
        output: what leaves it, shapes with "N" for the batch; None when it was not called, or not with tensors.
        calls: how often the forward calls it; None when the model could not be run.
        flops: of its own forward for one sample; None when the model could not be run.
        memory: bytes of its parameters and buffers.
        rows: the ledger's rows of its parameters.
    """

    name: str
    kind: str
    output: Any
    calls: int | None
    flops: int | None
    memory: int
    rows: tuple[LedgerRow, ...]

    @property
    def parameters(self) -> int:
        return sum(row.numel for row in self.rows)

    @property
    def main(self) -> tuple[LedgerRow, ...]:
        """The rows that tell how the layer is initialised: all but those of biases, or these where there are no others."""
        return tuple(row for row in self.rows if "bias" not in row.role.split()) or self.rows


@dataclass(frozen=True)
class LayerTree:
    """A module of the tree: itself, if it has a row, and what it holds.

    Attributes:
        label: its name inside of the module that holds it.
        layer: its own row, None for what only holds others.
        output: what leaves it, as in `LayerNode`.
    """

    label: str
    name: str
    kind: str
    output: Any
    layer: LayerNode | None
    children: tuple[LayerTree, ...]

    def layers(self) -> Iterator[LayerNode]:
        if self.layer is not None:
            yield self.layer
        for child in self.children:
            yield from child.layers()


def grow(model: nn.Module, rows: Sequence[LedgerRow], trace: Trace | None) -> LayerTree:
    """The tree of a model's layers.

    Args:
        model: may be on the meta device.
        rows: the ledger's, one a parameter.
        trace: what was seen of each module; None when no input is known.
    """
    by_owner: dict[str, list[LedgerRow]] = {}
    for row in rows:
        if row.role != "buffer":
            by_owner.setdefault(row.name.split(" = ")[0].rpartition(".")[0], []).append(row)
    return _Grower(by_owner, trace).grow(model, "", "")


class _Grower:
    def __init__(self, rows: Mapping[str, list[LedgerRow]], trace: Trace | None):
        self._rows, self._trace = rows, trace
        self._grown: set[int] = set()

    def grow(self, module: nn.Module, name: str, label: str) -> LayerTree:
        self._grown.add(id(module))
        whole = isinstance(module, _WHOLE)
        named = list(module.named_modules(prefix=name)) if whole else [(name, module), *_parametrized(module, name)]
        children = tuple(
            self.grow(child, join(name, child_name), child_name)
            for child_name, child in module.named_children()
            if not whole and child_name != _PARAMETRIZED and id(child) not in self._grown
        )
        rows = tuple(row for owner, _ in named for row in self._rows.get(owner, ()))
        memory = sum(row.numel * itemsize(row.dtype) for row in rows)
        memory += sum(buffer.nbytes for _, part in named for buffer in part.buffers(recurse=False))
        kind = type(module).__name__.removeprefix("Parametrized")
        seen = self._trace.seen.get(name) if self._trace is not None else None
        ran = self._trace is not None and (self._trace.failure is None or seen is not None)
        output = readable(seen.output) if seen is not None else None
        flops = (seen.flops if seen is not None else 0) if ran else None
        layer = None
        if memory or flops or not children:
            layer = LayerNode(name, kind, output, (seen.calls if seen is not None else 0) if ran else None, flops, memory, rows)
        return LayerTree(label, name, kind, output, layer, children)


def _parametrized(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """What holds the tensors from which a module's weights are computed, with its full name."""
    if _PARAMETRIZED in module._modules:
        held: Any = module._modules[_PARAMETRIZED]
        yield from held.named_modules(prefix=join(name, _PARAMETRIZED))


def readable(shapes: Any) -> Any:
    """Shapes as lists in which "N" is the batch, "2N" twice as many; a tuple of several outputs is a tuple of these.

    Example:
        >>> import torch
        >>> readable(torch.Size([BATCH, 3])), readable((torch.Size([2, BATCH]), None))
        (['N', 3], ([2, 'N'], None))
    """
    if shapes is None:
        return None
    if not hasattr(shapes, "numel"):
        return tuple(map(readable, shapes))
    found, batch = [], False
    for size in shapes:
        holds = not batch and size > 0 and size % BATCH == 0
        found.append(("N" if size == BATCH else f"{size // BATCH}N") if holds else size)
        batch = batch or holds
    return found


def numbers(output: Any) -> int:
    """How many numbers one sample has in what leaves a layer.

    Example:
        >>> numbers(["4N", 3]), numbers((["N", 5], None))
        (12, 5)
    """
    if output is None:
        return 0
    if isinstance(output, tuple):
        return sum(map(numbers, output))
    return math.prod(int(size.removesuffix("N") or 1) if isinstance(size, str) else size for size in output)
