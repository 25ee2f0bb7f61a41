"""All scores of predicted expression at one width of bins, and what is known of that width from training alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stgnn import metrics
from stgnn.data.expression import Expression, measured
from stgnn.metrics import GeneScores
from stgnn.predicting import as_measured, mean_log_total

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

    from stgnn.data.slide import Slide

PRIMARY = "pearson"
_LEAST_MEAN = 0.01
"""Share of the mean predictor's counts below which none are expected: who says never is infinitely wrong else."""


@dataclass(frozen=True)
class Known:
    """What training bins of one width tell, by which predictions of that width are judged.

    Parameters
    ----------
    scale
        Median of their totals, to which profiles are scaled.
    mean
        Mean of each gene's target (genes,): the constant with the least squared error.
    profile
        Share of each gene in all counts (genes,): the mean predictor.
    extent
        Largest target of each gene (genes,), for structural similarity.
    by_total
        Sign of each gene's correlation with a bin's total (genes,), as normalised target and as log counts (2, genes).
    """

    scale: float
    mean: Float[np.ndarray, " genes"]
    profile: Float[np.ndarray, " genes"]
    extent: Float[np.ndarray, " genes"]
    by_total: Float[np.ndarray, "2 genes"]


def known_of(slides: Sequence[Slide]) -> Known:
    """Learn from training slides, all of one width and made of good bins alone, what scores need."""
    counts, total = _stacked(slides)
    target = metrics.log1p_normalised(counts, total, scale := float(np.median(total)))
    x = np.log1p(total)
    signs = [np.sign(np.asarray((x - x.mean()) @ values).ravel()) for values in (target, metrics.log1p_counts(counts))]
    extent = target.max(axis=0).toarray().ravel()
    return Known(
        scale=scale,
        mean=np.asarray(target.mean(axis=0), dtype=np.float64).ravel(),
        profile=np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel() / total.sum(),
        extent=np.where(extent > 0, extent, 1.0),
        by_total=np.stack(signs),
    )


def score(
    slides: Sequence[Slide],
    predictions: Sequence[Expression],
    known: Known,
    gene_sets: Mapping[str, np.ndarray],
    random_state: int = 0,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Compare predictions of test slides, all of one width and made of good bins alone, with what was measured.

    Parameters
    ----------
    slides
        Test slides.
    predictions
        What a method says of each.
    known
        What the training slides tell of this width.
    gene_sets
        Columns of the genes of each set, by its name.
    random_state
        Seed of the split of counts that gives the noise ceiling.

    Returns
    -------
    rows : list of dict
        ``genes`` (name of the set), ``metric`` and ``value``; metrics that are not defined are left out.
    by_gene : dict
        For each slide, its patient and the list of ``pearson``, ``spearman`` and ``ceiling`` of all genes, None where a
        gene is constant.
    """
    counts, total = _stacked(slides)
    slide = np.concatenate([np.full(len(one), number) for number, one in enumerate(slides)])
    ceiling = _ceiling(counts, total, slide, known.scale, random_state)
    share = np.concatenate([one.share for one in predictions]) if len(predictions) > 1 else predictions[0].share
    expected_total = np.concatenate([one.total for one in predictions])
    truth = metrics.log1p_normalised(counts, total, known.scale).toarray()
    each = [as_measured(one, own, known.scale) for one, own in zip(predictions, slides, strict=True)]
    guess = np.concatenate(each) if len(each) > 1 else each[0]
    del each
    where = _Bins(slides, slide, np.array([one.patient for one in slides])[slide])
    # all genes as a view: of the largest slides there is room for few copies
    picks = {name: slice(None) if len(columns) == len(known.mean) else columns for name, columns in gene_sets.items()}
    found: dict[str, dict[str, float]] = {}
    by_gene: dict[str, Any] = {}
    for name, pick in picks.items():
        found[name], scores = _normalised(truth[:, pick], guess[:, pick], known, pick, where, ceiling)
        if isinstance(pick, slice):
            by_gene = scores
    del guess
    guess = np.log1p(share * np.float32(known.scale))
    for name, pick in picks.items():
        found[name]["pearson_plain"] = where.mean(metrics.gene_pearson(truth[:, pick], guess[:, pick], slide))
    del truth, guess
    truth, guess = metrics.log1p_counts(counts).toarray(), np.log1p(share * expected_total.astype(np.float32)[:, None])
    for name, pick in picks.items():
        found[name]["pearson_counts"] = where.mean(metrics.gene_pearson(truth[:, pick], guess[:, pick], slide))
        alone = _by_total(truth[:, pick], total, slide, known.by_total[1, pick])
        found[name]["total_alone_counts"] = where.mean(alone)
    del truth, guess
    dense = counts.toarray()
    for name, pick in picks.items():
        found[name]["deviance_explained"] = _deviance(dense[:, pick], share[:, pick], total, known.profile[pick])
    rows: list[dict[str, Any]] = [
        {"genes": name, "metric": metric, "value": value}
        for name, own in found.items()
        for metric, value in own.items()
    ]
    of_total = metrics.gene_pearson(np.log1p(total)[:, None], np.log1p(expected_total)[:, None], slide)
    rows.append({"genes": "all", "metric": "pearson_of_total", "value": where.mean(of_total)})
    rows.append({"genes": "all", "metric": "bins", "value": float(len(total))})
    return [row | {"value": float(row["value"])} for row in rows if np.isfinite(row["value"])], by_gene


@dataclass(frozen=True)
class _Bins:
    """Where each test bin lies."""

    slides: Sequence[Slide]
    slide: Shaped[np.ndarray, " bins"]
    patient: Shaped[np.ndarray, " bins"]

    def mean(self, scores: GeneScores) -> float:
        """Mean over genes, then slides, then patients."""
        patients = np.array([self.slides[number].patient for number in scores.slides])
        return metrics.mean_over(scores.by_slide, scores.slides, patients)


def _normalised(
    truth: Float[np.ndarray, "bins genes"],
    guess: Float[np.ndarray, "bins genes"],
    known: Known,
    columns: np.ndarray | slice,
    where: _Bins,
    ceiling: GeneScores | None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores of a set of genes on the log of library-size normalised counts; and those of each gene."""
    slide, total = where.slide, np.concatenate([measured(one)[1] for one in where.slides])
    pearson, spearman = metrics.gene_pearson(truth, guess, slide), metrics.gene_spearman(truth, guess, slide)
    depth = np.exp(np.mean([mean_log_total(one) for one in where.slides]))
    profile = metrics.expected_log1p(known.profile[None, columns] * depth, np.array([known.scale / depth]))[0]
    gain = metrics.spot_gain(truth, guess, profile)
    places = np.concatenate([one.places for one in where.slides])
    out = {
        PRIMARY: where.mean(pearson),
        "left_out": float(pearson.left_out),
        "spearman": where.mean(spearman),
        "pearson_pooled": metrics.pooled_pearson(truth, guess, np.zeros(len(truth))).mean,
        "total_alone": where.mean(_by_total(truth, total, slide, known.by_total[0, columns])),
        "spot_pearson": metrics.mean_over(metrics.spot_pearson(truth, guess), slide, where.patient),
        "spot_gain": metrics.mean_over(gain, slide, where.patient),
        "mse": metrics.mse(truth, guess),
        "mae": metrics.mae(truth, guess),
        "skill": metrics.skill(truth, guess, known.mean[columns]),
        "calibration_slope": metrics.calibration_slope(truth, guess, slide),
        "moran_ratio": metrics.moran_ratio(truth, guess, places, slide),
        "ssim": _ssim(truth, guess, known.extent[columns], where),
    }
    scores = {"pearson": pearson, "spearman": spearman}
    if ceiling is not None:
        own = GeneScores(ceiling.by_slide[:, columns], ceiling.slides)
        out |= {"ceiling": where.mean(own), "share_of_ceiling": metrics.share_of_ceiling(pearson, own)}
        scores["ceiling"] = own
    by_gene = {
        one.name: {"patient": one.patient}
        | {metric: _plain(found.by_slide[number]) for metric, found in scores.items()}
        for number, one in enumerate(where.slides)
    }
    return out, by_gene


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 5) for value in values]


def _stacked(slides: Sequence[Slide]) -> tuple[sp.csr_matrix, np.ndarray]:
    both = [measured(slide) for slide in slides]
    return sp.vstack([counts for counts, _ in both], format="csr"), np.concatenate([total for _, total in both])


def _ceiling(
    counts: sp.csr_matrix, total: np.ndarray, slide: np.ndarray, scale: float, random_state: int
) -> GeneScores | None:
    """Noise ceiling; None where counts are not whole numbers, which cannot be split."""
    if np.any(counts.data != np.rint(counts.data)) or np.any(total != np.rint(total)):
        return None
    return metrics.noise_ceiling(counts, total, slide, random_state, scale)


def _by_total(truth: np.ndarray, total: np.ndarray, slide: np.ndarray, sign: np.ndarray) -> GeneScores:
    """Score of the measured total of each bin as the one predictor of all genes, its sign from training."""
    same = np.broadcast_to(np.log1p(total)[:, None], truth.shape)
    found = metrics.gene_pearson(truth, same, slide)
    return GeneScores(found.by_slide * sign, found.slides)


def _deviance(counts: np.ndarray, share: np.ndarray, total: np.ndarray, profile: np.ndarray) -> float:
    """Deviance explained, given how deep each bin was measured."""
    counted = (profile > 0) & (counts.sum(axis=0) > 0)  # a gene without a count in training has no baseline
    if not counted.any():
        return float("nan")
    if not counted.all():
        counts, share, profile = counts[:, counted], share[:, counted], profile[counted]
    expected = np.maximum(share, (_LEAST_MEAN * profile).astype(np.float32))
    depth = total.astype(np.float32)[:, None]
    expected *= depth
    return metrics.deviance_explained(counts, expected, depth * profile.astype(np.float32))


def _ssim(truth: np.ndarray, guess: np.ndarray, extent: np.ndarray, where: _Bins) -> float:
    """Structural similarity, mean over genes, slides and patients; NaN where a slide has no grid."""
    values = []
    for number, one in enumerate(where.slides):
        if one.grid is None:
            return float("nan")
        rows = where.slide == number
        values.append(metrics.ssim_grid(truth[rows], guess[rows], one.grid, extent))
    names = np.arange(len(where.slides))
    return metrics.mean_over(np.stack(values), names, np.array([one.patient for one in where.slides]))
