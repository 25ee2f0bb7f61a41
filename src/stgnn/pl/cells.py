"""How sure the model is of each type, and how it learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stgnn.data.schema import KEY_ADDED, InputError
from stgnn.pl.colors import type_colors
from stgnn.pl.keys import curve_series, curve_steps, new_axes, read_confidence, read_curve, read_types

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

_BINS = 40


def confidence(adata: AnnData, *, key: str = KEY_ADDED, ax: Axes | None = None) -> Axes:
    """Distribution of the confidence of each type's cells, one row a type, with the median as a line.

    Parameters
    ----------
    adata
        Annotated cells.
    key
        Name of the results.
    ax
        Axes to draw on; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        Histograms of equal height over 0 to 1; types that no cell got are left out.

    Raises
    ------
    InputError
        If the results are missing.

    Examples
    --------
    >>> import stgnn.pl
    >>> from stgnn.data.cells import Prediction, read_query, write
    >>> from stgnn.data.toy import toy
    >>> _, adata = toy()
    >>> cells, proba = read_query(adata), np.tile([0.8, 0.2], (adata.n_obs, 1))
    >>> write(adata, cells, Prediction(proba, proba, 1 - proba[:, 0]), ("A", "B"))
    >>> stgnn.pl.confidence(adata).get_yticklabels()[0].get_text()
    'A (600)'
    """
    assigned, values = read_types(adata, key), read_confidence(adata, key)
    number = assigned.number()
    shown = [place for place in range(len(assigned.names)) if number[place]]
    ax = new_axes(6.0, 1.0 + 0.34 * len(shown)) if ax is None else ax
    colors = type_colors(assigned.names)
    edges = np.linspace(0.0, 1.0, _BINS + 1)
    for row, place in enumerate(shown):
        mine = np.clip(values[assigned.code == place], 0.0, 1.0)
        count = np.histogram(mine, edges)[0]
        top = row + 0.4 - 0.8 * count / count.max()
        color = colors[assigned.names[place]]
        ax.fill_between(edges, np.append(top, top[-1]), row + 0.4, step="post", color=color, linewidth=0)
        ax.vlines(np.median(mine), row - 0.42, row + 0.42, color="black", linewidth=1.2)
    ax.set_yticks(range(len(shown)), [f"{assigned.names[place]} ({number[place]})" for place in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_xlim(0.0, 1.0)
    ax.set_xlabel("confidence")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def training_curve(adata: AnnData, *, key: str = KEY_ADDED, ax: Axes | None = None) -> Axes:
    """Draw the losses recorded while the model was trained; all columns of the curve where none is a loss.

    Parameters
    ----------
    adata
        Annotated cells.
    key
        Name of the results.
    ax
        Axes to draw on; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        One line a column.

    Raises
    ------
    InputError
        If no curve was recorded under ``uns[key]["details"]["curve"]``, as for a method without training.

    Examples
    --------
    >>> import stgnn.pl
    >>> from stgnn.data.cells import Prediction, read_query, write
    >>> from stgnn.data.toy import toy
    >>> _, adata = toy()
    >>> cells, proba = read_query(adata), np.tile([0.8, 0.2], (adata.n_obs, 1))
    >>> curve = {"step": [10, 20, 30], "loss": [1.5, 0.7, 0.4]}
    >>> write(adata, cells, Prediction(proba, proba, 1 - proba[:, 0], details={"curve": curve}), ("A", "B"))
    >>> stgnn.pl.training_curve(adata).lines[0].get_xydata().tolist()
    [[10.0, 1.5], [20.0, 0.7], [30.0, 0.4]]
    """
    read_types(adata, key)
    curve = read_curve(adata, key)
    names = curve_series(curve)
    if not names:
        raise InputError(
            f"adata.uns[{key!r}]['details']",
            expected="a training curve under 'curve'",
            found="none",
            hint="the method may need no training",
        )
    names = [name for name in names if "loss" in name.lower()] or names
    ax = new_axes(6.0, 3.5) if ax is None else ax
    for name in names:
        x_name, steps = curve_steps(curve, name)
        ax.plot(steps, curve[name], label=name.replace("_", " "), marker="o" if len(steps) == 1 else None)
    ax.set(xlabel=x_name, ylabel=names[0].replace("_", " ") if len(names) == 1 else "")
    if len(names) > 1:
        ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
