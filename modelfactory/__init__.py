"""Declarative, config-driven models for PyTorch, with every parameter accounted for.

Names are imported when they are first used, so that `import modelfactory` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelfactory.config import compose
    from modelfactory.errors import ConfigError, ModelFactoryError, SchemeError, TrainingError
    from modelfactory.freezing import freeze
    from modelfactory.init.calibrate import calibrate
    from modelfactory.initializing import initialize
    from modelfactory.layers import Item, Parallel, Permute, PositionalEmbedding, Reduce, Residual, Select, SelfAttention
    from modelfactory.ledger import Ledger
    from modelfactory.planning import Plan
    from modelfactory.records import Result
    from modelfactory.reporting import report
    from modelfactory.run import build, load, plan, train
    from modelfactory.signalling import signal
    from modelfactory.target import trust

__all__ = [
    "ConfigError",
    "Item",
    "Ledger",
    "ModelFactoryError",
    "Parallel",
    "Permute",
    "Plan",
    "PositionalEmbedding",
    "Reduce",
    "Residual",
    "Result",
    "SchemeError",
    "Select",
    "SelfAttention",
    "TrainingError",
    "build",
    "calibrate",
    "compose",
    "freeze",
    "initialize",
    "load",
    "plan",
    "report",
    "signal",
    "train",
    "trust",
]

_NAMES = {
    "modelfactory.config": ("compose",),
    "modelfactory.errors": ("ConfigError", "ModelFactoryError", "SchemeError", "TrainingError"),
    "modelfactory.freezing": ("freeze",),
    "modelfactory.layers": (
        "Item",
        "Parallel",
        "Permute",
        "PositionalEmbedding",
        "Reduce",
        "Residual",
        "Select",
        "SelfAttention",
    ),
    "modelfactory.ledger": ("Ledger",),
    "modelfactory.init.calibrate": ("calibrate",),
    "modelfactory.initializing": ("initialize",),
    "modelfactory.planning": ("Plan",),
    "modelfactory.records": ("Result",),
    "modelfactory.reporting": ("report",),
    "modelfactory.run": ("build", "load", "plan", "train"),
    "modelfactory.signalling": ("signal",),
    "modelfactory.target": ("trust",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
