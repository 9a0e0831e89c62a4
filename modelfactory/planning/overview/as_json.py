"""A plan as plain data, for `--json` and `Plan.to_dict`.

The layout is stable: keys are added, never renamed or taken out, and `schema` goes up when a meaning changes. What is
not known, or does not apply, is null. Bytes are bytes, FLOPs are of one sample, "N" in a shape is the batch.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from modelfactory.init.ledger import LedgerRow

if TYPE_CHECKING:
    from modelfactory.planning.overview.overview import Overview

SCHEMA = 1


def record(overview: Overview) -> dict[str, Any]:
    """Everything the table shows, and every parameter, as what `json.dumps` takes."""
    totals = asdict(overview.totals)
    return {
        "schema": SCHEMA,
        "layers": [
            {
                "name": layer.name,
                "type": layer.kind,
                "output_shape": layer.output,
                "calls": layer.calls,
                "parameters": layer.parameters,
                "memory_bytes": layer.memory,
                "flops": layer.flops,
                "parameter_names": [row.name for row in layer.rows],
            }
            for layer in overview.layers
        ],
        "parameters": [plain_row(row) for row in overview.rows],
        "rules": [asdict(rule) for rule in overview.rules],
        "totals": {
            "parameters": totals["parameters"],
            "trainable": totals["trainable"],
            "tensors": totals["tensors"],
            "weights_bytes": totals["weights"],
            "buffers_bytes": totals["buffers"],
            "gradients_bytes": totals["gradients"],
            "optimizer": totals["optimizer_name"],
            "optimizer_bytes": totals["optimizer"],
            "activations_bytes": totals["outputs"],
            "flops": totals["flops"],
        },
        "signal": overview.signal.to_list(),
        "signal_verdict": overview.signal.verdict,
        "unknown": overview.unknown,
        "notes": list(overview.notes),
        "warnings": [
            {"message": getattr(warning, "message", str(warning)), "override": getattr(warning, "mend", None)}
            for warning in overview.warnings
        ],
    }


def plain_row(row: LedgerRow) -> dict[str, Any]:
    """A row of the ledger, its columns by name; NaN, which JSON has not, is null."""
    values = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in asdict(row).items()}
    return {**values, "names": row.name.split(" = ")}
