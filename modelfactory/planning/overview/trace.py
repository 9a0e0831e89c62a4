"""One run of a model on the meta device, where nothing is computed: what leaves each module, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelfactory.config.errors import first_line
from modelfactory.planning.overview.flops import Counting, flops_of
from modelfactory.tracing.meta_shapes import known_result

# The samples of the run: a prime that is no size of a layer, so that the batch is known by it in what leaves a module.
BATCH = 101
# Calls that come to no product of matrices. To watch operators, as is done for other calls, imports torch._dynamo (1 s).
_MULTIPLY_NOTHING = frozenset(
    "__get__ __set__ size dim numel stride view reshape flatten unflatten permute transpose t squeeze unsqueeze contiguous clone "
    "detach to type float half bfloat16 expand expand_as repeat roll chunk split unbind __getitem__ __setitem__ narrow select pad cat "
    "concat stack movedim swapaxes moveaxis pixel_shuffle pixel_unshuffle interpolate mean sum amax amin max min prod var std add sub "
    "mul div neg exp log sqrt rsqrt pow __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ __truediv__ "
    "__rtruediv__ __itruediv__ __neg__ __pow__ add_ sub_ mul_ div_ relu relu_ gelu silu silu_ tanh sigmoid softmax log_softmax dropout "
    "dropout_ feature_dropout batch_norm layer_norm group_norm instance_norm rms_norm embedding max_pool1d max_pool2d max_pool3d "
    "_max_pool2d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool2d adaptive_max_pool2d boolean_dispatch fn zeros ones empty full "
    "arange zeros_like ones_like empty_like normalize is_floating_point masked_fill where".split()
)


@dataclass
class Seen:
    """What was seen of one module.

    Attributes:
        calls: how often it was called.
        output: shapes of what left it the last time: of a tensor, or a tuple of such, or None for anything else. A
            size that is a multiple of BATCH holds the batch.
        flops: of its own forward for one sample, without the modules that it called.
    """

    calls: int = 0
    output: Any = None
    flops: int = 0


@dataclass(frozen=True)
class Trace:
    """By module name what was seen of it.

    Attributes:
        failure: why the run ended before the end of the forward; None when it did not.
    """

    seen: Mapping[str, Seen] = field(default_factory=dict)
    failure: str | None = None


def trace(model: nn.Module, example: Tensor) -> Trace:
    """Runs `model` in evaluation mode on a batch in the shape of `example`, both on the meta device.

    A module that needs values (`if x.sum() > 0`) cannot run there: the trace holds what was seen before it, and says why.

    Args:
        example: one input, batch first, of any batch size.

    Example:
        >>> with torch.device("meta"):
        ...     model, example = nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.empty(2, 3)
        >>> found = trace(model, example)
        >>> found.seen["0"].flops, found.seen["1"].output, found.failure
        (24, torch.Size([101, 4]), None)
    """
    meter = _Meter()
    was_training = [module for module in model.modules() if module.training]
    batch = torch.empty((BATCH, *example.shape[1:]), dtype=example.dtype, device="meta")
    failure = None
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.device("meta"), _hooked(model, meter):
            with meter:
                model.eval()(batch)
    except Exception as error:  # whatever a forward raises that is given no values is told, and what was seen before it kept
        failure = first_line(error)
    finally:
        for module in was_training:
            module.training = True
    return Trace(meter.seen, failure)


class _Meter(TorchFunctionMode):
    """Counts the FLOPs of every call for the module that makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Seen] = {}
        self._running: list[Seen] = []

    def add(self, flops: int, out: Any) -> None:
        """Adds the share of one sample; what is computed of the weights alone is done once, whatever the batch."""
        if self._running and flops:
            shared = not any(size % BATCH == 0 for tensor in _tensors(out) for size in tensor.shape)
            self._running[-1].flops += flops if shared else flops // BATCH

    def enter(self, name: str, _module: nn.Module, _inputs: Any) -> None:
        seen = self.seen.setdefault(name, Seen())
        seen.calls += 1
        self._running.append(seen)

    def leave(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._running.pop().output = _shapes(output)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = known_result(func, args, kwargs)
        if known is None and getattr(func, "__name__", "") in _MULTIPLY_NOTHING:
            return func(*args, **kwargs)
        if known is None:
            with Counting(self.add):
                return func(*args, **kwargs)
        self.add(flops_of(func, args, kwargs, known), known)
        return known


@contextmanager
def _hooked(model: nn.Module, meter: _Meter) -> Iterator[None]:
    handles = []
    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(partial(meter.enter, name)))
            handles.append(module.register_forward_hook(meter.leave, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [item for item in value if isinstance(item, Tensor)]


def _shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape
    if isinstance(value, (tuple, list)):
        return tuple(map(_shapes, value))
    return tuple(map(_shapes, value.values())) if isinstance(value, dict) else None
