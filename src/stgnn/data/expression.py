"""Slides made ready to learn expression from, and what a method predicts of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from stgnn.data.schema import CountsError, GenesError, InputError, OptionError, number_of
from stgnn.data.slide import Slide, take

__all__ = ["LEAST_TOTAL", "Expression", "learnable", "measured", "share_genes", "with_total"]

LEAST_TOTAL = 20.0
"""Counts over the transcriptome below which a bin says too little to learn or to judge by."""


@dataclass(frozen=True)
class Expression:
    """What a method says of each bin of a slide.

    Parameters
    ----------
    share
        Expected share of each gene in the counts of the whole transcriptome (n, genes), float32, 0 to 1.
    total
        Expected counts over the whole transcriptome (n,), float64; they grow with the area of a bin.
    spread
        How far the views of a model differ (n,), float32: standard deviation of the log share, mean over genes; NaN for
        a method with a single view.
    details
        Plain values for ``uns``.
    """

    share: np.ndarray
    total: np.ndarray
    spread: np.ndarray
    details: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.share)

    def log1p(self, scale: float) -> np.ndarray:
        """Log of one more than the counts expected of bins with ``scale`` counts in all (n, genes), float32."""
        values = self.share * np.float32(scale)
        return np.log1p(values, out=values)  # one array of bins by genes less


def measured(slide: Slide) -> tuple[sp.csr_matrix, np.ndarray]:
    """Counts (n, genes) and totals (n,) of a slide that has passed :func:`learnable`.

    Raises
    ------
    CountsError
        If it has none.
    """
    if slide.total is None:
        raise _none_in(slide)
    return _counts(slide), slide.total


def _none_in(slide: Slide) -> CountsError:
    return CountsError("slides", expected="counts to learn from", found=f"none in slide {slide.name!r}")


def _counts(slide: Slide) -> sp.csr_matrix:
    if slide.counts is None:
        raise _none_in(slide)
    return slide.counts


def with_total(slide: Slide) -> Slide:
    """Give a slide totals, where those over the transcriptome are unknown: the sums over all genes at hand.

    To be called before genes are chosen, so that shares do not depend on the choice.

    Raises
    ------
    CountsError
        If the slide has no counts.
    """
    counts = _counts(slide)
    if slide.total is not None:
        return slide
    total = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    note = f"totals over the transcriptome unknown: those of {len(slide.genes)} genes taken"
    return replace(slide, total=total, notes=(*slide.notes, note))


def learnable(slide: Slide) -> Slide:
    """Keep the bins that one can learn from or judge by: on tissue, in no guard band, with enough counts.

    Parameters
    ----------
    slide
        With counts. Where the totals over the transcriptome are unknown, those of the genes at hand stand for them.

    Returns
    -------
    Slide
        Its good bins, with totals.

    Raises
    ------
    CountsError
        If the slide has no counts, or no good bin.
    """
    slide = with_total(slide)
    good = slide.in_tissue & ~slide.guard & (measured(slide)[1] >= LEAST_TOTAL)
    if not good.any():
        raise CountsError(
            "slides",
            expected=f"bins on tissue, in no guard band, of {LEAST_TOTAL:g} counts or more",
            found=f"none of {number_of(len(slide), 'bin')} in slide {slide.name!r}",
        )
    return take(slide, np.flatnonzero(good))


def check_distinct(genes: Sequence[str]) -> None:
    """Refuse a choice of genes that is empty or names one twice.

    Raises
    ------
    OptionError
        If it does.

    Examples
    --------
    >>> check_distinct(["Actb", "Actb"])
    Traceback (most recent call last):
    stgnn.data.schema.OptionError: genes: expected names, each once; found 'Actb' more than once
    """
    names = list(genes)
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice or not names:
        found = f"{twice[0]!r} more than once" if twice else "none"
        raise OptionError("genes", expected="names, each once", found=found)


def share_genes(slides: Sequence[Slide], genes: Sequence[str] | None = None) -> list[Slide]:
    """Bring slides to the same genes in the same order.

    Parameters
    ----------
    slides
        With counts.
    genes
        Which genes; None for all that the slides share, sorted.

    Returns
    -------
    list of Slide
        One for each.

    Raises
    ------
    InputError
        If there is no slide.
    GenesError
        If a gene asked for is missing from a slide, or the slides share none.
    """
    if not slides:
        raise InputError("slides", expected="one slide or more", found="none")
    if genes is not None:
        check_distinct(genes)
    else:
        shared = set(slides[0].genes).intersection(*(slide.genes for slide in slides[1:]))
        if not shared:
            raise GenesError("slides", expected="genes that all slides share", found="none")
        genes = sorted(shared)
    out = []
    for slide in slides:
        column = {name: number for number, name in enumerate(slide.genes)}
        missing = [gene for gene in genes if gene not in column]
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise GenesError(
                "genes", expected=f"genes of slide {slide.name!r}", found=f"{number_of(len(missing), 'other')}: {shown}"
            )
        counts = _counts(slide)[:, [column[gene] for gene in genes]]
        counts.sort_indices()
        out.append(replace(slide, counts=counts, genes=np.array(list(genes), dtype=object)))
    return out
