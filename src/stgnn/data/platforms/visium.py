"""10x Visium and Visium HD: Space Ranger's ``outs``, of spots, of squares, or of segmented cells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stgnn.data.platforms.finding import check_names, find_file, read_json
from stgnn.data.platforms.measured import Measured, to_anndata
from stgnn.data.platforms.mtx import read_either
from stgnn.data.schema import FileError
from stgnn.data.spaceranger import read_factors, scale_of
from stgnn.data.tables import damaged, rows_of
from stgnn.data.tenx import AS_WRITTEN, find_positions, read_positions

if TYPE_CHECKING:
    from anndata import AnnData

NAME = "10x Visium"
NAME_HD = "10x Visium HD"
LAYOUT = "outs of Space Ranger: spatial and filtered_feature_bc_matrix.h5; of HD binned_outputs or segmented_outputs"

_MATRIX, _CELL_MATRIX = "filtered_feature_bc_matrix", "filtered_feature_cell_matrix"
_OUTLINES = "cell_segmentations.geojson"
_BINS, _CELLS = "binned_outputs", "segmented_outputs"
_USUAL = "square_008um"
_PLACE = ["pxl_col_in_fullres", "pxl_row_in_fullres"]


def looks_like(path: Path) -> bool:
    """Whether a folder is ``outs``, the one it lies in, one bin size, or the segmented cells."""
    return any(_is_outs(folder) for folder in (path, path / "outs"))


def _is_outs(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in ("spatial", _BINS, _CELLS)) or _of_cells(folder)


def _of_cells(folder: Path) -> bool:
    return any((folder / name).exists() for name in (_CELL_MATRIX, f"{_CELL_MATRIX}.h5", _OUTLINES))


def read(path: Path) -> AnnData:
    """Read spots, squares or cells.

    Parameters
    ----------
    path
        The folder ``outs``, or the one it lies in: of Visium HD the squares of 8 um are read, or the only ones there
        are. One bin size (``binned_outputs/square_016um``), or ``segmented_outputs``, to read these.

    Returns
    -------
    anndata.AnnData
        With places in pixels of the full-resolution image in ``obsm["spatial"]``.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever is missing, damaged, or does not fit together.
    """
    folder, notes = _choose(path if _is_outs(path) else path / "outs")
    if _of_cells(folder):
        return _read_cells(folder, notes)
    features, _ = read_either(folder, _MATRIX, AS_WRITTEN)
    factors = read_factors(folder / "spatial" / "scalefactors_json.json")
    positions = read_positions(folder / "spatial")
    table = positions.iloc[rows_of(features.barcodes, positions.index, find_positions(folder / "spatial").name)]
    mpp = scale_of(factors, positions)
    places = table[_PLACE].to_numpy(dtype=np.float64)
    facts = _image(folder, factors, mpp)
    name = NAME_HD if "bin_size_um" in factors else NAME
    return to_anndata(Measured(features, places, mpp, obs=table.drop(columns=_PLACE), facts=facts, notes=notes), name)


def _choose(outs: Path) -> tuple[Path, list[str]]:
    """Folder of the spots, of one bin size, or of the cells, and what else could be read."""
    squares = sorted(path for path in outs.glob(f"{_BINS}/square_*um") if path.is_dir())
    cells = outs / _CELLS
    if (outs / _BINS).is_dir() and not squares and not cells.is_dir():
        raise FileError("source", expected=f"square_...um in {_BINS}", found=f"none in {str(outs)!r}", hint=AS_WRITTEN)
    if not squares:
        return (cells if cells.is_dir() else outs), []
    chosen = next((path for path in squares if path.name == _USUAL), squares[0])
    others = [f"{_BINS}/{path.name}" for path in squares if path != chosen] + [_CELLS] * cells.is_dir()
    return chosen, [f"{chosen.name} read; pass {' or '.join(others)} for others"] if others else []


def _image(folder: Path, factors: dict[str, Any], mpp: float) -> dict[str, Any]:
    path, scale = folder / "spatial" / "tissue_hires_image.png", factors.get("tissue_hires_scalef", 0)
    return {"image": str(path), "um_per_pixel": mpp / scale} if path.is_file() and scale > 0 else {}


def _read_cells(folder: Path, notes: list[str]) -> AnnData:
    """Read segmented cells, each at the centre of its outline."""
    features, matrix = read_either(folder, _CELL_MATRIX, AS_WRITTEN)
    factors = read_factors(folder / "spatial" / "scalefactors_json.json")
    path = find_file(folder, _OUTLINES)
    centres = _read_centres(path)
    numbers = [re.search(r"(\d+)(-\d+)?$", name) for name in features.barcodes]
    if not all(numbers):
        found = f"{features.barcodes[[number is None for number in numbers]][0]!r} in {matrix.name!r}"
        raise FileError("source", expected="barcodes that end in the number of a cell", found=found)
    ids = np.array([int(number[1]) for number in numbers if number], dtype=object)
    places = centres.iloc[rows_of(ids, centres.index, path.name)].to_numpy()
    mpp = factors.get("microns_per_pixel", 0)
    if not mpp > 0:
        raise FileError("source", expected="microns_per_pixel in 'scalefactors_json.json'", found="none")
    return to_anndata(Measured(features, places, mpp, facts=_image(folder, factors, mpp), notes=notes), NAME_HD)


def _read_centres(path: Path) -> pd.DataFrame:
    """Centres of the outlines of cells, x and y in pixels, by the number of the cell."""
    rows = {}
    try:
        for shape in read_json(path)["features"]:
            rings = shape["geometry"]["coordinates"]
            if shape["geometry"]["type"] == "MultiPolygon":
                rings = max(rings, key=lambda part: len(part[0]))
            rows[int(shape["properties"]["cell_id"])] = centre_of(np.asarray(rings[0], dtype=np.float64))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, FileError):
            raise
        raise damaged(path, error) from error
    centres = pd.DataFrame.from_dict(rows, orient="index", columns=["x", "y"])
    check_names(centres.index, path)
    return centres


def centre_of(outline: np.ndarray) -> tuple[float, float]:
    """Centre of gravity of a polygon (corners, 2).

    Examples
    --------
    >>> centre_of(np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 2.0], [0.0, 2.0], [0.0, 0.0]]))
    (2.0, 1.0)
    """
    origin = outline.mean(axis=0)  # far from the slide's corner, products of coordinates would lose digits
    here, there = outline - origin, np.roll(outline, -1, axis=0) - origin
    cross = here[:, 0] * there[:, 1] - there[:, 0] * here[:, 1]
    area = cross.sum()
    if abs(area) < 1e-9:
        return float(origin[0]), float(origin[1])
    centre = origin + ((here + there) * cross[:, None]).sum(axis=0) / (3 * area)
    return float(centre[0]), float(centre[1])
