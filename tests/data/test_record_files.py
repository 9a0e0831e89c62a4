"""Files of MNIST and CIFAR hold what was published, or are named with what they hold."""

import gzip
import hashlib
import struct

import pytest

from modelfactory.config.errors import ConfigError
from modelfactory.data import build_data
from modelfactory.data.record_files import check_archive, read_cifar, read_idx

FETCH = r"; take it away, and fetch it again \(data.download=true\)"


def idx(count, body=None, magic=2051, sides=(2, 2)):
    body = bytes(count * sides[0] * sides[1]) if body is None else body
    return struct.pack(">IIII", magic, count, *sides) + body


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds 0 records of 5, is no idx file"),
        (idx(5)[:-1], "holds 4 records of 5, says that it has 5"),
        (idx(5) + b"x", "holds 5 records of 5, says that it has 5"),
        (idx(4), "holds 4 records of 5, says that it has 4"),
        (idx(5, magic=2049), "holds 5 records of 5, is no idx file"),
        (idx(5, sides=(4, 1)), "holds 5 records of 5, says that it has 5"),
        (b"<html>not found</html>", "holds 1 records of 5, is no idx file"),
    ],
)
def test_an_idx_file_that_is_not_what_was_published_is_named(tmp_path, content, message):
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"data.root: {file} {message}{FETCH}"):
        read_idx(file, 5, (2, 2))


def test_an_idx_file_is_read(tmp_path):
    (tmp_path / "a").write_bytes(idx(2, bytes(range(8))))
    assert read_idx(tmp_path / "a", 2, (2, 2)).tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


@pytest.mark.parametrize(
    ("size", "message"),
    [(0, "holds 0 records of 3"), (2 * 3073, "holds 2 records"), (4 * 3073, "holds 4 records"), (3073 + 5, "holds 3,078 bytes, not")],
)
def test_a_cifar_file_of_another_length_is_named(tmp_path, size, message):
    file = tmp_path / "data_batch_3.bin"
    file.write_bytes(bytes(size))
    with pytest.raises(ConfigError, match=f"data.root: {file} {message}.*{FETCH}"):
        read_cifar(file, 3, 1)


def test_a_file_is_compared_with_the_archive_beside_it(tmp_path):
    file, archive = tmp_path / "a", tmp_path / "a.gz"
    file.write_bytes(b"bytes" * 100)
    archive.write_bytes(gzip.compress(file.read_bytes()))
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    check_archive(file, archive, md5)
    with pytest.raises(ConfigError, match="a.gz does not have its published checksum, md5 0"):
        check_archive(file, archive, "0" * 32)
    flipped = bytearray(file.read_bytes())
    flipped[77] ^= 4
    file.write_bytes(flipped)
    with pytest.raises(ConfigError, match="a is not what a.gz holds, by its checksum"):
        check_archive(file, archive, md5)


def cifar(folder, labels):
    for name in (*(f"data_batch_{index}.bin" for index in range(1, 6)), "test_batch.bin"):
        record = bytes([labels.get(name, 3)]) + bytes(3072)
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(record * 10_000)


def test_a_label_that_there_is_not_is_named_with_its_file(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    cifar(folder, {"data_batch_4.bin": 12})
    with pytest.raises(ConfigError, match=f"{folder / 'data_batch_4.bin'} has the label 12, of 10 classes"):
        build_data({"_target_": "modelfactory.data.cifar10", "root": str(tmp_path)})


def test_one_short_file_among_the_others_is_named(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    cifar(folder, {})
    file = folder / "data_batch_2.bin"
    file.write_bytes(file.read_bytes()[: 3073 * 9_999])
    with pytest.raises(ConfigError, match=f"{file} holds 9,999 records of 10,000"):
        build_data({"_target_": "modelfactory.data.cifar10", "root": str(tmp_path)})


def test_an_archive_of_mnist_is_held_against_its_published_checksum(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(count, sides=(28, 28)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + bytes(count))
    config = {"_target_": "modelfactory.data.mnist", "root": str(tmp_path)}
    assert len(build_data(config).train) == 60_000
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(ConfigError, match="t10k-labels-idx1-ubyte.gz does not have its published checksum, md5 ec29112dd5af"):
        build_data(config)
