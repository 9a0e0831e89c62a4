"""The scale of a residual branch that follows from the number of branches."""

from __future__ import annotations

import pytest

import modelfactory as mf
from modelfactory.model.layers.containers import Residual

FC = {"fc": {"_target_": "torch.nn.Linear", "out_features": 4}}


def built(scale: object, repeat: int = 3):
    body = {"_target_": "modelfactory.Residual", "scale": scale, "layers": FC}
    plain = {"_target_": "modelfactory.Residual", "layers": FC}
    blocks = {"repeat": repeat, "layers": {"body": body, "plain": plain}}
    return mf.build({"model": {"layers": {"blocks": blocks}}, "data": {"input_shape": [4]}})


def test_it_is_over_all_branches_of_the_model_and_says_so():
    blocks = built({"base_branches": 3}).blocks
    assert [block.body.scale for block in blocks] == [0.5] * 3 and blocks[0].body.base_branches == 3  # pyright: ignore
    assert {block.plain.scale for block in blocks} == {None}  # pyright: ignore
    assert built({"base_branches": None}).blocks[0].body.scale is None  # pyright: ignore


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"base_branches": 0}, "model.layers.blocks.layers.body.scale.base_branches: 0 is too small"),
        ({"base_branches": 4, "learn": 0.0}, "body.scale.learn: is of a learned scale"),
        ({"base_branch": 4}, "body.scale.base_branch: not a key of scale; did you mean 'base_branches'?"),
    ],
)
def test_what_is_wrong_is_told(scale: object, message: str):
    with pytest.raises(mf.ConfigError, match=message):
        built(scale)


def test_a_base_goes_with_a_fixed_scale():
    with pytest.raises(ValueError, match="goes with a fixed scale"):
        Residual({"fc": mf.build({"model": {"layers": FC}, "data": {"input_shape": [4]}})}, base_branches=4)
