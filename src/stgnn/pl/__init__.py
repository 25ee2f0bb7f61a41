"""Plots of annotated cells: each reads the documented keys only, draws on one Axes and returns it.

Every function of cells takes ``key`` (the ``key_added`` that the results were written under) and ``ax`` (the Axes to
draw on; None makes a figure). ``slide`` draws the bins of a slide over its image.
"""

from stgnn.pl.cells import confidence, training_curve
from stgnn.pl.dots import markers
from stgnn.pl.maps import spatial_confidence, spatial_types
from stgnn.pl.shares import composition, confusion
from stgnn.pl.slides import slide

__all__ = [
    "composition",
    "confidence",
    "confusion",
    "markers",
    "slide",
    "spatial_confidence",
    "spatial_types",
    "training_curve",
]
