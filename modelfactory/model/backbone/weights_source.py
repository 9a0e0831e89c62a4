"""Where the weights of a backbone are, and their tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from modelfactory.config.errors import Problems, first_line
from modelfactory.model.backbone.spec import TIMM, BackboneSpec
from modelfactory.model.deferred_construction import construction
from modelfactory.model.weights.download import check_hash, fetch, place_of
from modelfactory.model.weights.files import Source, label_of, open_weights, weights_file


@dataclass(frozen=True)
class WeightsLocation:
    """Where weights are.

    Attributes:
        label: what the ledger calls them.
        file: where the file is, or will be once it is fetched; None for timm's own, which timm fetches and reads.
        url: where it is fetched from; None for a file.
    """

    label: str
    file: Path | None = None
    url: str | None = None

    @property
    def is_here(self) -> bool:
        """Whether it can be read without fetching anything."""
        return self.file is not None and self.file.exists()


def find_place(spec: BackboneSpec) -> WeightsLocation | None:
    """Where the weights of a backbone are; None where it has none. Nothing is fetched.

    Example:
        >>> find_place(BackboneSpec("resnet18", weights="DEFAULT")).label
        'resnet18-f37072fd.pth'
    """
    if not spec.has_weights:
        return None
    weights = spec.weights
    if weights is True:
        return WeightsLocation(str(spec.name))
    if spec.has_published_weights:
        from torchvision.models import get_model_weights

        weights = get_model_weights(str(spec.name))[str(weights)].url
    if "://" in str(weights):
        return WeightsLocation(Path(urlparse(str(weights)).path).name, place_of(str(weights)), str(weights))
    return WeightsLocation(label_of(Path(str(weights))), Path(str(weights)))


def open_place(spec: BackboneSpec, place: WeightsLocation, path: str, problems: Problems) -> Source | None:
    """The tensors of a backbone's weights, fetched where they must be and their hash checked; None after telling why not.

    Args:
        path: the config path of the weights.
    """
    if place.file is None:
        return _timm_source(spec, path, problems)
    file = fetch(place.url, path, problems) if place.url is not None else place.file
    if file is None:
        return None
    weights = weights_file(file)
    if weights.is_file() and not check_hash(weights, spec.sha256, path, problems):
        return None
    return open_weights(file, path, problems, place.label)


def _timm_source(spec: BackboneSpec, path: str, problems: Problems) -> Source | None:
    """timm's own weights by timm's own loading, which knows the older names in its files."""
    import timm

    name = str(spec.name).removeprefix(TIMM)
    try:
        with construction(0, name):  # draws nothing, and leaves global random state alone
            model = timm.create_model(name, pretrained=True, num_classes=0, **spec.arguments)
    except Exception as error:  # timm's hub raises errors of many libraries; all mean that the weights cannot be had
        about = timm.get_pretrained_cfg(name)
        hub = getattr(about, "hf_hub_id", None)
        place = f"the model {hub} of Hugging Face" if hub else getattr(about, "url", None) or "timm"
        what = f"timm's weights of {name} cannot be had from {place}: {first_line(error)}"
        problems.add(path, f"{what}; download its model.safetensors there and give the file by its path")
        return None
    config = getattr(model, "pretrained_cfg", {})
    tag = f".{config['tag']}" if config.get("tag") else ""
    return Source(
        f"{TIMM}{config.get('architecture', name)}{tag}", {key: value.detach() for key, value in model.state_dict().items()}
    )
