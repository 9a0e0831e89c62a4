"""Constructs a model of torchvision or timm up to where its features leave; names stay those of the whole model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from modelfactory.config.errors import ConfigError, Problem, did_you_mean, first_line
from modelfactory.model.backbone.spec import TIMM, BackboneSpec
from modelfactory.model.deferred_construction import construction

# Auxiliary heads are for training from scratch, and give a second output while training.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
_MATRICES = (nn.Linear, nn.modules.conv._ConvNd)


def construct_backbone(
    name: str, output: str | None = None, in_channels: int = 3, arguments: Mapping[str, Any] | None = None
) -> nn.Module:
    """A model without its last layer, or cut after the layer `output`; the names in its state_dict are the whole model's.

    Args:
        name: a torchvision classification model, or `timm/NAME`.
        output: the layer where the features leave; None: just before the last layer, which gives the classes.
        in_channels: channels of the input; other than 3 replaces the first convolution.
        arguments: further arguments of the model's builder.

    Raises:
        ConfigError: the builder refuses its arguments, or there is no layer `output`.

    Example:
        >>> features = construct_backbone("squeezenet1_1")
        >>> features(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 512])
    """
    model = _whole(name, {**_ARGUMENTS.get(name, {}), **(arguments or {})}, in_channels)
    if output is not None:
        return _cut(model, name, output)
    if not name.startswith(TIMM):
        last = [found for found, module in model.named_modules() if isinstance(module, _MATRICES)][-1]
        _put(model, last, nn.Identity())
    return model


def arguments_of(spec: BackboneSpec) -> dict[str, Any]:
    """The arguments of a model's builder: those that go with its published weights, and those of the config.

    Example:
        >>> arguments_of(BackboneSpec("vit_b_16", weights="IMAGENET1K_SWAG_E2E_V1"))
        {'image_size': 384}
    """
    name, by_weights = str(spec.name), {}
    if spec.has_published_weights and not spec.is_timm:
        from torchvision.models import get_model_weights

        size = get_model_weights(name)[str(spec.weights)].meta["min_size"]
        if name in _ARGUMENTS:
            by_weights = {"transform_input": True}
        elif name.startswith("vit_"):
            by_weights = {"image_size": size[0]}
        elif name.startswith("maxvit"):
            by_weights = {"input_size": size}
    return {**by_weights, **spec.arguments}


def names_of_whole(name: str, arguments: Mapping[str, Any] | None = None) -> frozenset[str]:
    """Every name that a file of weights of the whole model may have, those of its classifier and auxiliary heads too.

    Example:
        >>> "fc.weight" in names_of_whole("resnet18")
        True
    """
    given = {key: value for key, value in (arguments or {}).items() if key != "aux_logits"}
    key = repr((name, sorted(given.items())))
    if key not in _NAMES:
        _NAMES[key] = _names(name, given)
    return _NAMES[key]


_NAMES: dict[str, frozenset[str]] = {}


def _names(name: str, given: dict[str, Any]) -> frozenset[str]:
    with torch.device("meta"), construction(0, name):
        if name.startswith(TIMM):
            return frozenset(_timm(name, {**given, "num_classes": 1000}).state_dict())
        if name in _ARGUMENTS:
            given |= {"aux_logits": True, "init_weights": False}
        try:
            return frozenset(_whole(name, given, 3).state_dict())
        except (NotImplementedError, RuntimeError):  # a constructor that needs values
            with torch.device("cpu"):
                return frozenset(_whole(name, given, 3).state_dict())


def stem_of(model: nn.Module) -> str | None:
    """The name of the weight of a model's first convolution, None where there is none.

    Example:
        >>> stem_of(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 8, 3)))
        '1.weight'
    """
    first = next((name for name, module in model.named_modules() if isinstance(module, nn.modules.conv._ConvNd)), None)
    return None if first is None else f"{first}.weight".lstrip(".")


def _whole(name: str, arguments: Mapping[str, Any], in_channels: int) -> nn.Module:
    if name.startswith(TIMM):
        return _timm(name, {"num_classes": 0, **arguments, "in_chans": in_channels})
    from torchvision.models import get_model_builder

    try:
        model = get_model_builder(name)(**arguments)
    except Exception as error:  # whatever a builder raises is about its arguments
        raise _refused(name, error) from error
    if in_channels != 3:
        _replace_stem(model, in_channels)
    return model


def _timm(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    import timm

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that timm maps to newer ones
            return timm.create_model(name.removeprefix(TIMM), pretrained=False, **arguments)
    except Exception as error:
        raise _refused(name, error) from error


def _refused(name: str, error: Exception) -> Exception:
    """What a builder raised as a ConfigError; as it is where it wanted values on the meta device, for the caller to take
    the construction elsewhere."""
    if isinstance(error, (NotImplementedError, RuntimeError)) and torch.get_default_device().type == "meta":
        return error
    return ConfigError([Problem("backbone.arguments", f"{name} refuses them: {first_line(error)}")])


def _replace_stem(model: nn.Module, in_channels: int) -> None:
    """Puts a first convolution for other channels into a model, alike in all else."""
    name = (stem_of(model) or "").removesuffix(".weight")
    stem = model.get_submodule(name)
    if not isinstance(stem, nn.Conv2d):
        raise ConfigError([Problem("backbone.in_channels", f"{in_channels} cannot be had: {name!r} is no convolution of images")])
    made = nn.Conv2d(
        in_channels,
        stem.out_channels,
        stem.kernel_size,  # pyright: ignore[reportArgumentType]
        stem.stride,  # pyright: ignore[reportArgumentType]
        stem.padding,  # pyright: ignore[reportArgumentType]
        stem.dilation,  # pyright: ignore[reportArgumentType]
        stem.groups,
        stem.bias is not None,
        stem.padding_mode,
    )
    _put(model, name, made)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, attr = name.rpartition(".")
    setattr(model.get_submodule(owner), attr, module)


def _cut(model: nn.Module, name: str, output: str) -> nn.Module:
    """The model up to the layer `output`, what comes after removed, by torchvision's own feature extraction."""
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    whole = {"leaf_modules": _called_whole(model)}
    try:
        known = get_graph_node_names(model, tracer_kwargs=dict(whole), suppress_diff_warning=True)[1]
    except Exception as error:  # a forward that cannot be traced raises whatever it runs into
        message = f"{name} cannot be cut, since its forward cannot be traced: {first_line(error)}; give null"
        raise ConfigError([Problem("backbone.output", message)]) from error
    layers = {node.rsplit(".", level)[0] for node in known for level in range(node.count(".") + 1)} | set(known)
    if output not in layers or output == known[0]:
        hint = did_you_mean(output, [layer for layer, _ in model.named_modules() if layer in layers])
        raise ConfigError([Problem("backbone.output", f"{output!r} is not a layer of {name}{hint}")])
    extractor = create_feature_extractor(model, {output: "features"}, tracer_kwargs=dict(whole), suppress_diff_warning=True)
    graphs: list[Any] = [extractor.train_graph, extractor.eval_graph]
    for graph in graphs:
        (leaving,) = (node for node in graph.nodes if node.op == "output")
        leaving.args = (leaving.args[0]["features"],)
    if len({graph.python_code("self").src for graph in graphs}) > 1:
        message = f"up to {output!r} {name} computes otherwise in training than in evaluation, so it cannot be cut there"
        raise ConfigError([Problem("backbone.output", f"{message}; give another layer, or null")])
    return fx.GraphModule(extractor, graphs[1], class_name=type(model).__name__)


def _called_whole(model: nn.Module) -> list[type[nn.Module]]:
    """Classes of the model's parts that are called and not traced: those whose forward asks whether it is training, for a
    trace would keep the answer, and those with buffers, which would become constants without a name."""
    parts = [module for module in model.modules() if type(module) is not type(model)]
    asking = {
        type(part) for part in parts if "training" in getattr(getattr(type(part).forward, "__code__", None), "co_names", ())
    }
    return [*asking.union(type(part) for part in parts if any(buffer is not None for buffer in part._buffers.values()))]
