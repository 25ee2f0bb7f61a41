"""Tables of two columns, given by the user: label and merged label, child and parent, gene and orthologue."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from stgnn.data.schema import FileError, InputError

__all__ = ["read_pairs"]


def read_pairs(source: str | Path | pd.DataFrame, argument: str, columns: tuple[str, str]) -> list[tuple[str, str]]:
    """Read pairs of names, without blanks around them; repeated pairs count once.

    Parameters
    ----------
    source
        A ``.csv``, or a ``.tsv`` or ``.txt`` with tabs, packed or not, whose first line names its columns; or a table.
        The columns named ``columns`` are taken where both are there, else the table must have just two.
    argument
        What the user calls it, for messages.
    columns
        Names of the two columns.

    Returns
    -------
    list of (str, str)
        In the order of the file; a missing value is empty.

    Raises
    ------
    FileError
        If the file is missing or damaged.
    InputError
        If there are no two columns, or no pairs.

    Examples
    --------
    >>> read_pairs(pd.DataFrame({"label": ["L2/3 IT "], "merged": ["IT"]}), "merge", ("label", "merged"))
    [('L2/3 IT', 'IT')]
    """
    table = source if isinstance(source, pd.DataFrame) else _open(Path(source), argument)
    if set(columns) <= set(table.columns):
        table = table[list(columns)]
    if table.shape[1] != 2:
        found = f"{table.shape[1]}: {', '.join(str(name) for name in table.columns[:5])}"
        raise InputError(argument, expected=f"two columns, {' and '.join(columns)}", found=found)
    left, right = (table.iloc[:, column].fillna("").astype(str).str.strip() for column in (0, 1))
    pairs = [pair for pair in dict.fromkeys(zip(left, right)) if pair[0]]
    if not pairs:
        raise InputError(argument, expected=f"pairs of {' and '.join(columns)}", found="none below the first line")
    return pairs


def _open(path: Path, argument: str) -> pd.DataFrame:
    kinds = [suffix for suffix in path.suffixes[-2:] if suffix in (".csv", ".tsv", ".txt")]
    if not kinds:
        raise FileError(argument, expected="a .csv, .tsv or .txt", found=repr(str(path)))
    try:
        separator = "," if kinds[-1] == ".csv" else "\t"
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileError(argument, expected="a table", found=f"no file {str(path)!r}") from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the reader
        found = f"{str(path)!r}, which cannot be read ({type(error).__name__}: {error})"
        raise FileError(argument, expected="a readable table", found=found) from error
