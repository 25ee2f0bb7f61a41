"""STELLAR: a graph network that learns the reference's types and finds new ones in the query, as a sibling."""

from __future__ import annotations

import math
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
from stgnn.shallow import regress
from stgnn.siblings import Piece, Scaling
from stgnn.standins import labels_of
from stgnn.train import Plan, find_device

if TYPE_CHECKING:
    from jaxtyping import Float, Int

SCALE = 10.0
CELLS_PER_TILE = 2000
"""Pairs are sought among all cells of a tile of either side: the cost is their product."""


class SageConvolution(nn.Module):
    r"""GraphSAGE, :math:`h'_i = W_1\, \mathrm{mean}_{j \in N(i)} h_j + b + W_2 h_i`, by ``siblings.mean_weights``.

    References
    ----------
    Hamilton et al., Inductive representation learning on large graphs, NeurIPS 2017.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.near, self.own = nn.Linear(width_in, width_out), nn.Linear(width_in, width_out, bias=False)

    def forward(self, x: Float[Tensor, "n d"], piece: Piece) -> Float[Tensor, "n e"]:
        """Mix the cells' states with the mean of their neighbours'."""
        return self.near(piece.gather(x)) + self.own(x)


class CosineHead(nn.Module):
    r"""Logits :math:`s\, \cos(w_c, h)`: classes differ in direction alone, so that no class is louder than another."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(classes, width)))

    def forward(self, h: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Return logits between -s and s."""
        return SCALE * F.normalize(h, dim=1) @ F.normalize(self.weight, dim=1).T


class Network(nn.Module):
    """Linear layer, GraphSAGE layer, cosine head."""

    def __init__(self, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.linear, self.near = nn.Linear(features, width), SageConvolution(width, width)
        self.head = CosineHead(width, classes)

    def forward(self, piece: Piece) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n d"]]:
        """Return logits and states."""
        state = self.near(torch.relu(self.linear(piece.features)), piece)  # (n, d)
        return self.head(state), state


@final
@dataclass(eq=False)
class Stellar(Annotator):
    r"""Known types from the reference's labels, new ones from pairs of alike cells and from uncertain clusters.

    .. math:: \min\; -\mathrm{mean}_i \log (p_i \cdot p_{i'}) + \mathrm{CE}(s(\cos + \bar u\, 1_{y}), y)
        - 0.3\, H(\bar p)

    Pairs (:func:`pair_loss`): a reference cell and another of its type, a query cell and the nearest of all by the
    cosine of their states. The margin (:func:`margin_loss`) is the query's mean uncertainty u, so that known types are
    learned no faster than the query is understood. The entropy of the mean (:func:`entropy_of_mean`) keeps all classes
    in use. The query's clusters that a model of the reference's types is least certain of (:func:`new_classes`) are the
    first members of new classes.

    Here the probability of the new classes together is the rejection score, above 0.5 "unknown", and ``proba`` is over
    the reference's types, given that it is one of them. The graph is that of the nearest cells in space where
    both sides have coordinates, else in expression, and ``details["graph"]`` says which.

    Other than in the paper: standardised expression; spatial tiles of either side as minibatches, 200 in all; the
    uncertainty is that of the tile at hand; states are compared after the graph, not before it; clusters are those of
    k-means, judged by a logistic regression.

    References
    ----------
    Brbić et al., Annotation of spatially resolved single-cell data with STELLAR, Nat. Methods 2022.

    Parameters
    ----------
    novel
        New classes; 0 if every query cell has a type of the reference.
    entropy
        Weight of the entropy. Between platforms the pairs may draw all uncertain cells into one class, which the
        paper's 0.3 does not prevent and 1 mitigates.
    width
        Width of both layers.
    neighbours
        Nearest cells linked to each cell.
    space
        Whether cells are linked in space where both sides have coordinates; else both are linked in expression, for
        weights learned on one kind of graph mean nothing on another.
    steps
        Updates.
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
    >>> Stellar(steps=20).fit(reference, query).predict_proba(query).shape
    (100, 5)
    """

    novel: int = 1
    entropy: float = 0.3
    width: int = 128
    neighbours: int = 10
    space: bool = True
    steps: int = 200
    random_state: int = 0
    device: str = "auto"

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Learn from both sides, each on its own graph."""
        self.genes_, self.types_ = reference.genes, reference.types
        self.space_ = self.space and siblings.both_in_space(reference, query)
        self.scaling_ = Scaling.of(reference, query, self.random_state)
        values = self.scaling_.see(query)
        own, labels = self.scaling_.see(reference), labels_of(reference)
        known, self.reference_graph_ = self._pieces(reference, own)
        asked, _ = self._pieces(query, values)
        self.network_ = self._network(values.shape[1])
        judged = regress(own, labels, len(self.types_), C=0.05, balance=0)
        proba = softmax(values @ judged.coefficients.T + judged.intercept, axis=1)
        seeds = new_classes(values, proba, self.novel, self.random_state)

        def loss(step: int, part: int) -> Tensor:
            rng = np.random.default_rng([self.random_state, step])
            first, second = known[rng.integers(len(known))], asked[rng.integers(len(asked))]
            return self._loss(first, labels[first.cells], second, seeds[second.cells])

        plan = Plan(self.steps, rate=1e-3, decay=5e-2, random_state=self.random_state)
        self.curve_ = siblings.train(self.network_, loss, 1, plan, "known and new types")
        return self

    def predict(self, query: Cells) -> Prediction:
        """Classify the query on its own graph; new classes reject."""
        batches, kind = self._pieces(query, self.scaling_.see(query))
        scores, states = self._judge(batches)
        known = len(self.types_)
        proba = softmax(scores[:, :known], axis=1)
        rejection = softmax(scores, axis=1)[:, known:].sum(1) if self.novel else 1 - proba.max(1)
        details = {
            "method": "graph network with a cosine head over known and new types",
            "graph": f"{kind} in the query, {self.reference_graph_} in the reference",
            "space_used": kind == "spatial",
            "new_classes": self.novel,
            "curve": self.curve_,
        }
        return Prediction(proba, states, rejection.clip(0, 1), 0.5 if self.novel else 1.0, details)

    def _loss(self, known: Piece, labels: np.ndarray, asked: Piece, seeds: np.ndarray) -> Tensor:
        device, n_known = find_device(self.device), len(labels)
        logits, states = zip(*(self.network_(side.to(device)) for side in (known, asked)), strict=True)
        cores = n_known, len(seeds)
        both = torch.cat([part[:core] for part, core in zip(logits, cores, strict=True)]).float()
        state = torch.cat([part[:core] for part, core in zip(states, cores, strict=True)]).float()
        told = torch.from_numpy(np.concatenate([labels, seeds])).to(device)
        proba = both.softmax(1)
        uncertainty = float(1 - proba[n_known:].detach().max(1).values.mean())
        taught = told >= 0
        return (
            pair_loss(proba, partners(state.detach(), told[:n_known]))
            + margin_loss(both[taught], told[taught], uncertainty)
            - self.entropy * entropy_of_mean(proba)
        )

    def _judge(self, batches: list[Piece]) -> tuple[np.ndarray, ...]:
        device = find_device(self.device)
        return siblings.judge(batches, self.network_.to(device), device)

    def _pieces(self, cells: Cells, values: np.ndarray) -> tuple[list[Piece], str]:
        graph, kind = siblings.cell_graph(cells, values, self.neighbours, self.space_)
        matrix = siblings.mean_weights(graph)
        return siblings.pieces(cells, values, graph, matrix, hops=1, cells_per_tile=CELLS_PER_TILE), kind

    def _network(self, features: int) -> Network:
        torch.manual_seed(self.random_state)
        return Network(features, self.width, len(self.types_) + self.novel).to(find_device(self.device))

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"axes": self.scaling_.axes, **siblings.weights_of(self.network_, "network")}

    def _facts(self) -> dict[str, Any]:
        graph = {"space_": self.space_, "reference_graph_": self.reference_graph_}
        return {"depth_": self.scaling_.depth, **graph, "curve_": self.curve_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.scaling_ = Scaling(vars(self)["depth_"], arrays["axes"])
        self.network_ = self._network(arrays["axes"].shape[1] or len(self.genes_))
        siblings.load_weights(self.network_, "network", arrays)


def new_classes(
    values: Float[np.ndarray, "n f"], proba: Float[np.ndarray, "n c"], novel: int, random_state: int
) -> Int[np.ndarray, " n"]:
    """Find clusters that no known type explains.

    Parameters
    ----------
    values
        Features, which are clustered by k-means, two clusters a known type.
    proba
        Probabilities of the known types.
    novel
        Number of clusters, those of the highest mean entropy, that found new classes.
    random_state
        Seed of the clusters.

    Returns
    -------
    Class of each cell, counted on from the known types; -1 for those of the other clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    if not novel:
        return np.full(len(values), -1)
    known = proba.shape[1]
    n_clusters = min(2 * known, max(len(values) // 20, 1))
    model = MiniBatchKMeans(n_clusters, n_init=3, batch_size=4096, random_state=random_state)
    cluster = model.fit_predict(values)
    entropy = -(proba * np.log(proba + 1e-12)).sum(1)
    mean = np.bincount(cluster, entropy, minlength=n_clusters) / np.maximum(
        np.bincount(cluster, minlength=n_clusters), 1
    )
    rank = np.empty(n_clusters, dtype=np.int64)
    rank[np.argsort(-mean, kind="stable")] = np.arange(n_clusters)
    novel = min(novel, n_clusters - 1)  # not all that there is can be new
    return np.where(rank[cluster] < novel, known + rank[cluster], -1)


def partners(state: Float[Tensor, "n d"], labels: Int[Tensor, " known"]) -> Int[Tensor, " n"]:
    """Whom each cell is paired with: a known one with a random one of its type, another with the nearest of all.

    Parameters
    ----------
    state
        States of all cells, the known ones first.
    labels
        Types of the known ones.
    """
    known, n = len(labels), len(state)
    noise = torch.rand(known, device=state.device) / 2
    # sorted by type, then at random, each cell's partner is the next one of its type, the last one's the first
    order = torch.argsort(labels + noise)
    count = torch.unique_consecutive(labels[order], return_counts=True)[1]
    start = torch.repeat_interleave(count.cumsum(0) - count, count)
    place = torch.arange(known, device=state.device) - start
    out = torch.empty(n, dtype=torch.int64, device=state.device)
    out[order] = order[start + (place + 1) % torch.repeat_interleave(count, count)]
    unit = F.normalize(state, dim=1)
    alike = unit[known:] @ unit.T
    alike[torch.arange(n - known), torch.arange(known, n)] = -math.inf
    out[known:] = alike.argmax(1)
    return out


def pair_loss(proba: Float[Tensor, "n c"], partner: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    r"""Pairwise cross-entropy, :math:`-\mathrm{mean}_i \log (p_i \cdot p_{i'})`: partners are of one class."""
    return -(proba * proba[partner]).sum(1).clamp(min=1e-7).log().mean()


def margin_loss(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"], uncertainty: float) -> Float[Tensor, ""]:
    r"""Cross-entropy after s u is added to the logit of the right class: the less is understood, the gentler."""
    gain = F.one_hot(labels, logits.shape[1]) * (SCALE * uncertainty)
    return F.cross_entropy(logits + gain, labels)


def entropy_of_mean(proba: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    r"""Return :math:`H(\bar p) = -\sum_c \bar p_c \log \bar p_c`, highest where all classes are used alike."""
    mean = proba.mean(0)
    return -(mean * mean.clamp(min=1e-12).log()).sum()
