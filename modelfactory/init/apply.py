"""Fills parameters by their rules: gains and fans worked out first, then one keyed generator a parameter.

The draws are made on the CPU in float32, then cast and moved, so that they are the same on every device and in every
type. Threads share the work by parameter; no value depends on how many there are.
"""

from __future__ import annotations

import inspect
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.activation import gain as gain_of
from modelfactory.errors import Problems, SchemeError
from modelfactory.init import rng
from modelfactory.init.acting import Acting
from modelfactory.init.authored import authored_moments
from modelfactory.init.construction import construction
from modelfactory.init.fans import Block, Fans, operator_fans, torch_fans
from modelfactory.init.record import Recording
from modelfactory.init.rules import Choice, SchemeCall
from modelfactory.init.schemes import arguments as arguments_of
from modelfactory.init.variance import nonlinearity_gain
from modelfactory.select import ParamInfo
from modelfactory.spec import join

_WORTH_A_THREAD = 32_768  # numbers; fewer are drawn sooner than threads pass the interpreter's lock to one another


@dataclass(frozen=True)
class Assignment:
    """A parameter with everything that decides its values.

    Attributes:
        choice: the rule that won, and its scheme.
        blocks: the parts of a packed parameter that are filled one by one, each with its fans.
        fans: those of the first block; None where an operator has none (biases, norms).
        gain: the number that was used, None where the scheme has none.
        acting: what acts on the layer's input, when it was looked for.
        expected: mean and std of an entry by the formula; NaN without a closed form.
    """

    choice: Choice
    blocks: tuple[Block, ...] = ()
    fans: Fans | None = None
    gain: float | None = None
    acting: Acting | None = None
    expected: tuple[float, float] = (math.nan, math.nan)

    @property
    def info(self) -> ParamInfo:
        return self.choice.info

    @property
    def call(self) -> SchemeCall:
        return self.choice.call


def assign(choices: Sequence[Choice], acting: Mapping[int, Acting], fans: str, problems: Problems) -> list[Assignment]:
    """Works out fans, gain and expected moments of each choice; what cannot be filled becomes a problem.

    Args:
        acting: by `id` of the parameter, what acts on its layer's input; needed for `gain: auto` and for the fans of
            padded convolutions.
        fans: "effective" or "torch".
    """
    return [_assign(choice, acting.get(id(choice.info.parameter)), fans, problems) for choice in choices]


def _assign(choice: Choice, acting: Acting | None, fans: str, problems: Problems) -> Assignment:
    call, parameter = choice.call, choice.info.parameter
    if call.is_default:
        return Assignment(choice, acting=acting, expected=authored_moments(choice.info.module, choice.info.attr))
    if call.scheme is None:
        return Assignment(choice, acting=acting)
    if parameter.ndim < call.scheme.min_dims:
        problems.add(
            choice.path,
            f"{call.name} needs {call.scheme.min_dims} dimensions, and {choice.info.name} has shape {tuple(parameter.shape)}",
        )
        return Assignment(choice)
    try:
        blocks = _blocks(choice.info, acting.shape if acting is not None else None) if fans == "effective" else ()
        own_fans = blocks[0].fans if blocks else _torch_fans(parameter) if parameter.ndim >= 2 else None
        gain = _gain(choice, acting, problems)
        shape = tuple(parameter.shape) if not blocks or blocks[0].rows is None else tuple(parameter[blocks[0].rows].shape)
        arguments = {**call.args, **({"gain": gain} if call.gain is not None and gain is not None else {})}
        expected = (
            call.scheme.moments(shape, own_fans, **arguments) if gain is None or math.isfinite(gain) else (math.nan, math.nan)
        )
    except SchemeError as error:
        problems.add(choice.path, f"{choice.info.name} of shape {tuple(parameter.shape)}: {error}")
        return Assignment(choice)
    return Assignment(choice, blocks, own_fans, gain, acting, expected)


def _gain(choice: Choice, acting: Acting | None, problems: Problems) -> float | None:
    """The gain as a number: given, computed from the activation that acts on the layer, or the scheme's own."""
    call = choice.call
    if call.gain == "auto":
        if acting is None or not acting.known:
            why = acting.source if acting is not None else "the model was not looked into"
            problems.add(
                join(choice.path, "gain"),
                f"auto: what acts on {choice.info.name} is not known ({why}); give data.input_shape, or the gain as a number",
            )
            return math.nan
        return 1.0 if acting.activation is None else gain_of(acting.activation)
    if call.gain is not None:
        return float(call.gain)
    scheme = call.scheme
    if scheme is None or not scheme.uses_gain:
        return None
    arguments = {**arguments_of(scheme.name), **call.args}
    if "nonlinearity" in arguments:
        return nonlinearity_gain(arguments["nonlinearity"], arguments["a"])
    return 1.0


def needs_shape(info: ParamInfo) -> bool:
    """Whether the fans of this parameter depend on the size of the layer's input: a convolution that pads with zeros, or
    whose windows overlap, so that an input at the border is in fewer of them."""
    module = info.module
    if not isinstance(module, nn.modules.conv._ConvNd) or info.attr != "weight":
        return False
    return module.transposed or any(_pads(module)) or any(map(operator.gt, module.kernel_size, module.stride))


def _pads(module: nn.modules.conv._ConvNd) -> Sequence[Any]:
    return (module.padding != "valid",) if isinstance(module.padding, str) else module.padding


def _blocks(info: ParamInfo, shape: torch.Size | None) -> tuple[Block, ...]:
    if type(info.module) is nn.Linear:
        return _linear_blocks(info.module.in_features, info.module.out_features) if info.attr == "weight" else ()
    if info.parameter.ndim < 2:
        return ()
    return tuple(operator_fans(info.module, info.attr, shape if needs_shape(info) else None))


@cache
def _linear_blocks(n_in: int, n_out: int) -> tuple[Block, ...]:
    return (Block(None, "", Fans(float(n_in), float(n_out))),)


def _torch_fans(parameter: Tensor) -> Fans:
    return torch_fans(parameter.shape)


def fill(
    assignments: Sequence[Assignment],
    seed: int,
    recordings: Mapping[str, Recording],
    fresh: bool,
    threads: int | None = None,
    measured: bool = True,
) -> list[tuple[float, float]]:
    """Gives every assigned parameter its values; returns the mean and std of each, as drawn.

    Args:
        assignments: from `assign`, without problems.
        seed: decides the values, with each parameter's name, shape and scheme.
        recordings: what constructors would have drawn, by the name of the module constructed.
        fresh: the model was just constructed, so that buffers may be reset with a layer's own init.
        threads: how many fill at once; None takes one a core.
        measured: False leaves mean and std at NaN, and saves a look at every number.

    What is pretrained is left alone, and not measured.
    """
    stats: list[tuple[float, float]] = [(math.nan, math.nan)] * len(assignments)
    by_author = [(index, item) for index, item in enumerate(assignments) if item.call.is_default]
    Author(seed, recordings, fresh).fill([item for _, item in by_author])
    work = [(index, item) for index, item in enumerate(assignments) if not item.call.is_default and not item.call.pretrained]

    def run(share: Sequence[tuple[int, Assignment]]) -> None:
        with torch.no_grad():
            for index, item in share:
                _fill_one(item, seed)
                if measured:
                    stats[index] = measure(item.info.parameter)

    first, *rest = _shares(work, threads) or [[]]
    with ThreadPoolExecutor(max(1, len(rest))) as pool:
        others = [pool.submit(run, share) for share in rest]
        run(first)
        for other in others:
            other.result()
    for index, item in by_author if measured else ():
        stats[index] = measure(item.info.parameter)
    return stats


def _shares(work: Sequence[tuple[int, Assignment]], threads: int | None) -> list[list[tuple[int, Assignment]]]:
    """The work in parts of about the same size, one a thread; the first has all that is too small to be worth one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares: list[list[tuple[int, Assignment]]] = [[] for _ in range(threads or cores)]
    loads = [0] * len(shares)
    for index, item in sorted(work, key=lambda pair: -pair[1].info.parameter.numel()):
        size = item.info.parameter.numel()
        lightest = loads.index(min(loads)) if size >= _WORTH_A_THREAD else 0
        shares[lightest].append((index, item))
        loads[lightest] += size
    return [share for share in shares if share]


def _fill_one(item: Assignment, seed: int) -> None:
    parameter = item.info.parameter
    if parameter.is_meta:
        return
    direct = parameter.device.type == "cpu" and parameter.dtype is torch.float32 and parameter.is_contiguous()
    draft = parameter.detach() if direct else torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
    call = item.call
    if call.function is not None:
        generator = rng.generator(seed, item.info.name)
        extra = {"generator": generator} if "generator" in inspect.signature(call.function).parameters else {}
        call.function(draft, **call.args, **extra)
    elif call.scheme is not None:
        arguments = {**call.args, **({"gain": item.gain} if call.gain is not None else {})}
        if call.scheme.random:
            arguments["generator"] = rng.generator(seed, item.info.name)
        for rows, block_fans in [(block.rows, block.fans) for block in item.blocks] or [(None, None)]:
            part = draft if rows is None else draft[rows]
            fans = {"fans": block_fans} if call.scheme.uses_fans and block_fans is not None else {}
            call.scheme.fill(part, **arguments, **fans)
    if isinstance(item.info.module, (nn.Embedding, nn.EmbeddingBag)) and item.info.module.padding_idx is not None:
        draft[item.info.module.padding_idx].zero_()
    if not direct:
        parameter.copy_(draft)


def measure(parameter: Tensor) -> tuple[float, float]:
    """Mean and (population) std of the entries; NaN where there is no value yet.

    Example:
        >>> measure(torch.tensor([1.0, 3.0]))
        (2.0, 1.0)
    """
    count = parameter.numel()
    if parameter.is_meta or count == 0:
        return math.nan, math.nan
    flat = parameter.detach().reshape(-1)
    if flat.dtype is not torch.float32:
        flat = flat.float()
    mean = flat.sum().item() / count
    spread = torch.dot(flat, flat).item() / count - mean * mean
    if spread < 1e-6 * mean * mean:  # the difference of two large numbers: take the second pass
        spread = (flat.double() - flat.double().mean()).square().mean().item()
    return mean, math.sqrt(max(spread, 0.0))


class Author:
    """Does what a module's author wrote, keyed by name: the noted constructor, or `reset_parameters` noted anew."""

    def __init__(self, seed: int, recordings: Mapping[str, Recording], fresh: bool):
        self._seed, self._recordings, self._fresh = seed, recordings, fresh

    def fill(self, items: Sequence[Assignment]) -> None:
        """Fills the parameters of these items, whose scheme is `default`."""
        by_module: dict[int, list[Assignment]] = {}
        for item in items:
            by_module.setdefault(id(item.info.module), []).append(item)
        for group in by_module.values():
            recording = self._recording_of(group[0].info.module_name)
            if recording is not None:
                for item in group:
                    recording.replay(item.info.parameter, self._seed, item.info.name)
            else:
                self._reset(group)

    def _recording_of(self, module_name: str) -> Recording | None:
        while True:
            if module_name in self._recordings:
                return self._recordings[module_name]
            if not module_name:
                return None
            module_name = module_name.rpartition(".")[0]

    def _reset(self, group: Sequence[Assignment]) -> None:
        module = group[0].info.module
        reset = reset_of(module)
        if reset is None:
            raise SchemeError(
                f"{group[0].info.name}: {type(module).__name__} has no reset_parameters, so its author's init cannot be done again"
            )
        wanted = {id(item.info.parameter) for item in group}
        others = [tensor for tensor in (*module.parameters(), *module.buffers()) if id(tensor) not in wanted and not self._fresh]
        kept = [(tensor, tensor.detach().clone()) for tensor in others]
        with construction(self._seed, group[0].info.module_name) as recording:
            reset()
        for item in group:
            recording.replay(item.info.parameter, self._seed, item.info.name)
        with torch.no_grad():
            for tensor, values in kept:
                tensor.copy_(values)


def reset_of(module: nn.Module) -> Callable[[], Any] | None:
    """The method by which a module's author initialises it, if there is one.

    Example:
        >>> reset_of(nn.Linear(2, 2)).__name__, reset_of(nn.Sequential())
        ('reset_parameters', None)
    """
    return next(
        (reset for name in ("reset_parameters", "_reset_parameters") if (reset := getattr(module, name, None)) is not None), None
    )
