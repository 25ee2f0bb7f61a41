"""Levels of a slide: a pyramid of maps, cells that talk to their neighbours, places that listen to coarser levels."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stgnn.nn import lattice
from stgnn.nn.attention import edge_attention, gatv2_attention
from stgnn.nn.blocks import mlp

if TYPE_CHECKING:
    from jaxtyping import Float

WIDTHS = (64, 96, 128, 128, 128)
"""Channels of the maps, each of which is half as fine as the one before."""

STEM_WIDTH = 48
"""Channels between the field and the first map."""


class Pyramid(nn.Module):
    """Fully convolutional: maps of a field, one half as fine as the other, for one pass over it.

    Parameters
    ----------
    channels
        Of the field.
    stem
        Cells of the field along a side of those of the finest map.
    """

    def __init__(self, channels: int, stem: int) -> None:
        super().__init__()
        self.stem = stem
        self.strides = tuple(stem << level for level in range(len(WIDTHS)))
        """Cells of the field along a side of those of each map; the field's sides are multiples of the last."""
        self.enter = _stem(channels, stem)
        before = (STEM_WIDTH if stem > 1 else channels, *WIDTHS[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(_convolution(i, o, 1 if level == 0 else 2), _convolution(o, o, 1))
            for level, (i, o) in enumerate(zip(before, WIDTHS, strict=True))
        )

    def forward(self, field: Float[Tensor, "c h w"]) -> list[Tensor]:
        """Maps (channels, rows, columns), the finest first."""
        x, maps = self.enter(field[None]), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x[0])
        return maps


def _stem(channels: int, stem: int) -> nn.Module:
    """From a field to cells ``stem`` times as wide: nothing, or a convolution for each halving."""
    halvings = stem.bit_length() - 1
    if stem != 1 << halvings:
        raise ValueError(f"stem: expected a power of 2; found {stem}")
    widths = [channels, *(STEM_WIDTH >> (halvings - 1 - level) for level in range(halvings))]
    return nn.Sequential(*(_convolution(i, o, 2) for i, o in itertools.pairwise(widths)))


def _convolution(before: int, after: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8, after), nn.GELU())


class GatTransformer(nn.Module):
    r"""Rounds of graph attention between the cells of a map, and a transformer over what each cell was in every round.

    .. math:: h^{l+1} = h^l + \mathrm{GATv2}(h^l), \quad o_i = \frac{1}{L + 1} \sum_l
        \mathrm{Transformer}(h_i^0 + p_0, \dots, h_i^L + p_L)_l

    References
    ----------
    Zhu et al., MagNet, arXiv 2502.21011; Brody et al., How attentive are graph attention networks?, ICLR 2022.
    """

    def __init__(self, width: int, rounds: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(rounds))
        self.target = nn.ModuleList(nn.Linear(width, width) for _ in range(rounds))
        self.source = nn.ModuleList(nn.Linear(width, width) for _ in range(rounds))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(rounds))
        self.score = nn.ParameterList(
            nn.Parameter(torch.randn(heads, width // heads) / math.sqrt(width // heads)) for _ in range(rounds)
        )
        self.depth = nn.Parameter(torch.randn(rounds + 1, width) * 0.02)
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = mlp(width, 2 * width, width, 0.0)

    def forward(self, field: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
        """Return a map of the same shape."""
        shape = field.shape[1], field.shape[2]
        near, mask = lattice.neighbours(shape, field.device)
        h = field.flatten(1).T
        states = [h]
        for norm, target, source, score, out in zip(
            self.norms, self.target, self.source, self.score, self.out, strict=True
        ):
            x = norm(h)
            left, right = (side(x).view(len(x), self.heads, -1) for side in (target, source))
            message, _ = gatv2_attention(left, right, near, mask, score)
            h = h + out(message.flatten(1))
            states.append(h)
        token = torch.stack(states, 1) + self.depth  # (cells, depths, c)
        x = self.norm_attention(token)
        token = token + self.attention(x, x, x, need_weights=False)[0]
        token = token + self.mlp(self.norm_mlp(token))
        return token.mean(1).T.view(-1, *shape)


class LevelAttention(nn.Module):
    r"""Places attend to the cells of a coarser level around them.

    .. math:: o_n = W \sum_j \mathrm{softmax}_j\Big(\frac{q_n \cdot k_j}{\sqrt d} + b(r_j - r_n)\Big) v_j

    with :math:`b` a small network of the offset in cells, so that what is asked for depends on the place and on where.
    """

    def __init__(self, width: int, channels: int, side: int, inner: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.side, self.heads = side, heads
        self.norm, self.norm_cells = nn.LayerNorm(width), nn.LayerNorm(channels)
        self.query, self.key, self.value = (
            nn.Linear(width, inner),
            nn.Linear(channels, inner),
            nn.Linear(channels, inner),
        )
        self.where = nn.Sequential(nn.Linear(2, 16), nn.GELU(), nn.Linear(16, heads))
        self.out = nn.Linear(inner, width)

    def forward(
        self, x: Float[Tensor, "n d"], field: Float[Tensor, "c h w"], places: Float[Tensor, "n 2"], stride: int
    ) -> Float[Tensor, "n d"]:
        """What the places hear."""
        near, offset, inside = lattice.window(places, (field.shape[1], field.shape[2]), stride, self.side)
        cells = self.norm_cells(field.flatten(1).T)
        query, key, value = (
            layer(y).view(len(y), self.heads, -1)
            for layer, y in ((self.query, self.norm(x)), (self.key, cells), (self.value, cells))
        )
        bias = self.where(offset.to(x.dtype) / self.side)
        return self.out(edge_attention(query, key, value, near, inside, bias).flatten(1))
