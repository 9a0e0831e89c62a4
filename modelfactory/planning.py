"""The one place that knows the order: module, init, freeze; and what comes of it for every parameter.

`make_plan` reads a config and constructs its model on the meta device, where nothing is allocated; `Plan.build` does the
same with memory, draws every value once, freezes, and leaves the ledger.
"""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from modelfactory.errors import ConfigError, Problems, did_you_mean
from modelfactory.freezing import FreezeSpec, apply_frozen, choose_frozen, read_freeze
from modelfactory.init.acting import Acting, find_acting
from modelfactory.init.apply import Assignment, assign, fill, needs_shape, reset_of
from modelfactory.init.rules import Chooser, InitSpec, read_init, read_rules, uses_auto_gain
from modelfactory.layers.sizes import check_input_shape
from modelfactory.ledger import Ledger, Row
from modelfactory.model import Draft, assemble, read_activation, read_model
from modelfactory.model.blueprint import Leaf, Node
from modelfactory.model.infer import BROKEN, UNKNOWN, Incoming, Inference
from modelfactory.select import ParamInfo, Selector, describe
from modelfactory.signal import find_symmetric
from modelfactory.spec import check_value

GROUPS = ("seed", "data", "activation", "model", "init", "freeze", "optimizer", "scheduler", "trainer", "experiment")
_DTYPES = {"float32": torch.float32, "int64": torch.int64}


@dataclass(frozen=True)
class Spec:
    """What a config says about a model: read and checked, nothing constructed.

    Attributes:
        incoming: an example input on the meta device, batch first, None without data.input_shape.
        groups: the optimizer's groups, by name.
    """

    node: Node
    init: InitSpec
    freeze: FreezeSpec
    groups: Mapping[str, Selector]
    incoming: torch.Tensor | None
    seed: int


def read_spec(config: Mapping[str, Any], problems: Problems) -> Spec | None:
    """The parts of a config that decide a model, or None after adding all that is wrong to `problems`.

    Example:
        >>> problems = Problems()
        >>> read_spec({"modle": {}}, problems)
        >>> print(*problems, sep="\\n")
        modle: not a key of the config; did you mean 'model'?
        model: missing; give layers, or _target_
    """
    found = len(problems)
    for name in config:
        if name not in GROUPS:
            problems.add(str(name), f"not a key of the config{did_you_mean(str(name), GROUPS)}")
    seed = check_value(config.get("seed", 0), int, "seed", problems, {"min": 0})
    if isinstance(seed, int) and seed >= 2**63:
        problems.add("seed", f"{seed} is too large; give a whole number below 2^63")
    incoming = _example_input(config.get("data"), problems)
    if "model" not in config:
        problems.add("model", "missing; give layers, or _target_")
    node = _read_model(config, incoming, problems) if "model" in config else None
    init = read_init(config.get("init"), "init", problems)
    freeze = read_freeze(config.get("freeze"), "freeze", problems)
    groups = _read_groups(config.get("optimizer") or {}, problems)
    if node is None or init is None or freeze is None or len(problems) > found:
        return None
    return Spec(node, init, freeze, groups, incoming if isinstance(incoming, torch.Tensor) else None, seed)


def _read_model(config: Mapping[str, Any], incoming: Incoming, problems: Problems) -> Node | None:
    """The model's blueprint; what is wrong with the activation is told once, and not at every layer that takes it over."""
    shared, own = Problems(), Problems()
    in_grammar = isinstance(config["model"], Mapping) and "layers" in config["model"]
    if in_grammar and "activation" in config and config["activation"] is None:
        shared.add("activation", "null would take out every layer that is ${activation}; give {_target_: torch.nn.Identity} for none")
    elif config.get("activation") is not None:
        read_activation(config["activation"], shared)
    node = read_model(config["model"], incoming, own)
    told = {problem.message for problem in shared}
    problems.extend(shared)
    problems.extend(problem for problem in own if problem.message not in told)
    return node


def _example_input(data: Any, problems: Problems) -> Incoming:
    """An input on the meta device, batch first, as far as the config tells it."""
    if not isinstance(data, Mapping) or data.get("input_shape") is None:
        return UNKNOWN
    found = len(problems)
    shape = check_input_shape(data["input_shape"], "data.input_shape", problems)
    dtype = check_value(data.get("input_dtype", "float32"), str, "data.input_dtype", problems, {"choices": tuple(_DTYPES)})
    if shape is None or len(problems) > found:
        return BROKEN
    return torch.empty((2, *shape), device="meta", dtype=_DTYPES[dtype])


def _read_groups(optimizer: Any, problems: Problems) -> dict[str, Selector]:
    """The selectors of the optimizer's groups; what is wrong with them is for the optimizer to say."""
    groups = optimizer.get("groups") if isinstance(optimizer, Mapping) else None
    quiet = Problems()
    named = groups.items() if isinstance(groups, Mapping) else ()
    read = {str(name): Selector.read(group, "", quiet) for name, group in named if isinstance(group, Mapping)}
    return {name: selector for name, selector in read.items() if selector is not None}


@dataclass(frozen=True)
class Account:
    """Every parameter of one draft with what is to be done to it."""

    infos: Sequence[ParamInfo]
    assignments: Sequence[Assignment]
    frozen: set[int]


def account(draft: Draft, spec: Spec, problems: Problems) -> Account:
    """Decides scheme, fans, gain and freezing for each parameter of a draft."""
    infos = describe(draft.module)
    choices = Chooser(spec.init.rules, draft.definitions, problems).choose(infos)
    acting: dict[int, Acting] = {}
    if (
        uses_auto_gain(choices)
        or spec.init.fans == "effective"
        and any(_wants_shape(choice.info, choice.call) for choice in choices)
    ):
        shapes = {**({"": spec.incoming.shape} if spec.incoming is not None else {}), **draft.incoming}
        acting = find_acting(draft.module, shapes, spec.incoming.dtype if spec.incoming is not None else torch.float32)
    assignments = assign(choices, acting, spec.init.fans, problems)
    frozen = choose_frozen(infos, spec.freeze, draft.definitions, problems)
    return Account(infos, assignments, frozen)


def _wants_shape(info: ParamInfo, call: Any) -> bool:
    return call.scheme is not None and call.scheme.uses_fans and needs_shape(info)


class Plan:
    """What a config would build, parameter by parameter; `build` builds it.

    Attributes:
        ledger: after `build`, one row a parameter as drawn; before, the same rows without mean and std.
        warnings: what will probably not train, and why.
    """

    def __init__(self, spec: Spec):
        self._spec = spec
        self._ledger: Ledger | None = None
        self.warnings: tuple[str, ...] = ()

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
            Inference(problems).forward(draft.module, "model", self._spec.incoming)
        plans = account(draft, self._spec, problems)
        problems.raise_if_any()
        self._ledger = Ledger(_rows(plans, self._spec, None))
        self.warnings = tuple(_scheme_warnings(plans.assignments))
        apply_frozen(draft.module, plans.frozen)
        return draft.module

    def build(self, device: str | torch.device | None = None, *, accounted: bool = True) -> nn.Module:
        """Constructs the model, draws every value once, freezes; returns a plain nn.Module in training mode.

        Args:
            device: where it goes; None leaves it on the CPU. The values are the same on every device.
            accounted: False leaves the ledger as it was, and saves the time of measuring every parameter.

        Raises:
            ConfigError: a rule that picks nothing, a parameter that no rule picks, a scheme that cannot fill a shape.
        """
        problems = Problems()
        with _without_collection():
            draft = assemble(self._spec.node, self._spec.seed)
            plans = account(draft, self._spec, problems)
            problems.raise_if_any()
            stats = fill(plans.assignments, self._spec.seed, draft.recordings, fresh=True, measured=accounted)
            apply_frozen(draft.module, plans.frozen)
        if accounted:
            self._ledger = Ledger(_rows(plans, self._spec, stats))
            self.warnings = (*_scheme_warnings(plans.assignments), *find_symmetric(plans.infos, [spread for _, spread in stats]))
        return draft.module if device is None else draft.module.to(device)

    def __str__(self) -> str:
        rows = self.ledger.rows
        trainable = sum(row.numel for row in rows if row.trainable)
        total = sum(row.numel for row in rows)
        lines = [
            str(self.ledger),
            "",
            f"{total:,} parameters in {len(rows)} tensors, {trainable:,} trainable, {total * 4 / 2**20:,.1f} MiB in float32",
        ]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


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


def make_plan(config: Mapping[str, Any], look: bool = True) -> Plan:
    """The plan of a resolved, plain config; with `look` every parameter is accounted for at once, on the meta device.

    Raises:
        ConfigError: everything that is wrong, each with its config path.
    """
    problems = Problems()
    spec = read_spec(config, problems)
    if spec is None:
        raise ConfigError(problems)
    plan = Plan(spec)
    if look:
        plan.look()
    return plan


def initialize(
    model: nn.Module, rules: Any, seed: int = 0, example: torch.Tensor | None = None, fans: str = "effective"
) -> Ledger:
    """Initialises a part of an existing model, in place; every other parameter stays as it is.

    Args:
        rules: one rule, `{"match": "fc2.*", "scheme": "xavier_normal"}`; several by name, `{"head": {...}, ...}`; a list of
            rules; or the name of a scheme for all weights, with biases at 0.
        seed: with each parameter's name decides its values.
        example: an input, for `gain: auto` and the fans of padded convolutions in modules with a forward of their own.
        fans: "effective" for the operator's, "torch" for torch's own.

    Returns:
        A ledger with one row for each parameter that was set.

    Raises:
        ConfigError: a rule that is wrong, picks nothing, or cannot fill what it picks. The model is then as it was.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> ledger = initialize(model, {"match": "2.weight", "scheme": "xavier_normal", "gain": "auto"}, seed=0)
        >>> [(row.name, row.scheme, round(row.gain, 4)) for row in ledger]
        [('2.weight', 'xavier_normal', 1.4142)]
    """
    problems = Problems()
    if isinstance(rules, str):
        spec = read_init(rules, "init", problems)
        read = tuple(rule for rule in spec.rules if not rule.call.is_default) if spec is not None else ()
    else:
        read = read_rules(_as_named(rules), "rules", problems)
    fans = check_value(fans, str, "fans", problems, {"choices": ("effective", "torch")})
    problems.raise_if_any()
    infos = describe(model)
    choices = Chooser(read, {}, problems).choose(infos, whole=False)
    shapes = {} if example is None else {"": example.shape}
    looks = uses_auto_gain(choices) or any(_wants_shape(choice.info, choice.call) for choice in choices)
    acting = find_acting(model, shapes, torch.float32 if example is None else example.dtype) if looks else {}
    assignments = assign(choices, acting, fans, problems)
    for choice in choices:
        if choice.call.is_default and reset_of(choice.info.module) is None:
            problems.add(
                choice.path,
                f"default: {type(choice.info.module).__name__}, which owns {choice.info.name}, has no reset_parameters; give a scheme",
            )
    problems.raise_if_any()
    for warning in _scheme_warnings(assignments):
        warnings.warn(warning, UserWarning, stacklevel=2)
    stats = fill(assignments, seed, {}, fresh=False)
    return Ledger(
        _row(item, numbers, "", item.info.parameter.requires_grad) for item, numbers in zip(assignments, stats, strict=True)
    )


def _as_named(rules: Any) -> Any:
    if isinstance(rules, Mapping) and "scheme" in rules:
        return {"rule": rules}
    if isinstance(rules, Mapping) and set(rules) == {"rules"}:
        return rules["rules"]
    if isinstance(rules, (list, tuple)):
        return {str(index): rule for index, rule in enumerate(rules)}
    return rules


def _rows(plans: Account, spec: Spec, stats: Sequence[tuple[float, float]] | None) -> Iterable[Row]:
    for index, item in enumerate(plans.assignments):
        frozen = id(item.info.parameter) in plans.frozen or not item.info.parameter.requires_grad
        group = next((name for name, selector in reversed(list(spec.groups.items())) if selector.picks(item.info)), "default")
        yield _row(item, stats[index] if stats is not None else (math.nan, math.nan), "" if frozen else group, not frozen)


def _row(item: Assignment, numbers: tuple[float, float], group: str, trainable: bool) -> Row:
    info, call = item.info, item.call
    return Row(
        name=" = ".join(info.names),
        shape="x".join(map(str, info.parameter.shape)) or "scalar",
        numel=info.parameter.numel(),
        dtype=str(info.parameter.dtype).removeprefix("torch."),
        module=type(info.module).__name__,
        role=" ".join(info.roles),
        origin="default" if call.is_default else "rule",
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


def _scheme_warnings(assignments: Sequence[Assignment]) -> Iterable[str]:
    thumb = [item for item in assignments if item.call.name == "rule_of_thumb"]
    if thumb:
        yield (
            f"{thumb[0].choice.path}: rule_of_thumb has variance 1/(3 n_in^2), which shrinks the signal by about sqrt(3 n_in) a layer "
            f"({len(thumb)} parameters here); the usual rule is fan_in_uniform"
        )
