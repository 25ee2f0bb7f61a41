"""Levels of a slide: fine bins into coarser square ones, by an explicit operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from stgnn.data.schema import OptionError, number_of
from stgnn.data.slide import Slide

__all__ = ["Assignment", "aggregate", "assign", "at_widths", "grid_to_places", "with_one"]

_COVERS = 0.9
"""Part of the widest slide's area that another of the same tissue must have to stand for it."""


class Assignment(NamedTuple):
    """Which fine bins make up which coarse one.

    Attributes
    ----------
    operator
        Float32 CSR (n_coarse, n_fine) of ones, a single one in each column; counts of the coarse bins are its product
        with those of the fine.
    places
        Centres of the coarse bins (n_coarse, 2), micrometres.
    squares
        Row and column of each coarse bin (n_coarse, 2), int64; bins are sorted by them.
    """

    operator: sp.csr_matrix
    places: np.ndarray
    squares: np.ndarray

    @property
    def parent(self) -> np.ndarray:
        """Coarse bin of each fine one (n_fine,), int64."""
        return self.operator.tocsc().indices.astype(np.int64)


def assign(places: np.ndarray, um: float, width_um: float, grid: np.ndarray | None = None) -> Assignment:
    """Lay squares over bins, each bin in the square its centre lies in.

    Where the bins stand on a grid and the squares are a whole number of bins wide, the squares follow the grid, so that
    all but those at its border hold equally many bins, however the grid lies on the image.

    Parameters
    ----------
    places
        Centres of the fine bins (n_fine, 2), x and y in micrometres.
    um
        Side of the squares in micrometres.
    width_um
        Side of the fine bins in micrometres.
    grid
        Row and column of each fine bin on its array (n_fine, 2); None to lay the squares by place.

    Returns
    -------
    Assignment
        Squares with any bin, from top to bottom and left to right (of the array, where there is a grid).

    Raises
    ------
    OptionError
        If the squares are smaller than the bins.

    Examples
    --------
    >>> places = np.array([[x, y] for y in range(4, 36, 8) for x in range(4, 36, 8)], dtype=float)
    >>> levels = assign(places, 16.0, 8.0)
    >>> levels.operator.shape, levels.places.tolist()
    ((4, 16), [[8.0, 8.0], [24.0, 8.0], [8.0, 24.0], [24.0, 24.0]])
    """
    if not np.isfinite(um) or um < width_um:
        raise OptionError("um", expected=f"at least the width of the bins, {width_um:g} micrometres", found=f"{um:g}")
    places = np.asarray(places, dtype=np.float64)
    times = um / width_um
    if grid is not None and abs(times - round(times)) < 1e-6:
        whole = round(times)
        square = np.asarray(grid, dtype=np.int64) // whole
        middle = (np.unique(square, axis=0) + 0.5) * whole - 0.5
        centre = with_one(middle) @ grid_to_places(grid, places)
    else:
        origin = places.min(axis=0) - width_um / 2
        square = np.floor((places - origin)[:, ::-1] / um).astype(np.int64)
        centre = (np.unique(square, axis=0)[:, ::-1] + 0.5) * um + origin
    unique, parent = np.unique(square, axis=0, return_inverse=True)
    n = len(places)
    ones = np.ones(n, dtype=np.float32)
    operator = sp.csr_matrix((ones, (parent.ravel(), np.arange(n))), shape=(len(unique), n))
    return Assignment(operator, centre, unique)


def aggregate(slide: Slide, um: float) -> Slide:
    """Sum the bins of a slide into coarser square ones; see :func:`assign` for the operator.

    Parameters
    ----------
    slide
        The fine bins.
    um
        Side of the coarse bins in micrometres.

    Returns
    -------
    Slide
        Counts and totals are sums, without any rounding. A coarse bin lies on tissue if half of its bins do; it is of
        the block that all of its bins are of, else of none; it is a guard if any of its bins is or if blocks meet in
        it. ``rows`` number the coarse bins.

    Raises
    ------
    OptionError
        If the squares are smaller than the bins.
    """
    operator, places, squares = assign(slide.places, um, slide.width_um, None if slide.round else slide.grid)
    n, size = len(places), np.asarray(operator.sum(axis=1)).ravel()
    first = slide.block[operator.indices[operator.indptr[:-1]]]
    parent = np.repeat(np.arange(n), np.diff(operator.indptr))
    mixed = np.zeros(n, dtype=bool)
    mixed[parent[slide.block[operator.indices] != first[parent]]] = True
    return replace(
        slide,
        places=places,
        width_um=float(um),
        round=False,
        counts=None if slide.counts is None else (operator @ slide.counts).tocsr(),
        total=None if slide.total is None else operator.astype(np.float64) @ slide.total,
        names=np.array([f"{um:g}um_{row}_{column}" for row, column in squares], dtype=object),
        in_tissue=operator @ slide.in_tissue.astype(np.float32) * 2 >= size,
        block=np.where(mixed, -1, first),
        guard=mixed | (operator @ slide.guard.astype(np.float32) > 0),
        rows=np.arange(n),
        notes=(*slide.notes, f"{number_of(len(slide), 'bin')} summed into {n} of {um:g} um"),
        grid=squares,
    )


def at_widths(slides: Sequence[Slide], widths_um: Sequence[float] = ()) -> dict[float, list[Slide]]:
    """Slides at every width: as given, and summed from the finest that covers the tissue where a width is coarser.

    Parameters
    ----------
    slides
        Slides; those of equal name are the same tissue.
    widths_um
        Widths beside those of the slides, in micrometres.

    Returns
    -------
    dict
        Slides by width, ascending.

    Raises
    ------
    OptionError
        If a width is below that of all slides.
    """
    finest = min(slide.width_um for slide in slides)
    for width in widths_um:
        if not width >= finest:
            expected = f"at least the width of the finest bins, {finest:g} micrometres"
            raise OptionError("width_um", expected=expected, found=f"{width:g}")
    out: dict[float, list[Slide]] = {}
    for width in sorted({slide.width_um for slide in slides} | {float(width) for width in widths_um}):
        out[width] = []
        for name in dict.fromkeys(slide.name for slide in slides):
            own = [slide for slide in slides if slide.name == name and slide.width_um <= width]
            if native := [slide for slide in own if slide.width_um == width]:
                out[width] += native
            elif own:
                most = max(len(slide) * slide.area_um2 for slide in own)
                wide = [slide for slide in own if len(slide) * slide.area_um2 >= _COVERS * most]
                out[width].append(aggregate(min(wide, key=lambda slide: slide.width_um), width))
    return out


def grid_to_places(grid: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Affine map (3, 2), fitted to bins: places are ``with_one(grid)`` times it; its rows are the steps and the origin.

    Parameters
    ----------
    grid
        Row and column of each bin on its array (n, 2).
    places
        Its place (n, 2), in any unit.

    Examples
    --------
    >>> grid = np.array([[0, 0], [1, 0], [0, 1]])
    >>> np.rint(grid_to_places(grid, 8.0 * grid + 4.0)).astype(int).tolist()
    [[8, 0], [0, 8], [4, 4]]
    """
    return np.linalg.lstsq(with_one(np.asarray(grid, dtype=np.float64)), places, rcond=None)[0]


def with_one(grid: np.ndarray) -> np.ndarray:
    """Rows and columns (n, 2) with a column of ones (n, 3)."""
    return np.column_stack([grid, np.ones(len(grid))])
