"""What :func:`stgnn.reference.prepare` does with cells: who is left out and why, and the reference as AnnData."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stgnn.data.results import plain
from stgnn.data.schema import REFERENCE_KEY, SPATIAL_KEY, LabelsError, number_of
from stgnn.data.thinning import spread

if TYPE_CHECKING:
    from anndata import AnnData

    from stgnn.data.cells import Cells

__all__ = ["Sorted", "assemble", "sort_cells", "source_key"]

KEPT = "kept"
NO_LABEL = "(none)"
_ABOUT = ("title", "citation", "source")
"""Entries of ``uns`` in which a file says where it is from."""


@dataclass(frozen=True)
class Sorted:
    """Cells of a source, and what becomes of each.

    Parameters
    ----------
    labels, merged
        Type of each cell as the source has it, and as the reference does (cells,); empty without one.
    donors
        Donor of each cell (cells,).
    fate
        "kept", or why a cell is left out (cells,).
    thinned
        Whether any cell is left out for others of its type.
    """

    labels: np.ndarray
    merged: np.ndarray
    donors: np.ndarray
    fate: np.ndarray
    thinned: bool

    @property
    def rows(self) -> np.ndarray:
        """Rows of the cells that are kept."""
        return np.flatnonzero(self.fate == KEPT)


def source_key(labels_key: str) -> str:
    """Name in ``obs`` of the labels as they were before they were merged."""
    return f"{labels_key}_source"


def sort_cells(
    cells: Cells,
    labels: np.ndarray,
    merged: np.ndarray,
    donors: np.ndarray,
    doublet: np.ndarray,
    *,
    at_most: int | None,
    at_least: int,
    random_state: int,
) -> Sorted:
    """Say of each cell whether it is kept, or the first reason why not.

    Raises
    ------
    LabelsError
        If fewer than two types are left.
    """
    fate = np.full(len(cells), KEPT, dtype=object)

    def leave(reason: str, these: np.ndarray) -> None:
        fate[these & (fate == KEPT)] = reason

    leave("without a label", labels == "")
    leave("merged into nothing", merged == "")
    leave("without a count", np.diff(cells.counts.indptr) == 0)
    leave("doublet", doublet)
    code, _ = pd.factorize(merged)
    size = np.bincount(code, weights=fate == KEPT)
    leave(f"of a type of fewer than {at_least}", size[code] < at_least)
    kept = np.flatnonzero(fate == KEPT)
    if len(np.unique(code[kept])) < 2:
        left = ", ".join(sorted(set(merged[kept]))) or "none"
        raise LabelsError("labels_key", expected=f"at least two types of {at_least} or more cells", found=left)
    surplus = kept[:0]
    if at_most is not None:
        donor, _ = pd.factorize(donors[kept])
        surplus = kept[~spread(cells.names[kept], code[kept], donor, at_most, random_state)]
        fate[surplus] = f"above {at_most} of a type"
    return Sorted(labels, merged, donors, fate, thinned=len(surplus) > 0)


def assemble(
    adata: AnnData, cells: Cells, done: Sorted, labels_key: str, columns: Sequence[str], record: dict[str, Any]
) -> AnnData:
    """Make the reference of the cells that are kept, and tell in ``uns`` how it came about.

    Parameters
    ----------
    adata
        The source. Not modified.
    cells
        All its cells, with the genes of the reference.
    done
        What becomes of each cell.
    labels_key
        Column of ``obs`` for the types.
    columns
        Columns of ``obs`` to keep.
    record
        What else ``uns`` tells.

    Returns
    -------
    anndata.AnnData
        See :func:`stgnn.reference.prepare`.
    """
    from anndata import AnnData

    rows = done.rows
    obs = pd.DataFrame(index=pd.Index(cells.names[rows].astype(str)))
    obs[labels_key] = pd.Categorical(done.merged[rows])
    if (done.merged != done.labels).any():
        obs[source_key(labels_key)] = pd.Categorical(done.labels[rows])
    for column in columns:
        values = adata.obs[column].iloc[rows].set_axis(obs.index)
        obs[column] = values.cat.remove_unused_categories() if isinstance(values.dtype, pd.CategoricalDtype) else values
    var = pd.DataFrame(dict(cells.other_ids), index=pd.Index(cells.genes.astype(str)))
    reference = AnnData(cells.counts[rows], obs=obs, var=var)
    notes = list(cells.notes)
    if SPATIAL_KEY in adata.obsm:
        if done.thinned:
            notes.append("places left out: a thinned section has other neighbours")
        else:
            reference.obsm[SPATIAL_KEY] = np.asarray(adata.obsm[SPATIAL_KEY])[rows]
    notes += [f"{number_of(int(n), 'cell')} left out: {reason}" for reason, n in _reasons(done.fate).items()]
    about = {name: plain(adata.uns[name]) for name in _ABOUT if name in adata.uns}
    earlier = {"earlier": deepcopy(adata.uns[REFERENCE_KEY])} if REFERENCE_KEY in adata.uns else {}
    tables = {"cells": _of_labels(done), "donors": _of_donors(done)}
    reference.uns[REFERENCE_KEY] = record | tables | {"notes": plain(notes), "about": about} | earlier
    return reference


def _reasons(fate: np.ndarray) -> dict[str, int]:
    return {reason: int((fate == reason).sum()) for reason in dict.fromkeys(sorted(fate)) if reason != KEPT}


def _of_labels(done: Sorted) -> pd.DataFrame:
    """Table of the labels of the source: merged label, cells before and by what became of them."""
    names = np.where(done.labels == "", NO_LABEL, done.labels).astype(str)
    table = pd.crosstab(names, done.fate)
    before = table.sum(axis=1)
    table = table.reindex(columns=[KEPT, *_reasons(done.fate)], fill_value=0)
    merged = pd.Series(done.merged.astype(str), index=names).groupby(level=0).first()
    table.insert(0, "before", before)
    table.insert(0, "merged", merged[table.index])
    return table.rename_axis(index=None, columns=None)


def _of_donors(done: Sorted) -> pd.DataFrame:
    """Table of the donors: cells before, and kept."""
    table = pd.crosstab(done.donors.astype(str), done.fate == KEPT)
    kept = table[True] if True in table.columns else 0
    return pd.DataFrame({"before": table.sum(axis=1), KEPT: kept}).rename_axis(index=None)
