"""Some cells of each type, the same ones whatever their order, spread over donors."""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["spread"]


def spread(names: np.ndarray, types: np.ndarray, donors: np.ndarray, at_most: int, random_state: int) -> np.ndarray:
    """Choose at most so many cells of each type, from each donor in turn.

    Two donors of a type differ by one cell at most unless one has no more. Cells are drawn by a hash of their names, so
    that the choice depends neither on their order nor on other cells' being there.

    Parameters
    ----------
    names
        Names of the cells (cells,), unique.
    types, donors
        Code of each cell's type and donor (cells,).
    at_most
        Most cells of a type.
    random_state
        Seed.

    Returns
    -------
    numpy.ndarray
        Whether each cell is chosen (cells,).

    Examples
    --------
    >>> names = np.array(list("abcdef"), dtype=object)
    >>> bool(spread(names, np.zeros(6, int), np.array([0, 0, 0, 0, 0, 1]), 2, 0)[5])
    True
    """
    lots = pd.util.hash_array(names.astype(object), hash_key=f"{random_state:016d}", categorize=False)
    cells = pd.DataFrame({"type": types, "donor": donors, "lot": lots, "name": names.astype(str)})
    drawn = cells.sort_values(["lot", "name"])
    drawn["turn"] = drawn.groupby(["type", "donor"]).cumcount()
    place = drawn.sort_values(["turn", "lot", "name"]).groupby("type").cumcount()
    return (place.sort_index() < at_most).to_numpy()
