"""What a config may make Hydra itself call: its `hydra` node names classes too (callbacks, launchers, logging handlers)."""

from __future__ import annotations

import pkgutil
from collections.abc import Container, Mapping, Sequence
from typing import Any

from modelfactory.config.errors import Problems
from modelfactory.config.schema import join
from modelfactory.config.target import trusted

_NAMING = ("_target_", "()", "class", "queue", "listener")  # the last four are those of Python's logging configuration
_HARMLESS = {
    "modelfactory.cli.hydra_app.CheckBeforeRun",
    "hydra.experimental.callbacks.LogJobReturnCallback",
    "hydra.experimental.callbacks.PickleJobInfoCallback",
    "colorlog.ColoredFormatter",
    "logging.Formatter",
    "logging.FileHandler",
    "logging.NullHandler",
    "logging.StreamHandler",
    "logging.handlers.RotatingFileHandler",
    "logging.handlers.TimedRotatingFileHandler",
    "ext://sys.stderr",
    "ext://sys.stdout",
}
_NOT_FOR_CONFIGS = ("MODELFACTORY_TRUST", "HYDRA_INSTANTIATE_ALLOWLIST_OVERRIDE")


def check_hydra(node: Any, plugins: Container[str], problems: Problems, unresolved: type[Exception] = KeyError) -> None:
    """Adds a problem for all that Hydra's own node would call or import without Python having allowed it.

    Args:
        node: the `hydra` node of a composed config.
        plugins: full names of the plugin classes that are installed.
        unresolved: what is raised for a value that does not resolve yet; such a value is passed over.

    Example:
        >>> problems = Problems()
        >>> check_hydra({"callbacks": {"x": {"_target_": "torch.load"}}}, (), problems)
        >>> print(*problems)
        hydra.callbacks.x._target_: 'torch.load' is refused: Hydra may call its plugins and what mf.trust allows
    """
    for name in _NOT_FOR_CONFIGS:
        if name in node.get("job", {}).get("env_set", {}):
            problems.add(f"hydra.job.env_set.{name}", "is refused: what is trusted is for Python and the environment to say")
    _walk(node, "hydra", plugins, problems, unresolved)


def _walk(
    node: Any, path: str, plugins: Container[str], problems: Problems, unresolved: type[Exception], depth: int = 0
) -> None:
    for key in node if isinstance(node, Mapping) or hasattr(node, "keys") else range(len(node)):
        where = join(path, str(key))
        try:
            value = node[key]
        except unresolved:  # whatever in this node it can lead to later is walked where it is
            continue
        if isinstance(value, str):
            if (key in _NAMING or value.startswith("ext://")) and not _allowed(value, plugins):
                problems.add(where, f"{value!r} is refused: Hydra may call its plugins and what mf.trust allows")
        elif (isinstance(value, Sequence | Mapping) or hasattr(value, "keys")) and depth < 50:
            _walk(value, where, plugins, problems, unresolved, depth + 1)


def _allowed(name: str, plugins: Container[str]) -> bool:
    if name in _HARMLESS or name in plugins:
        return True
    package = name.partition(".")[0]
    if package not in trusted():
        return False
    try:  # as written it is inside a trusted package; what it leads to must be too
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return False
    return str(getattr(found, "__module__", "")).partition(".")[0] == package
