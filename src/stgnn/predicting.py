"""What methods that predict expression share: features of bins, targets, and groups to choose settings by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stgnn.data.expression import Expression, measured
from stgnn.data.schema import OptionError
from stgnn.data.slide import Slide
from stgnn.encoders import extract
from stgnn.metrics import log1p_normalised
from stgnn.splits import contiguous_blocks

if TYPE_CHECKING:
    from jaxtyping import Float, Int

GROUPS = 4
"""Parts that a single slide is cut into to choose settings by."""


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


def features(slides: Sequence[Slide], encoder: str) -> list[Float[np.ndarray, "n d"]]:
    """Features of every bin of every slide, kept on disk."""
    return [extract(slide.image, slide.places, encoder=encoder) for slide in slides]


def scale_of(slides: Sequence[Slide]) -> float:
    """Counts that profiles are scaled to: the median of the totals of all bins."""
    return float(np.median(np.concatenate([measured(slide)[1] for slide in slides])))


def targets(slide: Slide, scale: float) -> Float[np.ndarray, "n g"]:
    """Log of one more than the counts scaled to ``scale`` in all, dense float32."""
    return log1p_normalised(*measured(slide), scale).toarray()


def log_density(slide: Slide) -> Float[np.ndarray, " n"]:
    """Log of the counts over the transcriptome on a square micrometre."""
    return np.log(np.maximum(measured(slide)[1], 1.0) / slide.area_um2)


def expression_of(
    values: Float[np.ndarray, "n g"], density: Float[np.ndarray, " n"], slide: Slide, scale: float
) -> Expression:
    """Expression from predicted targets, which are cut off at 0, and log densities."""
    share = np.expm1(np.maximum(values, 0.0, dtype=np.float32)) / np.float32(scale)
    unknown = np.full(len(slide), np.nan, dtype=np.float32)
    return Expression(share, np.exp(density) * slide.area_um2, unknown)


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
    block, _ = contiguous_blocks(slides[0].places, GROUPS, slides[0].width_um)
    return [block]
