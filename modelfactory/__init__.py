"""Declarative, config-driven models for PyTorch, with every parameter accounted for.

Names are imported when they are first used, so that `import modelfactory` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelfactory.api.coordcheck import coordcheck
    from modelfactory.api.own_loop import build_data, build_optimizer, build_scheduler, evaluate, predict
    from modelfactory.api.run import build, plan, train
    from modelfactory.api.saved_model import load
    from modelfactory.auditing.audit import audit
    from modelfactory.auditing.finding import Audit
    from modelfactory.cli.sweep import sweep
    from modelfactory.config.compose import compose
    from modelfactory.config.errors import ConfigError, ModelFactoryError, SchemeError, TrainingError
    from modelfactory.config.target import trust
    from modelfactory.init.calibrate import calibrate
    from modelfactory.init.existing_model import initialize
    from modelfactory.init.ledger import Ledger
    from modelfactory.model.layers.containers import Parallel, Residual
    from modelfactory.model.layers.glue import Item, Permute, PositionalEmbedding, Reduce, Select, SelfAttention
    from modelfactory.model.layers.transformer import Attention, GatedMLP, SinusoidalPositions
    from modelfactory.parameters.freezing import freeze
    from modelfactory.planning.materialize import Built
    from modelfactory.planning.plan import Plan
    from modelfactory.reporting.report import report
    from modelfactory.signal_propagation.probe import signal
    from modelfactory.training.muon import Muon
    from modelfactory.training.result import Result

__all__ = [
    "Attention",
    "Audit",
    "Built",
    "ConfigError",
    "GatedMLP",
    "Item",
    "Ledger",
    "ModelFactoryError",
    "Muon",
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
    "SinusoidalPositions",
    "TrainingError",
    "audit",
    "build",
    "build_data",
    "build_optimizer",
    "build_scheduler",
    "calibrate",
    "compose",
    "coordcheck",
    "evaluate",
    "freeze",
    "initialize",
    "load",
    "plan",
    "predict",
    "report",
    "signal",
    "sweep",
    "train",
    "trust",
]

_NAMES = {
    "modelfactory.api.coordcheck": ("coordcheck",),
    "modelfactory.api.own_loop": ("build_data", "build_optimizer", "build_scheduler", "evaluate", "predict"),
    "modelfactory.api.run": ("build", "plan", "train"),
    "modelfactory.api.saved_model": ("load",),
    "modelfactory.auditing.audit": ("audit",),
    "modelfactory.auditing.finding": ("Audit",),
    "modelfactory.cli.sweep": ("sweep",),
    "modelfactory.config.compose": ("compose",),
    "modelfactory.config.errors": ("ConfigError", "ModelFactoryError", "SchemeError", "TrainingError"),
    "modelfactory.config.target": ("trust",),
    "modelfactory.init.calibrate": ("calibrate",),
    "modelfactory.init.existing_model": ("initialize",),
    "modelfactory.init.ledger": ("Ledger",),
    "modelfactory.model.layers.containers": ("Parallel", "Residual"),
    "modelfactory.model.layers.glue": ("Item", "Permute", "PositionalEmbedding", "Reduce", "Select", "SelfAttention"),
    "modelfactory.model.layers.transformer": ("Attention", "GatedMLP", "SinusoidalPositions"),
    "modelfactory.parameters.freezing": ("freeze",),
    "modelfactory.planning.materialize": ("Built",),
    "modelfactory.planning.plan": ("Plan",),
    "modelfactory.reporting.report": ("report",),
    "modelfactory.signal_propagation.probe": ("signal",),
    "modelfactory.training.muon": ("Muon",),
    "modelfactory.training.result": ("Result",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
