"""Large tables of counts in csv: read in chunks, straight into sparse matrices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stgnn.data.tables import check_end, damaged

_VALUES = 1 << 24
"""Values in memory at a time: 64 MiB as float32."""


def read_header(path: Path, separator: str = ",") -> list[str]:
    """Read the names of the columns, repeats and all; one without a name is empty.

    Raises
    ------
    FileError
        If the file is damaged, empty, or has rows longer than its header.
    """
    try:
        first = pd.read_csv(path, sep=separator, header=None, nrows=2, dtype=str, keep_default_na=False)
    except Exception as error:  # a damaged file can fail anywhere in the readers
        raise damaged(path, error) from error
    return [str(name) for name in first.iloc[0]]


def read_counts(
    path: Path, columns: Sequence[str], names: Sequence[str], separator: str = ","
) -> tuple[pd.DataFrame, sp.csr_matrix]:
    """Read a table that has names in some columns and counts in all others.

    Parameters
    ----------
    path
        The file, whose compression its name tells.
    columns
        All of its columns, by :func:`read_header`.
    names
        Those of text, read as it stands: ids of cells can be whole numbers too large for a float.
    separator
        What stands between columns.

    Returns
    -------
    tuple
        The columns of text (rows, names), and float32 CSR (rows, other columns).

    Raises
    ------
    FileError
        If the file is damaged, a row has fewer values than there are columns, or the last one does not end.
    """
    is_text = np.array([column in names for column in columns])
    kinds = {number: str if text else np.float32 for number, text in enumerate(is_text)}
    texts, blocks, n_rows = [], [], 0
    try:
        with pd.read_csv(
            path,
            sep=separator,
            header=None,
            skiprows=1,
            names=range(len(columns)),
            index_col=False,
            dtype=kinds,
            chunksize=max(1, _VALUES // len(columns)),
        ) as chunks:
            for chunk in chunks:
                values = chunk.iloc[:, ~is_text].to_numpy(dtype=np.float32)
                gaps = np.isnan(values).any(axis=1)
                if gaps.any():
                    row = n_rows + int(gaps.argmax()) + 1
                    raise ValueError(f"row {row} has fewer values than the {len(columns)} columns")
                texts.append(chunk.iloc[:, is_text].astype(str))
                blocks.append(sp.csr_matrix(values))
                n_rows += len(chunk)
        check_end(path)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the readers
        raise damaged(path, error) from error
    if not blocks:
        raise damaged(path, ValueError("no rows"))
    table = pd.concat(texts, ignore_index=True)
    table.columns = [column for column, text in zip(columns, is_text) if text]
    return table, sp.vstack(blocks, format="csr")
