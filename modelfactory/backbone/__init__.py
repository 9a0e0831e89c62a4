"""Backbones: a torchvision (or, with the extra, timm) model cut where its features leave, and the weights that go into it."""

from modelfactory.backbone.construct import arguments_of, construct_backbone, names_of_whole, stem_of
from modelfactory.backbone.preprocessing import Preprocessing, preprocessing_of
from modelfactory.backbone.source import Place, find_place, open_place
from modelfactory.backbone.spec import BackboneSpec, read_backbone, without_files

__all__ = [
    "BackboneSpec",
    "Place",
    "Preprocessing",
    "arguments_of",
    "construct_backbone",
    "find_place",
    "names_of_whole",
    "open_place",
    "preprocessing_of",
    "read_backbone",
    "stem_of",
    "without_files",
]
