"""The one place that knows the order: module, pretrained, init, freeze; and what comes of it for every parameter.

`make_plan` reads a config and constructs its model on the meta device, where nothing is allocated; `Plan.build` does the
same with memory, draws every value once, freezes, and leaves the ledger.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from modelfactory.config.advice import Advice
from modelfactory.config.errors import ConfigError, Problem, Problems, SchemeError
from modelfactory.init.calibrate import Calibration, calibrate
from modelfactory.init.fill import fill, measure
from modelfactory.init.input_activation import acting_on
from modelfactory.init.ledger import Ledger, Row
from modelfactory.init.rule_warnings import plan_warnings
from modelfactory.init.rules import InitSpec
from modelfactory.init.structural_arguments import Evidence
from modelfactory.model.blueprint import Draft, Leaf, assemble
from modelfactory.model.infer import Inference
from modelfactory.model.samples import check_samples
from modelfactory.numerics.fingerprint import digest
from modelfactory.parameters.freezing import apply_frozen, thaw
from modelfactory.planning.account import Account, account, frozen_untrained, ledger_rows
from modelfactory.planning.overview.as_json import record
from modelfactory.planning.overview.compare import Difference, compare
from modelfactory.planning.overview.explain import Explanations, explain
from modelfactory.planning.overview.overview import Overview, survey
from modelfactory.planning.overview.signal import Prediction, mended, predicted
from modelfactory.planning.pretrained import Pretrained, buffer_rows, check_finite, find_pretrained, load_pretrained, loaded_names
from modelfactory.planning.spec import ModelSpec, read_spec
from modelfactory.signal_propagation.symmetry import find_symmetric


class Plan:
    """What a config would build, parameter by parameter; `build` builds it.

    Attributes:
        ledger: after `build`, one row a parameter as drawn; before, the same rows without mean and std.
        warnings: what will probably not train, and why.
        thaws: names of parameters that are frozen at first, with the epoch that thaws each.
        pretrained: what of the model comes from a file of weights; None where there is none.
        calibration: what the calibration after the rules did, after `build`; None without one.
    """

    def __init__(self, spec: ModelSpec, evidence: Evidence | None = None):
        self._spec, self._evidence = spec, evidence
        self._ledger: Ledger | None = None
        self._overview: tuple[Ledger, Overview] | None = None
        self._looked_at: tuple[Draft, Account] | None = None
        self._mixing: tuple[Advice, ...] | None = None
        self.warnings: tuple[str, ...] = ()
        self.pretrained: Pretrained | None = None
        self.calibration: Calibration | None = None
        self.thaws: Mapping[str, int] = {}

    def never_thawed(self, max_epochs: int) -> Iterator[str]:
        """What to say of each freeze rule whose `until` comes after the last epoch."""
        for rule in self._spec.freeze.rules:
            if rule.until is not None and rule.until > max_epochs:
                yield f"{rule.path}.until.epoch: {rule.until} is after the last epoch, {max_epochs}, so what it picks stays frozen"

    def before_epoch(self, model: nn.Module, epoch: int) -> list[str]:
        """Thaws what is due in a model that was built by this plan; returns the names of what was frozen until now."""
        return thaw(model, self.thaws, epoch, self._spec.freeze.dropout)

    @property
    def ledger(self) -> Ledger:
        if self._ledger is None:
            self.look()
        return self._ledger  # pyright: ignore[reportReturnType]

    def look(self) -> nn.Module:
        """Accounts for every parameter of the model on the meta device, where nothing is allocated; returns it there."""
        problems = Problems()
        with torch.device("meta"):
            draft = assemble(self._spec.node, self._spec.seed)
        if isinstance(self._spec.node, Leaf) and self._spec.incoming is not None:
            modes = [(module, module.training) for module in draft.module.modules()]
            Inference(problems).forward(draft.module, "model", self._spec.incoming)
            for module, training in modes:
                module.training = training
        mixing = self._find_mixing(problems)
        pretrained = find_pretrained(draft.module, self._spec.backbone, problems, fetch=False)
        problems.raise_if_any()
        plans = account(draft, self._spec, problems, _schemes(pretrained))
        problems.raise_if_any()
        self._ledger = Ledger((*ledger_rows(plans, self._spec, None), *_buffers(draft.module, plans, pretrained, measured=False)))
        self.pretrained = None if pretrained is None else pretrained.closed()
        self.warnings = (*mixing, *self._advice(plans))
        self.thaws = plans.thaws
        apply_frozen(draft.module, plans.frozen, self._spec.freeze.dropout)
        self._looked_at = draft, plans
        return draft.module

    @property
    def overview(self) -> Overview:
        """Layers, totals, rules and warnings, as `print(plan)` shows them; after `build` with what was drawn."""
        ledger = self.ledger
        if self._overview is None or self._overview[0] is not ledger:
            draft, _ = self._look_once()
            spec = self._spec
            notes = [] if self.pretrained is None else [str(self.pretrained)]
            if spec.init.calibrate is not None:
                notes.append(f"{spec.init.calibrate.method} scales the weights on the data's first batch; this is how they are before it")
            signal = predicted(draft.module, ledger.rows, spec.incoming)
            warnings = (*self.warnings, *mended(signal, spec.init, self._predict_with))
            seen = survey(draft.module, ledger.rows, spec.init.rules, spec.incoming, spec.optimizer, notes, signal, warnings)
            self._overview = ledger, seen
        return self._overview[1]

    def _predict_with(self, init: InitSpec) -> Prediction:
        """The signal that is predicted of the same model under another init group."""
        draft, _ = self._look_once()
        spec, problems = replace(self._spec, init=init), Problems()
        plans = account(draft, spec, problems, _schemes(self.pretrained))
        if problems:
            return Prediction(fatal=True, reason="this init does not suit the model")
        return predicted(draft.module, list(ledger_rows(plans, spec, None)), spec.incoming)

    def _look_once(self) -> tuple[Draft, Account]:
        if self._looked_at is None:
            kept = self._ledger, self.warnings
            self.look()
            if kept[0] is not None:
                self._ledger, self.warnings = kept
        return self._looked_at  # pyright: ignore[reportReturnType]

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
        draft, account = self._look_once()
        spec = self._spec
        rows = [row for row in self.ledger.rows if row.role != "buffer"]
        acting = acting_on(account.infos)
        items = [replace(item, acting=item.acting or acting.get(id(item.info.parameter))) for item in account.assignments]
        return explain(name, items, rows, spec.init, draft.definitions, account.beside, spec.freeze, spec.seed)

    def build(
        self, device: str | torch.device | None = None, *, accounted: bool = True, evidence: Evidence | None = None
    ) -> nn.Module:
        """Constructs the model, draws every value once, freezes; returns a plain nn.Module in training mode.

        Args:
            device: where it goes; None leaves it on the CPU. The values are the same on every device.
            accounted: False leaves the ledger as it was, and saves the time of measuring every parameter.
            evidence: the data, for what the config leaves to them; None takes the plan's own.

        Raises:
            ConfigError: a rule that picks nothing, a parameter that no rule picks, a scheme that cannot fill a shape, weights
                that cannot be had or do not fit.
        """
        problems = Problems()
        evidence = evidence or self._evidence
        with _without_collection():
            mixing = self._find_mixing(problems)
            draft = assemble(self._spec.node, self._spec.seed)
            pretrained = find_pretrained(draft.module, self._spec.backbone, problems, fetch=True)
            problems.raise_if_any()
            shares = no_shares if evidence is None else evidence.shares
            plans = account(draft, self._spec, problems, _schemes(pretrained), shares)
            problems.raise_if_any()
            digests: dict[str, str] | None = {} if accounted else None
            seed, items, whole = self._spec.seed, plans.assignments, draft.module
            stats = fill(items, seed, draft.recordings, fresh=True, measured=accounted, digests=digests, model=whole)
            if pretrained is not None:  # after what is drawn: a layer's own init of one parameter may touch its others
                load_pretrained(pretrained, loaded_names(draft.module, pretrained, _drawn(plans)))
            self.thaws = plans.thaws
            apply_frozen(draft.module, plans.frozen, self._spec.freeze.dropout)
        self.calibration = self._calibrate(draft.module, plans, evidence)
        plans = plans if self.calibration is None else plans.calibrated(self.calibration)
        changed = set() if self.calibration is None else set(self.calibration.factors)
        if digests is not None:
            for index, item in enumerate(plans.assignments):
                if item.call.pretrained or item.info.name in changed:
                    stats[index] = measure(item.info.parameter)
                    digests[item.info.name] = digest(item.info.parameter)
            buffers = _buffers(draft.module, plans, pretrained, measured=True)
            self._ledger = Ledger((*ledger_rows(plans, self._spec, stats), *buffers), digests)
            check_finite(self._ledger, problems)
            problems.raise_if_any()
            self.pretrained = None if pretrained is None else pretrained.closed()
            symmetric = find_symmetric(plans.infos, [spread for _, spread in stats])
            self.warnings = (*mixing, *self._advice(plans), *symmetric)
        return draft.module if device is None else draft.module.to(device)

    def _find_mixing(self, problems: Problems) -> tuple[Advice, ...]:
        """What mixes the samples of a batch, looked for once."""
        if self._mixing is None and not problems:
            self._mixing = tuple(advice for node, coming in self._spec.parts for advice in check_samples(node, coming, problems))
        return self._mixing or ()

    def _advice(self, plans: Account) -> Iterable[Advice]:
        yield from plan_warnings(plans.assignments, self._spec.init.rules)
        yield from frozen_untrained(plans, self._spec)

    def against(self, other: Plan) -> Difference:
        """What tells `other` from this plan: layers, sizes, FLOPs, schemes, gains, standard deviations, groups.

        Example:
            >>> import modelfactory as mf
            >>> one, two = (mf.plan(mf.compose(f"model.width={width}")) for width in (8, 16))
            >>> print(one.against(two).totals[0])
            Change(name='', what='parameters', before='682', after='1,482')
        """
        return compare(self.overview, other.overview)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, as `modelfactory plan --json` gives it."""
        return record(self.overview)

    def _calibrate(self, model: nn.Module, plans: Account, evidence: Evidence | None) -> Calibration | None:
        """Scales what was drawn, and is not frozen, on the data's first batch."""
        spec = self._spec.init.calibrate
        if spec is None:
            return None
        where = "init.calibrate"
        if evidence is None:
            raise ConfigError([Problem(where, f"{spec.method!r} needs data, for a first batch; give data, or null")])
        try:
            return calibrate(
                model,
                evidence.batch(),
                spec.method,  # pyright: ignore[reportArgumentType]
                target=spec.target,
                tol=spec.tol,
                max_iterations=spec.max_iterations,
                only={item.info.name for item in plans.assignments if not item.call.pretrained},
            )
        except SchemeError as error:
            raise ConfigError([Problem(where, str(error))]) from error

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


def _drawn(plans: Account) -> set[str]:
    return {item.info.name for item in plans.assignments if not item.call.pretrained}


def _buffers(model: nn.Module, plans: Account, pretrained: Pretrained | None, *, measured: bool) -> Iterable[Row]:
    if pretrained is None:
        return ()
    return buffer_rows(model, pretrained, loaded_names(model, pretrained, _drawn(plans)), measured)


@contextmanager
def _without_collection() -> Iterator[None]:
    """No garbage collection meanwhile: thousands of new modules set off several, each over all of torch's objects."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def no_shares() -> None:
    """Where a model is built and there are no data to ask."""
    raise SchemeError("priors: auto: there are no data to count classes in; give data, or priors: [...] of the classes")


def make_plan(config: Mapping[str, Any], look: bool = True, evidence: Evidence | None = None) -> Plan:
    """The plan of a resolved, plain config; with `look` every parameter is accounted for at once, on the meta device.

    Raises:
        ConfigError: everything that is wrong, each with its config path.
    """
    problems = Problems()
    spec = read_spec(config, problems)
    if spec is None:
        raise ConfigError(problems)
    plan = Plan(spec, evidence)
    if look:
        plan.look()
    return plan
