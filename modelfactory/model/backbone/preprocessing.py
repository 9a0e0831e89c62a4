"""The preprocessing that belongs to published weights: what turns an image into what the backbone was trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelfactory.model.backbone.spec import TIMM, BackboneSpec


@dataclass(frozen=True)
class Preprocessing:
    """What published weights want done to an image.

    Attributes:
        of: the weights, in words.
        transform: a PIL image -> a float tensor [channels, height, width], resized, cropped and normalised.
        input_shape: what it gives.
        mean, std: what it normalises by, a channel each.
    """

    of: str
    transform: Callable[[Any], Any]
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def preprocessing_of(spec: BackboneSpec) -> Preprocessing | None:
    """The preprocessing of a backbone's published weights (torchvision's, or timm's own); None with other weights or none.

    Example:
        >>> preprocessing_of(BackboneSpec("resnet18", weights="DEFAULT")).input_shape
        (3, 224, 224)
    """
    if not spec.has_published_weights:
        return None
    if spec.is_timm:
        return _of_timm(str(spec.name).removeprefix(TIMM))
    from torchvision.models import get_model_weights

    transform = get_model_weights(str(spec.name))[str(spec.weights)].transforms()
    sides = tuple(transform.crop_size) * (2 if len(transform.crop_size) == 1 else 1)
    mean, std = tuple(transform.mean), tuple(transform.std)
    return Preprocessing(f"{spec.name} {spec.weights}", transform, (len(mean), *sides), mean, std)


def _of_timm(name: str) -> Preprocessing | None:
    import timm
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    pretrained = timm.get_pretrained_cfg(name)
    if pretrained is None:
        return None
    config = resolve_data_config({}, pretrained_cfg=pretrained.to_dict())
    transform: Any = create_transform(**config, is_training=False)
    return Preprocessing(f"{TIMM}{name}", transform, tuple(config["input_size"]), tuple(config["mean"]), tuple(config["std"]))
