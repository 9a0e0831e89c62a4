"""Follow the batch through a model on the meta device: where do its samples meet?

The batch has a prime size that nothing else in the model is a multiple of. So a tensor's shape tells how it depends on the samples:
one factor of that prime, and each of its parts belongs to one sample; none, and it sums up (or picks) samples; two, and it pairs
them. Only calls that work along a dimension and leave its size alone, such as softmax, have to be known by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelfactory.model.storages import tensors_in
from modelfactory.numerics.rng import GLOBAL_STATE
from modelfactory.tracing.meta_shapes import known_result

PRIMES = (1009, 1013, 1019, 1021)  # sizes for the batch, of which one goes with any model
_MOST_CALLS = 20_000  # of a forward that loops over the samples, or for ever
_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
_RESHAPES = frozenset({"view", "reshape", "unflatten", "flatten", "view_as", "reshape_as"})
_WRITES = frozenset({"__setitem__", "copy_", "index_put_", "index_copy_", "scatter_", "index_add_", "scatter_add_"})
# The place of `dim` among the arguments after the first, and what it is where it is not given.
_ALONG: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys(("softmax", "log_softmax", "softmin", "cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "flip"), (0, None)),
    **dict.fromkeys(("sort", "argsort", "glu"), (0, -1)),
    **dict.fromkeys(("topk", "roll", "fft", "ifft", "rfft", "irfft"), (1, -1)),
    "normalize": (1, 1),
    "gumbel_softmax": (3, -1),
}


class TooLong(RuntimeError):
    """A forward of more calls than are followed."""


@dataclass(frozen=True)
class Meeting:
    """Where samples of a batch first depend on each other.

    Attributes:
        layer: the full name of the innermost module, "" for the model itself.
        kind: the class of that module.
        how: what is done there, such as "softmax works along the batch".
        shape: of what it is done to, such as "[9, N, 8]", N being the batch.
    """

    layer: str
    kind: str
    how: str
    shape: str


@dataclass(frozen=True)
class _Mark:
    """Of a tensor that depends on the input.

    Attributes:
        meeting: where samples met in it; None where it has them apart.
        sample: the number of the one that it depends on, in a forward that takes them out one by one; None: all.
    """

    run: BatchAxis
    meeting: Meeting | None
    sample: int | None = None


class BatchAxis(TorchFunctionMode):
    """Follows one run of a model.

    Attributes:
        cost: multiplications for one sample, roughly.
        entered: the name of the module that was entered last.

    Example:
        >>> run = BatchAxis(batch_for(nn.Softmax(0), (4,)))
        >>> run.follow(nn.Softmax(0), torch.empty(run.batch, 4, device="meta"))
        >>> run.meeting
        Meeting(layer='', kind='Softmax', how='softmax works along the batch', shape='[N, 4]')
    """

    def __init__(self, batch: int):
        super().__init__()
        self.batch, self.cost, self.entered = batch, 0.0, ""
        self.meeting: Meeting | None = None
        self._modules: list[tuple[str, nn.Module]] = []
        self._calls = 0

    def follow(self, model: nn.Module, example: Tensor) -> None:
        """Runs a model that is on the meta device, and notes where samples meet, if they do, in what leaves it.

        Of several tensors that leave it, those count that have a part for each sample; a sum over the batch beside them, such as
        a loss to be added, is for the training.

        Raises:
            Exception: whatever the model raises for this batch.
            TooLong: it makes more calls than are followed.
        """
        self._mark(example, None)
        with torch.no_grad(), GLOBAL_STATE, torch.random.fork_rng(devices=[]), torch.device("meta"), self._named(model), self:
            output = model(example)
        marks = [(tensor, mark) for tensor in tensors_in(output) if (mark := self._mark_of(tensor)) is not None]
        whole = [mark for tensor, mark in marks if self._factors(tensor) > 0] or [mark for _, mark in marks]
        self.meeting = next((mark.meeting for mark in whole if mark.meeting is not None), None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        self._calls += 1
        if self._calls > _MOST_CALLS:
            raise TooLong
        given = list(tensors_in((args, kwargs)))
        marked = [(tensor, mark) for tensor in given if (mark := self._mark_of(tensor)) is not None]
        known = known_result(func, args, kwargs) if marked and marked[0][0].is_meta else None
        result = func(*args, **kwargs) if known is None else known
        made = list(tensors_in(result)) + ([args[0]] if name in _WRITES else [])
        if not marked or not made or name.endswith("_like") or name.startswith("new_"):
            return result
        self.cost += self._multiplications(name, args, given, made) / self.batch
        met = next((mark.meeting for _, mark in marked if mark.meeting is not None), None)
        samples = [mark.sample for _, mark in marked]
        if met is not None:
            notes: list[str | int | None] = [None] * len(made)
        elif samples == [None] * len(samples):
            notes = self._of_whole(name, args, kwargs, marked[0][0], made)
        else:
            notes = [self._of_parts(name, samples, tensor) for tensor in made]
        for tensor, note in zip(made, notes, strict=True):
            if isinstance(note, int):
                self._mark(tensor, None, note)
            else:
                self._mark(tensor, met if note is None else self._here(note, marked[0][0]))
        return result

    def _of_whole(self, name: str, args: Any, kwargs: Any, first: Tensor, made: list[Tensor]) -> list[str | int | None]:
        """What a call makes of tensors with all samples: a text says how they meet, a number which one it picks."""
        if name in ("unbind", "split", "chunk") and len(made) == self.batch:
            return list(range(self.batch))
        if name == "__getitem__" and (number := self._picked(args[0], args[1])) is not None:
            return [number]
        along = self._along(name, args, kwargs, first, made[0])
        return [along or self._by_shape(name, tensor) for tensor in made]

    def _picked(self, tensor: Tensor, index: Any) -> int | None:
        """The number of the one sample that an index takes out."""
        first = index[0] if isinstance(index, tuple) and index else index
        if tensor.shape[0] != self.batch:
            return None
        if isinstance(first, slice):
            places = range(*first.indices(self.batch))
            return places[0] if len(places) == 1 else None
        return first % self.batch if isinstance(first, int) and not isinstance(first, bool) else None

    def _of_parts(self, name: str, samples: list[int | None], tensor: Tensor) -> str | int | None:
        """What a call makes of tensors some of which depend on one sample alone."""
        if len(set(samples)) == 1 and self._factors(tensor) == 0:
            return samples[0]
        if name in ("stack", "cat", "concat", "concatenate", "vstack") and samples == list(range(self.batch)):
            return None
        return f"{name.strip('_')} puts one sample to others"

    def _mark(self, tensor: Tensor, meeting: Meeting | None, sample: int | None = None) -> None:
        tensor._batch_mark = _Mark(self, meeting, sample)  # pyright: ignore[reportAttributeAccessIssue]

    def _mark_of(self, tensor: Tensor) -> _Mark | None:
        mark = getattr(tensor, "_batch_mark", None)
        return mark if mark is not None and mark.run is self else None

    def _here(self, how: str, tensor: Tensor) -> Meeting:
        name, module = self._modules[-1]
        sizes = [f"{size // self.batch} N".removeprefix("1 ") if size % self.batch == 0 else str(size) for size in tensor.shape]
        return Meeting(name, type(module).__name__, how, f"[{', '.join(sizes)}]")

    def _factors(self, tensor: Tensor) -> int:
        """How often the batch is in the number of a tensor's values."""
        numel, count = tensor.numel(), 0
        while numel and numel % self.batch == 0:
            numel, count = numel // self.batch, count + 1
        return count

    def _by_shape(self, name: str, tensor: Tensor) -> str | None:
        factors = self._factors(tensor)
        if factors == 1 or tensor.numel() == 0:
            return None
        called = name.strip("_")
        return f"{called} pairs the samples" if factors else f"{called} takes samples together, or some of them out"

    def _is_batch(self, tensor: Tensor, dims: Iterator[int] | Sequence[int]) -> bool:
        """Whether the batch lies in one of these dimensions of a tensor."""
        return any(-tensor.ndim <= dim < tensor.ndim and tensor.shape[dim] % self.batch == 0 for dim in dims)

    def _along(self, name: str, args: Any, kwargs: Any, first: Tensor, result: Tensor) -> str | None:
        """What a call that is known by its name does along the batch."""
        x = args[0] if args and isinstance(args[0], Tensor) else kwargs.get("input", first)
        if name in _RECURRENT and x.ndim == 3 and self._is_batch(x, [1 if args[8] is True else 0]):
            return f"{name} takes the batch for time"
        if name == "multi_head_attention_forward" and self._is_batch(x, [0]):
            return "attention takes the batch for the positions of one sequence"
        if name == "scaled_dot_product_attention" and any(self._is_batch(tensor, [-2]) for tensor in tensors_in(args[:3])):
            return "attention takes the batch for the positions of one sequence"
        if name in _RESHAPES and not self._keeps_order(x, result):
            return f"{name} cuts the batch at other places than between samples; permute moves a dimension"
        dims = _dims(name, args, kwargs, x)
        return f"{name} works along the batch" if dims and self._is_batch(x, dims) else None

    def _keeps_order(self, before: Tensor, after: Tensor) -> bool:
        """Whether as many values come before the first of a sample as did, where the shapes tell it."""
        (outer, own), (new_outer, new_own) = self._place(before), self._place(after)
        return new_outer % outer == 0 and own % (new_outer // outer) == 0 or outer % new_outer == 0 and new_own % (outer // new_outer) == 0

    def _place(self, tensor: Tensor) -> tuple[int, int]:
        """The product of the dimensions before the one that the batch lies in, and what that one has besides the batch."""
        dim = next((dim for dim, size in enumerate(tensor.shape) if size % self.batch == 0), 0)
        return math.prod(tensor.shape[:dim]), max(tensor.shape[dim] // self.batch, 1) if tensor.ndim else 1

    def _multiplications(self, name: str, args: Any, given: list[Tensor], made: list[Tensor]) -> float:
        size = float(sum(tensor.numel() for tensor in made))
        others = [tensor for tensor in given[1:] if tensor.ndim > 1]
        if name in _RECURRENT:
            return given[0].numel() / given[0].shape[-1] * sum(tensor.numel() for tensor in others)
        if name in ("matmul", "bmm", "mm", "__matmul__", "einsum", "baddbmm", "addmm", "scaled_dot_product_attention"):
            return size * max(max(tensor.shape) for tensor in given)
        if name == "linear" or name.startswith("conv"):
            return size * max((tensor.numel() / max(tensor.shape[0], 1) for tensor in others), default=1)
        if name == "multi_head_attention_forward":
            return size * (4 * given[0].shape[-1] + 2 * given[0].shape[0])
        return size

    @contextmanager
    def _named(self, model: nn.Module) -> Iterator[None]:
        """Follows which module is running."""
        handles: list[Any] = []
        self._modules = [("", model)]
        try:
            for name, module in model.named_modules():
                handles.append(module.register_forward_pre_hook(self._entering(name)))
                handles.append(module.register_forward_hook(lambda *_: self._modules.pop() and None, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, _inputs: Any) -> None:
            self._modules.append((name, module))
            self.entered = name

        return enter


def batch_for(model: nn.Module, shape: Sequence[int]) -> int:
    """A size of the batch that no size in the model or of its input is a multiple of.

    Example:
        >>> batch_for(nn.Linear(2018, 3), (2018,))
        1013
    """
    sizes = {size for tensor in (*model.parameters(), *model.buffers()) for size in tensor.shape} | set(shape)
    return next((prime for prime in PRIMES if all(size % prime for size in sizes)), PRIMES[-1])


def _dims(name: str, args: Any, kwargs: Any, x: Tensor) -> Sequence[int]:
    """The dimensions of its first tensor that a call works along and whose size it may leave as it was."""
    rest = args[1:]
    if name in _ALONG:
        place, default = _ALONG[name]
        given = kwargs.get("dim", kwargs.get("dims", rest[place] if len(rest) > place else default))
        if name == "flip" and len(rest) > 1:
            given = rest
        if given is None:  # of the softmaxes: torch's own choice
            given = 0 if x.ndim in (0, 1, 3) else 1
        return [given] if isinstance(given, int) else list(given)
    if name in ("layer_norm", "rms_norm"):
        shape = kwargs.get("normalized_shape", rest[0] if rest else ())
        return range(-len(shape), 0)
    if found := re.fullmatch(r"(?:adaptive_|fractional_)?(?:avg|max|lp)_pool(\d)d(?:_with_indices)?", name):
        return range(-int(found[1]), 0)
    if found := re.fullmatch(r"conv(?:_transpose)?(\d)d", name):
        weight = kwargs.get("weight", rest[0] if rest else None)
        wide = weight is not None and any(size > 1 for size in weight.shape[2:])
        return range(-int(found[1]), 0) if wide else ()
    if name in ("instance_norm", "interpolate", "grid_sample", "upsample"):
        return range(2, x.ndim)
    if name in ("group_norm", "local_response_norm", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"):
        return range(1, x.ndim)
    return ()
