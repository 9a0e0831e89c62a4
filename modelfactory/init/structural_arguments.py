"""What only the structure of a model, or its data, can tell a scheme: how many branches there are, which layer is the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from modelfactory.config.errors import SchemeError
from modelfactory.parameters.info import ParamInfo
from modelfactory.parameters.residual import Branch
from modelfactory.parameters.roles import MISSING
from modelfactory.tracing.contraction import convolution_arguments
from modelfactory.tracing.operators import CONVOLUTIONS, TRANSPOSED

Shares = Callable[[], Sequence[float] | None]
"""Gives how large a share of the data each class has; None while that is not known."""


def unknown_shares() -> None:
    """Of data that is not there yet."""


@dataclass(frozen=True)
class DataStatistics:
    """What an initialisation may ask of the data; nothing is loaded before it is asked.

    Attributes:
        shares: how large a share of the training data each class has.
        batch: the first training batch's inputs [N, ...].
    """

    shares: Shares
    batch: Callable[[], Any]


def structural_value(name: str, scheme: str, info: ParamInfo, shares: Shares = unknown_shares) -> Any:
    """The value of an argument of a scheme that a rule leaves to the model.

    Args:
        name: one of `schemes.STRUCTURAL`.
        scheme: for messages.
        info: the parameter that is filled.
        shares: gives the classes' shares in the data.

    Raises:
        SchemeError: the model has not the structure that the scheme is for.

    Example:
        >>> from modelfactory.parameters.roles import describe
        >>> block = nn.TransformerEncoderLayer(8, 2)
        >>> structural_value("branches", "gpt2", describe(block)[-1])
        Traceback (most recent call last):
        modelfactory.config.errors.SchemeError: branches: auto: it is in no residual branch; give branches, ...
        >>> structural_value("branches", "gpt2", describe(block)[2])
        2
    """
    if name == "first":
        return "stem" in info.roles
    if name == "second":
        return _is_second_bias(info, scheme)
    if name == "groups":
        return _groups(info)
    if name == "priors":
        return None if shares is unknown_shares else shares()
    if name == "depth" and info.branch is None and "embedding" in info.roles:
        return _depth_behind_embeddings(_any_branch(info, name))
    if name == "width":
        return _width(_any_branch(info, name))
    branch = _own_branch(info, name)
    return {
        "branches": len(branch.all),
        "branch_layers": branch.layers,
        "undivided": branch.undivided,
        "depth": branch.depth,
        "other_depth": branch.other_depth,
        "decoder": branch.in_decoder,
        "layer": branch.layer,
    }[name]


def _groups(info: ParamInfo) -> int:
    """Those of the convolution that the weight is of; 1 of anything else."""
    traced = info.facts.fans[:1]
    if traced and (traced[0].node.op in CONVOLUTIONS or traced[0].node.op in TRANSPOSED):
        return int(convolution_arguments(traced[0].node)["groups"])
    own = isinstance(info.module, nn.modules.conv._ConvNd) and info.attr == "weight"
    return info.module.groups if own else 1  # pyright: ignore[reportReturnType]


def _own_branch(info: ParamInfo, name: str) -> Branch:
    if info.branch is None:
        lacking = MISSING["residual"] if not info.model.branches else "pick residual layers by role: residual or residual_out"
        raise SchemeError(f"{name}: auto: it is in no residual branch; give {name}, or: {lacking}")
    return info.branch


def _any_branch(info: ParamInfo, name: str) -> Branch:
    if info.branch is not None:
        return info.branch
    if not info.model.branches:
        raise SchemeError(f"{name}: auto: {MISSING['residual']}; or give {name}")
    return info.model.branches[0]


def _depth_behind_embeddings(branch: Branch) -> float:
    """Layers of the decoder, or of the encoder where there is no decoder."""
    return branch.depth if branch.in_decoder or not branch.other_depth else branch.other_depth


def _width(branch: Branch) -> int:
    """Of the residual stream: what the last layer of a branch writes."""
    return branch.width


def _is_second_bias(info: ParamInfo, scheme: str) -> bool:
    if not isinstance(info.module, (nn.LSTM, nn.LSTMCell)):
        kind = type(info.module).__name__
        raise SchemeError(f"{scheme} is for the biases of an LSTM, which has a gate to forget by; {kind} has none")
    return info.attr.startswith("bias_hh")
