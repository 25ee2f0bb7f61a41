"""From scores of slides to what can be said of patients: means, intervals, paired comparisons."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stgnn.metrics.expression import _mean

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


@dataclass(frozen=True)
class Interval:
    """A mean over groups with its 95 % interval.

    Parameters
    ----------
    mean
        Mean over groups of the group means.
    low, high
        Ends of the interval.
    groups
        Number of groups that it rests on; below about ten, the interval is too narrow.
    """

    mean: float
    low: float
    high: float
    groups: int


@dataclass(frozen=True)
class Comparison:
    """A paired difference between two methods.

    Parameters
    ----------
    difference
        Mean over groups of the first less the second.
    low, high
        Ends of the 95 % interval.
    p_value
        Chance of so large a difference, of either sign, if the sign of each group's difference were random. It cannot
        fall below 2 / 2^groups: six groups are the fewest that reach 0.05.
    groups
        Number of groups.
    """

    difference: float
    low: float
    high: float
    p_value: float
    groups: int


def patient_means(
    values: Float[np.ndarray, "rows ..."], slide: Shaped[np.ndarray, " rows"], patient: Shaped[np.ndarray, " rows"]
) -> tuple[Shaped[np.ndarray, " patients"], Float[np.ndarray, " patients"]]:
    """Average over genes, then within slides, then over the slides of each patient.

    Parameters
    ----------
    values
        Scores (rows, genes) or (rows,), NaN where left out. A row is a slide (:attr:`GeneScores.by_slide`) or a spot
        (:func:`spot_pearson`).
    slide, patient
        Slide and patient of each row (rows,).

    Returns
    -------
    patients
        Patients, ascending (patients,).
    means
        Their means (patients,), range and direction those of the values; NaN where nothing is left.

    Raises
    ------
    ValueError
        If the arrays differ in length, or a slide has two patients.

    Examples
    --------
    >>> values, slide = np.array([[0.2, 0.4], [0.5, np.nan], [1.0, 1.0]]), np.array(["A1", "A2", "B1"])
    >>> names, means = patient_means(values, slide, np.array(["A", "A", "B"]))
    >>> names.tolist(), means.round(6).tolist()
    (['A', 'B'], [0.4, 1.0])
    """
    values, slide, patient = np.asarray(values, dtype=np.float64), np.asarray(slide), np.asarray(patient)
    for argument, codes in (("slide", slide), ("patient", patient)):
        if len(values) == 0 or codes.shape != values.shape[:1]:
            raise ValueError(f"{argument}: expected one for each of {len(values)} rows; found shape {codes.shape}")
    _, first, of_slide = np.unique(slide, return_index=True, return_inverse=True)
    if np.any(patient[first][of_slide] != patient):
        raise ValueError("patient: expected one patient a slide; found a slide with two")
    rows = values if values.ndim == 1 else _mean(values.reshape(len(values), -1), axis=1)
    names, of_patient = np.unique(patient[first], return_inverse=True)
    return names, _group_means(_group_means(rows, of_slide), of_patient)


def mean_over(
    values: Float[np.ndarray, "rows ..."], slide: Shaped[np.ndarray, " rows"], patient: Shaped[np.ndarray, " rows"]
) -> float:
    """Mean over genes, then slides, then patients; range and direction are those of the values.

    Every patient weighs the same, however many slides there are of it. Parameters and errors are those of
    :func:`patient_means`.

    Returns
    -------
    float
        The mean; NaN where nothing is left.

    Examples
    --------
    >>> mean_over(np.array([0.0, 0.2, 0.5]), np.array(["A1", "A2", "B1"]), np.array(["A", "A", "B"]))
    0.3
    """
    return float(_mean(patient_means(values, slide, patient)[1], axis=0))


def bootstrap(
    values: Float[np.ndarray, " rows"], groups: Shaped[np.ndarray, " rows"], n: int = 10_000, random_state: int = 0
) -> Interval:
    """Mean over groups with a 95 % interval, by drawing whole groups with replacement.

    Spots of a slide and slides of a patient are alike, so that the patient (within one slide, the block) is what is
    drawn.

    Parameters
    ----------
    values
        Scores (rows,), NaN where left out.
    groups
        Patient or block of each row (rows,).
    n
        Number of draws.
    random_state
        Seed.

    Returns
    -------
    Interval
        Percentiles 2.5 and 97.5 of the means drawn.

    Raises
    ------
    ValueError
        If the arrays differ in length, or fewer than two groups have a value.

    Examples
    --------
    >>> bootstrap(np.array([0.1, 0.3, 0.2]), np.array(["A", "B", "C"])).mean.__round__(6)
    0.2
    """
    means = _means_by_group(values, groups)
    low, high = _percentiles(means, n, np.random.default_rng(random_state))
    return Interval(float(means.mean()), low, high, len(means))


def paired(
    values_a: Float[np.ndarray, " rows"],
    values_b: Float[np.ndarray, " rows"],
    groups: Shaped[np.ndarray, " rows"],
    n: int = 10_000,
    random_state: int = 0,
) -> Comparison:
    """Compare two methods on the same slides: mean difference, 95 % interval, sign-flip test over groups.

    Parameters
    ----------
    values_a, values_b
        Scores of the two methods (rows,), row by row of the same slide; a row with a NaN in either is left out.
    groups
        Patient or block of each row (rows,).
    n
        Number of draws; where there are no more than ``n`` ways to flip the signs, all of them are tried.
    random_state
        Seed.

    Returns
    -------
    Comparison
        Above 0 where the first has the higher scores.

    Raises
    ------
    ValueError
        If the arrays differ in length, or fewer than two groups have a pair.

    Examples
    --------
    >>> better, worse = np.array([0.3, 0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.4, 0.5])
    >>> round(paired(better, worse, np.arange(4)).p_value, 6)
    0.125
    """
    if np.shape(values_a) != np.shape(values_b):
        raise ValueError(f"values_b: expected as many as values_a, {np.shape(values_a)}; found {np.shape(values_b)}")
    means = _means_by_group(np.asarray(values_a, dtype=np.float64) - values_b, groups)
    rng = np.random.default_rng(random_state)
    low, high = _percentiles(means, n, rng)
    exact = 2 ** len(means) <= n
    signs = np.array(list(itertools.product((-1, 1), repeat=len(means)))) if exact else _signs(n, len(means), rng)
    # A flip that gives the same mean but for the order of a sum counts as no smaller.
    extreme = np.abs(signs @ means) >= abs(means.sum()) * (1 - 1e-9)
    p_value = extreme.mean() if exact else (extreme.sum() + 1) / (n + 1)
    return Comparison(float(means.mean()), low, high, float(p_value), len(means))


def _signs(n: int, groups: int, rng: np.random.Generator) -> np.ndarray:
    return 2 * rng.integers(0, 2, size=(n, groups)) - 1


def _percentiles(means: np.ndarray, n: int, rng: np.random.Generator) -> tuple[float, float]:
    if n < 1:
        raise ValueError(f"n: expected 1 or more draws; found {n}")
    drawn = means[rng.integers(0, len(means), size=(n, len(means)))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _group_means(values: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Mean of the values of each code that are not NaN; NaN where there is none."""
    known = ~np.isnan(values)
    count = np.bincount(code, known)
    total = np.bincount(code, np.where(known, values, 0.0))
    return np.where(count > 0, total, np.nan) / np.maximum(count, 1)


def _means_by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or np.shape(groups) != values.shape:
        raise ValueError(f"groups: expected one for each of {len(values)} values; found shape {np.shape(groups)}")
    means = _group_means(values, np.unique(groups, return_inverse=True)[1])
    means = means[~np.isnan(means)]
    if len(means) < 2:
        raise ValueError(f"groups: expected two or more with a value; found {len(means)}")
    return means
