"""Weights and training state on disk, without pickle: safetensors for tensors, JSON for all else, a checksum over both."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modelfactory.config.errors import ConfigError, Problem
from modelfactory.model.weights.files import CONFIG_KEY, TIED_KEY
from modelfactory.model.weights.tensor_file import CHECKSUM_KEY, RESTORE, DamagedFile, read_tensors, tensor_digest, write_tensors

STATE_KEY = "modelfactory.state"


class Weights(NamedTuple):
    """What a weights file holds: every name of the state dict, the config, and the other metadata."""

    tensors: dict[str, Tensor]
    config: Any
    metadata: dict[str, str]


class PackedFile(NamedTuple):
    """Weights or a state as their file will hold them: each tensor once, the texts beside them, and the tensors' digest, if known."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    digest: str | None = None

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def save(self, path: str | os.PathLike[str]) -> None:
        write_tensors(path, self.tensors, self.metadata, self.digest)

    def copied(self) -> PackedFile:
        """The same of tensors of its own, which stay as they are."""
        return self._replace(tensors={name: tensor.detach().to("cpu", copy=True) for name, tensor in self.tensors.items()})


def pack_weights(weights: Mapping[str, Tensor], config: Any = None, metadata: Mapping[str, str] | None = None) -> PackedFile:
    """What `save_weights` writes of a state dict."""
    tensors, tied = _once(weights)
    tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    about = {"format": "pt", **(metadata or {})}
    if config is not None:
        about[CONFIG_KEY] = json.dumps(config)
    if tied:
        about[TIED_KEY] = json.dumps(tied)
    return PackedFile(tensors, about, tensor_digest(tensors))


def save_weights(
    path: str | os.PathLike[str], model: nn.Module, config: Any = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes the state dict of `model` as safetensors, tied weights once, the config as JSON in the metadata.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> model = nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(Path(folder, "w.safetensors"), model, {"seed": 0})
        ...     read_weights(Path(folder, "w.safetensors")).config
        {'seed': 0}
    """
    pack_weights(model.state_dict(), config, metadata).save(path)


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """What `save_weights` wrote, on the CPU; tied names share one tensor. Runs no code from the file.

    Raises:
        ConfigError: there is no such file, or it is not a safetensors file.
        DamagedFile: it is not as it was written.
    """
    tensors, metadata = read_tensors(path)
    try:
        for name, first in json.loads(metadata.get(TIED_KEY, "{}")).items():
            tensors[name] = tensors[first]
        config = json.loads(metadata[CONFIG_KEY]) if CONFIG_KEY in metadata else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from error
    return Weights(tensors, config, metadata)


def _damaged(path: str | os.PathLike[str], error: Exception) -> DamagedFile:
    return DamagedFile([Problem("", f"{path} is damaged: what it says of its tensors does not fit them ({error!r}); {RESTORE}")])


def _once(named: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Contiguous tensors that share no memory, and for each further name of a tensor its first name."""
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first_of: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, tensor in named.items():
        storage = tensor.untyped_storage().data_ptr()
        place = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if storage and tensor.numel() and place in first_of:
            tied[name] = first_of[place]
            continue
        first_of[place] = name
        tensors[name] = tensor.clone(memory_format=torch.contiguous_format) if storage in storages else tensor.contiguous()
        storages.add(storage)
    return tensors, tied


def save_state(path: str | os.PathLike[str], state: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Writes nested dicts, lists, tuples, numbers, texts and tensors as one safetensors file, JSON in its metadata.

    One file, so that tensors and counters can never be of two different moments.

    Raises:
        TypeError: something else, with where it is.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_state(Path(folder, "s"), {"step": 3, 7: (torch.ones(2), None)})
        ...     read_state(Path(folder, "s"))
        {'step': 3, 7: (tensor([1., 1.]), None)}
    """
    pack_state(state, metadata).save(path)


def pack_state(state: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> PackedFile:
    """What `save_state` writes of a state."""
    flat: dict[str, Tensor] = {}
    skeleton = _pack(state, "", flat)
    tensors, tied = _once(flat)
    return PackedFile(tensors, {**(metadata or {}), STATE_KEY: json.dumps(skeleton), TIED_KEY: json.dumps(tied)})


def read_state(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """What `save_state` wrote, tensors on the CPU.

    Raises:
        ConfigError: there is no such file, or it is none of ours.
        DamagedFile: it is not as it was written.
    """
    return read_state_and_metadata(path)[0]


def read_state_and_metadata(path: str | os.PathLike[str]) -> tuple[dict[Any, Any], dict[str, str]]:
    """What `save_state` wrote, and the metadata beside it."""
    tensors, metadata = read_tensors(path)
    if STATE_KEY not in metadata or CHECKSUM_KEY not in metadata:
        raise ConfigError([Problem("", f"{path} holds no training state")])
    try:
        for name, first in json.loads(metadata.get(TIED_KEY, "{}")).items():
            tensors[name] = tensors[first].clone()
        return _unpack(json.loads(metadata[STATE_KEY]), tensors), metadata
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from error


def _pack(value: Any, where: str, flat: dict[str, Tensor]) -> Any:
    """Plain JSON, in which {"tensor": name}, {"tuple": [...]} and {"dict": [[key, value], ...]} stand for the rest."""
    if isinstance(value, Tensor):
        name = where or "tensor"
        while name in flat:  # a key with a dot in it
            name += "_"
        flat[name] = value.detach()
        return {"tensor": name}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, (str, int)):
                raise TypeError(f"the key {key!r} at {where or 'the root'} is neither a string nor an integer")
        return {"dict": [[key, _pack(item, f"{where}.{key}" if where else str(key), flat)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, f"{where}.{index}", flat) for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} at {where or 'the root'} cannot be saved without pickle")


def _unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(packed, list):
        return [_unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        return tensors[packed["tensor"]]
    if "tuple" in packed:
        return tuple(_unpack(item, tensors) for item in packed["tuple"])
    return {key: _unpack(item, tensors) for key, item in packed["dict"]}


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], path: str, source: str, *, assign: bool = False) -> None:
    """Puts `tensors` into `model`, names, shapes and dtypes matching exactly; nothing is changed where they do not.

    Args:
        path: the config path that an error names.
        assign: the model takes the tensors themselves instead of copies; not for a model with tied weights.

    Raises:
        ConfigError: names that are missing or left over, or shapes or dtypes that differ.
    """
    wrong = list(_mismatches(model.state_dict(), tensors))
    if wrong:
        shown = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ConfigError([Problem(path, f"{source} is of another model: {shown}")])
    model.load_state_dict(dict(tensors), assign=assign)


def _mismatches(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    for name in own:
        if name not in tensors:
            yield f"{name} is missing in it"
        elif own[name].shape != tensors[name].shape:
            yield f"{name} is {list(tensors[name].shape)} in it and {list(own[name].shape)} here"
        elif own[name].dtype != tensors[name].dtype:
            yield f"{name} is {tensors[name].dtype} in it and {own[name].dtype} here"
    yield from (f"{name} is not in this model" for name in tensors if name not in own)
