"""SpaGCN: clusters of expression smoothed by a kernel of distance, as a sibling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from stgnn import siblings
from stgnn.data.cells import Cells, Prediction
from stgnn.graph.build import spatial_knn
from stgnn.graph.graph import Graph, by_section
from stgnn.methods.base import Annotator
from stgnn.siblings import Scaling
from stgnn.standins import labels_of
from stgnn.train import Plan, find_device

if TYPE_CHECKING:
    from jaxtyping import Float, Int

TAIL = 4.0
"""The kernel is cut at so many of its lengths, where it is below 4e-4."""

REACH = 32
"""Neighbours looked at; under the kernel of p = 0.5 lie about 4."""

CELLS_PER_STEP, CELLS_PER_CLUSTER = 20_000, 20
ALPHA, REFRESH = 0.2, 3
"""Degrees of freedom of Student's kernel; steps between two looks at the target."""


class Network(nn.Module):
    r"""Linear map of smoothed components, :math:`Z = W X T + b`, and centroids of clusters."""

    def __init__(self, features: int, clusters: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.centroids = nn.Parameter(torch.zeros(clusters, features))

    def forward(self, smoothed: Float[Tensor, "n f"]) -> Float[Tensor, "n k"]:
        """Return soft clusters."""
        return student(self.linear(smoothed), self.centroids)


@final
@dataclass(eq=False)
class SpaGcn(Annotator):
    r"""Clusters of components smoothed over space, each with the types of the reference cells that fall into it.

    .. math::
        w_{ij} = e^{-d_{ij}^2 / 2 l^2}, \qquad Z = W X T + b, \qquad \min \mathrm{KL}(p \,\|\, q), \qquad
        p(y_n = c) = R_{kc},\ k = \mathrm{argmax}\, q_n

    with l such that a cell's neighbours together weigh ``share`` of itself, q by :func:`student` and p by
    :func:`target`. SpaGCN clusters; it knows no types. Here both sides are clustered in one space: the reference is
    smoothed by its own kernel or, without coordinates, by as much weight spread over its nearest cells in expression,
    and R holds the shares of the types among a cluster's reference cells, see :func:`type_shares`; clusters are
    ``clusters_per_type`` times as many as types, so that few of them mix types.
    A query without coordinates is smoothed in expression likewise; ``details["graph"]`` says what was done.

    Other than in the paper: W is sparse, cut at 4 l; no histology, for the gate brings none (see :func:`histology` for
    its value); T starts as the identity and clusters start from k-means; 150 steps instead of up to 2000 epochs.

    References
    ----------
    Hu et al., SpaGCN: integrating gene expression, spatial location and histology to identify spatial domains and
    spatially variable genes by graph convolutional network, Nat. Methods 2021. Xie et al., Unsupervised deep embedding
    for clustering analysis, ICML 2016, for the loss.

    Parameters
    ----------
    share
        Mean weight of a cell's neighbours together, against 1 for the cell itself.
    clusters_per_type
        Clusters for each type of the reference.
    refine
        Whether a cell takes its neighbours' type where more than half of them agree on another.
    refine_neighbours
        Neighbours asked.
    steps
        Updates.
    rate
        Highest learning rate.
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
    >>> SpaGcn(steps=20).fit(reference, query).predict_proba(query).shape
    (100, 5)
    """

    share: float = 0.5
    clusters_per_type: int = 10
    refine: bool = True
    refine_neighbours: int = 6
    steps: int = 150
    rate: float = 5e-3
    random_state: int = 0
    device: str = "auto"

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Cluster both sides together, then read each cluster's types off the reference."""
        self.genes_, self.types_ = reference.genes, reference.types
        self.space_ = siblings.both_in_space(reference, query)
        self.scaling_ = Scaling.of(reference, query, self.random_state, most_genes=0, whiten=False)
        known, self.reference_graph_ = self._smoothed(reference)
        asked, _ = self._smoothed(query)
        both = torch.from_numpy(np.vstack([known, asked])).to(find_device(self.device))
        n_clusters = min(
            self.clusters_per_type * len(self.types_), max(len(self.types_), len(both) // CELLS_PER_CLUSTER)
        )
        self.network_ = self._network(both.shape[1], n_clusters)
        self._start(both.cpu().numpy(), n_clusters)
        self._cluster(both)
        soft, _ = self._soft(known)
        self.shares_ = type_shares(soft, labels_of(reference), len(self.types_))
        return self

    def predict(self, query: Cells) -> Prediction:
        """Give each cell the types of its clusters, then refine over space."""
        smoothed, kind = self._smoothed(query)
        soft, embedding = self._soft(smoothed)
        proba = self.shares_[soft.argmax(1)]
        refined = 0
        if self.refine and query.coords is not None:
            graph = spatial_knn(query.coords, query.section, self.refine_neighbours)
            proba, changed = refine(proba, graph)
            refined = int(changed.sum())
        details = {
            "method": "types of the reference cells in each cluster of smoothed components",
            "graph": f"{kind} in the query, {self.reference_graph_} in the reference",
            "space_used": kind == "spatial",
            "clusters": len(self.shares_),
            "refined_cells": refined,
            "curve": self.curve_,
        }
        return Prediction(proba, embedding, 1 - proba.max(1), details=details)

    def _smoothed(self, cells: Cells) -> tuple[Float[np.ndarray, "n f"], str]:
        values = self.scaling_.see(cells)
        if self.space_ and cells.coords is not None:
            return kernel(cells.coords, cells.section, self.share) @ values, "spatial"
        graph, kind = siblings.cell_graph(cells, values, self.refine_neighbours, space=False)
        return values + self.share * (siblings.mean_weights(graph) @ values), kind

    def _start(self, smoothed: np.ndarray, n_clusters: int) -> None:
        from sklearn.cluster import MiniBatchKMeans

        start = MiniBatchKMeans(n_clusters, n_init=3, batch_size=4096, random_state=self.random_state).fit(smoothed)
        with torch.no_grad():
            self.network_.centroids.copy_(torch.from_numpy(start.cluster_centers_.astype(np.float32)))

    def _cluster(self, both: Float[Tensor, "n f"]) -> None:
        """Sharpen the clusters; the target is renewed every few steps."""
        held = torch.empty(len(both), len(self.network_.centroids), device=both.device)

        def loss(step: int, part: int) -> Tensor:
            if step % REFRESH == 0:
                with torch.no_grad():
                    held.copy_(target(torch.cat([self.network_(x).float() for x in both.split(CELLS_PER_STEP)])))
            rows = torch.randperm(len(both))[:CELLS_PER_STEP].to(both.device)
            return divergence(held[rows], self.network_(both[rows]))

        plan = Plan(self.steps, rate=self.rate, decay=0.0, random_state=self.random_state)
        self.curve_ = siblings.train(self.network_, loss, 1, plan, "clusters")

    @torch.no_grad()
    def _soft(self, smoothed: np.ndarray) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n f"]]:
        """Soft clusters and embedding of smoothed cells."""
        device = find_device(self.device)
        network = self.network_.to(device)
        z = network.linear(torch.from_numpy(smoothed).to(device))
        return student(z, network.centroids).cpu().numpy(), z.cpu().numpy()

    def _network(self, features: int, clusters: int) -> Network:
        return Network(features, clusters).to(find_device(self.device))

    def _arrays(self) -> dict[str, np.ndarray]:
        own = {"axes": self.scaling_.axes, "shares": self.shares_}
        return own | siblings.weights_of(self.network_, "network")

    def _facts(self) -> dict[str, Any]:
        graph = {"space_": self.space_, "reference_graph_": self.reference_graph_}
        return {"depth_": self.scaling_.depth, **graph, "curve_": self.curve_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.scaling_, self.shares_ = Scaling(vars(self)["depth_"], arrays["axes"]), arrays["shares"]
        self.network_ = self._network(arrays["axes"].shape[1], len(self.shares_))
        siblings.load_weights(self.network_, "network", arrays)


def kernel(coords: Float[np.ndarray, "n d"], section: Int[np.ndarray, " n"], share: float) -> sp.csr_array:
    r"""Weights :math:`w_{ij} = e^{-d_{ij}^2 / 2 l^2}` within each section, 1 for oneself, cut at 4 l.

    Parameters
    ----------
    coords
        Coordinates (n, 2 or 3).
    section
        Section code of each cell (n,).
    share
        Mean over a section's cells of the weights of all others together, which sets its l.

    Examples
    --------
    >>> kernel(np.array([[0.0, 0], [1, 0]]), np.zeros(2, dtype=int), 0.5).toarray().round(3).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    neighbours, length, mask = spatial_knn(coords, section, REACH).table(min(REACH, max(len(coords) - 1, 0)))
    weight = np.zeros(length.shape, dtype=np.float32)
    for members in by_section(section):
        distance = np.where(mask[members], length[members].astype(np.float64), np.inf)
        if np.isfinite(distance).any():
            weight[members] = _weights(distance, length_scale(distance, share))
    rows = np.broadcast_to(np.arange(len(coords))[:, None], weight.shape)[weight > 0]
    near = sp.csr_array((weight[weight > 0], (rows, neighbours[weight > 0])), shape=(len(coords),) * 2)
    return sp.csr_array(near + sp.eye_array(len(coords), dtype=np.float32))


def length_scale(distance: Float[np.ndarray, "n k"], share: float) -> float:
    """Find by bisection the kernel's l at which the rows' weights sum to ``share`` on average.

    Parameters
    ----------
    distance
        Distances to the nearest cells (n, k), not all infinite.
    share
        Wanted mean; where even neighbours at one place give more, or all of them together less, the nearest is taken.
    """
    largest = distance[np.isfinite(distance)].max() or 1.0  # all at one place: any length serves
    low, high = 1e-6 * largest, 100 * largest
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if _weights(distance, middle).sum(1).mean() < share else (low, middle)
    return float(low)


def _weights(distance: np.ndarray, length: float) -> np.ndarray:
    ratio = distance / length
    return np.where(ratio <= TAIL, np.exp(-0.5 * np.minimum(ratio, TAIL) ** 2), 0.0)


def histology(colour: Float[np.ndarray, "n 3"], coords: Float[np.ndarray, "n 2"], scale: float) -> np.ndarray:
    r"""Third coordinate of spots from the image: the colours, each weighing as it varies, scaled like a place.

    .. math:: z = \frac{\sum_c V_c\, c}{\sum_c V_c}, \qquad
        z^* = \frac{z - \bar z}{\mathrm{sd}(z)} \max(\mathrm{sd}(x), \mathrm{sd}(y))\, s

    Parameters
    ----------
    colour
        Mean colour in a window around each spot (n, 3); V are its variances.
    coords
        Places (n, 2), to which the result may be joined for :func:`kernel`.
    scale
        Weight s of the image against the places.

    Examples
    --------
    >>> histology(np.array([[0.0, 5, 5], [2, 5, 5]]), np.array([[0.0, 0], [0, 8]]), 0.5).tolist()
    [-2.0, 2.0]
    """
    variance = colour.var(0)
    z = colour @ variance / max(variance.sum(), 1e-12)
    return (z - z.mean()) / max(z.std(), 1e-12) * coords.std(0).max() * scale


def student(z: Float[Tensor, "n f"], centroids: Float[Tensor, "k f"]) -> Float[Tensor, "n k"]:
    r"""Soft clusters, :math:`q_{nk} \propto (1 + |z_n - \mu_k|^2 / \alpha)^{-(\alpha + 1) / 2}`, rows of sum 1."""
    z, centroids = z.float(), centroids.float()
    distance = z.square().sum(1, keepdim=True) + centroids.square().sum(1) - 2 * z @ centroids.T
    return (-(ALPHA + 1) / 2 * torch.log1p(distance.clamp(min=0) / ALPHA)).softmax(1)


def target(soft: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    r"""Sharper clusters, none crowded out: :math:`p_{nk} \propto q_{nk}^2 / \sum_m q_{mk}`, rows of sum 1."""
    sharp = soft.square() / soft.sum(0).clamp(min=1e-12)
    return sharp / sharp.sum(1, keepdim=True)


def divergence(wanted: Float[Tensor, "n k"], soft: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    r"""Mean over cells of :math:`\mathrm{KL}(p \,\|\, q) = \sum_k p_k \log(p_k / q_k)`."""
    return (wanted * (wanted.clamp(min=1e-12).log() - soft.clamp(min=1e-12).log())).sum(1).mean()


def type_shares(soft: Float[np.ndarray, "n k"], labels: np.ndarray, n_types: int) -> Float[np.ndarray, "k c"]:
    """Shares of the types among the cells of each cluster, with one more cell's worth of what lies near it.

    The latter is the soft clusters' own share; it decides alone where a cluster holds no reference cell.
    """
    hot = np.eye(n_types, dtype=np.float32)[labels]
    near = soft.T @ hot / np.maximum(soft.sum(0), 1e-12)[:, None]
    inside = np.zeros_like(near)
    np.add.at(inside, soft.argmax(1), hot)
    return ((inside + near) / (inside.sum(1, keepdims=True) + 1)).astype(np.float32)


def refine(proba: Float[np.ndarray, "n c"], graph: Graph) -> tuple[Float[np.ndarray, "n c"], np.ndarray]:
    """Give a cell its neighbours' type where more than half of them carry one that is not the cell's own.

    Returns
    -------
    Probabilities, where a changed cell has the mean of the neighbours that carry its new type; and which were changed.
    """
    guess = proba.argmax(1)
    listener = np.repeat(np.arange(graph.n), graph.degree)
    votes = np.zeros(proba.shape)
    np.add.at(votes, (listener, guess[graph.indices]), 1)
    winner = votes.argmax(1)
    changed = (votes.max(1) > graph.degree / 2) & (winner != guess)
    edges = changed[listener] & (guess[graph.indices] == winner[listener])
    out = np.where(changed[:, None], 0.0, proba)
    np.add.at(out, listener[edges], proba[graph.indices[edges]])
    return (out / out.sum(1, keepdims=True)).astype(proba.dtype), changed
