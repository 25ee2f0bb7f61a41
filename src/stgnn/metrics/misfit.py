"""Size of the error of predicted expression, its calibration, and agreement between resolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stgnn.metrics.expression import _check_finite, _constant, _moments, _total
from stgnn.metrics.values import _check_shapes

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


def mse(truth: Float[np.ndarray, "spots genes"], predicted: Float[np.ndarray, "spots genes"]) -> float:
    """Mean squared difference over spots and genes; from 0 up, lower is better.

    Parameters
    ----------
    truth, predicted
        True and predicted values (spots, genes), dense.

    Returns
    -------
    float
        The mean, in the squared unit of the values.

    Raises
    ------
    ValueError
        If the shapes differ, there is no value, or a value is NaN or infinite.

    Examples
    --------
    >>> mse(np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]]))
    2.5
    """
    _check_shapes(truth, predicted)
    return _mean_over(truth, lambda rows: (_wide(truth, rows) - predicted[rows]) ** 2)


def mae(truth: Float[np.ndarray, "spots genes"], predicted: Float[np.ndarray, "spots genes"]) -> float:
    """Mean absolute difference over spots and genes; from 0 up, lower is better.

    Parameters
    ----------
    truth, predicted
        True and predicted values (spots, genes), dense.

    Returns
    -------
    float
        The mean, in the unit of the values.

    Raises
    ------
    ValueError
        If the shapes differ, there is no value, or a value is NaN or infinite.

    Examples
    --------
    >>> mae(np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]]))
    1.5
    """
    _check_shapes(truth, predicted)
    return _mean_over(truth, lambda rows: np.abs(_wide(truth, rows) - predicted[rows]))


def skill(
    truth: Float[np.ndarray, "spots genes"],
    predicted: Float[np.ndarray, "spots genes"],
    baseline: Float[np.ndarray, " genes"],
) -> float:
    r"""Share of the mean predictor's squared error that a prediction takes away; up to 1, higher is better, 0 is none.

    .. math:: 1 - \mathrm{MSE} / \mathrm{MSE}_{\mathrm{mean}}

    Parameters
    ----------
    truth, predicted
        True and predicted values (spots, genes), dense.
    baseline
        Mean of each gene over the training spots (genes,).

    Returns
    -------
    float
        The share; below 0 where the mean predictor is better.

    Raises
    ------
    ValueError
        If the shapes differ, a value is NaN or infinite, or the mean predictor makes no error.

    Examples
    --------
    >>> truth = np.array([[0.0], [2.0]])
    >>> skill(truth, np.array([[0.0], [1.0]]), np.array([1.0]))
    0.5
    """
    plain = mse(truth, _constant(baseline, truth))
    if plain == 0:
        raise ValueError("baseline: expected a mean predictor that errs; found none to improve on")
    return 1 - mse(truth, predicted) / plain


def calibration_slope(
    truth: Float[np.ndarray, "spots genes"],
    predicted: Float[np.ndarray, "spots genes"],
    slide: Shaped[np.ndarray, " spots"],
) -> float:
    """Slope of truth on prediction within genes and slides; 1 is best, below 1 says more contrast than there is.

    Parameters
    ----------
    truth, predicted
        True and predicted values (spots, genes), dense.
    slide
        Slide of each spot (spots,). Truth and prediction are centred by gene and slide; one slope is fitted to all.

    Returns
    -------
    float
        The slope; NaN where the prediction is constant.

    Raises
    ------
    ValueError
        If the shapes differ, there is no value, or a value is NaN or infinite.

    Examples
    --------
    >>> truth = np.array([[0.0], [1.0], [2.0]])
    >>> calibration_slope(truth, 4 * truth + 3, np.zeros(3))
    0.25
    """
    _, _, guess, both = _moments(truth, predicted, slide)
    return float(both[guess > 0].sum() / guess.sum()) if guess.any() else float("nan")


def consistency_error(
    fine: Float[np.ndarray, "bins genes"], assign: sp.csr_matrix, coarse: Float[np.ndarray, "spots genes"]
) -> float:
    r"""Disagreement of the summed fine prediction with the direct coarse one; from 0 up, lower is better.

    .. math:: \sum |S^\top \mu_{\mathrm{fine}} - \mu_{\mathrm{coarse}}| \,/\, \sum \mu_{\mathrm{coarse}}

    Parameters
    ----------
    fine, coarse
        Expected counts of the bins (bins, genes) and of the spots (spots, genes): sums, not means or logarithms.
    assign
        Assignment (bins, spots), a 1 where a bin is part of a spot; a bin of no spot has an empty row.

    Returns
    -------
    float
        The relative error.

    Raises
    ------
    ValueError
        If the shapes do not fit, or nothing is expected of the spots.

    Examples
    --------
    >>> fine, assign = np.array([[1.0], [2.0], [5.0]]), sp.csr_matrix([[1, 0], [1, 0], [0, 1]])
    >>> consistency_error(fine, assign, np.array([[3.0], [5.0]])), consistency_error(fine, assign, np.full((2, 1), 4.0))
    (0.0, 0.25)
    """
    fitting = (len(fine), len(coarse))
    if assign.shape != fitting or fine.shape[1:] != coarse.shape[1:]:
        raise ValueError(f"assign: expected shape {fitting} and the same genes on both sides; found {assign.shape}")
    expected = float(coarse.sum(dtype=np.float64))
    if not expected > 0:
        raise ValueError(f"coarse: expected counts with a sum above 0; found {expected}")
    summed = assign.T.astype(np.float64) @ fine
    return float(np.abs(summed - coarse).sum() / expected)


def _wide(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return values[rows].astype(np.float64)


def _mean_over(truth: np.ndarray, term: Callable[[np.ndarray], np.ndarray]) -> float:
    mean = _total(term, *truth.shape) / truth.size
    _check_finite(mean)
    return mean
