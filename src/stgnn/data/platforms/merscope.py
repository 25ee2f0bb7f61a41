"""Vizgen MERSCOPE: cells of one region, or of several regions in folders of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stgnn.data.platforms.csvs import read_counts, read_header
from stgnn.data.platforms.finding import check_counts, check_names, find_file, has_file, places_of
from stgnn.data.platforms.measured import Measured, join, to_anndata
from stgnn.data.tables import damaged, read_table, rows_of
from stgnn.data.tenx import GENE, Features

if TYPE_CHECKING:
    from anndata import AnnData

NAME = "Vizgen MERSCOPE"
LAYOUT = "cell_by_gene.csv, cell_metadata.csv; or folders with them, one a region"

_COUNTS = ("cell_by_gene.csv", "cell_by_gene.csv.gz")
_CELLS = ("cell_metadata.csv", "cell_metadata.csv.gz")
_CENTRE = ["center_x", "center_y"]


def looks_like(path: Path) -> bool:
    """Whether a folder holds a region, or folders of regions."""
    return _is_region(path) or bool(_regions(path))


def _is_region(folder: Path) -> bool:
    return has_file(folder, *_COUNTS, *_CELLS)


def _regions(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and _is_region(path))


def read(path: Path) -> AnnData:
    """Read cells of a region, or of all regions in a folder.

    Parameters
    ----------
    path
        The folder of a region, or one that holds several.

    Returns
    -------
    anndata.AnnData
        With centres, in micrometres, in ``obsm["spatial"]``; of several regions their names in ``obs["section"]``.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever is missing, damaged, or does not fit together.
    """
    if _is_region(path):
        return _read_region(path)
    return join({folder.name: _read_region(folder) for folder in _regions(path)})


def _read_region(folder: Path) -> AnnData:
    source, other = find_file(folder, *_COUNTS), find_file(folder, *_CELLS)
    columns = read_header(source)
    # the first column has no name in some versions, and another in others: it is the cell
    columns[0] = columns[0] or "cell"
    ids, counts = read_counts(source, columns, columns[:1])
    names, genes = pd.Index(ids[columns[0]]), np.array(columns[1:], dtype=object)
    check_names(names, source)
    check_counts(counts, genes, source)
    first = read_header(other)[0] or "Unnamed: 0"
    table = read_table(other, (first,))
    table = table.drop(columns=first).set_index(pd.Index(table[first].astype(str)))
    places = places_of(table, _CENTRE, other)
    check_names(table.index, other)
    rows = rows_of(names.to_numpy(), table.index, other.name)
    left = len(table) - len(rows)
    notes = [f"{left} of {len(table)} cells in {other.name} are not in {source.name}"] if left else []
    kinds = np.array(["Blank" if name.lower().startswith("blank") else GENE for name in genes], dtype=object)
    facts = _image(folder)
    features = Features(names.to_numpy(dtype=object), counts, genes, genes, kinds)
    obs = table.drop(columns=_CENTRE).iloc[rows]
    return to_anndata(Measured(features, places[rows], obs=obs, facts=facts, notes=notes), NAME)


def _image(folder: Path) -> dict[str, Any]:
    """The mosaic of nuclei, its scale, and where its corner lies, if it is there."""
    path = folder / "images" / "micron_to_mosaic_pixel_transform.csv"
    mosaics = sorted((folder / "images").glob("mosaic_DAPI_z*.tif"))
    if not path.is_file() or not mosaics:
        return {}
    try:
        to_pixels = np.loadtxt(path)
        scale, shift = np.diag(to_pixels)[:2], to_pixels[:2, 2]
        if to_pixels.shape != (3, 3) or not (scale > 0).all():
            raise ValueError("no matrix of 3 by 3 that scales")
    except (OSError, ValueError, IndexError) as error:
        raise damaged(path, error) from error
    # several depths are there; the middle one is in focus
    image = mosaics[len(mosaics) // 2]
    return {"image": str(image), "um_per_pixel": float(1 / scale[0]), "image_origin_um": -shift / scale}
