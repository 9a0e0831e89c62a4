"""What is asked of an initialisation: the check functions of the conformance suite, which the bug museum turns on wrong code.

A check raises AssertionError. Those of a distribution are Kolmogorov-Smirnov tests at a level that makes one false alarm
in a thousand runs of the whole suite (Bonferroni), on as many numbers as it takes to see a factor of 1.05.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from scipy import integrate, stats
from torch import Tensor, nn
from torch.nn import functional as F

import modelfactory as mf

FAMILY_WISE = 1e-3
MOST_TESTS = 1_000  # of a distribution; the suite counts them
ALPHA = FAMILY_WISE / MOST_TESTS
FACTOR, POWER = 1.05, 0.999  # what is seen, and how surely


class Fill(Protocol):
    """An initialisation of parameter `attr` of a layer, in place."""

    def __call__(self, layer: nn.Module, attr: str, call: Mapping[str, Any], seed: int, shape: Sequence[int] | None = None) -> Any: ...


def ours(layer: nn.Module, attr: str, call: Mapping[str, Any], seed: int, shape: Sequence[int] | None = None) -> Any:
    """This package's own; `shape` is that of the layer's input, without the batch."""
    example = None if shape is None else torch.empty((1, *shape), device="meta")
    return mf.initialize(layer, {"match": attr, **call}, seed=seed, example=example)


@dataclass(frozen=True)
class Case:
    """One parameter of a layer; n_in and n_out are counted by hand.

    Attributes:
        make: constructs the layer.
        parts: how many matrices are packed along the first axis.
        shape: of one input, where the fans depend on it.
    """

    make: Callable[[], nn.Module]
    n_in: float
    n_out: float
    attr: str = "weight"
    parts: int = 1
    shape: tuple[int, ...] | None = None


def normal(variance: float):
    return stats.norm(0, math.sqrt(variance))


def uniform(variance: float):
    bound = math.sqrt(3 * variance)
    return stats.uniform(-bound, 2 * bound)


def truncated(variance: float):
    """Normal cut at two of its sigma, of the variance asked for."""
    return stats.truncnorm(-2, 2, 0, math.sqrt(variance / stats.truncnorm(-2, 2).var()))


def _limit() -> float:
    """sqrt(n) times the KS distance that is passed with probability ALPHA at most, for every n (Dvoretzky, Kiefer, Wolfowitz; Massart)."""
    return math.sqrt(math.log(2 / ALPHA) / 2)


@cache
def _standard_needed(kind: str) -> int:
    law = {"norm": stats.norm(), "uniform": stats.uniform(-1, 2), "truncnorm": stats.truncnorm(-2, 2)}[kind]
    z = stats.norm.isf(1 - POWER)
    at = law.ppf(np.linspace(0.001, 0.999, 999))
    needed = 0.0
    for factor in (FACTOR, 1 / FACTOR):
        shares, wrong = law.cdf(at), law.cdf(at / factor)
        with np.errstate(divide="ignore"):
            each = ((_limit() + z * np.sqrt(wrong * (1 - wrong))) / np.abs(wrong - shares)) ** 2
        needed = max(needed, each.min())
    return math.ceil(needed)


def samples_needed(law: Any) -> int:
    """How many numbers a KS test at ALPHA needs to see FACTOR, up or down, with probability POWER.

    The test rejects once |F_n - F| passes sqrt(log(2/ALPHA)/(2n)) anywhere. At the point where the two laws are furthest
    apart, F_n is about normal with the wrong law's mean and p(1 - p)/n.
    """
    return _standard_needed(law.dist.name)


def check_law(values: Tensor, law: Any) -> None:
    """`values`, of any shape, are independent draws from `law`, and enough of them to tell."""
    flat = values.detach().flatten().sort().values
    count = len(flat)
    assert count >= samples_needed(law), f"{count} numbers are too few to see a factor of {FACTOR}"
    assert flat.isfinite().all(), "not all are finite"
    distinct = 1 + int((flat[1:] != flat[:-1]).sum())
    assert distinct > 0.95 * count, f"of {count} numbers only {distinct} are distinct"
    below = law.cdf(flat.double().numpy())
    steps = np.arange(count + 1) / count
    distance, limit = max((below - steps[:-1]).max(), (steps[1:] - below).max()), _limit() / math.sqrt(count)
    told = f"std {flat.double().std().item():.4g} where it should be {law.std():.4g}"
    assert distance < limit, f"KS distance {distance:.4f} is beyond {limit:.4f}; {told}"


def check_layer(fill: Fill, case: Case, call: Mapping[str, Any], law: Any) -> None:
    """Every number of a layer's parameter, pooled over as many seeds as it takes, is drawn from `law`, as often in each part."""
    layer, drawn = case.make(), []
    parameter = layer.get_parameter(case.attr)
    for seed in range(math.ceil(samples_needed(law) / parameter.numel())):
        with torch.no_grad():
            parameter.fill_(math.nan)
        fill(layer, case.attr, call, seed, case.shape)
        drawn.append(layer.get_parameter(case.attr).detach().clone())
    check_law(torch.stack(drawn), law)


def scaled_identity(matrix: Tensor) -> Tensor:
    """The smaller Gram matrix of `matrix`, in float64."""
    matrix = matrix.detach().double()
    return matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix


def check_orthogonal(matrix: Tensor, gain: float = 1.0) -> None:
    """Rows, or columns if those are fewer, are orthogonal and of length `gain`, to the rounding of float32."""
    gram = scaled_identity(matrix)
    wrong = (gram - gain**2 * torch.eye(len(gram), dtype=gram.dtype)).abs().max().item()
    assert wrong < 3e-6 * gain**2, f"the Gram matrix is off {gain**2:g} times the identity by {wrong:.2g}"


def check_haar(draw: Callable[[torch.Generator], Tensor]) -> None:
    """An entry of a Haar n x n matrix is one of a random unit vector: (1 + w)/2 ~ Beta((n - 1)/2, (n - 1)/2)."""
    source = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw(source) for _ in range(3_000)]).double()
    half = (drawn.shape[-1] - 1) / 2
    for row, column in ((0, 0), (1, 1), (2, 0), (0, 2)):
        chance = stats.kstest((1 + drawn[:, row, column].numpy()) / 2, stats.beta(half, half).cdf).pvalue
        assert chance > ALPHA, f"entry ({row}, {column}) is not that of a random direction, p = {chance:.1e}"
    trace = drawn.diagonal(dim1=-2, dim2=-1).sum(-1)  # mean 0, variance 1
    z = trace.mean().item() * math.sqrt(len(trace))
    assert abs(z) < stats.norm.isf(ALPHA / 2), f"the mean trace is {z:.1f} standard errors from 0"


def check_blocks_orthogonal(parameter: Tensor, parts: int, gain: float = 1.0) -> None:
    """Each matrix packed along the first axis is orthogonal by itself, and no two are the same."""
    blocks = parameter.detach().chunk(parts)
    for block in blocks:
        check_orthogonal(block, gain)
    assert all(not torch.equal(blocks[0], other) for other in blocks[1:]), "two blocks are the same"


def _convolve(x: Tensor, kernel: Tensor, groups: int) -> Tensor:
    convolution = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[kernel.ndim]
    return convolution(x, kernel.detach().double(), groups=groups, padding="same")


def _image(kernel: Tensor, groups: int) -> Tensor:
    """A random input of the convolution, float64 [2, channels, 7, ...]."""
    source = torch.Generator().manual_seed(1)
    return torch.randn(2, kernel.shape[1] * groups, *(7,) * (kernel.ndim - 2), generator=source, dtype=torch.float64)


def check_delta_orthogonal(kernel: Tensor, groups: int = 1, gain: float = 1.0) -> None:
    """Zero but in one tap, so that a convolution keeps the norm of every position, up to `gain`."""
    taps = kernel.detach().flatten(2).abs().sum((0, 1))
    assert int((taps > 0).sum()) == 1, f"{int((taps > 0).sum())} taps are not zero"
    x = _image(kernel, groups)
    ratio = _convolve(x, kernel, groups).norm(dim=1) / x.norm(dim=1)
    assert torch.allclose(ratio, torch.full_like(ratio, gain), rtol=1e-5), f"norms change by {ratio.min():.4f} to {ratio.max():.4f}"


def check_dirac(kernel: Tensor, groups: int = 1) -> None:
    """The convolution passes on as many channels of each group as it can, and the others are zero."""
    x = _image(kernel, groups)
    parts = zip(_convolve(x, kernel, groups).chunk(groups, 1), x.chunk(groups, 1), strict=True)
    for y, given in parts:
        kept = min(y.shape[1], given.shape[1])
        assert torch.equal(y[:, :kept], given[:, :kept]), "a channel is not passed on"
        assert not y[:, kept:].any(), "a channel comes from nowhere"


def check_identity(matrix: Tensor) -> None:
    x = torch.randn(5, matrix.shape[1], generator=torch.Generator().manual_seed(1))
    kept = min(matrix.shape)
    y = F.linear(x, matrix)
    assert torch.equal(y[:, :kept], x[:, :kept]) and not y[:, kept:].any(), "it is not the identity"


def check_sparse(matrices: Sequence[Tensor], sparsity: float, std: float) -> None:
    """The same number of zeros in every column, at places that differ; what is not zero is normal."""
    stacked = torch.stack(list(matrices)).detach()
    zeros = math.ceil(sparsity * stacked.shape[1])
    assert bool(((stacked == 0).sum(1) == zeros).all()), f"not {zeros} zeros in every column"
    where = (stacked == 0).double().mean((0, 2))  # of a row: zeros/rows in expectation
    share, cells = zeros / stacked.shape[1], stacked.shape[0] * stacked.shape[2]
    worst = (where - share).abs().max().item() / math.sqrt(share * (1 - share) / cells)
    assert worst < stats.norm.isf(ALPHA / 2 / stacked.shape[1]), f"rows are zeroed unevenly: {worst:.1f} standard errors"
    check_law(stacked[stacked != 0], normal(std**2))


def check_icnr(kernel: Tensor, upscale_factor: int) -> None:
    """After PixelShuffle every upscale_factor x upscale_factor block of pixels is one value: nearest-neighbour upsampling."""
    x = torch.randn(1, kernel.shape[1], 6, 6, generator=torch.Generator().manual_seed(1))
    up = F.pixel_shuffle(F.conv2d(x, kernel.detach(), padding=1), upscale_factor)
    blocks = up.unfold(2, upscale_factor, upscale_factor).unfold(3, upscale_factor, upscale_factor)
    assert torch.equal(blocks, blocks[..., :1, :1].expand_as(blocks)), "a checkerboard: pixels of a block differ"
    channels = up[:, :, ::upscale_factor, ::upscale_factor].flatten(2)
    assert up.std() > 0 and (up.shape[1] == 1 or not torch.equal(channels[:, 0], channels[:, 1])), "all channels are one"


def check_gain(gain: Callable[[str], float], name: str, function: Callable[[float], float], kinks: Sequence[float] = ()) -> None:
    """`gain(name)` is 1/sqrt(E f(z)^2), by scipy's quadrature of a formula written here."""
    edges = sorted({-12.0, 0.0, 12.0, *kinks})  # beyond 12 there is less than 1e-32 of the mass

    def weighted(z: float) -> float:
        return function(z) ** 2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    parts = zip(edges, edges[1:], strict=False)
    second = sum(integrate.quad(weighted, low, high, epsabs=1e-13, epsrel=1e-12, limit=200)[0] for low, high in parts)
    expected, found = 1 / math.sqrt(second), gain(name)
    assert math.isclose(found, expected, rel_tol=1e-7), f"the gain of {name} is {expected:.6f}, not {found:.6f}"


def check_equals_torch(fill: Callable[..., Tensor], name: str, args: Mapping[str, Any], shape: Sequence[int]) -> None:
    """Bit for bit what torch.nn.init draws from the same generator."""
    theirs = getattr(nn.init, f"{name}_")(torch.empty(*shape), **args, generator=torch.Generator().manual_seed(3))
    drawn = fill(torch.empty(*shape), **args, generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn, theirs), f"{name} differs from torch's"


def check_padding_row(fill: Fill) -> None:
    """The row of an embedding's padding_idx is zero, and every other follows the law."""
    layer = nn.Embedding(200, 100, padding_idx=3)
    drawn = []
    for seed in range(math.ceil(samples_needed(normal(1.0)) / (199 * 100))):
        fill(layer, "weight", {"scheme": "normal", "std": 0.5}, seed)
        assert not layer.weight[3].any(), "the row of padding_idx is not zero"
        drawn.append(layer.weight.detach()[[row for row in range(200) if row != 3]].clone())
    check_law(torch.stack(drawn), normal(0.25))


def check_padding_row_of_a_tie(fill: Fill) -> None:
    """So it is where the weight is another layer's too, whichever of them is registered first."""
    for kind in (nn.Embedding, nn.EmbeddingBag):
        for first, second in (("embedding", "head"), ("head", "embedding")):
            layers = {"embedding": kind(20, 8, padding_idx=3), "head": nn.Linear(8, 20, bias=False)}
            layers[second].weight = layers[first].weight
            model = nn.ModuleDict({first: layers[first], second: layers[second]})
            fill(model, f"{first}.weight", {"scheme": "normal", "std": 0.5}, 0)
            zero = [row for row, values in enumerate(layers["embedding"].weight) if not values.any()]
            assert zero == [3], f"{first} first: the row of padding_idx is 3, and zero are {zero}"


def acting_weight(layer: nn.Linear) -> Tensor:
    """The matrix [out, in] that a linear layer multiplies by, whatever it is stored as."""
    with torch.no_grad():
        return (layer(torch.eye(layer.in_features)) - layer(torch.zeros(1, layer.in_features))).T


def check_what_acts_is_filled(fill: Fill) -> None:
    """Where a weight is computed from others, what the layer multiplies by follows the law; with spectral norm but for its scale."""
    law = normal(2 / (96 + 96))
    for parametrize in (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm):
        layer, drawn = parametrize(nn.Linear(96, 96)).eval(), []
        for seed in range(math.ceil(samples_needed(law) / 96**2)):
            fill(layer, "weight", {"scheme": "xavier_normal"}, seed)
            drawn.append(acting_weight(layer))
            if parametrize is nn.utils.parametrizations.spectral_norm:
                largest = torch.linalg.matrix_norm(drawn[-1], 2).item()
                assert math.isclose(largest, 1.0, abs_tol=0.1), f"the KS distance of a law with a largest singular value of {largest:.3g}"
                drawn[-1] *= law.std() / drawn[-1].std(correction=0).item()
        check_law(torch.stack(drawn), law)


def check_every_matrix_is_filled(fill_model: Callable[[nn.Module], Any]) -> None:
    """A rule for all weights reaches every matrix, whatever its name ends in."""
    model = nn.ModuleDict(
        {
            "fc": nn.Linear(6, 5),
            "packed": nn.MultiheadAttention(8, 2),
            "apart": nn.MultiheadAttention(8, 2, kdim=6, vdim=4),
            "lstm": nn.LSTM(4, 5, num_layers=2, bidirectional=True, proj_size=3),
            "cell": nn.GRUCell(4, 5),
        }
    )
    matrices = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim >= 2}
    with torch.no_grad():
        for parameter in matrices.values():
            parameter.fill_(math.nan)
    fill_model(model)
    left = [name for name, parameter in matrices.items() if parameter.isnan().any()]
    assert not left, f"not filled: {', '.join(left)}"


class Tied(nn.Module):
    """An embedding whose matrix is the head's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 60)
        self.head = nn.Linear(60, 100, bias=False)
        self.head.weight = self.embed.weight


def check_tied(fill_model: Callable[[nn.Module, str, int], Sequence[str]]) -> None:
    """A tied matrix stays one, takes one value by either name, and is accounted for once.

    Args:
        fill_model: fills the parameter of a name with a seed, and returns the names of what it accounts for.
    """
    model = Tied()
    for name in ("embed.weight", "head.weight"):
        accounted = fill_model(model, name, 3)
        assert model.head.weight is model.embed.weight, "the tie is broken"
        assert len(accounted) == 1 and all(part in accounted[0] for part in ("embed.weight", "head.weight")), f"rows: {accounted}"
    by_second = model.embed.weight.detach().clone()
    fill_model(model, "embed.weight", 3)
    assert torch.equal(model.embed.weight, by_second), "the value depends on the name by which it was picked"


def check_gains_belong_to_the_input(gains: Callable[[Mapping[str, Any]], Sequence[float]]) -> None:
    """The first layer's gain is 1, and every later one's that of the activation before it, the head's too."""
    linear = {"_target_": "torch.nn.Linear", "out_features": 8}
    layers = {
        "a": linear,
        "tanh": {"_target_": "torch.nn.Tanh"},
        "b": linear,
        "relu": {"_target_": "torch.nn.ReLU"},
        "c": linear,
        "norm": {"_target_": "torch.nn.LayerNorm"},
        "d": linear,
    }
    tanh = 1 / math.sqrt(integrate.quad(lambda z: math.tanh(z) ** 2 * stats.norm.pdf(z), -12, 12)[0])
    expected, found = [1.0, tanh, math.sqrt(2), 1.0], list(gains(layers))
    assert np.allclose(found, expected, rtol=1e-6), f"gains {found} where {expected} belong"


def check_keyed(build: Callable[[Mapping[str, int], int], Mapping[str, Tensor]]) -> None:
    """A value depends on the seed, its name, its shape and its scheme, and on nothing else of the model.

    Args:
        build: from the widths of layers by name, in order, and a seed to their parameters by name.
    """
    wide = {"a": 16, "b": 16, "c": 16}
    base = build(wide, 0)
    for name, widths in (
        ("a layer added", {"a": 16, "new": 16, "b": 16, "c": 16}),
        ("layers in another order", {"c": 16, "a": 16, "b": 16}),
    ):
        other = build(widths, 0)
        moved = [key for key in base if not torch.equal(base[key], other[key])]
        assert not moved, f"{name}: {', '.join(moved)} changed"
    assert not torch.equal(base["a.weight"], base["b.weight"]), "two layers of one shape have the same values"
    assert not torch.equal(base["a.weight"], build(wide, 1)["a.weight"]), "another seed gives the same values"
    state = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        again = build(wide, 0)
    assert all(torch.equal(base[key], again[key]) for key in base), "the values depend on torch's global generator"
    build(wide, 0)
    assert torch.equal(state, torch.get_rng_state()), "building moved torch's global generator"


def check_forget_bias(fill_model: Callable[[nn.Module], Any]) -> None:
    """The forget gate's two biases, b_ih and b_hh, sum to 1 in every layer, cell and direction, and the other gates' to 0."""
    for module in (nn.LSTM(3, 5, num_layers=2, bidirectional=True), nn.LSTMCell(3, 5)):
        fill_model(module)
        for name in [name for name, _ in module.named_parameters() if name.startswith("bias_ih")]:
            total = module.get_parameter(name) + module.get_parameter(name.replace("_ih", "_hh"))
            gates = [sorted(set(gate.tolist())) for gate in total.view(4, 5)]
            assert gates == [[0.0], [1.0], [0.0], [0.0]], f"{name}: input, forget, cell and output biases sum to {gates}"


def check_first_loss_of_tied(fill: Callable[[Tensor], Any]) -> None:
    """A tied embedding says nothing at first: the loss of guessing the token itself, or any other, is about ln V."""
    model, tokens = Tied(), torch.arange(100)
    with torch.no_grad():
        fill(model.embed.weight)
        logits = model.head(model.embed(tokens))
    first = F.cross_entropy(logits, tokens.roll(1)).item()
    assert first < 1.2 * math.log(100), f"the first loss is {first:.1f}, where ln V is {math.log(100):.1f}"


def check_prior_bias(fill: Callable[[Tensor, float], Any]) -> None:
    """A sigmoid over the bias alone says p."""
    for p in (0.01, 0.3):
        bias = torch.empty(4)
        fill(bias, p)
        assert torch.allclose(bias.sigmoid(), torch.full((4,), p)), f"it says {bias.sigmoid()[0]:.3g} where p is {p}"


def check_chrono(draw: Callable[[int, int], Tensor]) -> None:
    """Of e^(forget bias) the law is U(1, T - 1), and the input gates mirror the forget gates; the other gates are 0.

    Args:
        draw: from a seed and a hidden size to the bias [4 * hidden] at T = 100.
    """
    law = stats.uniform(1, 98)
    drawn = torch.stack([draw(seed, 5_000) for seed in range(math.ceil(samples_needed(law) / 5_000))]).unflatten(1, (4, -1))
    check_law(drawn[:, 1].double().exp(), law)
    assert torch.equal(drawn[:, 0], -drawn[:, 1]), "the input gate does not mirror the forget gate"
    assert not drawn[:, 2:].any(), "the cell and output gates are not 0"
