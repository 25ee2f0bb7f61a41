"""Small slides on disk: tissue whose colour says what is expressed, so that a model has something to learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from PIL import Image
from scipy.ndimage import gaussian_filter

MPP = 2.0
GENES = [f"Gene{i}" for i in range(12)]


def write_slide(
    folder: Path, name: str, patient: str, *, seed: int = 0, bin_um: float = 16.0, side: int = 24, blocks: bool = True
) -> Path:
    """Write NAME.h5ad and NAME.png: ``side`` squared bins; the first half of the genes follows the colour."""
    rng = np.random.default_rng(seed)
    step = round(bin_um / MPP)
    field = gaussian_filter(rng.standard_normal((side, side)), 2.0)
    field = (field - field.min()) / np.ptp(field)
    colour = np.array([205, 130, 185]) - field[..., None] * np.array([110, 70, 40])
    tissue = np.kron(colour, np.ones((step, step, 1)))
    picture = np.full((tissue.shape[0] + 80, tissue.shape[1] + 120, 3), 242.0)
    picture[40:-40, 60:-60] = tissue
    noisy = np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(folder / f"{name}.png")
    row, column = np.divmod(np.arange(side * side), side)
    slope = np.where(np.arange(len(GENES)) % 2 == 0, 2.5, -2.5) * (np.arange(len(GENES)) < 6)
    rate = np.exp(1.5 + slope * (field.ravel()[:, None] - 0.5)) * (bin_um / 16.0) ** 2
    counts = rng.poisson(rate).astype(np.float32)
    adata = AnnData(sp.csr_matrix(counts))
    adata.var_names, adata.obs_names = GENES, [f"{name}_{i}" for i in range(len(counts))]
    adata.obs["array_row"], adata.obs["array_col"] = row, column
    adata.obs["total_all_genes"] = counts.sum(axis=1) + 20.0
    adata.obs["slide"], adata.obs["patient"] = name, patient
    if blocks:
        adata.obs["fold"] = pd.Categorical(np.where(column < side // 2, "0", "1"))
        adata.obs["guard_band"] = np.abs(column + 0.5 - side / 2) < 2
    adata.obsm["spatial"] = np.column_stack([column, row]) * step + [60.0, 40.0] + step / 2
    adata.uns["spatial"] = {
        name: {
            "images": {},
            "scalefactors": {"bin_size_um": bin_um},
            "metadata": {
                "um_per_px": MPP,
                "width": picture.shape[1],
                "height": picture.shape[0],
                "image_file": f"{name}.png",
            },
        }
    }
    path = folder / f"{name}.h5ad"
    adata.write_h5ad(path)
    return path
