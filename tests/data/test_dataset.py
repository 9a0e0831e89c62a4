"""Training, validation and test parts: what is held out for which, and what of it depends on what."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import TensorDataset

import modelfactory as mf
from modelfactory.config.errors import ConfigError, Problems
from modelfactory.data import Split, build_data, check_data, digits
from modelfactory.data.dataset import split_indices, standardise
from modelfactory.data.own_data import as_data

HELD_OUT = {
    "digits": {"test_fraction": 0.3},
    "wine": {"test_fraction": 0.3},
    "diabetes": {"test_fraction": 0.3},
    "fake": {"num_test_samples": 50},
    "linear_map": {"num_test_samples": 50},
}


def config(name, **keys):
    return {"_target_": f"modelfactory.data.{name}", **keys}


@pytest.mark.parametrize("name", HELD_OUT)
def test_a_test_part_is_held_out_where_it_is_asked_for(name):
    whole, held = build_data(config(name)), build_data(config(name, **HELD_OUT[name]))
    assert whole.test is None and list(whole.parts) == ["train", "val"] and list(held.parts) == ["train", "val", "test"]
    assert held.test is not None and held.test.x is not None and held.test.y is not None
    assert held.test.x.shape[1:] == whole.val.x.shape[1:] and held.test.y.dtype == whole.val.y.dtype
    wanted = 50 if "num_test_samples" in HELD_OUT[name] else 0.3 * (len(whole.train) + len(whole.val))
    assert abs(len(held.test) - wanted) <= 5
    assert torch.equal(held.val.y, whole.val.y) or name == "diabetes"  # whose targets are standardised by what is left to train on


@pytest.mark.parametrize("classes", [None, torch.arange(100) % 3])
def test_parts_are_disjoint_and_each_depends_on_its_own_fraction(classes):
    train, val, test = split_indices(100, 0.2, 0, classes, 0.3)
    assert sorted(torch.cat([train, val, test]).tolist()) == list(range(100))
    assert torch.equal(val, split_indices(100, 0.2, 0, classes)[1])
    assert torch.equal(test, split_indices(100, 0.4, 0, classes, 0.3)[2])
    if classes is not None:
        assert [int((classes[test] == label).sum()) for label in range(3)] == [10, 10, 10]


def test_the_test_part_is_standardised_by_the_training_part():
    train, _, test = standardise(torch.tensor([1.0, 3.0]), torch.tensor([2.0]), torch.tensor([4.0]))
    assert train.tolist() == [-1.0, 1.0] and test.tolist() == [2.0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"test_fraction": 0}, "data.test_fraction: 0 is too small"),
        ({"test_fraction": 1}, "data.test_fraction: 1 is too large; give a number > 0 and <= 0.9"),
        ({"test_fraction": 0.8}, "data.test_fraction: 0.8 is too large: with data.val_fraction=0.2 less than a tenth is left to train on"),
    ],
)
def test_fractions_that_leave_nothing_are_refused(keys, message):
    problems = Problems()
    assert check_data(config("digits", val_fraction=0.2, **keys), problems) is None
    assert message in str(*problems)


def test_classes_are_chosen_in_the_test_part_too():
    data = build_data(config("digits", test_fraction=0.3, classes=[7, 5], num_classes=2))
    assert data.test is not None and data.test.y.unique().tolist() == [0, 1]
    whole = digits(test_fraction=0.3).test
    assert whole is not None and whole.x is not None and torch.equal(data.test.x, whole.x[(whole.y == 7) | (whole.y == 5)])


def pairs(y):
    return TensorDataset(torch.zeros(len(y), 3), torch.tensor(y))


def test_a_function_may_return_three_sets():
    data = as_data((pairs([0, 1]), pairs([1]), pairs([0, 0, 1])), None, "data", -100)
    assert data.test is not None and len(data.test) == 3 and data.num_classes == 2


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ([], "returned a test set without samples"),
        ([0.5], "the training targets are classes of shape .*, and the test targets floats"),
        ([2], "data.num_classes: 2 is too small: the test targets go from 2 to 2; give 3, or correct them"),
    ],
)
def test_a_wrong_test_set_is_told(test, message, tmp_path, monkeypatch):
    (tmp_path / "made_data.py").write_text(
        f"import torch\nfrom torch.utils.data import TensorDataset\nTEST = {test}\n\n\n"
        "def make():\n    train = TensorDataset(torch.zeros(2, 3), torch.tensor([0, 1]))\n"
        "    return train, train, TensorDataset(torch.zeros(len(TEST), 3), torch.tensor(TEST))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "made_data", raising=False)
    mf.trust("made_data")
    with pytest.raises(ConfigError, match=message):
        build_data({"_target_": "made_data.make"})


def test_data_without_a_test_part_are_as_ever():
    data = replace(build_data(config("wine")), test=Split(torch.zeros(1, 13), torch.zeros(1, dtype=torch.int64)))
    assert replace(data, test=None).parts.keys() == {"train", "val"}
