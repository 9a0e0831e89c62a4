"""The command `modelfactory list`: what there is to choose from, a line each. Nothing here imports torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from modelfactory.config.errors import ConfigError, Problem, did_you_mean
from modelfactory.config.search_path import config_folder

_LIST = "Lists the groups, or the configs of a group with a line on each."
_EXAMPLES = """\
examples
  modelfactory list
  modelfactory list init
  modelfactory list backbone 'resnet*'
  modelfactory list data -cd my_project/conf"""


def list_configs(arguments: Sequence[str]) -> str:
    """Give what `modelfactory list ARGUMENTS` prints.

    Raises:
        ConfigError: there is no such group, or nothing in it that the pattern picks.

    Example:
        >>> print(list_configs(["freeze", "s*"]))
        staged  The backbone stays as it was pretrained at first, and trains from an epoch on
    """
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="modelfactory list", description=_LIST, epilog=_EXAMPLES, formatter_class=kind, allow_abbrev=False
    )
    parser.add_argument("group", metavar="GROUP", nargs="?", help="such as model, init, backbone or data")
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", help="a glob over the names, or a part of one")
    parser.add_argument("-cd", "--config-dir", metavar="DIR", help="a folder of your own configs, whose groups are listed too")
    given = parser.parse_args(list(arguments))
    folders = [config_folder()]
    if given.config_dir is not None:
        folders.insert(0, Path(given.config_dir))
        if not folders[0].is_dir():
            raise ConfigError([Problem("--config-dir", f"{given.config_dir!r} is not a folder")])
    groups = _groups(folders)
    if given.group is None:
        return _columns([(group, f"{len(configs)} configs: {_few(list(configs))}") for group, configs in groups.items()])
    if given.group not in groups:
        raise ConfigError([Problem("", f"{given.group!r} is not a group{did_you_mean(given.group, groups)}")])
    configs = groups[given.group]
    picked = [name for name in configs if _picks(given.pattern, name)]
    if not picked:
        message = f"{given.pattern!r} picks no config of {given.group}{did_you_mean(given.pattern, configs)}"
        raise ConfigError([Problem("", message)])
    return _columns([(name, _about(configs[name])) for name in picked])


def group_names() -> list[str]:
    """Give the names of our groups.

    Example:
        >>> group_names()[:2]
        ['activation', 'backbone']
    """
    return list(_groups([config_folder()]))


def _groups(folders: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """The configs of each group, by name; those of the first folder win."""
    found: dict[str, dict[str, Path]] = {}
    for folder in folders:
        for group in sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "hydra" and path.name[0] not in "._"):
            for file in sorted(group.glob("*.yaml")):
                found.setdefault(group.name, {}).setdefault(file.stem, file)
    return {group: dict(sorted(configs.items())) for group, configs in sorted(found.items()) if configs}


def _picks(pattern: str | None, name: str) -> bool:
    return pattern is None or fnmatchcase(name, pattern) or pattern in name


def _about(file: Path) -> str:
    """A line on a config: its first comment, else its first line."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    named = "; pretrained" if any(line.startswith("weights:") and "DEFAULT" in line for line in lines) else ""
    comments = [line.lstrip("# ") for line in lines if line.startswith("#") and not line.startswith("# @package")]
    return (comments or lines or [""])[0] + named


def _few(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _columns(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}".rstrip() for name, text in rows)
