"""The graph of what a model does to a signal, seen while it runs: on the meta device, or on real data.

Every call of torch that a tensor of the signal goes through becomes a node, whether a module makes it or a forward of
one's own: residual additions, functional and in-place activations, and attention are seen alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelfactory.init.input_activation import Applied
from modelfactory.numerics.activation import ACTIVATIONS, is_activation
from modelfactory.tracing.meta_shapes import known_result

_ACTIVATIONS = frozenset(ACTIVATIONS) | {f"{name}_" for name in ACTIVATIONS}
_PASSIVE = frozenset(
    "__get__ __set__ size dim numel stride is_floating_point requires_grad_ storage_offset is_contiguous data_ptr item tolist "
    "_assert __eq__ __ne__ ne eq lt gt le ge isnan isinf isfinite all any argmax argmin nelement __len__ __bool__ __repr__".split()
)


@dataclass(frozen=True)
class Signal:
    """An argument of a call: the output of another node."""

    node: int


@dataclass(frozen=True)
class Value:
    """An argument of a call: a parameter (by name), a buffer or a constant; `tensor` is on the meta device where the model is."""

    name: str | None
    tensor: Tensor


@dataclass(frozen=True)
class Node:
    """One call.

    Attributes:
        op: the function's name without the underscore of in-place; `input`, `activation`, or `module` for what was not seen.
        layer: the full name of the innermost module that made it, "" for the model itself.
        label: what a person calls it: the class of the module, or the function.
        function: what was called; of an activation, the map of one tensor that it is.
        args, kwargs: with `Signal` and `Value` in place of tensors.
        shape: of the (first) output.
        floating: whether it has numbers with a fraction, and so a signal to speak of.
        module: the innermost module.
    """

    index: int
    op: str
    layer: str
    label: str
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[int, ...]
    floating: bool
    module: nn.Module

    @property
    def training(self) -> bool:
        return self.module.training

    @property
    def inputs(self) -> list[int]:
        """The nodes whose outputs it takes, each as often as it takes it."""
        return [item.node for item in walk((self.args, self.kwargs)) if isinstance(item, Signal)]


@dataclass
class Graph:
    """The nodes of one run, in order; the first is the input.

    Attributes:
        outputs: the nodes that the model returned.
    """

    nodes: list[Node] = field(default_factory=list)
    outputs: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)


def walk(value: Any) -> Iterator[Any]:
    """The leaves of nested tuples, lists and dicts."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from walk(item)
    elif isinstance(value, dict):
        yield from walk(list(value.values()))
    else:
        yield value


def tensors(value: Any) -> list[Tensor]:
    """The tensors among the leaves of nested tuples, lists and dicts."""
    return [item for item in walk(value) if isinstance(item, Tensor)]


def trace(model: nn.Module, example: Any, seen: Callable[[Node, Tensor], Any] | None = None) -> tuple[Graph, Any]:
    """Runs a model once and notes every call that the signal goes through; leaves no hook behind.

    Args:
        model: on the device of the example; the meta device takes no memory and no time.
        example: a tensor, or a tuple of positional arguments.
        seen: called with each node and its output, at once, so before an in-place call overwrites it.

    Returns:
        The graph, and what the model returned.

    Example:
        >>> graph, _ = trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(1, 2))
        >>> [(node.op, node.layer, node.shape) for node in graph]
        [('input', '', (1, 2)), ('linear', '0', (1, 3)), ('activation', '1', (1, 3))]
    """
    recorder = _Recorder(model, seen)
    arguments = example if isinstance(example, tuple) else (example,)
    for tensor in tensors(arguments):
        recorder.add("input", "input", None, (), {}, tensor)
    output = None
    try:
        on_meta = all(tensor.is_meta for tensor in tensors(arguments))
        with recorder.hooked(model), torch.device("meta") if on_meta else nullcontext(), recorder:
            output = model(*arguments)
        ends = [node for tensor in tensors(output) if (node := recorder.node_of(tensor)) is not None]
    finally:
        for tensor in tensors((arguments, output)):
            vars(tensor).pop("_signal_node", None)
    recorder.graph.outputs = tuple(dict.fromkeys(ends))
    return recorder.graph, output


class _Recorder(TorchFunctionMode):
    """Notes calls, knowing each tensor of the signal by itself and each parameter by its name."""

    def __init__(self, model: nn.Module, seen: Callable[[Node, Tensor], Any] | None):
        super().__init__()
        self.graph = Graph()
        self._names = {id(tensor): name for name, tensor in model.named_parameters()}
        self._names |= {id(tensor): name for name, tensor in model.named_buffers()}
        self._modules: list[tuple[str, nn.Module]] = [("", model)]
        self._unheard = 0
        self._seen = seen

    def node_of(self, tensor: Tensor) -> int | None:
        """The node that made a tensor, by a tag on it: a tensor is not kept alive for being known."""
        tag = getattr(tensor, "_signal_node", None)
        return tag[1] if tag is not None and tag[0] is self.graph else None

    def add(self, op: str, label: str, function: Any, args: Any, kwargs: Any, output: Any) -> None:
        results = tensors(output)
        if not results:
            return
        name, module = self._modules[-1]
        first = results[0]
        args, kwargs = self._frozen(args), self._frozen(kwargs)
        node = Node(len(self.graph.nodes), op, name, label, function, args, kwargs, tuple(first.shape), first.is_floating_point(), module)
        self.graph.nodes.append(node)
        for tensor in results:
            tensor._signal_node = (self.graph, node.index)  # pyright: ignore[reportAttributeAccessIssue]
        if self._seen is not None:
            self._unheard += 1  # what the listener calls is no part of the model
            self._seen(node, first)
            self._unheard -= 1

    def _frozen(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            node = self.node_of(value)
            return Signal(node) if node is not None else Value(self._names.get(id(value)), value.detach())
        if isinstance(value, (tuple, list)):
            return tuple(self._frozen(item) for item in value)
        return {key: self._frozen(item) for key, item in value.items()} if isinstance(value, dict) else value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _PASSIVE or self._unheard:
            on_meta = self._unheard and any(tensor.is_meta for tensor in tensors((args, kwargs)))
            known = known_result(func, args, kwargs) if on_meta else None
            return func(*args, **kwargs) if known is None else known
        given = [tensor for tensor in tensors((args, kwargs)) if self.node_of(tensor) is not None]
        result = known_result(func, args, kwargs) if given and given[0].is_meta else None
        frozen = (self._frozen(args), self._frozen(kwargs)) if given else ((), {})
        output = func(*args, **kwargs) if result is None else result
        if given:
            self._note(func, name, *frozen, output)
        return output

    def _note(self, func: Any, name: str, args: Any, kwargs: Any, output: Any) -> None:
        module = self._modules[-1][1]
        alone = not module._modules and self._modules[-1][0]
        label = type(module).__name__ if alone or getattr(type(module), "is_residual", False) else name.strip("_")
        rest = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
        if name in _ACTIVATIONS and not any(isinstance(item, (Signal, Value)) for item in walk((args[1:], rest))):
            applied = Applied(func, _out_of_place(name, args[1:]), tuple(sorted(rest.items())))
            self.add("activation", label, applied, args[:1] or (kwargs["input"],), {}, output)
        else:
            self.add(_plain(name), label, func, args, kwargs, output)

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        """Follows which module is running; an activation counts as one node, whatever it is made of."""
        handles = []
        try:
            for name, module in model.named_modules():
                bends = not module._modules and module is not model and is_activation(module)
                handles.append(module.register_forward_pre_hook(self._entering(name, bends)))
                handles.append(module.register_forward_hook(self._leaving(bends), always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, name: str, bends: bool) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, _inputs: Any) -> None:
            self._modules.append((name, module))
            self._unheard += bends

        return enter

    def _leaving(self, bends: bool) -> Callable[[nn.Module, Any, Any], None]:
        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self._unheard -= bends
            if output is not None and (bends or any(self.node_of(tensor) is None for tensor in tensors(output))):
                if any(self.node_of(tensor) is not None for tensor in tensors(inputs)) and not self._unheard:
                    self.add("activation" if bends else "module", type(module).__name__, module, inputs, {}, output)
            self._modules.pop()

        return leave


def _plain(name: str) -> str:
    """`add_`, `__iadd__` and `__radd__` are all `add`; `__getitem__` is `getitem`."""
    if name.startswith("__") and name.endswith("__"):
        inner = name.strip("_")
        return inner[1:] if inner in ("iadd", "radd", "imul", "rmul", "isub", "rsub", "itruediv", "rtruediv") else inner
    return name.rstrip("_")


def _out_of_place(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments after the first of an activation called as a function, without a true `inplace` as the last."""
    return args[:-1] if args and args[-1] is True and name not in ("rrelu",) else args
