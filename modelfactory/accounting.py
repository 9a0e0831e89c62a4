"""Decides what is to be done to every parameter of a model, and says it in the ledger's rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from modelfactory.advice import Advice
from modelfactory.errors import Problems, did_you_mean
from modelfactory.freezing import choose_frozen
from modelfactory.grouping import place_parameters
from modelfactory.init.acting import Acting, find_acting
from modelfactory.init.assigning import Assignment, assign, needs_shape
from modelfactory.init.automatic import needs_acting, resolve_auto
from modelfactory.init.calibrate import Calibration
from modelfactory.init.choosing import Chooser, uses_auto_gain
from modelfactory.init.coverage import overridden
from modelfactory.init.rules import Rule
from modelfactory.init.structural import Shares, unknown_shares
from modelfactory.ledger import Row
from modelfactory.model import BACKBONE, Draft
from modelfactory.modelspec import ModelSpec
from modelfactory.roles import unused_roles
from modelfactory.select import ParamInfo, describe, some_names


@dataclass(frozen=True)
class Account:
    """Every parameter of one draft with what is to be done to it.

    Attributes:
        frozen: the `id` of each frozen parameter, with the epoch that thaws it, None: never.
        place: tells the optimizer group of each parameter, by its `id`.
        beside: by module name the rules beside it, each with the glob that it has for the parameters inside.
    """

    infos: Sequence[ParamInfo]
    assignments: Sequence[Assignment]
    frozen: Mapping[int, int | None]
    place: Callable[[], Mapping[int, str]]
    beside: Mapping[str, Sequence[tuple[str, Rule]]]

    @property
    def thaws(self) -> dict[str, int]:
        """The names of parameters that are frozen at first, with the epoch that thaws each."""
        return _thaws(self.infos, self.frozen)

    def calibrated(self, calibration: Calibration) -> Account:
        """With what a calibration did to the parameters that it changed: the method, the factor in the gain, no expectation."""
        factors = calibration.factors
        items = [
            _calibrated(item, calibration.method, factors[item.info.name]) if item.info.name in factors else item
            for item in self.assignments
        ]
        return replace(self, assignments=items)


def _calibrated(item: Assignment, method: str, factor: float) -> Assignment:
    call = replace(item.call, name=f"{item.call.name}+{method}")
    gain = factor if item.gain is None else item.gain * factor
    gain = None if "bias" in item.info.roles else gain
    return replace(item, choice=replace(item.choice, call=call), gain=gain, expected=(math.nan, math.nan))


def account(
    draft: Draft,
    spec: ModelSpec,
    problems: Problems,
    pretrained: Mapping[str, str] = MappingProxyType({}),
    shares: Shares = unknown_shares,
) -> Account:
    """Decides scheme, fans, gain and freezing for each parameter of a draft.

    Args:
        pretrained: parameter -> the file and tensor that its values come from.
        shares: gives the classes' shares in the data.
    """
    infos = describe(draft.module)
    for name, definition in draft.definitions.items():
        for role, glob in unused_roles(infos, name, definition.roles).items():
            names = [info.name.removeprefix(f"{name}.") for info in infos if not name or info.name.startswith(f"{name}.")]
            what = "a module inside of this one" if role == "residual" else f"a parameter of this layer{did_you_mean(glob, names)}"
            problems.add(f"{definition.path}.roles.{role}", f"{glob!r} is not {what}")
    chooser = Chooser(spec.init.rules, draft.definitions, problems)
    choices = chooser.choose(infos, pretrained=pretrained)
    acting: dict[int, Acting] = {}
    if (
        uses_auto_gain(choices)
        or needs_acting(choices)
        or spec.init.fans == "effective"
        and any(wants_shape(choice.info, choice.call) for choice in choices)
    ):
        acting = look_for_acting(draft, spec)
    assignments = assign(resolve_auto(choices, acting), acting, spec.init.fans, problems, shares)
    frozen = choose_frozen(infos, spec.freeze, draft.definitions, problems)
    if spec.backbone is not None and not spec.backbone.allow_random:
        _check_random(assignments, frozen, problems)

    def place() -> Mapping[int, str]:
        places = place_parameters(draft.module, infos, spec.grouping, thaws=_thaws(infos, frozen))
        return {id(info.parameter): place.group for info, place in zip(infos, places, strict=True)}

    return Account(infos, assignments, frozen, place, chooser.beside)


def _thaws(infos: Sequence[ParamInfo], frozen: Mapping[int, int | None]) -> dict[str, int]:
    return {info.name: epoch for info in infos if (epoch := frozen.get(id(info.parameter))) is not None}


def _check_random(assignments: Sequence[Assignment], frozen: Collection[int], problems: Problems) -> None:
    """Adds a problem for frozen parameters of the backbone that come from no file."""
    drawn = [
        item.info.name
        for item in assignments
        if id(item.info.parameter) in frozen and not item.call.pretrained and item.info.name.startswith(f"{BACKBONE}.")
    ]
    if drawn:
        problems.add(
            f"{BACKBONE}.allow_random",
            f"{len(drawn)} parameters of the backbone are frozen and were never trained ({some_names(drawn, 3)}); "
            f"give {BACKBONE}.weights, leave them out of freeze, or say true if it is meant",
        )


def look_for_acting(draft: Draft, spec: ModelSpec) -> dict[int, Acting]:
    """By `id` of each parameter, what acts on the input of its layer, and how large that input is."""
    shapes = {**({"": spec.incoming.shape} if spec.incoming is not None else {}), **draft.incoming}
    return find_acting(draft.module, shapes, spec.incoming.dtype if spec.incoming is not None else torch.float32)


def wants_shape(info: ParamInfo, call: Any) -> bool:
    return call.scheme is not None and call.scheme.uses_fans and needs_shape(info)


def ledger_rows(plans: Account, spec: ModelSpec, stats: Sequence[tuple[float, float]] | None) -> Iterable[Row]:
    groups = plans.place()
    for index, item in enumerate(plans.assignments):
        key = id(item.info.parameter)
        frozen = key in plans.frozen or not item.info.parameter.requires_grad
        group = "" if frozen and plans.frozen.get(key) is None else groups[key]
        yield ledger_row(item, stats[index] if stats is not None else (math.nan, math.nan), group, not frozen)


def ledger_row(item: Assignment, numbers: tuple[float, float], group: str, trainable: bool) -> Row:
    info, call = item.info, item.call
    return Row(
        name=" = ".join(info.names),
        shape="x".join(map(str, info.parameter.shape)) or "scalar",
        numel=info.parameter.numel(),
        dtype=str(info.parameter.dtype).removeprefix("torch."),
        module=type(info.module).__name__,
        role=" ".join(info.roles),
        origin="pretrained" if call.pretrained else "default" if call.is_default else "rule",
        rule=item.choice.rule,
        scheme=call.name,
        fan_in=item.fans.fan_in if item.fans is not None else None,
        fan_out=item.fans.fan_out if item.fans is not None else None,
        gain=item.gain,
        expected_mean=item.expected[0],
        expected_std=item.expected[1],
        mean=numbers[0],
        std=numbers[1],
        trainable=trainable,
        group=group,
    )


def plan_warnings(assignments: Sequence[Assignment], rules: Sequence[Rule]) -> Iterable[Advice]:
    """What rules probably do not mean: a scheme that nobody should take, and rules that set nothing."""
    yield from overridden(rules, [item.choice for item in assignments])
    thumb = [item for item in assignments if item.call.name == "rule_of_thumb"]
    if thumb:
        path = thumb[0].choice.path
        yield Advice(
            f"{path}: rule_of_thumb has variance 1/(3 n_in^2), which shrinks the signal by about sqrt(3 n_in) a layer "
            f"({len(thumb)} parameters here); the usual rule is fan_in_uniform",
            f"{path}.scheme=fan_in_uniform" if ".rules." in path else f"{path}=fan_in_uniform",
        )
    fixup = [item for item in assignments if item.call.name == "fixup"]
    norms = [item.info.module_name for item in assignments if "norm" in item.info.roles]
    if fixup and norms:
        count = len(set(norms))
        yield Advice(
            f"{fixup[0].choice.path}: fixup is for nets without norm layers, and there {'is' if count == 1 else 'are'} {count} "
            f"({norms[0]}{', ...' if count > 1 else ''})",
            "init=zero_residual",
        )


def frozen_untrained(plans: Account, spec: ModelSpec) -> Iterable[Advice]:
    """Weights that are frozen at what was drawn; of a backbone that is an error unless it is allowed."""
    drawn = [
        item.info.name
        for item in plans.assignments
        if plans.frozen.get(id(item.info.parameter), 0) is None and not item.call.pretrained and "weight" in item.info.roles
    ]
    if drawn and (spec.backbone is None or not spec.backbone.allow_random):
        yield Advice(
            f"freeze: {some_names(drawn, 3)} {'is' if len(drawn) == 1 else 'are'} frozen at values that nothing ever trained; "
            "if that is not meant, leave them out of freeze, thaw them with until: {epoch: N}, or load a backbone's weights"
        )
