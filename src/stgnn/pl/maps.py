"""Maps of a section: each cell a point, coloured by what the model says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn.data.schema import KEY_ADDED, SPATIAL_KEY, UNKNOWN
from stgnn.pl.colors import confidence_colors, type_colors
from stgnn.pl.keys import new_axes, read_confidence, read_places, read_types

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

_LARGEST_POINT = 60.0
_SMALLEST_POINT = 0.2
_LEGEND_ROWS = 22


def spatial_types(
    adata: AnnData,
    *,
    key: str = KEY_ADDED,
    section_key: str | None = None,
    section: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    ax: Axes | None = None,
    size: float | None = None,
    legend: bool = True,
) -> Axes:
    """Map the type of every cell; one colour a type, the same in every section and in every subset.

    Parameters
    ----------
    adata
        Annotated cells.
    key
        Name of the results.
    section_key
        Column of ``obs`` with the section of each cell.
    section
        Section to draw; None for all cells.
    spatial_key
        Key of ``obsm`` with the coordinates; of three, the first two are drawn.
    ax
        Axes to draw on; None makes a figure.
    size
        Area of a point in square points; None to fit it to the number of cells.
    legend
        Whether to name the colours beside the map.

    Returns
    -------
    matplotlib.axes.Axes
        With both axes on one scale, y upwards.

    Raises
    ------
    InputError
        If the results, the coordinates or the section are missing.

    Examples
    --------
    >>> import stgnn.pl
    >>> from stgnn.data.cells import Prediction, read_query, write
    >>> from stgnn.data.toy import toy
    >>> _, adata = toy()
    >>> cells, proba = read_query(adata), np.tile([0.8, 0.2], (adata.n_obs, 1))
    >>> write(adata, cells, Prediction(proba, proba, 1 - proba[:, 0]), ("A", "B"))
    >>> stgnn.pl.spatial_types(adata, section_key="section", section="section 1").get_title()
    'section 1'
    """
    assigned = read_types(adata, key)
    rows, coords = read_places(adata, spatial_key, section_key, section)
    ax = new_axes(6.5 + 0.6 * (len(assigned.names) > _LEGEND_ROWS), 5.0) if ax is None else ax
    colors = type_colors(assigned.names)
    code = assigned.code[rows]
    # In a shuffled order no type covers another; the unknown lie below all.
    order = np.random.default_rng(0).permutation(len(rows))
    order = order[np.argsort(code[order] != len(assigned.names) - 1, kind="stable")]
    palette = np.array([colors[name] for name in assigned.names])
    frame(ax, coords, section)
    draw_points(ax, coords[order], palette[code[order]], size)
    if legend:
        shown = np.bincount(code, minlength=len(assigned.names)) > 0
        type_legend(ax, {name: colors[name] for name, is_shown in zip(assigned.names, shown) if is_shown})
    return ax


def spatial_confidence(
    adata: AnnData,
    *,
    key: str = KEY_ADDED,
    section_key: str | None = None,
    section: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    ax: Axes | None = None,
    size: float | None = None,
    legend: bool = True,
) -> Axes:
    """Map the confidence of every cell, from 0 (red) to 1 (blue); the least confident lie on top.

    Parameters
    ----------
    adata
        Annotated cells.
    key
        Name of the results.
    section_key
        Column of ``obs`` with the section of each cell.
    section
        Section to draw; None for all cells.
    spatial_key
        Key of ``obsm`` with the coordinates; of three, the first two are drawn.
    ax
        Axes to draw on; None makes a figure.
    size
        Area of a point in square points; None to fit it to the number of cells.
    legend
        Whether to draw the scale of the colours beside the map.

    Returns
    -------
    matplotlib.axes.Axes
        With both axes on one scale, y upwards.

    Raises
    ------
    InputError
        If the results, the coordinates or the section are missing.

    Examples
    --------
    >>> import stgnn.pl
    >>> from stgnn.data.cells import Prediction, read_query, write
    >>> from stgnn.data.toy import toy
    >>> _, adata = toy()
    >>> cells, proba = read_query(adata), np.tile([0.8, 0.2], (adata.n_obs, 1))
    >>> write(adata, cells, Prediction(proba, proba, 1 - proba[:, 0]), ("A", "B"))
    >>> stgnn.pl.spatial_confidence(adata, legend=False).collections[0].get_clim()
    (0.0, 1.0)
    """
    values = read_confidence(adata, key)
    rows, coords = read_places(adata, spatial_key, section_key, section)
    ax = new_axes(6.5, 5.0) if ax is None else ax
    order = np.argsort(-values[rows], kind="stable")
    frame(ax, coords, section)
    points = draw_points(ax, coords[order], values[rows][order], size)
    points.set_cmap(confidence_colors())
    points.set_clim(0.0, 1.0)
    if legend:
        ax.figure.colorbar(points, ax=ax, label="confidence", shrink=0.7)
    return ax


def frame(ax: Axes, coords: np.ndarray, title: str | None) -> None:
    """Set the limits before the points, whose size follows from them."""
    ax.set_aspect("equal", adjustable="box")
    if len(coords):
        low, high = coords.min(axis=0), coords.max(axis=0)
        margin = 0.02 * max(float((high - low).max()), 1e-9)
        ax.set_xlim(low[0] - margin, high[0] + margin)
        ax.set_ylim(low[1] - margin, high[1] + margin)
    ax.set(xticks=[], yticks=[], title="" if title is None else str(title))


def draw_points(ax: Axes, coords: np.ndarray, color: np.ndarray, size: float | None) -> Any:
    """Draw one point a cell, in the order given, and return them."""
    area = fitting_size(ax, coords) if size is None else size
    return ax.scatter(coords[:, 0], coords[:, 1], c=color, s=area, linewidths=0, rasterized=True)


def fitting_size(ax: Axes, coords: np.ndarray) -> float:
    """Area of a point, in square points, with which the cells touch their neighbours but seldom cover them."""
    extent = ax.get_window_extent()
    span = _span(coords)
    scale = min(extent.width / span[0], extent.height / span[1]) * 72 / ax.figure.dpi
    area = area_per_cell(coords) * scale**2
    return float(np.clip(0.8 * area, _SMALLEST_POINT, _LARGEST_POINT))


def area_per_cell(coords: np.ndarray) -> float:
    """Area that tissue fills, over its cells, in the squared unit of the coordinates (cells, 2)."""
    if not len(coords):
        return 1.0
    span = _span(coords)
    # Tissue seldom fills its bounding box: the area is that of the squares, about five cells each, with any cell.
    side = np.sqrt(span[0] * span[1] * 5 / len(coords))
    column, row = np.floor((coords - coords.min(axis=0)) / side).astype(np.int64).T
    filled = len(np.unique(column * (row.max() + 1) + row))
    return float(filled * side**2 / len(coords))


def _span(coords: np.ndarray) -> np.ndarray:
    return np.maximum(np.ptp(coords, axis=0), 1e-9) if len(coords) else np.ones(2)


def type_legend(ax: Axes, colors: dict[str, str]) -> None:
    """Name the colours of types to the right of the Axes, ``"unknown"`` last."""
    from matplotlib.lines import Line2D

    names = sorted(colors, key=lambda name: name == UNKNOWN)
    handles = [Line2D([], [], color=colors[name], marker="o", linestyle="", label=name) for name in names]
    ax.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        ncols=-(-len(names) // _LEGEND_ROWS),
        fontsize="small" if len(names) <= _LEGEND_ROWS else "x-small",
        handletextpad=0.2,
    )
