"""What a config leaves to its data: `data.num_classes: null` becomes a number before what refers to it is resolved."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

Infer = Callable[[Mapping[str, Any]], int]
"""Gives the number of classes of a `data` group, resolved; raises ConfigError where it cannot be told."""
_KEY = "num_classes"
_REFERENCE = re.compile(rf"\$\{{[^{{}}]*\bdata[.]{_KEY}\s*\}}")


def with_num_classes(cfg: DictConfig, path: Sequence[Any], infer: Infer) -> DictConfig:
    """The config with the number of classes that its data have, where it says null and something refers to it; else the config itself.

    Args:
        path: of the `data` group.

    Raises:
        ConfigError: the number cannot be told.

    Example:
        >>> cfg = OmegaConf.create({"data": {"num_classes": None, "root": "a"}, "size": "${data.num_classes}"})
        >>> with_num_classes(cfg, ["data"], lambda data: len(data)).size, cfg.data.num_classes
        (2, None)
    """
    node: Any = cfg
    for key in path:
        if not isinstance(node, DictConfig) or key not in node or OmegaConf.is_missing(node, key):
            return cfg
        node = node[key]
    if not isinstance(node, DictConfig) or _KEY not in node or OmegaConf.is_missing(node, _KEY) or node[_KEY] is not None:
        return cfg
    written: Any = OmegaConf.to_container(cfg, resolve=False)
    if not _refers(written):
        return cfg
    try:
        data: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException:  # told when all of it is resolved
        return cfg
    number = infer(data)
    made: Any = OmegaConf.create(written, flags={"allow_objects": True})
    OmegaConf.update(made, ".".join(map(str, (*path, _KEY))), number)
    return made


def _refers(value: Any) -> bool:
    """Whether anything in a config, as it is written, refers to the number of classes."""
    if isinstance(value, Mapping):
        return any(map(_refers, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_refers, value))
    return isinstance(value, str) and _REFERENCE.search(value) is not None
