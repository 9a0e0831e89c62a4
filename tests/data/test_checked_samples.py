"""A user's data set: right in the types that Python and numpy give, or an error that names the sample and what would do."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, StackDataset, Subset, TensorDataset

from modelfactory.config.errors import ConfigError
from modelfactory.data import Data, Split, build_data
from modelfactory.data.checked_samples import CheckedSamples, as_inputs, sample_name
from modelfactory.data.first_batch import class_shares, known_targets

NAME = __name__
X = torch.arange(24.0).reshape(12, 2)


class Made(Dataset):
    """Sample `at` is another one than the others."""

    def __init__(self, x=lambda i: X[i], y=lambda i: i % 3, at=None, other=None):
        self.x, self.y, self.at, self.other = x, y, at, other

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return self.other if index == self.at else (self.x(index), self.y(index))


SETS: dict = {}


def make(name):
    return SETS[name], SETS.get(f"{name} val", SETS[name])


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    monkeypatch.setattr("modelfactory.config.target._TRUSTED", {NAME})


def load(dataset, **keys):
    SETS["made"] = dataset
    ignored = {"ignored": keys.pop("ignored")} if "ignored" in keys else {}
    return build_data({"_target_": f"{NAME}.make", "name": "made", "num_classes": 3, **keys}, **ignored)


CLASSES = [lambda i: i % 3, lambda i: np.int32(i % 3), lambda i: torch.tensor(i % 3, dtype=torch.uint8), lambda i: np.array(i % 3)]
BINARY = [lambda i: i % 2 == 0, lambda i: np.bool_(i % 2 == 0), lambda i: torch.tensor(i % 2 == 0)]
VALUES = [lambda i: np.array([i / 2]), lambda i: torch.tensor([i / 2], dtype=torch.float64), lambda i: torch.tensor([i / 2]).half()]
INPUTS = [lambda i: X[i].double(), lambda i: X[i].numpy().astype("float64"), lambda i: X[i].half()]


@pytest.mark.parametrize(("y", "num_classes"), [*((y, 3) for y in CLASSES), *((y, 2) for y in BINARY)])
def test_classes_of_any_integer_type_become_int64(y, num_classes):
    data = load(Made(y=y), num_classes=num_classes)
    labels = data.train.sample(3)[1]
    assert labels.dtype == torch.int64 and data.task == "classification"
    assert labels.tolist() == ([0, 1, 2] if num_classes == 3 else [1, 0, 1])


@pytest.mark.parametrize("y", VALUES)
def test_values_become_the_default_float(y):
    data = load(Made(y=y), num_classes=1)
    assert data.task == "regression" and data.train.sample(2)[1].dtype == torch.float32
    assert data.train.sample(2)[1].tolist() == [[0.0], [0.5]]


@pytest.mark.parametrize("x", INPUTS)
def test_inputs_become_the_default_float(x):
    assert load(Made(x=x)).train.sample(2)[0].dtype == torch.float32


def test_small_integers_become_indices_and_bytes_stay():
    assert as_inputs(torch.zeros(2, dtype=torch.int16)).dtype == torch.int64
    assert as_inputs(torch.zeros(2, dtype=torch.uint8)).dtype == torch.uint8


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.uint8])
def test_tensors_in_memory_get_the_same_types(kind):
    y = (torch.arange(12) % 2).to(kind)
    data = load(TensorDataset(X.double(), y), num_classes=2)
    assert data.train.x.dtype == torch.float32 and data.train.y.dtype == torch.int64 and data.train.y.tolist() == [0, 1] * 6
    assert load(TensorDataset(X, X.double()), num_classes=2).train.y.dtype == torch.float32


WRONG = [
    ({"input": X[0], "target": 0}, "data._target_: sample 0 of the training data is a dict with the keys 'input', 'target'; return a"),
    ((X[0], 0, 1), "is a tuple of 3; return a pair"),
    (X[0], "is a Tensor; return a pair"),
    ((X[0], "cat"), "has the target of type str; return a class number"),
    ((X[0], None), "has the target of type NoneType"),
    (((X[0], X[1]), 0), "has the input of type tuple; return a tensor"),
    ((Image.new("L", (2, 2)), 0), r"has the input of type PIL.Image.Image; return a tensor, such as torchvision.transforms.v2.ToImage"),
    ((np.array(["a"]), 0), "has the input of type numpy.ndarray"),
]


@pytest.mark.parametrize(("sample", "message"), WRONG)
def test_a_sample_that_is_no_pair_of_numbers_is_told(sample, message):
    with pytest.raises(ConfigError, match=message):
        load(Made(at=0, other=sample))


@pytest.mark.parametrize("label", [7, 3, -1])
def test_a_class_out_of_range_on_disk_is_named_where_it_is(label):
    data = load(Made(at=5, other=(X[5], label)))
    message = f"data.num_classes: sample 5 of the training data has the target {label}, and classes go from 0 to 2"
    with pytest.raises(ConfigError, match=message):
        data.train.dataset[5]
    assert data.train.dataset[4][1] == 1


def test_a_class_out_of_range_that_is_listed_is_told_before_training():
    dataset = Made(at=5, other=(X[5], 9))
    dataset.targets = [9 if index == 5 else index % 3 for index in range(12)]
    with pytest.raises(ConfigError, match="data.num_classes: 3 is too small: the training targets go from 0 to 9; give 10, or"):
        load(dataset)
    with pytest.raises(ConfigError, match="training targets go from 0 to 9"):
        load(Subset(dataset, range(2, 8)))
    load(Subset(dataset, range(6, 12)))


@pytest.mark.parametrize("ignored", [-100, 255])
def test_targets_that_the_loss_ignores_are_no_classes(ignored):
    for dataset in (Made(at=5, other=(X[5], ignored)), TensorDataset(X, torch.where(torch.arange(12) == 5, ignored, torch.arange(12) % 3))):
        data = load(dataset, num_classes=3, ignored=ignored)
        assert data.num_classes == 3 and int(data.train.sample(6)[1][5]) == ignored
        with pytest.raises(ConfigError, match="data.num_classes"):
            load(dataset, num_classes=3, ignored=7).train.dataset[5]
    assert class_shares(data) == pytest.approx([4 / 11, 4 / 11, 3 / 11])


def test_a_factory_that_returns_data_is_looked_at_too(monkeypatch):
    split = Split(dataset=Made(at=0, other={"x": 1}))
    monkeypatch.setitem(SETS, "whole", Data(split, split, "classification", 3, (2,)))
    monkeypatch.setattr(f"{NAME}.make", lambda name: SETS["whole"], raising=True)
    with pytest.raises(ConfigError, match="is a dict with the keys 'x'"):
        build_data({"_target_": f"{NAME}.make", "name": "whole", "num_classes": 3})


def test_targets_of_two_kinds_are_told(monkeypatch):
    monkeypatch.setitem(SETS, "made val", Made(y=lambda i: float(i)))
    with pytest.raises(ConfigError, match=r"data: the training targets are classes of shape \[\], and the validation targets floats"):
        load(Made())


@pytest.mark.parametrize("part", ["training", "validation"])
def test_an_empty_part_is_told(monkeypatch, part):
    empty = Subset(Made(), [])
    monkeypatch.setitem(SETS, "made val", Made() if part == "training" else empty)
    with pytest.raises(ConfigError, match=f"data._target_: returned a {part} set without samples"):
        load(empty if part == "training" else Made())


def test_one_sample_of_each_part_is_data():
    data = load(Subset(Made(), [3]))
    assert len(data.train) == len(data.val) == 1 and data.train.sample(2)[1].tolist() == [0]


def test_leaving_out_the_last_batch_leaves_something():
    assert load(Made(), batch_size=12, drop_last=True).drop_last
    with pytest.raises(ConfigError, match="data.batch_size: 13 is more than the 12 training samples, and drop_last leaves"):
        load(Made(), batch_size=13, drop_last=True)


def test_data_that_cannot_be_repeated_are_told():
    def draw(index):
        return torch.tensor(np.random.default_rng().random(2))

    assert "this run cannot be repeated" in load(Made(x=draw)).warnings[0] and not load(Made()).warnings


class Files(Dataset):
    samples = [("a/0.png", 0), ("b/1.png", 1)]
    classes = ["a", "b"]

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return X[index], 5


def test_a_file_is_named_and_other_attributes_stay():
    checked = CheckedSamples(Files(), "validation", num_classes=2)
    with pytest.raises(ConfigError, match="data.num_classes: b/1.png of the validation data has the target 5"):
        checked[1]
    assert checked.classes == ["a", "b"] and sample_name(Subset(checked, [1, 0]), 1) == "a/0.png"
    assert pickle.loads(pickle.dumps(checked)).classes == ["a", "b"]
    with pytest.raises(AttributeError):
        checked.nothing  # noqa: B018


def test_known_targets_are_those_listed():
    listed = Made()
    listed.targets = torch.arange(12) % 3
    assert known_targets(Subset(Subset(CheckedSamples(listed, "training"), [5, 4, 3]), [0, 2])).tolist() == [2, 0]
    assert known_targets(Made()) is None and known_targets(StackDataset(X)) is None
    for other in ("no list of them", [1, 2], [0.5] * 12):
        listed.targets = other
        assert known_targets(listed) is None
