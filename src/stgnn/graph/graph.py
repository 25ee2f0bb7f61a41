"""The one graph of the package: compressed rows of neighbours, nearest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class Graph:
    """A directed graph in which row i lists whom node i listens to, nearest first, and never i itself.

    Parameters
    ----------
    indptr
        Where each row starts in ``indices`` (n + 1,), int64.
    indices
        Neighbours, row after row (edges,), int64. A row is ordered from the nearest neighbour to the farthest,
        or, where weights are correlations, from the strongest to the weakest.
    weight
        One value per edge (edges,), float32: a distance in the unit of the coordinates for a graph of cells,
        a correlation in [-1, 1] for a graph of genes.

    Raises
    ------
    ValueError
        If the arrays do not fit together, or a node lists itself.

    Examples
    --------
    >>> graph = Graph.from_edges(3, np.array([0, 0, 1]), np.array([2, 1, 0]), np.array([2.0, 1.0, 1.0]))
    >>> graph.indptr.tolist(), graph.indices.tolist()
    ([0, 2, 3, 3], [1, 2, 0])
    """

    indptr: Int[np.ndarray, " n+1"]
    indices: Int[np.ndarray, " edges"]
    weight: Float[np.ndarray, " edges"]

    def __post_init__(self) -> None:
        edges = int(self.indptr[-1]) if self.indptr.ndim == 1 and self.indptr.size else -1
        if not edges == self.indices.size == self.weight.size:
            raise ValueError(
                f"indptr: expected a last entry equal to the number of edges; "
                f"found {edges}, with {self.indices.size} indices and {self.weight.size} weights"
            )
        if self.indptr[0] != 0 or np.any(np.diff(self.indptr) < 0):
            raise ValueError("indptr: expected a start of 0 and no decrease; found otherwise")
        if edges and not (self.indices.min() >= 0 and self.indices.max() < self.n):
            raise ValueError(f"indices: expected node numbers in [0, {self.n}); found others")
        if np.any(self.indices == np.repeat(np.arange(self.n), self.degree)):
            raise ValueError("indices: expected no node among its own neighbours; found one")

    @classmethod
    def from_edges(
        cls,
        n: int,
        listener: Int[np.ndarray, " edges"],
        heard: Int[np.ndarray, " edges"],
        weight: Float[np.ndarray, " edges"],
    ) -> Graph:
        """Build a graph from its edges in any order; each row is sorted by ascending weight.

        Parameters
        ----------
        n
            Number of nodes.
        listener, heard
            Ends of each edge (edges,): ``listener`` receives what ``heard`` sends. No edge is given twice.
        weight
            Distance of each edge (edges,).

        Returns
        -------
        Graph
            Rows nearest first; neighbours at equal distance by their number.
        """
        order = np.lexsort((heard, weight, listener))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(listener, minlength=n))])
        return cls(
            indptr.astype(np.int64),
            np.asarray(heard, dtype=np.int64)[order],
            np.asarray(weight, dtype=np.float32)[order],
        )

    @classmethod
    def from_table(
        cls,
        neighbours: Int[np.ndarray, "n k"],
        weight: Float[np.ndarray, "n k"],
        mask: Bool[np.ndarray, "n k"],
    ) -> Graph:
        """Build a graph from a table of neighbours, the inverse of :meth:`table`.

        Parameters
        ----------
        neighbours
            Neighbours of each node (n, k), nearest first.
        weight
            Their distances or correlations (n, k).
        mask
            True where the table holds a neighbour (n, k).

        Returns
        -------
        Graph
            The neighbours under the mask, in the table's order.
        """
        indptr = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int64)
        return cls(indptr, neighbours[mask].astype(np.int64), weight[mask].astype(np.float32))

    @property
    def n(self) -> int:
        """Number of nodes."""
        return self.indptr.size - 1

    @property
    def degree(self) -> Int[np.ndarray, " n"]:
        """Number of neighbours of each node (n,), int64."""
        return np.diff(self.indptr)

    def table(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lay the nearest k neighbours of every node out as a table, for fixed-degree attention.

        Parameters
        ----------
        k
            Number of columns; farther neighbours are left out.

        Returns
        -------
        neighbours
            Node numbers (n, k), int64; the node itself where it has fewer than k neighbours.
        weight
            Their weights (n, k), float32; 0 where there is none.
        mask
            True where there is a neighbour (n, k), bool.

        Examples
        --------
        >>> graph = Graph.from_edges(3, np.array([0, 0, 1]), np.array([2, 1, 0]), np.array([2.0, 1.0, 1.0]))
        >>> neighbours, weight, mask = graph.table(2)
        >>> neighbours.tolist()
        [[1, 2], [0, 1], [2, 2]]
        >>> mask.tolist()
        [[True, True], [True, False], [False, False]]
        """
        if k < 0:
            raise ValueError(f"k: expected 0 or more neighbours; found {k}")
        edge = self.indptr[:-1, None] + np.arange(k)
        mask = edge < self.indptr[1:, None]
        neighbours = np.repeat(np.arange(self.n)[:, None], k, axis=1)
        neighbours[mask] = self.indices[edge[mask]]
        weight = np.zeros((self.n, k), dtype=np.float32)
        weight[mask] = self.weight[edge[mask]]
        return neighbours, weight, mask

    def mean(self, k: int) -> sp.csr_array:
        """Matrix (n, n) that averages values over the nearest k neighbours of every node, itself left out.

        Parameters
        ----------
        k
            Number of neighbours; farther ones are left out.

        Returns
        -------
        scipy.sparse.csr_array
            Float32; a row sums to 1, or to 0 for a node without neighbours.

        Examples
        --------
        >>> graph = Graph.from_edges(3, np.array([0, 0, 1]), np.array([2, 1, 0]), np.array([2.0, 1.0, 1.0]))
        >>> (graph.mean(2) @ np.array([1.0, 2.0, 4.0])).tolist()
        [3.0, 1.0, 0.0]
        """
        neighbours, _, there = self.table(k)
        share = (there / np.maximum(there.sum(axis=1, keepdims=True), 1)).astype(np.float32)
        rows = np.repeat(np.arange(self.n), k)
        return sp.csr_array((share.ravel(), (rows, neighbours.ravel())), shape=(self.n, self.n))

    def to_scipy(self) -> sp.csr_matrix:
        """Copy into a sparse matrix (n, n) whose row i holds the weights of i's neighbours.

        Neighbours at distance 0 are stored, so that ``matrix.nnz`` is the number of edges.

        Returns
        -------
        scipy.sparse.csr_matrix
            Float32, column numbers ascending in each row.
        """
        matrix = sp.csr_matrix((self.weight, self.indices, self.indptr), shape=(self.n, self.n), copy=True)
        matrix.sort_indices()
        return matrix

    def subgraph(self, nodes: Int[np.ndarray, " m"]) -> Graph:
        """Keep some nodes and the edges between them; the node at ``nodes[i]`` becomes node i.

        Parameters
        ----------
        nodes
            Distinct node numbers (m,), in any order.

        Returns
        -------
        Graph
            A graph of m nodes.

        Raises
        ------
        ValueError
            If a node is given twice.

        Examples
        --------
        >>> graph = Graph.from_edges(3, np.array([0, 1]), np.array([1, 2]), np.array([1.0, 1.0]))
        >>> graph.subgraph(np.array([2, 1])).to_scipy().toarray().tolist()
        [[0.0, 0.0], [1.0, 0.0]]
        """
        position = np.full(self.n, -1, dtype=np.int64)
        position[nodes] = np.arange(len(nodes))
        if np.any(position[nodes] != np.arange(len(nodes))):
            raise ValueError("nodes: expected distinct node numbers; found one twice")
        edge = self._edges_of(nodes)
        row = np.repeat(np.arange(len(nodes)), self.degree[nodes])
        kept = position[self.indices[edge]] >= 0
        row, edge = row[kept], edge[kept]
        indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(nodes)))]).astype(np.int64)
        return Graph(indptr, position[self.indices[edge]], self.weight[edge])

    def hops(self, nodes: Int[np.ndarray, " m"], k: int) -> Int[np.ndarray, " reached"]:
        """Find every node whose features can reach one of ``nodes`` in k rounds of listening.

        Parameters
        ----------
        nodes
            Node numbers to start from (m,).
        k
            Number of rounds; 0 returns the start.

        Returns
        -------
        numpy.ndarray
            Node numbers within k hops, the start included, ascending, int64.

        Examples
        --------
        >>> chain = Graph.from_edges(4, np.array([0, 1, 2]), np.array([1, 2, 3]), np.ones(3))
        >>> chain.hops(np.array([0]), 2).tolist()
        [0, 1, 2]
        """
        if k < 0:
            raise ValueError(f"k: expected 0 or more hops; found {k}")
        reached = np.zeros(self.n, dtype=bool)
        reached[nodes] = True
        frontier = np.flatnonzero(reached)
        for _ in range(k):
            heard = self.indices[self._edges_of(frontier)]
            frontier = np.unique(heard[~reached[heard]])
            reached[frontier] = True
        return np.flatnonzero(reached)

    def _edges_of(self, nodes: Int[np.ndarray, " m"]) -> Int[np.ndarray, " edges_of_nodes"]:
        """Positions in ``indices`` of all edges of some rows, row after row."""
        count = self.degree[nodes]
        first = self.indptr[:-1][nodes] - (np.cumsum(count) - count)
        return np.repeat(first, count) + np.arange(count.sum())


def by_section(section: Int[np.ndarray, " n"]) -> Iterator[Int[np.ndarray, " members"]]:
    """Yield the cells of each section, sections by ascending code and cells by ascending number.

    Parameters
    ----------
    section
        Section code of each cell (n,).

    Yields
    ------
    numpy.ndarray
        Cell numbers of one section, int64.

    Examples
    --------
    >>> [members.tolist() for members in by_section(np.array([7, 3, 7]))]
    [[1], [0, 2]]
    """
    order = np.argsort(section, kind="stable")
    if len(order):
        yield from np.split(order, np.flatnonzero(np.diff(section[order])) + 1)
