"""Tissue of any size whose truth is known: real sections side by side, each cell drawn anew from its kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from stgnn.data.schema import SPATIAL_KEY, OptionError
from stgnn.experts import log_normalise
from stgnn.graph.graph import by_section

if TYPE_CHECKING:
    from anndata import AnnData

SECTION_KEY = "section"

KIN = 15
"""Cells alike that a cell's counts are drawn from."""

_PARTS, _AT_ONCE = 20, 1_000_000

_GAP = 1.1
"""Distance of copies, in widths of the widest section."""


def tile(
    adata: AnnData, n_cells: int, n_genes: int, *, labels_key: str, section_key: str, random_state: int = 0
) -> AnnData:
    """Lay sections of cells side by side until there are enough cells, each with the counts of others of its kind.

    A cell keeps its place and type. Its counts are, gene block by gene block, those of one of the cells of its type and
    section that express most alike: copies differ, while subtypes, levels, noise and platform stay real. Genes beyond
    those measured are further blocks of the same genes, under names of their own; :func:`resample` gives a reference
    the same blocks.

    Parameters
    ----------
    adata
        Cells with types, sections and places; raw counts in ``X``, CSR.
    n_cells, n_genes
        How many there are to be.
    labels_key, section_key
        Columns of ``obs`` with types and sections.
    random_state
        Seed.

    Returns
    -------
    anndata.AnnData
        ``obs`` with type and section (all copies of a section are one), ``obsm["spatial"]``.
    """
    laid, blocks = _lay(adata, n_cells, n_genes, labels_key, section_key, random_state)
    laid.X = sp.vstack(list(blocks), format="csr")
    return laid


def write_tile(
    adata: AnnData, path: Path, n_cells: int, n_genes: int, *, labels_key: str, section_key: str, random_state: int = 0
) -> None:
    """Write what :func:`tile` makes to a ``.h5ad``, a million cells at a time."""
    import h5py
    from anndata.io import sparse_dataset, write_elem

    laid, blocks = _lay(adata, n_cells, n_genes, labels_key, section_key, random_state)
    laid.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        first = next(blocks)
        first.indptr = first.indptr.astype(np.int64)  # of the whole, 32 bits may be too few
        write_elem(file, "X", first)
        for block in blocks:
            sparse_dataset(file["X"]).append(block)


def _lay(
    adata: AnnData, n_cells: int, n_genes: int, labels_key: str, section_key: str, random_state: int
) -> tuple[AnnData, Iterator[sp.csr_matrix]]:
    """Cells with types, sections and places, and their counts, a million cells at a time."""
    from anndata import AnnData

    _check(n_cells, n_genes)
    rng = np.random.default_rng(random_state)
    sections = [np.flatnonzero(adata.obs[section_key] == name) for name in adata.obs[section_key].unique()]
    places = np.asarray(adata.obsm[SPATIAL_KEY], dtype=np.float64)
    width = _GAP * max(float(np.ptp(places[own], axis=0).max()) for own in sections)
    n_copies = -(-n_cells // adata.n_obs)
    side = int(np.ceil(np.sqrt(n_copies)))
    kind = adata.obs[labels_key].astype(str).to_numpy()
    group = np.unique(np.char.add(np.char.add(kind, "/"), adata.obs[section_key].astype(str)), return_inverse=True)[1]
    rows, where, section = [], [], []
    for copy in range(n_copies):
        for number, own in enumerate(sections):
            turned = places[own] - places[own].min(axis=0)
            turned = turned[:, ::-1] if copy % 2 else turned
            rows.append(own)
            where.append(turned + width * np.array([copy // side, copy % side]))
            section.append(np.full(len(own), number))
    kept = np.concatenate(rows)[:n_cells]
    obs = {labels_key: kind[kept], SECTION_KEY: np.concatenate(section)[:n_cells].astype(str)}
    names, genes = [f"cell{i}" for i in range(n_cells)], _names(adata.var_names, n_genes)
    laid = AnnData(obs=pd.DataFrame(obs, index=names), var=pd.DataFrame(index=genes))
    laid.obsm[SPATIAL_KEY] = np.concatenate(where)[:n_cells]
    counts = sp.csr_matrix(adata.X)
    kin, parts = _kin(counts, group), np.array_split(kept, -(-n_cells // _AT_ONCE))
    return laid, (_blocks(counts, part, kin, n_genes, rng) for part in parts)


def resample(adata: AnnData, n_cells: int, n_genes: int, *, labels_key: str, random_state: int = 0) -> AnnData:
    """Draw a reference of any size from a real one, with the blocks of genes that :func:`tile` makes.

    Parameters
    ----------
    adata
        Cells with types; raw counts in ``X``, CSR.
    n_cells, n_genes
        How many there are to be.
    labels_key
        Column of ``obs`` with the types.
    random_state
        Seed.
    """
    from anndata import AnnData

    _check(n_cells, n_genes)
    rng = np.random.default_rng(random_state)
    kind = adata.obs[labels_key].astype(str).to_numpy()
    drawn = rng.integers(adata.n_obs, size=n_cells)
    counts = sp.csr_matrix(adata.X)
    out = AnnData(_blocks(counts, drawn, _kin(counts, np.unique(kind, return_inverse=True)[1]), n_genes, rng))
    out.obs[labels_key] = kind[drawn]
    out.obs_names, out.var_names = [f"known{i}" for i in range(n_cells)], _names(adata.var_names, n_genes)
    return out


def _check(n_cells: int, n_genes: int) -> None:
    for name, value in (("n_cells", n_cells), ("n_genes", n_genes)):
        if value < 1:
            raise OptionError(name, expected="1 or more", found=str(value))


def _names(genes: object, n_genes: int) -> list[str]:
    measured = [str(gene) for gene in genes]  # type: ignore[attr-defined]
    return [
        measured[i % len(measured)] + (f".{i // len(measured)}" if i >= len(measured) else "") for i in range(n_genes)
    ]


def _kin(counts: sp.csr_matrix, group: np.ndarray) -> np.ndarray:
    """Cells (cells, KIN) of each cell's group that express most alike, itself among them."""
    values = log_normalise(counts, float(np.median(np.asarray(counts.sum(axis=1)))))
    points = PCA(min(_PARTS, values.shape[1], len(values) - 1), random_state=0).fit_transform(values)
    kin = np.empty((len(values), KIN), dtype=np.int64)
    for members in by_section(group):
        k = min(KIN, len(members))
        near = NearestNeighbors(n_neighbors=k).fit(points[members]).kneighbors(points[members], return_distance=False)
        kin[members] = members[near[:, np.arange(KIN) % k]]
    return kin


def _blocks(
    counts: sp.csr_matrix, rows: np.ndarray, kin: np.ndarray, n_genes: int, rng: np.random.Generator
) -> sp.csr_matrix:
    """Counts of cells drawn from the kin of ``rows``, anew for each block of genes, side by side."""
    blocks = []
    for first in range(0, n_genes, counts.shape[1]):
        drawn = kin[rows, rng.integers(kin.shape[1], size=len(rows))]
        blocks.append(counts[drawn][:, : min(counts.shape[1], n_genes - first)])
    return sp.hstack(blocks, format="csr", dtype=np.float32)
