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
class Widths:
    """How many units of each kind a network has; pruning lowers them.

    Parameters
    ----------
    state
        Width of a cell's state.
    hidden, far_hidden
        Hidden units of a cell's own block, and of the region tokens'.
    heads
        Heads of each round of attention to neighbours.
    memory
        Dimensions in which cells and prototypes are compared.
    gene_heads, gene_reads, gene_hidden
        Heads among gene modules, their read-outs, and the hidden units of their block.
    """

    state: int
    hidden: int
    heads: int
    memory: int
    gene_heads: int
    gene_reads: int
    gene_hidden: int
    far_hidden: int

    @classmethod
    def full(cls, width: int, heads: int) -> Widths:
        """Of a network that was not pruned."""
        genes = blocks.GENE_HEADS, blocks.GENE_READS, blocks.GENE_HIDDEN
        return cls(width, 2 * width, heads, width, *genes, 2 * width)

    def within(self, full: Widths) -> Widths:
        """These widths, if a network of ``full`` widths can be pruned to them, else :class:`ValueError`."""
        for name, most in vars(full).items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} of {value!r} units, not 1 to {most}")
        return self


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
    widths: Widths | None = None
    """Of a pruned network; None for all units."""


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
        full = Widths.full(parts.width, parts.heads)
        sizes, head, dropout = (parts.widths or full).within(full), parts.width // parts.heads, parts.dropout
        width = sizes.state
        self.linear = nn.Sequential(nn.Dropout(0.2), nn.Linear(shape.features, width))
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout))
        self.feed = nn.Sequential(nn.LayerNorm(width), blocks.mlp(width, sizes.hidden, width, dropout))
        self.gene_level = _gene_level(shape, sizes, dropout) if parts.gene_graph else None
        self.memory = blocks.Memory(width, sizes.memory, dropout) if parts.cross_modal else None
        self.hear_memory = blocks.Gate(width) if parts.cross_modal else None
        self.own = nn.Linear(width, shape.types)
        layers = parts.layers if parts.cell_graph else 0
        bias = -2.0 if parts.gate else 20.0  # a gate biased so far stays open: messages pass as they are
        near = (blocks.EdgeAttention(width, sizes.heads, head, dropout) for _ in range(layers))
        self.near = nn.ModuleList(near)
        self.hear_near = nn.ModuleList(blocks.Gate(width, bias) for _ in range(layers))
        far = parts.global_tokens
        wide = (width, parts.heads, head, sizes.far_hidden)
        self.far = blocks.RegionTransformer(*wide, 1, dropout, dims=shape.dims) if far else None
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


def _gene_level(shape: Shape, sizes: Widths, dropout: float) -> blocks.GeneModules:
    table = (shape.gene_neighbours, shape.gene_correlation, shape.gene_mask, shape.gene_module)
    own = (sizes.gene_heads, sizes.gene_reads, sizes.gene_hidden)
    return blocks.GeneModules(*table, sizes.state, dropout, *own)
