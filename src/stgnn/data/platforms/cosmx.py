"""NanoString CosMx: the flat files of one slide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stgnn.data.platforms.csvs import read_counts, read_header
from stgnn.data.platforms.finding import check_counts, check_names, find_file, has_file, places_of
from stgnn.data.platforms.measured import Measured, to_anndata
from stgnn.data.schema import FileError, number_of
from stgnn.data.tables import read_table, rows_of
from stgnn.data.tenx import GENE, Features

if TYPE_CHECKING:
    from anndata import AnnData

NAME = "NanoString CosMx"
LAYOUT = "*_exprMat_file.csv, *_metadata_file.csv"

UM_PER_PIXEL = 0.12028
"""By the notes that NanoString gives with its flat files."""

_COUNTS = ("exprMat_file.csv", "exprMat_file.csv.gz")
_CELLS = ("metadata_file.csv", "metadata_file.csv.gz")
_FIELDS = ("fov_positions_file.csv", "fov_positions_file.csv.gz")
_KEYS = ["fov", "cell_ID"]
_TEXTS = {"fov", "cell_id", "cell", "slide_id", "cellid"}
_GLOBAL, _LOCAL = ["CenterX_global_px", "CenterY_global_px"], ["CenterX_local_px", "CenterY_local_px"]
_CONTROLS = {
    "negprb": "negative probe",
    "negative": "negative probe",
    "systemcontrol": "system control",
    "falsecode": "false code",
}


def looks_like(path: Path) -> bool:
    """Whether a folder holds such files."""
    return has_file(path, *_COUNTS, *_CELLS)


def read(path: Path) -> AnnData:
    """Read cells; counts outside cells and codes that control are left out.

    Parameters
    ----------
    path
        The folder with the flat files.

    Returns
    -------
    anndata.AnnData
        Cells are called by field of view and number ("3_127"). Centres are in pixels, over all fields, in
        ``obsm["spatial"]``.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever is missing, damaged, or does not fit together.
    """
    source, other = find_file(path, *_COUNTS), find_file(path, *_CELLS)
    columns = read_header(source)
    _check_keys(columns, source)
    texts = [column for column in columns if column.lower() in _TEXTS]
    ids, counts = read_counts(source, columns, texts)
    genes = np.array([column for column in columns if column not in texts], dtype=object)
    inside = ids["cell_ID"].to_numpy() != "0"  # 0 gathers what lies in no cell of a field
    names = _names(ids[inside])
    counts = counts[np.flatnonzero(inside)]
    check_names(names, source)
    check_counts(counts, genes, source)
    table = read_table(other, tuple(_KEYS))
    _check_keys(list(table.columns), other)
    table = table.set_index(_names(table))
    check_names(table.index, other)
    places, notes = _places(table, other, path)
    rows = rows_of(names.to_numpy(), table.index, other.name)
    left = len(table) - len(rows)
    notes += [f"{left} of {len(table)} cells in {other.name} are not in {source.name}"] if left else []
    outside = int((~inside).sum())
    if outside:
        notes.append(f"counts of {number_of(outside, 'field')} that lie in no cell left out")
    kinds = np.array([_kind(name) for name in genes], dtype=object)
    obs = table.drop(columns=[column for column in _GLOBAL if column in table]).iloc[rows]
    features = Features(names.to_numpy(dtype=object), counts, genes, genes, kinds)
    scale = f"{UM_PER_PIXEL} um a pixel, as NanoString documents"
    return to_anndata(Measured(features, places[rows], UM_PER_PIXEL, scale, obs, notes=notes), NAME)


def _check_keys(columns: list[str], path: Path) -> None:
    missing = [key for key in _KEYS if key not in columns]
    if missing:
        raise FileError("source", expected="the columns fov and cell_ID", found=f"no {missing[0]} in {path.name!r}")


def _names(table: pd.DataFrame) -> pd.Index:
    """Names of cells, whose numbers start anew in every field."""
    return pd.Index(table["fov"].astype(str) + "_" + table["cell_ID"].astype(str))


def _kind(name: str) -> str:
    return next((kind for start, kind in _CONTROLS.items() if name.lower().startswith(start)), GENE)


def _places(table: pd.DataFrame, path: Path, folder: Path) -> tuple[np.ndarray, list[str]]:
    """Centres of cells over all fields, in pixels, by the table itself or by where the fields lie."""
    if set(_GLOBAL) <= set(table.columns):
        return places_of(table, _GLOBAL, path), []
    local = places_of(table, _LOCAL, path)
    source = find_file(folder, *_FIELDS)
    fields = read_table(source).rename(columns={"FOV": "fov"})
    origin = places_of(fields, ["fov", "x_global_px", "y_global_px"], source)
    lying = pd.DataFrame(origin[:, 1:], index=pd.Index(origin[:, 0].astype(int).astype(str)))
    check_names(lying.index, source)
    rows = rows_of(table["fov"].astype(str).to_numpy(), lying.index, source.name)
    note = f"places over all fields from those in each and {source.name}, whose axes are taken to run alike"
    return local + lying.to_numpy()[rows], [note]
