"""Decode an image file: upright as its EXIF data says, all of its bits, and an error that names the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from modelfactory.config.errors import ConfigError, Problem

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_SIXTEEN_BITS = 65535
_OF_SIXTEEN_BITS = ("PNG", "PPM")  # formats whose mode "I", of 32 bits in memory, has 16 in the file


def read_image(path: str) -> Any:
    """The PIL image of a file, upright, in the mode of the file.

    Raises:
        ConfigError: it cannot be decoded.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (4, 3)).save(f"{folder}/a.png")
        ...     read_image(f"{folder}/a.png").size
        (4, 3)
    """
    from PIL import Image, ImageOps

    try:
        with open(path, "rb") as file:
            image = Image.open(file)
            ImageOps.exif_transpose(image, in_place=True)  # loads it too
            return image
    except Exception as error:  # decoders raise errors of many kinds
        problem = Problem("data.root", f"the image {path} cannot be decoded: {error}; replace it, or take it away")
        raise ConfigError([problem]) from error


def read_rgb(path: str) -> Any:
    """The PIL image of a file in RGB, of 8 bits: what the preprocessing of published weights takes.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.full((2, 2), 32768, "uint16")).save(f"{folder}/a.png")
        ...     read_rgb(f"{folder}/a.png").getpixel((0, 0))
        (128, 128, 128)
    """
    from PIL import Image

    image = read_image(path)
    wide = _wide(image, path)
    return image.convert("RGB") if wide is None else Image.fromarray((wide * 255).round().astype("uint8")).convert("RGB")


def read_tensor(path: str) -> Tensor:
    """The image [3, H, W] of a file for torchvision's v2 transforms: uint8, or float32 in 0..1 where it has more than 8 bits a pixel.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.full((2, 2), 13107, "uint16")).save(f"{folder}/a.png")
        ...     round(float(read_tensor(f"{folder}/a.png").mean()), 6)
        0.2
    """
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import functional

    image = read_image(path)
    wide = _wide(image, path)
    if wide is None:
        return functional.to_image(image.convert("RGB"))
    return tv_tensors.Image(torch.from_numpy(wide).expand(3, *wide.shape).contiguous())


def _wide(image: Any, path: str) -> np.ndarray | None:
    """The pixels [H, W] in 0..1 of an image of more than 8 bits a pixel; None: it has 8.

    Raises:
        ConfigError: what white is cannot be told.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return None
    pixels = np.asarray(image).astype("float32")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _OF_SIXTEEN_BITS):
        return pixels / _SIXTEEN_BITS
    low, high = float(pixels.min()), float(pixels.max())
    if image.mode == "F" and 0 <= low and high <= 1:
        return pixels
    kind = "float" if image.mode == "F" else "32-bit integer"
    message = f"the image {path} has {kind} pixels from {low:g} to {high:g}, of which white cannot be told; save floats in 0..1, or 16 bits"
    raise ConfigError([Problem("data.root", message)])
