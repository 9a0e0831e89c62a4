"""Which group of the optimizer each parameter is in, and by how much its learning rate is scaled.

Three things say it: the named `groups` (with `lr_scale`, or `base_width` for a scale by each parameter's width), `layer_decay` and
`no_decay`. Factors multiply; parameters of the same group and factors are one group of the optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from modelfactory.config.errors import Problems, did_you_mean
from modelfactory.config.schema import check_value, join
from modelfactory.parameters.info import ParamInfo
from modelfactory.parameters.layer_order import layer_of_each
from modelfactory.parameters.roles import ROLES
from modelfactory.parameters.selector import SELECTOR_KEYS, Selector

GROUPING_KEYS = ("groups", "layer_decay", "no_decay")


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
    """

    groups: tuple[GroupSpec, ...] = ()
    layer_decay: float | None = None
    no_decay: tuple[str, ...] = ()


@dataclass(frozen=True)
class GroupAssignment:
    """What the optimizer does with a parameter.

    Attributes:
        group: `body`, or with the layer and what else tells it from others of its group, `body.layer3.no_decay`.
        lr_scale: its learning rate over that of the optimizer, or over the group's own `lr`.
        options: what differs from the optimizer's options.
        spec: the named group, None for the default one.
    """

    group: str
    lr_scale: float
    options: Mapping[str, Any]
    spec: GroupSpec | None


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
    return Grouping(groups, decay if isinstance(decay, float) and 0 < decay <= 1 else None, roles if isinstance(roles, tuple) else ())


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
    places = []
    for info in infos:
        spec = next((group for group in reversed(grouping.groups) if group.selector.picks(info)), None)
        name, scale, options = ("default", 1.0, {}) if spec is None else (spec.name, spec.lr_scale, dict(spec.options))
        if spec is not None and spec.base_width is not None:
            width = input_width(info)
            wider = 1.0 if width is None else width / spec.base_width
            name, scale = name if wider == 1.0 else f"{name}.width{width}", scale / wider
        if grouping.layer_decay is not None:
            layer = layers[info.name]
            name, scale = f"{name}.layer{layer}", scale * grouping.layer_decay ** (last - layer)
        if grouping.no_decay and set(grouping.no_decay).intersection(info.roles):  # roles cost a run of the model
            name, options = f"{name}.no_decay", options | {"weight_decay": 0.0}
        thawed = None if thaws is None else next((thaws[own] for own in info.names if own in thaws), None)
        if thawed is not None:
            name = f"{name}.epoch{thawed}"
        places.append(GroupAssignment(name, scale, options, spec))
    return places


def input_width(info: ParamInfo) -> int | None:
    """How many features or channels a matrix mixes; None for vectors and depthwise kernels, which mix none.

    Example:
        >>> from modelfactory.parameters.roles import describe
        >>> [input_width(info) for info in describe(nn.Sequential(nn.Linear(4, 3), nn.Conv2d(6, 6, 3, groups=6)))]
        [4, None, None, None]
    """
    shape = info.parameter.shape
    if len(shape) < 2:
        return None
    width: int = shape[0] // info.module.groups if getattr(info.module, "transposed", False) else shape[1]  # pyright: ignore
    return width if width > 1 or getattr(info.module, "groups", 1) == 1 else None
