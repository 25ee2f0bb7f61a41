"""A gene as it was measured, against what imputation made of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn.data.schema import IMPUTED_KEY, RELIABILITY_KEY, GenesError, InputError, nearest
from stgnn.pl.keys import new_axes

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

_FEW_CELLS = 2000  # up to so many a point each, of more the number of cells in hexagons


def imputation(
    adata: AnnData, imputed: AnnData, gene: str, *, layer: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw one gene as measured (across) against as imputed (up), cell by cell, both log-normalised.

    Impute without the gene to see how imputation does on it; with it, the figure shows how much was denoised.

    Parameters
    ----------
    adata
        Cells with raw counts.
    imputed
        What :func:`stgnn.tl.impute` returned: the same cells.
    gene
        A gene of both.
    layer
        Where the raw counts are: a layer, ``"X"`` or ``"raw"``; None to look for them.
    ax
        Axes to draw on; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        Points, or numbers of cells in hexagons where there are many, and the line of equality; the title has the
        correlation, and the reliability that was told.

    Raises
    ------
    InputError
        If ``imputed`` does not hold imputed expression of the same cells, or one of the two lacks counts or the gene.

    Examples
    --------
    >>> import stgnn.pl, stgnn.tl
    >>> from stgnn.data.toy import toy
    >>> reference, adata = toy(n_cells=200)
    >>> imputed = stgnn.tl.impute(adata, reference, method="type-mean")
    >>> stgnn.pl.imputation(adata, imputed, "Gene3").get_xlabel()
    'Gene3, measured'
    """
    from stgnn.data.counts import find_counts
    from stgnn.metrics import log1p_normalised

    if IMPUTED_KEY not in imputed.uns:
        raise InputError("imputed", expected="what stgnn.tl.impute returned", found=f"no uns[{IMPUTED_KEY!r}]")
    if not imputed.obs_names.equals(adata.obs_names):
        raise InputError("imputed", expected="the cells of adata, in their order", found="others")
    found = find_counts(adata, layer, "adata")
    before = _column(found.values, found.var.index, gene, "adata")
    after = _column(imputed.X, imputed.var_names, gene, "imputed")
    total = np.asarray(found.values.sum(axis=1), dtype=np.float64).ravel()
    before = log1p_normalised(before[:, None], total, float(imputed.uns[IMPUTED_KEY]["depth"])).ravel()
    reliability = imputed.var[RELIABILITY_KEY].get(gene, np.nan) if RELIABILITY_KEY in imputed.var else np.nan
    return _draw(before, after, gene, float(reliability), ax)


def _column(values: Any, names: Iterable[object], gene: str, argument: str) -> np.ndarray:
    import scipy.sparse as sp

    place = {str(name): column for column, name in reversed(list(enumerate(names)))}
    if gene not in place:
        hint = nearest(gene, list(place))
        raise GenesError("gene", expected=f"a gene of {argument}", found=f"no gene {gene!r}", hint=hint)
    column = sp.csr_matrix(values)[:, [place[gene]]]
    return np.asarray(column.todense(), dtype=np.float64).ravel()


def _draw(before: np.ndarray, after: np.ndarray, gene: str, reliability: float, ax: Axes | None) -> Axes:
    ax = new_axes(4.8, 4.5) if ax is None else ax
    if len(before) <= _FEW_CELLS:
        ax.scatter(before, after, s=8, color="#0072b2", alpha=0.5, linewidths=0)
    else:
        cells = ax.hexbin(before, after, gridsize=50, bins="log", cmap="viridis_r", mincnt=1, linewidths=0)
        ax.figure.colorbar(cells, ax=ax, label="cells", shrink=0.7)
    ax.axline((0, 0), slope=1, color="#8a8f98", linewidth=1, linestyle="--", zorder=0)
    varies = np.ptp(before) > 0 and np.ptp(after) > 0
    said = f"correlation {np.corrcoef(before, after)[0, 1]:.2f}" if varies else "no correlation: one does not vary"
    said += f", reliability {reliability:.2f}" if np.isfinite(reliability) else ""
    ax.set(xlabel=f"{gene}, measured", ylabel=f"{gene}, imputed", title=said)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
