"""Data to start with: a MERFISH section and a scRNA-seq reference that ship with the package, and simulated spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stgnn.data.simulated_spots import SpotDesign, simulate_spots

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["SpotDesign", "demo_query", "demo_reference", "simulate_spots"]


def demo_query() -> AnnData:
    """One MERFISH section of the mouse preoptic hypothalamus (5,557 cells, 135 genes).

    References
    ----------
    Moffitt et al., Molecular, spatial, and functional single-cell profiling of the hypothalamic preoptic region,
    Science 362, eaau5324, 2018, doi:10.1126/science.aau5324; data doi:10.5061/dryad.8t8s248 (CC0).

    Returns
    -------
    anndata.AnnData
        Raw counts (float32 CSR) in ``X``; ``obs["cell_type"]``, the published types under the names of the reference,
        with which a result can be scored; ``obs["section"]``; ``obsm["spatial"]`` in micrometres; ``uns["source"]``.

    Examples
    --------
    >>> demo_query().shape
    (5557, 135)
    """
    return _read("hypothalamus_merfish.h5ad")


def demo_reference() -> AnnData:
    """Single cells of the mouse preoptic hypothalamus by 10x scRNA-seq (1,120 cells, 134 genes, 12 types).

    At most 100 cells of each type, and only the genes that :func:`demo_query` has as well.

    References
    ----------
    Moffitt et al., Molecular, spatial, and functional single-cell profiling of the hypothalamic preoptic region,
    Science 362, eaau5324, 2018, doi:10.1126/science.aau5324; GEO GSE113576.

    Returns
    -------
    anndata.AnnData
        Raw counts (float32 CSR) in ``X``; ``obs["cell_type"]``; ``uns["source"]``.

    Examples
    --------
    >>> demo_reference().obs["cell_type"].nunique()
    12
    """
    return _read("hypothalamus_scrna.h5ad")


def _read(name: str) -> AnnData:
    from importlib.resources import as_file, files

    import anndata
    import numpy as np

    with as_file(files("stgnn") / "_data" / name) as path:
        adata = anndata.read_h5ad(path)
    adata.X = adata.X.astype(np.float32)  # stored as small integers, to keep the package light
    return adata
