"""Scores of predictions, as pure functions of arrays; each docstring gives the range and the better direction."""

from stgnn.metrics.counts import (
    deviance_explained,
    expected_log1p,
    log1p_counts,
    log1p_normalised,
    noise_ceiling,
    share_of_ceiling,
)
from stgnn.metrics.expression import GeneScores, gene_pearson, gene_spearman, pooled_pearson, spot_gain, spot_pearson
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
from stgnn.metrics.misfit import calibration_slope, consistency_error, mae, mse, skill
from stgnn.metrics.patients import Comparison, Interval, bootstrap, mean_over, paired, patient_means
from stgnn.metrics.pattern import moran, moran_ratio, spatial_genes, ssim_grid
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
    "Comparison",
    "GeneScores",
    "Interval",
    "accuracy",
    "area_under_risk_coverage",
    "bootstrap",
    "calibration_slope",
    "chaos",
    "composition_correlation",
    "consistency_error",
    "deviance_explained",
    "expected_calibration_error",
    "expected_log1p",
    "gene_pearson",
    "gene_spearman",
    "homophily",
    "jensen_shannon",
    "log1p_counts",
    "log1p_normalised",
    "macro_f1",
    "mae",
    "mean_over",
    "moran",
    "moran_ratio",
    "mse",
    "neighbourhood_preservation",
    "noise_ceiling",
    "paired",
    "pas",
    "patient_means",
    "pearson",
    "pooled_pearson",
    "rejection_auroc",
    "reliability_curve",
    "risk_coverage",
    "rmse",
    "scored_cells",
    "share_of_ceiling",
    "skill",
    "spatial_coherence",
    "spatial_genes",
    "spearman",
    "spot_gain",
    "spot_pearson",
    "ssim_grid",
    "weighted_f1",
]
