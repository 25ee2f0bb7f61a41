"""Stand-in for a slide's image, kept in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


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
