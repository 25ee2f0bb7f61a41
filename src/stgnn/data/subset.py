"""Cells left out, genes taken or renamed: each step gives new cells that note what it did."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stgnn.data.genes import VAR_NAMES, merge_duplicates
from stgnn.data.schema import CountsError, LabelsError, number_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from stgnn.data.cells import Cells

logger = logging.getLogger(__name__)

MOST_GENES = 4000
"""Genes that annotators are shown at most."""


def note(cells: Cells, *notes: str) -> Cells:
    """Add sentences to the notes, and log them."""
    for sentence in notes:
        logger.info(sentence)
    return replace(cells, notes=(*cells.notes, *notes))


def keep(cells: Cells, kept: np.ndarray) -> Cells:
    """Leave cells out, with everything that goes with them."""
    if kept.all():
        return cells
    return replace(
        cells,
        counts=cells.counts[np.flatnonzero(kept)],
        names=cells.names[kept],
        coords=None if cells.coords is None else cells.coords[kept],
        section=cells.section[kept],
        labels=None if cells.labels is None else cells.labels[kept],
        rows=cells.rows[kept],
    )


def drop_empty(cells: Cells, argument: str) -> Cells:
    """Leave out cells without a count."""
    filled = np.diff(cells.counts.indptr) > 0
    if not filled.any():
        raise CountsError(argument, expected="cells with counts", found=f"none in {len(cells)} cells")
    if filled.all():
        return cells
    return note(
        keep(cells, filled), f"{number_of(int((~filled).sum()), 'cell')} of the {argument} without a count left out"
    )


def drop_rare(cells: Cells) -> Cells:
    """Leave out types of a single cell, and names of types that no cell has."""
    if cells.labels is None:
        return cells
    number = np.bincount(cells.labels, minlength=len(cells.types))
    single = [cells.types[code] for code in np.flatnonzero(number == 1)]
    if single:
        shown = ", ".join(single[:5]) + (", ..." if len(single) > 5 else "")
        cells = note(cells, f"types of a single cell left out of the reference: {shown}")
    codes = np.flatnonzero(number > 1)
    types = tuple(cells.types[code] for code in codes)
    if len(types) < 2:
        raise LabelsError(
            "labels_key", expected="at least two types of two or more cells", found=", ".join(types) or "none"
        )
    new_code = np.full(len(number), -1, dtype=np.int64)
    new_code[codes] = np.arange(len(codes))
    return keep(replace(cells, labels=new_code[cells.labels], types=types), number[cells.labels] > 1)


def gene_names_of(cells: Cells) -> dict[str, np.ndarray]:
    """All names of the genes, by kind."""
    return {VAR_NAMES: cells.genes, **cells.other_ids}


def call_genes(cells: Cells, kind: str, argument: str) -> Cells:
    """Call the genes by the names in another column of ``var``."""
    if kind == VAR_NAMES:
        return cells
    counts, genes, first = merge_duplicates(cells.counts, cells.other_ids[kind])
    other_ids = {column: ids[first] for column, ids in cells.other_ids.items() if column != kind}
    renamed = replace(cells, counts=counts, genes=genes, other_ids=other_ids)
    return note(renamed, f"genes of the {argument} called by var[{kind!r}]")


def take(cells: Cells, genes: np.ndarray) -> Cells:
    """Take genes in the order given."""
    place = {name: column for column, name in enumerate(cells.genes)}
    columns = np.array([place[name] for name in genes], dtype=np.int64)
    if np.array_equal(columns, np.arange(len(cells.genes))) and cells.counts.has_sorted_indices:
        return cells  # a copy of a large section would be the largest thing in memory
    counts = cells.counts[:, columns]
    counts.sort_indices()  # so that equal cells are equal arrays, whatever the order of genes in the source
    return replace(
        cells,
        counts=counts,
        genes=np.asarray(genes, dtype=object),
        other_ids={column: ids[columns] for column, ids in cells.other_ids.items()},
    )


def focus(reference: Cells, query: Cells, most: int = MOST_GENES) -> tuple[Cells, Cells]:
    """Keep the genes that differ most between the reference's types: beyond some thousands, more add memory and noise.

    Parameters
    ----------
    reference, query
        Cells with the same genes, the reference's labelled.
    most
        Genes that are kept at most, by the variance over types of the square roots of their shares of a type's counts.

    Examples
    --------
    >>> from stgnn.data.cells import align, read_query, read_reference
    >>> from stgnn.data.toy import toy
    >>> reference, query = align(*(read(adata) for read, adata in zip((read_reference, read_query), toy())))
    >>> len(focus(reference, query, 20)[1].genes)
    20
    """
    if len(reference.genes) <= most or reference.labels is None:
        return reference, query
    sums = pooled(reference.counts, reference.labels, len(reference.types))
    kept = reference.genes[informative(sums / np.maximum(sums.sum(1, keepdims=True), 1), most)]
    sentence = f"{most:,} of {len(reference.genes):,} shared genes kept: those that differ most between types"
    return take(reference, kept), note(take(query, kept), sentence)


def pooled(counts: sp.csr_matrix, labels: np.ndarray, n_types: int) -> np.ndarray:
    """Summed counts of the cells of each type (types, genes)."""
    one_hot = sp.csr_array((np.ones(len(labels)), (labels, np.arange(len(labels)))), shape=(n_types, len(labels)))
    return np.asarray((one_hot @ counts).todense(), dtype=float)


def informative(profiles: Float[np.ndarray, "c g"], most: int) -> Int[np.ndarray, " g"]:
    """Genes, ascending, whose profiles differ most between types, by the variance of their square roots."""
    spread = np.sqrt(profiles).var(0)
    return np.sort(np.argsort(-spread, kind="stable")[:most])
