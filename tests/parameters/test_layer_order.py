"""Layers counted from the structure of a model."""

import pytest
import torch
import torchvision
from torch import nn

import modelfactory as mf
from modelfactory.parameters.layer_order import layer_of_each


def outline(model: nn.Module) -> list[str]:
    """The first parameter of each layer."""
    first: dict[int, str] = {}
    for name, layer in layer_of_each(model).items():
        first.setdefault(layer, name)
    return [first[layer] for layer in range(len(first))]


def test_a_resnet_has_its_stem_its_blocks_and_its_head():
    with torch.device("meta"):
        model = torchvision.models.resnet18()
    blocks = [f"layer{stage}.{block}.conv1.weight" for stage in range(1, 5) for block in range(2)]
    assert outline(model) == ["conv1.weight", *blocks, "fc.weight"]
    layers = layer_of_each(model)
    assert layers["bn1.weight"] == 0 and layers["layer2.0.downsample.1.bias"] == layers["layer2.0.conv1.weight"]


def test_a_vision_transformer_is_counted_as_in_beit():
    with torch.device("meta"):
        model = torchvision.models.vit_b_16()
    layers = layer_of_each(model)
    assert [layers[name] for name in ("class_token", "conv_proj.weight", "encoder.pos_embedding")] == [0, 0, 0]
    assert [layers[f"encoder.layers.encoder_layer_{i}.mlp.0.weight"] for i in range(12)] == list(range(1, 13))
    assert layers["encoder.ln.weight"] == 12 and layers["heads.head.weight"] == 13


@pytest.mark.parametrize(("name", "depths", "between"), [("convnext_tiny", (3, 3, 9, 3), 3), ("swin_t", (2, 2, 6, 2), 3)])
def test_stages_are_opened_to_their_blocks(name, depths, between):
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    layers = layer_of_each(model)
    assert len(set(layers.values())) == 1 + sum(depths) + between + 1
    for stage, depth in zip((1, 3, 5, 7), depths, strict=True):
        numbers = [layers[next(n for n in layers if n.startswith(f"features.{stage}.{block}."))] for block in range(depth)]
        assert numbers == list(range(numbers[0], numbers[0] + depth))


@pytest.mark.parametrize(
    ("model", "first"),
    [
        ("vit", ["patches.weight", *(f"blocks.{i}.attention.norm.weight" for i in range(4)), "head.weight"]),
        ("cnn", ["conv1.weight", "conv2.weight", "head.weight"]),
        ("lstm", ["lstm.weight_ih_l0", "head.weight"]),
    ],
)
def test_models_of_the_grammar_are_counted_by_their_blocks(model, first):
    assert outline(mf.build(mf.compose(f"model={model}"))) == first


def test_all_that_follows_a_backbone_is_the_head():
    body = torchvision.models.resnet18()
    body.fc = nn.Identity()
    layers = {"backbone": body, "fc1": nn.Linear(512, 8), "norm": nn.BatchNorm1d(8), "fc2": nn.Linear(8, 2)}
    model = nn.Sequential()
    for name, module in layers.items():
        model.add_module(name, module)
    counted = layer_of_each(model)
    assert {layer for name, layer in counted.items() if not name.startswith("backbone.")} == {9}
    assert counted["backbone.layer4.1.conv2.weight"] == 8 and counted["backbone.conv1.weight"] == 0


def test_every_parameter_has_a_layer_whatever_the_model():
    for model in (nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)), nn.LayerNorm(3), nn.Sequential()):
        layers = layer_of_each(model)
        assert layers.keys() == dict(model.named_parameters()).keys() and set(layers.values()) <= {0}


def test_what_is_left_of_a_traced_model_is_counted_alike():
    from torchvision.models.feature_extraction import create_feature_extractor

    model = torchvision.models.resnet18()
    traced = create_feature_extractor(model, {"layer4": "features"})
    whole, counted = layer_of_each(model), layer_of_each(traced)
    assert counted == {name: whole[name] for name in counted}
