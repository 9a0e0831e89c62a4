"""Files as bytes: every byte is a target once, of files that are held out none in training."""

import sysconfig
from pathlib import Path

import pytest
import torch

import modelfactory as mf
from modelfactory.config.errors import ConfigError
from modelfactory.data.batches import make_batches
from modelfactory.data.byte_windows import byte_windows
from modelfactory.data.first_batch import class_shares
from modelfactory.data.spec import build_data

TEXT = bytes(range(256)) * 8


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.bin"
    path.write_bytes(TEXT)
    return path


def targets(part) -> bytes:
    return bytes(torch.cat([part.dataset[index][1] for index in range(len(part))]).tolist())


def test_each_byte_is_the_target_of_those_before_it_once(file):
    data = byte_windows(str(file), context=15, val_fraction=0.25)
    train, val = TEXT[:1536], TEXT[1536:]
    for part, text in ((data.train, train), (data.val, val)):
        x, y = part.sample(2)
        assert bytes(x.flatten().tolist()) == text[:15] + text[15:30] and bytes(y.flatten().tolist()) == text[1:31]
        assert targets(part) == text[1 : 1 + (len(text) - 1) // 15 * 15]
    assert x.dtype == y.dtype == torch.int64 and data.num_classes == 256 and data.input_shape == (15,)


def test_training_windows_may_overlap_and_validation_ones_do_not(file):
    data = byte_windows(str(file), context=16, stride=4, val_fraction=0.25)
    assert len(data.train) == (1536 - 17) // 4 + 1 and len(data.val) == (512 - 17) // 16 + 1
    assert data.train.dataset[1][0].tolist() == list(range(4, 20))


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_of_a_folder_whole_files_are_held_out(tmp_path, fraction):
    texts = {name: bytes([48 + index]) * 100 for index, name in enumerate("abcdefgh")}
    for name, text in texts.items():
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / ("deep" if name > "d" else ".") / name).write_bytes(text)
    (tmp_path / ".hidden").write_bytes(b"!" * 100)
    data = byte_windows(str(tmp_path), context=9, stride=1, val_fraction=fraction)
    seen = [set(part.dataset.tokens.tolist()) - {0} for part in (data.train, data.val)]
    assert not seen[0] & seen[1] and set.union(*seen) == {48 + index for index in range(8)}
    assert len(seen[1]) == max(1, round(8 * fraction)) or fraction == 0.1
    assert seen == [
        set(part.dataset.tokens.tolist()) - {0} for data in [byte_windows(str(tmp_path), 9, 1, fraction)] for part in (data.train, data.val)
    ]


def test_without_a_path_it_is_the_standard_library():
    data = byte_windows(context=64)
    size = sum(file.stat().st_size for file in Path(sysconfig.get_path("stdlib")).glob("*.py"))
    assert 0.8 * size < (len(data.train) + len(data.val)) * 64 <= size + 1000
    assert 0.05 < len(data.val) / (len(data.train) + len(data.val)) < 0.2


def test_batches_are_those_of_single_samples_in_the_order_of_the_seed(file):
    data = byte_windows(str(file), context=15)
    cpu = torch.device("cpu")
    for epoch in (1, 2):
        batches = list(make_batches(data.train, 20, cpu, seed=3, drop_last=True).epoch(epoch))
        assert [len(x) for x, _ in batches] == [20] * (len(data.train) // 20)
        first = [bytes(row.tolist()) for x, _ in batches for row in x]
        assert len(set(first)) <= len(first) and {row[0] for row in first} != {first[0][0]}
    again = list(make_batches(data.train, 20, cpu, seed=3, drop_last=True).epoch(2))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(batches, again, strict=True))


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"path": "nowhere"}, "data.path: there is no file or folder 'nowhere'"),
        ({"context": 5000}, "data.context: 5000 is too long: the training part of"),
        ({"context": 0}, "data.context: 0 is too small"),
        ({"classes": [1, 2]}, "data.classes: (1, 2) is of samples of one class each, and these have a target at each place"),
        ({"per_class": 3}, "data.per_class: 3 is of samples of one class each"),
        ({"path": "empty"}, "has no file with bytes in it"),
        ({"path": "one"}, "has one file with bytes in it"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(file, tmp_path, monkeypatch, keys, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a").write_bytes(b"a")
    with pytest.raises(mf.ConfigError) as caught:
        build_data({"_target_": "modelfactory.data.byte_windows", "path": str(file), "context": 15, **keys})
    assert why in str(caught.value)


def test_the_shares_of_bytes_are_counted(tmp_path):
    text = tmp_path / "ab"
    text.write_bytes(b"aaab" * 400)
    shares = class_shares(byte_windows(str(text), context=8))
    assert shares[ord("a")] == pytest.approx(0.75, abs=1e-3) and shares[ord("b")] == pytest.approx(0.25, abs=1e-3)


def test_the_last_part_of_a_file_is_the_test_part(file):
    data = byte_windows(str(file), context=15, val_fraction=0.25, test_fraction=0.125)
    assert data.test is not None
    assert [bytes(split.dataset.tokens.tolist()) for split in data.parts.values()] == [TEXT[:1280], TEXT[1280:1792], TEXT[1792:]]


@pytest.mark.parametrize("fractions", [(0.1, 0.1), (0.3, 0.4), (0.9, 0.9)])
def test_of_a_folder_whole_files_are_for_testing(tmp_path, fractions):
    for index, name in enumerate("abcdefgh"):
        (tmp_path / name).write_bytes(bytes([48 + index]) * 100)
    data = byte_windows(str(tmp_path), context=9, stride=1, val_fraction=fractions[0], test_fraction=fractions[1])
    seen = [set(split.dataset.tokens.tolist()) - {0} for split in data.parts.values()]
    assert len(seen) == 3 and all(seen) and sum(map(len, seen)) == 8 and set.union(*seen) == {48 + index for index in range(8)}


def test_a_folder_of_two_files_has_no_test_part(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"x" * 100)
    with pytest.raises(ConfigError, match="data.path: .* has two files with bytes in them; a folder needs three, a training, a validation"):
        byte_windows(str(tmp_path), context=9, test_fraction=0.1)
