"""Folders of images: what counts, what is left out and told, and what is named."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from modelfactory.config.errors import ConfigError
from modelfactory.data import build_data, make_batches
from modelfactory.data.image_file import read_rgb
from modelfactory.data.image_folder import ImageFiles


def draw(path, value=0, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, "uint8")).save(path)


@pytest.fixture
def root(tmp_path):
    for part in ("train", "val"):
        for number, name in enumerate(("cat", "dog")):
            for index in range(3):
                draw(tmp_path / part / name / f"{index}.png", 100 * number + index)
    return tmp_path


def config(root, **keys):
    return {"_target_": "modelfactory.data.image_folder", "root": str(root), "input_shape": [3, 8, 8], "num_classes": 2, **keys}


HIDDEN = [".ipynb_checkpoints/0.png", "__MACOSX/._0.png", "cat/.ipynb_checkpoints/0-checkpoint.png", "cat/._0.png", ".DS_Store"]


def test_what_is_hidden_is_neither_class_nor_image(root):
    for name in HIDDEN[:-1]:
        draw(root / "train" / name)
    (root / "train" / "cat" / ".DS_Store").write_text("x")
    data = build_data(config(root))
    assert len(data.train) == 6 and data.num_classes == 2
    (warning,) = data.warnings
    assert warning.startswith("data.root: 2 files are left out") and "train/cat/._0.png" in warning and "DS_Store" not in warning


def test_files_that_are_no_images_are_told(root):
    (root / "train" / "dog" / "notes.txt").write_text("x")
    (root / "val" / "list.csv").write_text("x")
    (warning,) = build_data(config(root)).warnings
    assert warning == "data.root: 2 files are left out, no visible images of a class: train/dog/notes.txt, val/list.csv"


def test_nothing_is_told_where_nothing_is_left_out(root):
    assert build_data(config(root)).warnings == ()
    (root / "train").rename(root / "whole")
    one = build_data(config(root / "whole", val_fraction=0.4))
    assert one.warnings == () and (len(one.train), len(one.val)) == (4, 2)


def test_the_images_and_their_order_are_those_of_torchvision(root):
    draw(root / "train" / "cat" / "more" / "a.JPG")
    draw(root / "train" / "cat" / "Z.bmp")
    ours, theirs = ImageFiles(root / "train", torch.nn.Identity(), read_rgb), ImageFolder(str(root / "train"))
    assert ours.samples == theirs.samples and ours.classes == theirs.classes and ours.targets == theirs.targets


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train/fox/notes.txt", r"train is not one folder of images a class: there is no image in fox; images are \.jpg, "),
        ("train/fox/._a.png", "there is no image in fox"),
    ],
)
def test_a_class_without_an_image_is_named(root, name, message):
    (root / name).parent.mkdir()
    (root / name).write_text("x")
    with pytest.raises(ConfigError, match=message):
        build_data(config(root))


def test_a_folder_without_classes_is_told(tmp_path):
    draw(tmp_path / "train" / "0.png")
    draw(tmp_path / "val" / "cat" / "0.png")
    with pytest.raises(ConfigError, match="train is not one folder of images a class: there is no folder in it"):
        build_data(config(tmp_path))


@pytest.mark.parametrize("fraction", [0.1, 0.9])
def test_a_fraction_that_leaves_a_part_empty_is_told(root, fraction):
    for part in ("cat", "dog"):
        for file in (root / "train" / part).glob("[12].png"):
            file.unlink()
    part = "validation" if fraction < 0.5 else "training"
    with pytest.raises(ConfigError, match=f"data.val_fraction: {fraction} of the images of each class leaves no {part} images"):
        build_data(config(root / "train", val_fraction=fraction))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_from_any_worker(root, workers):
    data = build_data(config(root, num_workers=workers, batch_size=2))
    broken = root / "train" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:45])
    with pytest.raises(ConfigError, match=f"data.root: the image {broken} cannot be decoded"):
        list(make_batches(data.train, 2, torch.device("cpu"), seed=0, num_workers=workers).epoch(1))


def test_images_of_unequal_size_are_named(root):
    draw(root / "train" / "dog" / "wide.png", size=(8, 9))
    data = build_data(config(root))
    with pytest.raises(ConfigError, match=r"the input of .*\.png is \[3, 8, .\], that of .*\.png is \[3, 8, .\]; all of a batch"):
        list(make_batches(data.train, 7, torch.device("cpu"), seed=0).epoch(1))


def test_sixteen_bits_pass_the_declared_transforms(root):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            for index in range(3):
                values = np.full((8, 8), 3000 * (name == "dog") + 1000, "uint16")
                Image.fromarray(values).save(root / part / name / f"{index}.png")
    resize = {"_target_": "torchvision.transforms.v2.Resize", "size": [4, 4]}
    flip = {"_target_": "torchvision.transforms.v2.RandomHorizontalFlip"}
    keys = {"transforms": {"train": [resize, flip], "val": [resize]}, "mean": [0, 0, 0], "std": [1, 1, 1], "input_shape": [3, 4, 4]}
    x, y = build_data(config(root, **keys)).train.sample(6)
    assert type(x) is torch.Tensor
    torch.testing.assert_close(x.mean((1, 2, 3)), (3000 * y + 1000) / 65535)


def test_a_folder_test_with_the_same_classes_is_the_test_split(root):
    for number, name in enumerate(("cat", "dog")):
        draw(root / "test" / name / "0.png", 100 * number)
    data = build_data(config(root))
    assert {name: len(split) for name, split in data.parts.items()} == {"train": 6, "val": 6, "test": 2} and data.warnings == ()
    assert torch.equal(data.test.dataset[1][0], data.val.dataset[3][0]) and data.test.dataset.targets == [0, 1]


def test_a_folder_test_without_classes_is_left_out_and_told(root):
    draw(root / "test" / "0.png")
    draw(root / "test" / "more" / "1.png")
    data = build_data(config(root))
    assert data.test is None and data.warnings == ("data.root: 1 file is left out, no visible images of a class: test",)


def test_a_folder_test_with_other_classes_is_refused(root):
    draw(root / "test" / "cat" / "0.png")
    with pytest.raises(ConfigError, match="data.root: the classes of .*train and .*test differ: dog"):
        build_data(config(root))


@pytest.mark.parametrize(
    ("keys", "sizes"),
    [
        ({"val_fraction": 1 / 3, "test_fraction": 1 / 3}, {"train": 2, "val": 2, "test": 2}),
        ({"val_fraction": 1 / 3}, {"train": 4, "val": 2}),
    ],
)
def test_parts_are_held_out_of_the_training_images(root, keys, sizes):
    data = build_data(config(root / "train", **keys))
    assert {name: len(split) for name, split in data.parts.items()} == sizes
    indices = sorted(index for split in data.parts.values() for index in split.dataset.indices)
    assert indices == list(range(6))


def test_a_test_part_is_held_out_beside_a_folder_val(root):
    data = build_data(config(root, test_fraction=1 / 3))
    assert {name: len(split) for name, split in data.parts.items()} == {"train": 4, "val": 6, "test": 2}
    draw(root / "test" / "cat" / "0.png")
    with pytest.raises(ConfigError, match="data.test_fraction: .* is not used, for there is .*test; give null"):
        build_data(config(root, test_fraction=1 / 3))
