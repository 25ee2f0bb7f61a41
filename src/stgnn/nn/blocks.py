"""Layers built from the attention functions: thin, pre-norm, residual."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgnn.nn import attention

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from stgnn.nn.tissue import Surroundings

GENE_HEAD, GENE_HEADS, GENE_READS = 8, 2, 2
"""Width of a head among gene modules, which makes up the tokens with its like; heads; read-outs."""

GENE_KEY, GENE_HIDDEN = 16, 32
"""Width in which genes of the gene graph are compared, and of the tokens' hidden layer."""


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
    """Multi-head attention over the spatial neighbours, with a learned decay by distance; a head is ``head`` wide."""

    def __init__(self, width: int, heads: int, head: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head)
        self.decay = nn.Parameter(torch.zeros(heads))
        self.out = nn.Sequential(nn.Linear(heads * head, width), nn.Dropout(dropout))

    def forward(
        self,
        h: Float[Tensor, "n d"],
        neighbours: Int[Tensor, "n k"],
        distance: Float[Tensor, "n k"],
        mask: Bool[Tensor, "n k"],
    ) -> Float[Tensor, "n d"]:
        """Return one message a cell; ``distance`` is in units of the section's spacing."""
        query, key, value = self.qkv(self.norm(h)).unflatten(1, (3, self.heads, -1)).unbind(1)  # (n, h, e)
        bias = -distance[..., None] * F.softplus(self.decay)
        return self.out(attention.edge_attention(query, key, value, neighbours, mask, bias).flatten(1))


class RegionTransformer(nn.Module):
    """Region tokens attend to all tokens of their section, then every cell reads them back: linear in both.

    The heads of the last round split the state among them, so its ``width`` is a multiple of their number.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head: int,
        hidden: int,
        layers: int,
        dropout: float,
        frequencies: int = 6,
        dims: int = 2,
    ) -> None:
        super().__init__()
        self.heads, self.inner = heads, heads * head
        # wave lengths from 2 to 64 regions, directions spread over the circle (or sphere)
        direction = F.normalize(torch.randn(frequencies, dims, generator=torch.Generator().manual_seed(0)), dim=1)
        length = torch.logspace(1, 6, frequencies, base=2.0)
        self.frequency = nn.Parameter(direction * (2 * math.pi / length)[:, None])
        self.amplitude = nn.Parameter(torch.zeros(frequencies))
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers + 1))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * self.inner) for _ in range(layers))
        self.mix = nn.ModuleList(
            nn.Sequential(nn.Linear(self.inner, width), nn.Dropout(dropout)) for _ in range(layers)
        )
        self.feed = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), mlp(width, hidden, width, dropout)) for _ in range(layers)
        )
        self.read_query = nn.Linear(width, self.inner)
        self.read_key = nn.Linear(width, self.inner + width)

    def forward(
        self, cells: Float[Tensor, "n d"], tokens: Float[Tensor, "m d"], around: Surroundings
    ) -> Float[Tensor, "n d"]:
        """Return what each cell reads from the tokens of its section."""
        section, n_sections = around.token_section, around.n_sections
        where = self._where(around.token_position)
        for norm, qkv, mix, feed in zip(self.norm[:-1], self.qkv, self.mix, self.feed, strict=True):
            query, key, value = qkv(norm(tokens)).view(len(tokens), 3, self.heads, -1).unbind(1)
            state = attention.global_state(_positive(key), value, where, section, n_sections)
            heard = attention.global_attention(_positive(query), where, section, *state)
            tokens = tokens + mix(heard.flatten(1))
            tokens = tokens + feed(tokens)
        key, value = (
            part.unflatten(1, (self.heads, -1))
            for part in self.read_key(self.norm[-1](tokens)).tensor_split([self.inner], 1)
        )
        state = attention.global_state(_positive(key), value, where, section, n_sections)
        query = self.read_query(cells).view(len(cells), self.heads, -1)
        here = self._where(around.position)
        return attention.global_attention(_positive(query), here, around.section, *state).flatten(1)

    def _where(self, position: Float[Tensor, "n p"]) -> Float[Tensor, "n s"]:
        """Features of places; of a flat section in a network made for volumes the height is 0, else it is left out."""
        dims = self.frequency.shape[1]
        known = F.pad(position[:, :dims], (0, max(dims - position.shape[1], 0)))
        return attention.position_features(known, self.frequency, self.amplitude)


class GeneModules(nn.Module):
    r"""Gene level of a cell: attention among genes on the gene graph, then among gene modules within each cell.

    .. math::
        e'_g &= e_g + \sum_{j \in N(g)} a_{gj}\,\mathrm{sign}(r_{gj})\, V e_j, \quad
        a_{gj} = \mathrm{softmax}_j(u_g \cdot w_j / \sqrt d + |r_{gj}|) \\
        t_{nm} &= \frac{1}{\sqrt{|m|}} \sum_{g \in m} x_{ng}\, e'_g + b_m

    The tokens :math:`t_{nm}` of a cell's modules attend to each other and are read by attention. Genes that vary
    together share what they learn, at no cost per cell; cells pay for modules, not for genes.

    References
    ----------
    Yang et al., scBiGNN, arXiv 2312.10310, for the gene-level module; the modules are ours.
    """

    neighbours: Tensor
    correlation: Tensor
    mask: Tensor
    membership: Tensor

    def __init__(
        self,
        neighbours: np.ndarray,
        correlation: np.ndarray,
        mask: np.ndarray,
        module: np.ndarray,
        width: int,
        dropout: float,
        heads: int = GENE_HEADS,
        reads: int = GENE_READS,
        hidden: int = GENE_HIDDEN,
    ) -> None:
        super().__init__()
        self.inner, self.heads, n_modules = heads * GENE_HEAD, heads, int(module.max()) + 1
        self.register_buffer("neighbours", torch.as_tensor(neighbours))
        self.register_buffer("correlation", torch.as_tensor(correlation, dtype=torch.float32))
        self.register_buffer("mask", torch.as_tensor(mask))
        one_hot = F.one_hot(torch.as_tensor(module, dtype=torch.int64), n_modules).float()
        self.register_buffer("membership", one_hot / one_hot.sum(0).clamp(min=1).sqrt())
        self.embedding = nn.Parameter(torch.randn(len(module), self.inner) / math.sqrt(self.inner))
        self.score = nn.Linear(self.inner, 2 * GENE_KEY)
        self.value = nn.Linear(self.inner, self.inner, bias=False)
        self.place = nn.Parameter(torch.randn(n_modules, self.inner) * 0.1)
        self.norm = nn.LayerNorm(self.inner)
        self.qkv = nn.Linear(self.inner, 3 * self.inner)
        self.feed = nn.Sequential(nn.LayerNorm(self.inner), mlp(self.inner, hidden, self.inner, dropout))
        self.read = nn.Linear(self.inner, reads)
        self.out = nn.Linear(reads * self.inner, width)

    def genes(self) -> Float[Tensor, "g e"]:
        """Embeddings of the genes after one round of attention on the gene graph."""
        query, key = self.score(self.embedding).chunk(2, dim=1)
        value = self.value(self.embedding)
        score = torch.einsum("gd,gkd->gk", query, key[self.neighbours]) / math.sqrt(GENE_KEY)
        score = (score + self.correlation.abs()).masked_fill(~self.mask, -torch.inf)
        weight = (score - score.amax(1, keepdim=True).clamp(min=-1e30)).exp() * self.mask
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-20) * self.correlation.sign()
        return self.embedding + torch.einsum("gk,gkd->gd", weight, value[self.neighbours])

    def forward(self, x: Float[Tensor, "n g"]) -> Float[Tensor, "n d"]:
        """Return what each cell's modules say together."""
        lift = (self.membership[:, :, None] * self.genes()[:, None]).flatten(1)  # (g, m e)
        tokens = (x @ lift).unflatten(1, (-1, self.inner)) + self.place  # (n, m, e)
        query, key, value = self.qkv(self.norm(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        heard = F.scaled_dot_product_attention(query, key, value)  # (n, h, m, e / h)
        tokens = tokens + heard.transpose(1, 2).flatten(2)
        tokens = tokens + self.feed(tokens)
        weight = self.read(tokens).softmax(1)  # (n, m, r)
        return self.out(torch.einsum("nmr,nme->nre", weight, tokens).flatten(1))


class Memory(nn.Module):
    """Cross-modal attention: query cells attend to embedded reference prototypes, for a message and for a vote."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(
        self, h: Float[Tensor, "n d"], memory: Float[Tensor, "m d"], kind: Float[Tensor, "m c"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Return the message and the vote: attention summed over the prototypes of each type."""
        query, key = (F.normalize(x, dim=1) for x in (self.query(h), self.key(memory)))
        message, weight = attention.cross_attention(
            query[:, None], key[:, None], self.value(memory)[:, None], self.log_scale.exp()
        )
        return message.flatten(1), weight[:, 0] @ kind


def _positive(x: Tensor) -> Tensor:
    return F.elu(x) + 1
