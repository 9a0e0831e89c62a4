"""The layers of today's language models: attention with its variants, gated feed-forward, positions without parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    r"""Multi-head self-attention, `softmax(q k^T / sqrt(d)) v` over (N, T, D), with a matrix of its own for each of its four projections.

    Args:
        embed_dim: D, the width that comes in and goes out; in a config it is inferred.
        num_heads: heads of the queries.
        kv_heads: heads of the keys and values, each shared by num_heads/kv_heads queries (grouped-query attention, Ainslie et al. 2023);
            None: as many as queries; 1: multi-query attention (Shazeer 2019).
        head_dim: the width of a head; None: embed_dim/num_heads.
        causal: whether a position sees itself and those before it only.
        rotary: the base of rotary positions (Su et al. 2021), 10000 there; None: none.
        qk_norm: whether queries and keys go through an RMS norm of each head (Henry et al. 2020; Qwen 3, OLMo 2).
        bias: whether the projections have biases.
        dropout: of the attention weights, while training.

    Raises:
        ValueError: sizes that do not divide, or an odd head_dim with rotary positions.

    Example:
        >>> layer = Attention(16, 4, kv_heads=2, causal=True, rotary=10000.0)
        >>> layer(torch.zeros(2, 5, 16)).shape, layer.key.weight.shape
        (torch.Size([2, 5, 16]), torch.Size([8, 16]))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = False,
        rotary: float | None = None,
        qk_norm: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
    ):
        kv_heads = num_heads if kv_heads is None else kv_heads
        if num_heads < 1 or kv_heads < 1 or num_heads % kv_heads:
            raise ValueError(f"{num_heads} heads of queries cannot share {kv_heads} of keys; give kv_heads that divides num_heads")
        if head_dim is None and embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is no multiple of num_heads {num_heads}; give another, or head_dim")
        head_dim = embed_dim // num_heads if head_dim is None else head_dim
        if rotary is not None and head_dim % 2:
            raise ValueError(f"rotary positions turn pairs, and a head has {head_dim} units; give an even head_dim")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; give 0 <= dropout < 1")
        super().__init__()
        self.num_heads, self.kv_heads, self.head_dim = num_heads, kv_heads, head_dim
        self.causal, self.rotary, self.dropout = causal, rotary, dropout
        self.query = nn.Linear(embed_dim, num_heads * head_dim, bias=bias)
        self.key = nn.Linear(embed_dim, kv_heads * head_dim, bias=bias)
        self.value = nn.Linear(embed_dim, kv_heads * head_dim, bias=bias)
        self.query_norm = nn.RMSNorm(head_dim) if qk_norm else None
        self.key_norm = nn.RMSNorm(head_dim) if qk_norm else None
        self.out = nn.Linear(num_heads * head_dim, embed_dim, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        query, key, value = (self._heads(part(input)) for part in (self.query, self.key, self.value))
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if self.rotary is not None:
            query, key = rotate(query, self.rotary), rotate(key, self.rotary)
        if self.kv_heads != self.num_heads:
            shared = self.num_heads // self.kv_heads
            key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, projected: Tensor) -> Tensor:
        """(N, T, heads * d) as (N, heads, T, d)."""
        return projected.unflatten(2, (-1, self.head_dim)).transpose(1, 2)

    def extra_repr(self) -> str:
        parts = [f"num_heads={self.num_heads}"]
        parts += [f"kv_heads={self.kv_heads}"] if self.kv_heads != self.num_heads else []
        parts += ["causal"] if self.causal else []
        parts += [f"rotary={self.rotary:g}"] if self.rotary is not None else []
        return ", ".join(parts)


def rotate(heads: Tensor, base: float = 10000.0) -> Tensor:
    """Turn unit i and i + d/2 of each head (N, heads, T, d) at position t by the angle t * base^(-2i/d) (Su et al. 2021).

    The product of a query and a key turned so depends on the distance of their positions alone, and no norm changes.

    Example:
        >>> heads = torch.ones(1, 1, 3, 4)
        >>> torch.allclose(rotate(heads).norm(dim=-1), heads.norm(dim=-1))
        True
    """
    length, half = heads.shape[-2], heads.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=heads.device, dtype=torch.float32) / half)
    angle = torch.arange(length, device=heads.device, dtype=torch.float32)[:, None] * frequency
    cos, sin = angle.cos().to(heads.dtype), angle.sin().to(heads.dtype)
    first, second = heads[..., :half], heads[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class GatedMLP(nn.Module):
    """A gated feed-forward layer, `down(f(gate(x)) * up(x))` (Shazeer 2020): SwiGLU with f = SiLU, GEGLU with GELU.

    Args:
        in_features: the width that comes in and goes out; in a config it is inferred.
        hidden_features: the width between.
        activation: f; None: SiLU.
        bias: whether the three projections have biases.

    Example:
        >>> GatedMLP(8, 16)(torch.zeros(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, in_features: int, hidden_features: int, activation: nn.Module | None = None, bias: bool = False):
        super().__init__()
        self.gate = nn.Linear(in_features, hidden_features, bias=bias)
        self.up = nn.Linear(in_features, hidden_features, bias=bias)
        self.activation = nn.SiLU() if activation is None else activation
        self.down = nn.Linear(hidden_features, in_features, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(input)) * self.up(input))


class SinusoidalPositions(nn.Module):
    """Adds to position t of (N, T, D) the sines and cosines of t * 10000^(-2i/D) (Vaswani et al. 2017); it has no parameters.

    Example:
        >>> SinusoidalPositions()(torch.zeros(1, 2, 4))[0, 0].tolist()
        [0.0, 1.0, 0.0, 1.0]
    """

    def __init__(self, base: float = 10000.0, scale: float = 1.0):
        super().__init__()
        self.base, self.scale = base, scale

    def forward(self, input: Tensor) -> Tensor:
        length, width = input.shape[1:]
        even = torch.arange(0, width, 2, device=input.device, dtype=torch.float32)
        angle = torch.arange(length, device=input.device, dtype=torch.float32)[:, None] * torch.exp(even * (-math.log(self.base) / width))
        positions = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width]
        return input + self.scale * positions.to(input.dtype)

    def extra_repr(self) -> str:
        return f"base={self.base:g}" + ("" if self.scale == 1 else f", scale={self.scale:g}")
