"""The tables of 10x Genomics: positions of barcodes, and matrices of features by barcodes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stgnn.data.counts import find_problem
from stgnn.data.schema import CoordinatesError, CountsError, FileError, number_of
from stgnn.data.tables import damaged, read_table

__all__ = [
    "AS_WRITTEN",
    "GENE",
    "Features",
    "check_features",
    "find_positions",
    "read_features",
    "read_matrix",
    "read_positions",
]

AS_WRITTEN = "pass the folder outs that Space Ranger wrote, as it is"
GENE = "Gene Expression"
"""The type of a feature that is a gene."""
_COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
_POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")


class Features(NamedTuple):
    """A matrix of 10x, of all its features.

    Parameters
    ----------
    barcodes
        Names of the cells, spots or bins (n,), unique.
    counts
        Raw counts, float32 CSR (n, features).
    ids, names, kinds
        Of each feature its id (Ensembl's of a gene), its name, repeats and all, and its type (features,).
    """

    barcodes: np.ndarray
    counts: sp.csr_matrix
    ids: np.ndarray
    names: np.ndarray
    kinds: np.ndarray


def read_positions(folder: Path) -> pd.DataFrame:
    """Read where barcodes lie, from whichever of the tables there is, with header or without.

    Parameters
    ----------
    folder
        The folder ``spatial``.

    Returns
    -------
    pandas.DataFrame
        By barcode: ``in_tissue``, ``array_row``, ``array_col``, ``pxl_row_in_fullres`` (y), ``pxl_col_in_fullres`` (x).

    Raises
    ------
    FileError
        If there is no table, or none of these columns in it.
    CoordinatesError
        If barcodes repeat, or places are not numbers.
    """
    path = find_positions(folder)
    table = _read_positions(path)
    if not len(table):
        raise FileError("source", expected=f"barcodes in {path.name!r}", found="none", hint=AS_WRITTEN)
    missing = [column for column in _COLUMNS if column not in table]
    if missing:
        found = f"no {', '.join(missing)} in {path.name!r}"
        raise FileError("source", expected=f"the columns {', '.join(_COLUMNS)}", found=found)
    repeats = int(table["barcode"].duplicated().sum())
    if repeats:
        found = f"{number_of(repeats, 'repeated barcode')} of {len(table)} in {path.name!r}"
        raise CoordinatesError("source", expected="one place for each barcode", found=found)
    table = table[_COLUMNS].set_index(table["barcode"].astype(str)).drop(columns="barcode")
    numbers = table.apply(pd.to_numeric, errors="coerce")
    bad = int((~np.isfinite(numbers.to_numpy(dtype=np.float64))).any(axis=1).sum())
    if bad:
        found = f"{bad} of {len(table)} barcodes without in {path.name!r}"
        raise CoordinatesError("source", expected="finite numbers for every barcode", found=found)
    return numbers


def find_positions(folder: Path) -> Path:
    """Find the table that :func:`read_positions` reads.

    Raises
    ------
    FileError
        If there is none.
    """
    for name in _POSITIONS:
        if (folder / name).is_file():
            return folder / name
    expected, found = f"one of {', '.join(_POSITIONS)}", f"none of them in {str(folder)!r}"
    raise FileError("source", expected=expected, found=found, hint=AS_WRITTEN)


def _read_positions(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        table = read_table(path)
        return table if "barcode" in table else table.reset_index()
    try:
        with open(path, encoding="utf-8") as file:
            has_header = file.readline().split(",")[0].strip().strip('"').lower() == "barcode"
        return pd.read_csv(path) if has_header else pd.read_csv(path, header=None, names=_COLUMNS)
    except Exception as error:  # a damaged file can fail anywhere in the readers
        raise damaged(path, error) from error


def read_matrix(path: Path) -> tuple[np.ndarray, sp.csr_matrix, np.ndarray, list[str]]:
    """Read the genes of a feature-barcode matrix of 10x.

    Parameters
    ----------
    path
        ``filtered_feature_bc_matrix.h5``.

    Returns
    -------
    tuple
        Barcodes (n,), unique; counts, float32 CSR (n, genes); gene symbols (genes,), repeats and all; notes. Features
        other than genes (antibodies, say) are left out.

    Raises
    ------
    FileError
        If the file is missing, damaged or of another layout.
    CountsError
        If it does not hold counts, or barcodes repeat.
    """
    barcodes, counts, _, names, kinds = read_features(path)
    is_gene = kinds == GENE
    others = int((~is_gene).sum())
    notes = [f"{number_of(others, 'feature')} other than genes left out"] if others else []
    return barcodes, counts[:, is_gene] if others else counts, names[is_gene], notes


def read_features(path: Path) -> Features:
    """Read a feature-barcode matrix of 10x, with all its features.

    Parameters
    ----------
    path
        ``filtered_feature_bc_matrix.h5``, say.

    Returns
    -------
    Features
        Genes and others.

    Raises
    ------
    FileError
        If the file is missing, damaged or of another layout, or holds no genes.
    CountsError
        If it does not hold counts, or barcodes repeat.
    """
    if not path.is_file():
        other = path.with_name("raw_feature_bc_matrix.h5").is_file()
        hint = "the raw one alone is not read: it holds every spot off tissue" if other else AS_WRITTEN
        raise FileError("source", expected=path.name, found=f"none in {str(path.parent)!r}", hint=hint)
    try:
        features = _read_h5(path)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the readers
        raise damaged(path, error) from error
    return check_features(features, path)


def check_features(features: Features, path: Path) -> Features:
    """Return a matrix of 10x if it is one of counts, of genes among others, in cells told apart.

    Raises
    ------
    FileError
        If it is empty.
    CountsError
        If it does not hold counts, or barcodes repeat.
    """
    barcodes, is_gene = features.barcodes, features.kinds == GENE
    repeats = len(barcodes) - len(np.unique(barcodes))
    if repeats:
        found = f"{number_of(repeats, 'repeated barcode')} of {len(barcodes)} in {path.name!r}"
        raise CountsError("source", expected="one row of counts for each barcode", found=found)
    problem = find_problem(features.counts, features.names)
    if problem:
        raise CountsError("source", expected=f"raw counts in {path.name!r}", found=problem)
    if not len(barcodes) or not is_gene.any():
        found = f"{len(barcodes)} barcodes and {int(is_gene.sum())} genes in {path.name!r}"
        raise FileError("source", expected="barcodes and genes", found=found)
    return features


def _read_h5(path: Path) -> Features:
    import h5py

    with h5py.File(path, "r") as file:
        matrix = file["matrix"]
        n_genes, n = (int(size) for size in matrix["shape"][:])
        parts = (matrix["data"][:].astype(np.float32), matrix["indices"][:], matrix["indptr"][:])
        keys = ("barcodes", "features/id", "features/name", "features/feature_type")
        barcodes, *texts = (matrix[key].asstr()[:].astype(object) for key in keys)
    counts = sp.csr_matrix(parts, shape=(n, n_genes))  # genes by barcodes in CSC is barcodes by genes in CSR
    counts.check_format(full_check=True)
    if len(barcodes) != n or any(len(text) != n_genes for text in texts):
        raise ValueError("names and matrix differ in length")
    return Features(barcodes, counts, *texts)
