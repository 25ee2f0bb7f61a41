"""STAGATE: a graph attention auto-encoder whose embedding mixes each cell with its neighbours, as a sibling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor, nn

from stgnn import experts, siblings
from stgnn.data.cells import Cells, Prediction
from stgnn.methods.base import Annotator
from stgnn.shallow import regress
from stgnn.siblings import Piece, Scaling
from stgnn.standins import labels_of
from stgnn.train import Plan, find_device

if TYPE_CHECKING:
    from jaxtyping import Float

CELLS_PER_TILE = 2000
"""Small tiles give many updates for the same work."""


class Network(nn.Module):
    r"""Auto-encoder with one set of weights and one attention for both of its halves.

    .. math::
        h_i &= \mathrm{ELU}\Big(\sum_j a_{ij} W_1 x_j\Big), \qquad z = W_2 h \\
        \hat h_i &= \mathrm{ELU}\Big(\sum_j a_{ij} W_2^T z_j\Big), \qquad \hat x = W_1^T \hat h

    Sums over neighbours are taken before the products with the weights, which gives the same at a fraction of the cost.
    """

    def __init__(self, features: int, width: int, latent: int) -> None:
        super().__init__()
        self.first = nn.Parameter(nn.init.xavier_normal_(torch.empty(width, features), gain=1.414))
        self.second = nn.Parameter(nn.init.xavier_normal_(torch.empty(latent, width), gain=1.414))
        self.own = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, width), gain=1.414))
        self.other = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, width), gain=1.414))

    def attention(self, piece: Piece) -> Float[Tensor, " edges"]:
        r"""Return :math:`a_{ij} = \mathrm{softmax}_j\,\sigma(v_s W_1 x_i + v_r W_1 x_j)`, oneself among the j."""
        own, other = (piece.features @ (v @ self.first).T for v in (self.own, self.other))  # (n, 1)
        # between e^0 and e^1, so the exponentials need no maximum subtracted
        raised = torch.sigmoid(own[piece.listener, 0] + other[piece.heard, 0]).exp()  # (edges,)
        total = raised.new_zeros(len(own)).index_add(0, piece.listener, raised)
        return raised / total[piece.listener]

    def encode(self, piece: Piece, weight: Float[Tensor, " edges"]) -> Float[Tensor, "n e"]:
        """Return embeddings under the attention ``weight``."""
        return F.elu(piece.gather(piece.features, weight) @ self.first.T) @ self.second.T

    def decode(self, z: Float[Tensor, "n e"], piece: Piece, weight: Float[Tensor, " edges"]) -> Float[Tensor, "n f"]:
        """Return the reconstruction of the features from the embeddings."""
        return F.elu(piece.gather(z, weight) @ self.second) @ self.first

    def forward(self, piece: Piece) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n f"]]:
        """Return embeddings and reconstruction."""
        weight = self.attention(piece)
        z = self.encode(piece, weight)
        return z, self.decode(z, piece, weight)


@final
@dataclass(eq=False)
class Stagate(Annotator):
    r"""Graph attention auto-encoder, and a regression that carries labels over in its embedding.

    STAGATE embeds; it knows no types. One auto-encoder (see :class:`Network`) learns, without labels, to reconstruct
    the expression of both sides, each on its own graph; a multinomial logistic regression is fitted on the reference's
    embeddings and applied to the query's, both standardised by themselves. The graph is that of the nearest cells in
    space where both sides have coordinates, else in expression, and ``details["graph"]`` says which.

    .. math:: \min \mathrm{mean}\,(x - \hat x)^2, \qquad p(y_n) = \mathrm{softmax}(U z_n + b)

    Other than in the paper: standardised expression instead of log-normalised, so that platforms compare; beyond 600
    genes, 50 principal components of it, whose squared error is that of the genes but for what they leave out; 150
    steps, each of one tile of 2,000 cells of either side, with a rate that rises and falls, instead of 500 to 1000
    epochs of all cells.

    References
    ----------
    Dong & Zhang, Deciphering spatial domains from spatially resolved transcriptomics with an adaptive graph attention
    auto-encoder, Nat. Commun. 2022.

    Parameters
    ----------
    width, latent
        Sizes of the two layers.
    neighbours
        Nearest cells linked to each cell.
    space
        Whether cells are linked in space where both sides have coordinates; else both are linked in expression, for
        weights learned on one kind of graph mean nothing on another.
    steps
        Updates.
    rate
        Highest learning rate.
    C
        Inverse strength of the penalty on the regression's weights.
    random_state
        Seed.
    device
        "auto", "cpu", "cuda", ...

    Examples
    --------
    >>> from stgnn.data.cells import align, read_query, read_reference
    >>> from stgnn.data.toy import toy
    >>> adata, adata_query = toy(n_cells=100)
    >>> reference, query = align(read_reference(adata), read_query(adata_query))
    >>> Stagate(steps=5).fit(reference, query).predict(query).embedding.shape
    (100, 30)
    """

    width: int = 512
    latent: int = 30
    neighbours: int = 6
    space: bool = True
    steps: int = 150
    rate: float = 1e-3
    C: float = 0.05
    random_state: int = 0
    device: str = "auto"

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Learn to reconstruct both sides, then the labels from the reference's embeddings."""
        self.genes_, self.types_ = reference.genes, reference.types
        self.space_ = self.space and siblings.both_in_space(reference, query)
        self.scaling_ = Scaling.of(reference, query, self.random_state, whiten=False)
        labels, device = labels_of(reference), find_device(self.device)
        known, self.reference_graph_ = self._pieces(reference)
        sides = [known, self._pieces(query)[0]]
        self.network_ = self._network(known[0].features.shape[1])

        def loss(step: int, part: int) -> Tensor:
            batches = sides[part]
            rng = np.random.default_rng([self.random_state, step, part])
            batch = batches[rng.integers(len(batches))].to(device)
            core = len(batch.cells)
            return F.mse_loss(self.network_(batch)[1][:core].float(), batch.features[:core])

        plan = Plan(self.steps, rate=self.rate, decay=1e-4, clip=5.0, random_state=self.random_state)
        self.curve_ = siblings.train(self.network_, loss, 2, plan, "auto-encoder")
        model = regress(self._embed(known), labels, len(self.types_), C=self.C, balance=0)
        self.weight_, self.bias_ = model.coefficients, model.intercept
        return self

    def predict(self, query: Cells) -> Prediction:
        """Embed the query on its own graph and apply the regression."""
        batches, kind = self._pieces(query)
        z = self._embed(batches)
        proba = softmax(z @ self.weight_.T + self.bias_, axis=1)
        details = {
            "method": "labels carried over by logistic regression in the embedding of a graph attention auto-encoder",
            "graph": f"{kind} in the query, {self.reference_graph_} in the reference",
            "space_used": kind == "spatial",
            "curve": self.curve_,
        }
        return Prediction(proba, z, 1 - proba.max(1), details=details)

    def _pieces(self, cells: Cells) -> tuple[list[Piece], str]:
        values = self.scaling_.see(cells)
        graph, kind = siblings.cell_graph(cells, values, self.neighbours, self.space_)
        matrix = siblings.adjacency(graph, loops=True)
        return siblings.pieces(cells, values, graph, matrix, hops=2, cells_per_tile=CELLS_PER_TILE), kind

    def _embed(self, batches: list[Piece]) -> Float[np.ndarray, "n e"]:
        network, device = self.network_.to(find_device(self.device)), find_device(self.device)
        (z,) = siblings.judge(batches, lambda batch: (network.encode(batch, network.attention(batch)),), device)
        return experts.standardise(z)

    def _network(self, features: int) -> Network:
        torch.manual_seed(self.random_state)
        return Network(features, self.width, self.latent).to(find_device(self.device))

    def _arrays(self) -> dict[str, np.ndarray]:
        own = {"axes": self.scaling_.axes, "weight": self.weight_, "bias": self.bias_}
        return own | siblings.weights_of(self.network_, "network")

    def _facts(self) -> dict[str, Any]:
        graph = {"space_": self.space_, "reference_graph_": self.reference_graph_}
        return {"depth_": self.scaling_.depth, **graph, "curve_": self.curve_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.scaling_ = Scaling(vars(self)["depth_"], arrays["axes"])
        self.weight_, self.bias_ = arrays["weight"], arrays["bias"]
        self.network_ = self._network(arrays["axes"].shape[1] or len(self.genes_))
        siblings.load_weights(self.network_, "network", arrays)
