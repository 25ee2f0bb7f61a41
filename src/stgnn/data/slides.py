"""Slides: an image, the places of bins or spots on it in micrometres, and their counts where there are any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn.data.anndata_slides import slide_from_anndata, slide_from_file, slide_from_positions
from stgnn.data.images import SUFFIXES, Image, open_image
from stgnn.data.levels import aggregate
from stgnn.data.schema import SPATIAL_KEY, CoordinatesError, OptionError, number_of
from stgnn.data.sdata_slides import is_spatialdata, open_spatialdata, slide_from_spatialdata
from stgnn.data.slide import Slide
from stgnn.data.spaceranger import read_space_ranger
from stgnn.data.tissue import on_tissue, tissue_mask

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Slide", "aggregate", "bins_on", "grid_slide", "read_slide", "without_expression"]


def read_slide(
    source: AnnData | str | Path | Any,
    image: str | Path | Image | None = None,
    *,
    mpp: float | None = None,
    spatial_key: str = SPATIAL_KEY,
    name: str | None = None,
    patient: str | None = None,
    width_um: float | None = None,
) -> Slide:
    """Read a slide.

    Parameters
    ----------
    source
        AnnData or a ``.h5ad`` with places in full-resolution pixels of the image; the ``outs`` folder of Space Ranger;
        SpatialData or its ``.zarr``; or an image alone, which gets bins without counts wherever there is tissue.
    image
        The slide's image; None for one beside the ``.h5ad`` and of its name, or the one that the source names. Of
        SpatialData, the name of one of its images.
    mpp
        Micrometres per pixel of the image; None to take them from the source or the image. Never guessed.
    spatial_key
        Key of ``obsm`` with the places, x and y.
    name
        Name of the slide; None to take it from the source, or from the file's name.
    patient
        Whom the slide is of; None to take it from the source, or to call it as the slide.
    width_um
        Side of the bins or diameter of the spots in micrometres; None to take it from the source. Of Space Ranger's
        bin sizes, the one to read.

    Returns
    -------
    Slide
        All of its bins, with and without counts.

    Raises
    ------
    InputError
        One of its kinds, in one line, for whatever cannot be read or does not fit together.

    Examples
    --------
    >>> read_slide("slide.csv")
    Traceback (most recent call last):
    stgnn.data.schema.FileError: source: expected a .h5ad file or a .zarr folder; found 'slide.csv'; ...
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.suffix.lower() in SUFFIXES:
            return _bare(path, mpp, name, patient, width_um)
        if path.is_dir() and path.suffix != ".zarr":
            return read_space_ranger(path, image, mpp=mpp, bin_um=width_um, name=name, patient=patient)
        if not is_spatialdata(path):
            return slide_from_file(path, image, mpp, spatial_key, name, patient, width_um)
        source = open_spatialdata(path)
    if hasattr(source, "tables"):
        return slide_from_spatialdata(source, image, mpp, name, patient, width_um)
    return slide_from_anndata(source, image, mpp, spatial_key, name, patient, width_um)


def _bare(path: Path, mpp: float | None, name: str | None, patient: str | None, width_um: float | None) -> Slide:
    if width_um is None:
        raise OptionError(
            "width_um",
            expected="side of the bins to lay over an image without counts, micrometres",
            found="None",
            hint="pass width_um=16, for example",
        )
    slide = grid_slide(open_image(path, mpp), width_um)
    name = name or slide.name
    return replace(slide, name=name, patient=patient or name)


def grid_slide(image: Image, bin_um: float) -> Slide:
    """Lay square bins over the tissue of an image, without counts.

    Parameters
    ----------
    image
        The slide's image.
    bin_um
        Side of the bins in micrometres.

    Returns
    -------
    Slide
        With the bins whose centre lies on tissue, from top to bottom and left to right; named by row and column.

    Raises
    ------
    OptionError
        If the side is not positive.
    CoordinatesError
        If there is no tissue.

    Examples
    --------
    >>> from PIL import Image as pil
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     picture = pil.new("RGB", (400, 300), (240, 238, 240))
    ...     picture.paste((180, 90, 160), (100, 100, 300, 200))
    ...     picture.save(folder + "/slide.png")
    ...     slide = grid_slide(open_image(folder + "/slide.png", mpp=2.0), bin_um=100.0)
    >>> len(slide), slide.names[0], slide.places[0].tolist()
    (8, 'bin_2_2', [250.0, 250.0])
    """
    if isinstance(bin_um, bool) or not np.isfinite(bin_um) or bin_um <= 0:
        raise OptionError("bin_um", expected="side of a bin in micrometres, a positive number", found=repr(bin_um))
    width, height = image.size_um
    row, column = np.divmod(np.arange(int(height // bin_um) * int(width // bin_um)), max(1, int(width // bin_um)))
    places = (np.column_stack([column, row]) + 0.5) * bin_um
    kept = on_tissue(*tissue_mask(image), places)
    if not kept.any():
        raise CoordinatesError("image", expected="tissue", found=f"none in {str(image.path)!r}")
    grid, n = np.column_stack([row, column])[kept], int(kept.sum())
    return Slide(
        name=image.path.stem,
        patient=image.path.stem,
        image=image,
        places=places[kept],
        width_um=float(bin_um),
        round=False,
        counts=None,
        total=None,
        genes=np.empty(0, dtype=object),
        names=np.array([f"bin_{r}_{c}" for r, c in grid], dtype=object),
        in_tissue=np.ones(n, dtype=bool),
        block=np.full(n, -1, dtype=np.int64),
        guard=np.zeros(n, dtype=bool),
        rows=np.arange(n),
        notes=(f"{number_of(n, 'bin')} of {bin_um:g} um laid over the tissue",),
        grid=grid.astype(np.int64),
        laid=True,
    )


def bins_on(
    image: str | Path | Image,
    positions: str | Path | None = None,
    *,
    bin_um: float | None = None,
    mpp: float | None = None,
) -> Slide:
    """Bins without counts on an image: where a file has them, or laid over the tissue.

    Parameters
    ----------
    image
        The slide's image.
    positions
        A ``.h5ad`` with the places of bins or spots in ``obsm["spatial"]``, in full-resolution pixels of the image. Its
        expression, if it has any, is not opened.
    bin_um
        Without ``positions``, side of the square bins to lay over the tissue, in micrometres; with them, side or
        diameter where the file does not tell it.
    mpp
        Micrometres per pixel of the image; None to take them from the positions or the image. Never guessed.

    Returns
    -------
    Slide
        Without counts.

    Raises
    ------
    OptionError
        If there are neither positions nor a side.
    InputError
        As for :func:`read_slide`.

    Examples
    --------
    >>> bins_on("slide.png")
    Traceback (most recent call last):
    stgnn.data.schema.OptionError: positions: expected a .h5ad with places, or bin_um to lay bins over...; found neither
    """
    if positions is not None:
        return slide_from_positions(Path(positions), image, mpp, bin_um)
    if bin_um is None:
        expected = "a .h5ad with places, or bin_um to lay bins over the tissue"
        raise OptionError("positions", expected=expected, found="neither")
    return grid_slide(image if isinstance(image, Image) else open_image(image, mpp), bin_um)


def without_expression(slide: Slide) -> Slide:
    """Take the counts, totals and genes off a slide, so that nothing can leak from them.

    Examples
    --------
    >>> from stgnn.data.slides import Slide
    >>> from dataclasses import fields
    >>> {"counts", "total", "genes"} <= {field.name for field in fields(Slide)}
    True
    """
    return replace(slide, counts=None, total=None, genes=np.empty(0, dtype=object))
