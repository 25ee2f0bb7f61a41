"""The network behind predicted expression: a field of rates over a slide, from levels of tissue that talk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgnn.nn import lattice
from stgnn.nn.blocks import mlp
from stgnn.nn.levels import WIDTHS, GatTransformer, LevelAttention, Pyramid

if TYPE_CHECKING:
    from jaxtyping import Float

SPOT, REGION = 3, 4
"""Maps of the pyramid that stand for the levels of spots and of regions."""

SIDE = 5
"""Cells along a side of the window that a place attends to, on either level."""


_UNTOLD = 0.3
"""Share of the frozen features that is left out in training: there are many, and they are much alike."""

_MOST = 8.0
"""How many times the mean linear rates may be, or its part: beyond it they are beyond what they were learned from."""


@dataclass(frozen=True)
class Parts:
    """What the network is made of; each part can be switched off.

    Parameters
    ----------
    cross_attention
        Whether places attend to the levels of spots and regions.
    graph
        Whether the cells of these levels talk to their neighbours first.
    rounds
        Rounds of that.
    width
        Width of a place's state.
    dropout
        Share of a place's state that is left out in training.
    """

    cross_attention: bool = True
    graph: bool = True
    rounds: int = 2
    width: int = 192
    dropout: float = 0.2


class RateNetwork(nn.Module):
    r"""Share of each gene, and density of all counts, at any place of a slide.

    A pyramid gives maps :math:`m_l` of the slide. A place :math:`r` reads all of them, and listens to the levels of
    spots and of regions around it, whose cells have talked with their neighbours:

    .. math:: x = W [m_0(r), \dots, m_L(r)], \quad
        y = x + \sum_{l \in \{spot, region\}} \mathrm{Attention}_l(x, \mathrm{GAT}_l(m_l)), \quad
        \log p_g(r) = \log(1 + h_g(r)) + f_g(y + \mathrm{MLP}(y)), \quad
        \log \rho(r) = h_0(r) + f_0(y + \mathrm{MLP}(y))

    with h the linear rates of the frozen features (:mod:`stgnn.linear_rates`), where there are any.

    Counts of any bin are :math:`\int \rho p_g` over it, so one network serves bins of any width, and coarse ones are
    the sums of fine ones by construction.

    Parameters
    ----------
    channels
        Of the field it looks at.
    stem
        Cells of the field along a side of those of the finest map.
    share
        Mean share of each gene in training (genes,), which it starts from.
    density
        Mean counts on a square micrometre in training, likewise.
    parts
        What it is made of.
    beside
        Number of frozen features that it is told of each place, beside the field; 0 for none.
    lines
        What each score of linear rates adds to shares, relative to their means, and to the log density
        (scores, genes + 1), which the network starts from; the scores come after the features. None for none.
    """

    lines: Tensor

    def __init__(
        self,
        channels: int,
        stem: int,
        share: Float[Tensor, " g"],
        density: float,
        parts: Parts,
        beside: int = 0,
        lines: Float[Tensor, "r outputs"] | None = None,
    ) -> None:
        super().__init__()
        self.parts, self.genes, self.beside = parts, len(share), beside
        self.register_buffer("lines", share.new_zeros(0, len(share) + 1) if lines is None else lines)
        self.log_dispersion = nn.Parameter(torch.full((len(share),), 2.0))
        self.pyramid = Pyramid(channels, stem)
        width = parts.width
        self.enter = nn.Linear(sum(WIDTHS), width)
        self.told = nn.Sequential(nn.Dropout(_UNTOLD), nn.Linear(beside, width)) if beside else None
        heard = (SPOT, REGION) if parts.cross_attention else ()
        self.talk = nn.ModuleDict({str(l): GatTransformer(WIDTHS[l], parts.rounds) for l in heard if parts.graph})
        self.listen = nn.ModuleDict({str(l): LevelAttention(width, WIDTHS[l], SIDE) for l in heard})
        self.norm, self.mlp = nn.LayerNorm(width), mlp(width, 2 * width, width, parts.dropout)
        last = nn.Linear(256, len(share) + 1)
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 256), nn.GELU(), nn.Dropout(parts.dropout), last
        )
        with torch.no_grad():
            last.weight.zero_()  # the mean everywhere; and no gene starts from luck of its own
            last.bias.copy_(torch.cat([share.clamp(min=1e-8), share.new_tensor([density])]).log())

    def forward(
        self, field: Float[Tensor, "c h w"], places: Float[Tensor, "n 2"], beside: Float[Tensor, "n f"]
    ) -> tuple[Float[Tensor, "n g"], Float[Tensor, " n"]]:
        """Log share and log density at places, given in cells of the field, x and y, and with their features."""
        return self.at(self.maps(field), places, beside)

    def maps(self, field: Float[Tensor, "c h w"]) -> list[Tensor]:
        """Maps of the field, the cells of each level having talked."""
        maps = [x.float() for x in self.pyramid(field)]
        for level, talk in self.talk.items():
            maps[int(level)] = talk(maps[int(level)]).float()
        return maps

    def at(
        self, maps: Sequence[Tensor], places: Float[Tensor, "n 2"], beside: Float[Tensor, "n f"]
    ) -> tuple[Float[Tensor, "n g"], Float[Tensor, " n"]]:
        """Log share and log density at places on maps, in full precision: shares span many orders of magnitude."""
        with torch.autocast(places.device.type, enabled=False):
            return self._at(maps, places, beside)

    def _at(
        self, maps: Sequence[Tensor], places: Float[Tensor, "n 2"], beside: Float[Tensor, "n f"]
    ) -> tuple[Float[Tensor, "n g"], Float[Tensor, " n"]]:
        strides = self.pyramid.strides
        fine = F.avg_pool2d(maps[0], 3, 1, 1)  # places are known to a few micrometres only
        # a convolution of step 2 puts its cells where its input's even ones are, not between two of them
        there = [places + (s - 1) / 2 for s in strides]
        read = [lattice.read(x, p, s) for x, p, s in zip([fine, *maps[1:]], there, strides, strict=True)]
        x = self.enter(torch.cat(read, 1))
        if self.told is not None:
            x = x + self.told(beside[:, : self.beside])
        y = x
        for level, listen in self.listen.items():
            y = y + listen(x, maps[int(level)], there[int(level)], strides[int(level)])
        out = self.head(y + self.mlp(self.norm(y)))
        if len(self.lines):
            linear = beside[:, self.beside :] @ self.lines
            linear = torch.cat([1 + linear[:, :-1], linear[:, -1:].exp()], 1)
            out = out + linear.clamp(1 / _MOST, _MOST).log()
        return out[:, :-1], out[:, -1]
