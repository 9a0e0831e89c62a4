"""Which tensor goes where: prefixes, renaming, what may be left, and one error with all that may not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modelfactory.config.errors import Problems
from modelfactory.model.weights.files import Source
from modelfactory.model.weights.match import Allowance, Match, match_names, stem_for

WANTED = {"conv.weight": (4, 3, 1, 1), "conv.bias": (4,), "norm.weight": (4,), "norm.num_batches_tracked": ()}


def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros(shape, dtype=torch.int64 if "num_batches" in name else torch.float32) for name, shape in shapes.items()
    }


def matched(shapes: dict[str, Any], **options: Any) -> tuple[Match, list[str]]:
    problems = Problems()
    source = Source(
        "w.pt",
        {name: value if isinstance(value, torch.Tensor) else tensors({name: value})[name] for name, value in shapes.items()},
    )
    return match_names(source, tensors(WANTED), "backbone.weights", problems, **options), [str(problem) for problem in problems]


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "backbone.", "module._orig_mod.", "_orig_mod.module.backbone."])
def test_prefixes_of_wrappers_are_mapped(prefix: str):
    match, problems = matched({prefix + name: shape for name, shape in WANTED.items()})
    assert not problems and match.pairs == {name: prefix + name for name in WANTED}


def test_a_declared_renaming_goes_before_the_prefixes():
    match, problems = matched({f"net.body.{name}": shape for name, shape in WANTED.items()}, rename={"net.body.": "module."})
    assert not problems and match.pairs["conv.bias"] == "net.body.conv.bias"
    assert matched(WANTED, rename={"encoder.": ""})[1] == [
        "backbone.rename.encoder.: no tensor of w.pt begins with 'encoder.'; it holds conv.weight, conv.bias, norm.weight, and 1 more"
    ]


def test_all_that_does_not_fit_is_one_problem_with_shapes():
    shapes = {"conv.weight": (4, 3, 3, 3), "norm.weight": torch.zeros(4, dtype=torch.int64), "extra.weight": (2, 5)}
    assert matched(shapes)[1] == [
        "backbone.weights: w.pt does not fit the model\n"
        "    missing (1): conv.bias [4]\n"
        "    unexpected (1): extra.weight [2x5]\n"
        "    of another shape (2): conv.weight is 4x3x3x3 in the file and 4x3x1x1 here, norm.weight is int64 in the file and float32 here\n"
        "    backbone.allow declares what may differ: {missing: [...], unexpected: [...], reshape: [...]}"
    ]


def test_what_is_allowed_is_left_as_it_is():
    shapes = {"conv.weight": (4, 3, 3, 3), "norm.weight": (4,), "extra.weight": (2, 5)}
    match, problems = matched(shapes, allow=Allowance(missing=("*.bias",), unexpected=("extra.*",), reshape=("conv.*",)))
    assert not problems and match.pairs == {"norm.weight": "norm.weight"} and match.dropped == ("extra.weight",)
    assert match.kept == ("conv.weight", "conv.bias", "norm.num_batches_tracked")


def test_what_was_cut_off_is_not_unexpected():
    assert matched({**WANTED, "fc.weight": (9, 4)}, cut={"fc.weight"})[0].dropped == ("fc.weight",)


def test_what_came_after_the_backbone_of_another_run_is_left():
    match, problems = matched({**{f"backbone.{name}": shape for name, shape in WANTED.items()}, "head.weight": (9, 4)})
    assert not problems and match.dropped == ("head.weight",) and len(match.pairs) == 4


def test_a_load_that_matches_nothing_is_an_error_whatever_is_allowed():
    everything = Allowance(("*",), ("*",), ("*",))
    (problem,) = matched({"encoder.conv.weight": (4, 3, 1, 1)}, allow=everything)[1]
    assert problem == (
        "backbone.weights: none of the 1 tensors of w.pt is of the model; 'encoder.conv.weight' looks like 'conv.weight': rename maps "
        "beginnings of names. It holds encoder.conv.weight"
    )


def test_a_load_of_which_nothing_is_left_is_an_error():
    shapes = {"conv.weight": (4, 3, 3, 3)}
    (problem,) = matched(shapes, allow=Allowance(missing=("*",), reshape=("*",)))[1]
    assert problem.startswith("backbone.weights: nothing of w.pt would be loaded")


def test_two_tensors_for_one_parameter_are_an_error():
    (problem,) = matched({**WANTED, "module.conv.bias": (4,)})[1]
    assert problem == "backbone.weights: both conv.bias and module.conv.bias of w.pt would be conv.bias; rename one of them"


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("features.denseblock1.denselayer1.norm.1.weight", "features.denseblock1.denselayer1.norm1.weight"),
        ("encoder.layers.encoder_layer_0.mlp.linear_1.bias", "encoder.layers.encoder_layer_0.mlp.0.bias"),
        ("encoder.layers.encoder_layer_0.mlp.linear_2.weight", "encoder.layers.encoder_layer_0.mlp.3.weight"),
    ],
)
def test_names_that_torchvision_published_before_it_renamed_layers(older: str, newer: str):
    match = match_names(Source("w.pt", {older: torch.zeros(2)}), {newer: torch.zeros(2)}, "backbone.weights", Problems())
    assert match.pairs == {newer: older}


def test_a_long_list_is_cut_and_counted():
    wanted = {f"fc{index}.weight": torch.zeros(1) for index in range(30)}
    problems = Problems()
    match_names(Source("w.pt", {"fc0.weight": torch.zeros(1)}), wanted, "backbone.weights", problems)
    assert "missing (29): fc1.weight [1], " in str(list(problems)[0]) and ", and 9 more" in str(list(problems)[0])


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_a_grey_picture_leaves_either_stem_as_it_left_the_old_one(channels: int):
    weight, grey = torch.rand(5, 3, 2, 2), torch.rand(1, 1, 2, 2)
    before = (weight * grey).sum((1, 2, 3))
    summed = stem_for(weight, channels, "sum")
    assert torch.allclose((summed * grey).sum((1, 2, 3)), before, rtol=1e-5) and summed.shape == (5, channels, 2, 2)
    if channels % 3 == 0:
        assert torch.allclose((stem_for(weight, channels, "repeat") * grey).sum((1, 2, 3)), before, rtol=1e-5)


def test_allowances_are_checked():
    problems = Problems()
    Allowance.read({"mising": ["a"], "reshape": 3}, "backbone.allow", problems)
    assert [str(problem) for problem in problems] == [
        "backbone.allow.mising: not a key of allow; did you mean 'missing'?",
        "backbone.allow.reshape: 3 is a whole number; give a list of texts",
    ]
