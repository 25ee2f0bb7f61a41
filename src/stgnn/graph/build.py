"""Ways to build a graph, one function each: of cells from coordinates, of genes from expression.

Spatial graphs are built section by section, so that no edge ever crosses from one section to another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from scipy.spatial import Delaunay, cKDTree

from stgnn.graph.graph import Graph, by_section
from stgnn.graph.sample import morton_order

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped

# Halfway from the first to the second neighbour distance of a lattice of pitch 1: tolerates jitter of a fifth.
SQUARE_REACH = (1 + np.sqrt(2)) / 2
HEXAGONAL_REACH = (1 + np.sqrt(3)) / 2

_GENES_PER_BLOCK = 1024  # bounds the slice of the correlation matrix that is held at once


def spatial_knn(coords: Float[np.ndarray, "n d"], section: Int[np.ndarray, " n"], k: int) -> Graph:
    """Link every cell to the k nearest cells of its section.

    Parameters
    ----------
    coords
        Coordinates (n, 2 or 3).
    section
        Section code of each cell (n,).
    k
        Number of neighbours; a cell of a section with k cells or fewer gets all the others.

    Returns
    -------
    Graph
        Directed; weights are distances in the unit of ``coords``.

    Raises
    ------
    ValueError
        If ``k`` is below 1, or ``coords`` and ``section`` do not fit together.

    Examples
    --------
    >>> graph = spatial_knn(np.array([[0.0, 0], [1, 0], [3, 0]]), np.zeros(3, dtype=int), k=1)
    >>> graph.indices.tolist(), graph.weight.tolist()
    ([1, 0, 1], [1.0, 1.0, 2.0])
    """
    _check(coords, section)
    _check_positive("k", k)
    width = min(k, max(len(coords) - 1, 0))
    neighbours = np.zeros((len(coords), width), dtype=np.int64)
    distance = np.zeros((len(coords), width))
    mask = np.zeros((len(coords), width), dtype=bool)
    for members in by_section(section):
        if len(members) == 1:
            continue
        # Along a space-filling curve, successive searches touch the same branches of the tree: 3 times faster.
        members = members[morton_order(coords[members])]
        found = min(k, len(members) - 1)
        far, near = cKDTree(coords[members]).query(coords[members], k=found + 1, workers=-1)
        itself = near == np.arange(len(members))[:, None]
        # With more than k points at one place the cell may be absent from its own list: drop the farthest then.
        itself[~itself.any(axis=1), -1] = True
        neighbours[members, :found] = members[near[~itself].reshape(-1, found)]
        distance[members, :found] = far[~itself].reshape(-1, found)
        mask[members, :found] = True
    return Graph.from_table(neighbours, distance, mask)


def spatial_radius(coords: Float[np.ndarray, "n d"], section: Int[np.ndarray, " n"], radius: float) -> Graph:
    """Link all pairs of cells of a section that lie within a radius of each other, the radius included.

    Parameters
    ----------
    coords
        Coordinates (n, 2 or 3).
    section
        Section code of each cell (n,).
    radius
        Largest distance, in the unit of ``coords``.

    Returns
    -------
    Graph
        Symmetric; weights are distances in the unit of ``coords``.

    Raises
    ------
    ValueError
        If ``radius`` is not above 0, or ``coords`` and ``section`` do not fit together.

    Examples
    --------
    >>> spatial_radius(np.array([[0.0, 0], [1, 0], [3, 0]]), np.zeros(3, dtype=int), radius=1.5).degree.tolist()
    [1, 1, 0]
    """
    _check(coords, section)
    _check_positive("radius", radius)
    return _symmetric(coords, section, lambda points: cKDTree(points).query_pairs(radius, output_type="ndarray"))


def spatial_delaunay(
    coords: Float[np.ndarray, "n d"], section: Int[np.ndarray, " n"], max_length: float | None = None
) -> Graph:
    """Link the cells of each section that share an edge of its Delaunay triangulation.

    The triangulation is drawn in the flat that the points span: points on one line (and any two points) become a
    chain, points of a plane in space are triangulated within it. A point that lies on another is linked to it alone.

    Parameters
    ----------
    coords
        Coordinates (n, 2 or 3).
    section
        Section code of each cell (n,).
    max_length
        Longer edges are left out, in the unit of ``coords``; None keeps all, also those across gaps in the tissue.

    Returns
    -------
    Graph
        Symmetric; weights are distances in the unit of ``coords``.

    Raises
    ------
    ValueError
        If ``max_length`` is not above 0, or ``coords`` and ``section`` do not fit together.

    Examples
    --------
    >>> corners = np.array([[0.0, 0], [2, 0], [0, 2], [2, 2], [1, 1]])
    >>> spatial_delaunay(corners, np.zeros(5, dtype=int)).degree.tolist()
    [3, 3, 3, 3, 4]
    """
    _check(coords, section)
    if max_length is not None:
        _check_positive("max_length", max_length)
    longest = np.inf if max_length is None else max_length

    def pairs(points: np.ndarray) -> np.ndarray:
        found = _delaunay_pairs(points)
        return found[_length(points, found) <= longest]

    return _symmetric(coords, section, pairs)


def square_grid(coords: Float[np.ndarray, "n d"], section: Int[np.ndarray, " n"], rings: int = 1) -> Graph:
    """Link the spots of a square grid that are at most ``rings`` steps along its sides apart.

    Away from borders and holes a spot has 2 r (r + 1) neighbours: 4, 12, 24, ...

    Parameters
    ----------
    coords
        Coordinates (n, 2 or 3) of spots near the nodes of one grid per section; its pitch is estimated as the
        median distance to the nearest spot elsewhere, its direction is free.
    section
        Section code of each spot (n,).
    rings
        Number of steps; each passes from spot to spot, so never over a hole.

    Returns
    -------
    Graph
        Symmetric; weights are distances in the unit of ``coords``.

    Raises
    ------
    ValueError
        If ``rings`` is below 1, or ``coords`` and ``section`` do not fit together.

    Examples
    --------
    >>> grid = np.array([[x, y] for x in range(3) for y in range(3)], dtype=float)
    >>> square_grid(grid, np.zeros(9, dtype=int)).degree.tolist()
    [2, 3, 2, 3, 4, 3, 2, 3, 2]
    """
    return _grid(coords, section, rings, SQUARE_REACH)


def hexagonal_grid(coords: Float[np.ndarray, "n d"], section: Int[np.ndarray, " n"], rings: int = 1) -> Graph:
    """Link the spots of a hexagonal grid, such as Visium's, that are at most ``rings`` steps apart.

    Away from borders and holes a spot has 3 r (r + 1) neighbours: 6, 18, 36, ...

    Parameters
    ----------
    coords
        Coordinates (n, 2 or 3) of spots near the nodes of one grid per section; its pitch is estimated as the
        median distance to the nearest spot elsewhere, its direction is free.
    section
        Section code of each spot (n,).
    rings
        Number of steps; each passes from spot to spot, so never over a hole.

    Returns
    -------
    Graph
        Symmetric; weights are distances in the unit of ``coords``.

    Raises
    ------
    ValueError
        If ``rings`` is below 1, or ``coords`` and ``section`` do not fit together.

    Examples
    --------
    >>> angle = np.arange(6) * np.pi / 3
    >>> flower = np.vstack([[0, 0], np.column_stack([np.cos(angle), np.sin(angle)])])
    >>> hexagonal_grid(flower, np.zeros(7, dtype=int)).degree.tolist()
    [6, 3, 3, 3, 3, 3, 3]
    """
    return _grid(coords, section, rings, HEXAGONAL_REACH)


def gene_correlation(expression: Float[np.ndarray, "cells genes"], k: int) -> Graph:
    """Link every gene to the k genes with which it correlates most strongly, whatever the sign.

    Parameters
    ----------
    expression
        Dense values (cells, genes), such as the log of the means given by :func:`metacells`: dropout in single cells
        hides correlation.
    k
        Number of neighbours of a gene.

    Returns
    -------
    Graph
        Directed; weights are Pearson correlations in [-1, 1], the largest absolute value first. A gene without
        variation listens to none and is heard by none.

    Raises
    ------
    ValueError
        If ``k`` is below 1, or ``expression`` is not a finite matrix.

    Examples
    --------
    >>> graph = gene_correlation(np.array([[0.0, 0, 2, 5], [1, 1, 1, 5], [2, 3, 1, 5]]), k=1)
    >>> graph.indices.tolist(), graph.weight.astype(float).round(2).tolist()
    ([1, 0, 0], [0.98, 0.98, -0.87])
    """
    _check_positive("k", k)
    expression = np.asarray(expression, dtype=np.float64)
    if expression.ndim != 2 or not np.isfinite(expression).all():
        raise ValueError(f"expression: expected finite values (cells, genes); found shape {expression.shape} or NaN")
    n = expression.shape[1]
    centred = expression - expression.mean(axis=0)
    norm = np.linalg.norm(centred, axis=0)
    # The mean of equal numbers can miss them by a rounding error, which is not variation.
    varying = np.flatnonzero(norm > 1e-10 * np.linalg.norm(expression, axis=0))
    unit = (centred[:, varying] / norm[varying]).astype(np.float32)
    width = min(k, max(len(varying) - 1, 0))
    neighbours = np.zeros((n, width), dtype=np.int64)
    weight = np.zeros((n, width), dtype=np.float32)
    mask = np.zeros((n, width), dtype=bool)
    mask[varying] = True
    for start in range(0, len(varying) if width else 0, _GENES_PER_BLOCK):
        block = np.arange(start, min(start + _GENES_PER_BLOCK, len(varying)))
        correlation = unit[:, block].T @ unit
        strength = np.abs(correlation)
        strength[np.arange(len(block)), block] = -1.0  # a gene never lists itself
        top = np.argpartition(strength, -width, axis=1)[:, -width:]
        top = np.take_along_axis(top, np.argsort(-np.take_along_axis(strength, top, axis=1), axis=1), axis=1)
        neighbours[varying[block]] = varying[top]
        weight[varying[block]] = np.take_along_axis(correlation, top, axis=1).clip(-1, 1)
    return Graph.from_table(neighbours, weight, mask)


def metacells(
    expression: np.ndarray | sp.csr_matrix, labels: Shaped[np.ndarray, " cells"], size: int, random_state: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Average random groups of about ``size`` cells of one label, each cell in exactly one group.

    Parameters
    ----------
    expression
        Values (cells, genes), dense or sparse; scaled to equal totals but not yet logged, since the mean of logs
        is pulled down by dropout.
    labels
        Label of each cell (cells,).
    size
        Wanted number of cells per group; the groups of a label differ by at most one cell, and a label with fewer
        cells is one group.
    random_state
        Seed of the grouping.

    Returns
    -------
    means
        Mean of each group (groups, genes), float32.
    group_labels
        Label of each group (groups,), ascending.

    Raises
    ------
    ValueError
        If ``size`` is below 1, or there is not one label per cell.

    Examples
    --------
    >>> means, labels = metacells(np.array([[1.0], [3.0], [10.0]]), np.array(["a", "a", "b"]), size=2)
    >>> means.ravel().tolist(), labels.tolist()
    ([2.0, 10.0], ['a', 'b'])
    """
    _check_positive("size", size)
    n = expression.shape[0]
    if len(labels) != n:
        raise ValueError(f"labels: expected one for each of {n} cells; found {len(labels)}")
    names, code, count = np.unique(labels, return_inverse=True, return_counts=True)
    groups = np.maximum(1, np.rint(count / size)).astype(np.int64)
    shuffled = np.random.default_rng(random_state).permutation(n)
    shuffled = shuffled[np.argsort(code[shuffled], kind="stable")]
    label = code[shuffled]
    rank = np.arange(n) - (np.cumsum(count) - count)[label]
    group = (np.cumsum(groups) - groups)[label] + rank * groups[label] // count[label]
    share = 1 / np.bincount(group)[group]
    average = sp.csr_matrix((share, (group, shuffled)), shape=(groups.sum(), n))
    means = average @ expression
    return np.asarray(means.toarray() if sp.issparse(means) else means, dtype=np.float32), np.repeat(names, groups)


def _check(coords: np.ndarray, section: np.ndarray) -> None:
    if coords.ndim != 2 or coords.shape[1] not in (2, 3):
        raise ValueError(f"coords: expected an array (n, 2 or 3); found shape {coords.shape}")
    if section.shape != (len(coords),):
        raise ValueError(f"section: expected one code for each of {len(coords)} cells; found shape {section.shape}")


def _check_positive(argument: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{argument}: expected a value above 0; found {value}")


def _length(points: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)


def _symmetric(coords: np.ndarray, section: np.ndarray, pairs: Callable[[np.ndarray], np.ndarray]) -> Graph:
    """Join the undirected pairs that ``pairs(points)`` finds in each section into one graph."""
    found = [np.empty((0, 2), dtype=np.int64)]
    found += [members[pairs(coords[members])] for members in by_section(section) if len(members) > 1]
    edges = np.concatenate(found)
    both = np.concatenate([edges, edges[:, ::-1]])
    return Graph.from_edges(len(coords), both[:, 0], both[:, 1], _length(coords, both))


def _delaunay_pairs(points: np.ndarray) -> np.ndarray:
    """Edges (pairs, 2) of the triangulation of at least two points, each once."""
    points = points - points.mean(axis=0)
    _, extent, axes = np.linalg.svd(points, full_matrices=False)
    rank = int((extent > 1e-9 * extent[0]).sum())
    if rank <= 1:
        chain = np.argsort(points @ axes[0], kind="stable")
        return np.column_stack([chain[:-1], chain[1:]])
    triangulation = Delaunay(points if rank == points.shape[1] else points @ axes[:rank].T)
    indptr, heard = triangulation.vertex_neighbor_vertices
    listener = np.repeat(np.arange(len(points)), np.diff(indptr))
    once = listener < heard
    duplicates = triangulation.coplanar[:, [0, 2]]
    return np.concatenate([np.column_stack([listener, heard])[once], duplicates])


def _grid(coords: np.ndarray, section: np.ndarray, rings: int, reach: float) -> Graph:
    _check(coords, section)
    _check_positive("rings", rings)

    def pairs(points: np.ndarray) -> np.ndarray:
        places = np.unique(points, axis=0)
        if len(places) == 1:
            return np.empty((0, 2), dtype=np.int64)
        pitch = np.median(cKDTree(places).query(places, k=2, workers=-1)[0][:, 1])
        step = cKDTree(points).query_pairs(reach * pitch, output_type="ndarray")
        n = len(points)
        one = sp.csr_matrix((np.ones(len(step), dtype=bool), (step[:, 0], step[:, 1])), shape=(n, n))
        one = one + one.T + sp.identity(n, dtype=bool, format="csr")
        within = one
        for _ in range(rings - 1):
            within = within @ one
        return np.column_stack(sp.triu(within, k=1).nonzero())

    return _symmetric(coords, section, pairs)
