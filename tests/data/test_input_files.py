"""Inputs for a trained model from files: prepared as its validation data were, or told what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modelfactory.config.errors import ConfigError
from modelfactory.data.input_files import read_files
from modelfactory.data.spec import build_data
from tests.data.test_vision import write_images

RESIZE = {"_target_": "torchvision.transforms.v2.Resize", "size": [6, 6]}


def test_an_image_is_what_it_is_in_the_validation_set(tmp_path: Path):
    write_images(tmp_path)
    group = {"_target_": "modelfactory.data.image_folder", "root": str(tmp_path), "transforms": {"train": [RESIZE], "val": [RESIZE]}}
    val = build_data(group).val
    files = [Path(val.dataset.samples[index][0]) for index in range(2)]
    assert torch.equal(read_files(files, group), val.sample(2)[0])


@pytest.mark.parametrize(
    ("name", "text", "data", "message"),
    [
        ("a.csv", "1,2\n3\n", {"input_shape": [2]}, r"a.csv:2: 1 numbers; give 2, an input of shape \[2\]"),
        ("a.csv", "x,y\n1,2\n3,z\n", {}, "a.csv:3: '3,z' is not a row of numbers"),
        ("a.csv", "x,y\n", {}, "a.csv: has no row"),
        ("a.txt", "1", {}, "a.txt: is neither a CSV file nor an image"),
        ("b.png", "", {"_target_": "modelfactory.data.digits"}, "images are prepared for modelfactory.data.image_folder"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, name: str, text: str, data: dict, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_files([tmp_path / name], data)


def test_files_of_two_kinds_and_missing_ones_are_told(tmp_path: Path):
    for name in ("a.csv", "b.png"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="cannot be read together"):
        read_files([tmp_path / "a.csv", tmp_path / "b.png"], {})
    with pytest.raises(ConfigError, match="c.csv: there is no such file"):
        read_files([tmp_path / "c.csv"], {})
