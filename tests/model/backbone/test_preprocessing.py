"""`transforms: backbone`: the preprocessing that belongs to published weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torchvision import models

from modelfactory.config.errors import Problems
from modelfactory.data import build_data, check_data
from modelfactory.model.backbone.preprocessing import preprocessing_of
from modelfactory.model.backbone.spec import BackboneSpec
from tests.data.test_vision import write_images

RESNET = {"name": "resnet18", "weights": "DEFAULT"}


def folder(root: Any, **more: Any) -> dict[str, Any]:
    return {"_target_": "modelfactory.data.image_folder", "root": str(root), "transforms": "backbone", **more}


def told(data: dict[str, Any], backbone: Any) -> list[str]:
    problems = Problems()
    check_data(data, problems, backbone=backbone)
    return [str(problem) for problem in problems]


def test_images_come_out_as_torchvisions_own_preprocessing_gives_them(tmp_path):
    write_images(tmp_path)
    data = build_data(folder(tmp_path, input_shape=[3, 224, 224]), backbone=RESNET)
    assert data.input_shape == (3, 224, 224)
    path, label = data.val.dataset.samples[0]
    expected = models.ResNet18_Weights.DEFAULT.transforms()(Image.open(path).convert("RGB"))
    x, y = data.val.sample(1)
    assert torch.equal(x[0], expected) and y.item() == label


def test_one_part_may_have_transforms_of_its_own(tmp_path):
    write_images(tmp_path)
    crop = {"_target_": "torchvision.transforms.v2.RandomResizedCrop", "size": [384, 384]}
    backbone = {"name": "vit_b_16", "weights": "IMAGENET1K_SWAG_E2E_V1"}
    data = build_data(folder(tmp_path) | {"transforms": {"train": [crop], "val": "backbone"}}, backbone=backbone)
    assert data.train.sample(1)[0].shape == data.val.sample(1)[0].shape == (1, 3, 384, 384)


def test_models_of_timm_have_their_own():
    pytest.importorskip("timm")
    made = preprocessing_of(BackboneSpec("timm/vit_tiny_patch16_224", weights=True))
    assert made is not None and made.mean == (0.5, 0.5, 0.5) and made.input_shape == (3, 224, 224)
    assert made.transform(Image.new("RGB", (300, 400), "white")).unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        (
            None,
            "data.transforms: 'backbone' and there is no backbone; give one, such as backbone=resnet18 backbone.weights=DEFAULT",
        ),
        (
            {"name": "resnet18"},
            "data.transforms: 'backbone', and resnet18 has no weights; give published weights such as DEFAULT, or the transforms",
        ),
        (
            {"name": "resnet18", "weights": "runs/a"},
            "data.transforms: 'backbone', and resnet18 has the weights runs/a, which say nothing of preprocessing; give published weights "
            "such as DEFAULT, or the transforms",
        ),
    ],
)
def test_a_backbone_without_published_weights_has_none(tmp_path, backbone, expected):
    write_images(tmp_path)
    assert told(folder(tmp_path), backbone) == [expected]


def test_data_in_memory_has_no_images_to_preprocess():
    expected = "data.transforms: 'backbone' is for image_folder, which reads images one by one; digits has no transforms"
    assert expected in told({"_target_": "modelfactory.data.digits", "transforms": "backbone"}, RESNET)


def test_what_does_not_agree_with_it_is_told(tmp_path):
    write_images(tmp_path)
    assert told(folder(tmp_path, mean=[0.5, 0.5, 0.5], input_shape=[3, 64, 64]), RESNET) == [
        "data.mean: [0.5, 0.5, 0.5] is not that of resnet18 DEFAULT; give [0.485, 0.456, 0.406], or null",
        "data.input_shape: [3, 64, 64] is not what the preprocessing of resnet18 DEFAULT gives; give [3, 224, 224]",
    ]
