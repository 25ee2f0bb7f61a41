"""SpatialData: one of its tables in, and the same table back into a copy of all of it."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stgnn.data.files import replace_atomically
from stgnn.data.schema import SECTION_KEY, SOURCE_KEY, SPATIAL_KEY, CoordinatesError, FileError, nearest
from stgnn.data.sdata_slides import open_spatialdata

if TYPE_CHECKING:
    from anndata import AnnData

NAME = "SpatialData"
LAYOUT = "a .zarr with tables, or one of them as x.zarr/tables/name"

_ELEMENTS = ("images", "labels", "points", "shapes", "tables")
_ATTRS = "spatialdata_attrs"


def looks_like(path: Path) -> bool:
    """Whether a path is a store of SpatialData, or a table in one."""
    return _is_store(_split(path)[0])


def _is_store(path: Path) -> bool:
    return (
        path.suffix == ".zarr"
        and not (path / "obs").exists()
        and any((path / element).is_dir() for element in _ELEMENTS)
    )


def _split(path: Path) -> tuple[Path, str | None]:
    """Store, and the name of the table in it where the path names one."""
    return (path.parent.parent, path.name) if path.parent.name == "tables" else (path, None)


def table_in(path: Path, source: Path) -> Path:
    """Where the table that was read from a source lies in a copy of its store."""
    store, name = _split(source)
    return path / "tables" / (name or next(part.name for part in (store / "tables").iterdir() if part.is_dir()))


def read(path: Path) -> AnnData:
    """Read a table.

    Parameters
    ----------
    path
        The store, which then has to hold one table only, or ``x.zarr/tables/name``.

    Returns
    -------
    anndata.AnnData
        The table as it is, with its link to regions and instances. Without coordinates of its own it gets the centres
        of its instances in ``obsm["spatial"]``; of several regions their names also in ``obs["section"]``.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever is missing or damaged.
    """
    store, wanted = _split(path)
    sdata = _open(store)
    name = _choose(list(sdata.tables), wanted, store)
    table = sdata.tables[name].copy()
    notes = [f"table {name!r}"]
    source: dict[str, Any] = {"platform": NAME, "table": name}
    facts = table.uns.get(_ATTRS)
    if facts is not None:
        region = table.obs[facts["region_key"]].astype(str)
        if region.nunique() > 1:
            table.obs[SECTION_KEY] = region.to_numpy()
            source["section_key"] = SECTION_KEY
        if SPATIAL_KEY not in table.obsm:
            table.obsm[SPATIAL_KEY] = _centres(sdata, region, table.obs[facts["instance_key"]])
            notes.append("coordinates: centres of its instances")
    if SPATIAL_KEY in table.obsm:
        notes.append("SpatialData tells no unit of coordinates: pass um_per_unit where it is not the micrometre")
    table.uns[SOURCE_KEY] = source | {"notes": np.array(notes, dtype=object)}
    return table


def _open(store: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of spatialdata's dependencies, which users of this package cannot act on
        return open_spatialdata(store)


def _choose(names: list[str], wanted: str | None, store: Path) -> str:
    if wanted is not None and wanted not in names:
        found = f"no table {wanted!r} in {str(store)!r}"
        raise FileError("source", expected="one of its tables", found=found, hint=nearest(wanted, names))
    if wanted is None and len(names) != 1:
        found = f"{len(names)} in {str(store)!r}" + (f": {', '.join(names[:5])}" if names else "")
        hint = f"pass one, as {store.name}/tables/{names[0]}" if names else ""
        raise FileError("source", expected="one table", found=found, hint=hint)
    return wanted or names[0]


def _centres(sdata: Any, region: pd.Series, instance: pd.Series) -> np.ndarray:
    """Centre of each row's instance (rows, 2 or 3), in the coordinate system that its region is laid in."""
    from spatialdata import get_centroids
    from spatialdata.transformations import get_transformation

    places = np.full((len(region), 0), np.nan)
    for name in sorted(region.unique()):
        if name not in sdata.shapes and name not in sdata.labels and name not in sdata.points:
            found = f"{name!r}, which is none"
            raise CoordinatesError("source", expected="a region among shapes, labels or points", found=found)
        spaces = sorted(get_transformation(sdata[name], get_all=True), key=lambda space: (space != "global", space))
        centres = get_centroids(sdata[name], coordinate_system=spaces[0]).compute()
        of_it = (region == name).to_numpy()
        rows = centres.index.get_indexer(instance[of_it])
        if (rows < 0).any():
            found = f"{int((rows < 0).sum())} of {len(rows)} without one"
            raise CoordinatesError("source", expected=f"an instance of {name!r} for each row", found=found)
        values = centres.to_numpy(dtype=np.float64)
        places = places if places.shape[1] else np.full((len(region), values.shape[1]), np.nan)
        places[of_it] = values[rows]
    return places


def write(adata: AnnData, path: str | Path, source: str | Path) -> None:
    """Write SpatialData as it was read, with the table that was annotated.

    Parameters
    ----------
    adata
        What :func:`read` gave, with results. Not modified.
    path
        Where: ``.zarr``. It appears whole or not at all.
    source
        Where it was read from; images, shapes and other tables are copied from there, byte for byte.

    Raises
    ------
    FileError
        If it cannot be written; nothing is left behind then.
    """
    store, name = _split(Path(source))[0], str(adata.uns[SOURCE_KEY]["table"])

    def fill(partial: Path) -> None:
        shutil.copytree(store, partial)
        sdata = _open(partial)
        del sdata.tables[name]
        sdata.tables[name] = adata
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as above
            sdata.delete_element_from_disk(name)
            sdata.write_element(name)

    replace_atomically(path, fill)
