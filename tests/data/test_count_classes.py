"""`num_classes: null`: counted where the data tell it, wherever something of the model depends on it."""

import sys

import pytest
from PIL import Image

import modelfactory as mf
from modelfactory.config.errors import ConfigError
from modelfactory.data.count_classes import count_classes

LINEAR = {"_target_": "torch.nn.Linear", "out_features": "${data.num_classes}"}
HEAD = {"layers": {"flat": {"_target_": "torch.nn.Flatten"}, "head": LINEAR}}
QUIET = {"max_epochs": 1, "device": "cpu", "progress": "none", "signal": "none"}
OWN = """
import torch
from torch.utils.data import TensorDataset


class Named:
    classes = ["a", "b", "c", "d"]

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.full((3,), float(index)), index % 4


def in_memory(size: int = 5):
    x, y = torch.zeros(size, 3), torch.arange(size)
    return TensorDataset(x, y), TensorDataset(x, y)


def named():
    return Named(), Named()


def unnamed():
    pairs = [(torch.zeros(3), 0), (torch.zeros(3), 1)]
    return pairs, pairs


def values():
    x = torch.zeros(4, 3)
    return TensorDataset(x, torch.zeros(4, 2)), TensorDataset(x, torch.zeros(4, 2))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "counted_data.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "counted_data", raising=False)
    mf.trust("counted_data")


@pytest.fixture
def images(tmp_path):
    for part in ("train", "val"):
        for name in ("Übermut", "cats and dogs", "1"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(2):
                Image.new("RGB", (8, 8), (40 * index, 0, 0)).save(tmp_path / part / name / f"{index}.png")
    return tmp_path


@pytest.mark.parametrize("name", ["digits", "wine", "diabetes", "byte_windows", "fake", "linear_map"])
def test_what_is_told_without_loading_is_what_is_loaded(name):
    data = {"_target_": f"modelfactory.data.{name}"}
    assert count_classes(data) == mf.build_data({"data": data}).num_classes


@pytest.mark.parametrize(("name", "number"), [("in_memory", 5), ("named", 4), ("values", 2)])
def test_the_data_of_a_project_are_counted(own, name, number):
    cfg = {"data": {"_target_": f"counted_data.{name}", "input_shape": [3], "num_classes": None}, "model": HEAD, "init": "xavier_normal"}
    assert mf.build(cfg).head.out_features == number
    assert cfg["data"]["num_classes"] is None
    assert mf.train({**cfg, "trainer": QUIET}).final["epoch"] == 1


def test_folders_are_counted_in_every_command(images, tmp_path):
    words = ("data=image_folder", f"data.root={images}", "data.input_shape=[3,8,8]", "data.transforms=null", "data.num_workers=0")
    cfg = mf.compose(*words, "model=cnn", "model.width=4", *(f"trainer.{key}={value}" for key, value in QUIET.items()))
    assert cfg.data.num_classes is None
    assert mf.plan(cfg).ledger["head.weight"].shape == "3x16"
    mf.train(cfg, run_dir=tmp_path / "run")
    assert "num_classes: 3" in (tmp_path / "run" / "config.yaml").read_text()
    assert mf.load(tmp_path / "run").head.out_features == 3
    cfg.data.classes = [2, 0]
    assert mf.build(cfg).head.out_features == 2


def test_classes_are_counted_under_a_package():
    data = {"_target_": "modelfactory.data.wine", "input_shape": [13], "num_classes": None}
    assert mf.build({"net": {"data": data, "model": HEAD, "init": "xavier_normal"}}, at="net").head.out_features == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"input_shape": [3]}, "data.num_classes: null, and there is no _target_ whose data can be counted; give the number"),
        ({"_target_": "modelfactory.data.image_folder", "root": "nowhere"}, r"data.root: there is no folder nowhere.*num_classes is null"),
        ({"_target_": "modelfactory.data.image_folder"}, "data.root: None is not a folder"),
        ({"_target_": "counted_data.unnamed"}, "data.num_classes: missing; a dataset that does not name its classes needs it"),
        ({"_target_": "counted_data.in_memory", "size": "x"}, "data.size: 'x' is a text"),
    ],
)
def test_what_cannot_be_counted_is_told(own, data, message):
    with pytest.raises(ConfigError, match=message):
        mf.plan({"data": {"input_shape": [3], "num_classes": None, **data}, "model": HEAD, "init": "xavier_normal"})


def test_nothing_is_counted_where_nothing_asks(own):
    layers = {"head": {"_target_": "torch.nn.Linear", "out_features": 2}}
    cfg = {"width": 3, "data": {"_target_": "counted_data.unnamed", "input_shape": ["${width}"], "num_classes": None}}
    assert mf.build({**cfg, "model": {"layers": layers}, "init": "xavier_normal"}).head.out_features == 2
