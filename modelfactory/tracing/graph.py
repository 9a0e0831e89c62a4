"""The recorded graph of a model: values, the calls that make them, and how to walk from one to the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


class Value:
    """A tensor of the run, without its numbers.

    Attributes:
        index: its place among the values of the graph; a value comes after all that it is made of.
        shape: of the run, batch first where the model's input has it so.
        floating: whether it is of a floating point or complex type.
        node: the call that made it; None of an input, a parameter or a constant.
        place: which of the outputs of its call it is.
        name: the full name of a parameter or buffer; None of any other.
        kind: "input", "parameter", "constant" or "result".
        users: the calls that take it, in order.
    """

    __slots__ = ("index", "shape", "floating", "node", "place", "name", "kind", "users", "tensor")

    def __init__(self, index: int, tensor: Tensor, kind: str, node: Node | None = None, place: int = 0, name: str | None = None):
        self.index = index
        self.shape: tuple[int, ...] = tuple(tensor.shape)
        self.floating = tensor.is_floating_point() or tensor.is_complex()
        self.node = node
        self.place = place
        self.name = name
        self.kind = kind
        self.users: list[Node] = []
        self.tensor: Tensor | None = tensor.detach() if kind == "constant" else None

    @property
    def numel(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    def __repr__(self) -> str:
        made = self.node.op if self.node is not None else self.name or self.kind
        return f"Value({self.index}, {made}, {'x'.join(map(str, self.shape))})"


class Node:
    """One call.

    Attributes:
        index: its place among the calls.
        op: the name of the operator: that of the function, without the underscores of in-place and of operators.
        function: what was called.
        args, kwargs: with `Value` in place of tensors.
        inputs: the values among them, each as often as it is taken.
        outputs: the values that it made.
        layer: the full name of the innermost module that made the call, "" for the model itself.
        module: that module.
    """

    __slots__ = ("index", "op", "function", "args", "kwargs", "inputs", "outputs", "layer", "module")

    def __init__(self, index: int, op: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], layer: str, module: nn.Module):
        self.index, self.op, self.function, self.args, self.kwargs = index, op, function, args, kwargs
        self.layer, self.module = layer, module
        self.inputs: list[Value] = [item for item in leaves((args, kwargs)) if type(item) is Value]
        self.outputs: list[Value] = []

    @property
    def output(self) -> Value:
        """The first of its outputs."""
        return self.outputs[0]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument that may be given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def __repr__(self) -> str:
        return f"Node({self.index}, {self.op} in {self.layer or 'the model'}, {self.inputs} -> {self.outputs})"


@dataclass(eq=False)
class Graph:
    """What one run of a model called, in order.

    Attributes:
        nodes: the calls.
        values: everything that they take and make, in order.
        inputs: the tensors that the model was given.
        outputs: what it returned.
        parameters: by name, each parameter that some call took.
        reason: why the run ended before the model returned; None where it did not.
        on_meta: whether the run was on the meta device, without numbers.
    """

    nodes: list[Node] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()
    parameters: dict[str, Value] = field(default_factory=dict)
    reason: str | None = None
    on_meta: bool = True

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)


def leaves(value: Any) -> Iterator[Any]:
    """The leaves of nested tuples, lists, dicts and slices.

    Example:
        >>> list(leaves((1, [2, {"a": 3}])))
        [1, 2, 3]
    """
    if isinstance(value, dict):
        value = tuple(value.values())
    if not isinstance(value, (tuple, list)):
        yield value
        return
    for item in value:
        if isinstance(item, (tuple, list, dict)):
            yield from leaves(item)
        else:
            yield item


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts, and in objects that hold their results as attributes.

    Example:
        >>> import torch
        >>> len(tensors_of({"logits": torch.zeros(2), "more": [torch.ones(1), None]}))
        2
    """
    found: list[Tensor] = []
    for item in leaves(value):
        if isinstance(item, Tensor):
            found.append(item)
        elif hasattr(item, "__dict__") and not isinstance(item, (type, nn.Module)) and not callable(item):
            found += [inner for inner in leaves(dict(vars(item))) if isinstance(inner, Tensor)]
    return found
