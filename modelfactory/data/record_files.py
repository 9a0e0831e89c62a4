"""Read the binary files in which image data sets are published, and check that they hold what was published."""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from modelfactory.config.errors import ConfigError, Problem


def damaged(file: Path, what: str) -> ConfigError:
    """The error of a published file that is not what was published.

    Example:
        >>> print(damaged(Path("train.bin"), "is empty"))
        data.root: train.bin is empty; take it away, and fetch it again (data.download=true)
    """
    return ConfigError([Problem("data.root", f"{file} {what}; take it away, and fetch it again (data.download=true)")])


def read_idx(file: Path, count: int, shape: tuple[int, ...]) -> Tensor:
    """The bytes [count, *shape] of an idx file: a magic number that ends with the number of dimensions, the sizes, the bytes.

    Raises:
        ConfigError: it holds something else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "labels").write_bytes(struct.pack(">II", 2049, 3) + bytes([7, 0, 9]))
        ...     read_idx(Path(folder, "labels"), 3, ())
        tensor([7, 0, 9], dtype=torch.uint8)
    """
    raw, sizes = file.read_bytes(), (count, *shape)
    start = 4 + 4 * len(sizes)
    header = struct.pack(f">{1 + len(sizes)}I", 0x800 + len(sizes), *sizes)
    record = math.prod(shape)
    if raw[:start] != header or len(raw) != start + count * record:
        found = max(0, len(raw) - start) // record
        told = f", says that it has {struct.unpack('>I', raw[4:8])[0]:,}" if raw[:4] == header[:4] and len(raw) >= 8 else ", is no idx file"
        raise damaged(file, f"holds {found:,} records of {count:,}{told}")
    return torch.frombuffer(bytearray(raw[start:]), dtype=torch.uint8).reshape(sizes)


def read_cifar(file: Path, count: int, label_bytes: int) -> tuple[Tensor, Tensor]:
    """Images [count, 3, 32, 32] uint8 and labels [count] int64 of a CIFAR file: label bytes, of which the last counts, and pixels.

    Raises:
        ConfigError: it holds fewer or more records.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "train.bin").write_bytes(bytes([9, 4]) + bytes(3 * 32 * 32))
        ...     read_cifar(Path(folder, "train.bin"), 1, label_bytes=2)[1]
        tensor([4])
    """
    raw, record = file.read_bytes(), label_bytes + 3 * 32 * 32
    if len(raw) % record:
        raise damaged(file, f"holds {len(raw):,} bytes, not a whole number of {record}-byte records ({count:,} of them)")
    if len(raw) != count * record:
        raise damaged(file, f"holds {len(raw) // record:,} records of {count:,}")
    rows = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(-1, record)
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32), rows[:, label_bytes - 1].long()


def check_archive(file: Path, archive: Path, md5: str) -> None:
    """Compares a file with the gzip archive that it came in, and that with its published checksum.

    Raises:
        ConfigError: either is not what it should be.

    Example:
        >>> import gzip, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file, archive = Path(folder, "a"), Path(folder, "a.gz")
        ...     _ = file.write_bytes(b"other"), archive.write_bytes(gzip.compress(b"bytes"))
        ...     try:
        ...         check_archive(file, archive, hashlib.md5(archive.read_bytes()).hexdigest())
        ...     except ConfigError as error:
        ...         print("is not what a.gz holds" in str(error))
        True
    """
    packed, raw = archive.read_bytes(), file.read_bytes()
    if hashlib.md5(packed, usedforsecurity=False).hexdigest() != md5:
        raise damaged(archive, f"does not have its published checksum, md5 {md5}")
    if packed[-8:] != struct.pack("<II", zlib.crc32(raw), len(raw)):  # which end a gzip archive
        raise damaged(file, f"is not what {archive.name} holds, by its checksum")
