"""Data sets by name in a folder of one's own."""

from __future__ import annotations

import os
from pathlib import Path

from stgnn.data.schema import FileError, OptionError, nearest
from stgnn.sources.records import Entry

__all__ = ["FORM", "KNOWN", "TITLE", "VARIABLE", "find", "locate"]

TITLE = "a folder of your own, by --data-dir or STGNN_DATA"
FORM = "folder:NAME, a .h5ad or .zarr in the folder, or in its folder cells or histology"
VARIABLE = "STGNN_DATA"
"""Environment variable with the folder."""

_INSIDE = ("cells", "", "histology")
_TITLES = {
    "hypothalamus_scrna": "Mouse preoptic hypothalamus, 10x scRNA-seq, 12 types (Moffitt 2018)",
    "hypothalamus_merfish_animal1": "Mouse preoptic hypothalamus, MERFISH, 4 sections (Moffitt 2018)",
    "hypothalamus_spots100um_animal1": "Mouse preoptic hypothalamus, MERFISH summed in squares of 100 um",
    "starmap_mpfc_BZ5_BZ9": "Mouse prefrontal cortex, STARmap, 2 mice (Wang 2018)",
    "starmap_v1": "Mouse visual cortex, STARmap (Wang 2018)",
    "mop_10x": "Mouse motor cortex, 10x scRNA-seq, 16 libraries",
    "seqfish_embryo_z2": "Mouse embryo E8.5, seqFISH (Lohoff 2022)",
    "dlpfc_151673_151674": "Human prefrontal cortex, Visium, 2 sections (Maynard 2021)",
    "osmfish_cortex": "Mouse somatosensory cortex, osmFISH (Codeluppi 2018)",
    "merfish_lung": "Human lung cancer, MERFISH (Chen 2024)",
    **{
        f"her2_breast/{slide}": f"Human HER2+ breast cancer, spatial transcriptomics, slide {slide} (Andersson 2021)"
        for slide in ("A1", "A2", "B4", "C2", "C3", "C4", "C5")
    },
    "kidney_visium_hd/bins_16um": "Human kidney, Visium HD, bins of 16 um",
    "kidney_visium_hd/bins_08um_crop": "Human kidney, Visium HD, bins of 8 um, a crop",
}
KNOWN = tuple(Entry(f"folder:{name}", title) for name, title in _TITLES.items())


def find(key: str, folder: str | Path | None) -> Entry:
    """Find a data set by name.

    Parameters
    ----------
    key
        Name, without suffix.
    folder
        Where to look; None for the folder that STGNN_DATA names.

    Returns
    -------
    Entry
        With its path.

    Raises
    ------
    OptionError
        If no folder is named.
    FileError
        If the folder has no such data set.

    Examples
    --------
    >>> find("starmap_v1", "no/such/folder")
    Traceback (most recent call last):
    stgnn.data.schema.FileError: data_dir: expected starmap_v1.h5ad or starmap_v1.zarr; found none in ...
    """
    folder = folder or os.environ.get(VARIABLE)
    if not folder:
        raise OptionError("data_dir", expected=f"a folder, by --data-dir or {VARIABLE}", found="none")
    return Entry(f"folder:{key}", _TITLES.get(key, ""), path=str(locate(key, folder)))


def locate(name: str, folder: str | Path) -> Path:
    """Path of a data set, in a folder or in its folder ``cells`` or ``histology``.

    Raises
    ------
    FileError
        If it is in none.
    """
    folder = Path(folder)
    for inside in _INSIDE:
        for suffix in (".h5ad", ".zarr"):
            if (folder / inside / f"{name}{suffix}").exists():
                return folder / inside / f"{name}{suffix}"
    patterns = {"*.h5ad": folder, "cells/*.h5ad": folder / "cells", "histology/*/*.h5ad": folder / "histology"}
    files = [(path, base) for pattern, base in patterns.items() for path in folder.glob(pattern)]
    near = sorted({path.relative_to(base).with_suffix("").as_posix() for path, base in files})
    found = f"none in {str(folder)!r} or its folders {' and '.join(filter(None, _INSIDE))}"
    hint = nearest(name, near) if folder.is_dir() else "there is no such folder"
    raise FileError("data_dir", expected=f"{name}.h5ad or {name}.zarr", found=found, hint=hint)
