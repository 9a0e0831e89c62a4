"""What a config says about a model, read and checked: layers, rules, frozen parts, optimizer groups and input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modelfactory.config.errors import Problems, did_you_mean
from modelfactory.config.schema import check_value, paths_of, read_seed
from modelfactory.init.rules import InitSpec, read_init
from modelfactory.model.backbone.spec import BackboneSpec, KnownBackbone, read_known_backbone
from modelfactory.model.backbone_front import put_in_front, read_front
from modelfactory.model.blueprint import Node
from modelfactory.model.grammar import read_activation, read_model
from modelfactory.model.infer import BROKEN, UNKNOWN, Incoming, Unknown
from modelfactory.model.layers.sizes import check_input_shape
from modelfactory.parameters.freezing import FreezeSpec, read_freeze
from modelfactory.parameters.groups import Grouping, read_grouping
from modelfactory.training.optimizer import OptimizerSpec, read_optimizer

GROUPS = (
    "seed",
    "data",
    "activation",
    "backbone",
    "model",
    "init",
    "freeze",
    "optimizer",
    "scheduler",
    "trainer",
    "experiment",
    "sweep",
)
OF_MODEL = ("seed", "data", "activation", "backbone", "model", "init", "freeze")  # what decides a model and its values
_DTYPES = {"float32": torch.float32, "int64": torch.int64}


@dataclass(frozen=True)
class ModelSpec:
    """What a config says about a model: read and checked, nothing constructed.

    Attributes:
        incoming: an example input on the meta device, batch first, None without data.input_shape.
        grouping: what the optimizer does with which parameters.
        backbone: what stands in front of the model's layers, and the weights that go into it.
        optimizer: that of the config; None where it names none, or one that is not known.
        parts: the blueprints that the config writes down, of a backbone's layers and of the model, each with an example of what comes
            in, where it is known.
    """

    node: Node
    init: InitSpec
    freeze: FreezeSpec
    grouping: Grouping
    incoming: torch.Tensor | None
    seed: int
    backbone: BackboneSpec | None = None
    optimizer: OptimizerSpec | None = None
    parts: tuple[tuple[Node, torch.Tensor], ...] = ()


@dataclass(frozen=True)
class Around:
    """What groups beside `model`, `init` and `freeze` say of a model.

    Attributes:
        incoming: an example input, as far as the config tells it.
        optimizer: None where there is none, or it is not known.
    """

    seed: int
    incoming: Incoming
    backbone: KnownBackbone
    grouping: Grouping
    optimizer: OptimizerSpec | None


def read_spec(config: Mapping[str, Any], problems: Problems, of_optimizer: Problems | None = None) -> ModelSpec | None:
    """The groups of a config that decide a model, or None after adding all that is wrong to `problems`.

    Of `data` only the input is read; the rest may be another project's.

    Args:
        of_optimizer: where to add what is wrong with the optimizer, which leaves a spec without it; None: nowhere.

    Example:
        >>> problems = Problems()
        >>> read_spec({"modle": {}}, problems)
        >>> print(*problems, sep="\\n")
        modle: not a key of the config; did you mean 'model'?
        model: missing; give layers, or _target_
    """
    found = len(problems)
    check_groups(config, problems)
    seed, incoming = read_seed(config, problems), read_input(config.get("data"), problems)
    backbone = read_known_backbone(config.get("backbone"), problems)
    optimizer, grouping = read_own_optimizer(config.get("optimizer"), Problems() if of_optimizer is None else of_optimizer)
    spec = read_model_groups(config, Around(seed, incoming, backbone, grouping, optimizer), problems)
    return spec if len(problems) == found else None


def check_groups(config: Mapping[str, Any], problems: Problems) -> None:
    """Say in `problems` which keys of a config are no groups."""
    for name in config:
        if name not in GROUPS:
            elsewhere = paths_of(name, config)[1:]
            meant = f"; did you mean {' or '.join(map(repr, elsewhere))}?" if elsewhere else did_you_mean(str(name), GROUPS)
            problems.add(str(name), f"not a key of the config{meant}")


def read_model_groups(config: Mapping[str, Any], around: Around, problems: Problems) -> ModelSpec | None:
    """The groups `model`, `activation`, `init` and `freeze`, with what was read of others; None after telling what is wrong."""
    found, incoming = len(problems), around.incoming
    front, features = None, incoming if around.backbone is None else BROKEN
    if isinstance(around.backbone, BackboneSpec):
        front, features = read_front(around.backbone, incoming, problems)
    if "model" not in config:
        problems.add("model", "missing; give layers, or _target_")
    node = _read_model(config, features, problems) if "model" in config else None
    of_layers = isinstance(around.backbone, BackboneSpec) and around.backbone.layers is not None
    ways = ((front if of_layers else None, incoming), (node, features))
    parts = tuple((part, coming) for part, coming in ways if part is not None and isinstance(coming, torch.Tensor))
    if front is not None and node is not None:
        node = put_in_front(front, node, config["model"], problems)
    init = read_init(config.get("init"), "init", problems)
    freeze = read_freeze(config.get("freeze"), "freeze", problems)
    if node is None or init is None or freeze is None or isinstance(around.backbone, Unknown) or len(problems) > found:
        return None
    example = incoming if isinstance(incoming, torch.Tensor) else None
    return ModelSpec(node, init, freeze, around.grouping, example, around.seed, around.backbone, around.optimizer, parts)


def read_own_optimizer(group: Any, problems: Problems) -> tuple[OptimizerSpec | None, Grouping]:
    """The `optimizer` group and what it does with which parameters, as far as either is known.

    What has keys of Hydra's, such as `_partial_: true`, is another project's, of which nothing is told.
    """
    if not isinstance(group, Mapping):
        return None, Grouping()
    own = {key: value for key, value in group.items() if key == "_target_" or not str(key).startswith("_")}
    spec = read_optimizer(own, problems if len(own) == len(group) else Problems())
    return spec, read_grouping(own, "optimizer", Problems()) if spec is None else spec.grouping


def _read_model(config: Mapping[str, Any], incoming: Incoming, problems: Problems) -> Node | None:
    """The model's blueprint; what is wrong with the activation is told once, and not at every layer that takes it over."""
    shared, own = Problems(), Problems()
    in_grammar = isinstance(config["model"], Mapping) and "layers" in config["model"]
    if in_grammar and "activation" in config and config["activation"] is None:
        shared.add("activation", "null would take out every layer that is ${activation}; give {_target_: torch.nn.Identity} for none")
    elif config.get("activation") is not None:
        read_activation(config["activation"], shared)
    node = read_model(config["model"], incoming, own)
    told = {problem.message for problem in shared}
    problems.extend(shared)
    problems.extend(problem for problem in own if problem.message not in told)
    return node


def read_input(data: Any, problems: Problems) -> Incoming:
    """An input on the meta device, batch first, as far as the config tells it."""
    if not isinstance(data, Mapping) or data.get("input_shape") is None:
        return UNKNOWN
    found = len(problems)
    shape = check_input_shape(data["input_shape"], "data.input_shape", problems)
    named = data.get("input_dtype")
    if named is not None:
        check_value(named, str, "data.input_dtype", problems, {"choices": tuple(_DTYPES)})
    return BROKEN if shape is None or len(problems) > found else example_of(shape, named)


def example_of(shape: Sequence[int] | None, dtype: str | None) -> Incoming:
    """An input on the meta device, batch first, of a shape and a dtype that are right."""
    if shape is None:
        return UNKNOWN
    return torch.empty((2, *shape), device="meta", dtype=torch.get_default_dtype() if dtype is None else _DTYPES[dtype])

