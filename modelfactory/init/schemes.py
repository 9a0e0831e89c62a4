"""The catalogue: every scheme by name, with its function, the moments it promises, and what is known of it."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from modelfactory.activation import critical
from modelfactory.errors import Problems, SchemeError, did_you_mean
from modelfactory.init import elementwise, structured
from modelfactory.init.elementwise import fan_of, kaiming_gain, truncated_moments
from modelfactory.init.fans import Fans, torch_fans
from modelfactory.spec import check_value, join

_NOT_ARGUMENTS = ("tensor", "fans", "generator")
_RANGES: dict[str, dict[str, Any]] = {
    "std": {"min": 0},
    "scale": {"above": 0},
    "sparsity": {"min": 0, "max": 1},
    "groups": {"min": 1},
    "upscale_factor": {"min": 1},
    "q": {"above": 0},
    "sigma_b": {"min": 0},
}


@dataclass(frozen=True)
class Scheme:
    """A row of the catalogue.

    Attributes:
        name: as torch.nn.init has it, where torch has it.
        fill: fills a tensor in place, and takes `fans` and `generator` where it uses them.
        moments: (shape, fans, **arguments) -> mean and std of an entry; NaN without a closed form.
        formula, source, when: for people.
        min_dims: fewest dimensions it can fill.
        elementwise: entries are drawn independently and alike.
    """

    name: str
    fill: Callable[..., Any]
    moments: Callable[..., tuple[float, float]]
    formula: str
    source: str
    when: str
    min_dims: int = 1
    elementwise: bool = True

    @cached_property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.fill).parameters

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Argument names with their defaults; `inspect.Parameter.empty` where one must be given."""
        return {name: parameter.default for name, parameter in self._parameters.items() if name not in _NOT_ARGUMENTS}

    @cached_property
    def hints(self) -> dict[str, Any]:
        """The types of the arguments."""
        return typing.get_type_hints(self.fill)

    @cached_property
    def uses_fans(self) -> bool:
        return "fans" in self._parameters

    @cached_property
    def uses_gain(self) -> bool:
        return "gain" in self._parameters

    @cached_property
    def draws(self) -> bool:
        return "generator" in self._parameters


def check_scheme_arguments(name: str, args: Mapping[str, Any], path: str, problems: Problems) -> bool:
    """Whether these arguments (the gain aside) suit the scheme; what is wrong is added to `problems`.

    Example:
        >>> problems = Problems()
        >>> check_scheme_arguments("normal", {"stdd": 0.1}, "init.rules.a", problems)
        False
        >>> print(*problems)
        init.rules.a.stdd: not an argument of normal; did you mean 'std'?
    """
    scheme, found = SCHEMES[name], len(problems)
    for key, value in args.items():
        if key not in scheme.arguments or key == "gain":
            hint = did_you_mean(str(key), scheme.arguments) if scheme.arguments else "; it takes none"
            problems.add(join(path, key), f"not an argument of {name}{hint}")
        else:
            check_value(value, scheme.hints[key], join(path, key), problems, _RANGES.get(key, {}))
    for key, default in scheme.arguments.items():
        if default is inspect.Parameter.empty and key not in args:
            problems.add(join(path, key), f"missing; {name} needs it")
    if len(problems) == found and "nonlinearity" in scheme.arguments:
        try:
            kaiming_gain(args.get("a", 0.0), args.get("nonlinearity", "leaky_relu"))
        except SchemeError as error:
            problems.add(join(path, "nonlinearity"), str(error))
    return len(problems) == found


def _fans(shape: tuple[int, ...], fans: Fans | None) -> Fans:
    return fans if fans is not None else torch_fans(shape)


def _uniform(shape, fans, a=0.0, b=1.0):
    return (a + b) / 2, (b - a) / math.sqrt(12)


def _normal(shape, fans, mean=0.0, std=1.0):
    return mean, std


def _trunc_normal(shape, fans, mean=0.0, std=1.0, a=-2.0, b=2.0):
    if a >= b:
        raise SchemeError(f"a = {a:g} is not below b = {b:g}")
    return truncated_moments(mean, std, a, b) if std > 0 else (mean, 0.0)


def _xavier(shape, fans, gain=1.0):
    fans = _fans(shape, fans)
    return 0.0, gain * math.sqrt(2 / (fans.fan_in + fans.fan_out))


def _kaiming(shape, fans, a=0.0, mode="fan_in", nonlinearity="leaky_relu", gain=None):
    gain = kaiming_gain(a, nonlinearity) if gain is None else gain
    return 0.0, gain / math.sqrt(fan_of(_fans(shape, fans), mode))


def _lecun(shape, fans, gain=1.0):
    return 0.0, gain / math.sqrt(_fans(shape, fans).fan_in)


def _variance_scaling(shape, fans, scale=1.0, mode="fan_in", distribution="truncated_normal", gain=1.0):
    return 0.0, gain * math.sqrt(scale / fan_of(_fans(shape, fans), mode))


def _critical(shape, fans, activation="tanh", q=1.0, sigma_b=None, gain=None):
    sigma = gain if gain is not None else math.sqrt(critical(activation, q, sigma_b)[0])
    return 0.0, sigma / math.sqrt(_fans(shape, fans).fan_in)


def _eye(shape, fans):
    if len(shape) != 2:
        raise SchemeError(f"eye fills matrices, not a tensor of shape {shape}; for convolutions use dirac")
    return _of_ones(min(shape), math.prod(shape))


def _dirac(shape, fans, groups=1):
    if len(shape) not in (3, 4, 5):
        raise SchemeError(f"dirac fills convolution kernels, not a tensor of shape {shape}; for matrices use eye")
    if shape[0] % groups:
        raise SchemeError(f"{shape[0]} outputs do not divide into {groups} groups")
    return _of_ones(groups * min(shape[0] // groups, shape[1]), math.prod(shape))


def _of_ones(ones: int, of: int) -> tuple[float, float]:
    mean = ones / of
    return mean, math.sqrt(mean - mean * mean)


def _orthogonal(shape, fans, gain=1.0):
    rows, columns = shape[0], math.prod(shape[1:])
    return 0.0, gain / math.sqrt(max(rows, columns))


def _delta_orthogonal(shape, fans, gain=1.0):
    structured.check_delta(shape)
    return 0.0, gain / math.sqrt(shape[0] * math.prod(shape[2:]))


def _sparse(shape, fans, sparsity=0.0, std=0.01):
    if len(shape) != 2:
        raise SchemeError(f"sparse fills matrices, not a tensor of shape {shape}")
    return 0.0, std * math.sqrt(1 - math.ceil(sparsity * shape[0]) / shape[0])


def _icnr(shape, fans, upscale_factor=2, gain=None):
    structured.check_icnr(shape, upscale_factor)
    return _kaiming(shape, fans, nonlinearity="relu", gain=gain)


def _constant(shape, fans, val=0.0):
    return float(val), 0.0


_GLOROT, _HE = "Glorot and Bengio 2010", "He et al. 2015"
_ROWS = (
    Scheme("uniform", elementwise.uniform_, _uniform, "U(a, b)", "torch.nn.init", "a range is known"),
    Scheme("normal", elementwise.normal_, _normal, "N(mean, std^2)", "torch.nn.init", "a std is known, as 0.02 in transformers"),
    Scheme(
        "trunc_normal",
        elementwise.trunc_normal_,
        _trunc_normal,
        "N(mean, std^2) within [a, b], absolute",
        "torch.nn.init",
        "no outliers",
    ),
    Scheme("constant", elementwise.constant_, _constant, "val", "torch.nn.init", "biases, gates, scales"),
    Scheme("ones", elementwise.ones_, lambda shape, fans: (1.0, 0.0), "1", "torch.nn.init", "scales"),
    Scheme("zeros", elementwise.zeros_, lambda shape, fans: (0.0, 0.0), "0", "torch.nn.init", "biases, heads, ends of branches"),
    Scheme("eye", structured.eye_, _eye, "identity", "torch.nn.init", "a layer that starts as nothing", 2, False),
    Scheme(
        "dirac",
        structured.dirac_,
        _dirac,
        "identity at the centre tap",
        "torch.nn.init",
        "a convolution that starts as nothing",
        3,
        False,
    ),
    Scheme(
        "xavier_uniform", elementwise.xavier_uniform_, _xavier, "U, 2 g^2 / (fan_in + fan_out)", _GLOROT, "tanh and linear", 2
    ),
    Scheme("xavier_normal", elementwise.xavier_normal_, _xavier, "N, 2 g^2 / (fan_in + fan_out)", _GLOROT, "tanh and linear", 2),
    Scheme("kaiming_uniform", elementwise.kaiming_uniform_, _kaiming, "U, g^2 / fan", _HE, "ReLU and its kin", 2),
    Scheme("kaiming_normal", elementwise.kaiming_normal_, _kaiming, "N, g^2 / fan", _HE, "ReLU and its kin", 2),
    Scheme(
        "orthogonal",
        structured.orthogonal_,
        _orthogonal,
        "g Q, Q Haar",
        "Saxe et al. 2014",
        "deep nets, recurrent weights",
        2,
        False,
    ),
    Scheme(
        "sparse",
        structured.sparse_,
        _sparse,
        "N(0, std^2) with zeros in each column",
        "Martens 2010",
        "few inputs a unit",
        2,
        False,
    ),
    Scheme("lecun_normal", elementwise.lecun_normal_, _lecun, "N, g^2 / fan_in", "LeCun et al. 1998", "SELU and linear", 2),
    Scheme("lecun_uniform", elementwise.lecun_uniform_, _lecun, "U, g^2 / fan_in", "LeCun et al. 1998", "SELU and linear", 2),
    Scheme(
        "variance_scaling",
        elementwise.variance_scaling_,
        _variance_scaling,
        "g^2 scale / fan",
        "TensorFlow, Keras, JAX",
        "porting",
        2,
    ),
    Scheme(
        "rule_of_thumb",
        elementwise.rule_of_thumb_,
        lambda shape, fans: (0.0, 1 / (math.sqrt(3) * _fans(shape, fans).fan_in)),
        "U(-1/fan_in, 1/fan_in)",
        "the article this project grew from",
        "never: fan_in_uniform is meant",
        2,
    ),
    Scheme(
        "fan_in_uniform",
        elementwise.fan_in_uniform_,
        lambda shape, fans: (0.0, 1 / math.sqrt(3 * _fans(shape, fans).fan_in)),
        "U(-1/sqrt(fan_in), 1/sqrt(fan_in))",
        "LeCun 1998; torch's default",
        "shallow nets; torch's numbers",
        2,
    ),
    Scheme(
        "critical",
        structured.critical_,
        _critical,
        "N, 1 / (E f'^2 fan_in)",
        "Poole 2016; Schoenholz 2017",
        "deep smooth nets",
        2,
    ),
    Scheme(
        "delta_orthogonal",
        structured.delta_orthogonal_,
        _delta_orthogonal,
        "g Q at the centre tap",
        "Xiao et al. 2018",
        "deep conv nets",
        3,
        False,
    ),
    Scheme("icnr", structured.icnr_, _icnr, "one kernel, r^2 times", "Aitken et al. 2017", "before PixelShuffle", 3, False),
)

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in _ROWS}
"""Every scheme by its name in a config."""
