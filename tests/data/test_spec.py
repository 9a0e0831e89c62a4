import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

import modelfactory.data
from modelfactory.config import target
from modelfactory.config.errors import ConfigError, Problems
from modelfactory.data import Data, Split, build_data, check_data

NAME = __name__
ROOT = Path(modelfactory.data.__file__).parents[2]


class Squares(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.full((2,), float(index)), index % 3


def make_pair():
    return TensorDataset(torch.zeros(6, 2), torch.arange(6) % 3), TensorDataset(torch.zeros(3, 2), torch.arange(3))


def make_values():
    return TensorDataset(torch.zeros(6, 2), torch.zeros(6, 2)), TensorDataset(torch.zeros(3, 2), torch.zeros(3, 2))


def make_disk():
    return Squares(), Squares()


def make_data(size: int = 4):
    return Data(
        Split(torch.zeros(size, 2), torch.zeros(size, dtype=torch.long)),
        Split(torch.zeros(2, 2), torch.zeros(2).long()),
        "classification",
        2,
        (2,),
    )


def make_nothing():
    return 3


def make_empty():
    return TensorDataset(torch.zeros(0, 2), torch.zeros(0)), TensorDataset(torch.zeros(3, 2), torch.zeros(3))


@pytest.fixture
def trusted(monkeypatch):
    monkeypatch.setattr(target, "_TRUSTED", {NAME})


def config(name, **keys):
    return {"_target_": f"{NAME}.{name}", **keys}


def test_a_pair_of_tensor_datasets_stays_in_memory(trusted):
    data = build_data(config("make_pair", batch_size=2))
    assert data.train.x is not None and (data.task, data.num_classes, data.input_shape) == ("classification", 3, (2,))


def test_float_targets_make_a_regression(trusted):
    data = build_data(config("make_values"))
    assert (data.task, data.num_classes) == ("regression", 2)


def test_a_pair_on_disk_takes_the_declared_classes(trusted):
    data = build_data(config("make_disk", num_classes=3, num_workers=2))
    assert data.train.x is None and (data.num_classes, data.num_workers) == (3, 2)
    with pytest.raises(ConfigError, match="data.num_classes: missing"):
        build_data(config("make_disk"))


def test_a_factory_of_data_gets_its_own_arguments(trusted):
    assert len(build_data(config("make_data", size=5)).train) == 5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (config("make_nothing"), "data._target_: returned int; return modelfactory.data.Data"),
        (config("make_empty"), "data._target_: returned a training set without samples"),
        (config("make_pair", num_classes=2), "data.num_classes: 2 is too small: the training targets go from 0 to 2"),
        (config("make_data", num_classes=5), "data.num_classes: 5 is not what was loaded; give 2"),
        (config("make_data", input_shape=[3]), r"data.input_shape: \[3\] is not what was loaded; give \[2\]"),
        (config("make_data", sise=3), "data.sise: .*did you mean 'size'"),
    ],
)
def test_what_a_factory_returns_is_checked(trusted, keys, message):
    with pytest.raises(ConfigError, match=message):
        build_data(keys)


DIGITS = {"_target_": "modelfactory.data.digits"}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (3, "data: 3 is not a mapping"),
        ({}, "data._target_: None is not the dotted name"),
        ({"_target_": "modelfactory.data.digit"}, "data._target_: .*did you mean 'modelfactory.data.digits'"),
        ({"_target_": "digits"}, "data._target_: .*did you mean 'modelfactory.data.digits'"),
        ({"_target_": "torch.load"}, "data._target_: 'torch.load' is refused"),
        ({**DIGITS, "batch_size": 0}, "data.batch_size: 0 is too small"),
        ({**DIGITS, "batch_size": "64"}, "data.batch_size: '64' is a text"),
        ({**DIGITS, "seed": None}, "data.seed: None"),
        ({**DIGITS, "input_shape": [1, 0, 8]}, "data.input_shape: .*sizes >= 1"),
        ({**DIGITS, "input_shape": 64}, "data.input_shape: 64 is not a list; give sizes"),
        ({**DIGITS, "val_fraction": 1.5}, "data.val_fraction: 1.5 is too large"),
        ({**DIGITS, "val_fraction": 0}, "data.val_fraction: 0 is too small"),
        ({**DIGITS, "val_fraction": float("nan")}, "data.val_fraction: nan is not finite"),
        ({**DIGITS, "batchsize": 3}, "data.batchsize: not an argument of digits"),
        ({"_target_": "modelfactory.data.fake", "num_samples": 0}, "data.num_samples: 0 is too small"),
        ({"_target_": "modelfactory.data.image_folder"}, "data.root: missing"),
    ],
)
def test_a_wrong_data_config_is_said_before_anything_is_loaded(mapping, message):
    problems = Problems()
    assert check_data(mapping, problems) is None
    with pytest.raises(ConfigError, match=message):
        problems.raise_if_any()


def test_all_problems_are_gathered():
    problems = Problems()
    check_data({**DIGITS, "batch_size": 0, "val_fraction": 2.0, "seeds": 1}, problems)
    assert {problem.path for problem in problems} == {"data.batch_size", "data.val_fraction", "data.seeds"}


@pytest.mark.parametrize("name", ["digits", "wine", "diabetes", "fake"])
def test_loading_imports_neither_sklearn_nor_torchvision(name):
    code = f"""
import sys
from modelfactory.data import build_data
build_data({{"_target_": "modelfactory.data.{name}"}})
print([name for name in ("sklearn", "torchvision", "hydra", "omegaconf", "matplotlib", "torch._dynamo") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_a_part_that_nobody_asks_for_is_no_argument_of_a_function_of_ones_own(trusted):
    """As where the function stands in the place of one of ours: data._target_=mine, of a config with test_fraction: null."""
    given = {"_target_": f"{NAME}.make_data", "num_classes": 3, "test_fraction": None, "num_test_samples": None}
    assert check_data(given, problems := Problems()) and not problems
    for key, value, told in (("test_fraction", 0.1, ""), ("sise", None, "; did you mean 'size'?")):
        check_data({**given, key: value}, problems := Problems())
        assert f"data.{key}: not an argument of make_data{told}" in str(list(problems)[0])
