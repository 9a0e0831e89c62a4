"""Which group of the optimizer each parameter is in, and by how much its learning rate is scaled.

Four things say it: the named `groups` (with `lr_scale`, or `base_width` for a scale by each parameter's width), `completep`, `layer_decay`
and `no_decay`. Factors multiply; parameters of the same group and factors are one group of the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from modelfactory.config.errors import Problems, did_you_mean
from modelfactory.config.schema import check_value, join, read
from modelfactory.parameters.completep import CompleteP, Multipliers, multipliers
from modelfactory.parameters.info import ParamInfo
from modelfactory.parameters.layer_order import layer_of_each
from modelfactory.parameters.roles import ROLES
from modelfactory.parameters.selector import SELECTOR_KEYS, Selector
from modelfactory.parameters.widths import input_width

GROUPING_KEYS = ("groups", "layer_decay", "no_decay", "completep")


@dataclass(frozen=True)
class GroupSpec:
    """One named group: what picks it, and the options that differ from the optimizer's.

    With `base_width` the learning rate of a matrix is divided by m, its input width over base_width: Adam's rule in the
    maximal update parametrisation (Yang et al. 2022, table 3).
    """

    name: str
    selector: Selector
    lr_scale: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    base_width: float | None = None


@dataclass(frozen=True)
class Grouping:
    """What an `optimizer` group says of parts of the model.

    Attributes:
        groups: in the order of the config; a later one wins.
        layer_decay: the factor of the learning rate from one layer to the layer before it; None: 1.
        no_decay: roles whose parameters have a weight decay of 0.
        completep: the base sizes by which all numbers are scaled; None: by none.
        turned: what CompleteP's multipliers for Adam are for the optimizer, and a parameter with these options of a group.
    """

    groups: tuple[GroupSpec, ...] = ()
    layer_decay: float | None = None
    no_decay: tuple[str, ...] = ()
    completep: CompleteP | None = None
    turned: Callable[[Multipliers, Mapping[str, Any]], Multipliers] = lambda adam, options: adam


@dataclass(frozen=True)
class GroupAssignment:
    """What the optimizer does with a parameter.

    Attributes:
        group: `body`, or with the layer and what else tells it from others of its group, `body.layer3.no_decay`.
        lr_scale: its learning rate over that of the optimizer, or over the group's own `lr`.
        decay_scale, eps_scale: the same of its weight decay and its eps.
        options: what differs from the optimizer's options.
        spec: the named group, None for the default one.
    """

    group: str
    lr_scale: float
    options: Mapping[str, Any]
    spec: GroupSpec | None
    decay_scale: float = 1.0
    eps_scale: float = 1.0


def read_grouping(mapping: Mapping[str, Any], path: str, problems: Problems) -> Grouping:
    """The grouping among the keys of an `optimizer` group, without what is wrong, which goes to `problems`.

    The options of the groups are for the optimizer to check.

    Example:
        >>> problems = Problems()
        >>> read_grouping({"layer_decay": 0.75, "no_decay": ["nrom"]}, "optimizer", problems).layer_decay
        0.75
        >>> print(*problems)
        optimizer.no_decay: 'nrom' is not a role; did you mean 'norm'?
    """
    limits = {"above": 0, "max": 1}
    decay = check_value(mapping.get("layer_decay"), float | None, join(path, "layer_decay"), problems, limits)
    roles = mapping.get("no_decay")
    roles = check_value([] if roles is None else roles, tuple[str, ...], join(path, "no_decay"), problems)
    for role in roles if isinstance(roles, tuple) else ():
        if role not in ROLES:
            problems.add(join(path, "no_decay"), f"{role!r} is not a role{did_you_mean(role, ROLES, limit=20)}")
    groups = _read_groups(mapping.get("groups"), join(path, "groups"), problems)
    decay = decay if isinstance(decay, float) and 0 < decay <= 1 else None
    given, where = mapping.get("completep"), join(path, "completep")
    completep = None if given is None else read(CompleteP, given, where, problems)
    for group in groups if given is not None else ():
        if group.base_width is not None:
            problems.add(f"{path}.groups.{group.name}.base_width", f"{group.base_width:g} and {where} are both given; give one")
    return Grouping(groups, decay, roles if isinstance(roles, tuple) else (), completep)


def _read_groups(groups: Any, path: str, problems: Problems) -> tuple[GroupSpec, ...]:
    if groups is None:
        return ()
    if not isinstance(groups, Mapping):
        problems.add(path, f"{groups!r} is not a mapping; give named groups, each with match, module or role")
        return ()
    specs = []
    for name, group in groups.items():
        where = join(path, name)
        if group is None:  # a group of the config that a command line took out
            continue
        if not isinstance(group, Mapping):
            problems.add(where, f"{group!r} is not a mapping; give match, module or role, and lr_scale or another option")
            continue
        if name == "default":
            problems.add(where, "'default' is the group of all that no other picks; choose another name")
        selector = Selector.read(group, where, problems)
        options = {key: value for key, value in group.items() if key not in SELECTOR_KEYS}
        scale = check_value(options.pop("lr_scale", 1.0), float, join(where, "lr_scale"), problems, {"min": 0})
        width = check_value(options.pop("base_width", None), float | None, join(where, "base_width"), problems, {"above": 0})
        if "lr" in options and "lr_scale" in group:
            problems.add(join(where, "lr_scale"), f"{group['lr_scale']!r} and lr: {options['lr']!r} are both given; give one")
        if selector is not None:
            specs.append(GroupSpec(str(name), selector, scale if isinstance(scale, float) else 1.0, options, _above_0(width)))
    return tuple(specs)


def _above_0(width: Any) -> float | None:
    return width if isinstance(width, float) and width > 0 else None


def place_parameters(
    model: nn.Module,
    infos: Sequence[ParamInfo],
    grouping: Grouping,
    thaws: Mapping[str, int] | None = None,
) -> list[GroupAssignment]:
    """Where each of `infos`, parameters of `model`, goes.

    A parameter is in the last group that picks it, else in `default`. With `layer_decay` d, layer i of the L + 1 that
    `modelfactory.parameters.layer_order` counts has d^(L - i) of the learning rate, the head all of it (BEiT, Bao et al. 2022; MAE, He et
    al. 2022, from ELECTRA, Clark et al. 2020).

    Args:
        thaws: names of parameters frozen at first, with the epoch that thaws each. They are groups of their own, since
            torch's fused SGD takes either all or none of a group to have momentum.

    Example:
        >>> from modelfactory.parameters.roles import describe
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1))
        >>> places = place_parameters(model, describe(model), Grouping(layer_decay=0.5, no_decay=("bias",)))
        >>> [(place.group, place.lr_scale) for place in places][:3]
        [('default.layer0', 0.25), ('default.layer0.no_decay', 0.25), ('default.layer1', 0.5)]
    """
    layers = {} if grouping.layer_decay is None else layer_of_each(model)
    last = max(layers.values(), default=0)
    scales = [None] * len(infos) if grouping.completep is None else multipliers(infos, grouping.completep)
    places = []
    for info, scaled in zip(infos, scales, strict=True):
        spec = next((group for group in reversed(grouping.groups) if group.selector.picks(info)), None)
        name, scale, options = ("default", 1.0, {}) if spec is None else (spec.name, spec.lr_scale, dict(spec.options))
        if spec is not None and spec.base_width is not None:
            width = input_width(info)
            wider = 1.0 if width is None else width / spec.base_width
            name, scale = name if wider == 1.0 else f"{name}.width{width}", scale / wider
        decay_scale = eps_scale = 1.0
        if scaled is not None:
            scaled = grouping.turned(scaled, options)
            name, scale = f"{name}.{scaled.place}" if scaled.place else name, scale * scaled.lr
            decay_scale, eps_scale = scaled.weight_decay, scaled.eps
        if grouping.layer_decay is not None:
            layer = layers[info.name]
            name, scale = f"{name}.layer{layer}", scale * grouping.layer_decay ** (last - layer)
        if grouping.no_decay and set(grouping.no_decay).intersection(info.roles):  # roles cost a run of the model
            name, options = f"{name}.no_decay", options | {"weight_decay": 0.0}
        thawed = None if thaws is None else next((thaws[own] for own in info.names if own in thaws), None)
        if thawed is not None:
            name = f"{name}.epoch{thawed}"
        places.append(GroupAssignment(name, scale, options, spec, decay_scale, eps_scale))
    return places
