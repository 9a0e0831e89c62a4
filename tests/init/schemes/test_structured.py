"""Structure that no distribution shows: places of zeros, groups, repeated kernels, empty tensors."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import modelfactory as mf
from modelfactory.config.errors import SchemeError
from modelfactory.init.fans import Fans
from modelfactory.init.schemes.table import SCHEMES
from modelfactory.numerics.rng import generator


def test_sparse_equals_torch_under_the_same_seed():
    ours = SCHEMES["sparse"].fill(torch.empty(30, 20), sparsity=0.3, generator=torch.Generator().manual_seed(5))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        theirs = nn.init.sparse_(torch.empty(30, 20), 0.3)
    assert torch.equal(ours, theirs)


def test_sparse_leaves_global_random_state_as_it_is():
    before = torch.get_rng_state()
    SCHEMES["sparse"].fill(torch.empty(30, 20), sparsity=0.3, generator=generator(0, "w"))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("layer", [nn.Linear(37, 11), nn.Conv2d(3, 5, 3)], ids=lambda layer: type(layer).__name__)
def test_fan_in_uniform_equals_torchs_default(layer):
    ours = SCHEMES["fan_in_uniform"].fill(torch.empty_like(layer.weight), generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer.reset_parameters()
    assert torch.equal(ours, layer.weight)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_delta_orthogonal_keeps_the_norm(groups):
    kernel = SCHEMES["delta_orthogonal"].fill(torch.empty(16, 8 // groups, 3), groups=groups, generator=generator(0, "w"))
    x = torch.randn(2, 8, 10, generator=generator(0, "x"))
    assert F.conv1d(x, kernel, padding=1, groups=groups).norm().item() == pytest.approx(x.norm().item(), rel=1e-5)
    _, std = SCHEMES["delta_orthogonal"].moments(tuple(kernel.shape), None, groups=groups)
    assert kernel.square().mean().sqrt().item() == pytest.approx(std, rel=1e-5)  # exact: the norm of Q is fixed


@pytest.mark.parametrize(
    ("name", "shape", "args"),
    [
        ("eye", (3, 5), {}),
        ("dirac", (8, 3, 3, 3), {"groups": 2}),
        ("dirac", (4, 6, 5), {}),
        ("constant", (3, 2), {"val": 0.3}),
        ("ones", (3,), {}),
    ],
    ids=str,
)
def test_moments_of_what_has_no_chance_are_exact(name, shape, args):
    values = SCHEMES[name].fill(torch.empty(shape), **args).double()
    assert (values.mean().item(), values.std(correction=0).item()) == pytest.approx(
        SCHEMES[name].moments(shape, None, **args), abs=1e-7
    )


@pytest.mark.parametrize("scheme", ["kaiming_uniform", "xavier_normal", "orthogonal"])
def test_icnr_repeats_what_the_scheme_draws(scheme):
    whole = SCHEMES["icnr"].fill(torch.empty(18, 4, 3, 3), upscale_factor=3, scheme=scheme, generator=generator(0, "w"))
    sub = SCHEMES[scheme].fill(torch.empty(2, 4, 3, 3), generator=generator(0, "w"))
    assert torch.equal(whole[::9], sub) and torch.equal(whole[8], sub[0]) and torch.equal(whole[9], sub[1])
    assert SCHEMES["icnr"].moments((18, 4, 3, 3), None, 3, scheme) == SCHEMES[scheme].moments((2, 4, 3, 3), None)


EMPTY = [
    ("xavier_normal", (0, 5), {}),
    ("kaiming_normal", (5, 0), {}),
    ("orthogonal", (0, 5), {}),
    ("sparse", (0, 3), {"sparsity": 0.5}),
    ("delta_orthogonal", (0, 0, 3), {}),
    ("icnr", (0, 3, 3, 3), {}),
    ("trunc_normal", (0,), {}),
    ("eye", (0, 3), {}),
]


@pytest.mark.parametrize(("name", "shape", "args"), EMPTY, ids=str)
def test_an_empty_tensor_is_left_alone(name, shape, args):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SCHEMES[name].fill(torch.empty(shape), **args).shape == shape


def test_fans_of_zero_are_refused_unless_there_is_nothing_to_draw():
    with pytest.raises(SchemeError, match="must both be > 0"):
        SCHEMES["xavier_normal"].fill(torch.empty(2, 5), fans=Fans(5.0, 0.0))
    SCHEMES["xavier_normal"].fill(torch.empty(0, 5), fans=Fans(5.0, 0.0))


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(4, 6, 3, padding=1),
        nn.ConvTranspose2d(4, 4, 1),
        nn.ConvTranspose2d(5, 15, 5, padding=2),
        nn.ConvTranspose1d(6, 8, 3, padding=1, groups=2),  # 3 channels in and 4 out of each group
        nn.ConvTranspose3d(2, 6, 3, padding=1),
        nn.Conv1d(6, 9, 5, padding=2, groups=3),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv3d(4, 4, 3, padding=1, groups=2),
    ],
    ids=str,
)
def test_delta_orthogonal_keeps_the_norm_by_any_convolution(layer: nn.Module):
    """A transposed one has its channels in first; of a grouped one each group is orthogonal by itself, which the layer says and no rule."""
    x = torch.randn(3, layer.in_channels, *[7] * (layer.weight.ndim - 2))  # pyright: ignore
    rules = [{"match": "weight", "scheme": "delta_orthogonal", "gain": 2.0}, {"match": "bias", "scheme": "zeros"}]
    ledger = mf.initialize(layer, rules, example=x)
    assert layer(x).norm().item() == pytest.approx(2 * x.norm().item(), rel=1e-4)
    row = ledger["weight"]
    assert row.expected_std == pytest.approx(layer.weight.square().mean().sqrt().item(), rel=1e-4)  # pyright: ignore


def test_the_identity_by_groups_is_that_of_the_layer():
    layer = nn.ConvTranspose1d(4, 4, 3, padding=1, groups=2, bias=False)
    mf.initialize(layer, {"match": "weight", "scheme": "dirac"})
    x = torch.randn(2, 4, 9)
    assert torch.equal(layer(x), x)


def test_a_transposed_convolution_of_fewer_channels_out_is_refused():
    with pytest.raises(mf.ConfigError, match="4 out and 6 in"):
        mf.initialize(nn.ConvTranspose2d(6, 4, 3), {"match": "weight", "scheme": "delta_orthogonal"})
