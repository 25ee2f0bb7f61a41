"""The network of :class:`stgnn.SpatialTransformerGNN`: a cell by itself, its neighbours, its section, a memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stgnn.lesson import Shape
from stgnn.nn import blocks
from stgnn.nn.tissue import Batch

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Parts:
    """Sizes of a network, and which of its parts it has."""

    gene_graph: bool
    cell_graph: bool
    gate: bool
    global_tokens: bool
    cross_modal: bool
    width: int
    layers: int
    heads: int = 2
    dropout: float = 0.3


class Network(nn.Module):
    r"""One cell's own state, then what it hears from neighbours and from the whole section.

    .. math::
        h &= \mathrm{own}(x) + \mathrm{modules}(x_g), \qquad c = h + g_1 \odot m_{near} + g_2 \odot m_{far} \\
        \log q &= W h + \beta \log \mathrm{vote}(h), \qquad \log p = W c + U c + \beta \log \mathrm{vote}(h)

    up to constants, with q(y|x) the gene level and p(y|x, neighbours, section) the cell level. With the gates closed,
    p equals q to the last bit.
    """

    memory_features: Tensor
    memory_genes: Tensor
    memory_kind: Tensor

    def __init__(self, shape: Shape, parts: Parts) -> None:
        super().__init__()
        width, heads, dropout = parts.width, parts.heads, parts.dropout
        self.linear = nn.Sequential(nn.Dropout(0.2), nn.Linear(shape.features, width))
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout))
        self.feed = nn.Sequential(nn.LayerNorm(width), blocks.mlp(width, 2 * width, width, dropout))
        self.gene_level = _gene_level(shape, width, dropout) if parts.gene_graph else None
        self.memory = blocks.Memory(width, dropout) if parts.cross_modal else None
        self.hear_memory = blocks.Gate(width) if parts.cross_modal else None
        self.own = nn.Linear(width, shape.types)
        layers = parts.layers if parts.cell_graph else 0
        bias = -2.0 if parts.gate else 20.0  # a gate biased so far stays open: messages pass as they are
        self.near = nn.ModuleList(blocks.EdgeAttention(width, heads, dropout) for _ in range(layers))
        self.hear_near = nn.ModuleList(blocks.Gate(width, bias) for _ in range(layers))
        far = parts.global_tokens
        self.far = blocks.RegionTransformer(width, heads, 1, dropout, dims=shape.dims) if far else None
        self.hear_far = blocks.Gate(width, bias) if far else None
        context = nn.Linear(width, shape.types)
        nn.init.zeros_(context.weight)
        nn.init.zeros_(context.bias)
        self.context = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), context)
        self.vote_weight = nn.Parameter(torch.tensor(0.3)) if parts.cross_modal else torch.tensor(0.0)
        self.register_buffer("memory_features", torch.as_tensor(shape.memory_features))
        self.register_buffer("memory_genes", torch.as_tensor(shape.memory_genes))
        self.register_buffer("memory_kind", torch.as_tensor(shape.memory_kind))

    def embed(self, features: Float[Tensor, "n f"], genes: Float[Tensor, "n g"]) -> Float[Tensor, "n d"]:
        """Return the state of each cell by its own expression."""
        h = self.enter(self.linear(features))  # (n, d)
        if self.gene_level is not None:
            h = h + self.gene_level(genes)  # (n, d)
        return h + self.feed(h)

    def forward(
        self, batch: Batch, openness: float
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"], Float[Tensor, "n d"], Float[Tensor, "m d"]]:
        """Return gene-level logits, cell-level logits, the cells' states, and the memory's states."""
        h = self.embed(batch.features, batch.genes)  # (n, d)
        memory = self.embed(self.memory_features, self.memory_genes)  # (m, d)
        vote: Tensor | float = 0.0
        if self.memory is not None and self.hear_memory is not None:
            message, votes = self.memory(h, memory, self.memory_kind)  # (n, d), (n, c)
            h = self.hear_memory(h, message, 1.0)
            vote = self.vote_weight * torch.log(votes + 1e-3)
        own = self.own(h) + vote  # (n, c)
        around = batch.around
        if around is None or openness == 0:
            return own, own, h, memory
        c = h
        for near, hear in zip(self.near, self.hear_near, strict=True):
            c = hear(c, near(c, around.neighbours, around.distance, around.mask), openness)  # (n, d)
        if self.far is not None and self.hear_far is not None:
            c = self.hear_far(c, self.far(c, self.enter(self.linear(around.token_features)), around), openness)
        return own, self.own(c) + openness * self.context(c) + vote, c, memory


def _gene_level(shape: Shape, width: int, dropout: float) -> blocks.GeneModules:
    table = (shape.gene_neighbours, shape.gene_correlation, shape.gene_mask, shape.gene_module)
    return blocks.GeneModules(*table, width, dropout)
