"""Imputed expression: what a method says, and AnnData that plots like any other."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn import __version__
from stgnn.data import genes as gene_names
from stgnn.data.cells import Cells, align
from stgnn.data.results import plain
from stgnn.data.schema import (
    EXPRESSION_KEY,
    IMPUTED_KEY,
    MEASURED_KEY,
    RELIABILITY_KEY,
    GenesError,
    InputError,
    nearest,
    number_of,
)
from stgnn.data.subset import call_genes, gene_names_of, keep, note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from jaxtyping import Float


@dataclass(frozen=True)
class Imputed:
    """What a method says of the genes that it was asked for.

    Parameters
    ----------
    values
        Log-normalised expression (cells, genes), float32: log of one more than the counts of a cell whose measured
        genes have ``depth`` counts together.
    depth
        That total.
    reliability
        Rank correlation with what is there, expected of each gene (genes,); NaN where the method does not tell.
    details
        Plain values for ``uns``.
    """

    values: Float[np.ndarray, "cells genes"]
    depth: float
    reliability: Float[np.ndarray, " genes"]
    details: dict[str, Any] = field(default_factory=dict)


def pair(reference: Cells, query: Cells, genes: Sequence[str] | None = None) -> tuple[Cells, Cells, np.ndarray]:
    """Bring the query to the genes that the reference has, too, and keep all genes of the reference.

    Parameters
    ----------
    reference, query
        As :func:`stgnn.data.cells.read_reference` and :func:`stgnn.data.cells.read_query` give them.
    genes
        Which genes of the reference are wanted, by any name that it has for them; None for all.

    Returns
    -------
    reference, query : Cells
        Cells without a count in the shared genes are left out of both. All of the query's genes are the reference's.
    names : numpy.ndarray
        What the genes that are wanted are called now, in the order asked for.

    Raises
    ------
    GenesError
        If fewer than 10 genes are shared, none is wanted, or one that the reference lacks.
    """
    kinds = gene_names_of(reference)
    kind, _ = gene_names.best_pair(kinds, gene_names_of(query))
    called = {str(name): str(now) for own in kinds.values() for name, now in zip(own, kinds[kind], strict=True) if now}
    reference = call_genes(reference, kind, "reference")
    names = reference.genes if genes is None else _wanted(called, genes)
    known, asked = align(reference, query)
    whole = keep(reference, np.isin(reference.rows, known.rows))
    if n_own := len(query.genes) - len(asked.genes):
        asked = note(asked, f"{number_of(n_own, 'gene')} of the query that the reference lacks left out")
    return replace(whole, labels=known.labels, types=known.types, notes=known.notes), asked, names


def _wanted(called: Mapping[str, str], genes: Sequence[str]) -> np.ndarray:
    """Names of the genes asked for, once each, in their order."""
    names: dict[str, None] = {}
    missing = []
    for gene, plain_name in zip(genes, gene_names.strip_versions(np.array(list(genes), dtype=object)), strict=True):
        now = called.get(str(gene), called.get(plain_name))
        if now is None:
            missing.append(str(gene))
        else:
            names[now] = None
    if missing or not names:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        found = f"{len(missing)} others: {shown}" if missing else "none"
        hint = nearest(missing[0], called) if missing else ""
        raise GenesError("genes", expected="genes of the reference", found=found, hint=hint)
    return np.array(list(names), dtype=object)


def to_anndata(
    adata: AnnData, query: Cells, genes: np.ndarray, imputed: Imputed, parameters: Mapping[str, Any]
) -> AnnData:
    """Put imputed expression beside everything that is known of the cells.

    Cells that the gate left out get the mean of the others.

    Parameters
    ----------
    adata
        The source that ``query`` was read from; not changed.
    query
        The cells whose expression was imputed, with their measured genes.
    genes
        Names of the genes (genes,).
    imputed
        What a method says of them.
    parameters
        Plain values to record.

    Returns
    -------
    anndata.AnnData
        All cells of ``adata``, with its ``obs``, ``obsm``, ``obsp`` and ``uns``, and the genes asked for: see
        :func:`stgnn.tl.impute`.

    Raises
    ------
    InputError
        If what the method says is not finite, or not of these cells and genes.
    """
    import pandas as pd
    from anndata import AnnData

    shape = (len(query), len(genes))
    if imputed.values.shape != shape:
        raise InputError("imputed.values", expected=f"shape {shape}", found=f"shape {imputed.values.shape}")
    if not np.isfinite(imputed.values).all():
        raise InputError("imputed.values", expected="finite values", found="others")
    values = np.empty((query.n_source, len(genes)), dtype=np.float32)
    values[:] = imputed.values.mean(axis=0)
    values[query.rows] = imputed.values
    var = pd.DataFrame(index=pd.Index([str(gene) for gene in genes]))
    var[MEASURED_KEY] = np.isin(genes, query.genes)
    var[RELIABILITY_KEY] = imputed.reliability.astype(np.float32)
    out = AnnData(values, obs=adata.obs.copy(), var=var)
    for own, copied in ((adata.obsm, out.obsm), (adata.obsp, out.obsp)):
        for name in own:
            copied[name] = copy(own[name])
    for name in adata.uns:
        if name != EXPRESSION_KEY:  # it would say that X holds counts expected from an image
            out.uns[name] = deepcopy(adata.uns[name])
    out.uns[IMPUTED_KEY] = {
        "parameters": plain(parameters),
        "details": plain(imputed.details),
        "notes": plain(query.notes),
        "depth": float(imputed.depth),
        "version": __version__,
    }
    return out
