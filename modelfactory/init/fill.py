"""Fills parameters by their rules, with one keyed generator a parameter.

The draws are made on the CPU in float32, then cast and moved, so that they are the same on every device and in every
type. Threads share the work by parameter; no value depends on how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn

from modelfactory.init.assign import Assignment
from modelfactory.init.blocks import matrices, put, take
from modelfactory.init.copied import copy_values
from modelfactory.init.custom_scheme import call_own, is_own, nothing_else_changes
from modelfactory.init.default import Author
from modelfactory.init.fans import Block, Fans
from modelfactory.model.deferred_init import Recording
from modelfactory.numerics import rng
from modelfactory.numerics.fingerprint import digest
from modelfactory.numerics.threads import num_cores, one_core

_Numbered = tuple[int, Assignment]  # with its place among all
_PIECE = 2**20  # numbers that one stream draws before the next one does
_WORTH_A_THREAD = 32_768  # numbers; fewer are drawn sooner than threads pass the interpreter's lock to one another


def fill(
    assignments: Sequence[Assignment],
    seed: int,
    recordings: Mapping[str, Recording],
    fresh: bool,
    threads: int | None = None,
    measured: bool = True,
    digests: dict[str, str] | None = None,
    model: nn.Module | None = None,
) -> list[tuple[float, float]]:
    """Gives every assigned parameter its values; returns the mean and std of each, as drawn.

    Args:
        assignments: from `assign`, without problems.
        seed: decides the values, with each parameter's name, shape and scheme.
        recordings: what constructors would have drawn, by the name of the module constructed.
        fresh: the model was just constructed, so that buffers may be reset with a layer's own init.
        threads: how many fill at once; None takes one a core.
        measured: False leaves mean and std at NaN, and saves a look at every number.
        digests: takes a hash of each parameter's values, as drawn (in float32, before they are cast).
        model: whose other parameters and buffers schemes of the user's own must leave alone.

    What is pretrained is left alone, and not measured.

    Raises:
        ConfigError: a scheme of the user's own raises something, leaves numbers unset, or writes elsewhere.
    """
    stats: list[tuple[float, float]] = [(math.nan, math.nan)] * len(assignments)
    by_author, following, by_own, work = _sorted_by_filler(assignments)
    copies = [(index, item) for index, item in enumerate(assignments) if item.call.source]
    kept = [(item, block.rows, take(item.info.parameter.detach(), block.rows).clone()) for _, item in by_author for block in _kept(item)]
    Author(seed, recordings, fresh).fill([item for _, item in by_author])
    for item, rows, values in kept:  # an author fills a parameter whole
        put(item.info.parameter.detach(), rows, values)
    def run(share: Sequence[_Numbered]) -> None:
        with torch.no_grad(), one_core():
            for index, item in share:
                draft = _fill_one(item, seed)
                if digests is not None and draft is not None:
                    digests[item.info.name] = digest(draft)
                if measured:
                    stats[index] = measure(item.info.parameter)

    first, *rest = _shares(work, threads) or [[]]
    with ThreadPoolExecutor(max(1, len(rest))) as pool:
        running = [pool.submit(run, share) for share in rest]
        run(first)
        for share in running:
            share.result()
    if by_own:
        with nothing_else_changes([item for _, item in by_own], model) as filled:
            for pair in by_own:
                run([pair])
                filled(pair[1])
    copy_values(item for _, item in copies)
    for index, item in (*by_author, *following, *copies):
        if digests is not None and item.info.name not in digests and not item.info.parameter.is_meta:
            digests[item.info.name] = digest(item.info.parameter)
        if measured:
            stats[index] = measure(item.info.parameter)
    return stats


def _sorted_by_filler(
    assignments: Sequence[Assignment],
) -> tuple[list[_Numbered], list[_Numbered], list[_Numbered], list[_Numbered]]:
    """What authors fill (in whole or some blocks of it), what comes with another parameter, what schemes of the user's own
    fill, and what is left to be shared out."""
    by_author, following, by_own, work = [], [], [], []
    for numbered in enumerate(assignments):
        item = numbered[1]
        call = item.call
        if _has_default(item):
            by_author.append(numbered)
        if not (call.is_default or call.pretrained or call.source):
            (following if item.choice.follows else by_own if is_own(item) else work).append(numbered)
    return by_author, following, by_own, work


def _shares(work: Sequence[_Numbered], threads: int | None) -> list[list[_Numbered]]:
    """The work in parts of about the same size, one a thread; the first has all that is too small to be worth one."""
    shares: list[list[_Numbered]] = [[] for _ in range(threads or num_cores())]
    loads = [0] * len(shares)
    sized = [(item.info.parameter.numel(), index, item) for index, item in work]
    for size, index, item in sorted(sized, key=lambda triple: -triple[0]):
        lightest = loads.index(min(loads)) if size >= _WORTH_A_THREAD else 0
        shares[lightest].append((index, item))
        loads[lightest] += size
    return [share for share in shares if share]


def _fill_one(item: Assignment, seed: int) -> Tensor | None:
    """Fills a parameter; returns what was drawn for it, in float32 on the CPU."""
    parameter = item.info.parameter
    if parameter.is_meta:
        return None
    if parameter.is_complex():
        return _fill_complex(item, seed)
    computed = item.info.computed if item.info.computed is not None and item.info.computed.leads else None
    direct = computed is None and parameter.device.type == "cpu" and parameter.dtype is torch.float32 and parameter.is_contiguous()
    draft = parameter.detach() if direct else torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
    keeps = any(part.call.is_default or part.call.kept for part in item.parts)
    if not direct and keeps:  # its other blocks keep what their author wrote, or what they had
        draft.copy_(parameter)
    drawing: torch.Generator | None = None
    for part in item.parts or (item,):
        call = part.call
        if call.is_default or call.kept:
            continue
        name = item.info.key if computed is not None else item.info.name
        if drawing is None and (call.scheme is None or call.scheme.random):
            drawing = rng.generator(seed, name)
        _fill_part(part, draft, drawing, partial(rng.generator, seed, name))
    if item.info.padding is not None:
        draft[item.info.padding].zero_()
    if computed is not None:
        computed.put(draft)
    elif not direct and keeps:  # bit for bit: a draft is float32
        for block, part in zip(item.blocks, item.parts, strict=True):
            if not (part.call.is_default or part.call.kept):
                put(parameter, block.rows, take(draft, block.rows))
    elif not direct:
        parameter.copy_(draft)
    return draft


def _fill_complex(item: Assignment, seed: int) -> Tensor:
    """Fills a complex parameter, m + (x - m + i (y - m))/sqrt(2) with x and y drawn alike around m, so that E |w - m|^2 is the variance
    of the scheme, as torch.nn.init.normal_ has it; what draws nothing is real. Returns both parts, in float32 on the CPU."""
    parameter, scheme = item.info.parameter, item.call.scheme
    if scheme is None:
        draft = torch.empty(parameter.shape, dtype=torch.complex64)
        _fill_part(item, draft, rng.generator(seed, item.info.name), partial(rng.generator, seed, item.info.name))
    else:
        halves = [torch.empty(parameter.shape) for _ in range(2 if scheme.random else 1)]
        for half, name in zip(halves, (item.info.name, f"{item.info.name}\0imaginary"), strict=False):
            _fill_part(item, half, rng.generator(seed, name), partial(rng.generator, seed, name))
        mean = item.expected[0] if math.isfinite(item.expected[0]) else 0.0
        draft = torch.complex(*((half - mean) / math.sqrt(2) for half in halves)) + mean if scheme.random else halves[0].to(torch.complex64)
    parameter.copy_(draft)
    return torch.view_as_real(draft)


def _kept(item: Assignment) -> list[Block]:
    """The blocks that no rule sets."""
    pairs = zip(item.blocks, item.parts, strict=True) if item.parts else ()
    return [block for block, part in pairs if part.call.kept]


def _has_default(item: Assignment) -> bool:
    return item.call.is_default or any(part.call.is_default for part in item.parts)


def _fill_part(item: Assignment, draft: Tensor, drawing: torch.Generator | None, stream: Callable[[int], torch.Generator]) -> None:
    """One scheme on all of its blocks, one after another.

    Independent entries are drawn in pieces of whole rows and about a million numbers, `stream(i)` being that of the ith piece after
    a block's first, so that a process that holds some rows of a large tensor need not draw those before them.
    """
    call, streams = item.call, count(1)
    for block in item.blocks or (None,):
        part = draft if block is None else take(draft, block.rows)
        if call.function is not None:
            call_own(item, call.function, part, drawing)
        elif call.scheme is not None:
            together = block is None or call.scheme.elementwise or not block.copied and block.order is None
            for matrix in (part,) if together else matrices(part, block):  # pyright: ignore[reportArgumentType]
                own = matrix if together else matrix.contiguous()
                _fill_matrix(item, None if block is None else block.fans, own, drawing, lambda: stream(next(streams)))
                if own is not matrix:
                    matrix.copy_(own)
        if block is not None:
            put(draft, block.rows, part)


def _fill_matrix(
    item: Assignment, fans: Fans | None, matrix: Tensor, drawing: torch.Generator | None, stream: Callable[[], torch.Generator]
) -> None:
    scheme = item.call.scheme
    if scheme is None:
        return
    extra = {"fans": fans} if scheme.uses_fans and fans is not None else {}
    separable = scheme.random and scheme.elementwise and (fans is not None or not scheme.uses_fans)
    whole = not separable or matrix.numel() <= _PIECE
    for index, piece in enumerate((matrix,) if whole else matrix.split(max(1, _PIECE * len(matrix) // matrix.numel()))):
        source = {"generator": stream() if index else drawing} if scheme.random else {}
        scheme.fill(piece, **item.args, **extra, **source)


def measure(parameter: Tensor) -> tuple[float, float]:
    """Mean and (population) std of the entries, of complex ones the mean's real part; NaN where there is no value yet.

    Example:
        >>> measure(torch.tensor([1.0, 3.0]))
        (2.0, 1.0)
    """
    count = parameter.numel()
    if parameter.is_meta or count == 0:
        return math.nan, math.nan
    if parameter.is_complex():
        entries = parameter.detach().to(torch.complex128)
        return entries.mean().real.item(), (entries - entries.mean()).abs().square().mean().sqrt().item()
    flat = parameter.detach().reshape(-1)
    if flat.dtype is not torch.float32:
        flat = flat.float()
    mean = flat.sum().item() / count
    spread = torch.dot(flat, flat).item() / count - mean * mean
    if spread < 1e-6 * mean * mean:  # the difference of two large numbers: take the second pass
        spread = (flat.double() - flat.double().mean()).square().mean().item()
    return mean, math.sqrt(max(spread, 0.0))
