"""Packages that stand beside the configs of a project and are not installed: found where Python or the environment trusts them by name.

`python my_script.py` finds what is beside the script, and the console script by itself nothing but what is installed. No other name is
looked up there, so that a file in the folder of a config cannot stand in for a library that is missing.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

_folders: list[str] = []


def look_beside(words: Iterable[str]) -> None:
    """Have trusted packages looked for in the current folder and beside the folder of configs that a command line names, if it names one.

    Example:
        >>> look_beside(["plan", "-cd", "my_project/conf", "model=my_net"])
        >>> _folders[-2:] == [str(Path("my_project").absolute()), str(Path("my_project/conf").absolute())]
        True
    """
    given, place = list(words), None
    for index, word in enumerate(given):
        option, _, value = word.partition("=")
        if option in ("-cd", "--config-dir"):
            place = value or (given[index + 1] if index + 1 < len(given) else None)
    configs = [] if place is None else [Path(place).absolute().parent, Path(place).absolute()]
    for folder in map(str, (Path.cwd(), *configs)):
        if folder not in _folders:
            _folders.append(folder)


def import_trusted(package: str) -> ModuleType:
    """Import a package that is trusted: the one that Python finds, or else the one of those folders.

    Its folder is put at the end of Python's path then, for the processes that run jobs or load data.

    Raises:
        ModuleNotFoundError: there is none.

    Example:
        >>> import_trusted("json").__name__
        'json'
    """
    top = package.partition(".")[0]
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != top:
            raise
        folder = next((folder for folder in _folders if PathFinder.find_spec(top, [folder]) is not None), None)
        if folder is None:
            raise
        sys.path.append(folder)
    return importlib.import_module(package)
