"""Measures what the table shows where it is asked for: the spectrum of the Jacobian by the input, tokens, ranks, attention, updates.

The Jacobian `J` of a layer's output by the model's input is never made: tangents `J u` of standard normal `u` run forward with the
signal, all layers at once. `E |J u|^2` is the sum of its squared singular values, `E (J u . J u')^2` for independent `u`, `u'` that of
their squares; where the input has few numbers, `u` are unit vectors and both are exact.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from modelfactory.config.errors import contained
from modelfactory.signal_propagation.graph import SignalGraph, SignalNode, call_of, results, tensors, trace
from modelfactory.signal_propagation.keeping import buffers_kept, random_state_of
from modelfactory.signal_propagation.masking import HIDDEN

PROBES = 16
EXACT = 64  # numbers of an input up to which every direction is taken
_NUMBERS = 2**25  # of tangents that are held at once
_SAMPLES = 32  # inputs looked at, where norms over the batch do not need all
LEARNING_RATE = 1e-3

Found = dict[int, dict[str, float]]
"""By node, by the name of the column."""


def measure_spectrum(model: nn.Module, example: Any, graph: SignalGraph, failures: list[str], seed: int = 0) -> Found:
    """Measure the columns of a spectrum for every node of a model's graph; leaves the model as it was.

    Args:
        graph: of the model on this example.
        failures: takes what could not be measured, with its reason; the rest is measured all the same.

    Example:
        >>> from modelfactory.signal_propagation.graph import trace
        >>> model, x = nn.Linear(8, 8, bias=False), torch.randn(4, 8)
        >>> _ = nn.init.orthogonal_(model.weight)
        >>> found = measure_spectrum(model, x, trace(model, x)[0], [])[1]
        >>> round(found["jacobian_mean"], 4), round(abs(found["jacobian_variance"]), 4)
        (1.0, 0.0)
    """
    found: Found = {node.index: {} for node in graph}
    coupled = any(node.op == "batch_norm" and node.training for node in graph)
    if not coupled:
        example = _first(example, graph.nodes[0].shape[0])
    with contained("the spectrum of the Jacobian", failures):
        _measure_jacobian(model, example, graph, coupled, found, seed)
    with contained("ranks, tokens and attention", failures):
        _measure_outputs(model, example, found, seed)
    with contained("the size of an update", failures):
        _measure_update(model, example, found, seed)
    return found


def _first(example: Any, batch: int) -> Any:
    """The first inputs of a batch: all that are as many as the batch are cut alike."""

    def cut(value: Any) -> Any:
        return value[:_SAMPLES] if isinstance(value, Tensor) and value.ndim and value.shape[0] == batch else value

    if isinstance(example, Tensor):
        return cut(example)
    if isinstance(example, tuple):
        return tuple(map(cut, example))
    return {key: cut(value) for key, value in example.items()}


@contextmanager
def _undisturbed(model: nn.Module, example: Any, seed: int) -> Iterator[None]:
    """Buffers and random state are put back; attention runs by plain products, which have all derivatives."""
    device = tensors(call_of(example))[0].device
    with ExitStack() as stack:
        for context in (torch.inference_mode(False), torch.enable_grad(), random_state_of(device, seed), buffers_kept(model)):
            stack.enter_context(context)
        stack.enter_context(sdpa_kernel([SDPBackend.MATH]))
        yield


def _measure_jacobian(model: nn.Module, example: Any, graph: SignalGraph, coupled: bool, found: Found, seed: int) -> None:
    x = tensors(call_of(example))[0]
    if not x.is_floating_point():
        return
    size = x.numel() if coupled else x[0].numel()
    exact = size <= EXACT
    probes = size if exact else PROBES
    total = sum(math.prod(node.shape) for node in graph if node.floating)
    if not coupled and probes * total > _NUMBERS:
        x = x[: max(1, _NUMBERS * len(x) // (probes * total))]
        example = _replace_first(example, x, graph.nodes[0].shape[0])
    tangents: dict[int, list[Tensor]] = {}
    generator = torch.Generator().manual_seed(seed)
    for index in range(probes):
        direction = _direction(x, index, coupled) if exact else torch.randn(x.shape, generator=generator).to(x)

        def keep(node: SignalNode, output: Tensor) -> None:
            tangent = forward_ad.unpack_dual(output).tangent if output.is_floating_point() else None
            if tangent is not None:
                own = tangent.detach().clone().float().reshape(1, -1) if coupled else by_input(tangent.detach().clone().float(), len(x))
                if own is not None:
                    tangents.setdefault(node.index, []).append(own)

        with _undisturbed(model, example, seed), forward_ad.dual_level(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # torch's own, on its first tangent
            trace(model, _replace_first(example, forward_ad.make_dual(x.detach().clone(), direction), None), keep)
    for index, kept in tangents.items():
        if len(kept) == probes and index:
            mean, ratio = _moments(torch.stack(kept, 1), exact)
            least = min(kept[0].shape[1], size)
            found[index]["jacobian_mean"] = mean / least
            found[index]["jacobian_variance"] = ratio * least - 1 if mean > 0 else math.nan


def _replace_first(example: Any, x: Tensor, batch: int | None) -> Any:
    """The example with another first tensor; with `batch`, others of as many inputs are cut to as many as it has."""

    def cut(value: Any) -> Any:
        cuts = batch is not None and isinstance(value, Tensor) and value.ndim and value.shape[0] > len(x)
        return value[: len(x)] if cuts else value

    if isinstance(example, Tensor):
        return x
    if isinstance(example, tuple):
        return (x, *map(cut, example[1:]))
    first = next(iter(example))
    return {key: x if key == first else cut(value) for key, value in example.items()}


def by_input(values: Tensor, batch: int) -> Tensor | None:
    """A tensor with the batch first, also where it was second or heads are folded into it; None where it is neither.

    Example:
        >>> by_input(torch.zeros(7, 4, 5), 4).shape, by_input(torch.zeros(8, 5), 4).shape, by_input(torch.zeros(7, 5), 4)
        (torch.Size([4, 35]), torch.Size([4, 10]), None)
    """
    if values.ndim and values.shape[0] % batch == 0:
        return values.reshape(batch, -1)
    return values.movedim(1, 0).reshape(batch, -1) if values.ndim > 1 and values.shape[1] == batch else None


def _direction(x: Tensor, index: int, coupled: bool) -> Tensor:
    """A unit vector in the space of one input, for every input at once; of the whole batch where inputs act on each other."""
    made = torch.zeros_like(x)
    (made.view(1, -1) if coupled else made.view(len(x), -1))[:, index] = 1
    return made


def _moments(tangents: Tensor, exact: bool) -> tuple[float, float]:
    """The sum of squared singular values, and that of their squares relative to its square, of tangents [N, probes, outputs]."""
    gram = (tangents @ tangents.mT).double()
    own = gram.diagonal(dim1=1, dim2=2)
    if exact:
        total = own.sum(1)
        return total.mean().item(), ((gram * gram).sum() / total.square().sum().clamp(min=1e-300)).item()
    among = own.shape[1] * (own.shape[1] - 1)
    squares = ((gram * gram).sum((1, 2)) - own.square().sum(1)) / among
    together = (own.sum(1).square() - own.square().sum(1)) / among
    return own.mean().item(), (squares.sum() / together.sum().clamp(min=1e-300)).item()


class _Attending(TorchFunctionMode):
    """Notes the entropy of the attention weights of the last call that had some, as a share of that of uniform ones."""

    def __init__(self) -> None:
        super().__init__()
        self.last: float | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            self.last = _entropy(*_weights_of(*args, **kwargs))
        elif name == "multi_head_attention_forward":
            told = {**kwargs, "need_weights": True, "average_attn_weights": False, "training": False}
            weights = func(*args, **told)[1].detach()
            self.last = _entropy(weights, weights > 0)
        elif name == "softmax" and isinstance(output, Tensor) and output.ndim > 2:
            self.last = _entropy(output.detach(), args[0] > HIDDEN if args else output > 0)
        return output


def _weights_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """The weights of `scaled_dot_product_attention`, without dropout, and which of them no mask hides."""
    query, key = query.detach(), key.detach()
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype is torch.bool else scores + attn_mask
    return F.softmax(scores, -1), scores > HIDDEN


def _entropy(weights: Tensor, shown: Tensor) -> float:
    """The mean entropy of rows over that of uniform weights on what is shown; NaN where each row shows one."""
    weights, shown = weights.float(), shown.sum(-1)
    rows = -(torch.special.xlogy(weights, weights)).sum(-1)
    several = shown > 1
    return (rows[several] / shown[several].float().log()).mean().item()


def _measure_outputs(model: nn.Module, example: Any, found: Found, seed: int) -> None:
    attending, batch = _Attending(), tensors(call_of(example))[0].shape[0]

    def look(node: SignalNode, output: Tensor) -> None:
        entropy, attending.last = attending.last, None
        if not output.is_floating_point() or output.ndim < 2 or not node.index:
            return
        values = by_input(output.detach().float(), batch)
        if entropy is not None and node.op in ("softmax", "scaled_dot_product_attention", "multi_head_attention_forward"):
            found[node.index]["attention_entropy"] = entropy
        if values is not None:
            found[node.index]["effective_rank"] = _effective_rank(values)
        if output.ndim == 3 and output.shape[0] == batch:
            found[node.index]["token_cosine"] = _token_cosine(output.detach().float())

    with _undisturbed(model, example, seed), torch.no_grad(), attending:
        trace(model, example, look)


def _effective_rank(values: Tensor) -> float:
    """The exponential of the entropy of the singular values of a batch [N, D], which are made to add up to 1 (Roy & Vetterli 2007)."""
    if values.shape[0] == 0 or not values.isfinite().all():
        return math.nan
    gram = values.double() @ values.double().T
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    singular = singular[singular > 1e-6 * singular.max()]
    if len(singular) == 0:
        return 0.0
    share = singular / singular.sum()
    return torch.exp(-torch.special.xlogy(share, share).sum()).item()


def _token_cosine(values: Tensor) -> float:
    """The mean product of two tokens of one input over the mean square, of tokens [N, T, D]."""
    tokens = values.shape[1]
    power = values.square().sum()
    together = values.sum(1).square().sum() - power
    return (together / (power * (tokens - 1))).item() if tokens > 1 and power > 0 else math.nan


def _measure_update(model: nn.Module, example: Any, found: Found, seed: int) -> None:
    """How much the first step of Adam changes of each output, relative to it, for a loss that weights the output by normal numbers."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.is_floating_point()]
    if not parameters:
        return
    before: dict[int, Tensor] = {}

    def keep(node: SignalNode, output: Tensor) -> None:
        if output.is_floating_point():
            before[node.index] = output.detach().clone()

    def compare(node: SignalNode, output: Tensor) -> None:
        old = before.get(node.index)
        if old is not None and node.index and old.shape == output.shape and (norm := old.float().norm().item()) > 0:
            found[node.index]["update"] = (output.detach() - old).float().norm().item() / norm

    with _undisturbed(model, example, seed):
        _, output = trace(model, example, keep)
        outputs = [tensor for tensor in results(output) if tensor.requires_grad and tensor.is_floating_point()]
        weighted = [(tensor * torch.randn(tensor.shape).to(tensor)).sum() / len(tensor) for tensor in outputs]
        gradients = torch.autograd.grad(torch.stack(weighted).sum(), parameters, allow_unused=True)
    values = [parameter.data for parameter in parameters]
    try:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.data = parameter.data - LEARNING_RATE * gradient.sign()
        with _undisturbed(model, example, seed), torch.no_grad():
            trace(model, example, compare)
    finally:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value
