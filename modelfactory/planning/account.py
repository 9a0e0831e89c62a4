"""Decides what is to be done to every parameter of a model, and says it in the ledger's rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from modelfactory.config.advice import Advice
from modelfactory.config.errors import Problems, did_you_mean, some_names
from modelfactory.init.assign import Assignment, assign, wants_shape
from modelfactory.init.auto import needs_acting, resolve_auto
from modelfactory.init.calibrate import Calibration
from modelfactory.init.choose import Chooser, uses_auto_gain
from modelfactory.init.input_activation import InputActivation, acting_on
from modelfactory.init.ledger import LedgerRow, ledger_row
from modelfactory.init.scheme_call import FromFile
from modelfactory.init.structural_arguments import Shares, unknown_shares
from modelfactory.model.backbone_front import BACKBONE
from modelfactory.model.blueprint import Draft
from modelfactory.parameters.freezing import choose_frozen
from modelfactory.parameters.groups import place_parameters
from modelfactory.parameters.info import ParamInfo
from modelfactory.parameters.roles import describe, unused_roles
from modelfactory.planning.spec import ModelSpec


@dataclass(frozen=True)
class Account:
    """Every parameter of one draft with what is to be done to it.

    Attributes:
        frozen: the `id` of each frozen parameter, with the epoch that thaws it, None: never.
        place: tells the optimizer group of each parameter, by its `id`.
        chooser: what chose the rules: it has those beside layers, and what they leave to the model's author.
    """

    infos: Sequence[ParamInfo]
    assignments: Sequence[Assignment]
    frozen: Mapping[int, int | None]
    place: Callable[[], Mapping[int, str]]
    chooser: Chooser

    @property
    def thaws(self) -> dict[str, int]:
        """The names of parameters that are frozen at first, with the epoch that thaws each."""
        return _thaws(self.infos, self.frozen)

    def calibrated(self, calibration: Calibration) -> Account:
        """With what a calibration did to the parameters that it changed: the method, the factor in the gain, no expectation."""
        factors = calibration.factors
        items = [
            item.calibrated(calibration.method, factors[item.info.name]) if item.info.name in factors else item
            for item in self.assignments
        ]
        return replace(self, assignments=items)


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
    infos = describe(draft.module, spec.incoming, draft.written)
    for name, definition in draft.definitions.items():
        for role, glob in unused_roles(infos, name, definition.roles).items():
            names = [info.name.removeprefix(f"{name}.") for info in infos if not name or info.name.startswith(f"{name}.")]
            what = "a module inside of this one" if role == "residual" else f"a parameter of this layer{did_you_mean(glob, names)}"
            problems.add(f"{definition.path}.roles.{role}", f"{glob!r} is not {what}")
    chooser = Chooser(spec.init.rules, draft.definitions, problems)
    choices = chooser.choose(infos, pretrained=pretrained)
    acting: dict[int, InputActivation] = {}
    if (
        uses_auto_gain(choices)
        or needs_acting(choices)
        or spec.init.fans == "effective"
        and any(wants_shape(choice.info, choice.call) for choice in choices)
    ):
        acting = acting_on(infos)
    assignments = assign(resolve_auto(choices, acting), acting, spec.init.fans, problems, shares)
    frozen = choose_frozen(infos, spec.freeze, draft.definitions, problems)
    if spec.backbone is not None and not spec.backbone.allow_random:
        _check_random(assignments, frozen, problems)

    def place() -> Mapping[int, str]:
        places = place_parameters(draft.module, infos, spec.grouping, thaws=_thaws(infos, frozen))
        return {id(info.parameter): place.group for info, place in zip(infos, places, strict=True)}

    return Account(infos, assignments, frozen, place, chooser)


def _thaws(infos: Sequence[ParamInfo], frozen: Mapping[int, int | None]) -> dict[str, int]:
    return {info.name: epoch for info in infos if (epoch := frozen.get(id(info.parameter))) is not None}


def _check_random(assignments: Sequence[Assignment], frozen: Collection[int], problems: Problems) -> None:
    """Adds a problem for frozen parameters of the backbone that come from no file."""
    drawn = [
        item.info.name
        for item in assignments
        if id(item.info.parameter) in frozen and not isinstance(item.call, FromFile) and item.info.name.startswith(f"{BACKBONE}.")
    ]
    if drawn:
        problems.add(
            f"{BACKBONE}.allow_random",
            f"{len(drawn)} parameters of the backbone are frozen and were never trained ({some_names(drawn, 3)}); "
            f"give {BACKBONE}.weights, leave them out of freeze, or say true if it is meant",
        )


def ledger_rows(plans: Account, spec: ModelSpec, stats: Sequence[tuple[float, float]] | None) -> Iterable[LedgerRow]:
    groups = plans.place()
    for index, item in enumerate(plans.assignments):
        key = id(item.info.parameter)
        frozen = key in plans.frozen or not item.info.parameter.requires_grad
        group = "" if frozen and plans.frozen.get(key) is None else groups[key]
        yield ledger_row(item, stats[index] if stats is not None else (math.nan, math.nan), group, not frozen)






def frozen_untrained(plans: Account, spec: ModelSpec) -> Iterable[Advice]:
    """Weights that are frozen at what was drawn; of a backbone that is an error unless it is allowed."""
    drawn = [
        item.info.name
        for item in plans.assignments
        if plans.frozen.get(id(item.info.parameter), 0) is None and not isinstance(item.call, FromFile) and "weight" in item.info.roles
    ]
    if drawn and (spec.backbone is None or not spec.backbone.allow_random):
        yield Advice(
            f"freeze: {some_names(drawn, 3)} {'is' if len(drawn) == 1 else 'are'} frozen at values that nothing ever trained; "
            "if that is not meant, leave them out of freeze, thaw them with until: {epoch: N}, or load a backbone's weights"
        )
