"""Scores of predicted labels, of their confidence, and of the decision not to answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped


def scored_cells(
    truth: Shaped[np.ndarray, " cells"], types: Sequence[str], min_cells: int = 5
) -> tuple[Bool[np.ndarray, " cells"], list[tuple[str, int]]]:
    """Choose the cells to score: those whose true type the reference has, unless the type is too rare to judge.

    Parameters
    ----------
    truth
        True type of each cell (cells,).
    types
        Types that the reference has.
    min_cells
        A type with fewer cells than this is left out.

    Returns
    -------
    mask
        True for a cell to score (cells,), bool.
    left_out
        Each type left out with its number of cells, types ascending.

    Examples
    --------
    >>> mask, left_out = scored_cells(np.array(["a", "a", "b", "c", "c"]), types=["a", "b"], min_cells=2)
    >>> mask.tolist(), left_out
    ([True, True, False, False, False], [('b', 1), ('c', 2)])
    """
    names, code, count = np.unique(truth, return_inverse=True, return_counts=True)
    scored = np.isin(names, list(types)) & (count >= min_cells)
    return scored[code], [(str(names[i]), int(count[i])) for i in np.flatnonzero(~scored)]


def accuracy(truth: Shaped[np.ndarray, " cells"], predicted: Shaped[np.ndarray, " cells"]) -> float:
    """Share of cells given their true type; from 0 to 1, higher is better.

    Parameters
    ----------
    truth, predicted
        True and predicted type of each scored cell (cells,); "unknown" counts as wrong.

    Returns
    -------
    float
        The share.

    Raises
    ------
    ValueError
        If there is no cell, or the arrays differ in length.

    Examples
    --------
    >>> accuracy(np.array(["a", "a", "b", "b"]), np.array(["a", "b", "b", "unknown"]))
    0.5
    """
    _check_pair(truth, predicted, "predicted")
    return float(np.mean(np.asarray(truth) == np.asarray(predicted)))


def macro_f1(
    truth: Shaped[np.ndarray, " cells"], predicted: Shaped[np.ndarray, " cells"], classes: Sequence[str]
) -> float:
    r"""Mean over classes of the F1 score; from 0 to 1, higher is better; rare and common classes weigh the same.

    .. math:: F_1 = \frac{2\,TP}{2\,TP + FP + FN}

    Parameters
    ----------
    truth, predicted
        True and predicted type of each scored cell (cells,).
    classes
        Classes to average over: those of the scored cells. A class that is only ever predicted is no part of the mean,
        but each such cell is a miss of its true class.

    Returns
    -------
    float
        The mean.

    Raises
    ------
    ValueError
        If there is no cell or no class, or the arrays differ in length.

    Examples
    --------
    >>> truth, predicted = np.array(["a", "a", "a", "b"]), np.array(["a", "a", "c", "b"])
    >>> macro_f1(truth, predicted, classes=["a", "b"])
    0.9
    """
    return _f1(truth, predicted, classes, "macro")


def weighted_f1(
    truth: Shaped[np.ndarray, " cells"], predicted: Shaped[np.ndarray, " cells"], classes: Sequence[str]
) -> float:
    """Mean over classes of the F1 score, weighted by their number of cells; from 0 to 1, higher is better.

    Parameters
    ----------
    truth, predicted
        True and predicted type of each scored cell (cells,).
    classes
        Classes to average over: those of the scored cells.

    Returns
    -------
    float
        The weighted mean.

    Raises
    ------
    ValueError
        If there is no cell or no class, or the arrays differ in length.

    Examples
    --------
    >>> truth, predicted = np.array(["a", "a", "a", "b"]), np.array(["a", "a", "c", "b"])
    >>> round(weighted_f1(truth, predicted, classes=["a", "b"]), 2)
    0.85
    """
    return _f1(truth, predicted, classes, "weighted")


def rejection_auroc(rejection: Float[np.ndarray, " cells"], is_unknown: Bool[np.ndarray, " cells"]) -> float:
    """Chance that a cell of a type without reference is rejected more strongly than one with.

    The area under the receiver operating characteristic; from 0 to 1, higher is better, 0.5 is chance.

    Parameters
    ----------
    rejection
        Rejection score of each cell (cells,), higher for less known.
    is_unknown
        True where the reference lacks the cell's true type (cells,).

    Returns
    -------
    float
        The area.

    Raises
    ------
    ValueError
        If all cells are known, or none is.

    Examples
    --------
    >>> rejection_auroc(np.array([0.1, 0.4, 0.3, 0.9]), np.array([False, False, True, True]))
    0.75
    """
    from sklearn.metrics import roc_auc_score

    _check_pair(rejection, is_unknown, "is_unknown")
    if np.all(is_unknown) or not np.any(is_unknown):
        raise ValueError("is_unknown: expected both known and unknown cells; found one kind only")
    return float(roc_auc_score(is_unknown, rejection))


def reliability_curve(
    confidence: Float[np.ndarray, " cells"], correct: Bool[np.ndarray, " cells"], bins: int = 15
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"], Int[np.ndarray, " bins"]]:
    """Mean confidence against accuracy in bins of equal mass; a calibrated model lies on the diagonal.

    Parameters
    ----------
    confidence
        Confidence in each prediction (cells,), 0 to 1.
    correct
        Whether it was right (cells,).
    bins
        Number of bins, cut at quantiles of the confidence; equal confidences share a bin, so there can be fewer.

    Returns
    -------
    confidence
        Mean confidence of each bin (bins,), ascending.
    accuracy
        Share of right predictions in each bin (bins,).
    count
        Number of cells in each bin (bins,).

    Raises
    ------
    ValueError
        If there is no cell, the arrays differ in length, or a confidence lies outside 0 to 1.

    Examples
    --------
    >>> confidence, correct = np.array([0.2, 0.4, 0.8, 1.0]), np.array([False, True, True, True])
    >>> [column.tolist() for column in reliability_curve(confidence, correct, bins=2)]
    [[0.30000000000000004, 0.9], [0.5, 1.0], [2, 2]]
    """
    _check_confidence(confidence, correct)
    edges = np.quantile(confidence, np.arange(1, bins) / bins)
    _, bin_, count = np.unique(np.searchsorted(edges, confidence, "right"), return_inverse=True, return_counts=True)
    return np.bincount(bin_, confidence) / count, np.bincount(bin_, correct) / count, count


def expected_calibration_error(
    confidence: Float[np.ndarray, " cells"], correct: Bool[np.ndarray, " cells"], bins: int = 15
) -> float:
    r"""Mean gap between confidence and accuracy over bins of equal mass; from 0 to 1, lower is better.

    .. math:: \sum_b \frac{n_b}{n} \left| \mathrm{acc}_b - \mathrm{conf}_b \right|

    Parameters
    ----------
    confidence
        Confidence in each prediction (cells,), 0 to 1.
    correct
        Whether it was right (cells,).
    bins
        Number of bins of :func:`reliability_curve`.

    Returns
    -------
    float
        The mean gap.

    Raises
    ------
    ValueError
        If there is no cell, the arrays differ in length, or a confidence lies outside 0 to 1.

    Examples
    --------
    >>> expected_calibration_error(np.array([0.75, 0.75, 0.75, 0.75]), np.array([True, True, False, False]))
    0.25
    """
    mean, share, count = reliability_curve(confidence, correct, bins)
    return float(np.average(np.abs(mean - share), weights=count))


def risk_coverage(
    confidence: Float[np.ndarray, " cells"], correct: Bool[np.ndarray, " cells"]
) -> tuple[Float[np.ndarray, " cells"], Float[np.ndarray, " cells"]]:
    """Share of errors among the most confident cells, against the share of cells that are answered.

    Parameters
    ----------
    confidence
        Confidence in each prediction (cells,).
    correct
        Whether it was right (cells,).

    Returns
    -------
    coverage
        Share of cells answered (cells,), 1 / cells to 1.
    risk
        Share of errors among them (cells,), 0 to 1, lower is better; its expectation where confidences are equal.

    Raises
    ------
    ValueError
        If there is no cell, or the arrays differ in length.

    Examples
    --------
    >>> coverage, risk = risk_coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, False]))
    >>> coverage.tolist(), risk.round(2).tolist()
    ([0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.33, 0.5])
    """
    _check_pair(confidence, correct, "correct")
    _, group, count = np.unique(-np.asarray(confidence), return_inverse=True, return_counts=True)
    # Equal confidences share their errors evenly: the order of the cells in the input must not matter.
    error = np.bincount(group, ~np.asarray(correct, dtype=bool)) / count
    answered = np.arange(1, len(group) + 1)
    return answered / len(group), np.cumsum(np.repeat(error, count)) / answered


def area_under_risk_coverage(confidence: Float[np.ndarray, " cells"], correct: Bool[np.ndarray, " cells"]) -> float:
    """Mean risk over all coverages; from 0 to 1, lower is better; a useless confidence scores the error rate.

    Parameters
    ----------
    confidence
        Confidence in each prediction (cells,).
    correct
        Whether it was right (cells,).

    Returns
    -------
    float
        The mean of :func:`risk_coverage`'s risk.

    Raises
    ------
    ValueError
        If there is no cell, or the arrays differ in length.

    Examples
    --------
    >>> area_under_risk_coverage(np.array([0.5, 0.5, 0.5, 0.5]), np.array([True, True, True, False]))
    0.25
    """
    return float(risk_coverage(confidence, correct)[1].mean())


def _f1(truth: np.ndarray, predicted: np.ndarray, classes: Sequence[str], average: str) -> float:
    from sklearn.metrics import f1_score

    _check_pair(truth, predicted, "predicted")
    if len(classes) == 0:
        raise ValueError("classes: expected at least one; found none")
    return float(f1_score(truth, predicted, labels=list(classes), average=average, zero_division=0.0))


def _check_pair(first: np.ndarray, second: np.ndarray, argument: str) -> None:
    if len(first) == 0 or len(first) != len(second):
        raise ValueError(f"{argument}: expected one value per cell, at least one cell; found {len(second)}")


def _check_confidence(confidence: np.ndarray, correct: np.ndarray) -> None:
    _check_pair(confidence, correct, "correct")
    if not (np.min(confidence) >= 0 and np.max(confidence) <= 1):
        raise ValueError("confidence: expected values from 0 to 1; found others")
