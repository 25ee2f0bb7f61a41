"""Composition as it changes in space: along a line, and away from the cells of one type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stgnn.data.schema import (
    KEY_ADDED,
    SPATIAL_KEY,
    UNKNOWN,
    InputError,
    OptionError,
    check_at_least,
    check_option,
)
from stgnn.pl.colors import type_colors
from stgnn.pl.keys import Assigned, new_axes, read_places, read_types, section_codes
from stgnn.pl.maps import type_legend

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def composition_along(
    adata: AnnData,
    start: Sequence[float],
    end: Sequence[float],
    *,
    width: float = np.inf,
    n_bins: int = 20,
    key: str = KEY_ADDED,
    section_key: str | None = None,
    section: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    ax: Axes | None = None,
) -> Axes:
    """Share of each type along a line through the tissue, from the cells beside it, bin by bin.

    Parameters
    ----------
    adata
        Annotated cells.
    start, end
        Ends of the line, x and y, in the unit of the coordinates.
    width
        Width of the strip around the line whose cells count, in the unit of the coordinates.
    n_bins
        Number of bins of equal length.
    key
        Name of the results.
    section_key
        Column of ``obs`` with the section of each cell.
    section
        Section to look at; None for all cells.
    spatial_key
        Key of ``obsm`` with the coordinates; of three, the first two are used.
    ax
        Axes to draw on; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        Stacked shares, in percent, over the distance from ``start``; a gap where a bin has no cells.

    Raises
    ------
    InputError
        If the results, the coordinates or the section are missing, or no cell lies beside the line.
    OptionError
        If the line has no length, or a number is too small.

    Examples
    --------
    >>> import stgnn.pl
    >>> from stgnn.data.cells import Prediction, read_query, write
    >>> from stgnn.data.toy import toy
    >>> _, adata = toy()
    >>> cells, proba = read_query(adata), np.tile([0.8, 0.2], (adata.n_obs, 1))
    >>> write(adata, cells, Prediction(proba, proba, 1 - proba[:, 0]), ("A", "B"))
    >>> stgnn.pl.composition_along(adata, (0, 0), (0, 200)).get_xlabel()
    'distance along the line'
    """
    check_at_least("n_bins", n_bins, 1)
    check_at_least("width", width, 0)
    assigned = read_types(adata, key)
    rows, coords = read_places(adata, spatial_key, section_key, section)
    origin = _point("start", start)
    line = _point("end", end) - origin
    length = float(np.hypot(*line))
    if not length > 0:
        raise OptionError("end", expected="another place than the start", found=f"{tuple(end)}")
    along, beside = (coords - origin) @ line / length, np.abs((coords - origin) @ [-line[1], line[0]]) / length
    near = (along >= 0) & (along <= length) & (beside <= width / 2)
    if not near.any():
        raise InputError("start, end", expected="a line beside which cells lie", found="none within its width")
    edges = np.linspace(0.0, length, int(n_bins) + 1)
    return _draw(assigned, rows[near], along[near], edges, "distance along the line", ax)


def composition_by_distance(
    adata: AnnData,
    from_type: str,
    *,
    furthest: float | None = None,
    n_bins: int = 20,
    key: str = KEY_ADDED,
    section_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    ax: Axes | None = None,
) -> Axes:
    """Share of each type among the other cells, by their distance from the nearest cell of one type.

    Parameters
    ----------
    adata
        Annotated cells.
    from_type
        Type from whose cells distances are measured; its own cells are not counted.
    furthest
        Distance where the last bin ends, in the unit of the coordinates; None for that of the 99th of 100 cells.
    n_bins
        Number of bins of equal width.
    key
        Name of the results.
    section_key
        Column of ``obs`` with the section of each cell; the nearest cell is one of the same section.
    spatial_key
        Key of ``obsm`` with the coordinates; of three, the first two are used.
    ax
        Axes to draw on; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        Stacked shares, in percent, over the distance; a gap where a bin has no cells.

    Raises
    ------
    InputError
        If the results or the coordinates are missing, or no section has cells both of this type and of others.
    OptionError
        If there is no such type, or a number is too small.

    Examples
    --------
    >>> import stgnn.pl
    >>> from stgnn.data.cells import Prediction, read_query, write
    >>> from stgnn.data.toy import toy
    >>> _, adata = toy()
    >>> proba = np.eye(5)[adata.obs["cell_type"].cat.codes]
    >>> write(adata, read_query(adata), Prediction(proba, proba, np.zeros(adata.n_obs)), tuple("ABCDE"))
    >>> stgnn.pl.composition_by_distance(adata, "A", section_key="section").get_xlabel()
    'distance from the nearest A'
    """
    check_at_least("n_bins", n_bins, 1)
    assigned = read_types(adata, key)
    check_option("from_type", from_type, assigned.names)
    _, coords = read_places(adata, spatial_key, None, None)
    section = section_codes(adata, section_key)
    own = assigned.code == assigned.names.index(from_type)
    far = distance_from(coords, section, own)
    rows = np.flatnonzero(np.isfinite(far) & ~own)
    if not len(rows):
        raise InputError("from_type", expected="a type with other cells in its sections", found=repr(from_type))
    if furthest is None:
        furthest = max(float(np.percentile(far[rows], 99)), 1e-9)
    if not furthest > 0:
        raise OptionError("furthest", expected="a distance above 0", found=repr(furthest))
    rows = rows[far[rows] <= furthest]
    edges = np.linspace(0.0, furthest, int(n_bins) + 1)
    return _draw(assigned, rows, far[rows], edges, f"distance from the nearest {from_type}", ax)


def distance_from(coords: np.ndarray, section: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Distance of each cell (cells,) from the nearest chosen cell of its section; infinite where there is none.

    Examples
    --------
    >>> chosen = np.array([True, False, False])
    >>> distance_from(np.array([[0.0, 0], [3, 4], [9, 9]]), np.array([0, 0, 1]), chosen).tolist()
    [0.0, 5.0, inf]
    """
    from scipy.spatial import cKDTree

    far = np.full(len(coords), np.inf)
    for one in np.unique(section):
        here = section == one
        if (here & chosen).any():
            far[here] = cKDTree(coords[here & chosen]).query(coords[here])[0]
    return far


def shares_in_bins(code: np.ndarray, n_types: int, values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Share of each type in each bin (bins, types); NaN in a bin without cells. The last bin holds its upper edge.

    Examples
    --------
    >>> shares_in_bins(np.array([0, 1, 1]), 2, np.array([0.5, 0.6, 2.0]), np.array([0.0, 1.0, 2.0])).tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    table = np.bincount(place * n_types + code, minlength=(len(edges) - 1) * n_types).reshape(-1, n_types)
    number = table.sum(axis=1, keepdims=True)
    return np.divide(table, number, out=np.full(table.shape, np.nan), where=number > 0)


def _point(argument: str, place: Sequence[float]) -> np.ndarray:
    point = np.asarray(place, dtype=np.float64)
    if point.shape != (2,) or not np.isfinite(point).all():
        raise OptionError(argument, expected="two finite numbers, x and y", found=repr(place))
    return point


def _draw(
    assigned: Assigned, rows: np.ndarray, values: np.ndarray, edges: np.ndarray, label: str, ax: Axes | None
) -> Axes:
    share = 100 * shares_in_bins(assigned.code[rows], len(assigned.names), values, edges)
    ax = new_axes(7.5, 4.0) if ax is None else ax
    colors, below = type_colors(assigned.names), np.zeros(len(share))
    shown = [place for place in range(len(assigned.names)) if np.nansum(share[:, place]) > 0]
    for place in shown:
        top = below + share[:, place]
        ax.stairs(top, edges, baseline=np.nan_to_num(below), fill=True, color=colors[assigned.names[place]])
        below = top
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0, 100), xlabel=label, ylabel="% of cells")
    ax.spines[["top", "right"]].set_visible(False)
    names = [assigned.names[place] for place in reversed(shown)]  # from top to bottom, as the shares lie
    type_legend(ax, {name: colors[name] for name in sorted(names, key=lambda name: name == UNKNOWN)})
    return ax
