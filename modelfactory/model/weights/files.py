"""Files of weights, read without running code: safetensors, and torch's with `weights_only`. What can be mapped is."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modelfactory.config.errors import Problem, Problems, first_line
from modelfactory.model.weights.tensor_file import DamagedFile, verify

CONFIG_KEY = "modelfactory.config"
TIED_KEY = "modelfactory.tied"
WEIGHTS = "model.safetensors"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
# Where training code likes to put the state dict of a model, one level down.
_NESTED = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")


@dataclass(frozen=True)
class Source:
    """Named tensors on the CPU.

    Attributes:
        label: what the ledger calls the file.
        tensors: by name; those of safetensors and of torch's zip files are mapped privately: pages are read when they are
            used, and writing to them changes this process's copy, never the file.
        config: of the run that wrote the file; None where another program did.
    """

    label: str
    tensors: Mapping[str, Tensor]
    config: Any = None


def weights_file(place: str | os.PathLike[str]) -> Path:
    """The file of weights that a place means: of a run's directory the one in it.

    Example:
        >>> weights_file("weights/a.pt").name
        'a.pt'
    """
    path = Path(place)
    return path / WEIGHTS if path.is_dir() else path


def label_of(file: Path) -> str:
    """What the ledger calls a file: its name, of a run's weights with that of its directory.

    Example:
        >>> label_of(Path("weights/a.pt")), label_of(Path("runs/b/model.safetensors"))
        ('a.pt', 'b/model.safetensors')
    """
    file = weights_file(file)
    return f"{file.resolve().parent.name}/{WEIGHTS}" if file.name == WEIGHTS else file.name


def open_weights(file: str | Path, path: str, problems: Problems, label: str | None = None) -> Source | None:
    """The tensors of a `.safetensors`, `.pt` or `.pth` file, or of a run's directory; None after telling what is wrong.

    A file of torch's is read with `weights_only`: one that would run code is refused.

    Args:
        path: the config path that a problem names.
        label: what the ledger calls the file; None: its name.

    Example:
        >>> problems = Problems()
        >>> open_weights("nowhere.pt", "backbone.weights", problems)
        >>> print(*problems)
        backbone.weights: there is no file nowhere.pt
    """
    file = Path(file)
    label = label or label_of(file)
    if file.is_dir():
        file = file / WEIGHTS
        if not file.is_file():
            problems.add(path, f"there is no {WEIGHTS} in {file.parent}; give the directory of a run that finished an epoch")
            return None
    if not file.is_file():
        problems.add(path, f"there is no file {file}")
        return None
    try:
        tensors, config = _read_safetensors(file) if file.suffix == ".safetensors" else (_read_torch(file), None)
    except DamagedFile as error:
        problems.extend(Problem(path, problem.message) for problem in error.problems)
        return None
    except SafetensorError as error:
        problems.add(path, f"{file} is not a whole safetensors file: {first_line(error)}")
        return None
    except pickle.UnpicklingError as error:
        if not _would_run(error):
            problems.add(path, f"{file} cannot be read as weights; it is cut short or of another kind: {first_line(error)[:120]}")
            return None
        problems.add(path, f"{file} is refused: it holds more than tensors, and reading it would run code ({_would_run(error)})")
        return None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        # what torch raises for bytes that are no checkpoint, or not all of one
        problems.add(path, f"{file} cannot be read as weights; it is cut short or of another kind: {first_line(error)[:120]}")
        return None
    if not tensors:
        problems.add(path, f"{file} holds no named tensors; give a file of a state_dict")
        return None
    return Source(label, tensors, config)


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], Any]:
    """The tensors, tied ones under each of their names, and the config of the run that wrote them, whose checksum is verified."""
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}
        metadata = opened.metadata() or {}
    verify(file, tensors, metadata)
    tied = json.loads(metadata.get(TIED_KEY, "{}"))
    return {**tensors, **{name: tensors[first] for name, first in tied.items()}}, json.loads(metadata.get(CONFIG_KEY, "null"))


def _read_torch(file: Path) -> dict[str, Tensor]:
    with file.open("rb") as stream:
        is_zip = stream.read(4) == b"PK\x03\x04"
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # about pickle protocols that the reader knows in part: it raises where it fails
        return _state_dict(torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip))


def _state_dict(loaded: Any) -> dict[str, Tensor]:
    """The named tensors of what a file held, also one level down where training code likes to put them."""
    if not isinstance(loaded, Mapping):
        return {}
    for name in _NESTED:
        inner = _state_dict(loaded.get(name))
        if inner:
            return inner
    return {str(name): value.detach() for name, value in loaded.items() if isinstance(value, Tensor)}


def _would_run(error: Exception) -> str:
    """What a file wanted to call, as torch's reader names it; empty where that is not why it stopped."""
    found = re.search(r"GLOBAL (\S+)|[Uu]nsupported ((?:class|operand)[: ]+\S+)", str(error))
    return next(filter(None, found.groups()), "").rstrip(".,:;") if found else ""
