"""Find biases and gates that start where a sigmoid or a tanh is flat, so that next to no gradient reaches them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor, nn

from modelfactory.auditing.finding import Finding
from modelfactory.auditing.subject import AuditedParameter, Subject
from modelfactory.tracing.steps import Steps

_SATURATED = 6.0
_SHARE = 0.1
_SIGMOIDS = frozenset({"sigmoid", "tanh", "hardsigmoid", "expit", "special_expit", "hardtanh"})
_GATES = {
    nn.LSTM: ("input", "forget", "cell", "output"),
    nn.LSTMCell: ("input", "forget", "cell", "output"),
    nn.GRU: ("reset", "update", "new"),
    nn.GRUCell: ("reset", "update", "new"),
}
"""The blocks of a bias of torch's recurrent layers, in order."""


def find_saturated(subject: Subject) -> Iterator[Finding]:
    """Biases, gates that are a parameter alone, and blocks of packed biases, that lie where a sigmoid or tanh is flat."""
    for item in subject.items:
        if not item.trains or item.values is None or max(-item.low, item.high) < _SATURATED:
            continue
        found = _of_recurrent(item) or _of_bias(subject, item)
        if found is None:
            continue
        which, bent, at = found
        message = (
            f"{which} at {at:.3g}, where the {bent} that it goes into has a slope of {_slope(bent, at):.1g}: "
            "the gate is stuck open or shut, and next to no gradient reaches it"
        )
        part = "" if which == "it starts" else f" (or a value for {which.removesuffix(' starts')} alone)"
        fix = f"mf.initialize(model, {{'match': '{item.name}', 'scheme': 'constant', 'val': {math.copysign(2, at):g}}}), or 0{part}"
        yield Finding(item.name, "saturated", "warn", message, fix)


def _of_recurrent(item: AuditedParameter) -> tuple[str, str, float] | None:
    """The gate of a recurrent layer of torch all of whose biases are saturated."""
    gates = _GATES.get(type(item.info.module))
    if gates is None or item.values is None or item.values.ndim != 1 or item.values.numel() % len(gates):
        return None
    for gate, block in zip(gates, item.values.chunk(len(gates)), strict=True):
        if _is_flat(block):
            bent = "tanh" if gate in ("cell", "new") else "sigmoid"
            return f"its {gate} gate starts", bent, block.float().mean().item()
    return None


def _is_flat(values: Tensor) -> bool:
    """Whether all of some numbers lie on one flat side."""
    return bool((values >= _SATURATED).all()) or bool((values <= -_SATURATED).all())


def _of_bias(subject: Subject, item: AuditedParameter) -> tuple[str, str, float] | None:
    if subject.reading is None or item.values is None or item.has("weight", "embedding", "norm", "head", "recurrent"):
        return None
    far = item.values[item.values.abs() >= _SATURATED]
    if abs(item.mean) >= _SATURATED:
        which, at = "it starts", item.mean
    elif _is_flat(far) and far.numel() >= max(2, _SHARE * item.values.numel()):
        which, at = f"a block of it ({far.numel()} of {item.values.numel()} values) starts", far.float().mean().item()
    else:
        return None
    bent = _bent_by(subject.reading.steps, item)
    return None if bent is None else (which, bent, at)


def _bent_by(steps: Steps, item: AuditedParameter) -> str | None:
    value = steps.graph.parameters.get(item.name)
    if value is None:
        return None
    ahead, seen = [value], {value.index}
    while ahead:
        for user in ahead.pop().users:
            if user.op in _SIGMOIDS:
                return user.op
            kind = steps.kind(user)
            adds = kind in ("shift", "carry", "pure") and user.op not in ("mul", "matmul")
            if not adds and not (kind == "weights" and _is_bias(steps, user.index, item.name)):
                continue
            for output in user.outputs:
                if output.index not in seen:
                    seen.add(output.index)
                    ahead.append(output)
    return None


def _is_bias(steps: Steps, index: int, name: str) -> bool:
    product = steps.labels.contractions.get(index)
    return product is not None and product.bias is not None and name in steps.labels[product.bias].mains


def _slope(op: str, at: float) -> float:
    if op in ("hardsigmoid", "hardtanh"):
        return 0.0
    if op == "tanh":
        return 1 - math.tanh(at) ** 2
    return 1 / (2 + math.exp(at) + math.exp(-at))
