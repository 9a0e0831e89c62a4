"""The one place that knows the order: module, pretrained, init, freeze; and what comes of it for every parameter.

`make_plan` reads a config. A `Plan` is a value: what it says of the model it reads off one that is constructed on the meta device,
where nothing is allocated. `Plan.materialize` makes the model with memory (`materialize.py`) and leaves the plan as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from modelfactory.config.advice import Advice
from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.init.input_activation import acting_on
from modelfactory.init.ledger import Ledger
from modelfactory.init.rule_warnings import plan_warnings
from modelfactory.init.rules import InitSpec
from modelfactory.init.structural_arguments import DataStatistics
from modelfactory.model.blueprint import Draft, Leaf, assemble
from modelfactory.model.infer import Inference
from modelfactory.model.modes import kept_modes
from modelfactory.model.samples import check_samples
from modelfactory.parameters.freezing import apply_frozen
from modelfactory.planning.account import Account, account, frozen_untrained, ledger_rows
from modelfactory.planning.materialize import Built, account_for, draw, listed_buffers
from modelfactory.planning.overview.as_json import record
from modelfactory.planning.overview.compare import Difference, compare
from modelfactory.planning.overview.explain import Explanations, explain
from modelfactory.planning.overview.overview import Overview, survey
from modelfactory.planning.overview.signal import Prediction, mended, predicted
from modelfactory.planning.pretrained import Pretrained, find_pretrained
from modelfactory.planning.spec import ModelSpec, read_spec


@dataclass(frozen=True)
class _Look:
    """What a model on the meta device tells of each parameter."""

    draft: Draft
    account: Account
    ledger: Ledger
    pretrained: Pretrained | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """What a config would build, parameter by parameter: a value, which neither a look at it nor a build changes.

    Nothing is allocated by what it tells. `build` makes the model, `materialize` the model with an account of what was drawn.

    Example:
        >>> import modelfactory as mf
        >>> plan = mf.plan(mf.compose("model.width=8"))
        >>> built = plan.materialize()
        >>> plan.ledger["fc2.weight"].std, round(built.ledger["fc2.weight"].std, 1)
        (nan, 0.5)
    """

    _spec: ModelSpec
    _evidence: DataStatistics | None = None

    @cached_property
    def _look(self) -> _Look:
        """Accounts for every parameter of the model on the meta device, where nothing is allocated.

        Raises:
            ConfigError: what only the model itself tells to be wrong.
        """
        spec, problems = self._spec, Problems()
        with torch.device("meta"):
            draft = assemble(spec.node, spec.seed)
        if isinstance(spec.node, Leaf) and spec.incoming is not None:
            with kept_modes(draft.module):
                Inference(problems).forward(draft.module, "model", spec.incoming)
        mixing = self._mixing(problems)
        pretrained = find_pretrained(draft.module, spec.backbone, problems, fetch=False)
        problems.raise_if_any()
        plans = account(draft, spec, problems, _schemes(pretrained))
        problems.raise_if_any()
        buffers = listed_buffers(draft.module, plans, pretrained, measured=False)
        ledger = Ledger((*ledger_rows(plans, spec, None), *buffers))
        apply_frozen(draft.module, plans.frozen, spec.freeze.dropout)
        closed = None if pretrained is None else pretrained.closed()
        return _Look(draft, plans, ledger, closed, (*mixing, *_advice(plans, spec)))

    @cached_property
    def _mixed(self) -> tuple[tuple[Advice, ...], tuple[Problem, ...]]:
        """What mixes the samples of a batch: what to say of it, and what of it is wrong."""
        wrong = Problems()
        advice = tuple(one for node, coming in self._spec.parts for one in check_samples(node, coming, wrong))
        return advice, tuple(wrong)

    def _mixing(self, problems: Problems) -> tuple[Advice, ...]:
        """What to say of what mixes samples, where all is right until here; adds what is wrong."""
        if problems:
            return ()
        advice, wrong = self._mixed
        problems.extend(wrong)
        return advice

    @property
    def ledger(self) -> Ledger:
        """One row a parameter with the values expected of it; `mean` and `std` are empty, since nothing is drawn."""
        return self._look.ledger

    @property
    def warnings(self) -> tuple[str, ...]:
        """What will probably not train, and why."""
        return self._look.warnings

    @property
    def pretrained(self) -> Pretrained | None:
        """What of the model comes from a file of weights; None where there is none."""
        return self._look.pretrained

    @property
    def thaws(self) -> Mapping[str, int]:
        """Names of parameters that are frozen at first, with the epoch that thaws each."""
        return self._look.account.thaws

    @property
    def meta(self) -> nn.Module:
        """The model on the meta device: its structure, shapes and what is frozen, without values; not a copy."""
        return self._look.draft.module

    def never_thawed(self, max_epochs: int) -> Iterator[str]:
        """What to say of each freeze rule whose `until` comes after the last epoch."""
        for rule in self._spec.freeze.rules:
            if rule.until is not None and rule.until > max_epochs:
                yield f"{rule.path}.until.epoch: {rule.until} is after the last epoch, {max_epochs}, so what it picks stays frozen"

    @cached_property
    def overview(self) -> Overview:
        """Layers, totals, rules and warnings, as `print(plan)` shows them."""
        spec, look = self._spec, self._look
        notes = [] if look.pretrained is None else [str(look.pretrained)]
        if spec.init.calibrate is not None:
            notes.append(f"{spec.init.calibrate.method} scales the weights on the data's first batch; this is how they are before it")
        model, rows = look.draft.module, look.ledger.rows
        signal = predicted(model, rows, spec.incoming)
        warnings = (*look.warnings, *mended(signal, spec.init, self._predict_with))
        return survey(model, rows, spec.init.rules, spec.incoming, spec.optimizer, notes, signal, warnings)

    def _predict_with(self, init: InitSpec) -> Prediction:
        """The signal that is predicted of the same model under another init group."""
        look, problems = self._look, Problems()
        spec = replace(self._spec, init=init)
        plans = account(look.draft, spec, problems, _schemes(look.pretrained))
        if problems:
            return Prediction(fatal=True, reason="this init does not suit the model")
        return predicted(look.draft.module, list(ledger_rows(plans, spec, None)), spec.incoming)

    def explain(self, name: str) -> Explanations:
        """Why a parameter gets the values it gets, or every one that a glob picks; `print` it.

        Every rule in order and by which part of its selector it picked, the scheme with its arguments, how the fans follow
        from the operator, what decided the gain, the keyed generator, and what freezes it.

        Raises:
            ConfigError: no parameter has this name; the nearest is told.

        Example:
            >>> import modelfactory as mf
            >>> plan = mf.plan(mf.compose("model.width=8", "init=xavier_normal", "init.rules.weights.gain=auto"))
            >>> print(plan.explain("fc2.weight")[0].gain)
            1.4142 (auto): 1/sqrt(E f(z)^2) for z ~ N(0, 1), f being act1 (ReLU), which acts on this layer's input
        """
        draft, plans, spec = self._look.draft, self._look.account, self._spec
        rows = [row for row in self.ledger.rows if row.role != "buffer"]
        acting = acting_on(plans.infos)
        items = [replace(item, acting=item.acting or acting.get(id(item.info.parameter))) for item in plans.assignments]
        return explain(name, items, rows, spec.init, draft.definitions, plans.chooser.beside, spec.freeze, spec.seed)

    def materialize(self, device: str | torch.device | None = None, *, evidence: DataStatistics | None = None) -> Built:
        """Constructs the model, draws every value once, freezes; the model with an account of what was drawn.

        Args:
            device: where the model goes; None leaves it on the CPU. The values are the same on every device.
            evidence: the data, for what the config leaves to them; None takes the plan's own.

        Raises:
            ConfigError: a rule that picks nothing, a parameter that no rule picks, a scheme that cannot fill a shape, weights
                that cannot be had or do not fit, or are not finite.
        """
        problems = Problems()
        mixing = self._mixing(problems)
        problems.raise_if_any()
        drawn = draw(self._spec, evidence or self._evidence, measured=True)
        return account_for(drawn, self._spec, (*mixing, *_advice(drawn.account, self._spec)), device)

    def build(self, device: str | torch.device | None = None) -> nn.Module:
        """Constructs the model, draws every value once, freezes; returns a plain nn.Module in training mode.

        It saves the time of measuring every parameter, which `materialize` does.

        Args:
            device: where it goes; None leaves it on the CPU. The values are the same on every device.

        Raises:
            ConfigError: as of `materialize`.
        """
        problems = Problems()
        self._mixing(problems)
        problems.raise_if_any()
        model = draw(self._spec, self._evidence, measured=False).draft.module
        return model if device is None else model.to(device)

    def against(self, other: Plan) -> Difference:
        """What tells `other` from this plan: layers, sizes, FLOPs, schemes, gains, standard deviations, groups.

        Example:
            >>> import modelfactory as mf
            >>> one, two = (mf.plan(mf.compose(f"model.width={width}")) for width in (8, 16))
            >>> print(one.against(two).totals[0])
            PlanChange(name='', what='parameters', before='682', after='1,482')
        """
        return compare(self.overview, other.overview)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, as `modelfactory plan --json` gives it."""
        return record(self.overview)

    def __str__(self) -> str:
        return str(self.overview)

    def __repr__(self) -> str:
        rows = [row for row in self.ledger.rows if row.role != "buffer"]
        return f"Plan of {len(rows)} parameters, {sum(row.numel for row in rows):,} numbers; print it for the table"

    def _repr_html_(self) -> str:
        """Give what a notebook shows."""
        return self.overview._repr_html_()


def _schemes(pretrained: Pretrained | None) -> Mapping[str, str]:
    return {} if pretrained is None else pretrained.schemes


def _advice(plans: Account, spec: ModelSpec) -> Iterable[Advice]:
    yield from plan_warnings(plans.assignments, spec.init.rules, plans.chooser)
    yield from frozen_untrained(plans, spec)


def make_plan(config: Mapping[str, Any]) -> Plan:
    """The plan of a resolved, plain config.

    Raises:
        ConfigError: everything that is wrong, each with its config path.
    """
    problems = Problems()
    spec = read_spec(config, problems)
    if spec is None:
        raise ConfigError(problems)
    return Plan(spec)
