"""10x Xenium: the folder that the instrument's own analysis writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from stgnn.data.platforms.finding import check_names, places_of, read_json
from stgnn.data.platforms.measured import Measured, to_anndata
from stgnn.data.platforms.mtx import read_either
from stgnn.data.schema import FileError, InputError
from stgnn.data.tables import read_table, rows_of

if TYPE_CHECKING:
    from anndata import AnnData

NAME = "10x Xenium"
LAYOUT = "cell_feature_matrix.h5, cells.parquet or cells.csv.gz, experiment.xenium"

_MATRIX = "cell_feature_matrix"
_CELLS = ("cells.parquet", "cells.csv.gz", "cells.csv")
_EXPERIMENT = "experiment.xenium"
_CENTRE = ["x_centroid", "y_centroid"]
_IMAGES = ("morphology_focus_filepath", "morphology_mip_filepath", "morphology_filepath")


def looks_like(path: Path) -> bool:
    """Whether a folder is of Xenium."""
    return (path / _MATRIX).is_dir() or any(
        (path / name).is_file() for name in (_EXPERIMENT, f"{_MATRIX}.h5", *_CELLS[:2])
    )


def read(path: Path) -> AnnData:
    """Read cells with the genes of the panel; probes and codewords that control are left out.

    Parameters
    ----------
    path
        The folder of one region.

    Returns
    -------
    anndata.AnnData
        With centroids, in micrometres, in ``obsm["spatial"]``.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever is missing, damaged, or does not fit together.
    """
    features, _ = read_either(path, _MATRIX, "pass the folder that Xenium wrote, as it is")
    table, source = _read_cells(path)
    places = places_of(table, _CENTRE, source)
    rows = rows_of(features.barcodes, table.index, source.name)
    facts, notes = _read_experiment(path)
    obs = table.drop(columns=_CENTRE).iloc[rows]
    return to_anndata(Measured(features, places[rows], obs=obs, facts=facts, notes=notes), NAME)


def _read_cells(folder: Path) -> tuple[pd.DataFrame, Path]:
    """Table of the cells, by id, and the file that it came from."""
    paths = [folder / name for name in _CELLS if (folder / name).is_file()]
    if not paths:
        raise FileError("source", expected=" or ".join(_CELLS[:2]), found=f"none in {str(folder)!r}")
    table, path = None, paths[0]
    if path.suffix == ".parquet" and len(paths) > 1:
        try:
            table = read_table(path)
        except FileError:
            raise
        except InputError:  # no pyarrow, and the same table is there as csv
            path = paths[1]
    table = read_table(path, ("cell_id",)) if table is None else table
    if "cell_id" not in table:
        raise FileError("source", expected="the column cell_id", found=f"none in {path.name!r}")
    ids = table["cell_id"].map(lambda name: name.decode() if isinstance(name, bytes) else str(name))
    table = table.drop(columns="cell_id").set_index(pd.Index(ids))
    check_names(table.index, path)
    return table, path


def _read_experiment(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Image, its scale and the software, where the folder tells them."""
    path = folder / _EXPERIMENT
    if not path.is_file():
        return {}, [f"no {_EXPERIMENT} in the folder: image and its scale are not known"]
    told = read_json(path)
    facts: dict[str, Any] = {
        key: str(told[key]) for key in ("region_name", "panel_name", "analysis_sw_version") if key in told
    }
    images = told.get("images") or {}
    names = [str(images[key]) for key in _IMAGES if images.get(key)]
    image = next((folder / name for name in names if (folder / name).exists()), None)
    if image is not None and "pixel_size" in told:
        return facts | {"image": str(image), "um_per_pixel": float(told["pixel_size"])}, []
    return facts, []
