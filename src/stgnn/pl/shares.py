"""How many cells of each type: against the reference's make-up, and against known types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from stgnn.data.schema import KEY_ADDED, UNKNOWN, InputError
from stgnn.pl.colors import type_colors
from stgnn.pl.keys import new_axes, obs_column, read_types

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

_REFERENCE_COLOR = "#8a8f98"
_ANNOTATED_FEW = 12  # up to so many rows and columns the shares are written into their squares


def composition(
    adata: AnnData,
    reference_composition: Mapping[str, float] | None = None,
    *,
    key: str = KEY_ADDED,
    ax: Axes | None = None,
) -> Axes:
    """Share of each type among the annotated cells, the largest on top, beside its share in the reference.

    Parameters
    ----------
    adata
        Annotated cells.
    reference_composition
        Share or number of cells of each type in the reference, as ``value_counts`` gives it; scaled to sum to 1. None
        draws the annotated cells alone.
    key
        Name of the results.
    ax
        Axes to draw on; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        One row a type, ``"unknown"`` last where there are any.

    Raises
    ------
    InputError
        If the results are missing, or the shares of the reference are negative or all 0.

    Examples
    --------
    >>> import stgnn.pl
    >>> from stgnn.data.cells import Prediction, read_query, write
    >>> from stgnn.data.toy import toy
    >>> reference, adata = toy()
    >>> cells, proba = read_query(adata), np.tile([0.8, 0.2], (adata.n_obs, 1))
    >>> write(adata, cells, Prediction(proba, proba, 1 - proba[:, 0]), ("type 1", "type 2"))
    >>> ax = stgnn.pl.composition(adata, reference.obs["cell_type"].value_counts())
    >>> [tick.get_text() for tick in ax.get_yticklabels()][:2]
    ['type 1', 'type 2']
    """
    assigned = read_types(adata, key)
    share = dict(zip(assigned.names, assigned.number() / max(len(assigned.code), 1)))
    other = _scaled(reference_composition)
    names = [*assigned.names, *(name for name in other if name not in share)]
    order = sorted(names, key=lambda name: (name == UNKNOWN, -share.get(name, 0.0)))
    if share.get(UNKNOWN, 0.0) == 0 and UNKNOWN not in other:
        order.remove(UNKNOWN)
    ax = new_axes(6.0, 1.0 + 0.28 * len(order)) if ax is None else ax
    colors = type_colors(assigned.names)
    place = np.arange(len(order))
    height = 0.4 if other else 0.75
    bars = [100 * share.get(name, 0.0) for name in order]
    color = [colors.get(name, _REFERENCE_COLOR) for name in order]
    ax.barh(place - (height / 2 if other else 0), bars, height, color=color, label="annotated")
    if other:
        bars = [100 * other.get(name, 0.0) for name in order]
        ax.barh(place + height / 2, bars, height, color=_REFERENCE_COLOR, alpha=0.55, label="reference (grey)")
        ax.legend(frameon=False, loc="lower right")
    ax.set_yticks(place, order)
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.set_xlabel("% of cells")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def confusion(adata: AnnData, truth_key: str, *, key: str = KEY_ADDED, ax: Axes | None = None) -> Axes:
    """Of the cells of each true type (row), the share that got each type (column); rows sum to 1.

    Types that both name come first, in the order of the results, so that agreement is the diagonal; other true types
    follow, sorted by the type they mostly got.

    Parameters
    ----------
    adata
        Annotated cells whose true types are known.
    truth_key
        Column of ``obs`` with the true types; cells without one are left out.
    key
        Name of the results.
    ax
        Axes to draw on; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        An image with values from 0 to 1.

    Raises
    ------
    InputError
        If the results or the true types are missing.

    Examples
    --------
    >>> import stgnn.pl
    >>> from stgnn.data.cells import Prediction, read_query, write
    >>> from stgnn.data.toy import toy
    >>> _, adata = toy()
    >>> cells, proba = read_query(adata), np.tile([0.8, 0.2], (adata.n_obs, 1))
    >>> write(adata, cells, Prediction(proba, proba, 1 - proba[:, 0]), ("type 1", "type 2"))
    >>> stgnn.pl.confusion(adata, "cell_type").images[0].get_array()[0, :2].tolist()
    [1.0, 0.0]
    """
    import pandas as pd

    assigned = read_types(adata, key)
    code, values = pd.factorize(obs_column(adata, "truth_key", truth_key))
    if not len(values):
        raise InputError("truth_key", expected="true types", found=f"no value in {truth_key!r}")
    true = [str(value) for value in values]
    table = np.zeros((len(true), len(assigned.names)))
    np.add.at(table, (code[code >= 0], assigned.code[code >= 0]), 1)
    table /= table.sum(axis=1, keepdims=True)
    first = [true.index(name) for name in assigned.names if name in true]
    others = sorted(set(range(len(true))) - set(first), key=lambda row: (int(table[row].argmax()), true[row]))
    rows = [*first, *others]
    columns = [place for place, name in enumerate(assigned.names) if name in true]
    columns += [place for place in range(len(assigned.names)) if place not in columns]
    columns = [place for place in columns if assigned.names[place] in true or table[:, place].any()]
    table = table[rows][:, columns]
    ax = new_axes(2.5 + 0.32 * len(columns), 2.0 + 0.32 * len(rows)) if ax is None else ax
    image = ax.imshow(table, vmin=0.0, vmax=1.0, cmap="Blues", aspect="auto")
    ax.set_xticks(range(len(columns)), [assigned.names[place] for place in columns], rotation=90)
    ax.set_yticks(range(len(rows)), [true[row] for row in rows])
    ax.set(xlabel="assigned type", ylabel=f"true type ({truth_key})")
    if max(table.shape) <= _ANNOTATED_FEW:
        for (row, column), share in np.ndenumerate(table):
            if share >= 0.005:
                ink = "white" if share > 0.55 else "black"
                ax.text(column, row, f"{share:.2f}", ha="center", va="center", color=ink, fontsize="x-small")
    ax.figure.colorbar(image, ax=ax, label="share of the true type", shrink=0.7)
    return ax


def _scaled(shares: Mapping[str, float] | None) -> dict[str, float]:
    if shares is None:
        return {}
    found = {str(name): float(value) for name, value in dict(shares).items()}
    total = sum(found.values())
    if not total > 0 or min(found.values()) < 0:
        raise InputError(
            "reference_composition", expected="shares of 0 or more with a sum above 0", found=f"a sum of {total:g}"
        )
    return {name: value / total for name, value in found.items()}
