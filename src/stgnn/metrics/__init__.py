"""Scores of predictions, as pure functions of arrays; each docstring gives the range and the better direction."""

from stgnn.metrics.labels import (
    accuracy,
    area_under_risk_coverage,
    expected_calibration_error,
    macro_f1,
    rejection_auroc,
    reliability_curve,
    risk_coverage,
    scored_cells,
    weighted_f1,
)
from stgnn.metrics.space import (
    chaos,
    composition_correlation,
    homophily,
    neighbourhood_preservation,
    pas,
    spatial_coherence,
)
from stgnn.metrics.values import jensen_shannon, pearson, rmse, spearman

__all__ = [
    "accuracy",
    "area_under_risk_coverage",
    "chaos",
    "composition_correlation",
    "expected_calibration_error",
    "homophily",
    "jensen_shannon",
    "macro_f1",
    "neighbourhood_preservation",
    "pas",
    "pearson",
    "rejection_auroc",
    "reliability_curve",
    "risk_coverage",
    "rmse",
    "scored_cells",
    "spatial_coherence",
    "spearman",
    "weighted_f1",
]
