"""AnnData and files in, :class:`Cells` out; predictions back under the documented keys."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stgnn.data import genes as gene_names
from stgnn.data.columns import read_coords, read_labels, read_sections, reading_notes, unique_names
from stgnn.data.counts import Found, expected_counts, find_counts
from stgnn.data.results import check_key_added, write
from stgnn.data.schema import (
    EXPRESSION_KEY,
    LABELS_KEY,
    SPATIAL_KEY,
    CoordinatesError,
    GenesError,
    InputError,
    number_of,
)
from stgnn.data.subset import call_genes, drop_empty, drop_rare, focus, gene_names_of, keep, note, take

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Cells", "Prediction", "align", "check_key_added", "read_query", "read_reference", "select_genes", "write"]


@dataclass(frozen=True)
class Cells:
    """Checked cells: counts finite and non-negative, names unique, one section per cell.

    Parameters
    ----------
    counts
        Raw counts, float32 CSR (cells, genes), no cell of them empty; those of a large section may be
        :class:`~stgnn.data.stored.StoredCounts`.
    genes
        Gene names (genes,), unique.
    names
        Cell names (cells,), unique.
    coords
        Coordinates (cells, 2 or 3), float64, in micrometres where a scale was given; None without coordinates.
    section
        Code of each cell's section (cells,), int64 in [0, len(sections)).
    sections
        Names of the sections.
    labels
        Type codes (cells,), int64; None for a query, whose labels never pass the gate.
    types
        Names of the types, sorted; empty for a query.
    rows
        Position of each cell in the source (cells,), int64: empty cells are left out here and put back on writing.
    n_source
        Number of cells in the source.
    notes
        What the gate did, in plain sentences.
    other_ids
        Other names of the genes, by the column of ``var`` they stand in; each (genes,), empty where unknown.
    """

    counts: sp.csr_matrix
    genes: np.ndarray
    names: np.ndarray
    coords: np.ndarray | None
    section: np.ndarray
    sections: tuple[str, ...]
    labels: np.ndarray | None
    types: tuple[str, ...]
    rows: np.ndarray
    n_source: int
    notes: tuple[str, ...] = ()
    other_ids: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.counts.shape[0]


@dataclass(frozen=True)
class Prediction:
    """What a method says of each query cell.

    Parameters
    ----------
    proba
        Probabilities (cells, types); rows sum to 1.
    embedding
        Coordinates of each cell in the method's own space (cells, dimensions). Where counts are stored, so are these
        two.
    rejection
        Score in [0, 1] (cells,); high where the reference seems to have no answer.
    threshold
        Cells whose rejection lies above it are called unknown.
    details
        Plain values for ``uns``: training curve, calibration, choices made.
    abundance, deviation
        Of spots, whose ``proba`` are shares: counts that each type gave, and the standard deviation of each share
        (spots, types). None for cells.
    """

    proba: np.ndarray
    embedding: np.ndarray
    rejection: np.ndarray
    threshold: float = 1.0
    details: dict[str, Any] = field(default_factory=dict)
    abundance: np.ndarray | None = None
    deviation: np.ndarray | None = None


def read_reference(
    source: AnnData | str | Path,
    *,
    labels_key: str = LABELS_KEY,
    section_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    layer: str | None = None,
    recover_counts: bool = False,
    um_per_unit: float | None = None,
) -> Cells:
    """Read labelled cells.

    Cells without a label or without a count, and types of a single cell, which can be neither learned nor checked, are
    left out; ``notes`` says how many.

    Parameters
    ----------
    source
        AnnData (cells, genes), or a path that :func:`stgnn.read` knows. Never modified.
    labels_key
        Column of ``obs`` with the types.
    section_key
        Column of ``obs`` with the section of each cell; a reference may lack it.
    spatial_key
        Key of ``obsm`` with the coordinates; a reference may lack it.
    layer
        Where the raw counts are: a layer, ``"X"`` or ``"raw"``; None to look for them.
    recover_counts
        Whether log-normalised values may be turned back into counts.
    um_per_unit
        Micrometres per unit of the coordinates.

    Returns
    -------
    Cells
        With ``labels`` and ``types``.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever cannot be read or learned from.

    Examples
    --------
    >>> from stgnn.data.toy import toy
    >>> reference, _ = toy()
    >>> read_reference(reference).types
    ('type 1', 'type 2', 'type 3', 'type 4', 'type 5')
    """
    adata = open_source(source, "reference")
    codes, types, notes = read_labels(adata, labels_key, "reference")
    cells = read_all(
        adata, "reference", section_key if section_key in adata.obs else None, layer, recover_counts, notes
    )
    coords = None
    if spatial_key in adata.obsm:
        try:
            coords, _ = read_coords(adata, spatial_key, um_per_unit, "reference")
        except CoordinatesError as error:  # a reference needs none
            cells = note(cells, f"coordinates of the reference not used: {error}")
    cells = replace(cells, coords=coords, labels=codes, types=types)
    return drop_rare(drop_empty(keep(cells, codes >= 0), "reference"))


def read_query(
    source: AnnData | str | Path,
    *,
    section_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    layer: str | None = None,
    recover_counts: bool = False,
    um_per_unit: float | None = None,
) -> Cells:
    """Read cells to annotate; labels they may have are never looked at.

    Parameters
    ----------
    source
        AnnData (cells, genes), or a path that :func:`stgnn.read` knows. Never modified.
    section_key
        Column of ``obs`` with the section of each cell; None for one section.
    spatial_key
        Key of ``obsm`` with the coordinates, 2 or 3 columns.
    layer
        Where the raw counts are: a layer, ``"X"`` or ``"raw"``; None to look for them.
    recover_counts
        Whether log-normalised values may be turned back into counts.
    um_per_unit
        Micrometres per unit of the coordinates.

    Returns
    -------
    Cells
        With ``labels`` None; ``coords`` None, and a note, without coordinates under the default key.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever cannot be read.

    Examples
    --------
    >>> from stgnn.data.toy import toy
    >>> _, query = toy()
    >>> read_query(query, section_key="section").sections
    ('section 1', 'section 2')
    """
    adata = open_source(source, "query")
    coords, notes = read_coords(adata, spatial_key, um_per_unit, "query")
    cells = read_all(adata, "query", section_key, layer, recover_counts, notes)
    return drop_empty(replace(cells, coords=coords), "query")


def align(reference: Cells, query: Cells, *, most: int | None = None) -> tuple[Cells, Cells]:
    """Bring two sets of cells to the genes they share, in sorted order.

    Where the gene names themselves do not match, other names in ``var`` (Ensembl ids, symbols) are used. Case is never
    ignored: it tells species apart. Cells without a count in the shared genes are left out.

    Parameters
    ----------
    reference
        Labelled cells.
    query
        Cells to annotate.
    most
        Genes that are kept at most, by :func:`stgnn.data.subset.focus`; None for all.

    Returns
    -------
    tuple[Cells, Cells]
        Reference and query with the same ``genes``.

    Raises
    ------
    GenesError
        If fewer than 10 genes are shared.

    Examples
    --------
    >>> from stgnn.data.toy import toy
    >>> adata, adata_query = toy()
    >>> reference, query = align(read_reference(adata), read_query(adata_query[:, ::-1]))
    >>> bool((reference.genes == query.genes).all())
    True
    """
    reference, query = match(reference, query)
    if most is not None:
        reference, query = focus(reference, query, most)
    return drop_rare(drop_empty(reference, "reference")), drop_empty(query, "query")


def match(reference: Cells, query: Cells) -> tuple[Cells, Cells]:
    """As :func:`align`, but for cells that have no count left: only genes are looked at."""
    kinds = gene_names.best_pair(gene_names_of(reference), gene_names_of(query))
    reference, query = call_genes(reference, kinds[0], "reference"), call_genes(query, kinds[1], "query")
    shared, sentence = gene_names.check_shared(reference.genes, query.genes)
    return take(reference, shared), note(take(query, shared), sentence)


def select_genes(cells: Cells, genes: np.ndarray) -> Cells:
    """Bring cells to the genes of a fitted model, in its order.

    Parameters
    ----------
    cells
        Cells to annotate.
    genes
        Names (genes,) the model was fitted with.

    Returns
    -------
    Cells
        With exactly ``genes``; cells without a count in them are left out.

    Raises
    ------
    GenesError
        If any gene is missing.

    Examples
    --------
    >>> from stgnn.data.toy import toy
    >>> select_genes(read_query(toy()[1]), ["Gene7", "Gene3"]).genes.tolist()
    ['Gene7', 'Gene3']
    """
    return drop_empty(pick_genes(cells, genes), "query")


def pick_genes(cells: Cells, genes: np.ndarray) -> Cells:
    """As :func:`select_genes`, but for cells that have no count left: only genes are looked at."""
    wanted = np.array([str(name) for name in genes], dtype=object)
    kind, _ = gene_names.best_pair(gene_names_of(cells), {gene_names.VAR_NAMES: wanted})
    cells = call_genes(cells, kind, "query")
    missing = sorted(set(wanted) - set(cells.genes))
    if missing:
        raise GenesError(
            "genes",
            expected=f"the {len(wanted)} genes of the model",
            found=f"{len(missing)} of them missing: {', '.join(missing[:3])}" + (", ..." if len(missing) > 3 else ""),
            hint="fit on the genes that both have: align(reference, query)",
        )
    return take(cells, wanted)


def open_source(source: Any, argument: str) -> AnnData:
    """A source as AnnData, read where it is a path."""
    from anndata import AnnData

    if isinstance(source, (str, Path)):
        from stgnn.data import platforms

        return platforms.read(source, argument)
    if not isinstance(source, AnnData):
        hint = "pass one of its tables: sdata.tables[...]" if hasattr(source, "tables") else ""
        raise InputError(argument, expected="AnnData or a path", found=type(source).__name__, hint=hint)
    if 0 in source.shape:
        raise InputError(argument, expected="cells and genes", found=f"{source.n_obs} cells and {source.n_vars} genes")
    return source


def read_all(
    adata: AnnData, argument: str, section_key: str | None, layer: str | None, recover_counts: bool, notes: list[str]
) -> Cells:
    """Read all cells, empty ones too, without labels and coordinates."""
    section, sections = read_sections(adata, section_key, argument)
    if EXPRESSION_KEY in adata.uns and adata.X is not None and layer is None and not recover_counts:
        found = expected_counts(adata, argument)
    else:
        found = find_counts(adata, layer, argument, recover_counts=recover_counts)
    names, n_repeats = unique_names(adata.obs_names)
    if n_repeats:
        notes = [*notes, f"{number_of(n_repeats, 'repeated cell name')} in the {argument} numbered"]
    cells = of_counts(found, names, section, sections, argument, notes)
    return replace(cells, notes=(*reading_notes(adata), *cells.notes))


def of_counts(
    found: Found, names: np.ndarray, section: np.ndarray, sections: tuple[str, ...], argument: str, notes: list[str]
) -> Cells:
    """Cells of counts just found, whose genes get names of their own, without labels and coordinates."""
    raw_genes = gene_names.strip_versions(found.var.index.to_numpy())
    counts, genes, first = gene_names.merge_duplicates(found.values, raw_genes)
    n_same = len(raw_genes) - len(genes)
    same = f"counts of {number_of(n_same, 'repeated gene name')} in the {argument} summed"
    cells = Cells(
        counts=counts,
        genes=genes,
        names=names,
        coords=None,
        section=section,
        sections=sections,
        labels=None,
        types=(),
        rows=np.arange(len(section)),
        n_source=len(section),
        other_ids={column: ids[first] for column, ids in gene_names.other_ids(found.var).items()},
    )
    return note(cells, *notes, *([found.note] if found.note else []), *([same] if n_same else []))
