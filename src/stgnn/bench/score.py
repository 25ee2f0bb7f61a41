"""All scores of one answer: numbers for the table, and details for the figures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn import metrics
from stgnn.bench.tasks import MIN_CELLS

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped

_COVERAGES = 20


@dataclass(frozen=True)
class Answer:
    """What a method said of each query cell.

    Parameters
    ----------
    best
        Its best type (cells,), text, whether or not it would rather call the cell unknown.
    confidence
        Of that type (cells,); 0 to 1 where it is a probability.
    rejection
        Score (cells,), high where the reference seems to have no answer.
    unknown
        Whether the cell is called unknown (cells,).
    calibrated
        Whether the confidence is meant as a probability; if not, its calibration is not scored.
    """

    best: Shaped[np.ndarray, " cells"]
    confidence: Float[np.ndarray, " cells"]
    rejection: Float[np.ndarray, " cells"]
    unknown: Bool[np.ndarray, " cells"]
    calibrated: bool = True


def score(
    truth: Shaped[np.ndarray, " cells"],
    answer: Answer,
    types: list[str],
    coords: Float[np.ndarray, "cells d"] | None = None,
    section: Int[np.ndarray, " cells"] | None = None,
    without: Sequence[str] = (),
) -> tuple[dict[str, float], dict[str, Any]]:
    """Compare an answer with the truth.

    Parameters
    ----------
    truth
        True type of each cell (cells,), text; empty where there is none to score.
    answer
        What a method said of the same cells.
    types
        Types that the reference has.
    coords
        Coordinates (cells, d); None to leave out the scores of space.
    section
        Code of the section of each cell (cells,); None for one section.
    without
        Types that were taken out of the reference. They may be few among all that it lacks, some of which only bear
        another name there; so how they are rejected is scored by itself, too.

    Returns
    -------
    scores : dict
        Numbers by name; those that are not defined for the task are left out.
    details : dict
        Plain values: confusion matrix, reliability curve, risk against coverage, F1 of each type.

    Raises
    ------
    ValueError
        If no cell can be scored.

    Examples
    --------
    >>> truth = np.array(["a"] * 5 + ["b"] * 5)
    >>> answer = Answer(truth, np.full(10, 0.9), np.full(10, 0.1), np.zeros(10, dtype=bool))
    >>> scores, details = score(truth, answer, ["a", "b"])
    >>> scores["accuracy"], details["confusion"]["counts"]
    (1.0, [[5, 0], [0, 5]])
    """
    judged = truth != ""
    scored = metrics.scored_cells(truth, types, MIN_CELLS)[0] & judged
    if not scored.any():
        raise ValueError(f"truth: expected a type of the reference with {MIN_CELLS} query cells or more; found none")
    classes = np.unique(truth[scored]).tolist()
    true, best = truth[scored], answer.best[scored]
    scores = {
        "accuracy": metrics.accuracy(true, best),
        "macro_f1": metrics.macro_f1(true, best, classes),
        "weighted_f1": metrics.weighted_f1(true, best, classes),
        "unknown": float(answer.unknown[judged].mean()),
    }
    certain, details = _confidence(answer.confidence[scored], true == best, answer.calibrated)
    scores |= certain
    foreign = ~np.isin(truth[judged], types)
    if foreign.any() and not foreign.all():
        scores["rejection_auroc"] = metrics.rejection_auroc(answer.rejection[judged], foreign)
    taken = np.isin(truth[judged], without)
    if taken.any() and not foreign.all():
        either = taken | ~foreign
        scores["rejection_auroc_left_out"] = metrics.rejection_auroc(answer.rejection[judged][either], taken[either])
    if coords is not None:
        section = np.zeros(len(truth), dtype=np.int64) if section is None else section
        placed = judged & np.isfinite(coords).all(axis=1)
        scores |= _space(truth[placed], answer.best[placed], coords[placed], section[placed])
    f1 = {name: metrics.macro_f1(true, best, [name]) for name in classes}
    confusion = _confusion(truth[judged], answer.best[judged], types)
    return scores, details | {"confusion": confusion, "class_f1": f1}


def _confidence(confidence: np.ndarray, right: np.ndarray, calibrated: bool) -> tuple[dict[str, float], dict[str, Any]]:
    coverage, risk = metrics.risk_coverage(confidence, right)
    at = np.unique(np.ceil(np.arange(1, _COVERAGES + 1) / _COVERAGES * len(risk)).astype(int)) - 1
    details: dict[str, Any] = {"risk_coverage": {"coverage": coverage[at].tolist(), "risk": risk[at].tolist()}}
    scores = {"area_under_risk_coverage": metrics.area_under_risk_coverage(confidence, right)}
    if calibrated and confidence.min() >= 0 and confidence.max() <= 1:
        scores["expected_calibration_error"] = metrics.expected_calibration_error(confidence, right)
        mean, share, count = metrics.reliability_curve(confidence, right)
        points = {"confidence": mean.tolist(), "accuracy": share.tolist(), "count": count.tolist()}
        details["reliability"] = points
    return scores, details


def _space(truth: np.ndarray, best: np.ndarray, coords: np.ndarray, section: np.ndarray) -> dict[str, float]:
    if np.unique(section, return_counts=True)[1].max(initial=0) < 2:
        return {}
    scores = {
        "homophily": metrics.homophily(truth, coords, section),
        "true_spatial_coherence": metrics.spatial_coherence(truth, coords, section),
        "spatial_coherence": metrics.spatial_coherence(best, coords, section),
    }
    with suppress(ValueError):  # not defined where all neighbourhoods are alike
        scores["composition_correlation"] = metrics.composition_correlation(truth, best, coords, section)
    return scores


def _confusion(truth: np.ndarray, best: np.ndarray, types: list[str]) -> dict[str, Any]:
    rows = sorted(set(truth.tolist()))
    columns = sorted(set(types) | set(best.tolist()))
    counts = np.zeros((len(rows), len(columns)), dtype=int)
    np.add.at(counts, (np.searchsorted(rows, truth), np.searchsorted(columns, best)), 1)
    return {"truth": rows, "predicted": columns, "counts": counts.tolist()}
