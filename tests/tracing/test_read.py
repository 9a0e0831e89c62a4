"""What small modules of one's own compute is read from their run: fans, roles, packed blocks, branches, what acts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modelfactory.numerics.activation import gain
from modelfactory.parameters.info import ParamInfo
from modelfactory.parameters.roles import describe


class Written(nn.Module):
    """A module whose forward is given, with parameters of these shapes."""

    def __init__(self, forward: Any, **shapes: tuple[int, ...]):
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def infos_of(model: nn.Module, *shape: int) -> dict[str, ParamInfo]:
    found = describe(model, torch.zeros(shape))
    assert found[0].model.is_read, found[0].model.reading.graph.reason
    return {info.name: info for info in found}


# name: forward, shapes of the parameters, shape of the input, (fan_in, fan_out, copies) of w
FANS: dict[str, tuple[Any, dict[str, tuple[int, ...]], tuple[int, ...], tuple[float, float, tuple[int, ...]]]] = {
    "x @ w": (lambda m, x: x @ m.w, {"w": (6, 4)}, (2, 6), (6, 4, ())),
    "x @ w.T": (lambda m, x: x @ m.w.T, {"w": (4, 6)}, (2, 6), (6, 4, ())),
    "w @ x": (lambda m, x: (m.w @ x.mT).mT, {"w": (4, 6)}, (2, 6), (6, 4, ())),
    "addmm": (lambda m, x: torch.addmm(x.new_zeros(4), x, m.w), {"w": (6, 4)}, (2, 6), (6, 4, ())),
    "a stack by bmm": (lambda m, x: torch.bmm(x.expand(3, -1, -1), m.w), {"w": (3, 6, 4)}, (2, 6), (6, 4, (0,))),
    "a stack broadcast, then mixed": (lambda m, x: (x @ m.w).sum(0), {"w": (3, 6, 4)}, (2, 6), (6, 4, (0,))),
    "a stack by einsum": (
        lambda m, x: torch.einsum("beh,eoh->beo", torch.einsum("bd,ehd->beh", x, m.w), m.v),
        {"w": (3, 5, 6), "v": (3, 4, 5)},
        (2, 6),
        (6, 5, (0,)),
    ),
    "one of a stack": (lambda m, x: F.linear(x, m.w[1]), {"w": (3, 4, 6)}, (2, 6), (6, 4, (0,))),
    "heads": (lambda m, x: torch.einsum("btd,hdk->bthk", x, m.w), {"w": (2, 6, 3)}, (2, 5, 6), (6, 6, ())),
    "heads joined": (lambda m, x: torch.einsum("bthk,hkd->btd", x, m.w), {"w": (2, 3, 6)}, (2, 5, 2, 3), (6, 6, ())),
    "kept flat": (lambda m, x: F.linear(x, m.w.view(4, 6)), {"w": (24,)}, (2, 6), (6, 4, ())),
    "a filter": (lambda m, x: F.conv1d(x, m.w), {"w": (4, 6, 3)}, (2, 6, 9), (18, 4 * 3 * 7 / 9, ())),
    "tensordot": (lambda m, x: torch.tensordot(x, m.w, dims=1), {"w": (6, 4)}, (2, 6), (6, 4, ())),
    "standardised": (lambda m, x: F.linear(x, (m.w - m.w.mean(1, True)) / m.w.std(1, keepdim=True)), {"w": (4, 6)}, (2, 6), (6, 4, ())),
}


@pytest.mark.parametrize("name", FANS)
def test_fans_are_of_the_axes_that_are_summed_over(name: str):
    forward, shapes, shape, (fan_in, fan_out, copied) = FANS[name]
    info = infos_of(Written(forward, **shapes), *shape)["w"]
    found = info.facts.fans[0]
    assert (found.fan_in, found.fan_out) == pytest.approx((fan_in, fan_out)) and found.copied == copied
    assert "weight" in info.roles


def rms(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


# name: forward, shapes, shape of the input, a role that p has first
ROLES: dict[str, tuple[Any, dict[str, tuple[int, ...]], tuple[int, ...], str]] = {
    "scale of a norm written by hand": (lambda m, x: F.linear(rms(x) * m.p, m.w), {"p": (6,), "w": (4, 6)}, (2, 6), "norm"),
    "one more than it": (lambda m, x: F.linear(rms(x) * (1 + m.p), m.w), {"p": (6,), "w": (4, 6)}, (2, 6), "norm"),
    "of heads": (lambda m, x: rms(x) * m.p, {"p": (3, 6)}, (2, 3, 6), "norm"),
    "of channels": (
        lambda m, x: (x - x.mean((2, 3), True)) / x.std((2, 3), keepdim=True) * m.p, {"p": (1, 6, 1, 1)}, (2, 6, 4, 4), "norm",
    ),
    "shift of a norm": (lambda m, x: F.layer_norm(x, (6,)) * 2 + m.p, {"p": (6,)}, (2, 6), "norm"),
    "scale of a branch": (lambda m, x: x + m.p * torch.tanh(x @ m.w), {"p": (6,), "w": (6, 6)}, (2, 6), "scale"),
    "a temperature": (lambda m, x: (x @ m.w) * m.p.exp(), {"p": (), "w": (6, 6)}, (2, 6), "scale"),
    "gain of a weight": (lambda m, x: F.linear(x, m.w * m.p), {"p": (4, 1), "w": (4, 6)}, (2, 6), "scale"),
    "bias added": (lambda m, x: x @ m.w + m.p, {"p": (4,), "w": (6, 4)}, (2, 6), "bias"),
    "bias of heads": (lambda m, x: (x @ m.w).unflatten(-1, (2, 2)) + m.p, {"p": (2, 2), "w": (6, 4)}, (2, 6), "bias"),
    "positions": (lambda m, x: x @ m.w + m.p, {"p": (5, 4), "w": (6, 4)}, (2, 5, 6), "embedding"),
    "a class token": (lambda m, x: torch.cat([m.p.expand(2, -1, -1), x @ m.w], 1), {"p": (1, 1, 4), "w": (6, 4)}, (2, 5, 6), "embedding"),
    "a bias by distance": (
        lambda m, x: ((x @ m.w) @ (x @ m.w).mT + m.p[torch.arange(5)[:, None] - torch.arange(5) + 4]).softmax(-1),
        {"p": (9,), "w": (6, 4)},
        (2, 5, 6),
        "embedding",
    ),
    "factors of a weight": (lambda m, x: F.linear(x, m.w + m.p @ m.a), {"p": (4, 2), "a": (2, 6), "w": (4, 6)}, (2, 6), "weight"),
}


@pytest.mark.parametrize("name", ROLES)
def test_roles_follow_from_what_is_done(name: str):
    forward, shapes, shape, role = ROLES[name]
    assert infos_of(Written(forward, **shapes), *shape)["p"].roles[0] == role


def attended(q, k, v):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


# name: what is done with the outputs of a Linear of 6 inputs, its width, and the blocks: (name, positions)
PACKED: dict[str, tuple[Any, int, list[tuple[str, list[int]]]]] = {
    "chunk": (lambda y: attended(*y.chunk(3, -1)), 6, [("query", [0, 1]), ("key", [2, 3]), ("value", [4, 5])]),
    "split of unequal sizes": (
        lambda y: attended(*(part.unflatten(-1, (-1, 2)).movedim(-2, 1) for part in y.split([4, 2, 2], -1))),
        8, [("query", [0, 1, 2, 3]), ("key", [4, 5]), ("value", [6, 7])],
    ),
    "reshape and unbind": (
        lambda y: attended(*y.unflatten(-1, (3, 1, 2)).permute(2, 0, 3, 1, 4)), 6, [("query", [0, 1]), ("key", [2, 3]), ("value", [4, 5])],
    ),
    "slices": (lambda y: attended(y[..., :2], y[..., 2:4], y[..., 4:]), 6, [("query", [0, 1]), ("key", [2, 3]), ("value", [4, 5])]),
    "a head after the other": (
        lambda y: attended(*y.unflatten(-1, (2, 3, 1)).permute(3, 0, 2, 1, 4)), 6, [("query", [0, 3]), ("key", [1, 4]), ("value", [2, 5])],
    ),
    "keys and values": (
        lambda y: F.scaled_dot_product_attention(torch.ones(2, 5, 2), *y.chunk(2, -1)), 4, [("key", [0, 1]), ("value", [2, 3])],
    ),
    "a gated unit": (lambda y: F.silu(y.chunk(2, -1)[0]) * y.chunk(2, -1)[1], 4, [("gate", [0, 1]), ("up", [2, 3])]),
    "nn.GLU": (lambda y: F.glu(y, -1), 4, [("up", [0, 1]), ("gate", [2, 3])]),
    "every other": (lambda y: F.gelu(y[..., 1::2]) * y[..., ::2], 4, [("up", [0, 2]), ("gate", [1, 3])]),
}
WHOLE: dict[str, Any] = {
    "heads alone": lambda y: attended(*(y.unflatten(-1, (2, 3)).movedim(-2, 1),) * 3),
    "rotated halves": lambda y: y * 0.5 + torch.cat([-y[..., 3:], y[..., :3]], -1) * 0.5,
    "rotated in part": lambda y: torch.cat([y[..., :2] * 0.5 + torch.cat([-y[..., 1:2], y[..., :1]], -1), y[..., 2:]], -1).tanh(),
    "every other rotated": lambda y: torch.stack([y[..., ::2] * 0.5 - y[..., 1::2], y[..., 1::2] * 0.5 + y[..., ::2]], -1).flatten(-2),
    "split behind an activation": lambda y: torch.cat([part.tanh() for part in F.relu(y).chunk(2, -1)], -1),
    "a part alone": lambda y: y[..., :2].tanh(),
}


class Projected(nn.Module):
    def __init__(self, then: Any, width: int):
        super().__init__()
        self.p = nn.Linear(6, width)
        self.then = then

    def forward(self, x):
        return self.then(self.p(x))


@pytest.mark.parametrize("name", PACKED)
def test_a_split_shows_the_matrices_that_a_projection_packs(name: str):
    then, width, blocks = PACKED[name]
    infos = infos_of(Projected(then, width), 2, 5, 6)
    for info in infos.values():
        assert [(of, part.positions) for of, part in zip(info.packed, info.parts, strict=True)] == blocks, info.name


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_put_together_again_is_one_matrix(name: str):
    assert infos_of(Projected(WHOLE[name], 6), 2, 5, 6)["p.weight"].packed == ()


class Block(nn.Module):
    def __init__(self, add: Any):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm, self.add = nn.LayerNorm(6), add

    def forward(self, x):
        return self.head(self.add(self, self.stem(x)))


ENDS: dict[str, tuple[Any, set[str]]] = {
    "a plain branch": (lambda m, x: x + m.b(m.a(x).relu()), {"b"}),
    "registered the other way": (lambda m, x: x + m.a(m.b(x).relu()), {"a"}),
    "a gated branch": (lambda m, x: x + m.b(F.silu(m.a(x)) * m.c(x)), {"b"}),
    "parallel branches": (lambda m, x: x + m.a(m.norm(x)) + m.b(m.norm(x).tanh()), {"a", "b"}),
    "parallel branches, added first": (lambda m, x: m.a(m.norm(x)) + m.b(m.norm(x)) + x, {"a", "b"}),
    "one after the other": (lambda m, x: (y := x + m.a(x.relu())) + m.b(y.tanh()), {"a", "b"}),
    "post-norm": (lambda m, x: m.norm(x + m.b(m.a(x).relu())), {"b"}),
    "a norm at its end": (lambda m, x: x + m.norm(m.b(m.a(x).relu())), {"b"}),
    "a shortcut with weights": (lambda m, x: m.c(x) + m.b(m.a(x).relu()), {"b"}),
    "weighed by a gate at its end": (lambda m, x: x + (y := m.b(m.a(x).relu())) * m.c(y).sigmoid(), {"b"}),
    "in place": (lambda m, x: m.b(m.a(x).relu()).add_(x), {"b"}),
    "a pair of filters is one": (lambda m, x: m.a(x) + m.b(x), set()),
    "a gelu by hand": (lambda m, x: (y := m.a(x)) * (1 + torch.tanh(y + 0.04 * y**3)), set()),
    "a highway": (lambda m, x: (g := m.a(x).sigmoid()) * x + (1 - g) * m.b(x).relu(), set()),
    "no branch": (lambda m, x: m.b(m.a(x).relu()), set()),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_branch_ends_in_the_weights_whose_output_is_added(name: str):
    add, ends = ENDS[name]
    model = Block(add)
    infos = infos_of(model, 3, 6)
    found = {info.name for info in infos.values() if "residual_out" in info.roles}
    assert found == {f"{end}.{attr}" for end in ends for attr in ("weight", "bias")}
    if ends and "post-norm" not in name and "shortcut" not in name:  # with the ends at 0 the block is the identity
        with torch.no_grad():
            for info in infos.values():
                if "residual_end" in info.roles or "residual_out" in info.roles or info.name == "norm.bias":
                    info.parameter.zero_()
        x = torch.randn(3, 6)
        assert torch.allclose(model(x), model.head(model.stem(x)))


ACTING: dict[str, tuple[Any, float]] = {
    "silu(z1) z2": (lambda m, x: F.silu(m.a(x)) * m.c(x), 1.677),
    "z2 silu(z1)": (lambda m, x: m.c(x) * F.silu(m.a(x)), 1.677),
    "gelu(z1) z2": (lambda m, x: F.gelu(m.a(x)) * m.c(x), gain("gelu")),
    "sigmoid(z1) z2": (lambda m, x: m.a(x).sigmoid() * m.c(x), 1.846),
    "swish by hand": (lambda m, x: (y := m.a(x)) * y.sigmoid(), 1.677),
    "relu squared": (lambda m, x: m.a(x).relu().square(), 1 / math.sqrt(1.5)),
    "nothing": (lambda m, x: m.a(x), 1.0),
    "a norm": (lambda m, x: m.norm(m.a(x).relu()), 1.0),
}


@pytest.mark.parametrize("name", ACTING)
def test_the_gain_of_a_product_is_that_of_its_factors(name: str):
    between, right = ACTING[name]
    acting = infos_of(Block(lambda m, x: m.b(between(m, x))), 3, 6)["b.weight"].facts.activation
    assert acting is not None
    assert (1.0 if acting.function is None else gain(acting.function)) == pytest.approx(right, rel=1e-3)
