"""Check and apply the logging that a config asks for: Python's `logging.config`, whose nodes name classes to call and files to write.

Handlers, formatters and filters are Python's own that write to the terminal or to a file of the run, colorlog's formatter, and what
is trusted; each with the arguments it is known by. A reference into the config (`cfg://`) or to an object (`ext://`), an attribute
that is set afterwards (the key `.`), a queue and a listener name things that this table does not show, and are refused.
"""

from __future__ import annotations

import logging
import logging.config
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelfactory.config.errors import Problems
from modelfactory.config.hydra_allowlist import CALLBACKS, MAX_DEPTH, check_below, check_names, is_trusted
from modelfactory.config.schema import join
from modelfactory.config.target import resolve, trust, trusted

_FILE = frozenset("filename mode encoding delay errors".split())
_HANDLERS = {
    "logging.NullHandler": frozenset(),
    "logging.StreamHandler": frozenset({"stream"}),
    "logging.FileHandler": _FILE,
    "logging.handlers.WatchedFileHandler": _FILE,
    "logging.handlers.RotatingFileHandler": _FILE | {"maxBytes", "backupCount"},
    "logging.handlers.TimedRotatingFileHandler": _FILE | {"when", "interval", "backupCount", "utc", "atTime"},
}
_OF_ANY_HANDLER = frozenset({"class", "()", "level", "formatter", "filters", "name"})
_FORMATTERS = ("logging.Formatter", "colorlog.ColoredFormatter")
_CALLED = ("()", "class", "queue", "listener", "factory", "_target_")
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_SUFFIXES = (".log", ".txt", ".out", ".err", ".json", ".jsonl", ".csv")  # what nothing executes


def check_logging(config: Any, path: str, problems: Problems, folder: str | os.PathLike[str], start: str | os.PathLike[str] = "") -> Any:
    """The configuration with whole paths for the files of its handlers, or as it is where something in it is refused.

    Args:
        config: plain values, as logging.config.dictConfig takes them; None is no configuration.
        path: its config path, for the problems.
        folder: the run directory, below which handlers may write.
        start: where a relative path of a file begins, by itself or in the run directory.

    Example:
        >>> problems = Problems()
        >>> far = {"class": "logging.FileHandler", "filename": "/x.log"}
        >>> handlers = {"evil": {"class": "subprocess.Popen", "args": "true"}, "far": far}
        >>> made = check_logging({"version": 1, "handlers": handlers}, "hydra.job_logging", problems, "/runs/1")
        >>> print(*problems, sep="\\n")  # doctest: +ELLIPSIS
        hydra.job_logging.handlers.evil.class: 'subprocess.Popen' is refused: only ... may be named here
        hydra.job_logging.handlers.far.filename: '/x.log' is refused: it is not below the run directory, /runs/1
    """
    if config is None:
        return None
    if not isinstance(config, Mapping):
        problems.add(path, f"{config!r} is not a mapping")
        return config
    _check_texts(config, path, problems)
    made = dict(config)
    for section, check in (("formatters", _check_formatter), ("filters", _check_filter), ("handlers", _check_handler)):
        entries = config.get(section)
        if entries is None:
            continue
        if not isinstance(entries, Mapping) or not all(isinstance(entry, Mapping) for entry in entries.values()):
            problems.add(join(path, section), f"{entries!r} is not a mapping of names to mappings")
            continue
        made[section] = {
            name: check(entry, join(path, f"{section}.{name}"), problems, Path(folder), Path(folder, start))
            for name, entry in entries.items()
        }
    for name, value in config.items():
        if name not in ("formatters", "filters", "handlers"):
            check_names(value, join(path, str(name)), problems, _CALLED)
    return made


def whitelist() -> list[str]:
    """What Hydra, from 1.4 on, is told that a config may have it call: what is let through here, but for plugins, which it knows.

    Example:
        >>> "logging.StreamHandler" in whitelist(), "subprocess.Popen" in whitelist()
        (True, False)
    """
    return [*sorted(CALLBACKS), *_HANDLERS, *_FORMATTERS, *(name for package in trusted() for name in (package, f"{package}.*"))]


def configure_logging(config: Any, folder: str, trusted: Sequence[str] = ()) -> None:
    """Configures Python's logging as a config says, after checking it here, in the process that uses it.

    Args:
        config: plain values; None leaves logging as it is.
        folder: below which handlers may write.
        trusted: packages that the Python which began this process allowed configs to name.

    Raises:
        ConfigError: everything in it that is refused; nothing is configured then.

    Example:
        >>> far = {"class": "logging.FileHandler", "filename": "/x.log"}
        >>> configure_logging({"version": 1, "handlers": {"far": far}}, "/runs/1")
        Traceback (most recent call last):
        modelfactory.config.errors.ConfigError: hydra.job_logging.handlers.far.filename: '/x.log' is refused: it is not below the run \
directory, /runs/1
    """
    if config is None:
        return
    trust(*trusted)
    problems = Problems()
    checked = check_logging(config, "hydra.job_logging", problems, folder)
    problems.raise_if_any()
    logging.config.dictConfig(checked)


def _check_formatter(entry: Mapping[str, Any], path: str, problems: Problems, folder: Path, start: Path) -> Mapping[str, Any]:
    if entry.get("style") not in (None, "%", "$"):
        problems.add(join(path, "style"), f"{entry['style']!r} is refused: fields in braces reach into objects; give % or $")
    for key in ("()", "class"):
        if key in entry and entry[key] not in _FORMATTERS:
            resolve(entry[key], join(path, key), problems, "object")
    _check_rest(entry, path, problems)
    return entry


def _check_filter(entry: Mapping[str, Any], path: str, problems: Problems, folder: Path, start: Path) -> Mapping[str, Any]:
    if "()" in entry:
        resolve(entry["()"], join(path, "()"), problems, "object")
    _check_rest(entry, path, problems)
    return entry


def _check_handler(entry: Mapping[str, Any], path: str, problems: Problems, folder: Path, start: Path) -> Mapping[str, Any]:
    """Checks the class, its arguments and its file, which comes back as a whole path."""
    key = "()" if "()" in entry else "class"
    name = entry.get(key)
    if isinstance(name, str) and name in _HANDLERS:
        allowed = _HANDLERS[name] | _OF_ANY_HANDLER
        for argument in entry:
            if argument not in allowed or (argument in ("()", "class") and argument != key):
                problems.add(join(path, str(argument)), f"is refused: not an argument of {name} that a config may give")
    else:
        resolve(name, join(path, key), problems, "object")
    _check_rest(entry, path, problems)
    if "filename" not in entry or not isinstance(entry["filename"], (str, os.PathLike)):
        return entry
    whole = _check_file(entry["filename"], join(path, "filename"), problems, folder, start)
    return entry if whole is None else {**entry, "filename": str(whole)}


def _check_rest(entry: Mapping[str, Any], path: str, problems: Problems) -> None:
    """Checks what is nested in the arguments, and names of what is called beside the class."""
    for key, value in entry.items():
        if key not in ("()", "class"):
            check_names({key: value}, path, problems, _CALLED)


def _check_file(name: str | os.PathLike[str], path: str, problems: Problems, folder: Path, start: Path) -> Path | None:
    found = len(problems)
    whole = check_below(start.absolute() / name, folder, path, problems)
    if whole is None:
        return None
    parts = whole.relative_to(os.path.realpath(folder)).parts
    if any(part.startswith(".") for part in parts) or whole.suffix not in _SUFFIXES:
        problems.add(path, f"{str(name)!r} is refused: a log is no hidden file, and its name ends in one of {', '.join(_SUFFIXES)}")
    return whole if len(problems) == found else None


def _check_texts(value: Any, path: str, problems: Problems, depth: int = 0) -> None:
    """Adds every text that logging would take for a reference, and every attribute that it would set, wherever it is."""
    if depth > MAX_DEPTH:
        problems.add(path, f"is refused: it is nested deeper than {MAX_DEPTH} levels, and what is not looked at cannot be allowed")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key == ".":
                problems.add(join(path, "."), "is refused: attributes are set by arguments of the class")
            _check_texts(item, join(path, str(key)), problems, depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_texts(item, join(path, str(index)), problems, depth + 1)
    elif isinstance(value, str) and value.startswith(("ext://", "cfg://")) and value not in _STREAMS:
        name = value.removeprefix("ext://")
        if is_trusted(name):
            resolve(name, path, problems, "object")
        else:
            problems.add(path, f"{value!r} is refused: only {' and '.join(_STREAMS)} may be given")
