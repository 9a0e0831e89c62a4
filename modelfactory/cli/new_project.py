"""The command `modelfactory new`: a project that uses this package, to begin with. Nothing here imports torch."""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
from collections.abc import Sequence
from pathlib import Path

from modelfactory.config.errors import ConfigError, Problem
from modelfactory.config.files import write_text

_NEW = """\
Writes a project that uses modelfactory: a Hydra application of its own, groups of its own beside ours, and a package with
data, a layer and an initialisation, each a few lines to be replaced. README.md there has its commands."""
_EXAMPLES = """\
examples
  modelfactory new my_project
  modelfactory new work/experiments-2 --name flowers      the package's name, where the folder's cannot be one"""
_NAME = "other_project"  # of the package of the project that is copied


def new(arguments: Sequence[str]) -> str:
    """Do what `modelfactory new ARGUMENTS` does, and give what it prints.

    Raises:
        ConfigError: there is something in the folder, or the name cannot be a package's.

    Example:
        >>> new(["a/class"])
        Traceback (most recent call last):
        modelfactory.config.errors.ConfigError: --name: 'class' cannot be the name of a package; give small letters, such as my_project
    """
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="modelfactory new", description=_NEW, epilog=_EXAMPLES, formatter_class=kind, allow_abbrev=False)
    parser.add_argument("folder", metavar="DIR", help="where the project goes; it may be there if it is empty")
    parser.add_argument("--name", help="of its package (default: the folder's)")
    given = parser.parse_args(list(arguments))
    folder = Path(given.folder)
    name = given.name or re.sub(r"[^a-z0-9]+", "_", folder.resolve().name.lower()).strip("_")
    _check_name(name)
    if folder.is_file() or folder.is_dir() and any(folder.iterdir()):
        what = "is a file" if folder.is_file() else "is not empty"
        raise ConfigError([Problem("", f"{given.folder} {what}; give a folder that is not there, or is empty")])
    written = _write(_template(), folder, name)
    listed = "\n".join(f"  {path}" for path in written)
    return f"{folder}: a project with the package {name}\n{listed}\n\nnext:\n  cd {folder}\n  python train.py"


def _check_name(name: str) -> None:
    fix = "give small letters, such as my_project"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError([Problem("--name", f"{name!r} cannot be the name of a package; {fix}")])
    if name in ("train", "conf") or importlib.util.find_spec(name) is not None:
        raise ConfigError([Problem("--name", f"{name!r} is the name of another module; give one that is not taken")])


def _template() -> Path:
    """The project that is copied: inside the package when installed, among the examples in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / _NAME
    return installed if installed.is_dir() else package.parent / "examples" / _NAME


def _write(template: Path, folder: Path, name: str) -> list[str]:
    """Copy the files that belong to the project, with its name in them; give their paths."""
    files = [path.relative_to(template) for path in sorted(template.rglob("*")) if path.suffix in (".py", ".yaml", ".md")]
    written = []
    for path in files:
        if path.parts[0] in ("outputs", "multirun") or "__pycache__" in path.parts:
            continue
        target = Path(*(name if part == _NAME else part for part in path.parts))
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / target, (template / path).read_text(encoding="utf-8").replace(_NAME, name))
        written.append(str(target))
    return written
