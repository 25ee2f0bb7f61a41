"""Layers built from the attention functions: thin, pre-norm, residual."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgnn.nn import attention

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def mlp(width_in: int, width: int, width_out: int, dropout: float) -> nn.Sequential:
    """Two linear layers with a GELU between them."""
    return nn.Sequential(nn.Linear(width_in, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width_out))


class Gate(nn.Module):
    r"""Let a message through as far as both sides agree: :math:`h + g \odot m`, :math:`g = \sigma(W[h, m] + b)`.

    With ``openness`` 0 the cell's own state passes unchanged, to the last bit.
    """

    def __init__(self, width: int, bias: float = -2.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(2 * width, width)
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, h: Float[Tensor, "n d"], message: Float[Tensor, "n d"], openness: float) -> Float[Tensor, "n d"]:
        """Return the gated sum."""
        message = self.norm(message)
        gate = torch.sigmoid(self.gate(torch.cat([h, message], dim=1)))
        return h + openness * gate * message


class EdgeAttention(nn.Module):
    """Multi-head attention over the spatial neighbours, with a learned decay by distance."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.decay = nn.Parameter(torch.zeros(heads))
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))

    def forward(
        self,
        h: Float[Tensor, "n d"],
        neighbours: Int[Tensor, "n k"],
        distance: Float[Tensor, "n k"],
        mask: Bool[Tensor, "n k"],
    ) -> Float[Tensor, "n d"]:
        """Return one message a cell; ``distance`` is in units of the section's spacing."""
        query, key, value = self.qkv(self.norm(h)).view(len(h), 3, self.heads, -1).unbind(1)  # (n, h, d / h)
        bias = -distance[..., None] * F.softplus(self.decay)
        return self.out(attention.edge_attention(query, key, value, neighbours, mask, bias).flatten(1))


class RegionTransformer(nn.Module):
    """Region tokens attend to all tokens of their section, then every cell reads them back: linear in both."""

    def __init__(self, width: int, heads: int, layers: int, dropout: float, frequencies: int = 6, dims: int = 2) -> None:
        super().__init__()
        self.heads = heads
        # wave lengths from 2 to 64 regions, directions spread over the circle (or sphere)
        direction = F.normalize(torch.randn(frequencies, dims, generator=torch.Generator().manual_seed(0)), dim=1)
        length = torch.logspace(1, 6, frequencies, base=2.0)
        self.frequency = nn.Parameter(direction * (2 * math.pi / length)[:, None])
        self.amplitude = nn.Parameter(torch.zeros(frequencies))
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers + 1))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.mix = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout)) for _ in range(layers))
        self.feed = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), mlp(width, 2 * width, width, dropout)) for _ in range(layers)
        )
        self.read_query = nn.Linear(width, width)
        self.read_key = nn.Linear(width, 2 * width)

    def forward(
        self,
        cells: Float[Tensor, "n d"],
        cell_position: Float[Tensor, "n p"],
        cell_section: Int[Tensor, "n"],
        tokens: Float[Tensor, "m d"],
        token_position: Float[Tensor, "m p"],
        token_section: Int[Tensor, "m"],
        n_sections: int,
    ) -> Float[Tensor, "n d"]:
        """Return what each cell reads; positions are in units of the regions' side."""
        where = attention.position_features(token_position, self.frequency, self.amplitude)
        for norm, qkv, mix, feed in zip(self.norm[:-1], self.qkv, self.mix, self.feed, strict=True):
            query, key, value = qkv(norm(tokens)).view(len(tokens), 3, self.heads, -1).unbind(1)
            state = attention.global_state(_positive(key), value, where, token_section, n_sections)
            heard = attention.global_attention(_positive(query), where, token_section, *state)
            tokens = tokens + mix(heard.flatten(1))
            tokens = tokens + feed(tokens)
        key, value = self.read_key(self.norm[-1](tokens)).view(len(tokens), 2, self.heads, -1).unbind(1)
        state = attention.global_state(_positive(key), value, where, token_section, n_sections)
        query = self.read_query(cells).view(len(cells), self.heads, -1)
        here = attention.position_features(cell_position, self.frequency, self.amplitude)
        return attention.global_attention(_positive(query), here, cell_section, *state).flatten(1)


def _positive(x: Tensor) -> Tensor:
    return F.elu(x) + 1
