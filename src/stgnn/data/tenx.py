"""The tables of 10x Genomics: positions of barcodes, and matrices of features by barcodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stgnn.data.counts import find_problem
from stgnn.data.schema import CoordinatesError, CountsError, FileError, InputError, number_of

__all__ = ["AS_WRITTEN", "damaged", "read_matrix", "read_positions"]

AS_WRITTEN = "pass the folder outs that Space Ranger wrote, as it is"
_COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
_POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")


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
    path = next((folder / name for name in _POSITIONS if (folder / name).is_file()), None)
    if path is None:
        raise FileError(
            "source",
            expected=f"one of {', '.join(_POSITIONS)}",
            found=f"none of them in {str(folder)!r}",
            hint=AS_WRITTEN,
        )
    table = _read_table(path)
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


def _read_table(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
            return table if "barcode" in table else table.reset_index()
        with open(path, encoding="utf-8") as file:
            has_header = file.readline().split(",")[0].strip().strip('"').lower() == "barcode"
        return pd.read_csv(path) if has_header else pd.read_csv(path, header=None, names=_COLUMNS)
    except ImportError as error:
        hint = "pip install 'stgnn[histology]'"
        raise InputError("source", expected="pyarrow, to read parquet", found="none", hint=hint) from error
    except Exception as error:  # a damaged file can fail anywhere in the readers
        raise damaged(path, error) from error


def read_matrix(path: Path) -> tuple[np.ndarray, sp.csr_matrix, np.ndarray, list[str]]:
    """Read a feature-barcode matrix of 10x.

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
    if not path.is_file():
        other = path.with_name("raw_feature_bc_matrix.h5").is_file()
        hint = "the raw one alone is not read: it holds every spot off tissue" if other else AS_WRITTEN
        raise FileError("source", expected=path.name, found=f"none in {str(path.parent)!r}", hint=hint)
    try:
        barcodes, counts, names, kinds = _read_h5(path)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the readers
        raise damaged(path, error) from error
    repeats = len(barcodes) - len(np.unique(barcodes))
    if repeats:
        found = f"{number_of(repeats, 'repeated barcode')} of {len(barcodes)} in {path.name!r}"
        raise CountsError("source", expected="one row of counts for each barcode", found=found)
    problem = find_problem(counts, names)
    if problem:
        raise CountsError("source", expected=f"raw counts in {path.name!r}", found=problem)
    is_gene = kinds == "Gene Expression"
    if not len(barcodes) or not is_gene.any():
        found = f"{len(barcodes)} barcodes and {int(is_gene.sum())} genes in {path.name!r}"
        raise FileError("source", expected="barcodes and genes", found=found)
    others = int((~is_gene).sum())
    notes = [f"{number_of(others, 'feature')} other than genes left out"] if others else []
    return barcodes, counts[:, is_gene] if others else counts, names[is_gene], notes


def _read_h5(path: Path) -> tuple[np.ndarray, sp.csr_matrix, np.ndarray, np.ndarray]:
    import h5py

    with h5py.File(path, "r") as file:
        matrix = file["matrix"]
        n_genes, n = (int(size) for size in matrix["shape"][:])
        parts = (matrix["data"][:].astype(np.float32), matrix["indices"][:], matrix["indptr"][:])
        texts = [matrix[key].asstr()[:] for key in ("barcodes", "features/name", "features/feature_type")]
    counts = sp.csr_matrix(parts, shape=(n, n_genes))  # genes by barcodes in CSC is barcodes by genes in CSR
    counts.check_format(full_check=True)
    if len(texts[0]) != n or len(texts[1]) != n_genes:
        raise ValueError("names and matrix differ in length")
    return texts[0].astype(object), counts, texts[1].astype(object), texts[2].astype(object)


def damaged(path: Path, error: Exception) -> FileError:
    """Error for a file that a reader stumbled over."""
    return FileError(
        "source",
        expected=f"a readable {path.name}",
        found=f"{str(path)!r}, which cannot be read ({type(error).__name__}: {error})",
        hint="it may be truncated: copy it again",
    )
