"""Wrong initialisations that are common in the wild, each of which the conformance suite's own checks must catch.

Of every exhibit the check passes on this package's code and fails on the wrong code, so that a check that lost its teeth
is noticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import modelfactory as mf
from modelfactory.init.schemes.table import SCHEMES
from modelfactory.numerics import activation
from modelfactory.numerics.rng import generator
from tests.contract import checks
from tests.contract.checks import Case, normal, ours, truncated, uniform
from tests.contract.test_conformance import ACTIVATIONS, LAYERS


@dataclass(frozen=True)
class Exhibit:
    """`check` passes on `right` and fails on `wrong`, saying `says`."""

    check: Callable[[Any], None]
    right: Any
    wrong: Any
    says: str = ""


def by_torch(layer: nn.Module, attr: str, call: Mapping[str, Any], seed: int, shape: Any = None) -> None:
    """torch.nn.init on the stored tensor, whatever the operator is."""
    args = {name: value for name, value in call.items() if name != "scheme"}
    getattr(nn.init, f"{call['scheme']}_")(layer.get_parameter(attr), **args, generator=torch.Generator().manual_seed(seed))


def drawing(draw: Callable[[Tensor, torch.Generator], Any]) -> checks.Fill:
    """An initialisation that looks at nothing but the tensor."""

    def fill(layer: nn.Module, attr: str, call: Mapping[str, Any], seed: int, shape: Any = None) -> None:
        with torch.no_grad():
            draw(layer.get_parameter(attr), torch.Generator().manual_seed(seed))

    return fill


def law(layer: str | Case, call: Mapping[str, Any], of: Callable[[float, float], Any]) -> Callable[[checks.Fill], None]:
    """The check that a layer's numbers follow the law of its fans."""
    case = LAYERS[layer] if isinstance(layer, str) else layer
    return lambda fill: checks.check_layer(fill, case, call, of(case.n_in, case.n_out))


XAVIER = {"scheme": "xavier_uniform"}
FAN_OUT = {"scheme": "kaiming_normal", "mode": "fan_out", "nonlinearity": "relu"}
FAN_IN = {"scheme": "kaiming_normal", "nonlinearity": "relu"}


def xavier(i: float, o: float) -> Any:
    return uniform(2 / (i + o))


def twice_bounds(tensor: Tensor, source: torch.Generator) -> None:
    """Takes the bounds of a truncated normal for multiples of std."""
    nn.init.trunc_normal_(tensor, 0.0, 0.02, -2 * 0.02, 2 * 0.02, generator=source)


def undivided(tensor: Tensor, source: torch.Generator) -> None:
    """Cuts at two sigma, and leaves the standard deviation 12% short."""
    sigma = math.sqrt(1 / tensor.shape[1])
    nn.init.trunc_normal_(tensor, 0.0, sigma, -2 * sigma, 2 * sigma, generator=source)


def one_row_for_all(tensor: Tensor, source: torch.Generator) -> None:
    """Draws one row and copies it."""
    tensor.copy_(torch.randn(tensor.shape[1], generator=source).mul_(tensor.shape[1] ** -0.5).expand_as(tensor))


def some_gates(layer: nn.Module, attr: str, call: Mapping[str, Any], seed: int, shape: Any = None) -> None:
    """Draws one gate, and copies it to the other three."""
    parameter = layer.get_parameter(attr)
    with torch.no_grad():
        one = nn.init.xavier_uniform_(torch.empty(parameter.shape[0] // 4, parameter.shape[1]), generator=generator(seed, attr))
        parameter.copy_(one.repeat(4, 1))


def forgets_separate_projections(layer: nn.Module, attr: str, call: Mapping[str, Any], seed: int, shape: Any = None) -> None:
    """Looks for the packed projection only, which there is none of when kdim differs."""
    if layer.in_proj_weight is not None:
        by_torch(layer, "in_proj_weight", call, seed)


LAW_EXHIBITS = {
    "depthwise fan_out by the shape": (law("depthwise", FAN_OUT, lambda i, o: normal(2 / o)), by_torch),
    "depthwise Xavier by the shape": (law("depthwise", XAVIER, xavier), by_torch),
    "grouped fan_out by the shape": (law("grouped", FAN_OUT, lambda i, o: normal(2 / o)), by_torch),
    "strided fan_out by the shape": (law("strided", FAN_OUT, lambda i, o: normal(2 / o)), by_torch),
    "a border of zeros counted as input": (law("padded", FAN_IN, lambda i, o: normal(2 / i)), by_torch),
    "transposed convolution with its fans swapped": (law("transposed", FAN_IN, lambda i, o: normal(2 / i)), by_torch),
    "query, key and value as one matrix": (law("in_proj", XAVIER, xavier), by_torch),
    "separate projections left out": (law("k_proj", XAVIER, xavier), forgets_separate_projections),
    "four gates as one matrix": (law("lstm_hh", XAVIER, xavier), by_torch),
    "one gate copied to all": (law("lstm_hh", XAVIER, xavier), some_gates),
    "one row copied to all": (law("square", {"scheme": "lecun_normal"}, lambda i, o: normal(1 / i)), drawing(one_row_for_all)),
    "an embedding's vocabulary for its fan": (law("embedding", XAVIER, xavier), by_torch),
    "trunc_normal's bounds in multiples of std": (
        law("square", {"scheme": "trunc_normal", "std": 0.02}, lambda i, o: normal(0.02**2)),
        drawing(twice_bounds),
    ),
    "a truncated normal of a smaller variance": (
        law("square", {"scheme": "variance_scaling"}, lambda i, o: truncated(1 / i)),
        drawing(undivided),
    ),
    "std for the bound of a uniform": (
        law("square", {"scheme": "lecun_uniform"}, lambda i, o: uniform(1 / i)),
        drawing(lambda w, source: w.uniform_(-(w.shape[1] ** -0.5), w.shape[1] ** -0.5, generator=source)),
    ),
    "Kaiming without its 2": (
        law("wide", FAN_IN, lambda i, o: normal(2 / i)),
        drawing(lambda w, source: w.normal_(0, w.shape[1] ** -0.5, generator=source)),
    ),
    "Xavier as 1/n_in": (
        law("wide", {"scheme": "xavier_normal"}, lambda i, o: normal(2 / (i + o))),
        drawing(lambda w, source: w.normal_(0, w.shape[1] ** -0.5, generator=source)),
    ),
    "1/n_in for 1/sqrt(n_in)": (
        law("square", {"scheme": "fan_in_uniform"}, lambda i, o: uniform(1 / (3 * i))),
        drawing(lambda w, source: w.uniform_(-1 / w.shape[1], 1 / w.shape[1], generator=source)),
    ),
    "the transposed matrix's fan": (
        law("tall", FAN_IN, lambda i, o: normal(2 / i)),
        drawing(lambda w, source: w.normal_(0, (2 / w.shape[0]) ** 0.5, generator=source)),
    ),
    "the rectifier's slope forgotten": (
        law("square", {"scheme": "kaiming_normal", "a": 0.5}, lambda i, o: normal(2 / (1 + 0.25) / i)),
        drawing(lambda w, source: w.normal_(0, (2 / w.shape[1]) ** 0.5, generator=source)),
    ),
    "a gain squared": (
        law("square", {"scheme": "lecun_normal", "gain": 1.2}, lambda i, o: normal(1.44 / i)),
        drawing(lambda w, source: w.normal_(0, 1.44 * w.shape[1] ** -0.5, generator=source)),
    ),
    "fixup by 2m for 2m - 2": (
        law("square", {"scheme": "fixup", "branches": 16, "branch_layers": 2}, lambda i, o: normal(2 / i / 16)),
        drawing(lambda w, source: w.normal_(0, (2 / w.shape[1]) ** 0.5 * 16 ** (-1 / 4), generator=source)),
    ),
    "gpt2 by the number of branches, not its root": (
        law("square", {"scheme": "gpt2", "branches": 8}, lambda i, o: normal(0.02**2 / 8)),
        drawing(lambda w, source: w.normal_(0, 0.02 / 8, generator=source)),
    ),
    "siren without w0": (
        law("square", {"scheme": "siren", "first": False}, lambda i, o: uniform(6 / i / 900 / 3)),
        drawing(lambda w, source: w.uniform_(-((6 / w.shape[1]) ** 0.5), (6 / w.shape[1]) ** 0.5, generator=source)),
    ),
    "muP's head by 1/n_in": (
        law("square", {"scheme": "mup", "base_width": 32}, lambda i, o: normal(32 / i**2)),
        drawing(lambda w, source: w.normal_(0, w.shape[1] ** -0.5, generator=source)),
    ),
    "normal where it says uniform": (
        law("square", {"scheme": "xavier_uniform"}, xavier),
        drawing(lambda w, source: w.normal_(0, w.shape[1] ** -0.5, generator=source)),
    ),
}
LAWS = {name: Exhibit(check, ours, wrong, "KS distance|distinct|finite") for name, (check, wrong) in LAW_EXHIBITS.items()}


def unsigned_qr(source: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(4, 4, generator=source))[0]


def symmetric_root(source: torch.Generator) -> Tensor:
    """Orthogonal, and far from random: a rotation near the identity."""
    skew = torch.randn(4, 4, generator=source) * 0.1
    return torch.matrix_exp(skew - skew.T)


def whole_orthogonal(layer: nn.Module, attr: str) -> None:
    nn.init.orthogonal_(layer.get_parameter(attr), generator=generator(0, attr))


def own_orthogonal(layer: nn.Module, attr: str) -> None:
    ours(layer, attr, {"scheme": "orthogonal"}, 0)


def gates_orthogonal(fill: Callable[[nn.Module, str], None]) -> None:
    for name in ("lstm_hh", "gru_ih", "in_proj"):
        layer, case = LAYERS[name].make(), LAYERS[name]
        fill(layer, case.attr)
        checks.check_blocks_orthogonal(layer.get_parameter(case.attr), case.parts)


def plain_repeat(tensor: Tensor, factor: int) -> Tensor:
    sub = torch.randn(tensor.shape[0] // factor**2, *tensor.shape[1:], generator=generator(0, "sub"))
    return sub.repeat(factor**2, 1, 1, 1)


def own_icnr(tensor: Tensor, factor: int) -> Tensor:
    return SCHEMES["icnr"].fill(tensor, upscale_factor=factor, generator=generator(0, "sub"))


def corner_tap(tensor: Tensor) -> Tensor:
    """Takes the first tap for the centre."""
    tensor.zero_()
    nn.init.orthogonal_(tensor[..., 0, 0], generator=generator(0, "w"))
    return tensor


def flat_orthogonal(tensor: Tensor) -> Tensor:
    return nn.init.orthogonal_(tensor, generator=generator(0, "w"))


def own_delta(tensor: Tensor, groups: int = 1) -> Tensor:
    return SCHEMES["delta_orthogonal"].fill(tensor, groups=groups, generator=generator(0, "w"))


def one_group_of_two(tensor: Tensor) -> Tensor:
    """One orthogonal matrix over the outputs of all groups."""
    tensor.zero_()
    nn.init.orthogonal_(tensor[..., 1, 1], generator=generator(0, "w"))
    return tensor


def zeros_in_the_same_rows(shape: tuple[int, int], seed: int) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    drawn[: math.ceil(0.33 * shape[0])] = 0
    return drawn


def zeros_by_chance(shape: tuple[int, int], seed: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=source) * (torch.rand(shape, generator=source) > 0.33)


def own_sparse(shape: tuple[int, int], seed: int) -> Tensor:
    return SCHEMES["sparse"].fill(torch.empty(shape), sparsity=0.33, std=1.0, generator=torch.Generator().manual_seed(seed))


def sparse(draw: Callable[[tuple[int, int], int], Tensor]) -> None:
    checks.check_sparse([draw((40, 100), seed) for seed in range(50)], 0.33, 1.0)


STRUCTURE = {
    "QR without its signs": Exhibit(
        checks.check_haar, lambda source: SCHEMES["orthogonal"].fill(torch.empty(4, 4), generator=source), unsigned_qr, "random direction"
    ),
    "a rotation near the identity": Exhibit(
        checks.check_haar,
        lambda source: SCHEMES["orthogonal"].fill(torch.empty(4, 4), generator=source),
        symmetric_root,
        "random direction",
    ),
    "all gates as one orthogonal matrix": Exhibit(gates_orthogonal, own_orthogonal, whole_orthogonal, "Gram"),
    "a Gaussian for an orthogonal matrix": Exhibit(
        lambda draw: checks.check_orthogonal(draw(torch.empty(64, 64))),
        lambda w: SCHEMES["orthogonal"].fill(w, generator=generator(0, "w")),
        lambda w: w.normal_(0, 1 / 8, generator=generator(0, "w")),
        "Gram",
    ),
    "icnr by plain repeat": Exhibit(
        lambda draw: checks.check_icnr(draw(torch.empty(16, 3, 3, 3), 2), 2), own_icnr, plain_repeat, "checkerboard"
    ),
    "an orthogonal matrix of patches for a delta kernel": Exhibit(
        lambda draw: checks.check_delta_orthogonal(draw(torch.empty(16, 8, 3, 3))), own_delta, flat_orthogonal, "taps"
    ),
    "a delta in the corner": Exhibit(
        lambda draw: checks.check_delta_orthogonal(draw(torch.empty(16, 8, 3, 3))), own_delta, corner_tap, "norms change"
    ),
    "one orthogonal matrix over two groups": Exhibit(
        lambda draw: checks.check_delta_orthogonal(draw(torch.empty(16, 8, 3, 3)), groups=2),
        lambda w: own_delta(w, groups=2),
        one_group_of_two,
        "norms change",
    ),
    "dirac without its groups": Exhibit(
        lambda draw: checks.check_dirac(draw(torch.empty(8, 4, 3, 3)), groups=2),
        lambda w: SCHEMES["dirac"].fill(w, groups=2),
        nn.init.dirac_,
        "channel",
    ),
    "the identity turned around": Exhibit(
        lambda draw: checks.check_identity(draw(torch.empty(4, 6))), SCHEMES["eye"].fill, lambda w: nn.init.eye_(w).flip(0), "identity"
    ),
    "too few numbers to tell": Exhibit(
        lambda size: checks.check_law(torch.randn(size, generator=generator(0, "w")), normal(1.0)), 120_000, 1_000, "too few"
    ),
    "a generator that is not used": Exhibit(
        lambda fill: checks.check_equals_torch(fill, "xavier_normal", {}, (7, 12)),
        SCHEMES["xavier_normal"].fill,
        lambda w, generator: nn.init.xavier_normal_(w),
        "differs from torch's",
    ),
    "sparse by a coin for each entry": Exhibit(sparse, own_sparse, zeros_by_chance, "zeros in every column"),
    "sparse with the same rows everywhere": Exhibit(sparse, own_sparse, zeros_in_the_same_rows, "unevenly"),
}

GAINS = {
    f"{name}: {what}": Exhibit(lambda gain, name=name: checks.check_gain(gain, name, *ACTIVATIONS[name]), activation.gain, wrong, "gain of")
    for name, what, wrong in (
        ("selu", "torch's 3/4", lambda name: nn.init.calculate_gain("selu")),
        ("tanh", "torch's 5/3", lambda name: nn.init.calculate_gain("tanh")),
        ("sigmoid", "torch's 1", lambda name: nn.init.calculate_gain("sigmoid")),
        ("gelu", "the rectifier's", lambda name: math.sqrt(2)),
        ("tanh", "of the gradient", lambda name: activation.gain(name, "backward")),
        ("relu", "the square of it", lambda name: 2.0),
        ("leaky_relu", "of another slope", lambda name: nn.init.calculate_gain("leaky_relu", 0.2)),
    )
}


def padding_as_any_row(layer: nn.Module, attr: str, call: Mapping[str, Any], seed: int, shape: Any = None) -> None:
    layer.weight.data.normal_(0, call["std"], generator=torch.Generator().manual_seed(seed))


def padding_of_the_first_owner(layer: nn.Module, attr: str, call: Mapping[str, Any], seed: int, shape: Any = None) -> None:
    """Looks for padding_idx in the module that a tied weight is first registered in."""
    owner = layer.get_submodule(attr.rpartition(".")[0])
    padding_as_any_row(owner, "weight", call, seed)
    if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
        owner.weight.data[owner.padding_idx].zero_()


def writes_what_is_computed(layer: nn.Module, attr: str, call: Mapping[str, Any], seed: int, shape: Any = None) -> None:
    """Writes to `.weight`, which a parametrization computes anew at the next look."""
    nn.init.xavier_normal_(getattr(layer, attr).data, generator=torch.Generator().manual_seed(seed))


def fills_what_is_stored(layer: nn.Module, attr: str, call: Mapping[str, Any], seed: int, shape: Any = None) -> None:
    """Fills the parameters that are there, of which the weight is a function."""
    for parameter in layer.parametrizations.weight.parameters():
        nn.init.xavier_normal_(parameter, generator=torch.Generator().manual_seed(seed))


def every_dot_weight(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(".weight") and parameter.ndim >= 2:
            nn.init.xavier_uniform_(parameter)


def linear_modules(model: nn.Module) -> None:
    """What `model.apply(init_weights)` does with an isinstance check."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(module.weight)


def all_weights(model: nn.Module) -> None:
    mf.initialize(model, {"role": "weight", "scheme": "xavier_uniform"})


def own_tied(model: nn.Module, name: str, seed: int) -> Sequence[str]:
    return [row.name for row in mf.initialize(model, {"match": name, "scheme": "normal", "std": 0.02}, seed=seed)]


def twice_tied(model: nn.Module, name: str, seed: int) -> Sequence[str]:
    """Goes by names: both of them are filled, one after the other."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for each in names:
        model.get_parameter(each).data.normal_(0, 0.02, generator=generator(seed, each))
    return names


def untied(model: nn.Module, name: str, seed: int) -> Sequence[str]:
    """Puts a fresh parameter where the shared one was."""
    owner, _, attr = name.rpartition(".")
    drawn = torch.empty(model.get_parameter(name).shape).normal_(0, 0.02, generator=generator(seed, name))
    setattr(model.get_submodule(owner), attr, nn.Parameter(drawn))
    return ["embed.weight = head.weight"]


def keyed_by_the_name_given(model: nn.Module, name: str, seed: int) -> Sequence[str]:
    model.get_parameter(name).data.normal_(0, 0.02, generator=generator(seed, name))
    return ["embed.weight = head.weight"]


def own_gains(layers: Mapping[str, Any]) -> list[float]:
    init = {
        "rules": {"b": {"role": ["bias", "norm"], "scheme": "default"}, "w": {"role": "weight", "scheme": "lecun_normal", "gain": "auto"}}
    }
    plan = mf.plan({"model": {"layers": layers}, "data": {"input_shape": [8]}, "init": init})
    return [row.gain for row in plan.ledger if row.scheme == "lecun_normal" and row.gain is not None]


def gains_of_the_output(layers: Mapping[str, Any]) -> list[float]:
    """Of the activation that follows, as He's gain is often written."""
    found = []
    for following in ("tanh", "relu", "identity", "identity"):
        found.append(activation.gain(following))
    return found


def one_gain_for_all(layers: Mapping[str, Any]) -> list[float]:
    return [nn.init.calculate_gain("relu")] * 4


def linear_layers(widths: Mapping[str, int]) -> dict[str, Any]:
    return {name: {"_target_": "torch.nn.Linear", "out_features": width} for name, width in widths.items()}


def own_build(widths: Mapping[str, int], seed: int) -> Mapping[str, Tensor]:
    config = {"model": {"layers": linear_layers(widths)}, "data": {"input_shape": [16]}, "init": "kaiming_normal", "seed": seed}
    return mf.build(config).state_dict()


def build_by(draw: Callable[[Tensor, str, int, int], Any]) -> Callable[[Mapping[str, int], int], Mapping[str, Tensor]]:
    def build(widths: Mapping[str, int], seed: int) -> Mapping[str, Tensor]:
        model = nn.ModuleDict({name: nn.Linear(16, width, device="meta").to_empty(device="cpu") for name, width in widths.items()})
        for number, (name, parameter) in enumerate(model.named_parameters()):
            draw(parameter.data, name, number, seed)
        return model.state_dict()

    return build


def one_generator(widths: Mapping[str, int], seed: int) -> Mapping[str, Tensor]:
    """One generator for the whole model, as `torch.manual_seed(seed)` and construction do."""
    source = torch.Generator().manual_seed(seed)
    return build_by(lambda w, name, number, seed: w.normal_(generator=source))(widths, seed)


def global_generator(widths: Mapping[str, int], seed: int) -> Mapping[str, Tensor]:
    return build_by(lambda w, name, number, seed: w.normal_())(widths, seed)


def seeds_globally(tensor: Tensor, name: str, number: int, seed: int) -> None:
    torch.manual_seed(seed + sum(map(ord, name)))
    tensor.normal_()


def forget_biases(module: nn.Module) -> None:
    mf.initialize(module, {"role": "gate", "scheme": "forget_bias", "match": "*bias*"})


def both_biases(module: nn.Module) -> None:
    """Forgets that there are two, so that the gate starts at 2."""
    for name, parameter in module.named_parameters():
        if "bias" in name:
            parameter.data.zero_()
            hidden = len(parameter) // 4
            parameter.data[hidden : 2 * hidden] = 1.0


def first_gate(module: nn.Module) -> None:
    """Takes the first gate for the one that forgets: torch's order is input, forget, cell, output."""
    for name, parameter in module.named_parameters():
        if "bias" in name:
            parameter.data.zero_()
            if "_ih" in name:
                parameter.data[: len(parameter) // 4] = 1.0


def own_chrono(seed: int, hidden: int) -> Tensor:
    return SCHEMES["chrono"].fill(torch.empty(4 * hidden), max_steps=100, generator=torch.Generator().manual_seed(seed))


def log_uniform(seed: int, hidden: int) -> Tensor:
    """Draws the bias uniformly, not its exponential."""
    forget = torch.rand(hidden, generator=torch.Generator().manual_seed(seed)) * math.log(99)
    return torch.cat([-forget, forget, torch.zeros(2 * hidden)])


WHOLE = {
    "the forget bias in both biases": Exhibit(checks.check_forget_bias, forget_biases, both_biases, "sum to"),
    "the forget bias in the first gate": Exhibit(checks.check_forget_bias, forget_biases, first_gate, "sum to"),
    "chrono uniform in the bias itself": Exhibit(checks.check_chrono, own_chrono, log_uniform, "KS distance"),
    "a tied embedding of unit variance": Exhibit(
        checks.check_first_loss_of_tied,
        lambda w: SCHEMES["tied_embedding"].fill(w, generator=generator(0, "w")),
        lambda w: w.normal_(generator=generator(0, "w")),
        "the first loss is",
    ),
    "the prior's sign": Exhibit(
        checks.check_prior_bias,
        lambda bias, p: SCHEMES["prior_bias"].fill(bias, p=p),
        lambda bias, p: bias.fill_(math.log((1 - p) / p)),
        "it says",
    ),
    "padding_idx drawn like any row": Exhibit(checks.check_padding_row, ours, padding_as_any_row, "padding_idx"),
    "padding_idx of a tied weight's first owner alone": Exhibit(
        checks.check_padding_row_of_a_tie, ours, padding_of_the_first_owner, "head first: the row of padding_idx"
    ),
    "a write to a computed weight": Exhibit(checks.check_what_acts_is_filled, ours, writes_what_is_computed, "KS distance|distinct"),
    "the parts of a computed weight filled": Exhibit(checks.check_what_acts_is_filled, ours, fills_what_is_stored, "KS distance|distinct"),
    "only names that end in .weight": Exhibit(checks.check_every_matrix_is_filled, all_weights, every_dot_weight, "in_proj_weight"),
    "only modules that one thinks of": Exhibit(checks.check_every_matrix_is_filled, all_weights, linear_modules, "lstm"),
    "a tied weight once for each name": Exhibit(checks.check_tied, own_tied, twice_tied, "rows"),
    "a tie broken": Exhibit(checks.check_tied, own_tied, untied, "tie is broken"),
    "a tied weight keyed by the name it was picked by": Exhibit(
        checks.check_tied, own_tied, keyed_by_the_name_given, "depends on the name"
    ),
    "the gain of the activation after the layer": Exhibit(checks.check_gains_belong_to_the_input, own_gains, gains_of_the_output, "belong"),
    "one gain for all layers": Exhibit(checks.check_gains_belong_to_the_input, own_gains, one_gain_for_all, "belong"),
    "one generator after another": Exhibit(checks.check_keyed, own_build, one_generator, "changed"),
    "a generator for each position": Exhibit(
        checks.check_keyed, own_build, build_by(lambda w, name, n, seed: w.normal_(generator=generator(seed, str(n)))), "changed"
    ),
    "a generator for each shape": Exhibit(
        checks.check_keyed,
        own_build,
        build_by(lambda w, name, n, seed: w.normal_(generator=generator(seed, str(tuple(w.shape))))),
        "two layers of one shape",
    ),
    "a seed that is not looked at": Exhibit(
        checks.check_keyed, own_build, build_by(lambda w, name, n, seed: w.normal_(generator=generator(0, name))), "another seed"
    ),
    "torch's global generator": Exhibit(checks.check_keyed, own_build, global_generator, "changed"),
    "torch's global generator, seeded": Exhibit(checks.check_keyed, own_build, build_by(seeds_globally), "moved torch's global"),
}
EXHIBITS = {**LAWS, **STRUCTURE, **GAINS, **WHOLE}


@pytest.mark.parametrize("name", list(EXHIBITS))
def test_the_suite_catches_it_and_passes_what_is_right(name):
    exhibit = EXHIBITS[name]
    exhibit.check(exhibit.right)
    with torch.random.fork_rng(devices=[]), pytest.raises(AssertionError, match=exhibit.says):
        exhibit.check(exhibit.wrong)


def test_every_check_of_the_suite_has_an_exhibit_that_fails_it():
    source = Path(__file__).read_text()
    names = [name for name in vars(checks) if name.startswith("check_")]
    assert names and not [name for name in names if f"checks.{name}" not in source]
