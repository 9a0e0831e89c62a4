"""What `init=NAME` stands for: the rules that make an initialisation of a whole model of one scheme, or of several.

conf/init/NAME.yaml says the same, whole, for people to copy and change.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from modelfactory.init.schemes.table import SCHEMES

_AUTHOR = {"author": {"match": "*", "scheme": "default", "optional": True}}
_BIASES = {"biases": {"role": "bias", "scheme": "zeros", "optional": True}}
_CONVOLUTIONS = ["Conv1d", "Conv2d", "Conv3d"]
_TRANSPOSED = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]
_KAIMING = {"scheme": "kaiming_normal", "mode": "fan_in", "nonlinearity": "relu"}
# What init=NAME gives a scheme beyond its own defaults.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("xavier_uniform", "xavier_normal", "orthogonal"), {"gain": "auto"}),
    **dict.fromkeys(("kaiming_uniform", "kaiming_normal"), {"mode": "fan_in", "nonlinearity": "relu"}),
    "normal": {"mean": 0.0, "std": 0.02},
    "trunc_normal": {"mean": 0.0, "std": 0.02, "a": -0.04, "b": 0.04},
    "uniform": {"a": 0.0, "b": 1.0},
    "constant": {"val": 0.01},
    "sparse": {"sparsity": 0.1, "std": 0.01},
    "variance_scaling": {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal"},
    "siren": {"w0": 30.0},
}


def _rules(weights: Mapping[str, Any], **others: Mapping[str, Any]) -> dict[str, Any]:
    """The author's init for what no rule is for, biases 0, all weights by one scheme, then what is particular."""
    return {**_AUTHOR, **_BIASES, "weights": {"role": "weight", **weights}, **others}


def _only(kinds: Any, weights: Mapping[str, Any], name: str, others: Mapping[str, Any]) -> dict[str, Any]:
    """One scheme for modules of these classes, another for the others'; either may be absent."""
    return {
        **_AUTHOR,
        **_BIASES,
        name: {**others, "optional": True},
        "weights": {"module": kinds, "role": "weight", **weights, "optional": True},
    }


_SPECIAL: dict[str, dict[str, Any]] = {
    "auto": {
        **_AUTHOR,
        "biases": {"role": "bias", "scheme": "auto", "optional": True},
        "embeddings": {"role": "embedding", "module": ["Embedding", "EmbeddingBag"], "scheme": "auto", "optional": True},
        "norms": {"role": "norm", "scheme": "default", "optional": True},
        "weights": {"role": "weight", "scheme": "auto", "optional": True},
    },
    "default": {"author": {"match": "*", "scheme": "default", "optional": True}},
    "eye": {
        **_AUTHOR,
        **_BIASES,
        "weights": {"module": "Linear", "role": "weight", "scheme": "eye", "optional": True},
        "convolutions": {"module": _CONVOLUTIONS, "role": "weight", "scheme": "dirac", "optional": True},
    },
    "dirac": _only(_CONVOLUTIONS, {"scheme": "dirac"}, "matrices", {"module": "Linear", "role": "weight", "scheme": "eye"}),
    "delta_orthogonal": _only(
        _CONVOLUTIONS,
        {"scheme": "delta_orthogonal", "gain": "auto"},
        "matrices",
        {"role": "weight", "scheme": "orthogonal", "gain": "auto"},
    ),
    "icnr": _rules(_KAIMING, upsample={"match": "*upsample*.weight", "scheme": "icnr", "upscale_factor": 2, "optional": True}),
    "bilinear": _rules(_KAIMING, upsample={"module": _TRANSPOSED, "role": "weight", "scheme": "bilinear"}),
    "critical": {
        **_AUTHOR,
        "biases": {"role": "bias", "scheme": "critical_bias", "activation": "tanh", "q": 1.0, "optional": True},
        "norms": {"role": "norm", "scheme": "default", "optional": True},
        "weights": {"role": "weight", "scheme": "critical", "activation": "tanh", "q": 1.0},
    },
    "zero_residual": _rules(_KAIMING, ends={"role": "residual_end", "scheme": "zeros"}),
    "fixup": _rules(
        _KAIMING,
        branches={"role": "residual", "scheme": "fixup"},
        ends={"role": "residual_out", "scheme": "zeros"},
        head={"role": "head", "scheme": "zeros"},
    ),
    "gpt2": _rules(
        {"scheme": "normal", "mean": 0.0, "std": 0.02},
        embeddings={"role": "embedding", "scheme": "normal", "mean": 0.0, "std": 0.02, "optional": True},
        outputs={"role": "residual_out", "scheme": "gpt2", "std": 0.02},
    ),
    "t_fixup": _rules(
        {"scheme": "xavier_uniform"},
        embeddings={"role": "embedding", "scheme": "t_fixup_embedding", "optional": True},
        branches={"role": "residual", "scheme": "t_fixup"},
        attention={"role": ["query", "key"], "scheme": "xavier_uniform"},
    ),
    "deepnorm": _rules(
        {"scheme": "xavier_normal"},
        branches={"role": "residual", "scheme": "deepnorm"},
        attention={"role": ["query", "key"], "scheme": "xavier_normal"},
    ),
    "mup": _rules({"scheme": "lecun_normal", "gain": "auto"}, head={"role": "head", "scheme": "mup", "base_width": 64}),
    "lstm": _rules(
        {"scheme": "xavier_uniform"},
        recurrent={"role": "recurrent", "scheme": "orthogonal", "optional": True},
        forget={"module": ["LSTM", "LSTMCell"], "role": "gate", "scheme": "forget_bias", "val": 1.0},
    ),
    "chrono": _rules(
        {"scheme": "xavier_uniform"},
        recurrent={"role": "recurrent", "scheme": "orthogonal", "optional": True},
        gates={"module": ["LSTM", "LSTMCell"], "role": "gate", "scheme": "chrono", "max_steps": 100},
    ),
    "tied_embedding": _rules({"scheme": "xavier_normal"}, embeddings={"role": ["tied", "embedding"], "scheme": "tied_embedding"}),
    "zero_head": _rules(_KAIMING, head={"role": "head", "scheme": "zeros"}),
    "small_head": _rules(_KAIMING, head={"role": "head", "scheme": "lecun_normal", "gain": 0.01}),
    "prior_bias": _rules(
        _KAIMING,
        head={"role": "head", "scheme": "zeros"},
        prior={"role": "head", "scheme": "prior_bias", "priors": "auto"},
    ),
    "lsuv": _rules({"scheme": "orthogonal"}),
    "data_dependent": _rules({"scheme": "lecun_normal"}),
}
_CALIBRATED = ("lsuv", "data_dependent")
# Parts of the recipes above, of no use for the weights of a whole model.
_PARTS = ("t_fixup_embedding", "critical_bias", "forget_bias")


def recipe(name: str) -> dict[str, Any] | None:
    """The `init` group that a name stands for, None where there is none of that name.

    Example:
        >>> recipe("zero_head")["rules"]["head"]
        {'role': 'head', 'scheme': 'zeros'}
    """
    if name not in RECIPES:
        return None
    rules = _SPECIAL.get(name) or _rules({"scheme": name, **_ARGUMENTS.get(name, {})})
    return {"rules": rules, "calibrate": name if name in _CALIBRATED else None}


RECIPES: Mapping[str, None] = MappingProxyType(
    dict.fromkeys(name for name in ("default", *SCHEMES, *_SPECIAL) if name not in _PARTS)
)
"""Every `init=NAME`."""
