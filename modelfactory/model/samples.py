"""Whether a model keeps the samples of a batch apart: what leaves it for one does not depend on the others.

In evaluation mode, since batch norm is meant to mix them in training. The model is followed on the meta device, whatever its
size; where a class of one's own seems to mix them and is small, two batches of three samples are computed to make sure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config.advice import Advice
from modelfactory.config.errors import Problems, first_line
from modelfactory.model.batch_axis import BatchAxis, Meeting, TooLong, batch_for
from modelfactory.model.blueprint import Chain, Leaf, Node, assemble, walk
from modelfactory.model.infer import needs_values
from modelfactory.model.layers.glue import Item, Permute, PositionalEmbedding, Reduce, Select, SelfAttention
from modelfactory.model.layers.sizes import dimensions_of
from modelfactory.model.storages import tensors_in
from modelfactory.numerics import rng
from modelfactory.tracing.meta_shapes import KnownShapes

MAX_NUMBERS = 1_000_000  # in a model that is computed to make sure, and in its input
MAX_MULTIPLICATIONS = 30_000_000  # for one sample of it: some hundredths of a second
_OTHERS = ("torch", "torchvision", "modelfactory")  # whose layers keep samples apart where they are given what they are made for
_ANY_SHAPE = ("torch.nn.modules.batchnorm", "torch.nn.modules.dropout")
_NEAR = 1e-4  # of the largest number of the output: what rounding may make of a term that cancels


def check_samples(node: Node, incoming: Tensor, problems: Problems) -> list[Advice]:
    """What mixes the samples of a batch: a problem where a layer of torch's does, and advice where a class of one's own does.

    Some models are meant to compare the samples of a batch, so that a class of one's own is told of and left alone.

    Args:
        incoming: an example of what comes into the model, on the meta device, batch first.

    Example:
        >>> from modelfactory.model.grammar import read_model
        >>> x, problems = torch.empty(2, 8, device="meta"), Problems()
        >>> layers = {"all": {"_target_": "torch.nn.Softmax", "dim": 0}, "head": {"_target_": "torch.nn.Linear", "out_features": 3}}
        >>> check_samples(read_model({"layers": layers}, x, problems), x, problems)
        []
        >>> print(*problems)
        model.layers.all: Softmax makes each sample depend on the others of its batch, N: softmax works along the batch, in [N, 8]
    """
    if isinstance(node, Leaf) and _package(node) == "torchvision":  # its networks
        return []
    short = _without_repeats(node)
    if all(_is_plain(part) for _, part in walk(short)):
        return []
    with torch.device("meta"):
        module = assemble(short, 0, is_whole=False).module.eval()
    shape = tuple(incoming.shape[1:])
    run = BatchAxis(batch_for(module, shape))
    example = torch.empty((run.batch, *shape), dtype=incoming.dtype, device="meta")
    try:
        run.follow(module, example)
    except TooLong:
        return []
    except Exception:  # that a class of one's own cannot be followed, whatever it raises, says nothing of samples
        part, refusal = _part_at(short, run.entered), None if _is_own(_part_at(short, run.entered)) else _refusal(module, example)
        if refusal is not None:
            what = f"takes a batch of {len(incoming)} and not one of {run.batch}, so it depends on their number: {refusal}"
            problems.add(part.definition.path, what)
        return []
    if run.meeting is None:
        return []
    part = _part_at(short, run.meeting.layer)
    if not _is_own(part):
        what = f"{_name_of(part)} makes each sample depend on the others of its batch, N: {run.meeting.how}, in {run.meeting.shape}"
        problems.add(part.definition.path, what)
        return []
    if _is_cheap(module, incoming, run.cost) and _depend(short, shape, incoming.dtype) is False:
        return []
    return [_advice(part, run.meeting)]


def _refusal(module: nn.Module, example: Tensor) -> str | None:
    """What a model says to a batch that it does not take; None where it takes it, or asks for values."""
    try:
        with torch.no_grad(), rng.GLOBAL_STATE, torch.random.fork_rng(devices=[]), torch.device("meta"), KnownShapes():
            module(example)
    except Exception as error:
        return None if needs_values(error) else first_line(error)
    return None


def _is_plain(part: Node) -> bool:
    """Whether a layer is one of those that are known to keep samples apart in what comes into this one, which need not be followed."""
    if isinstance(part, Chain):
        return True
    kind, arguments, ndim = part.target, part.arguments, len(part.incoming or ())
    home = getattr(kind, "__module__", "")
    if kind is Item:
        return arguments["index"] == 0
    if not isinstance(kind, type) or ndim < 2:
        return False
    if dimensions_of(kind) is not None:
        return ndim == 2 + (dimensions_of(kind) or 0)
    if issubclass(kind, (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer)):
        return ndim == 3 and home.startswith(("torch.nn", "modelfactory"))
    if home == "torch.nn.modules.activation":
        return kind not in (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.GLU)
    if kind in (Select, Reduce):
        return arguments.get("dim", 1) % ndim != 0
    if kind is Permute:
        return arguments["dims"][0] == 0
    if kind is nn.Flatten:
        return arguments.get("start_dim", 1) % ndim != 0
    if kind in (nn.LayerNorm, nn.RMSNorm):
        return isinstance(arguments["normalized_shape"], int)
    return kind in (nn.Linear, nn.Identity, nn.Embedding, nn.GroupNorm, PositionalEmbedding) or home in _ANY_SHAPE


def _advice(part: Node, meeting: Meeting) -> Advice:
    place = f"{meeting.layer} ({meeting.kind})" if meeting.layer else meeting.kind
    path, said = part.definition.path, f"in {place} {meeting.how}, in {meeting.shape}"
    for_time = ". The first dimension is the batch here: give it batch_first=True, or move the dimension there and back"
    return Advice(
        f"{path}: what {_name_of(part)} gives for a sample depends on the others of its batch, N: {said}"
        f"{for_time if 'takes the batch for' in meeting.how else ''}"
    )


def _without_repeats(node: Node) -> Node:
    """The blueprint with two of each row of repeats: enough to tell, as each does what the one before it did."""
    if isinstance(node, Leaf):
        return node
    kept: list[tuple[str, Node]] = []
    for name, child in node.children:
        if len(kept) < 2 or kept[-1][1] is not child or kept[-2][1] is not child:
            kept.append((name, child))
    made = {id(child): _without_repeats(child) for _, child in kept}
    return replace(node, children=tuple((name, made[id(child)]) for name, child in kept))


def _is_own(part: Any) -> bool:
    """Whether a layer is of a class of one's own, or is given a module of one."""
    if isinstance(part, (list, tuple)):
        return any(map(_is_own, part))
    if not isinstance(part, Leaf):
        return False
    return _package(part) not in _OTHERS or any(map(_is_own, part.arguments.values()))


def _package(leaf: Leaf) -> str:
    return (getattr(leaf.target, "__module__", None) or "").partition(".")[0]


def _name_of(part: Node) -> str:
    kind = part.target if isinstance(part, Leaf) else part.container
    return "MultiheadAttention" if kind is SelfAttention else getattr(kind, "__name__", str(kind))


def _part_at(node: Node, name: str) -> Node:
    """The part of a blueprint that a module is, or the smallest that it is in."""
    around = [(own, part) for own, part in walk(node) if not own or name == own or name.startswith(f"{own}.")]
    return max(around, key=lambda found: len(found[0]))[1]


def _is_cheap(module: nn.Module, incoming: Tensor, cost: float) -> bool:
    numbers = sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))
    return max(numbers, math.prod(incoming.shape[1:])) <= MAX_NUMBERS and cost <= MAX_MULTIPLICATIONS


def _depend(node: Node, shape: Sequence[int], dtype: torch.dtype) -> bool | None:
    """Whether what leaves a model for the first and last of three samples changes with the one between; None where that tells nothing."""
    try:
        before, after = (_computed(node, shape, dtype, middle) for middle in (1, 3))
    except Exception:  # of a class of one's own, which may raise anything on numbers of chance
        return None
    if before is None or after is None or before.shape != after.shape or not (before.isfinite().all() and after.isfinite().all()):
        return None
    changed = (before - after).abs().flatten(1).amax(1)
    size = max(before.abs().max().item(), after.abs().max().item())
    return None if changed[1] == 0 else max(changed[0].item(), changed[2].item()) > _NEAR * size


def _computed(node: Node, shape: Sequence[int], dtype: torch.dtype, middle: int) -> Tensor | None:
    """What leaves a model with numbers of chance, for three samples of which `middle` numbers the one between."""
    model = assemble(node, 0, is_whole=False).module.eval()
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None for module in model.modules()):
        return None  # the batch's own statistics are meant
    generator = rng.generator(0, "samples")
    with torch.no_grad(), rng.GLOBAL_STATE, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for parameter in model.parameters():
            parameter.copy_(torch.empty(parameter.shape).uniform_(0.5, 1.5, generator=generator))
            if parameter.ndim > 1:
                deviates = torch.empty(parameter.shape).normal_(generator=generator)
                parameter.mul_(deviates / math.sqrt(max(parameter[0].numel(), 1)))
        x = torch.stack([_sample(shape, dtype, number) for number in (0, middle, 2)])
        found = [tensor for tensor in tensors_in(model(x)) if tensor.ndim and len(tensor) == len(x)]
    return found[0].double() if found else None


def _sample(shape: Sequence[int], dtype: torch.dtype, number: int) -> Tensor:
    generator = rng.generator(number, "sample")
    if not dtype.is_floating_point:  # numbers of a vocabulary, which has two entries at least
        return torch.randint(0, 2, tuple(shape), dtype=dtype, generator=generator)
    return torch.randn(tuple(shape), dtype=dtype, generator=generator)
