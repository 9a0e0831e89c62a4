"""What each parameter of a model is there for, read off the modules: weight, bias, head, residual_out, query, ...

A class, or a config by `roles` beside a layer, may declare what cannot be read off: `modelfactory_roles`, a mapping of a
role to globs over the names of parameters or modules inside. `residual` names modules that are a residual branch each.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

from torch import nn

from modelfactory.config.errors import Problems, did_you_mean
from modelfactory.config.schema import join
from modelfactory.parameters.declared import BLOCKS, FANS, ROLES_OF, is_called
from modelfactory.parameters.facts import Facts
from modelfactory.parameters.info import ParamInfo
from modelfactory.parameters.parametrized import computed_by, is_computing
from modelfactory.parameters.parts import Owned
from modelfactory.parameters.residual import Outline, walk_modules
from modelfactory.parameters.written import Written

ROLES = (
    "weight",
    "bias",
    "norm",
    "embedding",
    "recurrent",
    "gate",
    "up",
    "down",
    "query",
    "key",
    "value",
    "input_gate",
    "forget_gate",
    "cell_gate",
    "output_gate",
    "reset_gate",
    "update_gate",
    "new_gate",
    "residual",
    "residual_out",
    "residual_norm",
    "residual_end",
    "router",
    "modulation",
    "stem",
    "hidden",
    "head",
    "tied",
    "authored",
    "scale",
    "activation",
    "other",
)
BLOCK_ROLES = frozenset(ROLES[ROLES.index("query") : ROLES.index("new_gate") + 1]) | {"gate", "up"}
"""Roles that a block of a packed parameter may have alone."""
_NO_BRANCH = (
    "no residual branch is known in this model: no sum in its run adds weights to the signal that they come from; "
    "name the modules that are one by roles: {residual: GLOB} beside the layer, or in the model"
)
MISSING = {
    **dict.fromkeys(("residual", "residual_out", "residual_end"), _NO_BRANCH),
    "residual_norm": "no residual branch of this model ends in a norm layer",
    **dict.fromkeys(("input_gate", "forget_gate", "cell_gate", "output_gate"), "the model has no LSTM with such a parameter"),
    **dict.fromkeys(("reset_gate", "update_gate", "new_gate"), "the model has no GRU with such a parameter"),
    **dict.fromkeys(("query", "key", "value"), "no attention is seen in the run of this model; name its parts by roles beside the layer"),
    **dict.fromkeys(("up", "down"), "the model has no gated unit: no activation of one projection times another"),
    "router": "no projection of this model chooses among experts",
    "modulation": "no projection of this model scales what a norm gives",
    "authored": "no author of a class here set a parameter by hand, or none was watched while the model was made",
    "tied": "no parameter of this model has two names",
    "hidden": "the model has no layer between its first and its last",
}
"""What to say where a model has no parameter of a role."""


_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_DECLARING = (ROLES_OF, BLOCKS, FANS)


def describe(
    model: nn.Module, example: Any = None, written: Mapping[str, Written] = MappingProxyType({})
) -> list[ParamInfo]:
    """Every parameter of the model once, in registration order; tied ones carry all of their names.

    What each is there for is found out when it is first asked for, by one run of the model on the meta device.

    Args:
        example: an input of the model (its numbers do not matter); without one, sizes that fit its first layers are tried.
        written: by name, what the model's constructors wrote to a parameter (`Draft.written`), where they were watched.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        >>> [(info.name, info.roles) for info in describe(model)][:3]
        [('0.weight', ('weight', 'stem')), ('0.bias', ('bias', 'stem')), ('1.weight', ('norm',))]
        >>> describe(model)[-1].roles
        ('bias', 'head')
    """
    names: dict[int, list[str]] = {}
    owners: list[tuple[nn.Parameter, nn.Module, str, str]] = []
    declarations: dict[str, nn.Module] = {}
    outline = Outline()
    computing: dict[str, nn.Module] = {}
    padding: dict[str, int] = {}
    for module_name, module in walk_modules(model):
        outline.begins.append((module_name, len(owners)))
        if module._buffers and next(module.parameters(), None) is None:
            outline.stateful.append((module_name, module))
        if "parametrizations" in module._modules:
            computing[module_name] = module
        if isinstance(module, _EMBEDDINGS) and module.padding_idx is not None:
            padding[join(module_name, "weight")] = module.padding_idx
        if _declares(type(module)) or any(what in module.__dict__ for what in _DECLARING):
            declarations[module_name] = module
        for attr, parameter in module._parameters.items():
            if parameter is not None:
                full = f"{module_name}.{attr}" if module_name else attr
                known = names.get(id(parameter))
                if known is None:
                    names[id(parameter)] = [full]
                    owners.append((parameter, module, module_name, attr))
                else:
                    known.append(full)
    outline.size = len(owners)
    owned: list[Owned] = []
    facts = Facts(model, owned, declarations, example)
    facts.written = written
    infos: list[ParamInfo] = []
    for index, (parameter, module, module_name, attr) in enumerate(owners):
        found = computed_by(module, module_name, attr, computing) if is_computing(module) else None
        computed = None
        if found is not None:
            module, module_name, computed = found
            attr = computed.attr
        own = tuple(names[id(parameter)])
        info = ParamInfo(own, parameter, module, module_name, attr, index, outline, facts, computed)
        owned.append(Owned(info.known_as, parameter, module, module_name, attr, computed))
        infos.append(_with_padding(info, padding) if padding else info)
    return infos


@cache
def _declares(kind: type) -> bool:
    return any(hasattr(kind, what) for what in _DECLARING)


def _with_padding(info: ParamInfo, padding: Mapping[str, int]) -> ParamInfo:
    """With the row that stays 0, where an embedding pads by one under any of its names."""
    row = next((padding[name] for name in info.known_as if name in padding), None)
    return info if row is None else replace(info, padding=row)


def read_roles(given: Any, path: str, problems: Problems) -> dict[str, tuple[str, ...]]:
    """The `roles` beside a layer: a role and one or more globs, {} after adding what is wrong.

    Example:
        >>> read_roles({"head": "fc.*", "residual": ["blocks.*.mlp"]}, "model.roles", Problems())
        {'head': ('fc.*',), 'residual': ('blocks.*.mlp',)}
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        problems.add(path, f"{given!r} is not a mapping; give role: glob, like {{head: 'fc.*'}}")
        return {}
    found = {}
    for role, globs in given.items():
        words = [globs] if isinstance(globs, str) else globs
        if role not in ROLES:
            problems.add(join(path, role), f"not a role{did_you_mean(str(role), ROLES, limit=40)}")
        elif not isinstance(words, (list, tuple)) or not words or not all(isinstance(word, str) and word for word in words):
            problems.add(join(path, role), f"{globs!r} is not a glob; give one over the names inside, or a list of them")
        else:
            found[role] = tuple(words)
    return found


def unused_roles(infos: Sequence[ParamInfo], module_name: str, roles: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Of the roles that are declared of a module, those with a glob that is of nothing: role -> glob."""
    layers = infos[0].outline.spans if infos else {}
    found = {}
    for role, globs in roles.items():
        for glob in globs:
            full = join(module_name, glob)
            named = any(is_called(info.known_as, module_name, glob) for info in infos)
            if not (named if role != "residual" else any(fnmatch.fnmatchcase(layer, full) for layer in layers)):
                found[role] = glob
    return found
