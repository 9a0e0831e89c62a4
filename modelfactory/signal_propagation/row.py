"""One row of the signal table: what is predicted and measured of a layer, and the verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_NAN = math.nan


@dataclass(frozen=True)
class Numbers:
    """What a layer's output is like; NaN where it is not known or does not apply.

    Attributes:
        forward: root mean square over inputs, units and places.
        gradient: root mean square of the gradient by it, of a loss whose gradient by the model's output is standard normal.
        mean: over inputs, units and places.
        cosine: between two different inputs' outputs, a mean over pairs.
        saturated: share of outputs where a bounded activation is flat, as tanh is beyond 0.97.
        dead: share of units that a rectifier turns off for every input of the batch.
        jacobian_mean, jacobian_variance: of the squared singular values of the Jacobian by the model's input, the variance relative to
            the squared mean; these and what follows only where a spectrum was asked for.
        token_cosine: between two tokens of one input.
        effective_rank: of the outputs of the batch, a matrix of a row an input: how many directions they take.
        attention_entropy: of the weights of attention, 1 where all tokens count alike and 0 where one does.
        update: what a first step of Adam at the rate 1e-3 changes of the output, relative to it.
        effect: what a change by a share of it does to the loss: the square of signal times gradient, summed over an input's units, a unit.
    """

    forward: float = _NAN
    gradient: float = _NAN
    mean: float = _NAN
    cosine: float = _NAN
    saturated: float = _NAN
    dead: float = _NAN
    jacobian_mean: float = _NAN
    jacobian_variance: float = _NAN
    token_cosine: float = _NAN
    effective_rank: float = _NAN
    attention_entropy: float = _NAN
    update: float = _NAN
    effect: float = _NAN


@dataclass(frozen=True)
class SignalRow:
    """One layer, in the order in which the model calls them.

    Attributes:
        node: its number in the graph.
        layer: the full name of the module; of a call in a forward, the module whose forward it is.
        label: the module's class, or the function called.
        kind: weights, norm, activation, add, ...
        shape: of its output, the batch first.
        predicted, measured: the numbers.
        chance: by which share the measured second moments may differ from the predicted ones by the finite width (one
            standard deviation of the logarithm), forward and backward.
        band: lowest and highest forward, lowest and highest gradient over draws of the weights, where draws were asked for.
        chi_1: by which the gradient's second moment grows over this activation and the weights after it.
        xi_q, xi_c: layers over which a deviation of the variance, and one of the cosine, shrinks to 1/e; infinite where it does not.
        verdict: ok, weak, vanishing, exploding, dead, saturated, correlated, or unexpected (measured is not as predicted).
        note: what else is to be said.
    """

    node: int
    layer: str
    label: str
    kind: str
    shape: tuple[int, ...]
    predicted: Numbers = field(default_factory=Numbers)
    measured: Numbers = field(default_factory=Numbers)
    chance: tuple[float, float] = (_NAN, _NAN)
    band: tuple[float, float, float, float] | None = None
    chi_1: float = _NAN
    xi_q: float = _NAN
    xi_c: float = _NAN
    verdict: str = "ok"
    note: str = ""
