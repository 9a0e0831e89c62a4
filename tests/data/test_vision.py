"""Data sets of torchvision, on small files in the real formats that the tests write."""

import struct
import urllib.error
from dataclasses import replace

import pytest
import torch
from PIL import Image

from modelfactory.config.errors import ConfigError, Problems
from modelfactory.data import build_data, check_data, make_batches
from modelfactory.data.vision import _SOURCES

CROP = {"_target_": "torchvision.transforms.v2.RandomCrop", "size": [8, 8]}
RESIZE = {"_target_": "torchvision.transforms.v2.Resize", "size": [8, 8]}


def write_idx(folder, size):
    """MNIST's idx files: magic number, sizes (big endian), bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    source = torch.Generator().manual_seed(0)
    written = {}
    for part, count in (("train", size), ("t10k", size // 2)):
        images = torch.randint(256, (count, 28, 28), generator=source, dtype=torch.uint8)
        labels = torch.arange(count, dtype=torch.uint8) % 10
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, count, 28, 28) + bytes(images.flatten().tolist())
        )
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + bytes(labels.tolist()))
        written[part] = images, labels
    return written


def write_cifar(folder, files, label_bytes, records=4):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(files):
        rows = [bytes([9] * (label_bytes - 1) + [row]) + bytes([(10 * number + row) % 256] * 3072) for row in range(records)]
        (folder / name).write_bytes(b"".join(rows))


@pytest.fixture
def small(monkeypatch):
    """Data sets of a few records, in files that are else as they were published."""
    for name, records in (("mnist", (20, 10)), ("fashion_mnist", (20, 10)), ("cifar10", (4, 4)), ("cifar100", (4, 4))):
        monkeypatch.setitem(_SOURCES, name, replace(_SOURCES[name], records=records))


def write_images(root, parts=("train/", "val/"), classes=("cat", "dog"), each=4):
    for part in parts:
        for number, name in enumerate(classes):
            folder = root / f"{part}{name}"
            folder.mkdir(parents=True)
            for index in range(each):
                Image.new("RGB", (12, 10), (200 * number, 10 * index, 30)).save(folder / f"{index}.png")


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_files_are_read_and_standardised(tmp_path, small, name, folder):
    images, labels = write_idx(tmp_path / folder / "raw", 20)["train"]
    data = build_data(
        {"_target_": f"modelfactory.data.{name}", "input_shape": [1, 28, 28], "num_classes": 10, "root": str(tmp_path)}
    )
    x = data.train.x
    assert x is not None and data.train.y is not None and x.shape == (20, 1, 28, 28) and len(data.val) == 10
    assert data.train.y.tolist() == labels.tolist()
    raw = images.float()
    torch.testing.assert_close(x[:, 0], (raw - raw.mean()) / raw.std(correction=0))
    assert abs(x.square().mean() - 1) < 1e-5


@pytest.mark.parametrize(
    ("name", "folder", "files", "label_bytes"),
    [
        ("cifar10", "cifar-10-batches-bin", [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"], 1),
        ("cifar100", "cifar-100-binary", ["train.bin", "test.bin"], 2),
    ],
)
def test_cifar_records_are_read_without_pickle(tmp_path, small, name, folder, files, label_bytes):
    write_cifar(tmp_path / folder, files, label_bytes)
    data = build_data({"_target_": f"modelfactory.data.{name}", "input_shape": [3, 32, 32], "root": str(tmp_path)})
    x, y = data.train.x, data.train.y
    assert x is not None and y is not None and data.num_classes == int(name[5:])
    assert y.tolist() == [0, 1, 2, 3] * (len(files) - 1)  # the fine label of cifar100, not the coarse 9
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.square().mean((0, 2, 3)), torch.ones(3), atol=1e-5, rtol=0)
    assert (x[0] == x[0, 0, 0, 0]).all() and x[1, 0, 0, 0] > x[0, 0, 0, 0]


def test_a_cut_cifar_file_is_refused(tmp_path, small):
    write_cifar(tmp_path / "cifar-100-binary", ["train.bin", "test.bin"], 2)
    file = tmp_path / "cifar-100-binary" / "train.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="not a whole number of 3074-byte records"):
        build_data({"_target_": "modelfactory.data.cifar100", "root": str(tmp_path)})


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_missing_files_are_named_and_download_offered(tmp_path, name):
    problems = Problems()
    check_data({"_target_": f"modelfactory.data.{name}", "root": str(tmp_path)}, problems)
    message = str(*problems)
    assert message.startswith(f"data.root: there is no folder {tmp_path}") and "data.download=true" in message
    allowed = Problems()
    check_data({"_target_": f"modelfactory.data.{name}", "root": str(tmp_path), "download": True}, allowed)
    assert not allowed


def test_pickled_cifar_is_named_as_such(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ConfigError, match="holds pickles, which are never read"):
        build_data({"_target_": "modelfactory.data.cifar10", "root": str(tmp_path)})


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_download_fetches_what_is_missing_and_checks_it(tmp_path, monkeypatch, small, name):
    fetched = []

    def fetch(url, root, filename=None, md5=None):
        fetched.append((url, md5))
        if name == "mnist":
            write_idx(tmp_path / "MNIST" / "raw", 20)
        else:
            write_cifar(tmp_path / "cifar-10-batches-bin", [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"], 1)

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    data = build_data({"_target_": f"modelfactory.data.{name}", "root": str(tmp_path), "download": True})
    assert len(data.train) == 20 and len(fetched) == (4 if name == "mnist" else 1)
    assert all(len(md5) == 32 and url.startswith("http") for url, md5 in fetched)


@pytest.mark.parametrize(
    ("name", "file", "place"),
    [
        ("mnist", "train-images-idx3-ubyte.gz", "MNIST/raw/train-images-idx3-ubyte.gz"),
        ("cifar100", "cifar-100-binary.tar.gz", "cifar-100-binary.tar.gz"),
    ],
)
@pytest.mark.parametrize("failure", [urllib.error.URLError("no route"), RuntimeError("File not found or corrupted.")], ids=["url", "md5"])
def test_a_failed_download_names_file_url_and_where_to_put_it(tmp_path, monkeypatch, name, file, place, failure):
    def fetch(url, root, filename=None, md5=None):
        raise failure

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    told = rf"^data.root: {file} cannot be fetched from https?://.*{file} .*put the file at {tmp_path}/{place}, "
    with pytest.raises(ConfigError, match=told):
        build_data({"_target_": f"modelfactory.data.{name}", "root": str(tmp_path), "download": True})


def folder_config(root, **keys):
    transforms = {"train": {"crop": CROP}, "val": [RESIZE]}
    return {"_target_": "modelfactory.data.image_folder", "root": str(root), "transforms": transforms, **keys}


def test_a_folder_of_images_passes_the_declared_transforms(tmp_path):
    write_images(tmp_path)
    config = folder_config(
        tmp_path, input_shape=[3, 8, 8], num_classes=2, batch_size=3, num_workers=1, mean=[0, 0, 0], std=[1, 1, 1]
    )
    data = build_data(config)
    train = make_batches(data.train, data.batch_size, torch.device("cpu"), seed=0, num_workers=data.num_workers)
    x, y = zip(*train.epoch(1), strict=True)
    images, labels = torch.cat(x), torch.cat(y)
    assert [len(part) for part in x] == [3, 3, 2] and type(images) is torch.Tensor and images.dtype == torch.float32
    torch.testing.assert_close(images[:, 0, 0, 0], labels * 200 / 255)
    assert data.val.sample(2)[0].shape == (2, 3, 8, 8)


def test_mean_and_std_are_applied_last(tmp_path):
    write_images(tmp_path)
    data = build_data(folder_config(tmp_path, mean=[0.5, 0.0, 0.0], std=[0.25, 1.0, 1.0]))
    assert data.val.sample(1)[0][0, 0, 0, 0] == (0 - 0.5) / 0.25


def test_val_fraction_holds_some_of_each_class_out(tmp_path):
    write_images(tmp_path, parts=[""])
    data = build_data(folder_config(tmp_path, val_fraction=0.25))
    assert (len(data.train), len(data.val)) == (6, 2)
    assert sorted(int(data.val.dataset[index][1]) for index in range(2)) == [0, 1]


@pytest.mark.parametrize(
    ("make", "keys", "message"),
    [
        (None, {}, "data.root: there is no folder"),
        (["train/"], {}, r"data.root: there is no folder .*val; make it, or give data.val_fraction"),
        (["train/", "val/"], {"val_fraction": 0.5}, "data.val_fraction: 0.5 is not used"),
        (["train/", "val/"], {"transforms": {"trian": []}}, "data.transforms.trian: .*did you mean 'train'"),
        (
            ["train/", "val/"],
            {"transforms": {"train": [{**CROP, "sizes": 3}]}},
            r"data.transforms.train.0.sizes: .*did you mean 'size'",
        ),
        (
            ["train/", "val/"],
            {"transforms": {"train": {"c": {"_target_": "torchvision.transforms.v2.RandomCropp"}}}},
            "RandomCrop",
        ),
        (
            ["train/", "val/"],
            {"transforms": {"train": [{"_target_": "os.system"}]}},
            "data.transforms.train.0._target_: 'os.system' is refused",
        ),
        (
            ["train/", "val/"],
            {"input_shape": [3, 9, 9]},
            r"data.input_shape: \[3, 9, 9\] is not what was loaded; give \[3, 8, 8\]",
        ),
        (["train/", "val/"], {"num_classes": 3}, "data.num_classes: 3 is not what was loaded; give 2"),
    ],
)
def test_a_wrong_folder_config_says_what_is_wrong(tmp_path, make, keys, message):
    root = tmp_path / "images"
    if make is not None:
        write_images(root, parts=make)
    with pytest.raises(ConfigError, match=message):
        build_data(folder_config(root, **keys))


def test_classes_that_differ_are_named(tmp_path):
    write_images(tmp_path, parts=["train/"])
    write_images(tmp_path, parts=["val/"], classes=("cat", "fox"))
    with pytest.raises(ConfigError, match="differ: dog, fox"):
        build_data(folder_config(tmp_path))


def test_with_a_val_fraction_the_official_test_part_is_the_test_split(tmp_path, small):
    write_idx(tmp_path / "MNIST" / "raw", 20)
    mnist = {"_target_": "modelfactory.data.mnist", "root": str(tmp_path)}
    whole, held = build_data(mnist), build_data({**mnist, "val_fraction": 0.5})
    assert whole.test is None and held.test is not None
    assert [len(split) for split in held.parts.values()] == [10, 10, 10]  # 2 images of each class
    assert torch.equal(held.test.y, whole.val.y) and held.val.y.bincount().tolist() == [1] * 10
    raw = held.train.x
    torch.testing.assert_close(raw.square().mean(), torch.ones(()))
