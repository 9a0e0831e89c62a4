"""Models constructed up to where their features leave."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models

from modelfactory.config.errors import ConfigError
from modelfactory.model.backbone.construct import arguments_of, construct_backbone, names_of_whole, stem_of
from modelfactory.model.backbone.spec import BackboneSpec
from modelfactory.model.deferred_construction import construction

CUTS = [
    ("resnet18", "avgpool", [2, 512, 1, 1]),
    ("squeezenet1_1", "features", [2, 512, 3, 3]),
    ("mobilenet_v3_small", "features.5", [2, 40, 4, 4]),
    ("swin_t", "features.1", [2, 16, 16, 96]),
    ("googlenet", "inception3a", [2, 256, 8, 8]),
    ("maxvit_t", "stem", [2, 64, 112, 112]),
    ("shufflenet_v2_x0_5", "stage3", [2, 96, 4, 4]),
    ("timm/resnet18", "layer2", [2, 128, 8, 8]),
]


def quietly(name: str, *args, **kwargs) -> nn.Module:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    with construction(0, name):
        return construct_backbone(name, *args, **kwargs)


@pytest.mark.parametrize(("name", "output", "shape"), CUTS, ids=[f"{name}-{output}" for name, output, _ in CUTS])
def test_a_cut_model_ends_at_its_output_and_keeps_the_names(name: str, output: str, shape: list[int]):
    whole, cut = quietly(name), quietly(name, output)
    names, kept = list(whole.state_dict()), list(cut.state_dict())
    assert kept == [each for each in names if each in kept]
    size = 224 if name == "maxvit_t" else 64
    assert list(cut.eval()(torch.rand(2, 3, size, size)).shape) == shape


@pytest.mark.parametrize(
    ("output", "hint"), [("layer5", "did you mean 'layer"), ("x", "choose one of"), ("fcc", "did you mean 'fc'")]
)
def test_an_output_that_there_is_not_is_told_with_the_nearest(output: str, hint: str):
    with pytest.raises(ConfigError, match=f"backbone.output: '{output}' is not a layer of resnet18; {hint}"):
        quietly("resnet18", output)


def test_a_forward_that_cannot_be_traced_is_told():
    with pytest.raises(ConfigError, match="backbone.output: timm/.* cannot be cut, since its forward cannot be traced"):
        quietly("timm/tiny_vit_5m_224", "stages.1")


def test_the_last_layer_is_left_out_and_what_comes_before_it_stays():
    assert isinstance(quietly("vgg11").classifier[6], nn.Identity) and isinstance(quietly("vgg11").classifier[3], nn.Linear)
    assert isinstance(quietly("convnext_tiny").classifier[0], nn.LayerNorm)


def test_arguments_that_a_builder_refuses_are_told():
    with pytest.raises(ConfigError, match="backbone.arguments: resnet18 refuses them: .*unexpected keyword argument 'widht'"):
        quietly("resnet18", arguments={"widht": 3})
    assert quietly("resnet18", arguments={"width_per_group": 64}).conv1.out_channels == 64


def test_arguments_that_belong_to_published_weights_are_torchvisions_own():
    assert arguments_of(BackboneSpec("inception_v3", weights="DEFAULT")) == {"transform_input": True}
    assert arguments_of(BackboneSpec("inception_v3", weights="my.pth")) == {}
    assert arguments_of(BackboneSpec("vit_h_14", weights="IMAGENET1K_SWAG_E2E_V1")) == {"image_size": 518}
    assert arguments_of(BackboneSpec("maxvit_t", weights="DEFAULT")) == {"input_size": (224, 224)}
    assert arguments_of(BackboneSpec("vit_b_16", weights="DEFAULT", arguments={"image_size": 64})) == {"image_size": 64}


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "regnet_y_400mf", "swin_t"])
def test_names_of_the_whole_model_are_those_of_its_published_file(name: str):
    given = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    with torch.device("cpu"), construction(0, name):
        assert names_of_whole(name) == set(getattr(models, name)(**given).state_dict())


def test_the_stem_is_the_first_convolution():
    assert stem_of(quietly("resnet18")) == "conv1.weight"
    assert stem_of(quietly("resnet18", in_channels=5)) == "conv1.weight"
    assert quietly("resnet18", in_channels=5).conv1.weight.shape == (64, 5, 7, 7)
    assert stem_of(nn.Conv2d(3, 4, 1)) == "weight" and stem_of(nn.Linear(2, 2)) is None


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "vit_tiny_patch16_224", "convnext_atto"])
def test_models_of_timm_are_constructed_without_their_classifier(name: str):
    model = quietly(f"timm/{name}", in_channels=1).eval()
    assert model(torch.zeros(1, 1, 224, 224)).shape == (1, model.num_features)
    assert names_of_whole(f"timm/{name}") - set(model.state_dict()) in (
        {"fc.weight", "fc.bias"},
        {"head.weight", "head.bias"},
        {"head.fc.weight", "head.fc.bias"},
    )
