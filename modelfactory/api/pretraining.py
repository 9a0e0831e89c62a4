"""`backbone.weights: {train: [experiment=pretrain_digits]}`: weights of the run of a config, trained where it is not there yet.

The run is kept under a name that ends in a hash of its config, so that whoever asks for the same one, such as each job of a
sweep, finds it. A pretraining may have a pretraining itself.
"""

from __future__ import annotations

import glob
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelfactory.config.compose import compose, to_plain
from modelfactory.config.errors import ConfigError, Problem, Problems, did_you_mean
from modelfactory.config.schema import check_value, join
from modelfactory.data.count_classes import count_classes
from modelfactory.model.weights.files import WEIGHTS
from modelfactory.training.status import config_hash, read_result

log = logging.getLogger(__name__)
PATH = "backbone.weights"
_KEYS = ("train", "folder", "config_dir")
_FOLDER = "outputs/pretrained"
_NOT_TRAINED_YET = "run://"
MAX_CHAIN = 8  # pretrainings of which each trains the weights that the one before it begins with


def settle(
    config: dict[str, Any],
    problems: Problems,
    check: Callable[[dict[str, Any]], Any],
    train: Callable[[dict[str, Any], Path], Any] | None = None,
) -> dict[str, Any]:
    """The config with the directory of a run in place of `backbone.weights: {train: ...}`; another one comes back as it is.

    What is wrong with the pretraining goes to `problems`, under `backbone.weights`.

    Args:
        check: called with the config of the pretraining, raises what is wrong with it.
        train: trains a config into a directory. None: nothing is trained, and weights that are not there yet are like those
            of a URL that has not been fetched: they are taken to fit.

    Example:
        >>> config = {"backbone": {"name": "resnet18", "weights": {"train": ["experiment=pretrain_digits"]}}}
        >>> settle(config, Problems(), check=lambda inner: None)["backbone"]["weights"][:21]
        'run://pretrain_digits'
    """
    backbone = config.get("backbone")
    weights = backbone.get("weights") if isinstance(backbone, Mapping) else None
    if not isinstance(backbone, Mapping) or not isinstance(weights, Mapping):
        return config
    return {**config, "backbone": {**backbone, "weights": _place(weights, problems, check, train)}}


def _place(weights: Mapping[str, Any], problems: Problems, check: Callable[..., Any], train: Callable[..., Any] | None) -> str:
    found = len(problems)
    words, root, config_dir = _read(weights, problems)
    inner: dict[str, Any] = {}
    if len(problems) == found:
        try:
            inner = to_plain(compose(*words, config_dir=config_dir), count_classes)
            _check_chain(inner, [_said(words, config_dir)])
            check(inner)
        except ConfigError as error:
            problems.extend(Problem(join(PATH, "train"), str(problem)) for problem in error.problems)
    if len(problems) > found:
        return f"{_NOT_TRAINED_YET}unknown/{WEIGHTS}"
    folder = root / _name(words, inner)
    if _is_done(folder):
        return str(folder)
    return f"{_NOT_TRAINED_YET}{folder.name}/{WEIGHTS}" if train is None else str(_train(inner, folder, train))


def _check_chain(config: Mapping[str, Any], chain: list[tuple[str, str]]) -> None:
    """Follows the pretrainings of a pretraining to the last, one that has none.

    Args:
        chain: those that led here, as `_said` names them.

    Raises:
        ConfigError: one comes again, or there are more than `MAX_CHAIN`.
    """
    backbone = config.get("backbone")
    weights = backbone.get("weights") if isinstance(backbone, Mapping) else None
    if not isinstance(weights, Mapping):
        return
    problems = Problems()
    words, _, config_dir = _read(weights, problems)
    problems.raise_if_any()
    chain = [*chain, _said(words, config_dir)]
    if chain[-1] in chain[:-1] or len(chain) > MAX_CHAIN:
        what = "trains itself first" if chain[-1] in chain[:-1] else f"needs more than {MAX_CHAIN} pretrainings, one before the other"
        shown = " -> ".join(f"[{words}]" + (f" in {folder}" if folder else "") for words, folder in chain[:MAX_CHAIN])
        raise ConfigError([Problem("", f"{what}: {shown}; one of them must have other weights, or none (backbone.weights=null)")])
    _check_chain(to_plain(compose(*words, config_dir=config_dir), count_classes), chain)


def _said(words: list[str], config_dir: str | None) -> tuple[str, str]:
    return ", ".join(words), "" if config_dir is None else str(Path(config_dir).resolve())


def _read(weights: Mapping[str, Any], problems: Problems) -> tuple[list[str], Path, str | None]:
    for name in weights:
        if name not in _KEYS:
            problems.add(join(PATH, name), f"not a key of {PATH}{did_you_mean(str(name), _KEYS)}")
    if "train" not in weights:
        problems.add(join(PATH, "train"), "missing; give the overrides of a run, such as [experiment=pretrain_digits]")
    words = check_value(weights.get("train", []), list[str], join(PATH, "train"), problems)
    folder = check_value(weights.get("folder", _FOLDER), str, join(PATH, "folder"), problems)
    config_dir = check_value(weights.get("config_dir"), str | None, join(PATH, "config_dir"), problems)
    return words, Path(str(folder)), config_dir


def _name(words: list[str], inner: Mapping[str, Any]) -> str:
    """A name in words and a hash of what decides the numbers."""
    trainer = {key: value for key, value in (inner.get("trainer") or {}).items() if key not in ("progress", "resume")}
    said = "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in words[0].rpartition("=")[2]) if words else "run"
    decides = {key: value for key, value in inner.items() if key != "sweep"}
    return f"{said}-{config_hash({**decides, 'trainer': trainer})}"


def _is_done(folder: Path) -> bool:
    return (folder / WEIGHTS).is_file() and (read_result(folder) or {}).get("status") == "completed"


def _train(inner: dict[str, Any], folder: Path, train: Callable[[dict[str, Any], Path], Any]) -> Path:
    """Trains beside the place and moves the run there, so that who looks finds a whole run or none."""
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
        if left == draft or (read_result(left) or {}).get("status") == "killed":  # its process is gone
            shutil.rmtree(left, ignore_errors=True)
    log.info("pretraining: %s", folder)
    try:
        train(inner, draft)
        if not _is_done(folder):  # another job may have been quicker, and has the same numbers
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(draft, folder)
    except OSError:
        if not _is_done(folder):
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder
