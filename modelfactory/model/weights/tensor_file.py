"""Tensors and texts in one safetensors file, with a SHA-256 over both that is verified when the file is read.

The bytes of a file depend on its content alone: safetensors' own writer puts the metadata in another order each time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modelfactory.config.errors import ConfigError, Problem, first_line
from modelfactory.config.files import write_atomic

DIGEST_KEY = "modelfactory.tensors_sha256"
CHECKSUM_KEY = "modelfactory.sha256"
RESTORE = "restore it from a copy"
_CODES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float64: "F64",
    torch.complex64: "C64",
}
# what safetensors and torch raise for bytes that are no such file, or not all of one
_UNREADABLE = (SafetensorError, ValueError, KeyError, OSError, OverflowError, RuntimeError, TypeError, AttributeError)


class DamagedFile(ConfigError):
    """A file of a run is not as it was written."""


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, dtypes, shapes and values of tensors on the CPU: SHA-256, 64 hex digits.

    Example:
        >>> one = tensor_digest({"a": torch.zeros(2)})
        >>> one == tensor_digest({"a": torch.zeros(2)}), one == tensor_digest({"a": torch.zeros(2, 1)})
        (True, False)
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def checksum(metadata: Mapping[str, str]) -> str:
    """Hash all metadata but the checksum itself; the digest of the tensors is among them.

    Example:
        >>> checksum({"note": "x"}) == checksum({"note": "y"})
        False
    """
    texts = sorted((key, text) for key, text in metadata.items() if key != CHECKSUM_KEY)
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str], digest: str | None = None
) -> None:
    """Write a safetensors file whole or not at all, its checksum in the metadata; `digest` is that of the tensors, if known.

    Raises:
        TypeError: a dtype that the format does not have.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_tensors(Path(folder, "a.safetensors"), {"a": torch.ones(2)}, {"note": "x"})
        ...     tensors, metadata = read_tensors(Path(folder, "a.safetensors"))
        >>> tensors, metadata["note"], len(metadata[CHECKSUM_KEY])
        ({'a': tensor([1., 1.])}, 'x', 64)
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _CODES:
            raise TypeError(f"{name} is {tensor.dtype}, which a safetensors file cannot hold")
    here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = {**metadata, DIGEST_KEY: digest or tensor_digest(here)}
    about[CHECKSUM_KEY] = checksum(about)
    order = sorted(here, key=lambda name: (-here[name].element_size(), name))  # wide types first, so that each is aligned
    header: dict[str, Any] = {"__metadata__": dict(sorted(about.items()))}
    end = 0
    for name in order:
        begin, end = end, end + here[name].nbytes
        header[name] = {"dtype": _CODES[here[name].dtype], "shape": list(here[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def write(file: Path) -> None:
        with file.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little"))
            stream.write(text)
            for name in order:
                stream.write(_bytes(here[name]))

    write_atomic(path, write)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file onto the CPU: tensors by name, and the metadata. A checksum in it is verified.

    Raises:
        ConfigError: there is no such file, or it is not a safetensors file.
        DamagedFile: the checksum is another.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError([Problem("", f"there is no file {file}")])
    try:
        with safe_open(file, framework="pt") as opened:
            tensors, metadata = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error
    verify(file, tensors, metadata)
    return tensors, metadata


def verify(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Compare content that was read with its checksum; content without one, of another program, passes.

    Raises:
        DamagedFile: they differ.
    """
    _verify_metadata(file, metadata)
    if CHECKSUM_KEY in metadata and tensor_digest(tensors) != metadata.get(DIGEST_KEY):
        raise _damaged(file)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read and verify the metadata of a safetensors file, and no tensor; empty where there is no such file.

    Raises:
        DamagedFile: they cannot be read, or are not as they were written.

    Example:
        >>> read_metadata("nowhere.safetensors")
        {}
    """
    file = Path(path)
    if not file.is_file():
        return {}
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error
    _verify_metadata(file, metadata)
    return metadata


def _verify_metadata(file: Path, metadata: Mapping[str, str]) -> None:
    if CHECKSUM_KEY in metadata and checksum(metadata) != metadata[CHECKSUM_KEY]:
        raise _damaged(file)


def _unreadable(file: Path, error: Exception) -> DamagedFile:
    why = f"{file} is not a safetensors file, or not a whole one ({first_line(error)}); {RESTORE}"
    return DamagedFile([Problem("", why)])


def _damaged(file: Path) -> DamagedFile:
    return DamagedFile([Problem("", f"{file} is damaged: its content does not have the checksum that it carries; {RESTORE}")])


def _bytes(tensor: Tensor) -> Any:
    """View the values of a contiguous tensor on the CPU as bytes."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()
