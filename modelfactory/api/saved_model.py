"""Build the model of a run again from its one file: architecture and weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.config.nesting import check_depth
from modelfactory.model.backbone.spec import without_files
from modelfactory.model.blueprint import assemble
from modelfactory.model.weights.files import WEIGHTS
from modelfactory.parameters.freezing import apply_frozen, choose_frozen
from modelfactory.parameters.roles import describe
from modelfactory.planning.spec import read_spec
from modelfactory.training.checkpoint import load_into, read_weights


def load(path: str | os.PathLike[str]) -> nn.Module:
    """The model that a run left, from its one file: architecture and weights, in evaluation mode.

    Runs no code from the file: the classes that its config names must be allowed as in any config.

    Args:
        path: a model.safetensors, or the directory of a run.

    Raises:
        ConfigError: no such file, no config in it, a class that is not trusted, weights of another model.

    Example:
        >>> import tempfile
        >>> import modelfactory as mf
        >>> cfg = mf.compose("trainer=debug", "trainer.device=cpu", "trainer.progress=none")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = mf.train(cfg, run_dir=folder)
        ...     model = load(f"{folder}/model.safetensors")
        >>> model.head
        Linear(in_features=512, out_features=10, bias=True)
    """
    file = Path(path)
    if file.is_dir():
        file = file / WEIGHTS
    weights = read_weights(file)
    if not isinstance(weights.config, Mapping):
        raise ConfigError([Problem("", f"{file} carries no config, so its model cannot be built again")])
    check_depth(weights.config)
    problems = Problems()
    of_model = ("seed", "data", "backbone", "model", "init", "freeze", "optimizer")
    config = {name: value for name, value in weights.config.items() if name in of_model}
    spec = read_spec({**config, "backbone": without_files(config.get("backbone"))}, problems)
    if spec is None:
        raise ConfigError(problems)
    draft = assemble(spec.node, spec.seed)
    infos = describe(draft.module)
    frozen = choose_frozen(infos, spec.freeze, draft.definitions, problems)
    problems.raise_if_any()
    epoch = int(weights.metadata.get("modelfactory.epoch", 0))
    frozen = {key: until for key, until in frozen.items() if until is None or until > epoch}
    # first, since what is loaded may come in new parameters, which take over requires_grad
    apply_frozen(draft.module, frozen, spec.freeze.dropout)
    load_into(draft.module, weights.tensors, "", str(file), assign=all(len(info.names) == 1 for info in infos))
    return draft.module.eval()
