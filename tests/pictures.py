"""Stand-in for a slide's image, kept in memory, and a small stained slide with counts that follow its textures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stgnn.data.slides import Slide, read_slide


@dataclass(frozen=True)
class ArrayPicture:
    """Pixels of an array; ``path`` names a file only where a test needs its bytes."""

    pixels: np.ndarray
    mpp: float = 2.0
    path: Path = Path("array.png")

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    def region(self, x: float, y: float, width: float, height: float, mpp: float | None = None) -> np.ndarray:
        from PIL import Image

        left, top, columns, rows = (round(length / self.mpp) for length in (x, y, width, height))
        out = np.full((rows, columns, 3), 255, dtype=np.uint8)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + columns, self.width), min(top + rows, self.height)
        if x1 > x0 and y1 > y0:
            out[y0 - top : y1 - top, x0 - left : x1 - left] = self.pixels[y0:y1, x0:x1]
        if mpp is None or mpp == self.mpp:
            return out
        size = (round(width / mpp), round(height / mpp))
        return np.asarray(Image.fromarray(out).resize(size, Image.Resampling.BILINEAR))


def tissue(height: int = 220, width: int = 260, seed: int = 0) -> np.ndarray:
    """Pixels like tissue: pink ground, blue spots, white gaps; uint8 (height, width, 3)."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    rough = [gaussian_filter(rng.standard_normal((height, width)), sigma) for sigma in (1.5, 6)]
    spots, gaps = (field / field.std() for field in rough)
    out = np.empty((height, width, 3))
    out[:] = (225, 150, 190)
    out[spots > 1.2] = (90, 60, 140)
    out[gaps > 1.3] = (250, 248, 250)
    return np.clip(out + rng.normal(0, 6, out.shape), 0, 255).astype(np.uint8)


def places_of(picture: ArrayPicture, number: int = 60, seed: int = 1) -> np.ndarray:
    """Centres of pixels drawn at random: (number, 2) in micrometres."""
    drawn = np.random.default_rng(seed).integers(0, (picture.width, picture.height), (number, 2))
    return (drawn + 0.5) * picture.mpp


def stained_slide(folder: Path, *, side: int = 20, genes: int = 24, seed: int = 0, name: str = "stained") -> Slide:
    """Bins of 16 micrometres on three textures, each with rates of its own, denser from left to right.

    The image, an AnnData and its counts are written and read as a user's would be.
    """
    import pandas as pd
    from anndata import AnnData
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    rng, margin, um = np.random.default_rng(seed), 60, 16
    pixels = side * um + 2 * margin  # of one micrometre
    field = gaussian_filter(rng.standard_normal((pixels, pixels)), 26)
    kind = np.digitize(field, np.quantile(field, [1 / 3, 2 / 3]))
    fine = gaussian_filter(rng.standard_normal((pixels, pixels)), 2.0)
    spots = fine / fine.std() > np.array([2.0, 1.0, 1.6])[kind]
    picture = np.array([[228, 150, 190], [205, 135, 185], [235, 175, 205]], dtype=float)[kind]
    picture[spots] = (95, 65, 145)
    picture = np.clip(picture + rng.normal(0, 5, picture.shape), 0, 255).astype(np.uint8)
    Image.fromarray(picture).save(folder / f"{name}.png")

    row, column = np.divmod(np.arange(side * side), side)
    places = np.column_stack([column, row]) * um + margin + um / 2
    rates = np.random.default_rng(99).gamma(1.0, 1.0, (3, genes))  # of the textures, the same in all slides
    share = rates / rates.sum(1, keepdims=True)
    here = kind[places[:, 1].astype(int), places[:, 0].astype(int)]
    depth = 150 * (1 + column / side) * np.array([1.0, 1.5, 0.8])[here]
    counts = rng.poisson(depth[:, None] * share[here]).astype(np.float32)
    adata = AnnData(counts, obs=pd.DataFrame(index=[f"bin{i}" for i in range(len(counts))]))
    adata.var_names = [f"Gene{i:02d}" for i in range(genes)]
    adata.obsm["spatial"] = places
    return read_slide(adata, folder / f"{name}.png", mpp=1.0, name=name, width_um=float(um))
