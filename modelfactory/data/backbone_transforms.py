"""`transforms: backbone`: the preprocessing of the backbone's own weights in place of declared transforms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelfactory.config.errors import Problems
from modelfactory.config.schema import join
from modelfactory.model.backbone.preprocessing import Preprocessing, preprocessing_of
from modelfactory.model.backbone.spec import KnownBackbone, read_known_backbone
from modelfactory.model.infer import Unknown

WORD = "backbone"
_PARTS = ("train", "val")


def read_own_backbone(data: Any, backbone: Any, problems: Problems) -> KnownBackbone:
    """The backbone of a config whose preprocessing a `data` group takes; where it takes none, the backbone may be anything.

    Example:
        >>> read_own_backbone({"_target_": "modelfactory.data.digits"}, {"_target_": "theirs"}, Problems()) is None
        True
    """
    if not isinstance(data, Mapping) or not _parts_of(data):
        return None
    return read_known_backbone(backbone, problems)


def put_preprocessing(data: Mapping[str, Any], backbone: KnownBackbone, problems: Problems, path: str = "data") -> Mapping[str, Any]:
    """A `data` group in which the word `backbone`, for all of `transforms` or for one part, has become the preprocessing
    of the backbone's weights; what is wrong with it goes to `problems`, and the word to null.

    Args:
        data: the group; one without the word comes back as it is.
        backbone: what the config says of it; BROKEN where that is wrong, which is told elsewhere.

    Example:
        >>> from modelfactory.model.backbone.spec import BackboneSpec
        >>> data = {"_target_": "modelfactory.data.image_folder", "transforms": "backbone", "input_shape": [3, 224, 224]}
        >>> put_preprocessing(data, BackboneSpec("resnet18", weights="DEFAULT"), Problems())["transforms"]["val"].of
        'resnet18 DEFAULT'
    """
    parts = _parts_of(data)
    if not parts:
        return data
    declared = {} if data["transforms"] == WORD else dict(data["transforms"])
    found = len(problems)
    made = _find(data, backbone, join(path, "transforms"), problems)
    if made is not None:
        _check_agreement(data, made, path, problems)
    if made is None or len(problems) > found:
        return {**data, "transforms": {**declared, **dict.fromkeys(parts)}}
    normalised = {"mean": list(made.mean), "std": list(made.std)}  # of the part whose transforms are declared
    return {**data, **normalised, "transforms": {**declared, **dict.fromkeys(parts, made)}}


def _parts_of(data: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts of the data that take the backbone's preprocessing."""
    declared = data.get("transforms")
    if isinstance(declared, Mapping):
        return tuple(part for part in _PARTS if declared.get(part) == WORD)
    return _PARTS if declared == WORD else ()


def _find(data: Mapping[str, Any], spec: KnownBackbone, where: str, problems: Problems) -> Preprocessing | None:
    name = str(data.get("_target_", "")).rpartition(".")[2]
    if name != "image_folder":
        problems.add(where, f"{WORD!r} is for image_folder, which reads images one by one; {name or 'this'} has no transforms")
        return None
    if isinstance(spec, Unknown):
        return None
    if spec is None:
        problems.add(where, f"{WORD!r} and there is no backbone; give one, such as backbone=resnet18 backbone.weights=DEFAULT")
        return None
    made = preprocessing_of(spec)
    if made is None:
        what = "no weights" if not spec.has_weights else f"the weights {spec.weights}, which say nothing of preprocessing"
        problems.add(where, f"{WORD!r}, and {spec.called} has {what}; give published weights such as DEFAULT, or the transforms")
    return made


def _check_agreement(data: Mapping[str, Any], made: Preprocessing, path: str, problems: Problems) -> None:
    for name, own in (("mean", made.mean), ("std", made.std)):
        given = data.get(name)
        if given is not None and not _equal(given, own):
            problems.add(
                join(path, name), f"{given!r} is not that of {made.of}; give {[round(number, 6) for number in own]}, or null"
            )
    shape = data.get("input_shape")
    if isinstance(shape, (list, tuple)) and list(shape) != list(made.input_shape):
        problems.add(
            join(path, "input_shape"),
            f"{list(shape)} is not what the preprocessing of {made.of} gives; give {list(made.input_shape)}",
        )


def _equal(given: Any, own: tuple[float, ...]) -> bool:
    if not isinstance(given, (list, tuple)) or len(given) != len(own):
        return False
    return all(isinstance(number, (int, float)) and abs(number - mine) < 1e-6 for number, mine in zip(given, own, strict=True))
