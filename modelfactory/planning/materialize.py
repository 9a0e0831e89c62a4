"""A model with memory: constructed, filled, loaded, frozen and calibrated, and the account of what was drawn for it."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import nn

from modelfactory.config.errors import ConfigError, Problem, Problems, SchemeError
from modelfactory.init.calibrate import Calibration, calibrate
from modelfactory.init.copied import copy_values
from modelfactory.init.fill import fill, measure
from modelfactory.init.ledger import Ledger, LedgerRow
from modelfactory.init.scheme_call import Copy, FromFile
from modelfactory.init.structural_arguments import DataStatistics
from modelfactory.model.blueprint import Draft, assemble
from modelfactory.numerics.fingerprint import digest
from modelfactory.parameters.freezing import apply_frozen, thaw
from modelfactory.planning.account import Account, account, ledger_rows
from modelfactory.planning.pretrained import Pretrained, buffer_rows, find_pretrained, load_pretrained, loaded_names
from modelfactory.planning.spec import ModelSpec
from modelfactory.signal_propagation.symmetry import find_symmetric


@dataclass(frozen=True, eq=False)
class Built:
    """A model as a plan made it, and what was drawn for it.

    Attributes:
        model: a plain nn.Module in training mode.
        ledger: one row a parameter, with the mean and std of what was drawn, and a hash of it.
        calibration: what the calibration after the rules did; None without one.
        pretrained: what of the model comes from a file of weights; None where there is none.
        warnings: what will probably not train, and why: those of the plan, and what the values show.
        thaws: names of parameters that are frozen at first, with the epoch that thaws each.

    Example:
        >>> import modelfactory as mf
        >>> built = mf.plan(mf.compose("model.width=8", "init=xavier_normal")).materialize()
        >>> built.ledger["fc1.bias"].std, built.model.fc1.bias.std().item()
        (0.0, 0.0)
    """

    model: nn.Module
    ledger: Ledger
    calibration: Calibration | None
    pretrained: Pretrained | None
    warnings: tuple[str, ...]
    thaws: Mapping[str, int]
    dropout: bool

    def before_epoch(self, epoch: int) -> list[str]:
        """Thaws what is due in the model; returns the names of what was frozen until now."""
        return thaw(self.model, self.thaws, epoch, self.dropout)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A model whose values are drawn, not yet accounted for.

    Attributes:
        stats: mean and std of each parameter, where it was measured.
        digests: a hash of each parameter's values by its name; None where nothing was measured.
    """

    draft: Draft
    account: Account
    pretrained: Pretrained | None
    stats: list[tuple[float, float]]
    digests: dict[str, str] | None
    calibration: Calibration | None


def draw(spec: ModelSpec, evidence: DataStatistics | None, *, measured: bool) -> Drawn:
    """Constructs the model of a config, draws every value once, loads weights over it, freezes and calibrates it.

    Raises:
        ConfigError: what only the model itself tells to be wrong, weights that cannot be had or are not finite.
    """
    problems = Problems()
    with _without_collection():
        draft = assemble(spec.node, spec.seed)
        pretrained = find_pretrained(draft.module, spec.backbone, problems, fetch=True)
        problems.raise_if_any()
        shares = no_shares if evidence is None else evidence.shares
        plans = account(draft, spec, problems, {} if pretrained is None else pretrained.schemes, shares)
        problems.raise_if_any()
        digests: dict[str, str] | None = {} if measured else None
        items, whole = plans.assignments, draft.module
        stats = fill(items, spec.seed, draft.recordings, fresh=True, measured=measured, digests=digests, model=whole)
        if pretrained is not None:  # after what is drawn: a layer's own init of one parameter may touch its others
            load_pretrained(pretrained, loaded_names(whole, pretrained, _names_of_drawn(plans)), problems)
            problems.raise_if_any()
        apply_frozen(whole, plans.frozen, spec.freeze.dropout)
    calibration = _calibrate(whole, plans, spec, evidence)
    plans = plans if calibration is None else plans.calibrated(calibration)
    copy_values(plans.assignments)  # of what was loaded or scaled since
    return Drawn(draft, plans, pretrained, stats, digests, calibration)


def account_for(drawn: Drawn, spec: ModelSpec, warnings: tuple[str, ...], device: str | torch.device | None) -> Built:
    """The model on its device with the ledger of what was drawn."""
    plans, model, pretrained = drawn.account, drawn.draft.module, drawn.pretrained
    stats, digests = list(drawn.stats), dict(drawn.digests or {})
    changed = set() if drawn.calibration is None else set(drawn.calibration.factors)
    for index, item in enumerate(plans.assignments):
        if isinstance(item.call, (FromFile, Copy)) or item.info.name in changed:
            stats[index] = measure(item.info.parameter)
            digests[item.info.name] = digest(item.info.parameter)
    buffers = listed_buffers(model, plans, pretrained, measured=True)
    ledger = Ledger((*ledger_rows(plans, spec, stats), *buffers), digests)
    return Built(
        model=model if device is None else model.to(device),
        ledger=ledger,
        calibration=drawn.calibration,
        pretrained=None if pretrained is None else pretrained.closed(),
        warnings=(*warnings, *find_symmetric(plans.infos, [spread for _, spread in stats])),
        thaws=plans.thaws,
        dropout=spec.freeze.dropout,
    )


def _calibrate(model: nn.Module, plans: Account, spec: ModelSpec, evidence: DataStatistics | None) -> Calibration | None:
    """Scales what was drawn, and is not frozen, on the data's first batch."""
    asked, where = spec.init.calibrate, "init.calibrate"
    if asked is None:
        return None
    if evidence is None:
        raise ConfigError([Problem(where, f"{asked.method!r} needs data, for a first batch; give data, or null")])
    try:
        return calibrate(model, evidence.batch(), **asdict(asked), only=_names_of_drawn(plans))
    except SchemeError as error:
        raise ConfigError([Problem(where, str(error))]) from error


def listed_buffers(model: nn.Module, plans: Account, pretrained: Pretrained | None, *, measured: bool) -> Iterable[LedgerRow]:
    """The ledger's rows of buffers that come from a file of weights."""
    if pretrained is None:
        return ()
    return buffer_rows(model, pretrained, loaded_names(model, pretrained, _names_of_drawn(plans)), measured)


def _names_of_drawn(plans: Account) -> set[str]:
    return {item.info.name for item in plans.assignments if not isinstance(item.call, FromFile)}


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
