"""The front door for files: which platform wrote them, and what they hold as AnnData.

Each platform has a module with ``NAME``, ``LAYOUT`` (the files it is known by), ``looks_like`` and ``read``. A reader
gives coordinates in units of the file and says what a unit is; :func:`read` turns all into micrometres.
"""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from stgnn.data.columns import check_scale
from stgnn.data.files import SUFFIXES, open_h5ad_or_zarr, write_atomically
from stgnn.data.platforms import cosmx, loom, merscope, mtx, slideseq, spatialdata, stereoseq, visium, xenium
from stgnn.data.schema import SOURCE_KEY, SPATIAL_KEY, FileError, InputError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["FOLDERS", "layouts", "read", "result_in", "section_key_of", "write"]

logger = logging.getLogger(__name__)

FOLDERS: tuple[ModuleType, ...] = (xenium, visium, merscope, cosmx, slideseq, mtx)
"""Platforms whose files lie in a folder, in the order in which they are tried."""

_PLATFORMS = (*FOLDERS, loom, stereoseq, spatialdata)


def read(path: str | Path, argument: str = "path", *, um_per_unit: float | None = None) -> AnnData:
    """Read what a platform wrote, whichever it is.

    Parameters
    ----------
    path
        A folder of 10x Xenium, 10x Visium or Visium HD, Vizgen MERSCOPE, NanoString CosMx or Slide-seq; a 10x matrix
        (``.h5``, or a folder of matrix, features and barcodes); ``.loom``; ``.zarr`` of SpatialData, or one table of it
        (``x.zarr/tables/name``); ``.h5ad`` or ``.zarr`` of AnnData.
    argument
        What the user calls the path, for messages.
    um_per_unit
        Micrometres per unit of the file's coordinates, instead of what is usual for the platform. Only where files do
        not tell it themselves (CosMx, Slide-seq, and Stereo-seq without a resolution).

    Returns
    -------
    anndata.AnnData
        In memory. Of a platform's files raw counts of genes (float32 CSR) in ``X``, without control probes, blanks and
        negative codes; ``obsm["spatial"]``, in micrometres; ``obs["section"]`` where there are several sections;
        ``uns["stgnn_source"]``: the platform, what was done, image and scale. Of ``.h5ad`` and ``.zarr`` of AnnData
        what is in them, but for Stereo-seq's coordinates.

    Raises
    ------
    FileError
        If a file is missing, damaged, or of no known layout.
    InputError
        One of its other kinds, in one line, for what does not fit together.

    Examples
    --------
    >>> read("cells.csv")
    Traceback (most recent call last):
    stgnn.data.schema.FileError: path: expected a file or folder of a known layout; found no file or ...
    """
    path = Path(path)
    check_scale(um_per_unit)
    try:
        adata = _read(path, argument)
    except InputError as error:
        if error.argument != "source":  # the readers' word for it
            raise
        raise type(error)(argument, expected=error.expected, found=error.found, hint=error.hint) from error
    if SOURCE_KEY in adata.uns and "path" not in adata.uns[SOURCE_KEY]:  # not yet finished, by an earlier reading
        _finish(adata, path, um_per_unit)
    return adata


def _read(path: Path, argument: str) -> AnnData:
    """Read by whichever reader knows the layout; coordinates in units of the file."""
    if spatialdata.looks_like(path):
        return spatialdata.read(path)
    if path.suffix in SUFFIXES:
        adata = open_h5ad_or_zarr(path, argument)
        if stereoseq.looks_like(adata):
            stereoseq.describe(adata)
        return adata
    if loom.looks_like(path):
        return loom.read(path)
    if path.is_file() and path.suffix == ".h5":
        return mtx.read(path)
    platform = _platform_of(path)
    if platform is not None:
        return platform.read(path)
    inside = [str(part) for part in sorted(path.glob("*")) if _platform_of(part)]
    raise FileError(
        argument,
        expected="a file or folder of a known layout",
        found=f"{'another' if path.exists() else 'no file or folder'}, {str(path)!r}",
        hint=f"pass {' or '.join(inside[:3])}" if inside else f"known are .h5ad and .zarr; {layouts()}",
    )


def _platform_of(folder: Path) -> ModuleType | None:
    """Platform whose files lie in a folder."""
    return next((platform for platform in FOLDERS if folder.is_dir() and platform.looks_like(folder)), None)


def write(adata: AnnData, path: str | Path, source: str | Path) -> None:
    """Write a result so that it appears whole or not at all.

    Parameters
    ----------
    adata
        What :func:`read` gave, with results. Not modified.
    path
        Where: ``.h5ad``, or ``.zarr``, which becomes SpatialData again where that was read.
    source
        Where it was read from.

    Raises
    ------
    FileError
        If it cannot be written; nothing is left behind then.
    """
    if result_in(path, source) != Path(path):
        spatialdata.write(adata, path, source)
    else:
        write_atomically(adata, path)


def result_in(path: str | Path, source: str | Path) -> Path:
    """Where a result that :func:`write` wrote can be read: the path, or the table in it that was annotated.

    Examples
    --------
    >>> result_in("annotated.h5ad", "section.h5ad").name
    'annotated.h5ad'
    """
    path, source = Path(path), Path(source)
    return spatialdata.table_in(path, source) if path.suffix == ".zarr" and spatialdata.looks_like(source) else path


def layouts() -> str:
    """Say by which files each platform is known.

    Examples
    --------
    >>> layouts().split("; ")[0]
    '10x Xenium (cell_feature_matrix.h5, cells.parquet or cells.csv.gz, experiment.xenium)'
    """
    return "; ".join(f"{platform.NAME} ({platform.LAYOUT})" for platform in _PLATFORMS)


def _finish(adata: AnnData, path: Path, um_per_unit: float | None) -> None:
    """Turn coordinates into micrometres, and say what was read."""
    source = dict(adata.uns[SOURCE_KEY])
    notes, scale = [f"read as {source['platform']}"], source.pop("scale", "")
    if "um_per_unit" in source:
        if um_per_unit is not None and scale:
            source["um_per_unit"], scale = float(um_per_unit), f"{um_per_unit:g} um a unit, as given"
        adata.obsm[SPATIAL_KEY] = np.asarray(adata.obsm[SPATIAL_KEY], dtype=np.float64) * source["um_per_unit"]
        source["unit"] = "um"
        notes += [f"coordinates: {scale}"] if scale else []
    notes += [str(sentence) for sentence in source["notes"]]
    adata.uns[SOURCE_KEY] = source | {"path": str(path), "notes": np.array(notes, dtype=object)}
    for sentence in notes:
        logger.info("%s: %s", path.name, sentence)


def section_key_of(adata: AnnData) -> str | None:
    """Column of ``obs`` by which a platform's files tell sections apart; None for one section.

    Examples
    --------
    >>> from stgnn.data.toy import toy
    >>> section_key_of(toy()[1])
    """
    return adata.uns.get(SOURCE_KEY, {}).get("section_key")
