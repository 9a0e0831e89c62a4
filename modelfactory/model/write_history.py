"""Keep track of what constructors write to each tensor: a draw, a value, a copy of another tensor, or nothing at all."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from modelfactory.model.storages import address_of, covers_storage, tensors_in
from modelfactory.parameters.written import Written

_EMPTY = frozenset({"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"})
_FILLED = {"zeros": 0.0, "ones": 1.0, "zeros_like": 0.0, "ones_like": 1.0, "new_zeros": 0.0, "new_ones": 1.0}
_FULL = {"full": ("fill_value", 1), "full_like": ("fill_value", 1), "new_full": ("fill_value", 2)}
_COPIES = frozenset({"clone", "contiguous", "to", "float", "double", "half", "bfloat16", "cpu", "reshape", "flatten", "type", "type_as"})
_DRAWN = frozenset("normal randn rand randint randperm bernoulli multinomial randn_like rand_like randint_like".split())
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    **dict.fromkeys("mul __mul__ __rmul__ __imul__ multiply mul_".split(), lambda a, b: a * b),
    **dict.fromkeys("div __truediv__ __itruediv__ divide div_".split(), lambda a, b: a / b if b else math.nan),
    **dict.fromkeys("add __add__ __radd__ __iadd__ add_".split(), lambda a, b: a + b),
    **dict.fromkeys("sub __sub__ __isub__ sub_".split(), lambda a, b: a - b),
    "__rsub__": lambda a, b: b - a,
    "rsub": lambda a, b: b - a,
}
_SCALING = frozenset("mul __mul__ __rmul__ __imul__ multiply mul_ div __truediv__ __itruediv__ divide div_".split())
_ODD = frozenset({"erfinv_", "erfinv", "neg", "neg_", "__neg__", "tanh", "tanh_", "clamp_", "clamp"})  # a law around 0 stays around 0
_SAME_VALUES = frozenset({"resize_", "resize_as_", "share_memory_"})
_LAYERS = ("torch.nn.modules.", "modelfactory.model.layers.")
_OWN_INIT = frozenset({"__init__", "reset_parameters", "_reset_parameters", "_fill_padding_idx_with_zero"})
_PASSED_THROUGH = ("torch.", "modelfactory.model.")


_NOTHING = Written("nothing")


class _Record(NamedTuple):
    """What is known of one storage.

    Attributes:
        count: how often it was written whole.
        source: the storage whose values it took over, and how often that had been written then.
        left: entries that nothing was written to so far, where it began as raw memory.
    """

    written: Written
    count: int = 0
    source: tuple[int, int] | None = None
    left: int = 0


class WriteHistory:
    """By storage, what was last written to it.

    Example:
        >>> history = WriteHistory()
        >>> weight = torch.empty(2, 3)
        >>> history.see(torch.empty, (2, 3), {}, weight)
        >>> history.see(Tensor.fill_, (weight, 0.5), {}, weight)
        >>> history.of({"weight": weight})["weight"].value
        0.5
    """

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}
        self._alive: dict[int, StorageWeakRef] = {}  # keeps an address from being used again, and no memory

    def see(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """Take in one call of torch that is done, or noted to be done."""
        with torch._C.DisableTorchFunction():  # by no mode around it
            self._see(func, args, kwargs, result)

    def _see(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        name = getattr(func, "__name__", "")
        first = args[0] if args and isinstance(args[0], Tensor) else kwargs.get("tensor", kwargs.get("input"))
        out = kwargs.get("out")
        if isinstance(out, Tensor):
            self._put(out, _law(name, args, kwargs, out) or Written("value"), part=math.nan)
        elif isinstance(first, Tensor) and _is_in_place(name):
            self._written_in_place(name, first, args[1:], kwargs)
        elif name == "numpy" and isinstance(first, Tensor):
            self._put(first, Written("value"))  # from here on anybody may write to it unseen
        if result is not first:
            for made in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(made, Tensor) and made is not first:
                    self._made(name, made, args, kwargs)

    def carry(self, source: Tensor, target: Tensor) -> None:
        """Say of `target` what is known of `source`, which it stands for from here on."""
        record = self._records.get(address_of(source))
        if record is not None:
            self._store(target, record)

    def of(self, parameters: Mapping[str, Tensor]) -> dict[str, Written]:
        """What was written to each of these tensors, by name; one that came ready from elsewhere is left out."""
        by_key = {address_of(tensor): name for name, tensor in reversed(list(parameters.items()))}
        found: dict[str, Written] = {}
        for name, tensor in parameters.items():
            record = self._records.get(address_of(tensor))
            if record is not None:
                written = record.written if not record.left else Written("nothing")
                found[name] = replace(written, copy_of=self._copied(record, name, by_key))
        return found

    def _copied(self, record: _Record, name: str, by_key: Mapping[int, str]) -> str:
        if record.source is None:
            return ""
        key, count = record.source
        source = by_key.get(key, "")
        unchanged = source and source != name and self._records[key].count == count
        return source if unchanged and not _are_stacked(name, source) else ""

    def _written_in_place(self, name: str, target: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        record = self._records.get(address_of(target))
        law = _law(name, args, kwargs, target)
        if law is not None:
            self._put(target, law)
        elif name in ("fill_", "zero_", "constant_"):
            value = 0.0 if name == "zero_" else self._number(args[0] if args else kwargs.get("value", kwargs.get("val")))
            self._put(target, Written("value", value), part=value)
        elif name == "copy_":
            self._copy(target, args[0] if args else kwargs.get("src"))
        elif name == "__setitem__":
            value = self._number(args[1])
            everything = args[0] is Ellipsis or isinstance(args[0], slice) and args[0] == slice(None)
            self._put(target, Written("value", value), part=value, whole=None if everything else False)
        elif record is not None and name not in _SAME_VALUES:
            changed = replace(self._changed(record.written, name, args), by_layer=_by_layer())
            if not covers_storage(target) and changed.how == "value":
                changed = replace(changed, part=math.nan)
            self._store(target, record._replace(written=changed, count=record.count + 1, source=None))

    def _copy(self, target: Tensor, source: Any) -> None:
        """Values of another tensor: what is known of it is known of this one."""
        known = self._records.get(address_of(source)) if isinstance(source, Tensor) else None
        if known is None or source.numel() != target.numel() or not (covers_storage(target) and covers_storage(source)):
            self._put(target, Written("value", self._number(source)), part=math.nan)
            return
        held = self._records.get(address_of(target))
        written = replace(known.written, by_layer=known.written.by_layer and known.written.how == "value")
        self._store(target, _Record(written, 0 if held is None else held.count + 1, (address_of(source), known.count), known.left))

    def _made(self, name: str, made: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A tensor that a call gave, unless it is a view of one that the call was given."""
        key = address_of(made)
        operands = list(tensors_in((args, kwargs)))
        if any(address_of(tensor) == key for tensor in operands):
            return
        if name in _EMPTY:
            self._store(made, _Record(_NOTHING, 0, None, made.numel()), key)
        elif name in _DRAWN:
            self._put(made, _law(name, args, kwargs, made) or Written("draw"))
        elif name in _FILLED:
            self._put(made, Written("value", _FILLED[name]))
        elif name in _FULL:
            word, place = _FULL[name]
            self._put(made, Written("value", self._number(args[place] if len(args) > place else kwargs.get(word))))
        elif name in _COPIES and operands:
            self._copy(made, operands[0])
        else:
            known = [record.written for tensor in operands if (record := self._records.get(address_of(tensor))) is not None]
            others = [item for item in args if not (operands and item is operands[0])]
            changed = self._changed(known[0], name, others) if len(operands) == 1 and known else None
            self._put(made, changed or Written("draw" if any(written.how == "draw" for written in known) else "value"))

    def _put(self, tensor: Tensor, written: Written, part: float | None = None, whole: bool | None = None) -> None:
        """Take in that a tensor was written: its whole storage, or a part of that.

        Args:
            part: where a value was written, that value; None for a draw.
            whole: False where some entries of the tensor were written, and it is not known how many.
        """
        key = address_of(tensor)
        record = self._records.get(key)
        if _by_layer():
            written = replace(written, by_layer=True)
        count = 0 if record is None else record.count + 1
        if record is None or whole is not False and covers_storage(tensor):
            self._store(tensor, _Record(written, count), key)
            return
        held = record.written
        if held.how == "nothing" or part is None and held.how == "value":
            held = written if held.how == "nothing" else Written("draw")
        elif part is not None and not written.by_layer:
            held = replace(held, part=part if held.part in (None, part) else math.nan, by_layer=False)
        left = 0 if whole is False else max(0, record.left - tensor.numel())
        self._store(tensor, _Record(held, count, None, left), key)

    def _changed(self, written: Written, name: str, others: Iterable[Any]) -> Written:
        """What becomes of what was written by one more step of arithmetic."""
        others = list(others)
        step = _ARITHMETIC.get(name)
        number = self._number(others[0]) if len(others) == 1 else math.nan
        if step is not None and not math.isnan(number):
            scale = abs(step(1.0, number)) if name in _SCALING else 1.0
            return replace(written, value=step(written.value, number), mean=step(written.mean, number), std=written.std * scale)
        if name in _ODD and written.how == "draw" and written.mean == 0:
            return replace(written, std=written.std if "neg" in name else math.nan)
        return Written("value" if written.how == "nothing" else written.how)

    def _number(self, value: Any) -> float:
        """A number, or the one that all entries of a tensor have; NaN where that is not known."""
        if isinstance(value, Tensor):
            record = self._records.get(address_of(value))
            known = record is not None and record.written.how == "value" and record.written.part is None
            return record.written.value if known else math.nan  # pyright: ignore[reportOptionalMemberAccess]
        return float(value) if isinstance(value, (bool, int, float)) else math.nan

    def _store(self, tensor: Tensor, record: _Record, key: int | None = None) -> None:
        key = address_of(tensor) if key is None else key
        if key not in self._alive:
            self._alive[key] = StorageWeakRef(tensor.untyped_storage())
        self._records[key] = record


def _law(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], tensor: Tensor) -> Written | None:
    """The law of a draw by its call; None where the call is no draw."""

    def given(place: int, word: str, default: float) -> float:
        value = args[place] if len(args) > place else kwargs.get(word, default)
        return float(value) if isinstance(value, (int, float)) else math.nan

    if name == "normal_":
        return Written("draw", mean=given(0, "mean", 0.0), std=given(1, "std", 1.0))
    if name == "uniform_":
        low = given(0, "a" if "a" in kwargs else "from", 0.0)
        high = given(1, "b" if "b" in kwargs else "to", 1.0)
        return Written("draw", mean=(low + high) / 2, std=(high - low) / math.sqrt(12))
    if name == "_no_grad_trunc_normal_":
        mean, std, low, high = (given(place, word, math.nan) for place, word in enumerate(("mean", "std", "a", "b")))
        wide = std > 0 and min(mean - low, high - mean) >= 5 * std
        return Written("draw", mean=mean if math.isclose(mean - low, high - mean) else math.nan, std=std if wide else math.nan)
    if name == "kaiming_uniform_":
        gain = nn.init.calculate_gain(kwargs.get("nonlinearity", "leaky_relu"), kwargs.get("a", args[0] if args else 0))
        fans = nn.init._calculate_fan_in_and_fan_out(tensor) if tensor.ndim > 1 else (1, 1)
        fan = fans[kwargs.get("mode", args[1] if len(args) > 1 else "fan_in") == "fan_out"]
        return Written("draw", mean=0.0, std=gain / math.sqrt(fan) if fan else math.nan)
    if name in ("orthogonal_", "sparse_"):
        return Written("draw", mean=0.0)
    if name in ("randn", "randn_like"):
        return Written("draw", mean=0.0, std=1.0)
    if name in ("rand", "rand_like"):
        return Written("draw", mean=0.5, std=1 / math.sqrt(12))
    if name in ("bernoulli_", "exponential_", "geometric_", "cauchy_", "log_normal_", "random_"):
        return Written("draw")
    return None


def _is_in_place(name: str) -> bool:
    return name in ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__") or (
        name.endswith("_") and not name.endswith("__")
    )


def _by_layer() -> bool:
    """Whether the constructor, or `reset_parameters`, of a class of torch.nn or of this package makes the present call."""
    frame = sys._getframe(1)
    while frame is not None:
        name, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if name.startswith(_LAYERS):
            return function in _OWN_INIT
        if not name.startswith(_PASSED_THROUGH):
            return False
        frame = frame.f_back
    return False


def _are_stacked(one: str, other: str) -> bool:
    """Whether two names differ in one number alone: copies in a stack of layers, which are to differ, and no twins."""
    pairs = [(a, b) for a, b in zip(one.split("."), other.split("."), strict=False) if a != b]
    return len(one.split(".")) == len(other.split(".")) and len(pairs) == 1 and all(word.isdigit() for word in pairs[0])
