"""What the graph methods beside ours share: features of both sides, a graph of any cells, tiles of it, training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgnn import experts
from stgnn.graph.build import spatial_knn
from stgnn.graph.graph import Graph, by_section
from stgnn.graph.sample import tiles
from stgnn.standins import typical_depth
from stgnn.train import Plan, fit, progress

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from stgnn.data.cells import Cells

MOST_GENES, COMPONENTS = 600, 50
"""Above so many genes, features are so many principal components."""


@dataclass(frozen=True)
class Scaling:
    """How counts become features: each data set is standardised by itself, then, of many genes, projected.

    Parameters
    ----------
    depth
        Total that every cell is scaled to.
    axes
        Directions to project onto (genes, features); without rows where the genes themselves are the features.
    """

    depth: float
    axes: Float[np.ndarray, "genes f"]

    @classmethod
    def of(
        cls, reference: Cells, query: Cells, random_state: int, *, most_genes: int = MOST_GENES, whiten: bool = True
    ) -> Self:
        """Take the depth from the query and, beyond ``most_genes``, components of both sides together.

        Parameters
        ----------
        reference, query
            Cells with the same genes.
        random_state
            Seed of the components.
        most_genes
            Largest number of genes that are features themselves.
        whiten
            Whether every component has unit variance in the reference; else they keep their proportions, and with them
            the distances between cells, and one factor brings their mean variance to 1.

        Examples
        --------
        >>> from stgnn.data.cells import align, read_query, read_reference
        >>> from stgnn.data.toy import toy
        >>> adata, adata_query = toy(n_cells=100)
        >>> reference, query = align(read_reference(adata), read_query(adata_query))
        >>> Scaling.of(reference, query, 0).see(query).shape
        (100, 60)
        >>> Scaling.of(reference, query, 0, most_genes=50).see(query).shape
        (100, 50)
        """
        plain = cls(typical_depth(query), np.empty((0, 0), dtype=np.float32))
        if reference.counts.shape[1] <= most_genes:
            return plain
        from sklearn.decomposition import PCA

        known = plain.see(reference)
        both = np.vstack([known, plain.see(query)])
        n_components = min(COMPONENTS, len(both) - 1, both.shape[1])
        axes = PCA(n_components, svd_solver="randomized", random_state=random_state).fit(both).components_.T
        spread = (known @ axes).std(0)
        scale = spread if whiten else np.sqrt((spread**2).mean())
        return cls(plain.depth, (axes / (scale + 1e-6)).astype(np.float32))

    def see(self, cells: Cells) -> Float[np.ndarray, "cells f"]:
        """Features of one data set."""
        values = experts.standardise(experts.log_normalise(cells.counts, self.depth))
        return values @ self.axes if self.axes.size else values


def both_in_space(reference: Cells, query: Cells) -> bool:
    """Whether both sides have coordinates: weights learned on one kind of graph mean nothing on another."""
    return reference.coords is not None and query.coords is not None


def cell_graph(cells: Cells, values: Float[np.ndarray, "cells f"], k: int, space: bool = True) -> tuple[Graph, str]:
    """Link cells to their k nearest, in space where they have coordinates and it is wanted, else in expression.

    Returns
    -------
    graph
        Symmetric, never from section to section.
    kind
        "spatial" or "expression".
    """
    if space and cells.coords is not None:
        return undirected(spatial_knn(cells.coords, cells.section, k)), "spatial"
    return undirected(expression_knn(values, cells.section, k)), "expression"


def expression_knn(values: Float[np.ndarray, "cells f"], section: Int[np.ndarray, " cells"], k: int) -> Graph:
    """Link every cell to the k cells of its section with the nearest features.

    Examples
    --------
    >>> graph = expression_knn(np.array([[0.0], [1.0], [5.0], [5.5]]), np.zeros(4, dtype=int), 1)
    >>> graph.indices.tolist()
    [1, 0, 3, 2]
    """
    from sklearn.neighbors import NearestNeighbors

    listener, heard, length = [], [], []
    for members in by_section(section):
        found = min(k, len(members) - 1)
        if found:
            far, near = NearestNeighbors(n_neighbors=found).fit(values[members]).kneighbors()  # itself left out
            listener.append(np.repeat(members, found))
            heard.append(members[near.ravel()])
            length.append(far.ravel())
    if not listener:
        return Graph.from_edges(len(values), np.empty(0, int), np.empty(0, int), np.empty(0))
    return Graph.from_edges(len(values), *map(np.concatenate, (listener, heard, length)))


def undirected(graph: Graph) -> Graph:
    """Let all who are heard listen too.

    Examples
    --------
    >>> undirected(Graph.from_edges(3, np.array([0, 1]), np.array([1, 2]), np.array([1.0, 2.0]))).degree.tolist()
    [1, 2, 1]
    """
    listener = np.repeat(np.arange(graph.n), graph.degree)
    both = np.concatenate([listener, graph.indices]), np.concatenate([graph.indices, listener])
    _, first = np.unique(both[0] * graph.n + both[1], return_index=True)
    weight = np.concatenate([graph.weight, graph.weight])
    return Graph.from_edges(graph.n, both[0][first], both[1][first], weight[first])


def adjacency(graph: Graph, loops: bool) -> sp.csr_array:
    """Matrix of ones (n, n) at the edges, and on the diagonal with ``loops``."""
    ones = np.ones(len(graph.indices), dtype=np.float32)
    matrix = sp.csr_array((ones, graph.indices, graph.indptr), shape=(graph.n, graph.n))
    return sp.csr_array(matrix + sp.eye_array(graph.n, dtype=np.float32)) if loops else matrix


def symmetric_weights(graph: Graph) -> sp.csr_array:
    r"""Weights of graph convolution, :math:`\hat D^{-1/2} (A + I) \hat D^{-1/2}`.

    Examples
    --------
    >>> pair = Graph.from_edges(2, np.array([0, 1]), np.array([1, 0]), np.ones(2))
    >>> symmetric_weights(pair).toarray().round(3).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    scale = sp.diags_array((1 / np.sqrt(1.0 + graph.degree)).astype(np.float32))
    return sp.csr_array(scale @ adjacency(graph, loops=True) @ scale)


def mean_weights(graph: Graph) -> sp.csr_array:
    """Weights of the mean of the neighbours, oneself left out; a cell alone gets zero."""
    scale = sp.diags_array((1 / np.maximum(graph.degree, 1)).astype(np.float32))
    return sp.csr_array(scale @ adjacency(graph, loops=False))


@dataclass(frozen=True)
class Piece:
    """Cells of one tile, those of its core first, and whom they listen to.

    Parameters
    ----------
    cells
        Row numbers of the core's cells in the data set (core,).
    features
        What the network sees of each cell (n, f).
    starts, heard, weight
        Rows of a sparse matrix (n, n): where each starts in ``heard`` (n,), whom it hears (edges,), how much (edges,).
    """

    cells: np.ndarray
    features: Float[Tensor, "n f"]
    starts: Int[Tensor, " n"]
    heard: Int[Tensor, " edges"]
    weight: Float[Tensor, " edges"]

    @property
    def listener(self) -> Int[Tensor, " edges"]:
        """Who hears, edge by edge."""
        length = torch.diff(self.starts, append=self.starts.new_tensor([len(self.heard)]))
        return torch.repeat_interleave(torch.arange(len(length), device=length.device), length)

    def gather(self, x: Float[Tensor, "n d"], weight: Float[Tensor, " edges"] | None = None) -> Float[Tensor, "n d"]:
        """Weighted sum of the rows of ``x`` that each cell hears, by the piece's own weights or by others."""
        weight = self.weight if weight is None else weight
        return F.embedding_bag(self.heard, x, self.starts, mode="sum", per_sample_weights=weight.to(x.dtype))

    def to(self, device: torch.device) -> Piece:
        """Move all tensors."""
        return Piece(self.cells, *(x.to(device) for x in (self.features, self.starts, self.heard, self.weight)))


def pieces(
    cells: Cells,
    values: Float[np.ndarray, "cells f"],
    graph: Graph,
    matrix: sp.csr_array,
    *,
    hops: int,
    cells_per_tile: int,
) -> list[Piece]:
    """Cut cells into tiles with halos of ``hops``, along space or, without coordinates, along their first features."""
    where = cells.coords if cells.coords is not None else values[:, :2].astype(np.float64)
    out = []
    for tile in tiles(where, cells.section, graph, cells_per_tile, hops):
        part = sp.csr_array(matrix[tile.nodes][:, tile.nodes])
        rows = (part.indptr[:-1].astype(np.int64), part.indices.astype(np.int64), part.data.astype(np.float32))
        out.append(Piece(tile.core, torch.from_numpy(values[tile.nodes]), *map(torch.from_numpy, rows)))
    return out


class GraphConvolution(nn.Module):
    r"""Graph convolution, :math:`H' = \hat D^{-1/2} (A + I) \hat D^{-1/2} H W + b`, by :func:`symmetric_weights`.

    References
    ----------
    Kipf & Welling, Semi-supervised classification with graph convolutional networks, ICLR 2017.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, width_out, bias=False)
        nn.init.xavier_uniform_(self.linear.weight)
        self.bias = nn.Parameter(torch.zeros(width_out))

    def forward(self, x: Float[Tensor, "n d"], piece: Piece) -> Float[Tensor, "n e"]:
        """Mix the cells' states with their neighbours'."""
        return piece.gather(self.linear(x)) + self.bias


def balanced(kind: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Chance of each cell to be drawn, by the inverse square root of its type's size; sums to 1."""
    chance = 1 / np.sqrt(np.bincount(kind)[kind])
    return chance / chance.sum()


def train(
    network: nn.Module, loss: Callable[[int, int], Tensor], parts: int, plan: Plan, title: str
) -> list[dict[str, float]]:
    """Train in place under a progress bar by the one loop, leave the network in evaluation, return the curve."""
    with progress(title, plan.steps) as watch:
        curve = fit(network, loss, parts, plan, watch=watch)
    network.eval()
    return curve


@torch.no_grad()
def judge(
    batches: list[Piece], compute: Callable[[Piece], tuple[Tensor, ...]], device: torch.device
) -> tuple[np.ndarray, ...]:
    """Compute each tile, keep its core, and put the cells back in their order: one float32 array per result."""
    n = sum(len(batch.cells) for batch in batches)
    out: list[np.ndarray] = []
    for batch in batches:
        results = compute(batch.to(device))
        out = out or [np.empty((n, *result.shape[1:]), dtype=np.float32) for result in results]
        for array, result in zip(out, results, strict=True):
            array[batch.cells] = result[: len(batch.cells)].float().cpu().numpy()
    return tuple(out)


def weights_of(network: nn.Module, name: str) -> dict[str, np.ndarray]:
    """State of a network as arrays, each named ``name.…``."""
    return {f"{name}.{key}": value.detach().cpu().numpy() for key, value in network.state_dict().items()}


def load_weights(network: nn.Module, name: str, arrays: dict[str, np.ndarray]) -> None:
    """Take back what :func:`weights_of` gave, and leave the network in evaluation."""
    start = f"{name}."
    own = {k.removeprefix(start): torch.from_numpy(v.copy()) for k, v in arrays.items() if k.startswith(start)}
    network.load_state_dict(own)
    network.eval()
