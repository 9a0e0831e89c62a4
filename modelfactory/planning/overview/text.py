"""The lines of the table that `modelfactory plan` prints: one a layer, repeats shown once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from modelfactory.init.ledger import LedgerRow
from modelfactory.planning.overview.layers import LayerNode, LayerTree
from modelfactory.planning.overview.table import Column
from modelfactory.planning.overview.units import amount, amount_of_bytes, figure, shape_text

_LONGEST_PERIOD = 8
_NUMBERED = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True)
class Line:
    """One line of the table: a layer, one parameter of it, or what only holds layers.

    Attributes:
        label: the name as shown, indented.
        branch: the module; None where the line is of one more parameter of the layer above.
        rows: of the ledger, those that the line shows the initialisation of; they read alike.
        times: how many alike it stands for.
    """

    label: str
    branch: LayerTree | None = None
    rows: tuple[LedgerRow, ...] = ()
    times: int = 1


def lines_of(root: LayerTree, every: bool = False) -> list[Line]:
    """The lines of a model; with `every`, repeats and all parameters too."""
    own = _layer_lines(replace(root, label=root.kind), 0, every, 1) if root.layer is not None else ()
    return [*own, *_lines_below(root, 0 if root.layer is None else 1, every)]


def _lines_below(branch: LayerTree, depth: int, every: bool) -> Iterator[Line]:
    for group in groups(branch.children, every):
        for index, first in enumerate(group[0]):
            shown, times = replace(first, label=_label([block[index] for block in group])), len(group)
            while shown.layer is None:  # what only holds one thing, or one thing repeated, takes no line of its own
                inner = list(groups(shown.children, every))
                if len(inner) != 1 or len(inner[0][0]) != 1 or times > 1 and len(inner[0]) > 1:
                    break
                times *= len(inner[0])
                shown = replace(inner[0][0][0], label=f"{shown.label}.{_label([block[0] for block in inner[0]])}")
            if shown.layer is not None:
                yield from _layer_lines(shown, depth, every, times)
            else:
                yield Line("  " * depth + shown.label, shown, (), times)
            yield from _lines_below(shown, depth + 1, every)


def folded(children: Sequence[LayerTree]) -> Iterator[tuple[str, LayerTree, int]]:
    """The children with what repeats once: its label, the first of the repeats, and how many there are.

    Example:
        >>> alike = [LayerTree(str(index), f"a.{index}", "ReLU", None, None, ()) for index in range(3)]
        >>> [(label, times) for label, _, times in folded(alike)]
        [('0-2', 3)]
    """
    for group in groups(children, every=False):
        for index, first in enumerate(group[0]):
            yield _label([block[index] for block in group]), first, len(group)


def _layer_lines(branch: LayerTree, depth: int, every: bool, times: int) -> Iterator[Line]:
    """A layer's line, and one for each of its parameters where they do not read alike."""
    layer = branch.layer
    if layer is None:
        return
    rows = layer.rows if every else layer.main
    alike = not rows or len({initialised(row) for row in rows}) == 1 and not (every and len(rows) > 1)
    yield Line("  " * depth + branch.label, branch, rows if alike else (), times)
    for row in () if alike else rows:
        yield Line("  " * (depth + 1) + "." + _inside(row.name.split(" = ")[0], layer.name), None, (row,), times)


def _inside(name: str, layer: str) -> str:
    return name.removeprefix(f"{layer}.").removeprefix("parametrizations.")


def groups(children: Sequence[LayerTree], every: bool) -> Iterator[list[Sequence[LayerTree]]]:
    """The children as blocks that repeat: each item is the list of the repeats of one block, of one repeat mostly."""
    marks = [] if every else [(_NUMBERED.sub(r"\1", child.label), signature(child)) for child in children]
    index = 0
    while index < len(children):
        period, times = _repeats(marks, index) if not every and _NUMBERED.fullmatch(children[index].label) else (1, 1)
        yield [children[index + period * block : index + period * (block + 1)] for block in range(times)]
        index += period * times


def _repeats(marks: Sequence[object], start: int) -> tuple[int, int]:
    """The period and the number of repeats of what begins at `start`; a period above 1 has to repeat three times."""
    for period in range(1, _LONGEST_PERIOD + 1):
        block, times = marks[start : start + period], 1
        while len(block) == period and marks[start + period * times : start + period * (times + 1)] == block:
            times += 1
        if times >= (2 if period == 1 else 3):
            return period, times
    return 1, 1


def signature(branch: LayerTree) -> tuple[object, ...]:
    """Two branches of the same signature read alike but for their names.

    Example:
        >>> signature(LayerTree("0", "a.0", "ReLU", None, None, ())) == signature(LayerTree("1", "a.1", "ReLU", None, None, ()))
        True
    """
    layer = branch.layer
    own = (layer.calls, layer.flops, layer.memory, *map(_alike, layer.rows)) if layer is not None else None
    return branch.kind, shape_text(branch.output), own, tuple((child.label, signature(child)) for child in branch.children)


def _alike(row: LedgerRow) -> tuple[object, ...]:
    return row.name.rpartition(".")[2], row.shape, row.dtype, initialised(row), row.trainable, row.group


def initialised(row: LedgerRow) -> tuple[str, ...]:
    """How a parameter is initialised, as the table shows it: rule, scheme, gain, fans, expected mean and std."""
    fans = "" if row.fan_in is None else f"{figure(row.fan_in)} / {figure(row.fan_out)}"
    rule = "beside it" if ".init." in row.rule and row.rule.startswith("model") else row.rule
    scheme = f"{row.origin}: {row.scheme}" if row.origin == "pretrained" else row.scheme
    return rule, scheme, figure(row.gain), fans, figure(row.expected_mean), figure(row.expected_std)


def _label(repeats: Sequence[LayerTree]) -> str:
    """`0-31` of neighbours, `0,2,..,62` of what alternates with others."""
    first = repeats[0].label
    if len(repeats) == 1:
        return first
    prefix, _ = _parts(first)
    numbers = [_parts(branch.label)[1] for branch in repeats]
    step = int(numbers[1]) - int(numbers[0])
    return f"{prefix}{numbers[0]}-{numbers[-1]}" if step == 1 else f"{prefix}{numbers[0]},{numbers[1]},..,{numbers[-1]}"


def _parts(label: str) -> tuple[str, str]:
    found = _NUMBERED.fullmatch(label)
    return (found[1], found[2]) if found is not None else (label, "0")


def columns_of(lines: Sequence[Line]) -> tuple[list[Column], list[Column]]:
    """The columns of these lines, those of the layers and those of what initialises them; what needs no saying is empty."""
    layers = [line.branch.layer if line.branch is not None else None for line in lines]
    rows = [line.rows[0] if line.rows else None for line in lines]
    states = [_training(line) for line in lines]
    tell = len({state for line_states in states for state in line_states}) > 1
    rule, scheme, gain, fans, mean, std = zip(*(initialised(row) if row is not None else ("",) * 6 for row in rows), strict=True)
    of_layers = [
        Column("layer", tuple(f"{line.label}  x {line.times:,}" if line.times > 1 else line.label for line in lines)),
        Column("type", tuple(_kind(line) for line in lines)),
        Column("output", tuple(shape_text(line.branch.output) if line.branch is not None else "" for line in lines)),
        Column("parameters", tuple(_parameters(line, layer) for line, layer in zip(lines, layers, strict=True)), right=True),
        Column("memory", tuple("" if layer is None or not layer.memory else amount_of_bytes(layer.memory) for layer in layers), right=True),
        Column("FLOPs", tuple(map(_flops, layers)), right=True),
        Column("trains in", tuple(" ".join(sorted(state)) if tell else "" for state in states)),
    ]
    of_values = [
        Column("rule", rule),
        Column("scheme", tuple(map(_scheme, scheme))),
        Column("gain", gain, right=True),
        Column("fans", fans, right=True),
        Column("mean", mean if any(cell not in ("", "0") for cell in mean) else ("",) * len(mean), right=True),
        Column("std", std, right=True),
    ]
    return of_layers, of_values


def says_how(line: Line) -> bool:
    """Whether a table of how parameters are initialised has anything to say in this line, or below it."""
    return bool(line.rows) or line.branch is not None and any(layer.rows for layer in line.branch.layers())


def _kind(line: Line) -> str:
    if line.branch is None:
        return ""
    if line.branch.layer is None and line.branch.kind == "Sequential":
        return ""
    calls = line.branch.layer.calls if line.branch.layer is not None else None
    return line.branch.kind + (f" ({calls} calls)" if calls is not None and calls > 1 else "")


def _parameters(line: Line, layer: LayerNode | None) -> str:
    if layer is None:
        return f"({line.rows[0].numel:,})" if line.rows and line.branch is None else ""
    return f"{layer.parameters:,}" if layer.rows else ""


def _flops(layer: LayerNode | None) -> str:
    if layer is None or layer.flops == 0:
        return ""
    return "?" if layer.flops is None else amount(layer.flops)


def _training(line: Line) -> set[str]:
    rows = line.branch.layer.rows if line.branch is not None and line.branch.layer is not None else line.rows
    return {(row.group or "default") if row.trainable else "frozen" for row in rows}


def _scheme(scheme: str) -> str:
    return scheme if len(scheme) <= 28 else f"...{scheme[-25:]}"
