"""What tells two plans apart: layers, sizes, cost, and how each parameter is initialised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modelfactory.init.ledger import LedgerRow
from modelfactory.planning.overview.layers import LayerNode
from modelfactory.planning.overview.overview import Overview
from modelfactory.planning.overview.table import Column, table
from modelfactory.planning.overview.text import initialised
from modelfactory.planning.overview.units import amount, amount_of_bytes, shape_text

_OF_LAYERS: dict[str, tuple[Callable[[LayerNode], Any], Callable[[Any], str]]] = {
    "type": (lambda layer: layer.kind, str),
    "output": (lambda layer: layer.output, shape_text),
    "parameters": (lambda layer: layer.parameters, "{:,}".format),
    "memory": (lambda layer: layer.memory, amount_of_bytes),
    "FLOPs": (lambda layer: layer.flops, lambda flops: "?" if flops is None else amount(flops)),
}
_OF_VALUES = ("rule", "scheme", "gain", "fans", "mean", "std")
_OF_TOTALS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "parameters": ("parameters", "{:,}".format),
    "trainable": ("trainable", "{:,}".format),
    "weights": ("weights", amount_of_bytes),
    "optimizer's state": ("optimizer", amount_of_bytes),
    "FLOPs": ("flops", amount),
}


@dataclass(frozen=True)
class PlanChange:
    """One thing that differs: of a layer, of a parameter, or of the sums. `before` is of the first plan, as shown."""

    name: str
    what: str
    before: str
    after: str


@dataclass(frozen=True)
class Difference:
    """What tells a second plan from a first one: `print` it.

    Attributes:
        removed, added: names of layers that only the first, or only the second, has.
        layers: what differs of layers that both have.
        parameters: how the initialisation of parameters that both have differs, and whether and where they train.
        totals: what differs of the sums.
    """

    removed: tuple[LayerNode, ...]
    added: tuple[LayerNode, ...]
    layers: tuple[PlanChange, ...]
    parameters: tuple[PlanChange, ...]
    totals: tuple[PlanChange, ...]

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.layers or self.parameters or self.totals)

    def text(self, width: int = 120) -> str:
        """The tables; names that differ in the same way share a line."""
        if not self:
            return "no difference in layers, initialisation, freezing, groups or cost"
        parts = []
        for head, layers in (("only in the first", self.removed), ("only in the second", self.added)):
            if layers:
                parts.append(_only(head, layers, width))
        parts += [_changes(changes, name, width) for changes, name in ((self.layers, "layer"), (self.parameters, "parameter"))]
        parts.append(_changes(self.totals, "in all", width))
        return "\n\n".join(filter(None, parts))

    def __str__(self) -> str:
        return self.text()

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for `--json`; the texts are as printed."""
        changes = {name: [vars(change) for change in getattr(self, name)] for name in ("layers", "parameters", "totals")}
        return {"schema": 1, "removed": [layer.name for layer in self.removed], "added": [layer.name for layer in self.added], **changes}


def compare(first: Overview, second: Overview) -> Difference:
    """The difference of two plans; layers and parameters are the same where their names are.

    Example:
        >>> import modelfactory as mf
        >>> first, second = (mf.plan(mf.compose(f"init={name}")) for name in ("kaiming_normal", "lecun_normal"))
        >>> print(first.against(second))
        parameter                what    first           second
        fc1.weight and 2 others  scheme  kaiming_normal  lecun_normal
        fc1.weight and 2 others  gain    1.414           1
        fc1.weight               std     0.1768          0.125
        fc2.weight and 1 other   std     0.0625          0.04419
    """
    before, after = ({layer.name: layer for layer in overview.layers} for overview in (first, second))
    layers = []
    for name in before.keys() & after.keys():
        for what, (of, text) in _OF_LAYERS.items():
            layers += _changed(name, what, of(before[name]), of(after[name]), text)
    old, new = ({row.name: row for row in overview.rows} for overview in (first, second))
    parameters = [change for name in old if name in new for change in _changed_values(old[name], new[name])]
    totals = []
    for what, (attribute, text) in _OF_TOTALS.items():
        totals += _changed("", what, getattr(first.totals, attribute), getattr(second.totals, attribute), text)
    order = {name: index for index, name in enumerate(before)}
    return Difference(
        tuple(layer for name, layer in before.items() if name not in after),
        tuple(layer for name, layer in after.items() if name not in before),
        tuple(sorted(layers, key=lambda change: order[change.name])),
        tuple(parameters),
        tuple(totals),
    )


def _changed(name: str, what: str, before: Any, after: Any, text: Callable[[Any], str]) -> list[PlanChange]:
    if before == after:
        return []
    return [PlanChange(name, what, *("not known" if value is None else text(value) for value in (before, after)))]


def _changed_values(old: LedgerRow, new: LedgerRow) -> list[PlanChange]:
    pairs = [*zip(_OF_VALUES, initialised(old), initialised(new), strict=True), ("shape", old.shape, new.shape)]
    pairs += [("trains", _trains(old), _trains(new))]
    return [PlanChange(old.name, what, before or "-", after or "-") for what, before, after in pairs if before != after]


def _trains(row: LedgerRow) -> str:
    return f"in group {row.group or 'default'}" if row.trainable else "frozen"


def _changes(changes: Sequence[PlanChange], head: str, width: int) -> str:
    """A table in which all names that differ in one way share a line."""
    if not changes:
        return ""
    names: dict[tuple[str, str, str], list[str]] = {}
    for change in changes:
        names.setdefault((change.what, change.before, change.after), []).append(change.name)
    shown = [f"{name} and {len(more):,} other{'s' * (len(more) > 1)}" if more else name for name, *more in names.values()]
    what, before, after = zip(*names, strict=True)
    first = Column(head, tuple(shown)) if any(shown) else Column(head, what)
    columns = [first, *([Column("what", what)] if any(shown) else []), Column("first", before), Column("second", after)]
    return table(columns, width)


def _only(head: str, layers: Sequence[LayerNode], width: int, limit: int = 40) -> str:
    """A table of layers that one plan alone has."""
    shown = layers[:limit]
    columns = [
        Column(head, tuple(layer.name for layer in shown)),
        Column("type", tuple(layer.kind for layer in shown)),
        Column("output", tuple(shape_text(layer.output) for layer in shown)),
        Column("parameters", tuple(f"{layer.parameters:,}" if layer.rows else "" for layer in shown), right=True),
    ]
    more = f"\n... and {len(layers) - limit:,} more" if len(layers) > limit else ""
    return table(columns, width) + more
