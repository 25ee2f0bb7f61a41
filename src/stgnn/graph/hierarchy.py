"""Levels of the tissue: cells into regions, regions into larger regions, with explicit assignment matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stgnn.graph.graph import by_section

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_STEPS = 40  # halvings of the bracket around a region's side: far below any spacing of cells


@dataclass(frozen=True, eq=False)
class Level:
    """An assignment of children (cells, or smaller regions) to parents (regions).

    Parameters
    ----------
    assignment
        Float32 CSR (children, parents) with a single 1 in each row.
    centres
        Mean coordinates of each parent's children (parents, d), float64.
    section
        Section code of each parent (parents,), int64; its children all come from there.
    """

    assignment: sp.csr_matrix
    centres: Float[np.ndarray, "parents d"]
    section: Int[np.ndarray, " parents"]

    @property
    def parent(self) -> Int[np.ndarray, " children"]:
        """Parent of each child (children,), int64."""
        return self.assignment.indices.astype(np.int64)

    @property
    def size(self) -> Int[np.ndarray, " parents"]:
        """Number of children of each parent (parents,), int64."""
        return np.bincount(self.assignment.indices, minlength=self.assignment.shape[1])


def regions(coords: Float[np.ndarray, "n d"], section: Int[np.ndarray, " n"], cells_per_region: int) -> Level:
    """Lay square regions (cubes in 3-D) over each section, as large as holds about the wanted number of cells.

    Parameters
    ----------
    coords
        Coordinates (n, 2 or 3).
    section
        Section code of each cell (n,).
    cells_per_region
        Wanted median, over a section's occupied regions, of the number of cells in one; the side of the squares is
        chosen section by section to come as near to it as possible. A section with no more cells is one region.

    Returns
    -------
    Level
        Occupied regions only, sections by ascending code; equal input gives equal output.

    Raises
    ------
    ValueError
        If ``cells_per_region`` is below 1, or ``coords`` and ``section`` differ in length.

    Examples
    --------
    >>> coords = np.array([[x, y] for x in range(4) for y in range(4)], dtype=float)
    >>> level = regions(coords, np.zeros(16, dtype=int), cells_per_region=4)
    >>> level.size.tolist(), level.centres.tolist()
    ([4, 4, 4, 4], [[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]])
    """
    if cells_per_region < 1:
        raise ValueError(f"cells_per_region: expected 1 or more; found {cells_per_region}")
    if len(coords) != len(section):
        raise ValueError(f"section: expected one code for each of {len(coords)} cells; found {len(section)}")
    parent = np.zeros(len(coords), dtype=np.int64)
    owner: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    first = 0
    for members in by_section(section):
        square = _squares(coords[members], cells_per_region)
        parent[members] = first + square
        owner.append(np.full(square.max() + 1, section[members[0]], dtype=np.int64))
        first += len(owner[-1])
    n = len(coords)
    assignment = sp.csr_matrix((np.ones(n, dtype=np.float32), parent, np.arange(n + 1)), shape=(n, first))
    centres = (assignment.T @ np.asarray(coords, dtype=np.float64)) / np.bincount(parent, minlength=first)[:, None]
    return Level(assignment, centres, np.concatenate(owner))


def coarsen(level: Level, regions_per_region: int) -> Level:
    """Group the regions of a level into larger ones.

    Parameters
    ----------
    level
        The finer level; its parents become the children.
    regions_per_region
        Wanted median number of them in a larger region.

    Returns
    -------
    Level
        From the finer regions to the larger; its centres are means of the finer centres, each counted once.

    Examples
    --------
    >>> coords = np.array([[x, y] for x in range(8) for y in range(8)], dtype=float)
    >>> fine = regions(coords, np.zeros(64, dtype=int), cells_per_region=4)
    >>> coarsen(fine, regions_per_region=4).assignment.shape
    (16, 4)
    """
    return regions(level.centres, level.section, regions_per_region)


def pool(level: Level, x: Float[np.ndarray, "children f"]) -> Float[np.ndarray, "parents f"]:
    """Average the children of each parent.

    Parameters
    ----------
    level
        Assignment of children to parents.
    x
        Values of the children (children, f).

    Returns
    -------
    numpy.ndarray
        Means (parents, f).

    Examples
    --------
    >>> level = regions(np.array([[0.0, 0.0], [1.0, 0.0]]), np.zeros(2, dtype=int), cells_per_region=2)
    >>> pool(level, np.array([[2.0], [4.0]])).tolist()
    [[3.0]]
    """
    return (level.assignment.T @ x) / level.size[:, None].astype(x.dtype)


def unpool(level: Level, x: Float[np.ndarray, "parents f"]) -> Float[np.ndarray, "children f"]:
    """Give every child the value of its parent.

    Parameters
    ----------
    level
        Assignment of children to parents.
    x
        Values of the parents (parents, f).

    Returns
    -------
    numpy.ndarray
        Values of the children (children, f).

    Examples
    --------
    >>> level = regions(np.array([[0.0, 0.0], [1.0, 0.0]]), np.zeros(2, dtype=int), cells_per_region=2)
    >>> unpool(level, np.array([[3.0]])).tolist()
    [[3.0], [3.0]]
    """
    return x[level.parent]


def _squares(points: np.ndarray, wanted: int) -> np.ndarray:
    """Number the occupied squares of the best side and return the square of each point."""
    shifted = points - points.min(axis=0)
    span = float(shifted.max())
    best, miss = np.zeros(len(points), dtype=np.int64), abs(np.log(len(points) / wanted))
    if span == 0:
        return best
    # The median grows with the side, from about one cell at the lower end to all cells at the upper.
    low, high = span / len(points), 2 * span
    for _ in range(_STEPS):
        side = np.sqrt(low * high)
        square, count = _occupied(shifted, side)
        median = float(np.median(count))
        if abs(np.log(median / wanted)) < miss:
            best, miss = square, abs(np.log(median / wanted))
        if median == wanted:
            break
        low, high = (side, high) if median < wanted else (low, side)
    return best


def _occupied(shifted: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Square of each point, numbered over the occupied squares only, and the number of points in each."""
    span = shifted.max(axis=0)
    squares = np.floor(span / side).astype(np.int64) + 1
    # Centred on the section: a grid that starts at one border leaves thin strips at the other.
    column = np.floor((shifted + (squares * side - span) / 2) / side).astype(np.int64)
    flat = np.ravel_multi_index(tuple(column.T), tuple(squares), mode="clip")
    _, square, count = np.unique(flat, return_inverse=True, return_counts=True)
    return square, count
