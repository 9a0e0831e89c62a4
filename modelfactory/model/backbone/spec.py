"""The `backbone` group of a config, read and checked; nothing is constructed or loaded."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from modelfactory.config.errors import Problems, did_you_mean, nearest
from modelfactory.config.schema import join, key, read
from modelfactory.model.infer import BROKEN, Unknown
from modelfactory.model.weights.files import SUFFIXES
from modelfactory.model.weights.match import Allowance

TIMM = "timm/"
STEMS = ("sum", "repeat")
_OURS = ("weights", "pretrained", "num_classes", "in_chans", "progress")
_SHA256 = re.compile(r"[0-9a-fA-F]{8,64}")


@dataclass(frozen=True)
class BackboneSpec:
    """The `backbone` group of a config. One of `name` and `layers` is given.

    Attributes:
        name: a torchvision classification model, or `timm/NAME`.
        layers: a backbone in the grammar of models.
        weights: a torchvision weights enum (DEFAULT, IMAGENET1K_V1, ...), true for timm's own, a URL, a file of
            safetensors or of torch's, or the directory of another run; null: none.
        output: the layer where the features leave; null: just before the last layer, which gives the classes.
        in_channels: channels of the input; null: those of data.input_shape.
        stem: how pretrained weights of a first convolution become those of another number of channels.
        sha256: the beginning of the SHA-256 of the file of weights, 8 hex digits or more.
        rename: beginnings of names in the file -> what to put in their place.
        allow: what a partial load may leave.
        allow_random: whether it may be frozen without pretrained weights.
        arguments: further arguments of the model's builder.
    """

    name: str | None = None
    layers: dict | None = None
    weights: str | bool | None = None
    output: str | None = None
    in_channels: int | None = key(None, min=1)
    stem: str | None = key(None, choices=STEMS)
    sha256: str | None = None
    rename: dict = key({})
    allow: Any = None
    allow_random: bool = False
    arguments: dict = key({})

    @property
    def is_timm(self) -> bool:
        return self.name is not None and self.name.startswith(TIMM)

    @property
    def has_weights(self) -> bool:
        return self.weights not in (None, False)

    @property
    def has_published_weights(self) -> bool:
        """Whether the weights are those that the model's own library publishes."""
        return self.weights is True or isinstance(self.weights, str) and self.weights in published(self.name)

    @property
    def allowance(self) -> Allowance:
        return Allowance.read(self.allow, "", Problems())

    @property
    def called(self) -> str:
        return self.name or "the backbone's layers"


KnownBackbone = BackboneSpec | Unknown | None


def read_backbone(value: Any, path: str, problems: Problems) -> BackboneSpec | None:
    """The `backbone` group, or None: there is none, or what is wrong has been added to `problems`.

    Example:
        >>> problems = Problems()
        >>> read_backbone({"name": "resnet181"}, "backbone", problems)
        >>> print(*problems)
        backbone.name: 'resnet181' is not a classification model of torchvision; did you mean 'resnet18'?
    """
    if value is None:
        return None
    found = len(problems)
    spec = read(BackboneSpec, value, path, problems)
    Allowance.read(value.get("allow") if isinstance(value, Mapping) else None, join(path, "allow"), problems)
    if spec is None:
        return None
    if spec.name is None and spec.layers is None:
        for name in _given(spec):
            problems.add(join(path, name), f"{getattr(spec, name)!r} is of no backbone; give {path}.name, such as resnet18")
        return None
    if spec.name is not None and spec.layers is not None:
        problems.add(join(path, "layers"), f"stands beside name {spec.name!r}; give one of them")
    elif spec.name is None:
        _check_own(spec, path, problems)
    elif spec.is_timm:
        _check_timm(spec, path, problems)
    else:
        _check_torchvision(spec, path, problems)
    _check_common(spec, path, problems)
    return spec if len(problems) == found else None


def read_known_backbone(value: Any, problems: Problems) -> KnownBackbone:
    """The `backbone` group, None where there is none, BROKEN after adding what is wrong to `problems`.

    Example:
        >>> read_known_backbone({"name": "resnet18", "weight": True}, Problems()) is BROKEN
        True
    """
    found = len(problems)
    spec = read_backbone(value, "backbone", problems)
    return spec if len(problems) == found else BROKEN


@cache
def published(name: str | None) -> tuple[str, ...]:
    """The names of the weights that torchvision publishes for a model; none for any other.

    Example:
        >>> published("resnet50")
        ('IMAGENET1K_V1', 'IMAGENET1K_V2', 'DEFAULT')
    """
    from torchvision import models

    return tuple(models.get_model_weights(name).__members__) if name in models.list_models(module=models) else ()


def is_place(weights: str) -> bool:
    """Whether weights are given by where they are, not by a name.

    Example:
        >>> is_place("DEFAULT"), is_place("runs/a"), is_place("w.pt")
        (False, True, True)
    """
    return "://" in weights or "/" in weights or weights.endswith(SUFFIXES) or Path(weights).exists()


def without_files(value: Any) -> Any:
    """The `backbone` group of a model whose own weights are loaded: the file that its backbone came from need not be there.

    Example:
        >>> without_files({"name": "resnet18", "weights": "runs/a"})
        {'name': 'resnet18'}
    """
    weights = value.get("weights") if isinstance(value, Mapping) else None
    if not isinstance(weights, (str, Mapping)) or isinstance(weights, str) and weights in published(value.get("name")):
        return value
    return {name: item for name, item in value.items() if name not in ("weights", "sha256", "rename", "stem")}


def _given(spec: BackboneSpec) -> list[str]:
    """The keys that say something of a backbone."""
    nothing = (None, False, {}, {"missing": [], "unexpected": [], "reshape": []})
    return [field.name for field in fields(spec) if getattr(spec, field.name) not in nothing]


def _check_common(spec: BackboneSpec, path: str, problems: Problems) -> None:
    for name in spec.arguments:
        if name in _OURS:
            problems.add(
                join(path, f"arguments.{name}"),
                "not an argument here: weights and in_channels are keys of backbone, and the head gives the classes",
            )
    for old, new in spec.rename.items():
        if not isinstance(old, str) or not isinstance(new, str):
            problems.add(join(path, f"rename.{old}"), f"{new!r} is not a text; give what to put in place of {old!r}")
    if spec.sha256 is not None and not _SHA256.fullmatch(spec.sha256):
        problems.add(join(path, "sha256"), f"{spec.sha256!r} is not the beginning of a SHA-256; give 8 to 64 hex digits")
    if spec.sha256 is not None and not isinstance(spec.weights, str):
        problems.add(join(path, "sha256"), "is of no file; give weights as a URL or a file")
    if spec.weights == "":
        problems.add(join(path, "weights"), "'' is empty; give null for none")
    if not spec.has_weights:
        for name in ("rename", "stem"):
            if getattr(spec, name):
                problems.add(join(path, name), f"{getattr(spec, name)!r} is of weights that are loaded, and weights is null")


def _check_own(spec: BackboneSpec, path: str, problems: Problems) -> None:
    for name in ("output", "in_channels", "arguments"):
        if getattr(spec, name):
            problems.add(join(path, name), f"{getattr(spec, name)!r} is of a model by name; here the layers say it")
    where = join(path, "weights")
    if spec.weights is True or isinstance(spec.weights, str) and not is_place(spec.weights):
        problems.add(
            where,
            f"{spec.weights!r} is neither a URL nor a file nor the directory of a run, and layers have no weights of their own",
        )


def _check_torchvision(spec: BackboneSpec, path: str, problems: Problems) -> None:
    from torchvision import models

    names = models.list_models(module=models)
    if spec.name not in names:
        hint = did_you_mean(str(spec.name), names)
        problems.add(join(path, "name"), f"{spec.name!r} is not a classification model of torchvision{hint}")
        return
    members = published(spec.name)
    where = join(path, "weights")
    if spec.weights is True:
        problems.add(where, "true is for timm's models; give DEFAULT, a URL, a file, or the directory of a run")
    elif isinstance(spec.weights, str) and spec.weights not in members and not is_place(spec.weights):
        hint = did_you_mean(spec.weights, members)
        problems.add(where, f"{spec.weights!r} is neither weights of {spec.name} nor a file or folder{hint}")
    elif spec.weights == "IMAGENET1K_FEATURES" and (spec.output is None or spec.output.startswith("classifier")):
        problems.add(where, f"'IMAGENET1K_FEATURES' has values up to features only; give {path}.output: avgpool")


def _check_timm(spec: BackboneSpec, path: str, problems: Problems) -> None:
    if importlib.util.find_spec("timm") is None:
        problems.add(join(path, "name"), f"{spec.name!r} needs timm: pip install modelfactory[timm]")
        return
    import timm

    name = str(spec.name).removeprefix(TIMM)
    if not timm.is_model(name):
        close = nearest(name.partition(".")[0], timm.list_models())
        hint = f"; did you mean {TIMM + close!r}?" if close is not None else "; timm.list_models() has their names"
        problems.add(join(path, "name"), f"{spec.name!r} is not a model of timm{hint}")
    elif "." in name and not timm.models.is_model_pretrained(name):
        tags = [TIMM + tag for tag in timm.list_pretrained(name.partition(".")[0] + ".*")]
        problems.add(join(path, "name"), f"{spec.name!r} has no weights of that tag{did_you_mean(str(spec.name), tags)}")
    if isinstance(spec.weights, str) and not is_place(spec.weights):
        problems.add(
            join(path, "weights"),
            f"{spec.weights!r} is neither a URL nor a file nor the directory of a run; give true for timm's own",
        )
