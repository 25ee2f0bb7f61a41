"""Pieces of a graph small enough to compute on: spatial tiles with a halo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from stgnn.graph.graph import Graph, by_section

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_BITS = 16  # per axis: cells of a 1 cm section fall into squares of 0.15 um


@dataclass(frozen=True, eq=False)
class Tile:
    """A set of nodes to compute, with the nodes that they listen to.

    Parameters
    ----------
    core
        Nodes whose results this tile gives (cells,), int64, along the space-filling curve.
    nodes
        ``core`` first, then the halo (cells + halo,), int64; ``graph.subgraph(tile.nodes)`` is the tile's graph,
        and the first ``len(tile.core)`` rows of its output are those of the core.
    """

    core: Int[np.ndarray, " cells"]
    nodes: Int[np.ndarray, " nodes"]


def morton_order(coords: Float[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
    """Order points along the Z-shaped space-filling curve, so that points near in the order are near in space.

    Parameters
    ----------
    coords
        Finite coordinates (n, d).

    Returns
    -------
    numpy.ndarray
        Point numbers in the order of the curve (n,), int64; points at one place keep their order. Moving or scaling
        all points alike does not change it.

    Examples
    --------
    >>> morton_order(np.array([[0.0, 0.0], [1, 1], [0, 1], [1, 0]])).tolist()
    [0, 3, 2, 1]
    """
    if len(coords) == 0:
        return np.empty(0, dtype=np.int64)
    shifted = coords - coords.min(axis=0)
    span = shifted.max()
    # One scale for all axes keeps the curve's squares square.
    place = (shifted * ((2**_BITS - 1) / span if span > 0 else 0.0)).astype(np.uint64)
    code = np.zeros(len(coords), dtype=np.uint64)
    d = coords.shape[1]
    for bit in range(_BITS):
        for axis in range(d):
            code |= ((place[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(bit * d + axis)
    return np.argsort(code, kind="stable")


def tiles(
    coords: Float[np.ndarray, "n d"], section: Int[np.ndarray, " n"], graph: Graph, max_cells: int, hops: int
) -> list[Tile]:
    """Cut the nodes into spatial tiles, each with a halo wide enough for an exact result on its core.

    A network of ``hops`` rounds of message passing gives the core of a tile's graph the same output as the whole
    graph would. Sections of up to ``max_cells`` cells stay whole, and several of them share a tile while they fit;
    larger ones are cut along a space-filling curve into the fewest runs of equal size.

    Parameters
    ----------
    coords
        Coordinates (n, 2 or 3).
    section
        Section code of each cell (n,).
    graph
        Whom each cell listens to.
    max_cells
        Largest number of cells in a core; the halo comes on top.
    hops
        Rounds of message passing that the halo must serve.

    Returns
    -------
    list of Tile
        The cores share no node and hold every node.

    Raises
    ------
    ValueError
        If ``max_cells`` is below 1, ``hops`` below 0, or the arrays differ in length.

    Examples
    --------
    >>> from stgnn.graph.build import spatial_knn
    >>> coords, section = np.arange(12.0).reshape(6, 2), np.zeros(6, dtype=int)
    >>> for tile in tiles(coords, section, spatial_knn(coords, section, k=2), max_cells=3, hops=1):
    ...     print(tile.core.tolist(), tile.nodes.tolist())
    [0, 1, 2] [0, 1, 2, 3]
    [3, 4, 5] [3, 4, 5, 2]
    """
    if max_cells < 1:
        raise ValueError(f"max_cells: expected 1 or more; found {max_cells}")
    if not len(coords) == len(section) == graph.n:
        raise ValueError(
            f"section: expected as many cells as the graph has ({graph.n}); "
            f"found {len(section)}, with {len(coords)} coordinates"
        )
    return [_with_halo(core, graph, hops) for core in _cores(coords, section, max_cells)]


def pieces(
    coords: Float[np.ndarray, "n d"] | None, section: Int[np.ndarray, " n"], k: int, max_cells: int, hops: int
) -> Iterator[Tile]:
    """Cut the nodes into tiles, one after the other, with whom their cells would listen to among k nearest neighbours.

    As :func:`tiles` on :func:`stgnn.graph.build.spatial_knn`, without ever holding the graph of a whole section. Up to
    ``max_cells`` cells are one tile; of more, no tile holds cells of two sections. Cells without coordinates, which
    listen to nobody, are cut into runs.

    Parameters
    ----------
    coords
        Coordinates (n, 2 or 3); None without any.
    section
        Section code of each cell (n,).
    k
        Neighbours that a cell listens to.
    max_cells
        Largest number of cells in a core; the halo comes on top.
    hops
        Rounds of message passing that the halo must serve.

    Yields
    ------
    Tile
        The cores share no node and hold every node.

    Examples
    --------
    >>> coords, section = np.arange(12.0).reshape(6, 2), np.zeros(6, dtype=int)
    >>> [tile.nodes.tolist() for tile in pieces(coords, section, k=2, max_cells=3, hops=1)]
    [[0, 1, 2, 3], [3, 4, 5, 2]]
    """
    n = len(section)
    if coords is None or n <= max_cells:
        yield from (Tile(run, run) for run in np.array_split(np.arange(n), -(-n // max_cells)))
        return
    for members in by_section(section):
        points = coords[members]
        tree, order = cKDTree(points), morton_order(points)
        for core in np.array_split(order, -(-len(order) // max_cells)):
            reached = np.zeros(len(order), dtype=bool)
            reached[core] = True
            edge = core
            for _ in range(hops):
                near = tree.query(points[edge], k=np.arange(1, min(k + 1, len(order)) + 1), workers=-1)[1]
                edge = np.setdiff1d(near, np.flatnonzero(reached))
                reached[edge] = True
            reached[core] = False
            yield Tile(members[core], members[np.concatenate([core, np.flatnonzero(reached)])])


def _cores(coords: np.ndarray, section: np.ndarray, max_cells: int) -> list[np.ndarray]:
    cores: list[np.ndarray] = []
    small: list[np.ndarray] = []
    for members in by_section(section):
        members = members[morton_order(coords[members])]
        if len(members) > max_cells:
            cores.extend(np.array_split(members, -(-len(members) // max_cells)))
            continue
        if sum(map(len, small)) + len(members) > max_cells:
            cores.append(np.concatenate(small))
            small = []
        small.append(members)
    return [*cores, np.concatenate(small)] if small else cores


def _with_halo(core: np.ndarray, graph: Graph, hops: int) -> Tile:
    reached = np.zeros(graph.n, dtype=bool)
    reached[graph.hops(core, hops)] = True
    reached[core] = False
    return Tile(core, np.concatenate([core, np.flatnonzero(reached)]))
