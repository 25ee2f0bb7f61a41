"""Spatial-ID: a teacher's soft labels, learned by a graph auto-encoder with a classifier, as a sibling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor, nn

from stgnn import siblings
from stgnn.data.cells import Cells, Prediction
from stgnn.methods.base import Annotator
from stgnn.nn.losses import soft_cross_entropy
from stgnn.siblings import GraphConvolution, Piece, Scaling
from stgnn.standins import labels_of
from stgnn.train import Plan, find_device

if TYPE_CHECKING:
    from jaxtyping import Float, Int

CELLS_PER_TILE, CELLS_PER_STEP = 5000, 1024
MOST_EDGES = 50_000
"""Edges, and as many pairs without one, that one step reconstructs."""

INNER, CODE, STATE, LATENT, FEATURE = 100, 20, 32, 8, 64
"""Widths: encoder of expression (two layers), of the graph (two layers), and of both joined."""


class Network(nn.Module):
    r"""Auto-encoder of expression, variational auto-encoder of the graph, and a classifier of both codes.

    .. math::
        e &= \mathrm{MLP}(x), \quad s = \mathrm{ReLU}(\mathrm{GCN}(e)), \quad
        z \sim \mathcal N(\mathrm{GCN}_\mu(s), e^{2\,\mathrm{GCN}_\sigma(s)}) \\
        f &= W_f [e, z], \quad \hat x = W_x f, \quad p(A_{ij} = 1) = \sigma(z_i \cdot z_j), \quad
        p(y) = \mathrm{softmax}(W_y f)
    """

    def __init__(self, features: int, types: int, dropout: float) -> None:
        super().__init__()
        self.encoder = nn.Sequential(_block(features, INNER, dropout), _block(INNER, CODE, dropout))
        self.graph = GraphConvolution(CODE, STATE)
        self.mean, self.log_deviation = GraphConvolution(STATE, LATENT), GraphConvolution(STATE, LATENT)
        self.join = nn.Linear(CODE + LATENT, FEATURE)
        self.expression, self.classify = nn.Linear(FEATURE, features), nn.Linear(FEATURE, types)

    def encode(self, piece: Piece) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Return codes of expression, and the means and log-deviations of those of the graph."""
        code = self.encoder(piece.features)  # (n, CODE)
        state = torch.relu(self.graph(code, piece))  # (n, STATE)
        return code, self.mean(state, piece), self.log_deviation(state, piece).clamp(max=10)

    def forward(self, code: Float[Tensor, "n c"], z: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        """Return both codes joined."""
        return self.join(torch.cat([code, z], dim=1))


@final
@dataclass(eq=False)
class SpatialId(Annotator):
    r"""A teacher on the reference labels the query softly; a graph auto-encoder with a classifier learns from that.

    .. math:: \min\; |x - \hat x|^2 + \big(\mathrm{BCE}(A, \sigma(z z^T)) + \tfrac1n \mathrm{KL}\big)
        + 10\, \mathrm{CE}\big(\mathrm{softmax}(t / T), p(y)\big)

    with t the logits of the teacher, a perceptron, and A the graph of the 30 nearest cells; see :class:`Network`. Only
    the query's coordinates are used. Where it has none, in fitting or in prediction, the teacher answers alone, and
    ``details["space"]`` says so.

    Other than in the paper: standardised expression; non-edges are drawn, as many as edges; one of the 200 steps sees
    one tile of at most 5,000 cells, so that they are 200 epochs only of queries so small; layers are normalised by
    cell, not by batch.

    References
    ----------
    Shen et al., Spatial-ID: a cell typing method for spatially resolved transcriptomics via transfer learning and
    spatial embedding, Nat. Commun. 2022.

    Parameters
    ----------
    neighbours
        Nearest cells linked to each cell.
    temperature
        T, by which the teacher's logits are divided.
    teacher_weight
        Weight of the loss of the classifier against 1 of each auto-encoder's.
    dropout
        Share of hidden units dropped in training.
    steps
        Updates of the teacher, and then of the network.
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
    >>> SpatialId(steps=20).fit(reference, query).predict_proba(query).shape
    (100, 5)
    """

    neighbours: int = 30
    temperature: float = 1.0
    teacher_weight: float = 10.0
    dropout: float = 0.1
    steps: int = 200
    random_state: int = 0
    device: str = "auto"

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Teach on the reference, then learn on the query."""
        self.genes_, self.types_ = reference.genes, reference.types
        self.scaling_ = Scaling.of(reference, query, self.random_state)
        known, asked = self.scaling_.see(reference), self.scaling_.see(query)
        self.teacher_ = self._teacher(known.shape[1])
        self.curve_ = self._teach(known, labels_of(reference))
        self.network_: Network | None = None
        if query.coords is not None:
            self.network_ = self._network(known.shape[1])
            self.curve_ = self._learn(self._pieces(query, asked), soft_labels(self._ask(asked), self.temperature))
        self.spatial_ = self.network_ is not None
        return self

    def predict(self, query: Cells) -> Prediction:
        """Classify by both codes; by the teacher alone without coordinates."""
        values = self.scaling_.see(query)
        details: dict[str, Any] = {"method": "graph auto-encoder taught by a perceptron", "curve": self.curve_}
        network, device = self.network_, find_device(self.device)
        if network is None or query.coords is None:
            side = "query that was fitted" if network is None else "query"
            scores = embedding = self._ask(values)
            details["space"] = f"off: the teacher answers alone, no coordinates in the {side}"
        else:
            network.to(device)

            def compute(batch: Piece) -> tuple[Tensor, Tensor]:
                code, mean, _ = network.encode(batch)
                feature = network(code, mean)
                return network.classify(feature), feature

            scores, embedding = siblings.judge(self._pieces(query, values), compute, device)
            details["space"] = f"on: {self.neighbours} nearest cells"
        proba = softmax(scores, axis=1)
        return Prediction(proba, embedding, 1 - proba.max(1), details=details)

    def _teach(self, values: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
        device = find_device(self.device)
        x, y = torch.from_numpy(values).to(device), torch.from_numpy(labels).to(device)

        def loss(step: int, part: int) -> Tensor:
            rows = torch.randint(len(x), (min(CELLS_PER_STEP, len(x)),)).to(device)
            return F.cross_entropy(self.teacher_(x[rows]).float(), y[rows])

        plan = Plan(self.steps, rate=3e-3, decay=1e-2, random_state=self.random_state)
        return siblings.train(self.teacher_, loss, 1, plan, "teacher")

    def _learn(self, batches: list[Piece], soft: Float[np.ndarray, "n c"]) -> list[dict[str, float]]:
        device, network = find_device(self.device), self.network_
        if network is None:
            raise TypeError("network_: expected one, made for a query with coordinates; found none")

        def loss(step: int, part: int) -> Tensor:
            batch = batches[np.random.default_rng([self.random_state, step]).integers(len(batches))].to(device)
            core = len(batch.cells)
            code, mean, log_deviation = network.encode(batch)
            z = mean + torch.randn_like(mean) * log_deviation.exp()
            feature = network(code, z)[:core]
            taught = torch.from_numpy(soft[batch.cells]).to(device)
            return (
                F.mse_loss(network.expression(feature).float(), batch.features[:core])
                + graph_loss(z.float(), batch.listener, batch.heard)
                + divergence(mean[:core], log_deviation[:core]) / core
                + self.teacher_weight * soft_cross_entropy(network.classify(feature), taught, taught.new_ones(core))
            )

        plan = Plan(self.steps, rate=1e-2, decay=1e-4, random_state=self.random_state)
        return siblings.train(network, loss, 1, plan, "graph auto-encoder")

    @torch.no_grad()
    def _ask(self, values: np.ndarray) -> Float[np.ndarray, "n c"]:
        """Logits of the teacher."""
        device = find_device(self.device)
        return self.teacher_.to(device)(torch.from_numpy(values).to(device)).float().cpu().numpy()

    def _pieces(self, cells: Cells, values: np.ndarray) -> list[Piece]:
        graph, _ = siblings.cell_graph(cells, values, self.neighbours)
        matrix = siblings.symmetric_weights(graph)
        return siblings.pieces(cells, values, graph, matrix, hops=2, cells_per_tile=CELLS_PER_TILE)

    def _teacher(self, features: int) -> nn.Sequential:
        torch.manual_seed(self.random_state)
        layers = _block(features, 128, 0.3), _block(128, FEATURE, 0.3), nn.Linear(FEATURE, len(self.types_))
        return nn.Sequential(*layers).to(find_device(self.device))

    def _network(self, features: int) -> Network:
        torch.manual_seed(self.random_state)
        return Network(features, len(self.types_), self.dropout).to(find_device(self.device))

    def _arrays(self) -> dict[str, np.ndarray]:
        own = {"axes": self.scaling_.axes, **siblings.weights_of(self.teacher_, "teacher")}
        return own if self.network_ is None else own | siblings.weights_of(self.network_, "network")

    def _facts(self) -> dict[str, Any]:
        return {"depth_": self.scaling_.depth, "spatial_": self.spatial_, "curve_": self.curve_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.scaling_ = Scaling(vars(self)["depth_"], arrays["axes"])
        features = arrays["axes"].shape[1] or len(self.genes_)
        self.teacher_ = self._teacher(features)
        siblings.load_weights(self.teacher_, "teacher", arrays)
        self.network_ = self._network(features) if self.spatial_ else None
        if self.network_ is not None:
            siblings.load_weights(self.network_, "network", arrays)


def soft_labels(logits: Float[np.ndarray, "n c"], temperature: float) -> Float[np.ndarray, "n c"]:
    """What the teacher says, softened: the softmax of its logits over T.

    Examples
    --------
    >>> soft_labels(np.array([[0.0, 2 * np.log(3)]]), 2.0).round(2).tolist()
    [[0.25, 0.75]]
    """
    return softmax(logits / temperature, axis=1)


def graph_loss(
    z: Float[Tensor, "n d"], listener: Int[Tensor, " edges"], heard: Int[Tensor, " edges"]
) -> Float[Tensor, ""]:
    r"""Cross-entropy of edges and of as many random pairs under :math:`p(A_{ij} = 1) = \sigma(z_i \cdot z_j)`.

    Parameters
    ----------
    z
        Codes of the cells.
    listener, heard
        Ends of the edges, those from a cell to itself left aside; at most 50,000, drawn anew each time.
    """
    real = (listener != heard).nonzero().ravel()
    edges = real[torch.randperm(len(real), device=z.device)[:MOST_EDGES]]
    pairs = torch.randint(len(z), (2, len(edges)), device=z.device)
    if not len(edges):
        return z.sum() * 0.0
    there = (z[listener[edges]] * z[heard[edges]]).sum(1)
    not_there = (z[pairs[0]] * z[pairs[1]]).sum(1)
    return F.softplus(-there).mean() + F.softplus(not_there).mean()


def divergence(mean: Float[Tensor, "n d"], log_deviation: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    r"""Mean over cells of :math:`\mathrm{KL}(\mathcal N(\mu, \sigma^2) \,\|\, \mathcal N(0, 1))`.

    .. math:: -\tfrac12 \sum_d (1 + 2 \log \sigma_d - \mu_d^2 - \sigma_d^2)
    """
    return -0.5 * (1 + 2 * log_deviation - mean.square() - (2 * log_deviation).exp()).sum(1).mean()


def _block(width_in: int, width_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width_out), nn.LayerNorm(width_out), nn.ELU(), nn.Dropout(dropout))
