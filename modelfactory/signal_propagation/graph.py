"""The graph of what a model does to a signal, seen while it runs: on the meta device, or on real data.

Every call of torch that a tensor of the signal goes through becomes a node, whether a module makes it or a forward of
one's own: residual additions, functional and in-place activations, and attention are seen alike.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelfactory.config.errors import contained
from modelfactory.numerics.activation import ACTIVATIONS, is_activation
from modelfactory.signal_propagation.constants import LIKE, follow, numbers_of
from modelfactory.tracing.activations import Applied
from modelfactory.tracing.meta_shapes import known_result
from modelfactory.tracing.operators import VIEW_ATTRIBUTES

_ACTIVATIONS = frozenset(ACTIVATIONS) | {f"{name}_" for name in ACTIVATIONS}
_PASSIVE = frozenset(
    "__get__ __set__ size dim numel stride is_floating_point requires_grad_ storage_offset is_contiguous data_ptr item tolist "
    "_assert __eq__ __ne__ ne eq lt gt le ge isnan isinf isfinite all any argmax argmin nelement __len__ __bool__ __repr__ "
    "new_empty new_full new_ones new_tensor new_zeros empty_like full_like ones_like rand_like randint_like randn_like zeros_like".split()
)
"""Calls whose result carries no signal: what they take of a tensor is its shape, its kind, or an answer about it."""
_PIECES = frozenset(("chunk", "split", "unbind", "tensor_split", "unsafe_chunk", "unsafe_split"))
"""Calls that return pieces of one tensor, each of which is a node of the same kind."""


@dataclass(frozen=True)
class NodeRef:
    """An argument of a call: the output of another node."""

    node: int


@dataclass(frozen=True)
class TensorRef:
    """An argument of a call: a parameter (by name), a buffer or a constant; `tensor` is on the meta device where the model is, but for
    a constant whose numbers are known."""

    name: str | None
    tensor: Tensor


@dataclass(frozen=True)
class SignalNode:
    """One call.

    Attributes:
        op: the function's name without the underscore of in-place; `input`, `activation`, or `module` for what was not seen.
        layer: the full name of the innermost module that made it, "" for the model itself.
        label: what a person calls it: the class of the module, or the function.
        function: what was called; of an activation, the map of one tensor that it is.
        args, kwargs: with `NodeRef` and `TensorRef` in place of tensors.
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
    def called(self) -> str:
        """What was called, in a word: the operator, or the module that is one."""
        return self.label if self.op in ("activation", "module") else self.op

    @property
    def inputs(self) -> list[int]:
        """The nodes whose outputs it takes, each as often as it takes it."""
        return [item.node for item in walk((self.args, self.kwargs)) if isinstance(item, NodeRef)]


@dataclass
class SignalGraph:
    """The nodes of one run, in order; the first is the input.

    Attributes:
        outputs: the nodes that a loss is made of.
        failures: calls that could not be noted, each with its place and the reason.
    """

    nodes: list[SignalNode] = field(default_factory=list)
    outputs: tuple[int, ...] = ()
    failures: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[SignalNode]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)


def walk(value: Any) -> Iterator[Any]:
    """The leaves of nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from walk(item)
    elif isinstance(value, Mapping):
        yield from walk(list(value.values()))
    elif dataclasses.is_dataclass(value) and not isinstance(value, (type, NodeRef, TensorRef)):
        yield from walk([getattr(value, part.name) for part in dataclasses.fields(value)])
    else:
        yield value


def tensors(value: Any) -> list[Tensor]:
    """The tensors among the leaves of nested tuples, lists, mappings and dataclasses."""
    return [item for item in walk(value) if isinstance(item, Tensor)]


def results(output: Any) -> list[Tensor]:
    """What of a model's output a loss is made of: the logits of an object that has them, else every tensor.

    Example:
        >>> [tensor.shape[1] for tensor in results({"logits": torch.ones(2, 3), "hidden": torch.ones(2, 5)})]
        [3]
    """
    named = not isinstance(output, tuple) and (isinstance(output, Mapping) or dataclasses.is_dataclass(output))
    logits = (output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)) if named else None
    return [logits] if isinstance(logits, Tensor) else tensors(output)


def call_of(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the named arguments that an example stands for."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example, {}) if isinstance(example, tuple) else ((example,), {})


def trace(model: nn.Module, example: Any, seen: Callable[[SignalNode, Tensor], Any] | None = None) -> tuple[SignalGraph, Any]:
    """Runs a model once and notes every call that the signal goes through; leaves no hook behind.

    Args:
        model: on the device of the example; the meta device takes no memory and no time.
        example: a tensor, a tuple of positional arguments, or a mapping of named ones.
        seen: called with each node and its output, at once, so before an in-place call overwrites it.

    Returns:
        The graph, and what the model returned.

    Example:
        >>> graph, _ = trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(1, 2))
        >>> [(node.op, node.layer, node.shape) for node in graph]
        [('input', '', (1, 2)), ('linear', '0', (1, 3)), ('activation', '1', (1, 3))]
    """
    args, kwargs = call_of(example)
    given = tensors((args, kwargs))
    on_meta = all(tensor.is_meta for tensor in given)
    recorder = _Recorder(model, seen, on_meta)
    for tensor in given:
        recorder.add("input", "input", None, (), {}, tensor)
    output = None
    try:
        with recorder.hooked(model), torch.device("meta") if on_meta else nullcontext(), recorder:
            output = model(*args, **kwargs)
        ends = [node for tensor in results(output) if (node := recorder.node_of(tensor)) is not None]
    finally:
        for tensor in (*given, *tensors(output)):
            vars(tensor).pop("_signal_node", None)
    recorder.graph.outputs = tuple(dict.fromkeys(ends))
    return recorder.graph, output


class _Recorder(TorchFunctionMode):
    """Notes calls, knowing each tensor of the signal by itself and each parameter by its name."""

    def __init__(self, model: nn.Module, seen: Callable[[SignalNode, Tensor], Any] | None, on_meta: bool = False):
        super().__init__()
        self._on_meta = on_meta
        self.graph = SignalGraph()
        self._names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
        self._constants: dict[int, weakref.ref[Tensor]] = {}  # what was seen made of no signal
        self._modules: list[tuple[str, nn.Module]] = [("", model)]
        self._unheard = 0
        self._seen = seen

    def node_of(self, tensor: Tensor) -> int | None:
        """The node that made a tensor, by a tag on it: a tensor is not kept alive for being known."""
        tag = getattr(tensor, "_signal_node", None)
        return tag[1] if tag is not None and tag[0] is self.graph else None

    def add(self, op: str, label: str, function: Any, args: Any, kwargs: Any, output: Any) -> None:
        """A node for a call, and one for each further tensor with numbers that it returned."""
        with contained(f"{self._modules[-1][0] or 'the model'} ({label})", self.graph.failures):
            args, kwargs = self._frozen(args), self._frozen(kwargs)
            found = tensors(output)
            further = [tensor for tensor in found[1:] if tensor.is_floating_point()]
            for place, tensor in enumerate([*found[:1], *further]):
                self._append(op if not place or op in _PIECES else f"{op}[{place}]", label, function, args, kwargs, tensor)

    def _append(self, op: str, label: str, function: Any, args: Any, kwargs: Any, tensor: Tensor) -> None:
        name, module = self._modules[-1]
        index, shape = len(self.graph.nodes), tuple(tensor.shape)
        node = SignalNode(index, op, name, label, function, args, kwargs, shape, tensor.is_floating_point(), module)
        self.graph.nodes.append(node)
        tensor._signal_node = (self.graph, index)  # pyright: ignore[reportAttributeAccessIssue]
        if self._seen is not None:
            self._unheard += 1  # what the listener calls is no part of the model
            try:
                self._seen(node, tensor)
            finally:
                self._unheard -= 1

    def _frozen(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            node = self.node_of(value)
            whole = value if value._base is None else value._base  # a view of a parameter goes by its name
            if node is not None:
                return NodeRef(node)
            numbers = numbers_of(value)
            return TensorRef(self._names.get(id(whole)), value.detach() if numbers is None else numbers)
        if isinstance(value, (tuple, list)):
            return tuple(self._frozen(item) for item in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, (type, NodeRef, TensorRef)):
            return tuple(self._frozen(item) for item in tensors(value))
        return {key: self._frozen(item) for key, item in value.items()} if isinstance(value, Mapping) else value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _PASSIVE or self._unheard:
            on_meta = self._unheard and any(tensor.is_meta for tensor in tensors((args, kwargs)))
            known = known_result(func, args, kwargs) if on_meta else None
            output = func(*args, **kwargs) if known is None else known
            if not self._unheard:
                self._follow(func, name, args, kwargs, output)
            if name != "__get__" or self._unheard or not isinstance(output, Tensor) or self.node_of(args[0]) is None:
                return output
            name = getattr(func.__self__, "__name__", "")  # an attribute that is a tensor
            if name in VIEW_ATTRIBUTES:
                self._note(func, name, self._frozen(args), {}, output)
            return output
        given = [tensor for tensor in tensors((args, kwargs)) if self.node_of(tensor) is not None]
        result = known_result(func, args, kwargs) if given and given[0].is_meta else None
        frozen: Any = ((), {})
        if given:
            with contained(f"{self._modules[-1][0] or 'the model'} ({name})", self.graph.failures):
                frozen = (self._frozen(args), self._frozen(kwargs))
        output = func(*args, **kwargs) if result is None else result
        if given and not self._is_answer(given, output):
            self._note(func, name, frozen[0], frozen[1], args[0] if name == "__setitem__" else output)
        elif not given:
            self._follow(func, name, args, kwargs, output)
            self._constants.update({id(tensor): weakref.ref(tensor) for tensor in tensors(output)})
        return output

    def _follow(self, func: Any, name: str, args: Any, kwargs: Any, output: Any) -> None:
        """Keeps the numbers of a constant of a model that has none: on the meta device."""
        if self._on_meta and (name in LIKE or all(self.node_of(tensor) is None for tensor in tensors((args, kwargs)))):
            follow(func, name, args, kwargs, output)

    def _is_unseen(self, tensor: Tensor) -> bool:
        """Whether a tensor came from somewhere else than a call that was seen, a parameter or a buffer."""
        made = self._constants.get(id(tensor))
        return self.node_of(tensor) is None and id(tensor) not in self._names and (made is None or made() is not tensor)

    def _is_answer(self, given: list[Tensor], output: Any) -> bool:
        """Whether a call that takes numbers with a fraction returns none: an index, a mask, a count carries no signal."""
        found = tensors(output)
        if not found or any(tensor.is_floating_point() or tensor.is_complex() for tensor in found):
            return False
        made = [self.graph.nodes[index] for tensor in given if (index := self.node_of(tensor)) is not None]
        return any(node.floating and node.op != "input" for node in made)

    def _note(self, func: Any, name: str, args: Any, kwargs: Any, output: Any) -> None:
        module = self._modules[-1][1]
        alone = not module._modules and self._modules[-1][0]
        label = type(module).__name__ if alone or getattr(type(module), "is_residual", False) else name.strip("_")
        rest = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
        if name in _ACTIVATIONS and not any(isinstance(item, (NodeRef, TensorRef)) for item in walk((args[1:], rest))):
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
                handles.append(module.register_forward_hook(self._leaving(bends), with_kwargs=True, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, name: str, bends: bool) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, _inputs: Any) -> None:
            self._modules.append((name, module))
            self._unheard += bends

        return enter

    def _leaving(self, bends: bool) -> Callable[[nn.Module, Any, Any, Any], None]:
        def leave(module: nn.Module, inputs: Any, kwargs: Any, output: Any) -> None:
            self._unheard -= bends
            made = [tensor for tensor in tensors(output) if tensor.is_floating_point()]
            if made and (bends or all(map(self._is_unseen, made))):
                if any(self.node_of(tensor) is not None for tensor in tensors((inputs, kwargs))) and not self._unheard:
                    given = inputs if inputs or not bends else tuple(kwargs.values())
                    self.add("activation" if bends else "module", type(module).__name__, module, given, {} if bends else kwargs, made)
            self._modules.pop()

        return leave


def _plain(name: str) -> str:
    """`add_`, `__iadd__` and `__radd__` are all `add`; `__getitem__` is `getitem`."""
    if name.startswith("__") and name.endswith("__"):
        inner = name.strip("_")
        return inner[1:] if inner in ("iadd", "radd", "imul", "rmul", "isub", "itruediv", "imatmul") else inner
    return name.rstrip("_")


def _out_of_place(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments after the first of an activation called as a function, without a true `inplace` as the last."""
    return args[:-1] if args and args[-1] is True and name not in ("rrelu",) else args
