"""Predicted expression as AnnData, which plots and reads like a measured slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn import __version__
from stgnn.data.expression import Expression
from stgnn.data.results import plain
from stgnn.data.schema import (
    EXPECTED_PCC_KEY,
    EXPRESSION_KEY,
    LOG1P_LAYER,
    SPATIAL_KEY,
    SPREAD_KEY,
    TOTAL_PREDICTED_KEY,
    InputError,
)
from stgnn.data.slide import Slide

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["to_anndata"]

_THUMBNAIL = 1000


def to_anndata(
    slide: Slide,
    expression: Expression,
    genes: Sequence[str] | np.ndarray,
    *,
    scale: float,
    card: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> AnnData:
    """Write what was predicted of a slide.

    Parameters
    ----------
    slide
        Bins that were predicted.
    expression
        What a method says of each of them.
    genes
        Names of the genes, in the order of ``expression.share``.
    scale
        Counts that profiles are scaled to before the logarithm.
    card
        What the model was learned from, and what correlation to expect of each gene.
    parameters
        Plain values to record.

    Returns
    -------
    anndata.AnnData
        With

        - ``X``: counts expected of each bin, float32;
        - ``layers["log1p"]``: log of one more than the counts expected of a bin with ``scale`` counts in all;
        - ``obs``: ``total_predicted``, counts expected over the transcriptome; ``stgnn_spread``, how far the views of
          the model differ, NaN for a method with one view; ``in_tissue``, ``slide``, ``patient``, and the place on the
          array where it is known;
        - ``var["expected_pcc"]``: correlation that held-out bins had in training, NaN where unknown;
        - ``obsm["spatial"]``: places in pixels of the full-resolution image;
        - ``uns["spatial"]``: image, scale and width of the bins, as scanpy and squidpy know them;
        - ``uns["stgnn_expression"]``: model card, parameters, micrometres per pixel, width of the bins, notes.

    Raises
    ------
    InputError
        If the prediction is not one of these bins and genes.
    """
    import pandas as pd
    from anndata import AnnData

    if expression.share.shape != (len(slide), len(genes)):
        expected, found = f"shape {(len(slide), len(genes))}", f"shape {expression.share.shape}"
        raise InputError("prediction.share", expected=expected, found=found)
    total = np.asarray(expression.total, dtype=np.float32)
    obs = pd.DataFrame({TOTAL_PREDICTED_KEY: total, SPREAD_KEY: expression.spread.astype(np.float32)}, slide.names)
    obs["in_tissue"] = slide.in_tissue
    for column, value in (("slide", slide.name), ("patient", slide.patient)):
        obs[column] = pd.Categorical([value] * len(slide))
    if slide.grid is not None:
        obs["array_row"], obs["array_col"] = slide.grid.T
    card = card or {}
    known = card.get("expected_pcc", [None] * len(genes))
    expected_pcc = np.array([np.nan if value is None else value for value in known], dtype=np.float32)
    adata = AnnData(
        X=expression.share * total[:, None],
        obs=obs,
        var=pd.DataFrame({EXPECTED_PCC_KEY: expected_pcc}, pd.Index([str(gene) for gene in genes])),
        layers={LOG1P_LAYER: expression.log1p(scale)},
        obsm={SPATIAL_KEY: slide.places / slide.image.mpp},
    )
    adata.uns["spatial"] = {slide.name.replace("/", "|"): _library(slide)}
    adata.uns[EXPRESSION_KEY] = {
        "card": plain({name: value for name, value in card.items() if name != "expected_pcc"}),
        "parameters": plain(parameters or {}),
        "details": plain(expression.details),
        "notes": plain(slide.notes),
        "scale": float(scale),
        "mpp": slide.image.mpp,
        "width_um": slide.width_um,
        "round": slide.round,
        "version": __version__,
    }
    return adata


def _library(slide: Slide) -> dict[str, Any]:
    """Image and scale of a slide, in the form in which scanpy, squidpy and this package read them."""
    image = slide.image
    small = image.thumbnail(_THUMBNAIL)
    width = "spot_diameter_um" if slide.round else "bin_size_um"
    return {
        "images": {"hires": small},
        "scalefactors": {
            "tissue_hires_scalef": small.shape[1] / image.width,
            "spot_diameter_fullres": slide.width_um / image.mpp,
            "microns_per_pixel": image.mpp,
            width: slide.width_um,
        },
        "metadata": {
            "um_per_px": image.mpp,
            "width": image.width,
            "height": image.height,
            "image_file": image.path.name,
            "laid": slide.laid,
        },
    }
