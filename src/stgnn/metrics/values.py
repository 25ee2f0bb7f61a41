"""Scores of predicted numbers: mixtures of spots, imputed genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float


def rmse(truth: Float[np.ndarray, "n m"], predicted: Float[np.ndarray, "n m"]) -> float:
    """Root of the mean squared difference; from 0 up (to 1 for proportions), lower is better.

    Parameters
    ----------
    truth, predicted
        True and predicted values of one shape (n, m), such as spots by types.

    Returns
    -------
    float
        The root, in the unit of the values.

    Raises
    ------
    ValueError
        If the shapes differ, or there is no value.

    Examples
    --------
    >>> rmse(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]))
    0.5
    """
    _check_shapes(truth, predicted)
    return float(np.sqrt(np.mean((truth - predicted) ** 2)))


def pearson(truth: Float[np.ndarray, "n m"], predicted: Float[np.ndarray, "n m"]) -> Float[np.ndarray, " m"]:
    """Pearson correlation of each column; from -1 to 1, higher is better.

    Parameters
    ----------
    truth, predicted
        True and predicted values (n, m): spots by types, or cells by genes.

    Returns
    -------
    numpy.ndarray
        One correlation a column (m,): 0 where the prediction is constant, NaN where the truth is.

    Raises
    ------
    ValueError
        If the shapes differ, or there is no value.

    Examples
    --------
    >>> truth = np.array([[0.0, 1.0, 4.0], [1.0, 0.0, 4.0], [2.0, 2.0, 4.0]])
    >>> pearson(truth, np.array([[1.0, 3.0, 1.0], [3.0, 3.0, 2.0], [5.0, 3.0, 3.0]])).round(6).tolist()
    [1.0, 0.0, nan]
    """
    _check_shapes(truth, predicted)
    true, true_varies = _unit(truth)
    guess, guess_varies = _unit(predicted)
    correlation = np.where(guess_varies, (true * guess).sum(axis=0).clip(-1, 1), 0.0)
    return np.where(true_varies, correlation, np.nan)


def spearman(truth: Float[np.ndarray, "n m"], predicted: Float[np.ndarray, "n m"]) -> Float[np.ndarray, " m"]:
    """Spearman rank correlation of each column; from -1 to 1, higher is better.

    Parameters
    ----------
    truth, predicted
        True and predicted values (n, m): cells by genes.

    Returns
    -------
    numpy.ndarray
        One correlation a column (m,): 0 where the prediction is constant, NaN where the truth is.

    Raises
    ------
    ValueError
        If the shapes differ, or there is no value.

    Examples
    --------
    >>> spearman(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [10.0], [100.0]])).round(6).tolist()
    [1.0]
    """
    from scipy.stats import rankdata

    _check_shapes(truth, predicted)
    return pearson(rankdata(truth, axis=0), rankdata(predicted, axis=0))


def jensen_shannon(truth: Float[np.ndarray, "spots types"], predicted: Float[np.ndarray, "spots types"]) -> float:
    r"""Mean over spots of the Jensen-Shannon divergence in bits; from 0 to 1, lower is better.

    .. math:: \tfrac12 D(p \,\|\, m) + \tfrac12 D(q \,\|\, m), \quad m = \tfrac12 (p + q)

    Parameters
    ----------
    truth, predicted
        True and predicted proportions (spots, types), non-negative; rows are divided by their sums.

    Returns
    -------
    float
        The mean divergence.

    Raises
    ------
    ValueError
        If the shapes differ, there is no value, a value is negative or a row is empty.

    Examples
    --------
    >>> jensen_shannon(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]]))
    0.5
    """
    from scipy.special import rel_entr

    _check_shapes(truth, predicted)
    for argument, values in (("truth", truth), ("predicted", predicted)):
        if values.min() < 0 or values.sum(axis=1).min() <= 0:
            raise ValueError(f"{argument}: expected non-negative rows with a sum above 0; found others")
    p = truth / truth.sum(axis=1, keepdims=True)
    q = predicted / predicted.sum(axis=1, keepdims=True)
    middle = (p + q) / 2
    divergence = (rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=1) / (2 * np.log(2))
    return float(divergence.mean())


def _unit(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns centred and scaled to length 1, and whether each varies."""
    values = np.asarray(values, dtype=np.float64)
    centred = values - values.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    # The mean of equal numbers can miss them by a rounding error, which is not variation.
    varies = length > 1e-12 * np.linalg.norm(values, axis=0)
    return centred / np.where(varies, length, 1.0), varies


def _check_shapes(truth: np.ndarray, predicted: np.ndarray) -> None:
    if truth.ndim != 2 or truth.size == 0 or truth.shape != predicted.shape:
        raise ValueError(f"predicted: expected the shape of truth, a matrix {truth.shape}; found {predicted.shape}")
