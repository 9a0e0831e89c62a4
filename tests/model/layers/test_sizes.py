"""Sizes that a class of one's own declares."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import modelfactory as mf

mf.trust(__name__)


class Sized(nn.Module):
    modelfactory_sizes: Any = {"channels": 1, "width": -1}

    def __init__(self, channels: int, width: int, out: int = 2):
        super().__init__()
        self.sizes = channels, width
        self.fc = nn.Linear(width, out)

    def forward(self, x):
        return self.fc(x)


class Below(Sized):
    pass


class Misspelt(Sized):
    modelfactory_sizes = {"chanels": 1}


class Zero(Sized):
    modelfactory_sizes = {"width": 0}


class Listed(Sized):
    modelfactory_sizes = ["width"]


def build(name: str, shape: list[int] | None = [3, 5], **arguments: Any) -> Any:  # noqa: B006
    data = {} if shape is None else {"data": {"input_shape": shape}}
    return mf.build({"model": {"layers": {"own": {"_target_": f"{__name__}.{name}", **arguments}}}, **data})


@pytest.mark.parametrize("name", ["Sized", "Below"])
def test_sizes_that_a_class_declares_may_be_left_out(name: str):
    assert build(name).own.sizes == (3, 5)
    assert build(name, channels=3, out=4).own.fc.out_features == 4


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("Sized", {"width": 6}, r"^model.layers.own.width: 6 does not fit what comes in, \[N, 3, 5\]: leave it out, or give 5$"),
        ("Sized", {"shape": None}, r"model.layers.own.channels: cannot be inferred: what comes in is not known"),
        ("Misspelt", {}, r"model.layers.own._target_: modelfactory_sizes of Misspelt has 'chanels', .* did you mean 'channels'"),
        ("Zero", {}, r"model.layers.own._target_: modelfactory_sizes of Zero has 0 for 'width'; give the dimension"),
        ("Listed", {}, r"model.layers.own._target_: modelfactory_sizes of Listed is \['width'\]; give dimensions"),
    ],
)
def test_a_size_or_declaration_that_is_wrong_is_told_with_the_path(name: str, given: dict[str, Any], told: str):
    with pytest.raises(mf.ConfigError, match=told):
        build(name, **given)
