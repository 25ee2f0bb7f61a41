"""The front doors: functions that read, fit, predict and write."""

from stgnn.annotation import annotate
from stgnn.annotation_files import annotate_file
from stgnn.histology import fit_expression, predict_expression
from stgnn.imputation import impute

__all__ = ["annotate", "annotate_file", "fit_expression", "impute", "predict_expression"]
