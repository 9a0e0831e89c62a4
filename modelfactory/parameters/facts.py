"""What is known of every parameter of a model: from the graph of one run, from what is declared, and from torch's own classes."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from modelfactory.config.errors import some_names
from modelfactory.config.schema import join
from modelfactory.parameters.declared import BLOCKS, FANS, ROLES_OF, declared_axes, declared_blocks, globs_of, is_called
from modelfactory.parameters.info import ParamFacts, block_role
from modelfactory.parameters.known_layers import decides, known_blocks, known_roles
from modelfactory.parameters.parts import Owned, declared_parts, equal_parts, parts_of_bias
from modelfactory.parameters.residual import MATRICES, Branch, walk_modules
from modelfactory.parameters.written import Written
from modelfactory.tracing.packed import Part
from modelfactory.tracing.read import Reading, read, read_by_trying

_KINDS = {"norm_bias": ("norm", "bias")}
_OF_BIASES = frozenset({"query", "key", "value", "gate", "up", "down", "router", "modulation", "head", "stem"})


class Facts:
    """Found out when first asked for: a model is run once on the meta device, and what is declared is put over what it shows.

    Args:
        owned: the parameters, in registration order.
        declarations: modules, by name, that declare roles, blocks or fans of what is inside of them.
        example: an input of the model, or a mapping of named ones; None where none is known.
    """

    def __init__(self, model: nn.Module, owned: Sequence[Owned], declarations: Mapping[str, nn.Module], example: Any = None):
        self._model, self._owned, self._declarations, self._example = model, owned, declarations, example
        self.written: Mapping[str, Written] = {}  # by name, what constructors wrote, where they were watched
        self.notes: list[str] = []
        """Where a declaration and the run disagree, or neither tells what a parameter is there for."""

    def of(self, index: int) -> ParamFacts:
        return self._all[index]

    @cached_property
    def reading(self) -> Reading:
        """What was read of the model's run; its graph's `reason` says why where there was none."""
        if self._example is None:
            return read_by_trying(self._model)
        return read(self._model, self._example)

    @cached_property
    def is_read(self) -> bool:
        return self.reading.graph.reason is None

    @cached_property
    def branches(self) -> list[Branch]:
        """The residual branches: those that the run shows, and those that are declared."""
        found: list[Branch] = []
        containers = {name: module for name, module in walk_modules(self._model) if getattr(type(module), "is_residual", False)}
        if self.is_read:
            for traced in self.reading.branches:
                name, more = _around((*traced.weights, *traced.ends)), (traced.layers, traced.in_decoder, traced.width, found)
                found.append(Branch(name, traced.weights, traced.inside, traced.ends, traced.norm, *more))
        for name, module in self._declared_branches:
            self._declare_branch(name, module, found)
        found[:] = [replace(branch, base_branches=_divided_from(branch, containers)) for branch in found]
        return found

    @cached_property
    def _declared_branches(self) -> list[tuple[str, nn.Module]]:
        found: list[tuple[str, nn.Module]] = []
        for prefix, module in self._declarations.items():
            globs = globs_of(_declared(module, ROLES_OF), "residual")
            taken: list[str] = []
            for name, inner in walk_modules(module) if globs else ():
                inside = any(name.startswith(f"{outer}.") for outer in taken)
                if name and not inside and any(fnmatch.fnmatchcase(name, glob) for glob in globs):
                    taken.append(name)
                    found.append((join(prefix, name), inner))
        found += [(name, module) for name, module in walk_modules(self._model) if getattr(type(module), "is_residual", False)]
        return found

    def _declare_branch(self, name: str, module: nn.Module, found: list[Branch]) -> None:
        """Appends a branch that is declared, unless the run shows it."""
        inside = f"{name}." if name else ""
        own = [item for item in self._owned if item.names[-1].startswith(inside) and not item.names[-1].startswith(f"{inside}shortcut.")]
        weights = [item.names[0] for item in own if item.parameter.ndim >= 2 and known_roles(type(item.module), item.attr, 2) != ("norm",)]
        if any(weight in branch.ends for branch in found for weight in weights):
            return
        if self.is_read and not getattr(type(module), "is_residual", False):
            self.notes.append(f"{name} is declared a residual branch, and in the run its output is added to no signal around it")
        if not weights:
            return
        if self.is_read:
            ends = [name_of for name_of in weights if name_of in self._last_in(inside)] or weights[-1:]
        elif isinstance(module, nn.Sequential) or len(weights) == 1:  # its order of registration is its forward
            ends = weights[-1:]
        else:
            self.notes.append(
                f"{name} is declared a residual branch, and which of its weights ends it is not known ({self.reading.graph.reason}): "
                "declare that by roles: {residual_out: GLOB}"
            )
            ends = []
        last = next((item for item in own if item.names[0] in ends), None)
        after = [] if last is None else own[own.index(last) + 1 :]
        norm = next((item.names[0] for item in after if known_roles(type(item.module), item.attr, 1) == ("norm",)), None)
        width = 0 if last is None else last.parameter.shape[0]
        inner = frozenset(item.names[0] for item in own)
        found.append(Branch(name, tuple(weights), inner, tuple(ends), norm, len(weights), False, width, found))

    def _last_in(self, inside: str) -> set[str]:
        """The weights inside of a module that no other weights inside of it come after."""
        steps = self.reading.steps
        found: set[str] = set()
        for index in self.reading.labels.contractions:
            node = steps.graph.nodes[index]
            weight = steps.weight(node)
            names = set() if weight is None else {name for name in self.reading.labels[weight].mains if name.startswith(inside)}
            if names and not self._goes_on(node, inside):
                found |= names
        return found

    def _goes_on(self, node: Any, inside: str) -> bool:
        steps = self.reading.steps
        ahead, seen = list(node.outputs), set[int]()
        while ahead:
            for user in ahead.pop().users:
                if user.index in seen or not f"{user.layer}.".startswith(inside):
                    continue
                seen.add(user.index)
                weight = steps.weight(user)
                if weight is not None and any(name.startswith(inside) for name in self.reading.labels[weight].mains):
                    return True
                ahead += user.outputs
        return False

    @cached_property
    def _all(self) -> list[ParamFacts]:
        branches = _innermost(self.branches, self._biases)
        first, head = self._first_and_head()
        unknown: list[str] = []
        found = []
        for place, item in enumerate(self._owned):
            kind, more, named_parts, parts = self._of_run(item)
            roles = kind
            if item.computed is None and isinstance(item.module, ParametrizationList):
                kind, roles, more, named_parts, parts = None, ("other",), [], (), ()  # what torch cannot be given back
            if roles is None:
                roles = known_roles(type(item.module), item.attr, item.parameter.ndim)
            if roles is None:
                roles = ("other",)
                unknown.append(item.names[0])
            if item.computed is not None and item.computed.leads and "weight" not in roles:
                roles = known_roles(type(item.module), item.attr, item.parameter.ndim) or roles
            if not parts:
                named_parts = known_blocks(item.module, item.attr)
                parts = equal_parts(item, named_parts)
            of_parts = [role for name in named_parts if (role := block_role(name))]
            further = dict.fromkeys([*of_parts, *(role for role in more if role not in ("head", "stem"))])
            roles += tuple(role for role in further if role not in roles)
            branch = branches.get(item.names[0])
            if branch is not None:
                roles += _branch_roles(item, branch, self._biases)
            ends = _places(item, place, more, first, head, kind is not None)
            roles += ends
            if not ends and "weight" in roles:
                roles += ("hidden",)
            if item.computed is not None and not item.computed.leads:
                roles = ("scale",)
            known_as = len(item.names) - (item.computed is not None)
            roles += ("tied",) if known_as > 1 else ()
            fans = tuple(self.reading.fans.get(item.names[0], ())) if self.is_read else ()
            acting = self.reading.activations.get(item.names[0]) if self.is_read else None
            found.append(ParamFacts(roles, parts, tuple(named_parts), branch, fans, None, acting, kind is not None))
        self._note_unknown(unknown)
        return self._with_declared(found)

    def _note_unknown(self, names: Sequence[str]) -> None:
        if names:
            some = some_names(names, 3)
            why = "the run of the model does not use them" if self.is_read else f"the model could not be run ({self.reading.graph.reason})"
            self.notes.append(f"what {some} {'is' if len(names) == 1 else 'are'} there for is not known: {why}; declare it by roles")

    @cached_property
    def _biases(self) -> dict[str, str]:
        """By name of a bias the name of the weight whose output it is added to."""
        found: dict[str, str] = {}
        if self.is_read:
            for weight, biases in self.reading.biases.items():
                for bias in biases:
                    found.setdefault(bias, weight)
        for item in self._owned:
            if item.attr == "bias" and isinstance(item.module, MATRICES):
                found.setdefault(item.names[0], join(item.module_name, "weight"))
        return found

    def _of_run(self, item: Owned) -> tuple[tuple[str, ...] | None, list[str], tuple[str, ...], tuple[Part, ...]]:
        """Of a parameter that the run used: its kind, further roles, and the names and places of the matrices that it packs."""
        name = item.names[0]
        if not self.is_read or name not in self.reading.roles.kinds or decides(type(item.module)):
            roles = self.reading.roles if self.is_read else None
            source = self._biases.get(name, name)
            places = [] if roles is None else [role for role in roles.roles(source) if role in ("head", "stem")]
            return None, places, (), ()
        traced = self.reading.roles
        kind = traced.kinds[name]
        more = list(traced.roles(name))
        source = name
        if kind == "bias" and name in self._biases:
            source = self._biases[name]
            more += [role for role in traced.roles(source) if role in _OF_BIASES]
        names, parts = traced.of_parts.get(source, []), self.reading.parts.get(source, [])
        if source != name and parts:
            parts = parts_of_bias(item.parameter, self.reading.graph.parameters[source].shape, parts)
        labelled = tuple(role or str(place) for place, role in enumerate(names)) if parts else ()
        roles = _KINDS.get(kind, (kind,))
        if kind == "recurrent":
            roles = ("weight",) if item.parameter.ndim > 1 else ("bias",)
        return roles, more, labelled, tuple(parts)

    def _first_and_head(self) -> tuple[nn.Module | None, nn.Module | None]:
        """The first and the last module with weights in registration order, where no run shows them."""
        if self.is_read:
            return None, None
        layers = [item.module for item in self._owned if known_roles(type(item.module), item.attr, item.parameter.ndim) is not None]
        roles = [(module, known_roles(type(module), "weight", 2)) for module in layers]
        first = next((module for module, found in roles if decides(type(module)) or found in (("weight",), ("embedding",))), None)
        head = next((module for module, _ in reversed(roles) if isinstance(module, MATRICES)), None)
        return first, head

    def _with_declared(self, found: list[ParamFacts]) -> list[ParamFacts]:
        """With what is declared put over it; a declared stem or head is the only one there is."""
        if not self._declarations:
            return found
        given = {name: _declared(module, ROLES_OF) for name, module in self._declarations.items()}
        replaced = {role for roles in given.values() for role in ("stem", "head") if role in roles}
        result = []
        for item, facts in zip(self._owned, found, strict=True):
            roles = [role for role in facts.roles if role not in replaced]
            for prefix, declared in given.items():
                for role in declared:
                    if role != "residual" and role not in roles and any(is_called(item.names, prefix, g) for g in globs_of(declared, role)):
                        roles = [old for old in roles if old != "other" and (old != "hidden" or role not in replaced)]
                        roles = [role, *roles] if not roles else [*roles, role]
            axes, blocks = None, None
            for prefix, module in self._declarations.items():
                axes = declared_axes(_declared(module, FANS), item, prefix) or axes
                blocks = declared_blocks(_declared(module, BLOCKS), item, prefix) or blocks
            if axes is not None and facts.fans and (axes[0], axes[1]) != (facts.fans[0].summed, facts.fans[0].coming_out):
                seen = f"in {list(facts.fans[0].summed)}, out {list(facts.fans[0].coming_out)}"
                said = f"in {list(axes[0])}, out {list(axes[1])}"
                self.notes.append(f"{item.names[0]}: its fans are declared as {said}, and its run shows {seen}")
            parts, packed = facts.parts, facts.packed
            if blocks is not None:
                along = axes[1][0] if axes is not None and axes[1] else facts.fans[0].coming_out[0] if facts.fans else 0
                parts, packed = declared_parts(item, blocks, along), tuple(blocks)
                roles += [role for name in packed if (role := block_role(name)) and role not in roles]
            if axes is not None and "weight" not in roles and "embedding" not in roles:
                roles = ["weight", "hidden", *(role for role in roles if role != "other")]
            result.append(replace(facts, roles=tuple(roles), parts=tuple(parts), packed=packed, axes=axes))
        return result


def _declared(module: nn.Module, what: str) -> Mapping[str, Any]:
    """What a module, or its class, declares under an attribute."""
    own = module.__dict__.get(what)
    return own if own is not None else getattr(type(module), what, None) or {}


def _around(names: Sequence[str]) -> str:
    """The name of the innermost module that all of these parameters lie in."""
    paths = [name.split(".")[:-1] for name in names]
    shared = []
    for level in zip(*paths, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)


def _divided_from(branch: Branch, containers: Mapping[str, nn.Module]) -> float | None:
    """The base of the innermost container of a branch, where that divides it."""
    around = [name for name in containers if branch.ends and all(not name or end.startswith(f"{name}.") for end in branch.ends)]
    return getattr(containers[max(around, key=len)], "base_branches", None) if around else None


def _innermost(branches: Sequence[Branch], biases: Mapping[str, str]) -> dict[str, Branch]:
    """The innermost branch of each of its matrices, their biases, and the norm at its end."""
    found: dict[str, Branch] = {}
    for branch in branches:
        for name in (*branch.weights, *branch.ends, *((branch.norm,) if branch.norm is not None else ())):
            if name not in found or len(branch.weights) < len(found[name].weights):
                found[name] = branch
    for bias, weight in biases.items():
        if weight in found:
            found.setdefault(bias, found[weight])
    for name, branch in list(found.items()):  # the bias of a norm goes with its scale
        if name == branch.norm and name.endswith("weight"):
            found.setdefault(f"{name[: -len('weight')]}bias", branch)
    return found


def _branch_roles(item: Owned, branch: Branch, biases: Mapping[str, str]) -> tuple[str, ...]:
    name = item.names[0]
    weight = biases.get(name, name)
    roles = ("residual",) if name in branch.weights else ()
    if weight in branch.ends:
        roles += ("residual_out",)
    elif name == branch.norm:
        roles += ("residual_norm",)
    return (*roles, "residual_end") if name in branch.silenced_by else roles


def _places(item: Owned, place: int, more: Sequence[str], first: nn.Module | None, head: nn.Module | None, met: bool) -> tuple[str, ...]:
    """Whether it belongs to the first layer, the last, or neither."""
    if met or first is None and head is None:
        return tuple(role for role in ("stem", "head") if role in more)
    later = "_l" in item.attr and "_l0" not in item.attr or item.attr.startswith(("weight_hh", "bias_hh"))
    found = ("stem",) if item.module is first and not (decides(type(item.module)) and later) else ()
    return (*found, "head") if item.module is head else found
