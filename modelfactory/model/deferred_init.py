"""Constructing without initialising: what a module's author would draw is noted, not done.

A constructor runs under `Recording`. In-place draws (`normal_`, `uniform_`, ..., also those inside torch.nn.init,
however it was imported) are noted against the storage they would fill; what a constructor computes without chance
(buffers, `torch.linspace`, constants) happens as written. Afterwards a parameter that a rule fills forgets its notes,
and one that keeps its author's init replays them under its own generator: its value depends on the seed and its
name alone, and nothing is drawn twice.

The mode belongs to the thread: what other threads construct meanwhile is initialised as ever. Use it by
`modelfactory.model.deferred_construction.construction`, which also keeps global random state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelfactory.model.storages import address_of, covers_storage, tensors_in
from modelfactory.model.write_history import WriteHistory
from modelfactory.numerics import rng
from modelfactory.numerics.threads import one_lapack_thread

_Geometry = tuple[torch.Size, tuple[int, ...], Any]


def _methods(names: str) -> set[Callable[..., Any]]:
    return {getattr(Tensor, name) for name in names.split()}


_DRAWS = _methods("normal_ uniform_ bernoulli_ exponential_ geometric_ cauchy_ log_normal_ random_") | {
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
}
# These look at what they drew, so they are noted whole: torch.nn.init is given stand-ins while anything is recorded.
DRAWN_WHOLE = {name: getattr(nn.init, name) for name in ("_no_grad_trunc_normal_", "orthogonal_", "sparse_")}
_DRAWS |= set(DRAWN_WHOLE.values())
_FACTORIES = {torch.randn: Tensor.normal_, torch.rand: Tensor.uniform_}
_FACTORIES_LIKE = {torch.randn_like: Tensor.normal_, torch.rand_like: Tensor.uniform_}
_OTHER_DRAWS = {torch.randint, torch.randperm, torch.normal, torch.bernoulli, torch.multinomial}
_OVERWRITES = _methods("fill_ zero_ copy_")
# Questions about a tensor that its values do not answer; asked many times in a constructor, so let through at once.
_SHAPE_ONLY = _methods(
    "dim size numel stride ndimension nelement is_contiguous is_floating_point is_complex element_size data_ptr "
    "storage_offset untyped_storage requires_grad_ __len__ __hash__ type get_device"
) | {
    getattr(Tensor, name).__get__
    for name in "shape dtype device ndim requires_grad is_leaf layout grad is_meta is_sparse is_quantized grad_fn".split()
}
_SHAPE_ONLY |= {torch._C._set_grad_enabled}  # pyright: ignore[reportAttributeAccessIssue]
# These give a tensor of their own and, without `out`, read none.
_MAKES = frozenset({torch.empty, torch.zeros, torch.ones})
# These change what a tensor looks like, and no value.
_SHAPE_ONLY |= _methods("t_ transpose_ swapaxes_ swapdims_ squeeze_ unsqueeze_ as_strided_ set_ detach_")
_REALLOCATES = _methods("resize_ resize_as_ share_memory_")
# Elementwise with numbers: the result takes the notes of its operand, and the same step in place.
_IN_PLACE_OF = {
    getattr(Tensor, name): getattr(Tensor, f"{in_place}_")
    for in_place, names in {
        "mul": "mul __mul__ __rmul__",
        "div": "div __truediv__",
        "add": "add __add__ __radd__",
        "sub": "sub __sub__",
        "neg": "neg __neg__",
        "clamp": "clamp",
        "exp": "exp",
    }.items()
    for name in names.split()
} | {torch.mul: Tensor.mul_, torch.div: Tensor.div_, torch.add: Tensor.add_, torch.sub: Tensor.sub_, torch.clamp: Tensor.clamp_}
_COPIES = {Tensor.clone, torch.clone}
_IN_PLACE_OPERATORS = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__", "__setitem__"}


@dataclass(frozen=True)
class _Step:
    """One call on a storage, or on a strided part of it."""

    function: Callable[..., Any]
    geometry: _Geometry
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def play(self, whole: Tensor, generator: torch.Generator) -> None:
        part = whole if _geometry(whole) == self.geometry else whole.as_strided(*self.geometry)
        kwargs = {**self.kwargs, "generator": generator} if self.function in _DRAWS else self.kwargs
        if self.function is DRAWN_WHOLE["sparse_"]:
            with torch.random.fork_rng(devices=[]):  # torch draws the rows it zeroes from the global generator
                torch.default_generator.set_state(generator.get_state())
                self.function(part, *self.args, **kwargs)
        elif self.function is DRAWN_WHOLE["orthogonal_"]:
            with one_lapack_thread():
                self.function(part, *self.args, **kwargs)
        else:
            self.function(part, *self.args, **kwargs)


@dataclass
class _Notes:
    """What would have been done to one storage. Holding the storage keeps its address from being used again."""

    storage: torch.UntypedStorage
    dtype: torch.dtype
    steps: list[_Step] = field(default_factory=list)

    @property
    def in_use(self) -> bool:
        """Whether anything but these notes holds the storage."""
        return torch._C._storage_Use_Count(self.storage._cdata) > 1  # pyright: ignore[reportAttributeAccessIssue]

    def tensor(self) -> Tensor:
        """The whole storage, flat."""
        return torch.empty(0, dtype=self.dtype, device=self.storage.device).set_(self.storage)  # pyright: ignore


class Recording(TorchFunctionMode):
    """Notes random fills instead of doing them, for what is constructed under it.

    Example:
        >>> with Recording() as recording:
        ...     layer = nn.Linear(3, 2)
        >>> recording.replay(layer.weight, seed=0, name="weight")
        True
        >>> bool((layer.weight.abs() <= 3**-0.5).all())
        True
    """

    def __init__(self, seed: int = 0, scope: str = ""):
        super().__init__()
        self._seed, self._scope = seed, scope
        self._notes: dict[int, _Notes] = {}
        self._at_once = 0
        self.history = WriteHistory()
        """What was written to each tensor, done or noted."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _SHAPE_ONLY:
            return func(*args, **kwargs)
        result = self._note_or_do(func, args, dict(kwargs))
        self.history.see(func, args, kwargs, result)
        return result

    def _note_or_do(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func in _MAKES and "out" not in kwargs:
            return func(*args, **kwargs)
        own_generator = kwargs.get("generator") is not None
        if func in _DRAWS and not own_generator:
            return self._note_draw(func, *_tensor_first(args, kwargs))
        if func is nn.init.constant_:
            tensor, args, kwargs = _tensor_first(args, kwargs)
            return self._overwrite(Tensor.fill_, tensor.detach(), tensor, args or (kwargs["val"],))
        if func in _FACTORIES and "out" not in kwargs and not own_generator:
            kwargs.pop("generator", None)
            return self._note_draw(_FACTORIES[func], torch.empty(*args, **kwargs), (), {})
        if func in _FACTORIES_LIKE:
            return self._note_draw(_FACTORIES_LIKE[func], torch.empty_like(*args, **kwargs), (), {})
        if func in _OTHER_DRAWS and not own_generator and torch.get_default_device().type == "cpu":
            kwargs = {**kwargs, "generator": self._next_generator()}
        if not self._notes:
            return func(*args, **kwargs)
        noted = [tensor for tensor in _tensors_of_call(args, kwargs) if address_of(tensor) in self._notes]
        return self._call_on_noted(func, args, kwargs, noted) if noted else func(*args, **kwargs)

    def _call_on_noted(self, func: Any, args: Any, kwargs: Any, noted: list[Tensor]) -> Any:
        """A call that touches tensors whose values are only noted so far."""
        if isinstance(kwargs.get("out"), Tensor) or func in _REALLOCATES:
            return self._call_with_values(func, args, kwargs, noted)
        first = args[0] if args and isinstance(args[0], Tensor) and address_of(args[0]) in self._notes else None
        others = [tensor for tensor in noted if first is None or address_of(tensor) != address_of(first)]
        if first is not None and _is_in_place(func):
            for tensor in others:
                self._do_now(tensor)
            if func in _OVERWRITES and covers_storage(first):
                return self._overwrite(func, first, first, tuple(args[1:]), kwargs)
            return self._note(func, first, tuple(args[1:]), kwargs)
        if first is None and _is_in_place(func):
            for tensor in noted:
                self._do_now(tensor)
            return func(*args, **kwargs)
        if first is not None and not others and covers_storage(first) and _is_derived(func, args, kwargs):
            result = torch.empty_like(first)
            self._watch(result).steps.extend(self._notes[address_of(first)].steps)
            return result if func in _COPIES else self._note(_IN_PLACE_OF[func], result, tuple(args[1:]), kwargs)
        if func is not Tensor.__deepcopy__:
            result = func(*args, **kwargs)
            if not self._needed_values(result):
                return result
        return self._call_with_values(func, args, kwargs, noted)

    def _call_with_values(self, func: Any, args: Any, kwargs: Any, noted: list[Tensor]) -> Any:
        """The call itself, with the values of all noted tensors but that of an `out` that it writes over."""
        out = kwargs.get("out")
        read = tensors_in((args, {name: value for name, value in kwargs.items() if name != "out"}))
        if isinstance(out, Tensor) and covers_storage(out) and all(address_of(tensor) != address_of(out) for tensor in read):
            self.forget(out)
        for tensor in noted:
            self._do_now(tensor)
        return func(*args, **kwargs)

    def _needed_values(self, result: Any) -> bool:
        """Whether a call computed with values that are not there yet: its result is no view of a noted tensor."""
        results = result if isinstance(result, (tuple, list)) else [] if result is None else [result]
        return not all(isinstance(item, Tensor) and address_of(item) in self._notes for item in results)

    def _note_draw(self, func: Any, tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        if covers_storage(tensor):
            self._watch(tensor).steps.clear()
        elif address_of(tensor) not in self._notes:  # a part of a tensor whose other part has its values
            func(tensor.detach(), *args, **{**kwargs, "generator": self._next_generator()})
            return tensor
        return self._note(func, tensor, args, {name: value for name, value in kwargs.items() if name != "generator"})

    def _note(self, func: Any, tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        self._watch(tensor).steps.append(_Step(func, _geometry(tensor), args, kwargs))
        return tensor

    def _overwrite(
        self, func: Any, target: Tensor, tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> Tensor:
        """An assignment of the whole tensor, at once: what was noted before does not matter."""
        if covers_storage(tensor):
            self.forget(tensor)
        elif address_of(tensor) in self._notes:
            return self._note(func, tensor, args, kwargs or {})
        func(target, *args, **(kwargs or {}))
        return tensor

    def _watch(self, tensor: Tensor) -> _Notes:
        storage = tensor.untyped_storage()
        notes = self._notes.get(storage._cdata)
        if notes is None:
            notes = self._notes[storage._cdata] = _Notes(storage, tensor.dtype)
        return notes

    def _do_now(self, tensor: Tensor) -> None:
        notes = self._notes.pop(address_of(tensor), None)
        if notes is not None:
            _play(notes, tensor, self._next_generator())

    def _next_generator(self) -> torch.Generator:
        self._at_once += 1
        return rng.generator(self._seed, f"{self._scope}\0construct\0{self._at_once}")

    def replay(self, tensor: Tensor, seed: int, name: str) -> bool:
        """Does what was noted for `tensor`, keyed by its name; False when its values are there already."""
        notes = self._notes.pop(address_of(tensor), None)
        if notes is not None:
            _play(notes, tensor, rng.generator(seed, name))
        return notes is not None

    def has_put_off(self, tensor: Tensor) -> bool:
        """Whether the values of `tensor` are noted, and not there yet."""
        return address_of(tensor) in self._notes

    def forget(self, tensor: Tensor) -> None:
        """Drops what was noted for `tensor`, which something else fills."""
        self._notes.pop(address_of(tensor), None)

    def settle(self, module: nn.Module, seed: int, prefix: str = "") -> None:
        """Gives all noted tensors but the module's parameters their values: buffers by name, and plain attributes."""
        later = {address_of(parameter) for parameter in module.parameters()}
        for name, buffer in module.named_buffers(prefix):
            if address_of(buffer) not in later:
                self.replay(buffer, seed, name)
        for address in [address for address in self._notes if address not in later]:
            if self._notes[address].in_use:
                self._do_now(self._notes[address].tensor())


def _play(notes: _Notes, tensor: Tensor, generator: torch.Generator) -> None:
    """Plays the steps on the CPU and, for floating point, in float32, whatever the tensor's device and type."""
    if tensor.is_meta:
        return
    with torch.no_grad(), torch._C.DisableTorchFunction():
        contiguous = covers_storage(tensor) and tensor.is_contiguous()
        whole = tensor.detach() if contiguous else tensor.new_empty(0).set_(notes.storage)  # pyright: ignore
        drawn_in = torch.float32 if whole.is_floating_point() else whole.dtype
        if whole.device.type == "cpu" and whole.dtype is drawn_in:
            for step in notes.steps:
                step.play(whole, generator)
            return
        draft = torch.empty(whole.shape, dtype=drawn_in, device="cpu")
        for step in notes.steps:
            step.play(draft, generator)
        whole.copy_(draft)


def _geometry(tensor: Tensor) -> _Geometry:
    return tensor.size(), tensor.stride(), tensor.storage_offset()


def _tensors_of_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[Tensor]:
    """All tensors among the arguments; quickly for most calls, which have one."""
    if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
        return args
    return tensors_in((args, kwargs))


def _tensor_first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """The tensor a fill is called on, given first or (by torch.nn.init's own dispatch) by name, and the rest."""
    if args:
        return args[0], tuple(args[1:]), kwargs
    return kwargs["tensor"], (), {name: value for name, value in kwargs.items() if name != "tensor"}


def _is_in_place(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    return name in _IN_PLACE_OPERATORS or (name.endswith("_") and not name.startswith("__"))


def _is_derived(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the result can be had later from the operand's notes: a copy, or elementwise with plain numbers."""
    if func in _COPIES:
        return True
    return func in _IN_PLACE_OF and args[0].is_floating_point() and not any(tensors_in((args[1:], kwargs)))
