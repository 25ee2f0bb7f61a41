"""Genes of one species under the names of another, by a table that the user gives."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stgnn.data.genes import MIN_SHARED, VAR_NAMES, best_pair, merge_duplicates, strip_versions
from stgnn.data.pairs import read_pairs
from stgnn.data.schema import GenesError, number_of
from stgnn.data.subset import call_genes, gene_names_of, note

if TYPE_CHECKING:
    import pandas as pd

    from stgnn.data.cells import Cells

__all__ = ["map_genes"]


def map_genes(cells: Cells, table: str | Path | pd.DataFrame) -> Cells:
    """Call genes by their orthologues.

    A gene with one orthologue takes its name; several genes of one orthologue are summed; a gene of several orthologues
    is left out, since its counts cannot be told apart, and so is one that the table lacks. Case is never ignored.

    Parameters
    ----------
    cells
        Cells, whose genes may be named by any text column of ``var``.
    table
        Two columns, gene and orthologue; a file that :func:`~stgnn.data.pairs.read_pairs` knows, or a table.

    Returns
    -------
    Cells
        With genes under the new names, sorted, and notes on how many are of each kind.

    Raises
    ------
    GenesError
        If fewer than 10 genes are left.
    """
    pairs = [(gene, other) for gene, other in read_pairs(table, "orthologues", ("gene", "orthologue")) if other]
    sides = [strip_versions(np.array(side, dtype=object)) for side in (zip(*pairs) if pairs else ((), ()))]
    kind, _ = best_pair(gene_names_of(cells), {VAR_NAMES: sides[0]})
    cells = call_genes(cells, kind, "source")
    known = set(cells.genes)
    pairs = [pair for pair in dict.fromkeys(zip(*sides)) if pair[0] in known]
    times = Counter(gene for gene, _ in pairs)
    name_of = {gene: other for gene, other in pairs if times[gene] == 1}
    names = np.array([name_of.get(gene, "") for gene in cells.genes], dtype=object)
    several = sum(number > 1 for number in times.values())
    counts, genes, _ = merge_duplicates(cells.counts, names)
    if len(genes) < MIN_SHARED:
        found = f"{len(genes)} of {len(cells.genes)} genes with one ({', '.join(sorted(known)[:3])}, ...)"
        swapped = len(known & set(sides[1])) > len(pairs)
        hint = "its columns look swapped: genes of the source come first" if swapped else "check species and names"
        raise GenesError("orthologues", expected=f"{MIN_SHARED} orthologues", found=found, hint=hint)
    counts.sort_indices()
    joined = sum(number > 1 for number in Counter(name_of.values()).values())
    return note(
        replace(cells, counts=counts, genes=genes, other_ids={}),
        f"genes called by their orthologues: {len(genes)}, of which {joined} are sums of several genes",
        f"{number_of(several, 'gene')} of several orthologues, {len(known) - len(times)} of none left out",
    )
