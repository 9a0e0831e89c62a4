"""Images as they are: upright, with all of their bits, and named where they cannot be read."""

import numpy as np
import pytest
import torch
from PIL import Image

from modelfactory.config.errors import ConfigError
from modelfactory.data.image_file import read_image, read_rgb, read_tensor

RAMP = np.linspace(0, 1, 12, dtype="float32").reshape(3, 4)


def save(path, values, **keys):
    Image.fromarray(values).save(path, **keys)
    return str(path)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_are_kept(tmp_path, name):
    image = read_tensor(save(tmp_path / name, (RAMP * 65535).round().astype("uint16")))
    assert image.dtype == torch.float32 and image.shape == (3, 3, 4)
    torch.testing.assert_close(image.as_subclass(torch.Tensor), torch.tensor(RAMP).expand(3, 3, 4), atol=1 / 65535, rtol=0)
    eight = np.asarray(read_rgb(str(tmp_path / name)))
    assert eight.dtype == np.uint8 and np.abs(eight[..., 1] / 255 - RAMP).max() <= 0.51 / 255


def test_floats_in_0_to_1_are_kept(tmp_path):
    image = read_tensor(save(tmp_path / "a.tif", RAMP))
    torch.testing.assert_close(image.as_subclass(torch.Tensor)[2], torch.tensor(RAMP))


@pytest.mark.parametrize(
    ("values", "message"),
    [(RAMP * 300, "has float pixels from 0 to 300"), ((RAMP * 70000).astype("int32"), "has 32-bit integer pixels from 0 to 70000")],
)
def test_a_range_that_cannot_be_told_is_an_error(tmp_path, values, message):
    path = save(tmp_path / "a.tif", values)
    for read in (read_tensor, read_rgb):
        with pytest.raises(ConfigError, match=rf"data.root: the image {path} {message}.*save floats in 0..1, or 16 bits"):
            read(path)


def test_eight_bits_are_bytes(tmp_path):
    grey = (RAMP * 255).round().astype("uint8")
    image = read_tensor(save(tmp_path / "a.png", grey))
    assert image.dtype == torch.uint8 and image.tolist() == [grey.tolist()] * 3
    colour = np.stack([grey, grey[::-1], grey // 2], -1)
    assert read_tensor(save(tmp_path / "b.png", colour)).permute(1, 2, 0).tolist() == colour.tolist()


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (4, 3), (255, 255, 255)).convert(mode).save(path)
    image = read_tensor(str(path))
    assert image.shape == (3, 3, 4) and image.min() == 255


# where the corner that is drawn at the top left is seen, by EXIF orientation
CORNERS = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("orientation", CORNERS)
def test_an_image_stands_as_its_exif_says(tmp_path, name, orientation):
    values = np.zeros((16, 32, 3), "uint8")
    values[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_tensor(save(tmp_path / name, values, exif=exif)).float().mean(0)
    assert image.shape == ((16, 32) if orientation < 5 else (32, 16))
    row, column = CORNERS[orientation]
    assert image[row, column] > 200 and image.sum() == pytest.approx(64 * 255, rel=0.05)


@pytest.mark.parametrize("content", ["cut", "empty", "text", "none"])
def test_what_cannot_be_decoded_is_named(tmp_path, content):
    path = tmp_path / "broken.png"
    noise = np.random.RandomState(0).randint(0, 255, (32, 32), "uint8")
    Image.fromarray(noise).save(path)
    if content == "none":
        path.unlink()
    else:
        path.write_bytes({"cut": path.read_bytes()[:300], "empty": b"", "text": b"no image at all"}[content])
    with pytest.raises(ConfigError, match=rf"data.root: the image {path} cannot be decoded: .*; replace it, or take it away"):
        read_image(str(path))
