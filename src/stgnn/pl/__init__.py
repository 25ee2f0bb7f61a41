"""Plots of annotated cells: each reads the documented keys only, draws on one Axes and returns it.

Every function takes ``key`` (the ``key_added`` that the results were written under) and ``ax`` (the Axes to draw on;
None makes a figure).
"""

from stgnn.pl.cells import confidence, training_curve
from stgnn.pl.dots import markers
from stgnn.pl.maps import spatial_confidence, spatial_types
from stgnn.pl.shares import composition, confusion

__all__ = [
    "composition",
    "confidence",
    "confusion",
    "markers",
    "spatial_confidence",
    "spatial_types",
    "training_curve",
]
