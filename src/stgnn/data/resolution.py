"""Whether a section was measured cell by cell or in spots of several cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from stgnn.data.cells import Cells

RESOLUTIONS = ("auto", "cell", "spot")

CELL_UM = 20.0
"""Bins closer than this hold a cell or less."""

_FEWEST, _MOST = 20, 50_000
"""Places of a section that are looked at: of fewer none, of more some."""

_NEIGHBOURS, _COMMON = 18, 0.15
"""Neighbours of a place, and the share of their distances that are alike: a fifth on lattices, else a twentieth."""

_ALIKE = 1.03
"""Largest ratio of two distances of a lattice that are meant to be equal: places are often given in whole pixels."""


def resolution_of(query: Cells, reference: Cells, *, scaled: bool) -> tuple[str, str]:
    """Tell spots from cells by where they lie.

    Spots lie on a lattice, cells do not. A reference on a lattice itself is of spots, whose labels are those of regions
    and no shares; and bins of a cell's width are taken for cells, where the scale is known.

    Parameters
    ----------
    query, reference
        Cells or spots.
    scaled
        Whether coordinates are known to be in micrometres.

    Returns
    -------
    "cell" or "spot", and why, in words.
    """
    pitch = _pitch(query)
    if query.coords is None:
        return "cell", "resolution: cells, since there are no places to tell spots by"
    if pitch is None:
        return "cell", "resolution: cells, since places lie on no lattice"
    if _pitch(reference) is not None:
        return "cell", "resolution: each spot as one, as the reference's are labelled"
    if scaled and pitch < CELL_UM:
        return "cell", f"resolution: bins {pitch:.0f} um apart, taken for cells"
    return "spot", "resolution: spots, since places lie on a lattice; resolution='cell' for one type each"


def _pitch(cells: Cells) -> float | None:
    """Distance that many neighbours have in common, in every section; None for no lattice.

    Sections that are not told apart lie over one another; each still has a distance of its own.
    """
    if cells.coords is None:
        return None
    found = []
    for code in np.unique(cells.section):
        places = cells.coords[cells.section == code]
        if len(places) < _FEWEST:
            continue
        some = places[:: -(-len(places) // _MOST)]
        distance = np.sort(cKDTree(places).query(some, k=_NEIGHBOURS + 1)[0][:, 1:], axis=None)
        distance = distance[(distance > 0) & np.isfinite(distance)]
        alike = np.searchsorted(distance, distance * _ALIKE, side="right") - np.arange(len(distance))
        common = np.flatnonzero(alike >= max(_COMMON * len(distance), 1))
        if not len(common):
            return None
        first = int(common[0])
        found.append(float(np.median(distance[first : first + alike[first]])))
    return float(np.median(found)) if found else None
