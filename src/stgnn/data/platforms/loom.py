"""Loom: genes by cells in HDF5, with attributes of both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stgnn.data.platforms.finding import check_counts
from stgnn.data.platforms.measured import Measured, to_anndata
from stgnn.data.schema import FileError
from stgnn.data.tables import damaged
from stgnn.data.tenx import GENE, Features

if TYPE_CHECKING:
    from anndata import AnnData

NAME = "loom"
LAYOUT = "a .loom file"

_GENES = ("Gene", "gene_name", "gene_names", "var_names", "Name", "GeneName")
_IDS = ("Accession", "gene_ids", "gene_id", "EnsemblID", "ensembl_id")
_CELLS = ("CellID", "obs_names", "cell_id", "barcode", "barcodes", "cell_names")
_VALUES = 1 << 24
"""Values in memory at a time: 64 MiB as float32."""


def looks_like(path: Path) -> bool:
    """Whether a path is one of loom, by its name."""
    return path.suffix == ".loom"


def read(path: Path) -> AnnData:
    """Read cells, and what the file says of each.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    anndata.AnnData
        Attributes of cells in ``obs``; no coordinates, for which loom has no place of its own.

    Raises
    ------
    FileError
        If the file is missing, damaged, or lacks names of genes.
    CountsError
        If it does not hold counts.
    """
    if not path.is_file():
        raise FileError("source", expected="a .loom file", found=f"no file {str(path)!r}")
    try:
        counts, rows, columns = _read(path)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the readers
        raise damaged(path, error) from error
    named = next((rows[key] for key in _GENES if key in rows), None)
    ids = next((rows[key] for key in _IDS if key in rows), named)
    if ids is None:
        expected = f"names of genes, one of the row attributes {', '.join(_GENES)}"
        raise FileError("source", expected=expected, found=f"{', '.join(rows) or 'none'} in {path.name!r}")
    genes = ids if named is None else named
    number = np.arange(counts.shape[0]).astype(str).astype(object)
    key = next((key for key in _CELLS if key in columns), None)
    obs = pd.DataFrame({name: values for name, values in columns.items() if name != key}, index=number)
    check_counts(counts, genes, path)
    kinds = np.full(len(genes), GENE, dtype=object)
    features = Features(number if key is None else columns[key], counts, ids, genes, kinds)
    return to_anndata(Measured(features, obs=obs), NAME)


def _read(path: Path) -> tuple[sp.csr_matrix, dict[str, Any], dict[str, Any]]:
    """Counts, float32 CSR (cells, genes), and the attributes of genes and of cells that are one value each."""
    import h5py

    with h5py.File(path, "r") as file:
        matrix = file["matrix"]
        n_genes, n = matrix.shape
        step = max(1, _VALUES // max(n_genes, 1))
        blocks = [sp.csr_matrix(matrix[:, start : start + step].T, dtype=np.float32) for start in range(0, n, step)]
        rows, columns = (_attributes(file[group], size) for group, size in (("row_attrs", n_genes), ("col_attrs", n)))
    return sp.vstack(blocks, format="csr"), rows, columns


def _attributes(group: Any, size: int) -> dict[str, Any]:
    found = {}
    for key, values in group.items():
        if values.shape != (size,):
            continue
        text = values.dtype.kind in "OS"
        found[key] = values.asstr()[:].astype(object) if text else values[:]
    return found
