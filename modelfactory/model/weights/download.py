"""Weights from a URL, kept in torch's own cache of weights, with their hash checked each time."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import tempfile
import urllib.error
import urllib.request
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlparse

import torch

from modelfactory.config.errors import Problems, first_line

log = logging.getLogger(__name__)
_HASHED = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
_BLOCK = 1 << 20
_SECONDS = 30  # without a byte before a server counts as gone


def hash_of(name: str) -> str | None:
    """The beginning of the SHA-256 that a file's name promises, as torchvision's `resnet18-f37072fd.pth` does.

    Example:
        >>> hash_of("resnet18-f37072fd.pth"), hash_of("weights.pth")
        ('f37072fd', None)
    """
    found = _HASHED.search(name)
    return found[1] if found else None


def place_of(url: str) -> Path:
    """Where the file of a URL is kept: with a hash in its name where torch.hub keeps it too, else apart by URL.

    Example:
        >>> place_of("https://host/a/resnet18-f37072fd.pth").name
        'resnet18-f37072fd.pth'
        >>> place_of("https://host/a/w.pth").name == place_of("https://host/b/w.pth").name
        False
    """
    name = Path(urlparse(url).path).name or "weights"
    if hash_of(name) is None:
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}.{name}"
    return Path(torch.hub.get_dir(), "checkpoints", name)


def fetch(url: str, path: str, problems: Problems) -> Path | None:
    """The file of a URL, downloaded if it is not there; None after telling what is wrong.

    The file appears whole or not at all. One whose name holds a hash must have that SHA-256, also when it was there.
    """
    if urlparse(url).scheme not in ("http", "https"):
        problems.add(path, f"{url} is refused: only http and https are fetched; give a file by its path")
        return None
    file = place_of(url)
    if not file.is_file():
        try:
            _download(url, file)
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            problems.add(
                path, f"{url} cannot be fetched: {first_line(error)}; put the file at {file}, or give a file by its path"
            )
            return None
    return file


def check_hash(file: Path, expected: str | None, path: str, problems: Problems) -> bool:
    """Whether a file has the SHA-256 that is expected of it, or that its name promises; False after telling.

    Args:
        expected: the beginning of the SHA-256, 8 hex digits or more; None: what the name says, if anything.
    """
    expected = expected or hash_of(file.name)
    if expected is None:
        return True
    about = file.stat()
    found = _digest(str(file), about.st_size, about.st_mtime_ns, about.st_ino)
    if found.startswith(expected.lower()):
        return True
    problems.add(
        path,
        f"{file} is not what it should be: its SHA-256 begins with {found[:16]}, not {expected}; remove it and fetch it again",
    )
    return False


@lru_cache(maxsize=64)
def _digest(file: str, _size: int, _modified: int, _inode: int) -> str:
    """The SHA-256 of a file, computed again when the file is another one."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _download(url: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    log.info("fetching %s to %s", url, file)
    request = urllib.request.Request(url, headers={"User-Agent": "modelfactory"})
    handle, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        digest, size = hashlib.sha256(), 0
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer, os.fdopen(handle, "wb") as stream:
            while block := answer.read(_BLOCK):
                stream.write(block)
                digest.update(block)
                size += len(block)
            promised = answer.headers.get("Content-Length")
        if promised is not None and int(promised) != size:
            raise OSError(f"it ended after {size:,} of {int(promised):,} bytes")
        expected = hash_of(file.name)
        if expected is not None and not digest.hexdigest().startswith(expected):
            raise OSError(f"its SHA-256 begins with {digest.hexdigest()[:16]}, and its name says {expected}")
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(draft, 0o666 & ~umask)
        os.replace(draft, file)
    finally:
        Path(draft).unlink(missing_ok=True)
