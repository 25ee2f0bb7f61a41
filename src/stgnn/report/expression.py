"""Genes to colour the picture by, and their expression in every cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stgnn.data.schema import GenesError, nearest
from stgnn.metrics import log1p_normalised
from stgnn.pl.keys import Assigned
from stgnn.report.markers import Markers

if TYPE_CHECKING:
    from anndata import AnnData

MOST_GENES = 12
"""Each costs half a megabyte on a million cells, since most values are 0."""


def choose_genes(found: Markers | None, assigned: Assigned) -> list[str]:
    """First marker of each type, those of the types with the most cells first."""
    if found is None:
        return []
    number = dict(zip(assigned.names, assigned.number().tolist()))
    order = sorted(range(len(found.types)), key=lambda code: -number[found.types[code]])
    first = [np.flatnonzero(found.owner == code)[:1] for code in order]
    return [found.genes[int(gene[0])] for gene in first if len(gene)][:MOST_GENES]


def read_expression(
    adata: AnnData, genes: Sequence[str], *, spatial_key: str, layer: str | None, recover_counts: bool
) -> dict[str, np.ndarray]:
    """Log-normalised expression (cells,) of each gene, float32; 0 in cells without counts.

    Raises
    ------
    InputError
        If there are no counts, or no such gene.
    """
    from stgnn.data.cells import pick_genes, read_query

    if not genes:
        return {}
    query = read_query(adata, spatial_key=spatial_key, layer=layer, recover_counts=recover_counts)
    total = np.asarray(query.counts.sum(axis=1), dtype=np.float64).ravel()
    try:
        chosen = pick_genes(query, np.array(genes, dtype=object)).counts  # under whichever of their names
    except GenesError as error:
        missing = [gene for gene in genes if gene not in query.genes]
        raise GenesError(
            "genes",
            expected="genes of adata",
            found=f"no {', '.join(map(repr, missing[:3]))}",
            hint=nearest(missing[0], map(str, query.genes)),
        ) from error
    values = np.asarray(log1p_normalised(chosen, total).todense(), dtype=np.float32)
    out = {}
    for column, gene in enumerate(genes):
        out[str(gene)] = np.zeros(adata.n_obs, dtype=np.float32)
        out[str(gene)][query.rows] = values[:, column]
    return out
