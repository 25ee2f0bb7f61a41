"""Plots of annotated cells: each reads the documented keys only, draws on one Axes and returns it.

Every function of cells takes ``key`` (the ``key_added`` that the results were written under) and ``ax`` (the Axes to
draw on; None makes a figure). ``slide`` draws the bins of a slide over its image,
``imputation`` one gene as measured against as imputed.
"""

from stgnn.pl.cells import confidence, training_curve
from stgnn.pl.dots import markers
from stgnn.pl.imputed import imputation
from stgnn.pl.maps import spatial_confidence, spatial_types
from stgnn.pl.neighbours import neighbourhood_enrichment
from stgnn.pl.shares import composition, confusion
from stgnn.pl.slides import slide
from stgnn.pl.space import composition_along, composition_by_distance

__all__ = [
    "composition",
    "composition_along",
    "composition_by_distance",
    "confidence",
    "confusion",
    "imputation",
    "markers",
    "neighbourhood_enrichment",
    "slide",
    "spatial_confidence",
    "spatial_types",
    "training_curve",
]
