"""JSON schemas of the configs, for editors: made from the dataclasses and signatures that check a config.

A file of conf/ says a part of a config only, so nothing is required; an interpolation may stand in the place of any value.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision import models

import modelfactory.data
from modelfactory.config.errors import Problems
from modelfactory.config.json_schema import (
    DEFAULTS,
    INTERPOLATION,
    Schema,
    fields_of,
    mapping_of,
    nullable,
    of_hint,
    of_option,
    of_spec,
    one_of,
    ref,
)
from modelfactory.config.signature import parameters_of
from modelfactory.config.target import LIMITS, MAY_BE_ZERO, SIZES, resolve
from modelfactory.data.spec import FACTORIES, RANGES, DataSpec
from modelfactory.init.calibrate import METHODS, CalibrateSpec
from modelfactory.init.recipes import recipe_names
from modelfactory.init.schemes.table import LIMITS as SCHEME_LIMITS
from modelfactory.init.schemes.table import SCHEMES, arguments
from modelfactory.model.backbone.spec import TIMM, BackboneSpec
from modelfactory.model.grammar import MODEL_KEYS
from modelfactory.parameters.completep import CompleteP
from modelfactory.parameters.roles import ROLES
from modelfactory.parameters.selector import SELECTOR_KEYS
from modelfactory.sweeping.experiment import ExperimentSpec
from modelfactory.sweeping.spec import SweepSpec
from modelfactory.training import optimizer
from modelfactory.training.scheduler import COUNTS, NOT_NEGATIVE, CommonSpec
from modelfactory.training.spec import CACHES, TrainerSpec

_TEXTS: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_FANS: Schema = {"enum": ["effective", "torch"]}
_SCHEME: Schema = {"anyOf": [{"enum": ["auto", "copy", "default", *SCHEMES]}, {"type": "string", "pattern": r"^(?!torch[.]).*[.]|\$\{"}]}
_BASES = {
    "layer": nn.Module,
    "loss": nn.modules.loss._Loss,
    "optimizer": torch.optim.Optimizer,
    "scheduler": torch.optim.lr_scheduler.LRScheduler,
}
GROUPS = ("data", "activation", "backbone", "model", "init", "freeze", "optimizer", "scheduler", "trainer", "experiment", "sweep")


def config_schema() -> Schema:
    """Make the JSON schema of a whole config; that of a group is in its `$defs`, under the group's name.

    Example:
        >>> made = config_schema()
        >>> made["$defs"]["trainer"]["properties"]["max_epochs"]["anyOf"][0]
        {'type': 'integer', 'minimum': 1}
        >>> list(made["$defs"]["torch.nn.Flatten"]["properties"])[:2]
        ['start_dim', 'end_dim']
    """
    definitions = {
        "interpolation": INTERPOLATION,
        "activation": ref("layer"),
        "backbone": _backbone(),
        "data": _data(),
        "experiment": of_spec(ExperimentSpec),
        "freeze": _freeze(),
        "init": _init(),
        "model": _model(),
        "optimizer": _optimizer(),
        "rule": _rule(),
        "scheduler": _scheduler(),
        "sweep": of_spec(SweepSpec),
        "trainer": _trainer(),
        **{f"key.{name}": schema for name, schema in _key_definitions().items()},
        **_layers(),
    }
    groups = {name: one_of(ref(name), {"enum": [None, False]}) for name in GROUPS}
    seed = one_of({"type": "integer", "minimum": 0, "maximum": 2**63 - 1})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"written by modelfactory schema, of torch {_release(torch)} and torchvision {_release(torchvision)}",
        **mapping_of({"defaults": DEFAULTS, "seed": seed, "hydra": {}, **groups}),
        "$defs": definitions,
    }


def group_schema(group: str) -> Schema:
    """Make the schema of the files of a group, which is beside that of a whole config.

    Example:
        >>> group_schema("init")["$ref"]
        'config.json#/$defs/init'
    """
    name = "config.json" if group == "experiment" else f"config.json#/$defs/{group}"  # an experiment changes any group
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": name}


def _release(library: Any) -> str:
    return library.__version__.partition("+")[0]


def _arguments(target: Callable[..., Any], limits: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({})) -> tuple[dict, bool]:
    """Schemas of the arguments of a class or function, and whether it takes others."""
    named, takes_any = parameters_of(target)
    found = {}
    for name, (_, hint) in named.items():
        least = {"min": 0 if name in MAY_BE_ZERO else 1} if name in SIZES else {}
        bounds = limits.get(name, LIMITS.get(name, least))
        if hint is None and bounds:
            number = of_option(int if bounds is least else float, bounds)
            found[name] = one_of(number, {"type": "array", "items": one_of(number)}, {"type": "null"})
        else:
            found[name] = {} if hint is None else of_hint(hint, bounds)
    return found, takes_any


def _names(module: Any, prefix: str, kind: str) -> dict[str, Any]:
    """What a config may name in a module, by full name."""
    callables = [name for name in dir(module) if name[0] != "_" and _may_be(module, name, kind)]
    found = {f"{prefix}.{name}": resolve(f"{prefix}.{name}", "", Problems(), kind) for name in callables}
    return {name: target for name, target in found.items() if target is not None}


def _may_be(module: Any, name: str, kind: str) -> bool:
    """Whether it is worth asking: what is refused is looked for among all names, which takes its time."""
    base = _BASES.get(kind)
    found = getattr(module, name)
    return found in FACTORIES if base is None else isinstance(found, type) and issubclass(found, base) and not name.startswith("Lazy")


def _by_target(targets: Mapping[str | None, Schema] | Mapping[str, Schema], known: Iterable[str], otherwise: Schema) -> Schema:
    """What each `_target_` takes; of torch, torchvision and this package there are those and no others, and any of a trusted package."""
    deeper = "|".join(f"{re.escape(package)}[.]" for package in known) or "$"
    named = {"pattern": r"[.]|\$\{|^[?]{3}$", "not": {"pattern": rf"^(?!{deeper})(torch|torchvision|modelfactory|nn|optim)[.]"}}
    name = {"anyOf": [{"enum": list(targets)}, {"type": "string", **named}, {"type": "null"}]}
    cases = [
        {"if": {"properties": {"_target_": {"const": target}}, "required": ["_target_"]}, "then": schema}
        for target, schema in targets.items()
    ]
    unnamed = {"if": {"properties": {"_target_": {"enum": list(targets)}}, "required": ["_target_"]}, "then": {}, "else": otherwise}
    return {"type": "object", "properties": {"_target_": name}, "allOf": [*cases, unnamed]}


def _key_definitions() -> dict[str, Schema]:
    """The keys that are taken beside any layer, and those of selectors, each by its name."""
    layer = {"anyOf": [ref("layer"), {"type": "null"}]}
    role, scheme = {"enum": list(ROLES)}, {"anyOf": [_SCHEME, {"type": "object"}]}
    return {
        **{name: {} for name in (*MODEL_KEYS, *SELECTOR_KEYS)},
        "_target_": {"type": "string"},
        "layers": one_of({"type": "object", "additionalProperties": layer}),
        "repeat": of_hint(int, {"min": 1}),
        "init": {"anyOf": [_SCHEME, {"type": "null"}, {"type": "object", "additionalProperties": scheme}]},
        "freeze": of_hint(bool | None),
        "roles": {"type": ["object", "null"], "propertyNames": {"enum": list(ROLES)}, "additionalProperties": _TEXTS},
        "blocks": {},
        "fans": {"type": ["object", "null"]},
        "output": {"type": ["integer", "string", "null"], "not": {"type": "string", "pattern": r"^-?\d+$"}},
        "defaults": DEFAULTS,
        "match": nullable(_TEXTS),
        "module": nullable(_TEXTS),
        "role": one_of(role, {"type": "array", "items": role}, {"type": "null"}),
        "before": {"type": ["string", "null"]},
        "after": {"type": ["string", "null"]},
        "optional": of_hint(bool),
    }


def _layer_keys() -> dict[str, Schema]:
    return {name: ref(f"key.{name}") for name in (*MODEL_KEYS, "defaults")}


def _layers() -> dict[str, Schema]:
    """`layer`, and a definition for each class of torch.nn and each of ours, by its name."""
    keys = _layer_keys()
    builders = {f"torchvision.models.{name}": getattr(models, name) for name in models.list_models(module=models)}
    named = {**_names(nn, "torch.nn", "layer"), **_names(modelfactory, "modelfactory", "layer"), **builders}
    made = {}
    for name, target in named.items():
        found, takes_any = _arguments(target)
        own = {}
        if name == "modelfactory.Residual":
            learned = mapping_of({"learn": of_hint(float), "per": {"enum": ["all", "channel"]}})
            divided = mapping_of({"base_branches": of_hint(float | None, {"above": 0})})
            scale = one_of({"type": ["number", "null"]}, learned, divided)
            own = {"shortcut": {"anyOf": [ref("layer"), {"type": "null"}]}, "scale": scale}
        made[name] = mapping_of({**found, **keys, **own}, takes_any)
    plain = _by_target({name: ref(name) for name in made}, ("torch.nn.modules",), {"properties": keys})
    plain["propertyNames"] = {"not": {"pattern": "^_(?!target_$)"}}
    return {"layer": {"anyOf": [plain, ref("interpolation")]}, **made}


def _trainer() -> Schema:
    losses = {}
    for name, target in _names(nn, "torch.nn", "loss").items():
        found, takes_any = _arguments(target)
        losses[name] = mapping_of({**found, "_target_": {"type": "string"}}, takes_any)
    made = of_spec(TrainerSpec)
    made["properties"]["loss"] = one_of(_by_target(losses, ("torch.nn.modules",), {}), {"type": "null"})
    made["properties"]["cache_features"] = one_of({"enum": [True, False, None, "none", "off", *CACHES]})
    return made


def _model() -> Schema:
    """`layers`, with plain keys beside them for interpolations; or a class of one's own with its arguments."""
    keys = {name: schema for name, schema in _layer_keys().items() if name != "output"}
    figures = {"type": ["number", "string", "boolean", "null", "array"]}
    whole = {"if": {"required": ["_target_"]}, "then": ref("layer"), "else": {"additionalProperties": figures, "properties": keys}}
    return {"type": "object", **whole}


def _backbone() -> Schema:
    made = of_spec(BackboneSpec)
    trained = mapping_of({"train": of_hint(list[str]), "folder": of_hint(str), "config_dir": of_hint(str | None)})
    allowed = {part: _TEXTS for part in ("missing", "unexpected", "reshape")}
    names = {"enum": models.list_models(module=models)}
    made["properties"]["name"] = one_of(names, {"type": "string", "pattern": f"^{TIMM}"}, {"type": "null"})
    made["properties"]["weights"] = {"anyOf": [{"type": ["string", "boolean", "null"]}, trained]}
    made["properties"]["allow"] = one_of(mapping_of(allowed), {"type": "null"})
    made["properties"]["layers"] = one_of({"type": "object", "additionalProperties": ref("layer")}, {"type": "null"})
    return made


def _data() -> Schema:
    """Keys that all data sets have, and the arguments of each of ours."""
    common = {**fields_of(DataSpec), "defaults": DEFAULTS, "_target_": {"type": "string"}}
    size = {"type": "integer", "minimum": 1}
    common["input_shape"] = one_of({"type": "array", "items": one_of(size)}, {"type": "null"})
    made = {}
    for name, target in _names(modelfactory.data, "modelfactory.data", "data").items():
        found, takes_any = _arguments(target, RANGES)
        made[name] = mapping_of({**found, **common}, takes_any)
    return _by_target(made, (), {"properties": common})


def _optimizer() -> Schema:
    named = {**_names(torch.optim, "torch.optim", "optimizer"), **_names(modelfactory, "modelfactory", "optimizer")}
    own = {
        "defaults": DEFAULTS,
        "groups": {"type": ["object", "null"], "additionalProperties": {"type": ["object", "null"]}},
        "layer_decay": of_hint(float | None, {"above": 0, "max": 1}),
        "no_decay": one_of({"type": "array", "items": {"enum": list(ROLES)}}, {"type": "null"}),
        "completep": one_of(mapping_of(fields_of(CompleteP)), {"type": "null"}),
        "_target_": {"type": "string"},
    }
    made = {}
    for name, target in named.items():
        found, takes_any = _arguments(target)
        found |= {key: of_hint(float, {"min": 0}) for key in found.keys() & optimizer.NOT_NEGATIVE}
        takes = {key: schema for key, schema in found.items() if key != "params"}
        more = {"lr_scale": of_hint(float, {"min": 0}), "base_width": of_hint(float | None, {"above": 0})}
        group = mapping_of({**takes, **more, **_selector()}, takes_any)
        groups = {"type": ["object", "null"], "additionalProperties": {"anyOf": [group, {"type": "null"}]}}
        made[name] = mapping_of({**takes, **own, "groups": groups}, takes_any)
    return _by_target(made, (), {"properties": own})


def _scheduler() -> Schema:
    common = {"defaults": DEFAULTS, **fields_of(CommonSpec), "_target_": {"type": ["string", "null"]}}
    made = {}
    bounds = {**dict.fromkeys(NOT_NEGATIVE, {"min": 0}), **dict.fromkeys(COUNTS, {"min": 1})}
    for name, target in _names(torch.optim.lr_scheduler, "torch.optim.lr_scheduler", "scheduler").items():
        found, takes_any = _arguments(target, bounds)
        takes = {key: {"anyOf": [schema, {"type": "null"}]} for key, schema in found.items() if key != "optimizer"}
        made[name] = mapping_of({**takes, **common}, takes_any)
    return _by_target({**made, None: mapping_of(common)}, (), {"properties": common})


def _selector() -> dict[str, Schema]:
    return {name: ref(f"key.{name}") for name in SELECTOR_KEYS}


def _freeze() -> Schema:
    epoch = of_hint(int, {"min": 2})
    until = one_of(mapping_of({"epoch": epoch}), {"type": ["integer", "null"]})
    rule = mapping_of({**_selector(), "frozen": of_hint(bool), "until": until})
    rules = {"type": ["object", "null"], "additionalProperties": {"anyOf": [rule, {"type": "null"}]}}
    return mapping_of({"defaults": DEFAULTS, "rules": rules, "dropout": of_hint(bool)})


def _rule() -> Schema:
    """A rule of `init`: the arguments that its scheme takes, or any where it is one of a trusted package."""
    keys = {**_selector(), "scheme": {"anyOf": [_SCHEME, {"type": "object"}]}, "reinit": of_hint(bool)}
    taken = {name: _scheme_arguments(name) for name in SCHEMES} | {"auto": {}, "default": {}, "copy": {"of": {"type": "string"}}}
    cases = []
    for name, given in taken.items():
        named = {"properties": {"scheme": {"const": name}}, "required": ["scheme"]}
        cases.append({"if": named, "then": mapping_of({**given, **keys})})
    any_of_them = {key: {} for given in taken.values() for key in given}
    unnamed = {"if": {"required": ["scheme"]}, "else": mapping_of({**any_of_them, **keys})}
    return {"type": "object", "properties": keys, "allOf": [*cases, unnamed]}


def _scheme_arguments(name: str) -> dict[str, Schema]:
    scheme, made = SCHEMES[name], {}
    hints = {key: hint for key, (_, hint) in parameters_of(scheme.fill)[0].items()}
    for key in arguments(name):
        hint, bounds = hints.get(key), SCHEME_LIMITS.get(key, {})
        made[key] = {} if hint is None else of_hint(hint, bounds)
        if key == "gain":
            made[key] = one_of(of_option(float, {"above": 0}), {"type": ["string", "null"]})
        elif key in scheme.structural and made[key]:
            made[key] = {"anyOf": [made[key], {"enum": ["auto", None]}]}
    return made


def _init() -> Schema:
    calibrate = {"anyOf": [of_spec(CalibrateSpec), {"enum": [*METHODS, None, False, "none"]}, ref("interpolation")]}
    rules = {"type": "object", "additionalProperties": {"anyOf": [ref("rule"), {"type": "null"}]}}
    group = mapping_of({"defaults": DEFAULTS, "rules": rules, "calibrate": calibrate, "fans": one_of(_FANS)})
    return {"anyOf": [group, {"enum": [*recipe_names(), None]}, ref("interpolation")]}
