"""Find outputs that start wrong: logits of a tied embedding, a first loss far from that of a guess, a signal that does not get through."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from modelfactory.auditing.finding import Finding
from modelfactory.auditing.subject import AuditedParameter, Subject
from modelfactory.model.modes import kept_modes
from modelfactory.signal_propagation.probe import look
from modelfactory.signal_propagation.table import SignalTable
from modelfactory.signal_propagation.verdict import FATAL, GRADIENT_VANISHES, summary

_LOGITS = 4.0
_ABOVE = 1.5
_MOST_INPUTS = 32
_SMALL_SCALE, _HELD = 0.1, 1e-3


def find_tied_scales(subject: Subject) -> Iterator[Finding]:
    """Tables that are looked up and are the head as well, with values for a table alone."""
    if subject.reading is None:
        return
    steps = subject.reading.steps
    for item in subject.items:
        uses = subject.reading.uses.get(item.name, [])
        heads = [use.node for use in uses if use.kind == "weight"]
        if not heads or not any(use.kind == "embedding" for use in uses) or len(item.shape) != 2 or not item.trains:
            continue
        signals = steps.signals(heads[-1])
        before = steps.carried(signals[0]).node if signals else None
        logits = item.rms * math.sqrt(item.shape[1]) * abs(subject.factor(heads[-1]))
        if steps.kind(before) == "norm" and logits > _LOGITS:
            right = 1 / math.sqrt(item.shape[1])
            message = (
                f"std {item.std:.3g} of an embedding that is the head as well makes logits of std {logits:.3g}: the first loss is about "
                f"{logits**2 / 2:.3g} above that of a guess; about {right:.2g} or less is right"
            )
            fix = f"mf.initialize(model, {{'match': '{item.name}', 'scheme': 'normal', 'std': {min(right, 0.02):.2g}}})"
            yield Finding(item.name, "tied_scale", "warn", message, fix)


def split_batch(model: nn.Module, batch: Any) -> tuple[Any, Tensor | None]:
    """The inputs and the targets of a batch; None where it has no targets.

    Example:
        >>> import torch
        >>> inputs, targets = split_batch(nn.Linear(2, 3), (torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)))
        >>> inputs.shape, targets.shape
        (torch.Size([4, 2]), torch.Size([4]))
    """
    if isinstance(batch, Mapping) and not isinstance(batch, dict):
        batch = dict(batch)
    if isinstance(batch, dict) and isinstance(batch.get("labels"), Tensor):
        return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]
    if isinstance(batch, list):
        batch = tuple(batch)
    if isinstance(batch, tuple) and len(batch) == 1:
        return batch[0], None
    if not isinstance(batch, tuple) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        return batch, None
    inputs, targets = batch
    of_classes = targets.ndim == 1 and not targets.is_floating_point() and inputs.ndim > 1 and len(targets) == len(inputs)
    return (inputs, targets) if of_classes or not _takes_two(model) else (batch, None)


def _takes_two(model: nn.Module) -> bool:
    try:
        inspect.signature(model.forward).bind(None, None)
    except TypeError:
        return False
    return True


def find_signal(subject: Subject, targets: Tensor | None) -> Iterator[Finding]:
    """What one batch shows: a signal or a gradient that vanishes or explodes, dead units, a first loss far above a guess."""
    example, targets = _first_inputs(subject.example, targets)
    with kept_modes(subject.model):
        subject.model.train()
        found = look(subject.model, example)
    table = found.table
    subject.notes += table.failures
    said = summary(table)
    fatal = next((row for verdict in FATAL for row in table if row.verdict == verdict), None)
    if fatal is not None and said and not (said.startswith(GRADIENT_VANISHES) and _is_held_back(subject, table)):
        name = fatal.layer or fatal.label
        fix = "print(mf.signal(model, batch)), or mf.initialize(model, 'auto', example=batch)"
        yield Finding(name, "signal", "error" if fatal.verdict in ("vanishing", "exploding") else "warn", said, fix)
    loss = None if found.found.logits is None else _first_loss(subject, *found.found.logits, targets)
    if loss is not None:
        yield loss


def _is_held_back(subject: Subject, table: SignalTable) -> bool:
    """Whether the least gradient is what a scale of a layer that starts next to 0 leaves of one, as those of CaiT do: it is meant."""
    scales = [abs(item.low) for item in subject.items if item.trains and item.is_constant and item.has("scale")]
    small = [scale for scale in scales if 0 < scale <= _SMALL_SCALE]
    least = min((row.measured.gradient for row in table if row.verdict == "vanishing"), default=0.0)
    return bool(small) and least > _HELD * min(small)


def _first_inputs(example: Any, targets: Tensor | None) -> tuple[Any, Tensor | None]:
    """As many inputs of a batch as it takes to see a signal; all of it where its tensors do not have the inputs first."""
    parts = list(example.values()) if isinstance(example, dict) else list(example) if isinstance(example, tuple) else [example]
    if not all(isinstance(part, Tensor) and part.ndim and len(part) == len(parts[0]) > _MOST_INPUTS for part in parts):
        return example, targets
    if targets is not None and (not targets.ndim or len(targets) != len(parts[0])):
        return example, targets
    first = [part[:_MOST_INPUTS] for part in parts]
    targets = None if targets is None else targets[:_MOST_INPUTS]
    if isinstance(example, dict):
        return dict(zip(example, first, strict=True)), targets
    return tuple(first) if isinstance(example, tuple) else first[0], targets


def _first_loss(subject: Subject, logits: Tensor, place: int, targets: Tensor | None) -> Finding | None:
    head = _head(subject, place)
    if head is None or head.fans is None or logits.ndim < 2:
        return None
    node = head.info.facts.fans[-1].node
    classes = 1 if logits.ndim > 2 and targets is not None and targets.shape == (logits.shape[0], *logits.shape[2:]) else logits.ndim - 1
    count = logits.shape[classes]
    if count < 2 or not node.outputs or node.output.shape[-1:] != logits.shape[-1:] and classes != 1:
        return None
    guess = math.log(count)
    logits = logits.float().movedim(classes, -1).reshape(-1, count)
    if targets is not None and not targets.is_floating_point() and targets.numel() == len(logits):
        first = nn.functional.cross_entropy(logits, targets.reshape(-1).to(logits.device)).item()
    else:
        first = (logits.logsumexp(-1) - logits.mean(-1)).mean().item()
    if not math.isfinite(first) or first - guess <= _ABOVE:
        return None
    message = (
        f"the first loss is {first:.3g}, where a guess among {count} classes has ln {count} = {guess:.3g}: the outputs have "
        f"std {logits.std(-1).mean().item():.3g}, and the first steps go into undoing that"
    )
    fix = f"mf.initialize(model, {{'match': '{head.name}', 'scheme': 'lecun_normal', 'gain': 0.1}})"
    return Finding(head.name, "first_loss", "warn", message, fix)


def _head(subject: Subject, place: int) -> AuditedParameter | None:
    """The head that makes an output, by its place among them; the last of those that there are where none is seen to."""
    heads = [item for item in subject.items if item.has("head") and item.trains and item.is_matrix and item.fans]
    heads = [item for item in heads if subject.is_plain(item, item.info.facts.fans[-1].node)]
    if subject.reading is None or not heads:
        return None
    outputs, steps = subject.reading.graph.outputs, subject.reading.steps
    made = steps.carried(outputs[place]).node if place < len(outputs) else None
    by = [item for item in heads if any(fans.node is made for fans in item.info.facts.fans)]
    return by[0] if by else heads[-1]
