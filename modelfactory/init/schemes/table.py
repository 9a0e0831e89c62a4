"""The table of schemes: every `init=NAME`, its in-place function, its exact moments, its documentation."""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor

from modelfactory.config.errors import Problems, SchemeError, did_you_mean
from modelfactory.config.schema import check_value, join
from modelfactory.init.schemes import (
    critical,
    depth_scaled,
    elementwise,
    embedding_head,
    gates,
    language_models,
    patterns,
    structured,
    variance,
)
from modelfactory.numerics import activation as activations

REQUIRED = inspect.Parameter.empty
"""The default, in `arguments`, of an argument that has none."""

_GIVEN_BY_CALLER = frozenset({"tensor", "fans", "generator"})
LIMITS: dict[str, dict[str, float]] = {
    "std": {"min": 0},
    "gain": {"min": 0},
    "scale": {"min": 0},
    "sparsity": {"min": 0, "max": 1},
    "groups": {"min": 1},
    "upscale_factor": {"min": 1},
    "q": {"above": 0},
    "sigma_b": {"min": 0},
    "branches": {"min": 1},
    "base_branches": {"above": 0},
    "undivided": {"above": 0},
    "branch_layers": {"min": 1},
    "depth": {"above": 0},
    "layer": {"min": 0},
    "cut": {"above": 0},
    "other_depth": {"min": 0},
    "width": {"min": 1},
    "base_width": {"above": 0},
    "w0": {"above": 0},
    "max_steps": {"min": 3},
}
STRUCTURAL = (
    *("branches", "branch_layers", "undivided", "depth", "other_depth", "decoder", "layer", "width"),
    *("first", "second", "priors", "groups"),
)
"""Arguments that a rule may leave out (or give as `auto`): the model's own structure, or its data, says them."""


@dataclass(frozen=True)
class Scheme:
    """One row of the table.

    Attributes:
        name: torch.nn.init's where torch has it, without the underscore.
        fill: `fill(tensor, **arguments, fans=, generator=)`, in place; `fans` only if `uses_fans`, `generator` only if `random`.
        moments: `moments(shape, fans, **arguments)`: mean and standard deviation of an entry. NaN where float64 cannot
            tell. Raises SchemeError for what `fill` would refuse, so it is also the check before anything is drawn.
        min_dims, max_dims: the fewest and the most dimensions it fills.
        uses_fans: whether it takes `fans`.
        uses_gain: whether it has a gain, so that a config may say `gain: auto`.
        elementwise: whether entries are independent and alike, so that their order does not matter.
        random: whether it draws, and takes a `generator`.
        structural: its arguments that the structure of the model, or the data, can say.
        summary, formula, source, when: for documentation, from the docstring of `fill`.
    """

    name: str
    fill: Callable[..., Tensor]
    moments: Callable[..., tuple[float, float]]
    min_dims: int
    max_dims: float
    uses_fans: bool
    uses_gain: bool
    elementwise: bool
    random: bool
    structural: tuple[str, ...]
    summary: str
    formula: str
    source: str
    when: str


def arguments(scheme: str) -> dict[str, Any]:
    """The arguments of a scheme that a config may give, with their defaults (`REQUIRED` where there is none).

    Raises:
        SchemeError: there is no such scheme.

    Example:
        >>> arguments("kaiming_normal")
        {'a': 0, 'mode': 'fan_in', 'nonlinearity': 'leaky_relu', 'gain': None}
    """
    return dict(_arguments(_find(scheme).fill))


def check_scheme_arguments(name: str, args: Mapping[str, Any], path: str, problems: Problems) -> bool:
    """Whether a config's arguments suit a scheme; what does not goes to `problems`.

    `gain: auto` suits every scheme that uses a gain. The tensor's shape is not looked at: `Scheme.moments` does that.

    Args:
        name: of a scheme; an unknown one is a problem at `path`.scheme.
        args: without `scheme` and without the selector.
        path: the config path of the rule.
        problems: where problems go.

    Example:
        >>> problems = Problems()
        >>> check_scheme_arguments("normal", {"sdt": 1.0, "mean": "x"}, "init.rules.w", problems)
        False
        >>> print(*problems, sep="\\n")
        init.rules.w.sdt: not an argument of normal; did you mean 'std'?
        init.rules.w.mean: 'x' is a text; give a number
    """
    found = len(problems)
    try:
        scheme = _find(name)
    except SchemeError as error:
        problems.add(join(path, "scheme"), str(error))
        return False
    defaults, hints = _arguments(scheme.fill), typing.get_type_hints(scheme.fill)
    for argument, value in args.items():
        if argument not in defaults:
            problems.add(join(path, argument), f"not an argument of {name}{did_you_mean(str(argument), defaults)}")
        elif value == "auto" and (argument == "gain" or argument in scheme.structural):
            continue
        elif argument in ("activation", "nonlinearity"):
            _check_activation(value, argument, join(path, argument), problems)
        else:
            check_value(value, hints[argument], join(path, argument), problems, LIMITS.get(argument, {}))
    for argument, default in defaults.items():
        if default is REQUIRED and argument not in args and argument not in scheme.structural:
            problems.add(join(path, argument), f"missing; {name} needs it")
    if len(problems) == found:
        _check_together(name, {**defaults, **args}, path, problems)
    return len(problems) == found


def _check_activation(value: Any, argument: str, path: str, problems: Problems) -> None:
    if argument == "nonlinearity" and not isinstance(value, str):
        check_value(value, str, path, problems)
    elif not (argument == "nonlinearity" and value in variance.LINEAR):
        try:
            activations.gain(value)
        except SchemeError as error:
            problems.add(path, str(error))


def _check_together(name: str, args: Mapping[str, Any], path: str, problems: Problems) -> None:
    """What only several arguments together can break: bounds in the wrong order, no critical point."""
    try:
        if name == "uniform":
            elementwise.uniform_moments((), None, **args)
        elif name == "trunc_normal":
            elementwise.trunc_normal_moments((), None, **args)
        elif name in ("critical", "critical_bias"):
            activations.critical(**args)
        elif name == "prior_bias" and args["priors"] != "auto":
            embedding_head.prior_bias_moments((1 if args["priors"] is None else len(args["priors"]),), None, **args)
    except SchemeError as error:
        problems.add(path, str(error))


def _find(name: str) -> Scheme:
    if name not in SCHEMES:
        raise SchemeError(f"{name!r} is not a scheme{did_you_mean(str(name), SCHEMES)}")
    return SCHEMES[name]


@cache
def _arguments(fill: Callable[..., Tensor]) -> dict[str, Any]:
    parameters = inspect.signature(fill).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name not in _GIVEN_BY_CALLER}


def _section(docstring: str, name: str) -> str:
    found = re.search(rf"^{name}: (.+?)(?:\n\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def _scheme(
    fill: Callable[..., Tensor],
    moments: Callable[..., tuple[float, float]],
    min_dims: int,
    elementwise: bool,
    max_dims: float = math.inf,
) -> Scheme:
    parameters = inspect.signature(fill).parameters
    docstring = inspect.getdoc(fill) or ""
    return Scheme(
        name=fill.__name__.rstrip("_"),
        fill=fill,
        moments=moments,
        min_dims=min_dims,
        max_dims=max_dims,
        uses_fans="fans" in parameters,
        uses_gain="gain" in parameters,
        elementwise=elementwise,
        random="generator" in parameters,
        structural=tuple(name for name in STRUCTURAL if name in parameters),
        summary=docstring.split("\n\n")[0].replace("\n", " "),
        formula=_section(docstring, "Formula"),
        source=_section(docstring, "Source"),
        when=_section(docstring, "Use"),
    )


def _plain(fill: Callable[..., Tensor], moments: Callable[..., tuple[float, float]]) -> Scheme:
    return _scheme(fill, moments, min_dims=0, elementwise=True)


def _variance(fill: Callable[..., Tensor], std: Callable[..., float]) -> Scheme:
    def moments(shape: Any, fans: Any, **args: Any) -> tuple[float, float]:
        return 0.0, std(shape, fans, **args)

    return _scheme(fill, moments, min_dims=2, elementwise=True)


def _constant(fill: Callable[..., Tensor], value: float) -> Scheme:
    def moments(shape: Any, fans: Any) -> tuple[float, float]:
        return elementwise.constant_moments(shape, fans, value)

    return _plain(fill, moments)


_TABLE = (
    _plain(elementwise.uniform_, elementwise.uniform_moments),
    _plain(elementwise.normal_, elementwise.normal_moments),
    _plain(elementwise.trunc_normal_, elementwise.trunc_normal_moments),
    _plain(elementwise.constant_, elementwise.constant_moments),
    _constant(elementwise.ones_, 1.0),
    _constant(elementwise.zeros_, 0.0),
    _scheme(structured.eye_, structured.eye_moments, min_dims=2, elementwise=False),
    _scheme(structured.dirac_, structured.dirac_moments, min_dims=3, elementwise=False),
    _variance(variance.xavier_uniform_, variance.xavier_std),
    _variance(variance.xavier_normal_, variance.xavier_std),
    _variance(variance.kaiming_uniform_, variance.kaiming_std),
    _variance(variance.kaiming_normal_, variance.kaiming_std),
    _scheme(structured.orthogonal_, structured.orthogonal_moments, min_dims=2, elementwise=False),
    _scheme(structured.sparse_, structured.sparse_moments, min_dims=2, elementwise=False),
    _variance(variance.lecun_normal_, variance.lecun_std),
    _variance(variance.lecun_uniform_, variance.lecun_std),
    _variance(variance.variance_scaling_, variance.variance_scaling_std),
    _variance(variance.rule_of_thumb_, variance.rule_of_thumb_std),
    _variance(variance.fan_in_uniform_, variance.fan_in_uniform_std),
    _variance(critical.critical_, critical.critical_std),
    _scheme(structured.delta_orthogonal_, structured.delta_orthogonal_moments, min_dims=3, elementwise=False),
    _scheme(structured.icnr_, structured.icnr_moments, min_dims=4, elementwise=False),
    _scheme(patterns.bilinear_, patterns.bilinear_moments, min_dims=3, elementwise=False),
    _scheme(patterns.zero_hadamard_, patterns.zero_hadamard_moments, min_dims=2, elementwise=False),
    _variance(depth_scaled.gpt2_, depth_scaled.gpt2_std),
    _variance(depth_scaled.fixup_, depth_scaled.fixup_std),
    _variance(depth_scaled.t_fixup_, depth_scaled.t_fixup_std),
    _variance(depth_scaled.t_fixup_embedding_, depth_scaled.t_fixup_embedding_std),
    _variance(depth_scaled.deepnorm_, depth_scaled.deepnorm_std),
    _variance(depth_scaled.small_init_, depth_scaled.small_init_std),
    _scheme(depth_scaled.completep_, depth_scaled.completep_moments, min_dims=1, elementwise=True),
    _variance(language_models.depth_trunc_normal_, language_models.depth_trunc_normal_std),
    _variance(language_models.fan_in_trunc_normal_, language_models.fan_in_trunc_normal_std),
    _variance(language_models.spectral_, language_models.spectral_std),
    _variance(embedding_head.mup_, embedding_head.mup_std),
    _variance(embedding_head.siren_, embedding_head.siren_std),
    _variance(embedding_head.tied_embedding_, embedding_head.tied_embedding_std),
    _scheme(embedding_head.centred_normal_, embedding_head.centred_normal_moments, min_dims=2, elementwise=False),
    _scheme(embedding_head.prior_bias_, embedding_head.prior_bias_moments, min_dims=1, max_dims=1, elementwise=False),
    _scheme(gates.forget_bias_, gates.forget_bias_moments, min_dims=1, max_dims=1, elementwise=False),
    _scheme(gates.chrono_, gates.chrono_moments, min_dims=1, max_dims=1, elementwise=False),
    _scheme(critical.critical_bias_, critical.critical_bias_moments, min_dims=1, max_dims=1, elementwise=True),
)

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in _TABLE}
"""Every scheme by its name; torch.nn.init's come first."""
