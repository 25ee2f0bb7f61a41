"""The front door of imputation: a query and a reference in, all genes of the reference in the query's cells out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stgnn.data import imputed
from stgnn.data.cells import read_query, read_reference
from stgnn.data.results import check_adata
from stgnn.data.schema import LABELS_KEY, SPATIAL_KEY, OptionError, check_seed
from stgnn.methods import imputer, name_of
from stgnn.methods.base import Imputer

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["impute"]

MAX_GB = 16.0
"""Largest table that is made: it has a value for every cell and gene."""


def impute(
    adata: AnnData,
    reference: AnnData | str | Path,
    *,
    genes: Sequence[str] | None = None,
    labels_key: str = LABELS_KEY,
    section_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    layer: str | None = None,
    reference_layer: str | None = None,
    recover_counts: bool = False,
    um_per_unit: float | None = None,
    method: str | Imputer = "stgnn",
    random_state: int = 0,
) -> AnnData:
    r"""Give every cell the genes of the reference: those that its panel lacks imputed, those that it has denoised.

    .. math:: \hat y_{ng} = E[\log(1 + d\,\lambda_{ng}) \mid x, s, \text{reference}]

    with :math:`x` the counts of the measured genes, :math:`s` the places of the cells, :math:`\lambda` the rate of a
    gene per count of measured genes, and :math:`d` the ``depth``, the median cell's count of measured genes.

    Parameters
    ----------
    adata
        Cells of the query (cells, genes), with raw counts. Not modified.
    reference
        Annotated cells with more genes: AnnData, or the path of a ``.h5ad`` or ``.zarr``. Never modified.
    genes
        Which genes of the reference to give; None for all.
    labels_key
        Column of ``reference.obs`` with the types.
    section_key
        Column of ``adata.obs`` with the section of each cell; used for the reference too where it has that column. None
        for one section.
    spatial_key
        Key of ``obsm`` with the coordinates, 2 or 3 columns; without any, no neighbours are listened to.
    layer, reference_layer
        Where the raw counts are: a layer, ``"X"`` or ``"raw"``; None to look for them.
    recover_counts
        Whether log-normalised values may be turned back into counts.
    um_per_unit
        Micrometres per unit of the coordinates.
    method
        One of ``stgnn.methods.IMPUTERS``, or a method with hyper-parameters of one's own.
    random_state
        Seed; equal seeds give equal results. Used where ``method`` is a name.

    Returns
    -------
    anndata.AnnData
        The same cells with

        - ``X``: log-normalised expression (cells, genes), float32: log of one more than the counts of a cell whose
          measured genes have ``depth`` counts together. The level of a gene that was not measured is the reference's;
        - ``var["measured"]``: whether the query has the gene;
        - ``var["reliability"]``: rank correlation to be expected between what is imputed and what would be measured, 0
          to 1: achieved, where a measured gene was held out, else learned from those; NaN for methods that do not tell;
        - ``obs``, ``obsm`` and ``uns`` of ``adata``;
        - ``uns["stgnn_imputed"]``: parameters, weights of what was heard, depth, notes, version.

        Cells without a count in the shared genes get the mean of the others.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever cannot be read, matched or learned from.

    Examples
    --------
    >>> import stgnn
    >>> from stgnn.data.toy import toy
    >>> reference, adata = toy(n_cells=100)
    >>> imputed = stgnn.tl.impute(adata[:, :30], reference, section_key="section", method="knn-mean")
    >>> imputed.shape, int(imputed.var["measured"].sum())
    ((100, 60), 30)
    """
    check_adata(adata)
    chosen = _method(method, random_state)
    query = read_query(
        adata,
        section_key=section_key,
        spatial_key=spatial_key,
        layer=layer,
        recover_counts=recover_counts,
        um_per_unit=um_per_unit,
    )
    known = read_reference(
        reference,
        labels_key=labels_key,
        section_key=section_key,
        spatial_key=spatial_key,
        layer=reference_layer,
        recover_counts=recover_counts,
        um_per_unit=um_per_unit,
    )
    known, query, names = imputed.pair(known, query, genes)
    if (size := query.n_source * len(names) * 4 / 1e9) > MAX_GB:
        found = f"{len(names):,} genes in {query.n_source:,} cells, {size:,.0f} GB"
        raise OptionError("genes", expected=f"a table of up to {MAX_GB:g} GB", found=found, hint="ask for fewer genes")
    parameters = {field.name: getattr(chosen, field.name) for field in fields(chosen)}  # type: ignore[arg-type]
    parameters |= {
        "method": name_of(type(chosen)) or type(chosen).__name__,
        "labels_key": labels_key,
        "section_key": section_key,
        "spatial_key": spatial_key,
        "layer": layer,
        "um_per_unit": um_per_unit,
    }
    return imputed.to_anndata(adata, query, names, chosen.impute(known, query, names), parameters)


def _method(method: str | Imputer, random_state: int) -> Imputer:
    check_seed(random_state)
    if isinstance(method, str):
        return replace(imputer(method)(), random_state=random_state)  # type: ignore[type-var]
    if not isinstance(method, Imputer):
        raise OptionError("method", expected="the name of a method, or a method", found=type(method).__name__)
    return method
