"""Tables in files, and what is said of files that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from stgnn.data.schema import CoordinatesError, FileError, InputError

__all__ = ["check_end", "damaged", "read_table", "rows_of"]


def read_table(path: Path, texts: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read a table of parquet or csv.

    Parameters
    ----------
    path
        The file, whose compression its name tells.
    texts
        Columns to be read as text: names that are large numbers would be rounded otherwise. Of csv only.

    Returns
    -------
    pandas.DataFrame
        The table.

    Raises
    ------
    FileError
        If the file is damaged, or its last line does not end.
    InputError
        If parquet cannot be read here.
    """
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        table = pd.read_csv(path, dtype=dict.fromkeys(texts, str))
        check_end(path)
        return table
    except MemoryError:
        raise
    except ImportError as error:
        hint = "pip install 'stgnn[histology]'"
        raise InputError("source", expected="pyarrow, to read parquet", found="none", hint=hint) from error
    except Exception as error:  # a damaged file can fail anywhere in the readers
        raise damaged(path, error) from error


def rows_of(names: np.ndarray, known: pd.Index, table: str) -> np.ndarray:
    """Row of each barcode of a matrix in another table.

    Parameters
    ----------
    names
        Barcodes of the matrix (n,).
    known
        Those of the table, unique.
    table
        Name of its file, for messages.

    Returns
    -------
    numpy.ndarray
        Rows (n,).

    Raises
    ------
    CoordinatesError
        If the table lacks any.
    """
    rows = known.get_indexer(names)
    unknown = int((rows < 0).sum())
    if unknown:
        example = f", the table {known[0]!r}" if len(known) else ""
        places = f"the {len(known)} barcodes in {table}"
        number = f"none of them among {places}" if unknown == len(rows) else f"{unknown} not among {places}"
        raise CoordinatesError(
            "source",
            expected=f"a place for each of the {len(rows)} barcodes of the matrix",
            found=number,
            hint=f"the matrix has {names[rows < 0][0]!r}{example}: are both of one run?",
        )
    return rows


def damaged(path: Path, error: Exception) -> FileError:
    """Error for a file that a reader stumbled over."""
    return FileError(
        "source",
        expected=f"a readable {path.name}",
        found=f"{str(path)!r}, which cannot be read ({type(error).__name__}: {error})",
        hint="it may be truncated: copy it again",
    )


def check_end(path: Path) -> None:
    """Refuse a text whose last line does not end: its last number may be cut. Packed files tell by themselves.

    Raises
    ------
    ValueError
        If so.
    """
    if path.suffix == ".gz":
        return
    with open(path, "rb") as file:
        file.seek(-1, 2)
        if file.read() not in (b"\n", b"\r"):
            raise ValueError("the last line does not end")
