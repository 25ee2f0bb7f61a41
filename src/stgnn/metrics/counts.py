"""Scores that start from raw counts: targets, deviance, and the ceiling that counting noise sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import scipy.sparse as sp

from stgnn.metrics.expression import GeneScores, _total, gene_pearson

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

_MANY = 12.0
_COLUMNS = 32

Counts = TypeVar("Counts", np.ndarray, sp.csr_matrix)


def log1p_counts(counts: Counts) -> Counts:
    """Target of HEST-bench: log(1 + count), in which depth is part of the pattern.

    Parameters
    ----------
    counts
        Raw counts (spots, genes), dense or CSR.

    Returns
    -------
    numpy.ndarray or scipy.sparse.csr_matrix
        Values of the same shape and kind.

    Raises
    ------
    ValueError
        If a count is negative or not finite.

    Examples
    --------
    >>> log1p_counts(np.array([[0.0, 1.0]])).round(3).tolist()
    [[0.0, 0.693]]
    """
    _check_counts(counts)
    return np.log1p(counts) if isinstance(counts, np.ndarray) else counts.log1p()


def log1p_normalised(counts: Counts, total: Float[np.ndarray, " spots"], scale: float | None = None) -> Counts:
    r"""Target without depth: :math:`\log(1 + s\, c_{ig} / t_i)`.

    Parameters
    ----------
    counts
        Raw counts (spots, genes), dense or CSR.
    total
        Counts of the full transcriptome at each spot (spots,), not of the genes at hand alone. A spot without counts
        gets zeros.
    scale
        The total to scale to; by default the median of the totals above 0. Take it from the training slides and pass
        it for the others.

    Returns
    -------
    numpy.ndarray or scipy.sparse.csr_matrix
        Values of the same shape and kind.

    Raises
    ------
    ValueError
        If a count is negative or not finite, a total lies below the sum of its counts, or ``scale`` is not above 0.

    Examples
    --------
    >>> log1p_normalised(np.array([[1.0], [1.0]]), np.array([2.0, 4.0]), scale=4.0).round(3).tolist()
    [[1.099], [0.693]]
    """
    _check_counts(counts)
    total = np.asarray(total, dtype=np.float64)
    _check_totals(counts, total)
    if scale is None:
        scale = float(np.median(total[total > 0])) if np.any(total > 0) else 1.0
    if not (scale > 0 and np.isfinite(scale)):
        raise ValueError(f"scale: expected a total above 0; found {scale}")
    factor = scale / np.where(total > 0, total, 1.0)
    if isinstance(counts, np.ndarray):
        return np.log1p(counts * factor.astype(np.result_type(counts.dtype, np.float32))[:, None])
    values = counts.tocsr().astype(np.result_type(counts.dtype, np.float32))
    values.data *= np.repeat(factor, np.diff(values.indptr)).astype(values.dtype)
    np.log1p(values.data, out=values.data)
    return values


def expected_log1p(
    mean: Float[np.ndarray, "spots genes"], factor: Float[np.ndarray, " spots"]
) -> Float[np.ndarray, "spots genes"]:
    r"""What the log of counts is on the mean, where they are Poisson: :math:`E \log(1 + f_i c_{ig})`.

    It is less than :math:`\log(1 + f_i \bar c_{ig})`, and grows with the depth of a spot even if shares do not: of few
    counts, most logs are zero. Summed over counts below a mean of 12, to second order above.

    Parameters
    ----------
    mean
        Expected counts (spots, genes).
    factor
        What the counts of each spot are multiplied by (spots,): the common total over its own.

    Returns
    -------
    numpy.ndarray
        float32 (spots, genes).

    Raises
    ------
    ValueError
        If a mean or a factor is negative or not finite.

    Examples
    --------
    >>> expected_log1p(np.array([[0.0, 0.5, 100.0]]), np.array([2.0])).astype(float).round(3).tolist()
    [[0.0, 0.484, 5.298]]
    """
    for name, values in (("mean", mean), ("factor", factor)):
        if not (np.min(values, initial=0) >= 0 and np.isfinite(np.max(values, initial=0))):
            raise ValueError(f"{name}: expected finite values of 0 or more; found others")
    out = np.empty(mean.shape, dtype=np.float32)
    f = np.asarray(factor, dtype=np.float32)[:, None]
    order = np.argsort(mean.max(axis=0, initial=0))  # genes of few counts need few terms
    for columns in np.array_split(order, max(1, len(order) // _COLUMNS)):
        rate = mean[:, columns].astype(np.float32)
        low = np.minimum(rate, _MANY)
        most = float(low.max(initial=0))
        chance, value = np.exp(-low), np.zeros_like(low)
        for k in range(1, int(most + 6 * np.sqrt(most)) + 4):
            chance *= low / k
            value += chance * np.log1p(k * f)
        spread = 1 + rate * f
        out[:, columns] = np.where(rate < _MANY, value, np.log(spread) - rate * (f / spread) ** 2 / 2)
    return out


def deviance_explained(
    counts: Float[np.ndarray, "spots genes"],
    expected: Float[np.ndarray, "spots genes"],
    baseline: Float[np.ndarray, "spots genes"],
) -> float:
    r"""Share of the Poisson deviance of a baseline that a prediction takes away; up to 1, higher is better, 0 is none.

    .. math:: 1 - D(c, \mu) / D(c, \mu_0), \qquad D(c, \mu) = 2 \sum c \log(c / \mu) - (c - \mu)

    Parameters
    ----------
    counts
        Raw counts (spots, genes), dense.
    expected
        Expected counts (spots, genes), on the scale of the counts: rate times exposure.
    baseline
        Expected counts of the baseline (spots, genes): the training mean rate times the same exposure.

    Returns
    -------
    float
        The share; below 0 where the baseline is better.

    Raises
    ------
    ValueError
        If the shapes differ, expected counts are negative, or are 0 where something was counted.

    Examples
    --------
    >>> counts = np.array([[0.0], [4.0]])
    >>> deviance_explained(counts, np.array([[1.0], [3.0]]), np.array([[2.0], [2.0]])).__round__(3)
    0.585
    """
    _check_counts(counts)
    plain = _deviance(counts, baseline, "baseline")
    if plain == 0:
        raise ValueError("baseline: expected one that errs; found none to improve on")
    return 1 - _deviance(counts, expected, "expected") / plain


def noise_ceiling(
    counts: np.ndarray | sp.csr_matrix,
    total: Float[np.ndarray, " spots"],
    slide: Shaped[np.ndarray, " spots"],
    random_state: int = 0,
    scale: float | None = None,
) -> GeneScores:
    r"""Correlation with the measured values that a perfect prediction of the rates would reach; from 0 to 1.

    Each molecule is put in one of two halves at random. Counts being Poisson given the rate, the halves are
    independent measurements of it; their correlation r, per gene and slide, gives

    .. math:: \sqrt{2 r / (1 + r)}

    the root of the reliability of the whole by Spearman and Brown. Each half is normalised by its own total, as the
    total is measured too. Near 0 the root of a clipped correlation lies too high, by about the fourth root of
    1 / spots; and as the logarithm bends more at half the depth, the formula is approximate for few counts.

    Parameters
    ----------
    counts
        Raw counts (spots, genes), whole numbers, dense or CSR.
    total
        Counts of the full transcriptome (spots,).
    slide
        Slide of each spot (spots,).
    random_state
        Seed of the split.
    scale
        As for :func:`log1p_normalised`.

    Returns
    -------
    GeneScores
        Ceilings (slides, genes); NaN where nothing was counted.

    Raises
    ------
    ValueError
        If counts are not whole numbers, or a total lies below the sum of its counts.

    Examples
    --------
    >>> counts = np.array([[0.0], [1e6], [2e6], [3e6]])
    >>> noise_ceiling(counts, np.full(4, 1e7), np.zeros(4)).mean > 0.999
    True
    """
    _check_counts(counts)
    total = np.asarray(total, dtype=np.float64)
    _check_totals(counts, total)
    whole = sp.csr_matrix(counts)
    if np.any(whole.data != np.rint(whole.data)) or np.any(total != np.rint(total)):
        raise ValueError("counts: expected whole numbers, and whole totals, to split; found others")
    rng = np.random.default_rng(random_state)
    half, rest = whole.copy(), whole.copy()
    half.data = rng.binomial(whole.data.astype(np.int64), 0.5).astype(np.float32)
    rest.data = (whole.data - half.data).astype(np.float32)
    inside, of_half = np.asarray(whole.sum(axis=1)).ravel(), np.asarray(half.sum(axis=1)).ravel()
    total_half = of_half + rng.binomial(np.maximum(total - inside, 0).astype(np.int64), 0.5)
    scale = float(np.median(total[total > 0])) if scale is None and np.any(total > 0) else scale
    values = [
        log1p_normalised(part, of_part, scale).toarray()
        for part, of_part in ((half, total_half), (rest, total - total_half))
    ]
    scores = gene_pearson(values[0], values[1], slide)
    counted = np.stack([np.asarray(whole[slide == name].sum(axis=0)).ravel() > 0 for name in scores.slides])
    # A half that is constant though something was counted measures nothing: its ceiling is 0, not unknown.
    r = np.nan_to_num(scores.by_slide).clip(0, 1)
    return GeneScores(np.where(counted, np.sqrt(2 * r / (1 + r)), np.nan), scores.slides)


def share_of_ceiling(scores: GeneScores, ceiling: GeneScores) -> float:
    """Mean score over mean ceiling; 1 is all that noise allows, higher is better.

    A ratio of means: the mean of ratios would be ruled by the genes whose ceiling is next to nothing.

    Parameters
    ----------
    scores
        Scores of :func:`gene_pearson` on library-size normalised values.
    ceiling
        Ceilings of :func:`noise_ceiling` for the same slides and genes; pairs lacking in either are left out.

    Returns
    -------
    float
        The share; NaN where the ceiling is 0.

    Raises
    ------
    ValueError
        If slides or genes differ.

    Examples
    --------
    >>> share_of_ceiling(GeneScores(np.array([[0.2]]), np.zeros(1)), GeneScores(np.array([[0.4]]), np.zeros(1)))
    0.5
    """
    if scores.by_slide.shape != ceiling.by_slide.shape or np.any(scores.slides != ceiling.slides):
        raise ValueError(
            f"ceiling: expected the slides and genes of scores, {scores.by_slide.shape}; "
            f"found {ceiling.by_slide.shape} or other slides"
        )
    lacking = np.isnan(scores.by_slide) | np.isnan(ceiling.by_slide)
    reached, most = (GeneScores(np.where(lacking, np.nan, s.by_slide), s.slides).mean for s in (scores, ceiling))
    return reached / most if most > 0 else float("nan")


def _deviance(counts: np.ndarray, expected: np.ndarray, argument: str) -> float:
    from scipy.special import rel_entr

    if counts.shape != expected.shape:
        raise ValueError(f"{argument}: expected the shape of counts, {counts.shape}; found {expected.shape}")

    def term(rows: np.ndarray) -> np.ndarray:
        c, mu = counts[rows].astype(np.float64), expected[rows].astype(np.float64)
        return 2 * (rel_entr(c, mu) - (c - mu))

    deviance = _total(term, *counts.shape)
    if not np.isfinite(deviance):  # rel_entr is infinite for a negative mean, and for a mean of 0 under a count
        raise ValueError(f"{argument}: expected finite counts, above 0 where something was counted; found others")
    return deviance


def _check_counts(counts: np.ndarray | sp.csr_matrix) -> None:
    values = counts if isinstance(counts, np.ndarray) else counts.data
    if counts.ndim != 2 or (values.size and not (values.min() >= 0 and np.isfinite(values.max()))):
        raise ValueError("counts: expected a matrix (spots, genes) of finite counts, none negative; found another")


def _check_totals(counts: np.ndarray | sp.csr_matrix, total: np.ndarray) -> None:
    if total.shape != (counts.shape[0],):
        raise ValueError(f"total: expected one for each of {counts.shape[0]} spots; found shape {total.shape}")
    low = ~(total >= (1 - 1e-6) * np.asarray(counts.sum(axis=1)).ravel())
    if low.any():
        raise ValueError(f"total: expected at least the sum of the spot's counts; found less at {low.sum()} spots")
