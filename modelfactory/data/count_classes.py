"""Count the classes of data that a config only names, by loading as little as does."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.config.schema import join
from modelfactory.data.byte_windows import BYTES
from modelfactory.data.image_folder import check_folder, classes_of
from modelfactory.data.spec import find_factory, load_source, read_data

log = logging.getLogger(__name__)
_KNOWN = {"digits": 10, "wine": 3, "diabetes": 1, "mnist": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100, "byte_windows": BYTES}


def count_classes(mapping: Mapping[str, Any], path: str = "data") -> int:
    """Count the classes of a `data` group, or the values a sample of a regression.

    Ours tell it without being loaded, an image folder by its folders; a function of a project's own is called, and its data are counted.

    Raises:
        ConfigError: they cannot be counted, with the reason.

    Example:
        >>> digits = {"_target_": "modelfactory.data.digits"}
        >>> count_classes(digits), count_classes({**digits, "classes": [5, 6]})
        (10, 2)
        >>> count_classes({"input_shape": [3]})
        Traceback (most recent call last):
        modelfactory.config.errors.ConfigError: data.num_classes: null, and there is no _target_ whose data can be counted; give the number
    """
    if isinstance(mapping.get("classes"), (list, tuple)):
        return len(mapping["classes"])
    where, problems = join(path, "num_classes"), Problems()
    if mapping.get("_target_") is None:
        raise ConfigError([Problem(where, "null, and there is no _target_ whose data can be counted; give the number")])
    factory = find_factory(mapping["_target_"], join(path, "_target_"), problems)
    problems.raise_if_any()
    argument = inspect.signature(factory).parameters.get("num_classes") if factory is not None else None
    if argument is not None and isinstance(argument.default, int):
        return argument.default
    if factory is not None and factory.__module__.startswith("modelfactory.data."):
        return _KNOWN[factory.__name__] if factory.__name__ in _KNOWN else _count_folders(mapping, path)
    source = read_data({**mapping, "num_classes": None}, problems, path)
    if source is None:
        raise ConfigError(problems)
    counted = load_source(source).num_classes
    log.info("%s: %d, counted in the data", where, counted)
    return counted


def _count_folders(mapping: Mapping[str, Any], path: str) -> int:
    """The classes of an image folder.

    Raises:
        ConfigError: it is not there.
    """
    problems = Problems()
    root = mapping.get("root")
    if not isinstance(root, str):
        raise ConfigError([Problem(join(path, "root"), f"{root!r} is not a folder; give one, or {path}.num_classes")])
    folders = check_folder(Path(root), (mapping.get("val_fraction"), mapping.get("test_fraction")), path, problems)
    if folders is None:
        told = f"{path}.num_classes is null, so that classes are counted there; the number may be given"
        raise ConfigError(Problem(problem.path, f"{problem.message} ({told})") for problem in problems)
    return len(classes_of(folders["train"]))
