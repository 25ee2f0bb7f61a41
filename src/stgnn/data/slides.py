"""Slides: an image, the places of bins or spots on it in micrometres, and their counts where there are any."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stgnn.data import genes as gene_names
from stgnn.data.images import SUFFIXES, Image, open_image
from stgnn.data.levels import assign
from stgnn.data.schema import SPATIAL_KEY, CoordinatesError, CountsError, InputError, OptionError, number_of
from stgnn.data.tissue import on_tissue, tissue_mask

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Slide", "aggregate", "check_slide", "grid_slide", "read_slide", "without_expression"]

_MANY_OFF_TISSUE = 0.2


@dataclass(frozen=True)
class Slide:
    """Bins or spots of one slide, checked: all lie on the image, counts are counts, names are unique.

    Parameters
    ----------
    name
        Name of the slide.
    patient
        Whom it is of; slides of one patient never stand on both sides of a split.
    image
        Its image.
    places
        Centres (n, 2), float64, in micrometres from the image's upper-left corner, x to the right, y down.
    width_um
        Side of a square bin, or diameter of a round spot, in micrometres.
    round
        Whether they are round spots.
    counts
        Raw counts, float32 CSR (n, genes); None for a slide without expression.
    total
        Counts over the whole transcriptome (n,), float64, of which ``counts`` may hold a part; None where unknown.
    genes
        Gene names (genes,), unique; empty for a slide without expression.
    names
        Names of the bins (n,), unique.
    in_tissue
        Whether each lies on tissue (n,), by the image, and by the source where that tells.
    block
        Part of the slide each lies in (n,), int64, for splits within a slide; -1 where there is none.
    guard
        Whether each lies so near another block that neither training nor test may use it (n,).
    rows
        Position of each in the source (n,), int64.
    notes
        What the gate did, in plain sentences.
    grid
        Row and column of each on its array (n, 2), int64; None where unknown.
    """

    name: str
    patient: str
    image: Image
    places: np.ndarray
    width_um: float
    round: bool
    counts: sp.csr_matrix | None
    total: np.ndarray | None
    genes: np.ndarray
    names: np.ndarray
    in_tissue: np.ndarray
    block: np.ndarray
    guard: np.ndarray
    rows: np.ndarray
    notes: tuple[str, ...] = ()
    grid: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.places)


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
        The slide's image; None for one beside the ``.h5ad`` and of its name, or the one that the source names.
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
    from stgnn.data.anndata_slides import slide_from_anndata, slide_from_file

    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.suffix.lower() in SUFFIXES:
            return _bare(path, mpp, name, patient, width_um)
        return slide_from_file(path, image, mpp, spatial_key, name, patient, width_um)
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
    )


def check_slide(slide: Slide) -> Slide:
    """Check what was read against the image, and say which bins lie on tissue.

    Raises
    ------
    CoordinatesError
        If places lie outside the image.
    CountsError
        If the totals are smaller than the counts they are of.
    """
    width, height = slide.image.size_um
    x, y = slide.places.T
    outside = int(((x < 0) | (y < 0) | (x > width) | (y > height)).sum())
    if outside:
        swapped = ((slide.places >= 0) & (slide.places <= (height, width))).all()
        raise CoordinatesError(
            "places",
            expected=f"places on the image, 0 to {width:.0f} and 0 to {height:.0f} micrometres",
            found=f"{outside} of {len(slide)} outside (x {x.min():.0f} to {x.max():.0f}, "
            f"y {y.min():.0f} to {y.max():.0f})",
            hint="x and y look swapped" if swapped else "check that they are in pixels of this very image, and mpp",
        )
    if slide.total is not None and slide.counts is not None:
        short = slide.total + 0.5 < np.asarray(slide.counts.sum(axis=1, dtype=np.float64)).ravel()
        if not np.isfinite(slide.total).all() or short.any():
            raise CountsError(
                "total",
                expected="totals over all genes, at least the sum of the counts given",
                found=f"NaN, or totals below that sum, in {int((short | ~np.isfinite(slide.total)).sum())} bins",
            )
    on = on_tissue(*tissue_mask(slide.image), slide.places)
    off = int((~on).sum())
    if off > _MANY_OFF_TISSUE * len(slide):
        sentence = (
            f"{off} of {len(slide)} places lie off the tissue: draw stgnn.pl.slide to see whether they fit the image"
        )
        slide = replace(slide, notes=(*slide.notes, sentence))
    return replace(slide, in_tissue=slide.in_tissue & on)


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


def aggregate(slide: Slide, um: float) -> Slide:
    """Sum the bins of a slide into coarser square ones; see :func:`stgnn.data.levels.assign` for the operator.

    Parameters
    ----------
    slide
        The fine bins.
    um
        Side of the coarse bins in micrometres.

    Returns
    -------
    Slide
        Counts and totals are sums, without any rounding. A coarse bin lies on tissue if half of its bins do; it is of
        the block that all of its bins are of, else of none; it is a guard if any of its bins is or if blocks meet in
        it. ``rows`` number the coarse bins.

    Raises
    ------
    OptionError
        If the squares are smaller than the bins.
    """
    operator, places, squares = assign(slide.places, um, slide.width_um, slide.grid)
    n, size = len(places), np.asarray(operator.sum(axis=1)).ravel()
    first = slide.block[operator.indices[operator.indptr[:-1]]]
    parent = np.repeat(np.arange(n), np.diff(operator.indptr))
    mixed = np.zeros(n, dtype=bool)
    mixed[parent[slide.block[operator.indices] != first[parent]]] = True
    return replace(
        slide,
        places=places,
        width_um=float(um),
        round=False,
        counts=None if slide.counts is None else (operator @ slide.counts).tocsr(),
        total=None if slide.total is None else operator.astype(np.float64) @ slide.total,
        names=np.array([f"{um:g}um_{row}_{column}" for row, column in squares], dtype=object),
        in_tissue=operator @ slide.in_tissue.astype(np.float32) * 2 >= size,
        block=np.where(mixed, -1, first),
        guard=mixed | (operator @ slide.guard.astype(np.float32) > 0),
        rows=np.arange(n),
        notes=(*slide.notes, f"{number_of(len(slide), 'bin')} summed into {n} of {um:g} um"),
        grid=squares,
    )


def merge_genes(counts: sp.csr_matrix, names: np.ndarray) -> tuple[sp.csr_matrix, np.ndarray, list[str]]:
    """Counts of genes with unique names, those of equal name summed; and notes."""
    raw = gene_names.strip_versions(names)
    counts, genes, _ = gene_names.merge_duplicates(counts, raw)
    repeats = len(raw) - len(genes)
    notes = [f"counts of {number_of(repeats, 'repeated gene name')} summed"] if repeats else []
    return counts, genes, notes


def same_mpp(*told: tuple[str, float | None]) -> float | None:
    """Micrometres per pixel by whoever tells them; refuses two that differ by more than 2 %.

    Examples
    --------
    >>> same_mpp(("mpp", None), ("the source", 0.5))
    0.5
    """
    known = [(who, mpp) for who, mpp in told if mpp is not None]
    for who, mpp in known[1:]:
        if abs(mpp - known[0][1]) > 0.02 * mpp:
            raise InputError(
                "mpp",
                expected=f"the {mpp:.4g} micrometres per pixel by {who}",
                found=f"{known[0][1]:.4g} by {known[0][0]}",
                hint="leave mpp out if the source is right",
            )
    return known[0][1] if known else None
