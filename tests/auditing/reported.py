"""Small modules with one fault each, as they were reported of public code, and the same without it: teachers, adapters, gates, tokens."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.auditing.faulty import Language


def multilayer(draw: Callable[[Tensor], object], width: int = 64) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        layers = [layer for _ in range(3) for layer in (nn.Linear(width, width), nn.ReLU())]
        for layer in layers[::2]:
            draw(layer.weight)
        return nn.Sequential(*layers, nn.Linear(width, 10))

    return make


class Never(Language):
    """As GPT-2 of transformers 5.0: the names are whole ones, so the test never matches."""

    def init_by_name(self) -> None:
        n_layer = len(self.h)
        for name, parameter in self.named_parameters():
            if name == "c_proj.weight":
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layer))


class Optional(Language):
    """The same behind a setting that is off."""

    depth_init = False

    def init_by_name(self) -> None:
        n_layer = len(self.h)
        if self.depth_init:
            for name, parameter in self.named_parameters():
                if name == "c_proj.weight":
                    nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layer))


class Always(Language):
    """The same with a test that matches."""

    def __init__(self):
        super().__init__()
        self.init_by_name()

    def init_by_name(self) -> None:
        n_layer = len(self.h)
        for name, parameter in self.named_parameters():
            if name.endswith("proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layer))


class SelfDistilled(nn.Module):
    """A student and what follows it by a moving average, as in MoCo, BYOL, DINO."""

    def __init__(self, right: bool, student: str, teacher: str, frozen: bool = True):
        super().__init__()
        online = self.encoder()
        following = copy.deepcopy(online) if right else self.encoder()
        self.add_module(student, online)
        self.add_module(teacher, following.requires_grad_(not frozen))
        self.names, self.predictor = (student, teacher), nn.Linear(16, 16)

    @staticmethod
    def encoder() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        student, teacher = (self.get_submodule(name) for name in self.names)
        with torch.no_grad():
            goal = teacher(x)
        return (self.predictor(student(x)) - goal).square().mean(-1)


class Distilled(nn.Module):
    """Random network distillation: the target is another network on purpose."""

    def __init__(self):
        super().__init__()
        self.predictor, self.target = SelfDistilled.encoder(), SelfDistilled.encoder().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.predictor(x) - self.target(x)


class Queries(nn.Module):
    """Learned queries that ask the inputs; with positions added to them or not."""

    def __init__(self, queries: Tensor, positions: bool = False):
        super().__init__()
        self.queries, self.positions = nn.Parameter(queries), nn.Parameter(torch.randn(1, 5, 16)) if positions else None
        self.embed, self.attention = nn.Linear(8, 16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        asked = self.queries if self.positions is None else self.queries + self.positions
        asked, x = asked.expand(len(x), -1, -1), self.embed(x)
        return self.head(self.norm(asked + self.attention(asked, x, x)[0]))


class Placed(nn.Module):
    """Tokens of 0 before those of the input, with positions added to all."""

    def __init__(self):
        super().__init__()
        self.tokens, self.embed = nn.Parameter(torch.zeros(1, 4, 16)), nn.Linear(8, 16)
        self.places = nn.Parameter(torch.randn(1, 9, 16) * 0.02)
        self.layer, self.head = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.tokens.expand(len(x), -1, -1), self.embed(x)], 1) + self.places
        return self.head(self.layer(x)[:, 0])


class Merged(nn.Module):
    """A frozen matrix to which the product of two thin ones is added before it meets the signal."""

    def __init__(self, first: float, second: float):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32, 32) / 6, requires_grad=False)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(4, 32) * first), nn.Parameter(torch.randn(32, 4) * second)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + self.lora_B @ self.lora_A * 2)


class Looked(nn.Module):
    """An adapter of a frozen embedding."""

    def __init__(self, first: float, second: float):
        super().__init__()
        self.table, self.first, self.second = nn.Embedding(50, 32), nn.Embedding(50, 4), nn.Linear(4, 32, bias=False)
        self.table.requires_grad_(False)
        self.first.weight.data *= first
        self.second.weight.data *= second
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.table(ids) + self.second(self.first(ids))))


class Bottleneck(nn.Module):
    """A frozen layer, a bottleneck that is added to what it gives, and another frozen layer."""

    def __init__(self, scale: float, frozen: bool = True):
        super().__init__()
        self.before, self.after = nn.Linear(32, 32), nn.Linear(32, 32)
        self.down, self.up = nn.Linear(32, 4), nn.Linear(4, 32)
        self.up.weight.data *= scale
        for layer in (self.before, self.after):
            layer.requires_grad_(not frozen)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        return self.after(x + self.up(F.gelu(self.down(x))))


class PackedGates(nn.Module):
    """A recurrent cell with its four gates in one layer."""

    def __init__(self, forget: float):
        super().__init__()
        self.gates = nn.Linear(16, 64)
        self.gates.bias.data.zero_()
        self.gates.bias.data[16:32] = forget

    def forward(self, x: Tensor) -> Tensor:
        into, keep, new, out = self.gates(x).chunk(4, -1)
        return out.sigmoid() * torch.tanh(into.sigmoid() * new.tanh() + keep.sigmoid() * x)


def recurrent(layer: Callable[..., nn.Module], start: float | Tensor) -> Callable[[], nn.Module]:
    """A recurrent layer whose second gate starts somewhere."""

    def make() -> nn.Module:
        made = layer(8, 16, batch_first=True)
        made.bias_hh_l0.data.zero_()
        made.bias_hh_l0.data[16:32] = start
        return made

    return make


class Buffered(nn.Module):
    """Tokens with positions from a buffer."""

    def __init__(self, name: str, values: Tensor):
        super().__init__()
        self.name, self.embed, self.head = name, nn.Embedding(50, 16), nn.Linear(16, 5)
        self.register_buffer(name, values)

    def forward(self, ids: Tensor) -> Tensor:
        values, count = self.get_buffer(self.name), ids.shape[1]
        if values.ndim == 1 and values.is_floating_point():
            values = torch.outer(torch.arange(count).float(), values).cos()
        elif values.ndim == 1:
            values = (values[:count] % 16)[:, None].float() / 16
        return self.head(self.embed(ids) + values[:count])
