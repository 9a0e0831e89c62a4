"""Small modules with one fault each, as they were reported of real code, and the same without it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DEPTH = 6


class Block(nn.Module):
    """Pre-norm attention and an MLP; `proj` and `c_proj` end a branch each."""

    def __init__(self, width: int):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = self.qkv(self.n1(x)).view(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, length, width)
        x = x + self.proj(mixed)
        return x + self.c_proj(F.gelu(self.fc(self.n2(x))))


class Language(nn.Module):
    """A small language model, as most are initialised: N(0, 0.02), biases 0."""

    def __init__(self, tied: bool = False, depth: int = DEPTH, width: int = 32, words: int = 50):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(words, width), nn.Embedding(16, width)
        self.h = nn.ModuleList(Block(width) for _ in range(depth))
        self.ln, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        if tied:
            self.head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        return self.head(self.ln(x))


def language(change: Callable[[Language], object] = lambda model: None, tied: bool = False) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = Language(tied)
        with torch.no_grad():
            change(model)
        return model

    return make


def scale_by_depth(*endings: str, last: int = DEPTH) -> Callable[[Language], None]:
    """Scales by 1 / sqrt(2 layers) what has one of these names, up to a block."""

    def change(model: Language) -> None:
        for block in model.h[:last]:
            for name, parameter in block.named_parameters():
                if name in endings:
                    parameter.mul_((2 * DEPTH) ** -0.5)

    return change


def all_of(name: str, do: Callable[[Tensor], object], first: int = DEPTH) -> Callable[[Language], None]:
    def change(model: Language) -> None:
        for block in model.h[:first]:
            do(block.get_parameter(name))

    return change


class Multiplied(nn.Module):
    """Matrices used as x @ W."""

    def __init__(self, draw: Callable[[Tensor], object]):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.empty(64, 256)), nn.Parameter(torch.empty(256, 64))
        draw(self.up)
        draw(self.down)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.up) @ self.down


class Experts(nn.Module):
    """A stack of experts in one tensor each, (experts, out, in)."""

    def __init__(self, draw: Callable[[Tensor], object]):
        super().__init__()
        self.router = nn.Linear(32, 4)
        self.up, self.down = nn.Parameter(torch.empty(4, 64, 32)), nn.Parameter(torch.empty(4, 32, 64))
        draw(self.up)
        draw(self.down)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(torch.einsum("bd,ehd->beh", x, self.up))
        return torch.einsum("beh,edh,be->bd", hidden, self.down, self.router(x).softmax(-1))


def by_last_fan(tensor: Tensor) -> None:
    nn.init.normal_(tensor, std=tensor.shape[-1] ** -0.5)


def alike(tensor: Tensor) -> None:
    by_last_fan(tensor)
    tensor.data[:] = tensor.data[:1].clone()


class Mixture(nn.Module):
    """Experts as modules."""

    def __init__(self, copied: bool):
        super().__init__()
        first = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        fresh = (nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(3))
        self.experts = nn.ModuleList((copy.deepcopy(first) for _ in range(3)) if copied else fresh)
        self.gate = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.gate(x).softmax(-1)
        return torch.stack([shares[..., place : place + 1] * expert(x) for place, expert in enumerate(self.experts)]).sum(0)


def grouped(normed: bool) -> nn.Module:
    """Depthwise and grouped convolutions by torch's fan_out, which counts the channels of all groups."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 1)]
    for groups in (64, 8):
        convolution = nn.Conv2d(64, 64, 3, padding=1, groups=groups)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
        layers += [convolution, *([nn.BatchNorm2d(64)] if normed else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))


class Adapted(nn.Module):
    """A frozen layer with a low-rank adapter."""

    def __init__(self, first: float, second: float):
        super().__init__()
        self.base = nn.Linear(32, 32).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(32, 4, bias=False), nn.Linear(4, 32, bias=False)
        self.lora_A.weight.data *= first
        self.lora_B.weight.data *= second

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_B(self.lora_A(x)) * 2


class Registers(nn.Module):
    """Tokens of its own before those of the input."""

    def __init__(self, tokens: Tensor):
        super().__init__()
        self.tokens, self.embed = nn.Parameter(tokens), nn.Linear(8, 16)
        self.layer, self.head = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.tokens.expand(len(x), -1, -1), self.embed(x)], 1)
        return self.head(self.layer(x)[:, 0])


class Gated(nn.Module):
    def __init__(self, start: float):
        super().__init__()
        self.value, self.gate = nn.Linear(16, 16), nn.Linear(16, 16)
        self.share = nn.Parameter(torch.tensor(start))
        nn.init.constant_(self.gate.bias, start)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * torch.sigmoid(self.gate(x)) * torch.sigmoid(self.share)


class ZeroCentred(nn.Module):
    """A norm that adds 1 to its scale."""

    def __init__(self, start: float):
        super().__init__()
        self.weight, self.layer = nn.Parameter(torch.full((16,), start)), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1.0 + self.weight)


class Rotary(nn.Module):
    """Positions by rotation, with frequencies that no state dict has."""

    def __init__(self, empty: bool):
        super().__init__()
        frequencies = 10000 ** -(torch.arange(8) / 8)
        self.register_buffer("inv_freq", torch.zeros(8) if empty else frequencies, persistent=False)
        self.q = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.outer(torch.arange(x.shape[1]).float(), self.inv_freq)
        one, other = self.q(x).chunk(2, -1)
        return torch.cat([one * angle.cos() - other * angle.sin(), other * angle.cos() + one * angle.sin()], -1)


def dense(change: Callable[[nn.Sequential], object], norm: bool = False) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(64, 64), *([nn.BatchNorm1d(64)] if norm else []), nn.ReLU(), nn.Linear(64, 10))
        with torch.no_grad():
            change(model)
        return model

    return make
