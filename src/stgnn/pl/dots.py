"""Marker genes of each type in the annotated cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from stgnn.data.schema import KEY_ADDED, InputError, nearest
from stgnn.pl.keys import new_axes, read_types

if TYPE_CHECKING:
    import scipy.sparse as sp
    from anndata import AnnData
    from matplotlib.axes import Axes

_LARGEST_DOT = 90.0


def markers(
    adata: AnnData,
    markers: Mapping[str, Sequence[str]],
    *,
    key: str = KEY_ADDED,
    layer: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Dot plot of genes (columns) in the cells of each type (rows).

    A dot's size is the share of the cells that express the gene, its colour the mean of the logarithm of one plus the
    counts scaled to the median total, divided by the largest such mean of the gene.

    Parameters
    ----------
    adata
        Annotated cells.
    markers
        Genes to show for each type, by type.
    key
        Name of the results.
    layer
        Where the raw counts are: a layer, ``"X"`` or ``"raw"``; None to look for them.
    ax
        Axes to draw on; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        Types that no cell got are left out.

    Raises
    ------
    InputError
        If the results, a gene or the raw counts are missing.

    Examples
    --------
    >>> import stgnn.pl
    >>> from stgnn.data.cells import Prediction, read_query, write
    >>> from stgnn.data.toy import toy
    >>> _, adata = toy()
    >>> cells, proba = read_query(adata), np.tile([0.8, 0.2], (adata.n_obs, 1))
    >>> write(adata, cells, Prediction(proba, proba, 1 - proba[:, 0]), ("A", "B"))
    >>> ax = stgnn.pl.markers(adata, {"A": ["Gene3", "Gene7"]})
    >>> [tick.get_text() for tick in ax.get_xticklabels()]
    ['Gene3', 'Gene7']
    """
    from stgnn.data.counts import find_counts

    assigned = read_types(adata, key)
    found = find_counts(adata, layer, "adata")
    genes = [str(gene) for wanted in markers.values() for gene in wanted]
    if not genes:
        raise InputError("markers", expected="at least one gene", found="none")
    place = {str(gene): column for column, gene in reversed(list(enumerate(found.var.index)))}
    for gene in genes:
        if gene not in place:
            raise InputError(
                "markers", expected="genes of adata", found=f"no gene {gene!r}", hint=nearest(gene, list(place))
            )
    number = assigned.number()
    shown = np.flatnonzero(number)
    mean, share = expression_by_type(
        found.values, assigned.code, len(number), np.array([place[gene] for gene in genes])
    )
    mean, share = scaled_by_gene(mean[shown]), share[shown]
    ax = new_axes(4.5 + 0.3 * len(genes), 2.4 + 0.3 * len(shown)) if ax is None else ax
    row, column = np.indices(mean.shape)
    dots = ax.scatter(
        column.ravel(), row.ravel(), s=_LARGEST_DOT * share.ravel(), c=mean.ravel(), cmap="Reds", vmin=0.0, vmax=1.0
    )
    dots.set_edgecolor("#666666")
    dots.set_linewidth(0.4)
    ax.set_xticks(range(len(genes)), genes, rotation=90)
    ax.set_yticks(range(len(shown)), [assigned.names[code] for code in shown])
    ax.set_xlim(-0.6, len(genes) - 0.4)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    _separate(ax, [len(wanted) for wanted in markers.values()])
    ax.figure.colorbar(dots, ax=ax, label="mean expression, of the gene's largest", shrink=0.8)
    _size_legend(ax)
    return ax


def expression_by_type(
    counts: sp.csr_matrix, code: np.ndarray, n_types: int, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean log-normalised expression and share of expressing cells, both (types, genes); 0 for a type without cells.

    Parameters
    ----------
    counts
        Raw counts (cells, all genes), which the totals are taken of.
    code
        Type of each cell (cells,); negative ones are left out.
    n_types
        Number of types.
    columns
        Genes wanted.
    """
    import scipy.sparse as sp

    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    filled = total > 0
    factor = np.zeros(len(total))
    factor[filled] = np.median(total[filled]) / total[filled] if filled.any() else 0.0
    chosen = sp.csr_matrix(counts[:, columns], dtype=np.float64)
    logged = chosen.copy()
    logged.data = np.log1p(logged.data * np.repeat(factor, np.diff(logged.indptr)))
    cells = np.flatnonzero(code >= 0)
    number = np.bincount(code[cells], minlength=n_types)
    member = sp.csr_matrix((1.0 / number[code[cells]], (code[cells], cells)), shape=(n_types, len(code)))
    expressed = chosen.copy()
    expressed.data = (expressed.data > 0).astype(np.float64)
    return np.asarray((member @ logged).todense()), np.asarray((member @ expressed).todense())


def scaled_by_gene(mean: np.ndarray) -> np.ndarray:
    """Divide each column by its largest value, and leave columns of zeros as they are."""
    largest = mean.max(axis=0, initial=0.0)
    return mean / np.where(largest > 0, largest, 1.0)


def _separate(ax: Axes, sizes: list[int]) -> None:
    """Thin lines between the genes of one type and those of the next."""
    for end in np.cumsum(sizes)[:-1]:
        ax.axvline(end - 0.5, color="#dddddd", linewidth=0.8, zorder=0)


def _size_legend(ax: Axes) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker="o", color="#888888", markersize=np.sqrt(_LARGEST_DOT * share))
        for share in (0.25, 0.5, 1.0)
    ]
    labels = ["25 %", "50 %", "100 % of cells"]
    ax.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False, fontsize="small")
