"""Correlation of predicted with measured expression, gene by gene and spot by spot.

The primary score is Pearson's correlation of each gene within each slide, averaged over genes, then slides, then
patients. A correlation of each spot across genes says little: a constant profile scores high on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stgnn.metrics.values import _check_shapes, pearson

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

_BLOCK = 2**19  # numbers in a block of rows: 4 MB as float64, so that temporary arrays stay in reach of the cache


@dataclass(frozen=True, eq=False)
class GeneScores:
    """A score of each gene in each slide; NaN where the truth is constant, which is left out and counted.

    Parameters
    ----------
    by_slide
        Scores (slides, genes).
    slides
        The slide of each row (slides,), ascending.
    """

    by_slide: Float[np.ndarray, "slides genes"]
    slides: Shaped[np.ndarray, " slides"]

    @property
    def per_gene(self) -> Float[np.ndarray, " genes"]:
        """Mean over slides (genes,); NaN for a gene that is constant in all of them."""
        return _mean(self.by_slide, axis=0)

    @property
    def left_out(self) -> int:
        """Number of pairs of a gene and a slide that are left out."""
        return int(np.isnan(self.by_slide).sum())

    @property
    def mean(self) -> float:
        """Mean over genes, then over slides; see :func:`mean_over` where patients have several slides."""
        return float(_mean(_mean(self.by_slide, axis=1), axis=0))


def gene_pearson(
    truth: Float[np.ndarray, "spots genes"],
    predicted: Float[np.ndarray, "spots genes"],
    slide: Shaped[np.ndarray, " spots"],
) -> GeneScores:
    """Pearson correlation of each gene over the spots of each slide; from -1 to 1, higher is better.

    A prediction that is constant within a slide scores 0 there, whatever it says between slides.

    Parameters
    ----------
    truth, predicted
        True and predicted values (spots, genes), dense.
    slide
        Slide of each spot (spots,).

    Returns
    -------
    GeneScores
        Scores (slides, genes); NaN where the truth is constant.

    Raises
    ------
    ValueError
        If the shapes differ, there is no value, or a value is NaN or infinite.

    Examples
    --------
    >>> truth = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 5.0], [0.0, 6.0]])
    >>> scores = gene_pearson(truth, 2 * truth + 1, np.array(["a", "a", "b", "b"]))
    >>> scores.by_slide.round(6).tolist(), scores.left_out
    ([[1.0, nan], [1.0, 1.0]], 1)
    """
    slides, true, guess, both = _moments(truth, predicted, slide)
    varies = (true > 0) & (guess > 0)
    length = np.sqrt(np.where(varies, true, 1.0)) * np.sqrt(np.where(varies, guess, 1.0))
    scores = np.where(varies, both / length, 0.0).clip(-1, 1)
    return GeneScores(np.where(true > 0, scores, np.nan), slides)


def gene_spearman(
    truth: Float[np.ndarray, "spots genes"],
    predicted: Float[np.ndarray, "spots genes"],
    slide: Shaped[np.ndarray, " spots"],
) -> GeneScores:
    """Spearman rank correlation of each gene over the spots of each slide; from -1 to 1, higher is better.

    Parameters and returns are those of :func:`gene_pearson`.

    Raises
    ------
    ValueError
        If the shapes differ, there is no value, or a value is NaN or infinite.

    Examples
    --------
    >>> truth = np.array([[0.0], [1.0], [2.0]])
    >>> gene_spearman(truth, np.exp(9 * truth), np.zeros(3)).by_slide.round(6).tolist()
    [[1.0]]
    """
    from scipy.stats import rankdata

    _check_spots(truth, predicted, slide)
    slides = np.unique(slide)
    by_slide = np.empty((len(slides), truth.shape[1]))
    for row, name in enumerate(slides):
        members = np.flatnonzero(slide == name)
        width = max(1, _BLOCK // len(members))
        for start in range(0, truth.shape[1], width):
            columns = slice(start, start + width)
            true, guess = truth[members, columns], predicted[members, columns]
            _check_finite(true, guess)
            ranks = rankdata(true, axis=0), rankdata(guess, axis=0)
            by_slide[row, columns] = gene_pearson(*ranks, np.zeros(len(members))).by_slide[0]
    return GeneScores(by_slide, slides)


def pooled_pearson(
    truth: Float[np.ndarray, "spots genes"],
    predicted: Float[np.ndarray, "spots genes"],
    fold: Shaped[np.ndarray, " spots"],
) -> GeneScores:
    """Pearson correlation of each gene over all test spots of a fold, slides pooled, as HEST-bench has it.

    From -1 to 1, higher is better. Knowing no more than each slide's mean scores high here where slides differ: read
    it beside :func:`gene_pearson`.

    Parameters
    ----------
    truth, predicted
        True and predicted values (spots, genes), dense.
    fold
        Fold in which each spot was tested (spots,).

    Returns
    -------
    GeneScores
        Scores (folds, genes), the folds in the place of slides.

    Raises
    ------
    ValueError
        If the shapes differ, there is no value, or a value is NaN or infinite.

    Examples
    --------
    >>> truth = np.array([[0.0], [0.1], [5.0], [5.1]])
    >>> mean = np.array([[0.05], [0.05], [5.05], [5.05]])
    >>> pooled_pearson(truth, mean, np.zeros(4)).mean > 0.99
    True
    """
    return gene_pearson(truth, predicted, fold)


def spot_pearson(
    truth: Float[np.ndarray, "spots genes"], predicted: Float[np.ndarray, "spots genes"]
) -> Float[np.ndarray, " spots"]:
    """Pearson correlation of each spot across genes; from -1 to 1, higher is better, but see :func:`spot_gain`.

    Parameters
    ----------
    truth, predicted
        True and predicted values (spots, genes), dense.

    Returns
    -------
    numpy.ndarray
        One correlation a spot (spots,): 0 where the prediction is the same for all genes, NaN where the truth is.

    Raises
    ------
    ValueError
        If the shapes differ, or there is no value.

    Examples
    --------
    >>> spot_pearson(np.array([[0.0, 1.0, 2.0]]), np.array([[1.0, 2.0, 3.0]])).round(6).tolist()
    [1.0]
    """
    _check_shapes(truth, predicted)
    rows = _row_blocks(np.arange(len(truth)), truth.shape[1])
    return np.concatenate([pearson(truth[block].T, predicted[block].T) for block in rows])


def spot_gain(
    truth: Float[np.ndarray, "spots genes"],
    predicted: Float[np.ndarray, "spots genes"],
    baseline: Float[np.ndarray, " genes"],
) -> Float[np.ndarray, " spots"]:
    """Correlation of each spot across genes beyond that of a constant profile; from -2 to 2, 0 is no gain.

    Parameters
    ----------
    truth, predicted
        True and predicted values (spots, genes), dense.
    baseline
        Mean of each gene over the training spots (genes,).

    Returns
    -------
    numpy.ndarray
        The gain of each spot (spots,).

    Raises
    ------
    ValueError
        If the shapes differ, or there is no value.

    Examples
    --------
    >>> truth = np.array([[0.0, 1.0, 3.0]])
    >>> spot_gain(truth, truth, np.array([0.0, 2.0, 1.0])).round(3).tolist()
    [0.673]
    """
    return spot_pearson(truth, predicted) - spot_pearson(truth, _constant(baseline, truth))


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is not NaN; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    return np.where(count, np.where(known, values, 0.0).sum(axis=axis), np.nan) / np.maximum(count, 1)


def _row_blocks(rows: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Row numbers in blocks that hold about ``_BLOCK`` values of ``width`` columns."""
    step = max(1, _BLOCK // max(1, width))
    return (rows[start : start + step] for start in range(0, len(rows), step))


def _total(term: Callable[[np.ndarray], np.ndarray], n: int, width: int) -> float:
    """Sum of ``term(rows)`` over all rows, block by block in float64."""
    return float(sum(term(rows).sum(dtype=np.float64) for rows in _row_blocks(np.arange(n), width)))


def _moments(truth: np.ndarray, predicted: np.ndarray, slide: np.ndarray) -> tuple[np.ndarray, ...]:
    """Slides, and per slide and gene the centred sums of squares of truth, of prediction, and of their product.

    A sum of squares is exactly 0 where the values are constant but for rounding. Values are taken relative to the
    slide's first row, which makes one pass enough and a constant exact.
    """
    _check_spots(truth, predicted, slide)
    slides, code = np.unique(slide, return_inverse=True)
    out = np.zeros((3, len(slides), truth.shape[1]))
    order = np.argsort(code, kind="stable")
    for row, members in enumerate(np.split(order, np.cumsum(np.bincount(code))[:-1])):
        first = truth[members[0]].astype(np.float64), predicted[members[0]].astype(np.float64)
        sums, squares = np.zeros((2, truth.shape[1])), np.zeros((3, truth.shape[1]))
        with np.errstate(invalid="ignore"):  # infinity less infinity; found below
            for rows in _row_blocks(members, truth.shape[1]):
                t, p = truth[rows] - first[0], predicted[rows] - first[1]
                sums += t.sum(axis=0), p.sum(axis=0)
                squares += [np.einsum("ij,ij->j", a, b) for a, b in ((t, t), (p, p), (t, p))]
            _check_finite(squares)
        n = len(members)
        out[:, row] = squares - np.stack([sums[0] ** 2, sums[1] ** 2, sums[0] * sums[1]]) / n
        for which in (0, 1):
            size = np.maximum(n * first[which] ** 2, squares[which])
            out[which, row][out[which, row] <= 1e-24 * size] = 0.0
    return slides, *out


def _check_spots(truth: np.ndarray, predicted: np.ndarray, slide: np.ndarray) -> None:
    _check_shapes(truth, predicted)
    if np.shape(slide) != (len(truth),):
        raise ValueError(f"slide: expected one for each of {len(truth)} spots; found shape {np.shape(slide)}")


def _check_finite(*values: np.ndarray | float) -> None:
    """Refuse NaN and infinity, in the values or in what was summed from them."""
    if not all(np.isfinite(one).all() for one in values):
        raise ValueError("predicted: expected finite values, and finite truth; found NaN or infinity")


def _constant(baseline: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Prediction of the same profile everywhere, in the shape of the truth."""
    if np.shape(baseline) != truth.shape[1:]:
        raise ValueError(f"baseline: expected one value for each of {truth.shape[1]} genes; found {np.shape(baseline)}")
    return np.broadcast_to(baseline, truth.shape)
