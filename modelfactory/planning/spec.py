"""What a config says about a model, read and checked: layers, rules, frozen parts, optimizer groups and input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from modelfactory.config.errors import Problems, did_you_mean
from modelfactory.config.schema import check_value, paths_of
from modelfactory.init.rules import InitSpec, read_init
from modelfactory.model.backbone.spec import BackboneSpec, read_backbone
from modelfactory.model.backbone_front import put_in_front, read_front
from modelfactory.model.blueprint import Node
from modelfactory.model.grammar import read_activation, read_model
from modelfactory.model.infer import BROKEN, UNKNOWN, Incoming
from modelfactory.model.layers.sizes import check_input_shape
from modelfactory.parameters.freezing import FreezeSpec, read_freeze
from modelfactory.parameters.groups import Grouping, read_grouping

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
        grouping: what the optimizer does with which parameters; what is wrong with it is for the optimizer to say.
        backbone: what stands in front of the model's layers, and the weights that go into it.
        optimizer: the config's own, which is for the optimizer to check.
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
    optimizer: Any = None
    parts: tuple[tuple[Node, torch.Tensor], ...] = ()


def read_spec(config: Mapping[str, Any], problems: Problems) -> ModelSpec | None:
    """The parts of a config that decide a model, or None after adding all that is wrong to `problems`.

    Example:
        >>> problems = Problems()
        >>> read_spec({"modle": {}}, problems)
        >>> print(*problems, sep="\\n")
        modle: not a key of the config; did you mean 'model'?
        model: missing; give layers, or _target_
    """
    found = len(problems)
    for name in config:
        if name not in GROUPS:
            elsewhere = paths_of(name, config)[1:]
            meant = f"; did you mean {' or '.join(map(repr, elsewhere))}?" if elsewhere else did_you_mean(str(name), GROUPS)
            problems.add(str(name), f"not a key of the config{meant}")
    seed = check_value(config.get("seed", 0), int, "seed", problems, {"min": 0})
    if isinstance(seed, int) and seed >= 2**63:
        problems.add("seed", f"{seed} is too large; give a whole number below 2^63")
    incoming = _example_input(config.get("data"), problems)
    if "model" not in config:
        problems.add("model", "missing; give layers, or _target_")
    before = len(problems)
    backbone = read_backbone(config.get("backbone"), "backbone", problems)
    front, features = None, incoming if len(problems) == before else BROKEN
    if backbone is not None:
        front, features = read_front(backbone, incoming, problems)
    node = _read_model(config, features, problems) if "model" in config else None
    ways = ((front if backbone is not None and backbone.layers is not None else None, incoming), (node, features))
    parts = tuple((part, coming) for part, coming in ways if part is not None and isinstance(coming, torch.Tensor))
    if front is not None and node is not None:
        node = put_in_front(front, node, config["model"], problems)
    init = read_init(config.get("init"), "init", problems)
    freeze = read_freeze(config.get("freeze"), "freeze", problems)
    optimizer = config.get("optimizer")
    grouping = read_grouping(optimizer if isinstance(optimizer, Mapping) else {}, "optimizer", Problems())
    if node is None or init is None or freeze is None or len(problems) > found:
        return None
    example = incoming if isinstance(incoming, torch.Tensor) else None
    return ModelSpec(node, init, freeze, grouping, example, seed, backbone, optimizer, parts)


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


def _example_input(data: Any, problems: Problems) -> Incoming:
    """An input on the meta device, batch first, as far as the config tells it."""
    if not isinstance(data, Mapping) or data.get("input_shape") is None:
        return UNKNOWN
    found = len(problems)
    shape = check_input_shape(data["input_shape"], "data.input_shape", problems)
    named = data.get("input_dtype")
    if named is not None:
        check_value(named, str, "data.input_dtype", problems, {"choices": tuple(_DTYPES)})
    if shape is None or len(problems) > found:
        return BROKEN
    return torch.empty((2, *shape), device="meta", dtype=torch.get_default_dtype() if named is None else _DTYPES[named])

