"""The config's own figures under `model` (`depth: 10`, for ${model.depth} to use): which of them nothing uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

_USED = re.compile(r"\bmodel\.(\w+)|\$\{\s*\.+(?:model\.)?(\w+)")


def unused_figures(cfg: Any) -> tuple[list[str], list[str]]:
    """Names of plain values under `model` that no interpolation of the config uses, and of those that one does.

    Of a config without any interpolation under `model`, such as one that was resolved, nothing can be told: both are empty.

    Example:
        >>> cfg = {"model": {"widht": 3, "width": 4, "layers": {"fc": {"out_features": "${model.width}"}}}}
        >>> unused_figures(OmegaConf.create(cfg))
        (['widht'], ['width'])
    """
    model = cfg.get("model") if isinstance(cfg, DictConfig) and not OmegaConf.is_missing(cfg, "model") else None
    if not isinstance(model, DictConfig) or "layers" not in model:
        return [], []
    if not any(True for _ in _texts(OmegaConf.to_container(model, resolve=False))):
        return [], []
    texts = _texts(OmegaConf.to_container(cfg, resolve=False))
    used = {name for text in texts for pair in _USED.findall(text) for name in pair if name}
    plain = [str(key) for key in model if not OmegaConf.is_config(model._get_node(key)) and key != "_target_"]
    return [name for name in plain if name not in used], [name for name in plain if name in used]


def _texts(value: Any) -> Iterator[str]:
    """Every text with an interpolation in it."""
    if isinstance(value, str) and "${" in value:
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
