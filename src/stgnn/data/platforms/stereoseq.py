"""Stereo-seq: the ``.h5ad`` that stereopy and SAW write, whose coordinates count spots of the chip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stgnn.data.schema import SOURCE_KEY, SPATIAL_KEY

if TYPE_CHECKING:
    from anndata import AnnData

NAME = "Stereo-seq"
LAYOUT = "a .h5ad of stereopy, known by uns['bin_type']"

NM_PER_UNIT = 500.0
"""Distance between spots of the chip, where the file does not tell ``uns["resolution"]``."""


def looks_like(adata: AnnData) -> bool:
    """Whether AnnData is of stereopy, and not yet in micrometres."""
    return "bin_type" in adata.uns and SPATIAL_KEY in adata.obsm and SOURCE_KEY not in adata.uns


def describe(adata: AnnData) -> None:
    """Write into ``uns["stgnn_source"]`` what a unit of ``obsm["spatial"]`` is."""
    told = adata.uns.get("resolution")
    um_per_unit = float(NM_PER_UNIT if told is None else np.ravel(told)[0]) / 1000
    size = np.ravel(adata.uns.get("bin_size", 1))[0]
    adata.uns[SOURCE_KEY] = {
        "platform": NAME,
        "um_per_unit": um_per_unit,
        "scale": "" if told is not None else f"{um_per_unit:g} um between spots of the chip, as STOmics documents",
        "notes": np.array([f"{adata.uns['bin_type']}, size {size}"], dtype=object),
    }
