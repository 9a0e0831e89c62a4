"""What each parameter of a model is there for, read off the modules: weight, bias, head, residual_out, query, ...

A class, or a config by `roles` beside a layer, may declare what cannot be read off: `modelfactory_roles`, a mapping of a
role to globs over the names of parameters or modules inside. `residual` names modules that are a residual branch each.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn

from modelfactory.config.errors import Problems, did_you_mean
from modelfactory.config.schema import join
from modelfactory.parameters.info import ParamInfo, block_role
from modelfactory.parameters.parametrized import computed_by, is_computing
from modelfactory.parameters.residual import (
    MATRICES,
    NORMS,
    PACKED_NAMES,
    Branch,
    Outline,
    branches_of,
    declared_branch,
    is_norm,
    is_residual_class,
    packed_blocks,
    walk_modules,
)

ROLES = (
    "weight",
    "bias",
    "norm",
    "embedding",
    "recurrent",
    "gate",
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
    "stem",
    "hidden",
    "head",
    "tied",
    "scale",
    "activation",
    "other",
)
BLOCK_ROLES = frozenset(ROLES[ROLES.index("query") : ROLES.index("new_gate") + 1])
"""Roles that a block of a packed parameter may have alone."""
DECLARED = "modelfactory_roles"
"""The attribute, of a class or of a module, by which it declares roles."""
_NO_BRANCH = (
    "no residual branch is known in this model: they are those of modelfactory.Residual and of the blocks of torch.nn, torchvision "
    "and timm; name the modules that are one by roles: {residual: GLOB} beside the layer, or in the model"
)
MISSING = {
    **dict.fromkeys(("residual", "residual_out", "residual_end"), _NO_BRANCH),
    "residual_norm": "no residual branch of this model ends in a norm layer",
    **dict.fromkeys(("input_gate", "forget_gate", "cell_gate", "output_gate"), "the model has no LSTM with such a parameter"),
    **dict.fromkeys(("reset_gate", "update_gate", "new_gate"), "the model has no GRU with such a parameter"),
    **dict.fromkeys(("query", "key", "value"), "the model has no attention layer that is known; name its parts by roles beside the layer"),
    "tied": "no parameter of this model has two names",
    "hidden": "the model has no layer between its first and its last",
}
"""What to say where a model has no parameter of a role."""

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_GATED = (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_EMBEDDING_NAME = re.compile(r"(pos|cls|class|mask|dist|register)_?(embed|token|emb)|embedding|relative_position|_token$")
_SCALE_NAME = re.compile(r"^(scale|alpha|layer_?scale|gamma(_\d+)?|ls\d*)$")
_PROJECTION = re.compile(r"^(?:to_|w|lin_)?(q|k|v|query|key|value)(?:_proj|_lin)?$")
_PROJECTIONS = {"q": "query", "k": "key", "v": "value"}


class _Kind(NamedTuple):
    """What a class of modules is, looked up once."""

    matrix: bool
    embedding: bool
    recurrent: bool
    residual: bool
    declared: Mapping[str, Any] | None


@cache
def _kind(owner: type) -> _Kind:
    return _Kind(
        issubclass(owner, MATRICES),
        issubclass(owner, _EMBEDDINGS),
        issubclass(owner, _RECURRENT),
        is_residual_class(owner),
        getattr(owner, DECLARED, None),
    )


def describe(model: nn.Module) -> list[ParamInfo]:
    """Every parameter of the model once, in registration order; tied ones carry all of their names.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        >>> [(info.name, info.roles) for info in describe(model)][:3]
        [('0.weight', ('weight', 'stem')), ('0.bias', ('bias', 'stem')), ('1.weight', ('norm',))]
        >>> describe(model)[-1].roles
        ('bias', 'head')
    """
    names: dict[int, list[str]] = {}
    owners: list[tuple[nn.Parameter, nn.Module, str, str]] = []
    first: nn.Module | None = None
    head: nn.Module | None = None
    declared: list[tuple[str, nn.Module, Mapping[str, Any]]] = []
    outline = Outline()
    branches = outline.branches
    computing: dict[str, nn.Module] = {}
    padding: dict[str, int] = {}
    for module_name, module in walk_modules(model):
        outline.begins.append((module_name, len(owners)))
        kind = _kind(type(module))
        if "parametrizations" in module._modules:
            computing[module_name] = module
        if kind.matrix:
            head = module
        if first is None and (kind.matrix or kind.embedding or kind.recurrent):
            first = module
        if kind.embedding and module.padding_idx is not None:
            padding[join(module_name, "weight")] = module.padding_idx  # pyright: ignore[reportArgumentType]
        if kind.residual:
            branches_of(module, module_name, branches)
        roles = module.__dict__.get(DECLARED, kind.declared)
        if roles is not None:
            declared.append((module_name, module, roles))
        for attr, parameter in module._parameters.items():
            if parameter is not None:
                full = f"{module_name}.{attr}" if module_name else attr
                known = names.get(id(parameter))
                if known is None:
                    names[id(parameter)] = [full]
                    owners.append((parameter, module, module_name, attr))
                else:
                    known.append(full)
    for module_name, module, roles in declared:
        _declare_branches(module, module_name, roles, branches)
    outline.size = len(owners)
    ends = _places(branches)
    infos = []
    for parameter, module, module_name, attr in owners:
        found = computed_by(module, module_name, attr, computing) if is_computing(module) else None
        computed = None
        if found is not None:
            module, module_name, computed = found
            attr = computed.attr
        roles = _kind_of_parameter(type(module), attr, parameter.ndim)
        packs = _packs(type(module), module_name.rpartition(".")[2])
        packed = packed_blocks(module, attr, module_name) if packs else ()
        if packs:
            roles += _projection_roles(module_name, packed, roles)
        own = ends.get(id(module))
        if own is not None:
            roles += _branch_roles(module, attr, parameter, own)
        if module is first or module is head:
            roles += _place(module, attr, roles, first, head)
        elif "weight" in roles:
            roles += ("hidden",)
        if computed is not None and not computed.leads:
            roles = ("scale",)
        all_names = names[id(parameter)]
        if len(all_names) > 1:
            roles += ("tied",)
        place = len(infos)
        info = ParamInfo(tuple(all_names), parameter, module, module_name, attr, roles, place, outline, packed, own, computed)
        infos.append(_with_padding(info, padding) if padding else info)
    return _with_declared(infos, declared) if declared else infos


def _with_padding(info: ParamInfo, padding: Mapping[str, int]) -> ParamInfo:
    """With the row that stays 0, where an embedding pads by one under any of its names."""
    row = next((padding[name] for name in info.known_as if name in padding), None)
    return info if row is None else replace(info, padding=row)


def _places(branches: Sequence[Branch]) -> dict[int, Branch]:
    """The innermost branch of each module that is a layer of one, or the norm at its end."""
    found: dict[int, Branch] = {}
    for branch in branches:
        for module in branch.layers if branch.norm is None else (*branch.layers, branch.norm):
            if id(module) not in found or len(branch.layers) < len(found[id(module)].layers):
                found[id(module)] = branch
    return found


def _branch_roles(module: nn.Module, attr: str, parameter: torch.Tensor, branch: Branch) -> tuple[str, ...]:
    scales = parameter.ndim >= 2 or attr in ("weight", "scale", "gamma")
    roles = ("residual",) if parameter.ndim >= 2 else ()
    if module is branch.layers[-1]:
        roles += ("residual_out",)
    elif module is branch.norm and scales:
        roles += ("residual_norm",)
    return (*roles, "residual_end") if module is branch.end and scales else roles


def _place(
    module: nn.Module, attr: str, roles: tuple[str, ...], first: nn.Module | None, head: nn.Module | None
) -> tuple[str, ...]:
    """Whether it belongs to the first layer, the last, or one between them."""
    found = ("stem",) if module is first and not ("recurrent" in roles or "_l" in attr and "_l0" not in attr) else ()
    if module is head:
        found += ("head",)
    return ("hidden",) if not found and "weight" in roles else found


@cache
def _packs(owner: type, last_name: str) -> bool:
    """Whether a module of this class and name may be, or pack, projections or gates."""
    if issubclass(owner, nn.Linear):
        return last_name in PACKED_NAMES or _PROJECTION.match(last_name) is not None
    return issubclass(owner, (nn.MultiheadAttention, *_RECURRENT))


@cache
def _kind_of_parameter(owner: type, attr: str, ndim: int) -> tuple[str, ...]:
    is_bias = attr.startswith("bias") or attr.endswith("bias") or attr == "beta"
    if is_norm(owner) and (ndim == 1 or issubclass(owner, NORMS)):
        return ("norm", "bias") if is_bias else ("norm",)
    if issubclass(owner, _RECURRENT):
        gate = ("gate",) if issubclass(owner, _GATED) and not attr.startswith("weight_hr") else ()
        kind = "bias" if is_bias else "recurrent" if attr.startswith("weight_hh") else "weight"
        return (kind, *(("weight",) if kind == "recurrent" else ()), *gate)
    if issubclass(owner, nn.MultiheadAttention):
        return _attention_roles(attr, is_bias)
    if issubclass(owner, _EMBEDDINGS):
        return ("embedding",)
    if issubclass(owner, nn.PReLU):
        return ("activation",)
    if issubclass(owner, MATRICES):
        return ("bias",) if is_bias else ("weight",)
    if _EMBEDDING_NAME.search(attr):
        return ("embedding",)
    if _SCALE_NAME.search(attr):
        return ("scale",)
    if is_bias:
        return ("bias",)
    return ("weight",) if attr.endswith("weight") and ndim >= 2 else ("other",)


def _attention_roles(attr: str, is_bias: bool) -> tuple[str, ...]:
    if attr.startswith("in_proj"):
        return ("bias" if is_bias else "weight", "query", "key", "value")
    separate = {"q_proj_weight": "query", "k_proj_weight": "key", "v_proj_weight": "value"}
    return ("weight", separate[attr]) if attr in separate else ("other",)


def _projection_roles(module_name: str, packed: tuple[str, ...], roles: tuple[str, ...]) -> tuple[str, ...]:
    """query, key, value and the gates: of the blocks that are packed, or by the name of a Linear of its own."""
    if packed:
        return tuple(role for role in map(block_role, packed) if role not in roles)
    found = _PROJECTION.match(module_name.rpartition(".")[2])
    return (_PROJECTIONS[found[1][0]],) if found is not None else ()


def _declare_branches(module: nn.Module, module_name: str, roles: Mapping[str, Any], branches: list[Branch]) -> None:
    taken: list[str] = []
    for name, inner in walk_modules(module):
        inside = any(name.startswith(f"{outer}.") for outer in taken)
        if name and not inside and any(fnmatch.fnmatchcase(name, glob) for glob in globs_of(roles, "residual")):
            taken.append(name)
            declared_branch(inner, join(module_name, name), branches)


def globs_of(roles: Mapping[str, Any], role: str) -> tuple[str, ...]:
    """The globs that a declaration has for a role, one or a list."""
    given = roles.get(role, ())
    return (given,) if isinstance(given, str) else tuple(given)


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
            named = any(_is_called(info, module_name, glob) for info in infos)
            if not (named if role != "residual" else any(fnmatch.fnmatchcase(layer, full) for layer in layers)):
                found[role] = glob
    return found


def _with_declared(infos: list[ParamInfo], declared: Sequence[tuple[str, nn.Module, Mapping[str, Any]]]) -> list[ParamInfo]:
    """With the declared roles added; a declared stem or head is the only one there is."""
    replaced = {role for _, _, roles in declared for role in ("stem", "head") if role in roles}
    found = [replace(info, roles=tuple(role for role in info.roles if role not in replaced)) for info in infos]
    for prefix, _, roles in declared:
        for role in roles:
            if role == "residual":
                continue
            for index, info in enumerate(found):
                if role not in info.roles and any(_is_called(info, prefix, glob) for glob in globs_of(roles, role)):
                    found[index] = replace(info, roles=(*(r for r in info.roles if r != "hidden" or role not in replaced), role))
    return found


def _is_called(info: ParamInfo, prefix: str, glob: str) -> bool:
    """Whether a glob inside of module `prefix` is of this parameter, or of a module that it is in."""
    full = join(prefix, glob)
    return any(fnmatch.fnmatchcase(name, full) or fnmatch.fnmatchcase(name, f"{full}.*") for name in info.known_as)
