"""The audit of the model that a config describes: built, loaded from a checkpoint where one is given, looked at with its data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from modelfactory.api.existing_model import load_data
from modelfactory.api.run import build, check
from modelfactory.auditing.audit import audit_with
from modelfactory.auditing.finding import Audit
from modelfactory.auditing.loaded import Checkpoint, load_fitting, read_checkpoint
from modelfactory.config.compose import to_plain
from modelfactory.config.errors import contained
from modelfactory.data.count_classes import count_classes

_MOST_INPUTS = 32


def audit_config(cfg: Any, checkpoint: str | os.PathLike[str] | None = None) -> Audit:
    """Audits the model of a config, on its first batch where the config has data.

    Args:
        checkpoint: a file of weights, or the directory of a run, that is put into the model first as far as it fits.

    Raises:
        ConfigError: a config that is wrong, or no such checkpoint.

    Example:
        >>> import modelfactory as mf
        >>> print(audit_config(mf.compose("model=mlp", "model.width=32", "init=xavier_normal")))
        clean: nothing is wrong with the initial values
    """
    check(cfg)
    model = build(cfg)
    opened: Checkpoint | None = None
    if checkpoint is not None:
        opened = read_checkpoint(model, checkpoint)
        load_fitting(model, opened)
    failures: list[str] = []
    batch = None
    with contained("the first batch of data", failures):
        batch = _batch(to_plain(cfg, count_classes), model)
    found = audit_with(model, batch, opened)
    return Audit(found.findings, (*failures, *found.notes))


def _batch(config: Mapping[str, Any], model: nn.Module) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Inputs and targets of the config's data, on the model's device; None of a config that names no data."""
    given = config.get("data")
    if not isinstance(given, Mapping) or "_target_" not in given:
        return None
    data = load_data(config)
    parameter = next(model.parameters(), torch.empty(0))
    inputs, targets = (tensor.to(parameter.device) for tensor in data.train.sample(min(data.batch_size, _MOST_INPUTS)))
    return inputs, targets
