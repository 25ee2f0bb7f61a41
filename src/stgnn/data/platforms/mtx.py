"""10x matrices of cells without places: ``.h5``, or a folder of matrix, features and barcodes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stgnn.data.platforms.finding import find_file, has_file
from stgnn.data.platforms.measured import Measured, to_anndata
from stgnn.data.schema import FileError
from stgnn.data.tables import check_end, damaged
from stgnn.data.tenx import GENE, Features, check_features, read_features

if TYPE_CHECKING:
    from anndata import AnnData

NAME = "10x matrix"
LAYOUT = "matrix.mtx, features.tsv or genes.tsv, barcodes.tsv, each plain or .gz; or filtered_feature_bc_matrix.h5"

_OUTS = "filtered_feature_bc_matrix"
_PARTS = (
    ("matrix.mtx.gz", "matrix.mtx"),
    ("features.tsv.gz", "features.tsv", "genes.tsv.gz", "genes.tsv"),
    ("barcodes.tsv.gz", "barcodes.tsv"),
)


def looks_like(path: Path) -> bool:
    """Whether a folder holds such a matrix, or parts of one."""
    return _holds(path, _OUTS) or any(has_file(path, *names) for names in _PARTS)


def read(path: Path) -> AnnData:
    """Read genes of cells.

    Parameters
    ----------
    path
        A ``.h5`` file, a folder of matrix, features and barcodes, or one with either of them in it.

    Returns
    -------
    anndata.AnnData
        Without coordinates.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever is missing, damaged, or does not fit together.
    """
    if path.is_file():
        features = read_features(path)
    else:
        features = read_either(path, _OUTS)[0] if _holds(path, _OUTS) else read_folder(path)
    return to_anndata(Measured(features), NAME)


def _holds(folder: Path, name: str) -> bool:
    return (folder / f"{name}.h5").is_file() or (folder / name).is_dir()


def read_either(folder: Path, name: str, hint: str = "") -> tuple[Features, Path]:
    """Read a matrix that is there as ``.h5``, or else as a folder of matrix, features and barcodes.

    Returns
    -------
    tuple
        All features, and where they came from.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever is missing or damaged.
    """
    path = folder / f"{name}.h5"
    if path.is_file():
        return read_features(path), path
    if (folder / name).is_dir():
        return read_folder(folder / name), folder / name
    raise FileError("source", expected=path.name, found=f"none in {str(folder)!r}", hint=hint)


def read_folder(folder: Path) -> Features:
    """Read matrix, features and barcodes.

    Raises
    ------
    FileError
        If a file is missing or damaged, or they differ in length.
    CountsError
        If it does not hold counts, or barcodes repeat.
    """
    matrix, genes, cells = (find_file(folder, *names) for names in _PARTS)
    barcodes, table, counts = _lines(cells), _lines(genes), _read_matrix(matrix)
    for path, lines, size in ((genes, table, counts.shape[1]), (cells, barcodes, counts.shape[0])):
        if len(lines) != size:
            raise FileError(
                "source",
                expected=f"{size} lines in {path.name!r}, one for each in {matrix.name!r}",
                found=f"{len(lines)}",
                hint="one of them may be truncated: copy both again",
            )
    columns = [table[column].to_numpy(dtype=object) for column in table.columns[:3]]
    ids = columns[0]
    names = columns[1] if len(columns) > 1 else ids
    kinds = columns[2] if len(columns) > 2 else np.full(len(ids), GENE, dtype=object)
    return check_features(Features(barcodes[0].to_numpy(dtype=object), counts, ids, names, kinds), matrix)


def _lines(path: Path) -> pd.DataFrame:
    """Read a table without a header, as text."""
    try:
        table = pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)
        check_end(path)
    except Exception as error:  # a damaged file can fail anywhere in the readers
        raise damaged(path, error) from error
    short = (table == "").any(axis=1)
    if short.any():
        raise damaged(path, ValueError(f"line {int(short.argmax()) + 1} has fewer columns than others"))
    return table


def _read_matrix(path: Path) -> sp.csr_matrix:
    """Counts, float32 CSR (barcodes, features)."""
    from scipy.io import mmread

    try:
        matrix = mmread(path)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the readers
        raise damaged(path, error) from error
    return sp.csr_matrix(matrix.T, dtype=np.float32)
