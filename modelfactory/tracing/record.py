"""Records every call of torch that a model makes in one run: on the meta device, or with numbers where that cannot be."""

from __future__ import annotations

import types
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from modelfactory.tracing.graph import Graph, Node, Value, leaves, tensors_of
from modelfactory.tracing.lowering import LOWERED
from modelfactory.tracing.meta_shapes import known_result
from modelfactory.tracing.operators import KEEPS, SHAPED_LIKE, SILENT, VIEW_ATTRIBUTES, operator_name
from modelfactory.tracing.standing_in import hollow, standing_in

_META = torch.device("meta")
_MOST_NUMBERS = 64 * 2**20
"""Parameters of a model on the meta device that is still given numbers, where a run needs them."""


def record(model: nn.Module, inputs: Any, training: bool = False, with_numbers: bool = True) -> Graph:
    """The graph of one run of a model, which is left as it was.

    The run is on the meta device. Where the model's control flow needs numbers it is done once more with a model's own (or,
    of a model that has none yet, with small random ones).

    Args:
        inputs: a tensor, a tuple of positional arguments, or a mapping of named ones; their numbers are used where they have any.
        with_numbers: whether it may be run with numbers where the meta device cannot go.
        training: the mode of the run. In evaluation no part of a model is dropped, and no statistics are taken.

    Returns:
        A graph; `Graph.reason` says why where a run did not come to its end, and the graph holds what came before.

    Example:
        >>> graph = record(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(1, 2))
        >>> [(node.op, node.layer, node.output.shape) for node in graph]
        [('linear', '0', (1, 3)), ('relu', '1', (1, 3))]
    """
    lazy = next((name for name, tensor in model.named_parameters() if isinstance(tensor, nn.parameter.UninitializedParameter)), None)
    if lazy is not None:
        return Graph(reason=f"{lazy} has no shape yet")
    graph = _run(model, inputs, training, _META)
    if graph.reason is None or not with_numbers:
        return graph
    own = list(model.parameters())
    on_meta = any(tensor.is_meta for tensor in own)
    if on_meta and sum(tensor.numel() for tensor in own) > _MOST_NUMBERS:
        return graph
    again = _run(model, inputs, training, torch.device("cpu") if on_meta or not own else own[0].device)
    return graph if again.reason is not None and len(again) <= len(graph) else again


def _run(model: nn.Module, inputs: Any, training: bool, device: torch.device) -> Graph:
    recorder = _Recorder(model, device)
    graph = recorder.graph
    graph.on_meta = device.type == "meta"
    held = [*model.parameters(), *model.buffers()]
    keeps_own = all(tensor.is_meta for tensor in held) if graph.on_meta else not any(tensor.is_meta for tensor in held)
    with ExitStack() as stack:
        original = stack.enter_context(standing_in(model, None if keeps_own else device, training))
        args, kwargs = _arguments(inputs, device)
        stack.enter_context(torch.no_grad())
        handles = recorder.begin(original, tensors_of((args, kwargs)))
        for handle in handles:
            stack.callback(handle.remove)
        try:
            with recorder:
                output = model(*args, **kwargs)
            graph.outputs = tuple(dict.fromkeys(value for tensor in tensors_of(output) if (value := recorder.known(tensor)) is not None))
        except Exception as error:  # whatever a forward raises that is given no numbers, or an input of another shape
            graph.reason = f"{type(error).__name__}: {_first_line(error)}"
    return graph


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:200]


def _arguments(inputs: Any, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copies of the inputs on the device of the run, so that no tag stays on a caller's tensor."""

    def copied(item: Any) -> Any:
        if isinstance(item, Tensor):
            if device.type == "meta":
                return hollow(item)
            if not item.is_meta:
                return item.detach().to(device, copy=True)
            if item.is_floating_point():
                return torch.randn(item.shape, generator=torch.Generator().manual_seed(0), dtype=item.dtype).to(device)
            return torch.arange(item.numel(), device=device).reshape(item.shape).remainder(7).to(item.dtype)
        if isinstance(item, (tuple, list)):
            return type(item)(map(copied, item))
        return item

    if isinstance(inputs, Mapping):
        return (), {name: copied(item) for name, item in inputs.items()}
    return tuple(map(copied, inputs if isinstance(inputs, tuple) else (inputs,))), {}


class _Recorder(TorchFunctionMode):
    """Notes each call that takes a tensor of the signal, or a parameter."""

    def __init__(self, model: nn.Module, device: torch.device):
        super().__init__()
        self.graph = Graph()
        self._names = {id(module): name for name, module in model.named_modules()}
        self._model = model
        self._layers: list[tuple[str, nn.Module]] = [("", model)]
        self._calls = 0
        self._calls_before: list[int] = []
        self._held: dict[int, Value | str] = {}
        self._tensors: list[Tensor] = []
        self._on_meta = device.type == "meta"

    def begin(self, original: Mapping[int, Tensor], inputs: list[Tensor]) -> list[Any]:
        """Gets to know the model's tensors and its inputs; returns the handles of the hooks that follow its modules."""
        for name, tensor in self._model.named_parameters():
            self._held[id(tensor)] = name
        for tensor in inputs:
            self._tag(tensor, "input")
        self.graph.inputs = tuple(self.graph.values)
        return [register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave, always_call=True)]

    def _enter(self, module: nn.Module, _inputs: Any) -> None:
        name = self._names.get(id(module))
        if name is not None:
            self._layers.append((name, module))
            self._calls_before.append(self._calls)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if id(module) not in self._names:
            return
        if self._calls_before.pop() == self._calls and output is not None and not isinstance(output, nn.Module):
            unknown = [tensor for tensor in tensors_of(output) if self.known(tensor) is None and tensor.is_floating_point()]
            known = [tensor for tensor in tensors_of(inputs) if self.known(tensor) is not None]
            if unknown and known:  # a scripted or compiled module, of which no call was seen
                self._add("module", module, tuple(known), {}, unknown)
        self._layers.pop()

    def known(self, tensor: Tensor) -> Value | None:
        """The value that a tensor is; None of a constant."""
        tag = getattr(tensor, "_traced", None)
        if tag is not None and tag[0] is self.graph:
            return tag[1]
        held = self._held.get(id(tensor))
        if held is None:
            return None
        if isinstance(held, str):
            value = self._new(tensor, "parameter", name=held)
            self._held[id(tensor)] = self.graph.parameters[held] = value
            return value
        return held

    def _new(self, tensor: Tensor, kind: str, node: Node | None = None, place: int = 0, name: str | None = None) -> Value:
        value = Value(len(self.graph.values), tensor, kind, node, place, name)
        self.graph.values.append(value)
        return value

    def _tag(self, tensor: Tensor, kind: str, node: Node | None = None, place: int = 0) -> Value:
        value = self._new(tensor, kind, node, place)
        tensor._traced = (self.graph, value)  # pyright: ignore[reportAttributeAccessIssue]
        return value

    def _frozen(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.known(value) or self._new(value, "constant")
        if isinstance(value, (tuple, list)):
            return tuple(map(self._frozen, value))
        if isinstance(value, dict):
            return {key: self._frozen(item) for key, item in value.items()}
        return value

    def __torch_function__(self, func: Any, types_: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            attribute = getattr(getattr(func, "__self__", None), "__name__", "")
            if attribute not in VIEW_ATTRIBUTES:
                return func(*args, **kwargs)
            name = attribute
        elif name in SILENT:
            return func(*args, **kwargs)
        self._calls += 1
        given = [item for item in args if isinstance(item, Tensor)]
        if len(given) < len(args) or kwargs:
            given = [item for item in leaves((args, kwargs)) if isinstance(item, Tensor)]
        if all(self.known(tensor) is None for tensor in given):
            if not self._on_meta or given and not isinstance(func, types.FunctionType):
                return func(*args, **kwargs)
            with _META:
                return func(*args, **kwargs)
        op = operator_name(name)
        lowered = LOWERED.get(func)
        if lowered is not None:
            return lowered(self, func, args, kwargs)
        written = _written(name, args, kwargs)
        frozen = self._frozen(args[:1] if op in SHAPED_LIKE else args), self._frozen(kwargs)
        output = self._call(func, op, args, kwargs) if written is None else self._call_plainly(func, args, kwargs)
        if written is not None:
            self._add(op, func, *frozen, [written, *([output] if isinstance(output, Tensor) and output is not written else [])])
            self._write_through(written, op)
            return output
        made = tensors_of(output) if not isinstance(output, Tensor) else [output]
        if op in KEEPS and made and any(made[0] is tensor for tensor in given):
            return output
        self._add(op, func, *frozen, made)
        return output

    def _write_through(self, written: Tensor, op: str) -> None:
        """After a write to a view, the tensor that it is a view of holds what was written."""
        base = written._base
        if base is not None and base is not written and id(base) not in self._held:
            value = self.known(written)
            self._add("written", None, (self.known(base) or self._new(base, "constant"), value), {}, [base])

    def _call(self, func: Any, op: str, args: Any, kwargs: Any) -> Any:
        """The call itself; on the meta device by its shapes alone where they are known."""
        if not self._on_meta:
            return func(*args, **kwargs)
        result = known_result(func, args, kwargs)
        if result is not None:
            return result
        if op == "grouped_mm":
            return torch.empty((args[0].shape[0], args[1].shape[-1]), dtype=args[0].dtype, device=_META)
        return self._call_plainly(func, args, kwargs)

    def _call_plainly(self, func: Any, args: Any, kwargs: Any) -> Any:
        if not self._on_meta:
            return func(*args, **kwargs)
        try:
            if isinstance(func, types.FunctionType):
                with _META:
                    return func(*args, **kwargs)
            return func(*args, **kwargs)
        except RuntimeError:
            moved_args, moved_kwargs = _on_meta(args), _on_meta(kwargs)
            with _META:
                return func(*moved_args, **moved_kwargs)

    def _add(self, op: str, func: Any, args: Any, kwargs: Any, results: list[Tensor]) -> None:
        if not results:
            return
        layer, module = self._layers[-1]
        if not all(type(item) is not Tensor for item in args):
            args = self._frozen(args)
        node = Node(len(self.graph.nodes), op, func, args, kwargs, layer, module)
        self.graph.nodes.append(node)
        for value in node.inputs:
            value.users.append(node)
        for place, tensor in enumerate(results):
            if id(tensor) in self._held:  # a parameter that is returned as it is
                continue
            node.outputs.append(self._tag(tensor, "result", node, place))
        if not node.outputs:
            self.graph.nodes.pop()


def _written(name: str, args: Any, kwargs: Any) -> Tensor | None:
    """The tensor that a call writes to in place."""
    out = kwargs.get("out")
    if isinstance(out, Tensor):
        return out
    in_place = name in ("__setitem__", "__set__") or (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE
    in_place = in_place or kwargs.get("inplace") is True
    first = args[0] if args else kwargs.get("input")
    return first if in_place and isinstance(first, Tensor) else None


_IN_PLACE = frozenset({"__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__", "__ipow__", "__iand__", "__ior__"})


def _on_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value if value.is_meta else hollow(value)
    if isinstance(value, (tuple, list)):
        return tuple(map(_on_meta, value)) if isinstance(value, tuple) else list(map(_on_meta, value))
    return {key: _on_meta(item) for key, item in value.items()} if isinstance(value, dict) else value
