"""The :class:`Slide` itself, and what every way to read one checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from stgnn.data import genes as gene_names
from stgnn.data.images import MPP_TOLERANCE, Image
from stgnn.data.schema import CoordinatesError, CountsError, InputError, number_of
from stgnn.data.tissue import on_tissue, tissue_mask

__all__ = ["Slide", "check_slide", "merge_genes", "same_mpp", "take"]

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
    laid
        Whether they were laid over the image: their places are exact, where those of an array are as good as its
        registration.
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
    laid: bool = False

    def __len__(self) -> int:
        return len(self.places)

    @property
    def area_um2(self) -> float:
        """Area of a bin or spot in square micrometres."""
        return self.width_um**2 * (math.pi / 4 if self.round else 1.0)


def take(slide: Slide, rows: np.ndarray) -> Slide:
    """Keep some bins of a slide, in the order given; its image stays whole.

    Parameters
    ----------
    slide
        The slide.
    rows
        Which bins (k,), as indices or as a mask.
    """
    return replace(
        slide,
        places=slide.places[rows],
        counts=None if slide.counts is None else slide.counts[rows],
        total=None if slide.total is None else slide.total[rows],
        names=slide.names[rows],
        in_tissue=slide.in_tissue[rows],
        block=slide.block[rows],
        guard=slide.guard[rows],
        rows=slide.rows[rows],
        grid=None if slide.grid is None else slide.grid[rows],
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
        if abs(mpp - known[0][1]) > MPP_TOLERANCE * mpp:
            raise InputError(
                "mpp",
                expected=f"the {mpp:.4g} micrometres per pixel by {who}",
                found=f"{known[0][1]:.4g} by {known[0][0]}",
                hint="leave mpp out if the source is right",
            )
    return known[0][1] if known else None
