"""Everything that a plan shows of one model, gathered once."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from modelfactory.config.notebook import html_table, html_text
from modelfactory.init.ledger import LedgerRow
from modelfactory.init.rules import Rule
from modelfactory.planning.overview.layers import LayerNode, LayerTree, grow, numbers
from modelfactory.planning.overview.memory import Totals, itemsize, optimizer_state
from modelfactory.planning.overview.reasons import call_text
from modelfactory.planning.overview.short import short_text
from modelfactory.planning.overview.signal import Prediction
from modelfactory.planning.overview.table import Column, table
from modelfactory.planning.overview.text import Line, columns_of, lines_of, says_how
from modelfactory.planning.overview.trace import trace
from modelfactory.planning.overview.units import amount, amount_of_bytes
from modelfactory.training.optimizer import OptimizerSpec

_WHOLE: Any = {"break_long_words": False, "break_on_hyphens": False}
WIDTH = 120  # of a page, where it is no terminal


@dataclass(frozen=True)
class RuleUse:
    """One rule, and what it sets.

    Attributes:
        name, path: its name, and where the config says it.
        picks: its selector, in words.
        scheme: the scheme with its arguments.
        tensors, numbers: what it sets.
    """

    name: str
    path: str
    picks: str
    scheme: str
    tensors: int
    numbers: int


@dataclass(frozen=True)
class Overview:
    """What a config would build: `print` it for the table.

    Attributes:
        root: the tree of layers.
        totals: sums over the model.
        rows: the ledger's.
        rules: in their order, with what each sets.
        unknown: why output shapes and FLOPs are not known, in words; None where they are.
        notes: more to say of the sums, such as what is loaded.
        signal: how it is predicted to travel.
        warnings: what will probably not train, and what would mend it.
    """

    root: LayerTree
    totals: Totals
    rows: tuple[LedgerRow, ...]
    rules: tuple[RuleUse, ...]
    unknown: str | None
    notes: tuple[str, ...]
    signal: Prediction
    warnings: tuple[str, ...]

    @property
    def layers(self) -> list[LayerNode]:
        return list(self.root.layers())

    def text(self, every: bool = False, width: int | None = None) -> str:
        """The table.

        Args:
            every: show every repeat and every parameter.
            width: columns of the page; None takes the terminal's, or 120.
        """
        width = width or max(60, shutil.get_terminal_size((WIDTH, 24)).columns)
        lines = lines_of(self.root, every)
        repeats = any(line.times > 1 for line in lines)
        parts = [_layers(lines, width), "(x N: alike, shown once; --all shows every one)" if repeats else ""]
        parts += [self._sums(), self._uses(width), self.signal.text(every, width)]
        parts += ["\n".join(textwrap.fill(f"warning: {words}", width, subsequent_indent="  ", **_WHOLE) for words in self.warnings)]
        return "\n\n".join(part for part in parts if part)

    def short(self, width: int | None = None) -> str:
        """The same on one screen: what repeats folded, sums, and the verdict of the signal in a line."""
        width = width or max(60, shutil.get_terminal_size((WIDTH, 24)).columns)
        return short_text(self.root, self.totals, self.signal, self.warnings, width)

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        """Give what a notebook shows: a table of the layers, then sums, rules, the signal and warnings."""
        lines = lines_of(self.root)
        of_layers, of_values = columns_of(lines)
        columns = [column for column in (*of_layers, *of_values) if any(column.cells)]
        rows = zip(*(column.cells for column in columns), strict=True)
        warnings = "\n".join(f"warning: {words}" for words in self.warnings)
        below = "\n\n".join(part for part in (self._sums(), self._uses(WIDTH), self.signal.text(False, WIDTH), warnings) if part)
        return html_table([column.head for column in columns], rows) + html_text(below)

    def _sums(self) -> str:
        totals = self.totals
        training = "all trainable" if totals.trainable == totals.parameters else f"{totals.trainable:,} trainable"
        known = [totals.weights + totals.buffers, totals.gradients, *([totals.optimizer] if totals.optimizer is not None else [])]
        memory = f"weights {amount_of_bytes(totals.weights)}"
        memory += f", buffers {amount_of_bytes(totals.buffers)}" if totals.buffers else ""
        memory += f", gradients {amount_of_bytes(totals.gradients)}"
        if totals.optimizer is not None:
            memory += f", {totals.optimizer_name}'s state {amount_of_bytes(totals.optimizer)}"
        elif totals.optimizer_name is not None:
            memory += f", {totals.optimizer_name}'s state not known"
        lines = [
            f"parameters   {totals.parameters:,} in {totals.tensors:,} tensors, {training}",
            f"memory       {memory}; together {amount_of_bytes(sum(known))}",
        ]
        if totals.outputs is not None:
            lines.append(f"activations  {amount_of_bytes(totals.outputs)} for one sample, if what leaves every layer is kept in float32")
        if self.unknown is not None:
            lines.append(f"FLOPs        {self.unknown}")
        if totals.flops is not None:
            least = "at least " if self.unknown is not None else ""
            lines.append(
                f"FLOPs        {least}{amount(totals.flops)} forward, batch of 1: matrix products and convolutions, multiply and add as two"
            )
        for note in self.notes:
            head, _, words = note.partition(": ")
            lines.append(f"{head:11}  {words}")
        return "\n".join(lines)

    def _uses(self, width: int) -> str:
        if not self.rules:
            return ""
        columns = [
            Column("rule", tuple(rule.name for rule in self.rules)),
            Column("picks", tuple(rule.picks for rule in self.rules)),
            Column("scheme", tuple(rule.scheme for rule in self.rules)),
            Column("sets", tuple(f"{rule.numbers:,} in {rule.tensors:,} tensors" if rule.tensors else "nothing" for rule in self.rules)),
        ]
        return table(columns, width)


def _layers(lines: Sequence[Line], width: int) -> str:
    """One table where the page is wide enough; else one of the layers, and one of how their parameters are initialised."""
    of_layers, of_values = columns_of(lines)
    whole = table([*of_layers, *of_values], 10**9)
    if all(len(line) <= width for line in whole.splitlines()):
        return whole
    of_layers, _ = columns_of([line for line in lines if line.branch is not None])
    telling = [line for line in lines if says_how(line)]
    names, of_values = columns_of(telling)
    return "\n\n".join([table(of_layers, width), *([table([names[0], *of_values], width)] if telling else [])])


def survey(
    model: nn.Module,
    rows: Sequence[LedgerRow],
    rules: Sequence[Rule],
    example: torch.Tensor | None,
    optimizer: OptimizerSpec | None,
    notes: Sequence[str],
    signal: Prediction,
    warnings: Sequence[str],
) -> Overview:
    """Looks at a model on the meta device: what leaves each layer, what it costs, and the sums.

    Args:
        rows: the ledger's, one a parameter.
        rules: those of the init group, in order.
        example: an input on the meta device, batch first; None where none is known.
    """
    found = trace(model, example) if example is not None else None
    unknown = None
    if found is None:
        unknown = "not known, and no output shapes: the config has no data.input_shape"
    elif found.failure is not None:
        unknown = f"not all known: the forward cannot be followed without values ({found.failure})"
    root = grow(model, rows, found)
    layers = list(root.layers())
    known = [layer.flops for layer in layers if layer.flops is not None]
    name, state = optimizer_state(optimizer, rows)
    parameters = [row for row in rows if row.role != "buffer"]
    totals = Totals(
        parameters=sum(row.numel for row in parameters),
        trainable=sum(row.numel for row in parameters if row.trainable),
        tensors=len(parameters),
        weights=sum(row.numel * itemsize(row.dtype) for row in parameters),
        buffers=sum(buffer.nbytes for buffer in model.buffers()),
        gradients=sum(row.numel * itemsize(row.dtype) for row in parameters if row.trainable),
        optimizer=state,
        optimizer_name=name,
        flops=sum(known) if known else None,
        outputs=sum(4 * numbers(layer.output) for layer in layers) if found is not None and found.failure is None else None,
    )
    return Overview(root, totals, tuple(rows), tuple(_uses(rules, parameters)), unknown, tuple(notes), signal, tuple(warnings))


def _uses(rules: Sequence[Rule], rows: Sequence[LedgerRow]) -> list[RuleUse]:
    """What each rule sets: those of the config in order, then those beside layers and what came with weights."""
    set_by: dict[str, list[LedgerRow]] = {rule.name: [] for rule in rules}
    for row in rows:
        set_by.setdefault(row.rule, []).append(row)
    by_name = {rule.name: rule for rule in rules}
    uses = []
    for name, found in set_by.items():
        rule = by_name.get(name)
        schemes = sorted({row.scheme for row in found})
        one = schemes[0] if len(schemes) == 1 else f"{len(schemes)} schemes"
        use = RuleUse(name, name, "", one, len(found), sum(row.numel for row in found))
        if rule is not None:
            use = replace(use, path=rule.path, picks=str(rule.selector), scheme=call_text(rule.call))
        uses.append(use)
    return uses
