"""References made ready: types merged and balanced, doublets and tiny types left out, donors kept, all of it told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn import __version__
from stgnn.data.cells import open_source, read_all
from stgnn.data.columns import read_labels
from stgnn.data.doublets import read_doublets, scrublet_doublets
from stgnn.data.label_maps import merge_by_ontology, merge_by_table
from stgnn.data.ontology import read_ontology
from stgnn.data.orthologues import map_genes
from stgnn.data.prepared import assemble, sort_cells, source_key
from stgnn.data.results import plain
from stgnn.data.schema import (
    LABELS_KEY,
    UNKNOWN,
    OptionError,
    check_at_least,
    check_seed,
    nearest,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stgnn.data.cells import Cells

__all__ = ["prepare"]


def prepare(
    source: AnnData | str | Path,
    *,
    labels_key: str = LABELS_KEY,
    merge: Mapping[str, str] | str | Path | None = None,
    ontology: str | Path | None = None,
    level: int | Sequence[str] | None = None,
    orthologues: str | Path | pd.DataFrame | None = None,
    donors_key: str | None = None,
    doublets_key: str | None = None,
    doublet_above: float | None = None,
    scrublet: bool = False,
    at_most: int | None = 500,
    at_least: int = 10,
    keep: Sequence[str] = (),
    layer: str | None = None,
    recover_counts: bool = False,
    random_state: int = 0,
) -> AnnData:
    """Make a compact reference of annotated cells.

    Labels are merged and genes mapped; then cells without a label or a count, doublets, and types of too few cells are
    left out; then types of too many cells are thinned, from each donor in turn.

    Parameters
    ----------
    source
        Annotated cells with raw counts: AnnData (cells, genes), or a path that :func:`stgnn.read` knows. Never
        modified.
    labels_key
        Column of ``obs`` with the types.
    merge
        New label by label, or a ``.csv`` or ``.tsv`` of the columns label and merged. Labels that it lacks keep their
        names; an empty new label leaves a type out; one that the source lacks is refused.
    ontology
        Terms, of which the labels, once merged, are names or identifiers: an ``.obo`` file, whose ``is_a`` counts, or a
        ``.csv`` or ``.tsv`` of the columns child and parent. Goes with ``level``.
    level
        Where in the ontology to merge: a number of steps below the root, where of several terms the one with most
        cells is taken; or names of terms, where the nearest above a label is taken. Labels with no such term keep
        their names.
    orthologues
        A ``.csv`` or ``.tsv``, or a table, of the columns gene and orthologue. Genes of one orthologue are summed;
        genes of several, or of none, are left out.
    donors_key
        Column of ``obs`` with the donor, or library, of each cell; None for one donor.
    doublets_key
        Column of ``obs`` that tells doublets: true or false, "doublet" or "singlet", or scores.
    doublet_above
        Score above which a cell is a doublet.
    scrublet
        Whether scanpy's scrublet calls doublets too, each donor by itself; needs scanpy.
    at_most
        Most cells of a type; None for all.
    at_least
        Fewest cells of a type, 2 or more, after doublets are gone.
    keep
        Further columns of ``obs`` to keep.
    layer
        Where the raw counts are: a layer, ``"X"`` or ``"raw"``; None to look for them.
    recover_counts
        Whether log-normalised values may be turned back into counts.
    random_state
        Seed. Cells are drawn by a hash of their names, so their order changes nothing.

    Returns
    -------
    anndata.AnnData
        Raw counts (float32 CSR) in ``X``; ``obs[labels_key]``, where labels were merged also
        ``obs[f"{labels_key}_source"]``, and the columns of donors and of ``keep``; other names of the genes in ``var``;
        ``obsm["spatial"]`` where no type is thinned by ``at_most``, since a thinned section has other neighbours;
        ``uns["stgnn_reference"]``: ``source``, ``parameters``, ``version``, ``notes``; tables ``cells`` (of each label:
        merged label, cells before, kept and left out, by reason) and ``donors``; ``genes`` before and after; ``about``,
        what the source said of itself.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever cannot be read or does not fit.

    Examples
    --------
    >>> from stgnn.data.toy import toy
    >>> cells, _ = toy(n_cells=200)
    >>> small = prepare(cells, merge={"type 1": "type 1 or 2", "type 2": "type 1 or 2"}, at_most=20)
    >>> small.obs["cell_type"].value_counts().to_dict()
    {'type 1 or 2': 20, 'type 3': 20, 'type 4': 20, 'type 5': 20}
    """
    asked = {name: _told(value) for name, value in locals().items() if name != "source"}
    _check(ontology, level, doublets_key, doublet_above, at_most, at_least, random_state)
    adata = open_source(source, "source")
    _check_columns(adata, labels_key, donors_key, keep)
    codes, types, notes = read_labels(adata, labels_key, "source")
    merged = _merged(types, codes, merge, ontology, level)
    cells = read_all(adata, "source", None, layer, recover_counts, notes)
    n_genes = len(cells.genes)
    if orthologues is not None:
        cells = map_genes(cells, orthologues)
    donors = adata.obs[donors_key].astype(str).to_numpy() if donors_key else np.full(len(cells), "all", dtype=object)
    labels = np.array([*types, ""], dtype=object)[codes]
    done = sort_cells(
        cells,
        labels,
        np.array([*merged, ""], dtype=object)[codes],
        donors,
        _doublets(adata, cells, labels != "", donors, doublets_key, doublet_above, random_state, scrublet=scrublet),
        at_most=at_most,
        at_least=at_least,
        random_state=random_state,
    )
    record = {
        "source": str(source) if isinstance(source, (str, Path)) else "AnnData",
        "version": __version__,
        "parameters": plain(asked),
        "genes": {"before": n_genes, "after": len(cells.genes)},
    }
    columns = list(dict.fromkeys([*([donors_key] if donors_key else []), *keep]))
    return assemble(adata, cells, done, labels_key, columns, record)


def _check(
    ontology: object,
    level: object,
    doublets_key: str | None,
    doublet_above: float | None,
    at_most: int | None,
    at_least: int,
    random_state: int,
) -> None:
    """Refuse what no data could make right."""
    check_seed(random_state)
    check_at_least("at_least", at_least, 2)
    if at_most is not None:
        check_at_least("at_most", at_most, at_least)
    if (ontology is None) != (level is None):
        expected, found = ("a level", "none") if level is None else ("none without an ontology", repr(level))
        raise OptionError("level", expected=expected, found=found)
    if doublet_above is not None and doublets_key is None:
        raise OptionError("doublet_above", expected="none without doublets_key", found=repr(doublet_above))


def _check_columns(adata: AnnData, labels_key: str, donors_key: str | None, keep: Sequence[str]) -> None:
    """Refuse columns that are missing, or that the types would overwrite."""
    if isinstance(keep, str):
        raise OptionError("keep", expected="a list of columns of obs", found=repr(keep))
    asked = [("keep", name) for name in keep] + ([("donors_key", donors_key)] if donors_key else [])
    for argument, name in asked:
        if name not in adata.obs:
            hint = nearest(name, adata.obs.columns)
            raise OptionError(argument, expected="a column of obs", found=f"no column {name!r}", hint=hint)
        if name in (labels_key, source_key(labels_key)):
            raise OptionError(argument, expected="another column than that of the types", found=repr(name))
    if donors_key and (missing := int(adata.obs[donors_key].isna().sum())):
        raise OptionError(
            "donors_key", expected="a donor for every cell", found=f"none for {missing} in {donors_key!r}"
        )


def _merged(
    types: tuple[str, ...],
    codes: np.ndarray,
    merge: Mapping[str, str] | str | Path | None,
    ontology: str | Path | None,
    level: int | Sequence[str] | None,
) -> list[str]:
    """New name of each type; empty where it is to be left out."""
    name_of = {name: name for name in types} if merge is None else merge_by_table(types, merge)
    new = ["" if name_of[name].lower() == UNKNOWN else name_of[name] for name in types]
    if ontology is None or level is None:
        return new
    number = np.bincount(codes[codes >= 0], minlength=len(types))
    sizes = dict.fromkeys([name for name in new if name], 0)
    for name, n in zip(new, number):
        if name:
            sizes[name] += int(n)
    term_of = merge_by_ontology(sizes, read_ontology(ontology), level)
    return [term_of.get(name, "") for name in new]


def _doublets(
    adata: AnnData,
    cells: Cells,
    labelled: np.ndarray,
    donors: np.ndarray,
    key: str | None,
    above: float | None,
    random_state: int,
    *,
    scrublet: bool,
) -> np.ndarray:
    """Which cells are doublets, by the user's word or by scrublet's."""
    doublet = np.zeros(len(cells), dtype=bool) if key is None else read_doublets(adata, key, above)
    if scrublet:
        rows = np.flatnonzero(labelled & (np.diff(cells.counts.indptr) > 0))
        doublet[rows] |= scrublet_doublets(cells.counts[rows], donors[rows], random_state)
    return doublet


def _told(value: Any) -> Any:
    """What ``uns`` says of an argument: tables that are not files by their kind alone."""
    if isinstance(value, Path):
        return str(value)
    return value if isinstance(value, (str, int, float, list, tuple, type(None))) else type(value).__name__
