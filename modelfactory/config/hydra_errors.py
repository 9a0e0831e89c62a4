"""What the config library says of a wrong config, told in our way: the path, the value and what would do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from modelfactory.config.errors import Problem, did_you_mean

NO_OPTION = re.compile(r"Could not find '([^']+)/([^'/]+)'")
NO_SUCH_KEY = "there is no such key"
_NO_CONFIG = re.compile(r"Cannot find primary config '([^']+)'")
_NO_KEY = re.compile(r"Could not (override|append|delete)[^']*'([^']+)'")


def complaint(error: Exception) -> Problem:
    """An error of Hydra or OmegaConf as a problem of the config.

    Example:
        >>> error = ValueError("In 'config': Could not find 'model/mpl'\\nAvailable options in 'model':\\n\\tmlp\\n\\tcnn")
        >>> print(complaint(error))
        model: 'mpl' is not a config of model; did you mean 'mlp'?
    """
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if found := NO_OPTION.search(text):
        group, name = found.groups()
        options = lines[_index(lines, "Available options") + 1 :]
        choices = [line for line in options if re.fullmatch(r"[\w\-]+", line)]
        return Problem(group, f"{name!r} is not a config of {group}{did_you_mean(name, choices, limit=40)}")
    if found := _NO_CONFIG.search(text):
        return Problem("--config-name", f"there is no config {found[1]!r} in {_searched(lines) or 'the folders searched'}")
    if (found := _NO_KEY.search(text)) and not text.startswith("Could not append"):
        path = found[2].partition("@")[0]
        return Problem(path, f"{NO_SUCH_KEY}{_hint(error, path)}")
    if text.startswith("Config group override must be a string"):
        return Problem("", "a group is given null or a number; give the name of one of its configs, such as data=digits")
    path = str(getattr(error, "full_key", None) or "")
    return Problem(path, "; ".join(line for line in lines[:3] if "https://" not in line) or type(error).__name__)


def mapping_for_group(group: str, options: Sequence[str]) -> Problem:
    """The problem of a group that is given a mapping with a key that its config has not.

    Example:
        >>> print(mapping_for_group("optimizer", ["adam", "sgd"]))
        optimizer: is a group, and the mapping has a key that its config has not; give the name of a config of it (adam, sgd), or \
single keys, such as optimizer.KEY=VALUE
    """
    names = ", ".join(options[:12]) + (", ..." if len(options) > 12 else "")
    own = ""
    if group == "model":
        own = "for a class of your own, write model=own model._target_=my_pkg.MyNet +model.ARGUMENT=VALUE; else "
    what = "is a group, and the mapping has a key that its config has not"
    return Problem(group, f"{what}; {own}give the name of a config of it ({names}), or single keys, such as {group}.KEY=VALUE")


def _index(lines: list[str], start: str) -> int:
    return next((index for index, line in enumerate(lines) if line.startswith(start)), len(lines))


def _searched(lines: list[str]) -> str:
    """The folders in Hydra's listing of its search path, without its own."""
    paths = [line.partition("path=")[2] for line in lines if "path=" in line]
    return ", ".join(path.removeprefix("file://") for path in paths if path not in ("pkg://hydra.conf", "structured://"))


def _hint(error: Exception, path: str) -> str:
    """The nearest key of the node where the path leads nowhere, when the library tells which node that is."""
    parent: Any = getattr(error.__cause__, "parent_node", None)
    choices = [str(key) for key in parent if key != "hydra"] if hasattr(parent, "keys") else []
    wrong = str(getattr(error.__cause__, "key", None) or path.rpartition(".")[2])
    nearest = did_you_mean(wrong, choices) if choices else ""
    add = "" if nearest.startswith("; did you mean") else f"; to add a key, write +{path}=..."
    return nearest + add
