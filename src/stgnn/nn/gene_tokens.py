"""A transformer within a cell: genes are tokens, which attend to each other and are read by attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgnn.nn import blocks

if TYPE_CHECKING:
    from jaxtyping import Float, Int

READS, HIDDEN = 4, 0.3
"""Read-outs by attention, and the share of a cell's values that training hides."""

CELLS_AT_ONCE = 512
"""Cells whose tokens are laid out at once when nothing is learned."""


class SelfAttention(nn.Module):
    r"""Pre-norm block: :math:`t' = t + \mathrm{MHA}(\mathrm{LN}\,t)`, :math:`t'' = t' + \mathrm{MLP}(\mathrm{LN}\,t')`.

    References
    ----------
    Vaswani et al., Attention is all you need, NeurIPS 2017; Xiong et al., On layer normalization in the transformer
    architecture, ICML 2020, for the order of the norms.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        self.feed = nn.Sequential(nn.LayerNorm(width), blocks.mlp(width, 2 * width, width, dropout))

    def forward(self, tokens: Float[Tensor, "n g d"]) -> Float[Tensor, "n g d"]:
        """Return the tokens after one round of attention among them, the same for any order of the tokens."""
        qkv = self.qkv(self.norm(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        heard = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])  # (n, h, g, d / h)
        tokens = tokens + self.out(heard.transpose(1, 2).flatten(2))
        return tokens + self.feed(tokens)


class GeneTokens(nn.Module):
    r"""One vector a cell from its genes.

    .. math::
        t_{ng} &= x_{ng}\, e_g + b_g, \qquad t \leftarrow \mathrm{block}_L(\dots \mathrm{block}_1(t)) \\
        h_n &= W \sqrt G\, \big[\textstyle\sum_g a^r_{ng}\, \mathrm{LN}(t_{ng})\big]_{r = 1 \dots 4}, \qquad
        a^r_{ng} = \mathrm{softmax}_g(w_r \cdot \mathrm{LN}(t_{ng}))

    The factor :math:`\sqrt G`, for G genes, keeps what one gene says as loud among many genes as among few. In
    training, values are dropped at random. Memory grows with the square of the genes and with the cells of a minibatch,
    not with all cells.

    References
    ----------
    Yang et al., scBiGNN: Bilevel graph representation learning for cell type classification from single-cell RNA
    sequencing data, arXiv 2312.10310, whose gene level this is.

    Parameters
    ----------
    n_genes
        Number of genes.
    width, heads, layers
        Width of a token, heads of attention, number of blocks.
    dropout
        Share of values dropped in training, within the blocks; of the expression values it is :data:`HIDDEN`.
    """

    def __init__(self, n_genes: int, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(n_genes, width) / math.sqrt(width))
        self.place = nn.Parameter(torch.randn(n_genes, width) / math.sqrt(width))
        self.blocks = nn.ModuleList(SelfAttention(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, READS, bias=False)
        self.mix = nn.Linear(READS * width, width)

    def forward(self, x: Float[Tensor, "n g"]) -> Float[Tensor, "n d"]:
        """Return one state a cell."""
        x = F.dropout(x, HIDDEN, self.training)
        tokens = x[..., None] * self.embedding + self.place  # (n, g, d)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        weight = self.read(tokens).softmax(1)  # (n, g, r)
        read = torch.einsum("ngr,ngd->nrd", weight, tokens)
        return self.mix(math.sqrt(x.shape[1]) * read.flatten(1))


@torch.no_grad()
def states(network: nn.Module, values: Float[np.ndarray, "n g"], device: torch.device) -> Float[np.ndarray, "n d"]:
    """Output of a network for many cells, a few at a time, with nothing dropped."""
    network.eval()
    parts = [
        network(torch.as_tensor(values[start : start + CELLS_AT_ONCE], device=device)).float().cpu().numpy()
        for start in range(0, len(values), CELLS_AT_ONCE)
    ]
    return np.concatenate(parts)


def telling_genes(
    values: Float[np.ndarray, "n g"], labels: Int[np.ndarray, " n"], most: int
) -> Int[np.ndarray, " chosen"]:
    """Columns of the genes that tell the types apart best, ascending: the largest variance between over within types.

    Examples
    --------
    >>> telling_genes(np.array([[0.0, 5], [1, 5.5], [0, 9], [1, 9.5]]), np.array([0, 0, 1, 1]), most=1).tolist()
    [1]
    """
    if values.shape[1] <= most:
        return np.arange(values.shape[1])
    between, within = np.zeros((2, values.shape[1]))
    overall = values.mean(0)
    for k in np.unique(labels):
        own = values[labels == k]
        between += len(own) * (own.mean(0) - overall) ** 2
        within += len(own) * own.var(0)
    ratio = between / (within + 1e-9 * len(values))
    return np.sort(np.argsort(-ratio, kind="stable")[:most])
