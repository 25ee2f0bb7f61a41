"""What methods that predict expression share: features of bins, targets, and groups to choose settings by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import scipy.sparse as sp

from stgnn.data.expression import Expression, measured
from stgnn.data.schema import OptionError
from stgnn.data.slide import Slide
from stgnn.encoders import extract
from stgnn.metrics import expected_log1p, log1p_normalised
from stgnn.splits import contiguous_blocks

if TYPE_CHECKING:
    from jaxtyping import Float, Int

GROUPS = 4
"""Parts that a single slide is cut into to choose settings by."""

_NO_BUFFER_UM = 1e-9  # inner folds choose a setting, which leaks too little to give up bins for
_MOST_SPREADS = 10.0
_MOST_LOG_DENSITY = 20.0


def one_width(slides: Sequence[Slide], method: str) -> float:
    """Width that all slides share, in micrometres; refuses slides of several.

    Raises
    ------
    OptionError
        If bins of several widths are given to a method that cannot tell them apart.
    """
    widths = sorted({slide.width_um for slide in slides})
    if len(widths) > 1:
        raise OptionError(
            "slides",
            expected=f"bins of one width, for {method!r}",
            found=" and ".join(f"{width:g}" for width in widths) + " um",
        )
    return widths[0]


def same_width(slide: Slide, width_um: float, method: str) -> None:
    """Refuse bins of another width than a method was fitted with."""
    if not np.isclose(slide.width_um, width_um):
        raise OptionError(
            "slide",
            expected=f"bins of {width_um:g} um, which {method!r} was fitted with",
            found=f"{slide.width_um:g} um",
            hint="use magnet, which predicts any width",
        )


def features(slides: Sequence[Slide], encoder: str, device: str = "auto") -> list[Float[np.ndarray, "n d"]]:
    """Features of every bin of every slide, kept on disk."""
    return [extract(slide.image, slide.places, encoder=encoder, device=device) for slide in slides]


def scale_of(slides: Sequence[Slide]) -> float:
    """Counts that profiles are scaled to: the median of the totals of all bins."""
    return float(np.median(np.concatenate([measured(slide)[1] for slide in slides])))


def mean_profile(slides: Sequence[Slide]) -> tuple[Float[np.ndarray, " g"], float]:
    """Mean share of each gene (genes,), and mean counts over the transcriptome on a square micrometre."""
    counts, total, area = np.zeros(len(slides[0].genes)), 0.0, 0.0
    for slide in slides:
        own, totals = measured(slide)
        counts += np.asarray(own.sum(axis=0, dtype=np.float64)).ravel()
        total += float(totals.sum())
        area += len(slide) * slide.area_um2
    return counts / total, total / area


def targets(slide: Slide, scale: float) -> Float[np.ndarray, "n g"]:
    """Log of one more than the counts scaled to ``scale`` in all, dense float32."""
    return log1p_normalised(*measured(slide), scale).toarray()


def log_density(slide: Slide) -> Float[np.ndarray, " n"]:
    """Log of the counts over the transcriptome on a square micrometre."""
    return np.log(np.maximum(measured(slide)[1], 1.0) / slide.area_um2)


def with_density(slide: Slide, scale: float) -> Float[np.ndarray, "n outputs"]:
    """Targets of the genes, and the log density as one more column, float32."""
    return np.hstack([targets(slide, scale), log_density(slide)[:, None].astype(np.float32)])


@dataclass(frozen=True)
class Standard:
    """Scaling of features to mean 0 and variance 1 over the bins of training.

    Parameters
    ----------
    centre, spread
        Mean and standard deviation of each feature (d,), float32; the spread of a constant one is 1.
    """

    centre: Float[np.ndarray, " d"]
    spread: Float[np.ndarray, " d"]

    @classmethod
    def of(cls, values: Float[np.ndarray, "n d"]) -> Self:
        """Take mean and spread from features."""
        spread = values.std(0, dtype=np.float64)
        centre = values.mean(0, dtype=np.float64)
        return cls(centre.astype(np.float32), np.where(spread > 1e-9, spread, 1.0).astype(np.float32))

    def see(self, values: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Scale features; those far outside of what was seen in training are cut off, 10 spreads from the mean.

        Examples
        --------
        >>> Standard.of(np.array([[0.0, 5.0], [2.0, 5.0]])).see(np.array([[1.0, 7.0], [99.0, 5.0]])).tolist()
        [[0.0, 2.0], [10.0, 0.0]]
        """
        return np.clip((values - self.centre) / self.spread, -_MOST_SPREADS, _MOST_SPREADS, dtype=np.float32)


def mean_of_rows(
    values: Float[np.ndarray, "m outputs"], rows: Int[np.ndarray, "n k"]
) -> Float[np.ndarray, "n outputs"]:
    """Mean over k rows of a table for each of n, without a copy of those rows.

    Examples
    --------
    >>> mean_of_rows(np.array([[0.0], [2.0], [7.0]], dtype=np.float32), np.array([[0, 1], [1, 2]])).ravel().tolist()
    [1.0, 4.5]
    """
    n, k = rows.shape
    weight = np.full(rows.size, 1 / k, dtype=np.float32)
    return sp.csr_matrix((weight, rows.ravel(), np.arange(0, rows.size + 1, k)), shape=(n, len(values))) @ values


def expression_of(
    values: Float[np.ndarray, "n g"], density: Float[np.ndarray, " n"], slide: Slide, scale: float
) -> Expression:
    """Expression from predicted targets and log densities.

    Targets are cut off where a gene would have none or all of a bin's counts, and densities where no tissue is: on
    other slides, a line learned with hardly a penalty leads anywhere.
    """
    share = np.expm1(np.clip(values, 0.0, np.log1p(scale), dtype=np.float32)) / np.float32(scale)
    unknown = np.full(len(slide), np.nan, dtype=np.float32)
    total = np.exp(np.clip(density, -_MOST_LOG_DENSITY, _MOST_LOG_DENSITY)) * slide.area_um2
    return Expression(share, total, unknown)


def as_measured(expression: Expression, slide: Slide, scale: float) -> Float[np.ndarray, "n g"]:
    """Values to expect of :func:`targets` of a slide, float32: those of Poisson counts of the shares predicted.

    Counts are thought to be measured as deep as the slide's are, on the geometric mean: the one number taken from them,
    since no image tells how deep a slide was sequenced. How the depth varies over the slide is as predicted.
    """
    low = np.log(np.maximum(expression.total, 1e-9))
    expected = np.exp(low - low.mean() + mean_log_total(slide))
    return expected_log1p(expression.share * expected.astype(np.float32)[:, None], scale / expected)


def mean_log_total(slide: Slide) -> float:
    """How deep a slide was measured: mean log of the totals of its bins."""
    return float(np.log(np.maximum(measured(slide)[1], 1.0)).mean())


def groups_of(slides: Sequence[Slide]) -> list[Int[np.ndarray, " n"]]:
    """Group of every bin, to choose settings by: its patient; of a single patient, its block; else a part of its slide.

    Bins of one group never stand on both sides of an inner split.
    """
    patients = sorted({slide.patient for slide in slides})
    if len(patients) > 1:
        return [np.full(len(slide), patients.index(slide.patient)) for slide in slides]
    blocks = np.unique(np.concatenate([slide.block for slide in slides]))
    if len(blocks) > 1:
        return [np.searchsorted(blocks, slide.block) for slide in slides]
    if len(slides) > 1:
        return [np.full(len(slide), number) for number, slide in enumerate(slides)]
    block, _ = contiguous_blocks(slides[0].places, GROUPS, _NO_BUFFER_UM)
    return [block]
