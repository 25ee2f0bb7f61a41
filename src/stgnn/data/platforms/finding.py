"""What the readers of platforms share: files found in a folder, and tables checked once they are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stgnn.data.counts import find_problem
from stgnn.data.schema import CoordinatesError, CountsError, FileError, number_of
from stgnn.data.tables import damaged

__all__ = ["check_counts", "check_names", "find_file", "has_file", "places_of", "read_json"]


def find_file(folder: Path, *endings: str) -> Path:
    """Find the one file whose name ends in one of some ways; of several endings the first that there is.

    Raises
    ------
    FileError
        If there is none, or several.
    """
    for ending in endings:
        found = _ending_in(folder, ending)
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(path.name for path in found[:3]) + (", ..." if len(found) > 3 else "")
            hint = "put each section into a folder of its own"
            raise FileError(
                "source", expected=f"one {ending}", found=f"{len(found)} in {str(folder)!r}: {shown}", hint=hint
            )
    expected = " or ".join(endings)
    raise FileError("source", expected=expected, found=f"none in {str(folder)!r}", hint="copy it there")


def has_file(folder: Path, *endings: str) -> bool:
    """Whether a folder holds a file whose name ends in one of some ways."""
    return any(_ending_in(folder, ending) for ending in endings)


def _ending_in(folder: Path, ending: str) -> list[Path]:
    paths = folder.glob(f"*{ending}") if folder.is_dir() else ()
    return sorted(path for path in paths if path.is_file() and not path.name.startswith("."))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises
    ------
    FileError
        If it is damaged.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    if not isinstance(facts, dict):
        raise damaged(path, ValueError("no object in it"))
    return facts


def places_of(table: pd.DataFrame, columns: Sequence[str], path: Path) -> np.ndarray:
    """Coordinates (cells, columns) out of a table.

    Raises
    ------
    FileError
        If a column is missing.
    CoordinatesError
        If places are not numbers, as in a row cut short.
    """
    missing = [column for column in columns if column not in table]
    if missing:
        raise FileError(
            "source", expected=f"the columns {', '.join(columns)}", found=f"no {', '.join(missing)} in {path.name!r}"
        )
    places = table[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    bad = ~np.isfinite(places).all(axis=1)
    if bad.any():
        raise CoordinatesError(
            "source",
            expected="a place for every cell",
            found=f"{int(bad.sum())} of {len(bad)} without in {path.name!r}, the first in row {int(bad.argmax()) + 1}",
            hint="it may be truncated: copy it again",
        )
    return places


def check_names(names: pd.Index, path: Path) -> None:
    """Refuse a table in which cells repeat, or that has none.

    Raises
    ------
    FileError
        If so.
    """
    if not len(names):
        raise FileError("source", expected=f"cells in {path.name!r}", found="none")
    repeats = int(names.duplicated().sum())
    if repeats:
        first = names[names.duplicated()][0]
        found = f"{number_of(repeats, 'repeat')} in {path.name!r}, the first of {first!r}"
        raise FileError("source", expected="one row for each cell", found=found)


def check_counts(counts: sp.csr_matrix, genes: np.ndarray, path: Path) -> None:
    """Refuse what are no counts.

    Raises
    ------
    CountsError
        If values are negative or not whole.
    """
    if problem := find_problem(counts, genes):
        raise CountsError("source", expected=f"raw counts in {path.name!r}", found=problem)
