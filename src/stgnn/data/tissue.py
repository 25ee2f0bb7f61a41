"""Where on a slide there is tissue, by colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from stgnn.data.images import Image

__all__ = ["on_tissue", "tissue_mask"]

_SATURATION = (
    0.04,
    0.12,
)  # glass is paler than the first and stained tissue is not than the second, whatever Otsu says
_NO_COLOUR = 0.03  # an image whose most colourful pixels stay below is grey
_CLOSE_UM, _HOLE_UM, _SPECK_UM = 24.0, 150.0, 60.0  # gaps closed; sides of the largest hole filled, of the least tissue


def tissue_mask(image: Image, mpp: float = 8.0) -> tuple[np.ndarray, float]:
    """Find tissue: what is colourful (dark, where an image is grey), by Otsu's threshold.

    Gaps of cells' width are closed, holes under 150 micrometres filled, and specks under 60 micrometres left out.

    Parameters
    ----------
    image
        The slide.
    mpp
        Micrometres per pixel of the mask; not finer than the image's own.

    Returns
    -------
    tuple
        Mask, bool (h, w), and its micrometres per pixel.

    Examples
    --------
    >>> from PIL import Image as pil
    >>> import tempfile
    >>> from stgnn.data.images import open_image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     picture = pil.new("RGB", (400, 300), (240, 238, 240))
    ...     picture.paste((180, 90, 160), (100, 100, 300, 200))
    ...     picture.save(folder + "/slide.png")
    ...     mask, mpp = tissue_mask(open_image(folder + "/slide.png", mpp=2.0))
    >>> mask.shape, mpp, bool(mask[37, 50]), bool(mask[5, 5])
    ((75, 100), 8.0, True, False)
    """
    mpp = max(mpp, image.mpp)
    pixels = image.region(0, 0, *image.size_um, mpp=mpp)
    brightest = pixels.max(axis=2).astype(np.float32)
    signal = (brightest - pixels.min(axis=2)) / np.maximum(brightest, 32)  # what is black has no colour to speak of
    low, high = _SATURATION
    if np.percentile(signal, 99) < _NO_COLOUR:
        signal, low, high = 1 - brightest / 255, 0.08, 0.5
    signal = ndimage.median_filter(signal, 3)
    mask = signal > np.clip(_otsu(signal), low, high)
    radius = max(1, round(_CLOSE_UM / 2 / mpp))
    padded = np.pad(mask, radius)  # else closing eats the tissue at the image's border
    mask = ndimage.binary_closing(padded, _disc(radius))[radius:-radius, radius:-radius]
    mask = ~_without_small(~mask, (_HOLE_UM / mpp) ** 2)
    return _without_small(mask, (_SPECK_UM / mpp) ** 2), mpp


def on_tissue(mask: np.ndarray, mpp: float, places: np.ndarray) -> np.ndarray:
    """Whether places (n, 2), in micrometres, lie on the tissue; beyond the mask they do not.

    Examples
    --------
    >>> on_tissue(np.array([[False, True]]), 8.0, np.array([[4.0, 4.0], [12.0, 4.0], [20.0, 4.0]])).tolist()
    [False, True, False]
    """
    column, row = np.floor(np.asarray(places) / mpp).astype(np.int64).T
    inside = (column >= 0) & (row >= 0) & (column < mask.shape[1]) & (row < mask.shape[0])
    out = np.zeros(len(inside), dtype=bool)
    out[inside] = mask[row[inside], column[inside]]
    return out


def _otsu(values: np.ndarray) -> float:
    """Threshold between two classes as far apart as can be, relative to how they spread."""
    count, edge = np.histogram(values, bins=256)
    middle = (edge[:-1] + edge[1:]) / 2
    below, above = np.cumsum(count), np.cumsum(count[::-1])[::-1]
    mean_below = np.cumsum(count * middle) / np.maximum(below, 1)
    mean_above = (np.cumsum((count * middle)[::-1]) / np.maximum(np.cumsum(count[::-1]), 1))[::-1]
    between = below[:-1].astype(float) * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(middle[int(np.argmax(between))])


def _disc(radius: int) -> np.ndarray:
    row, column = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return row**2 + column**2 <= radius**2


def _without_small(mask: np.ndarray, least: float) -> np.ndarray:
    """Leave out connected parts of fewer pixels."""
    part, _ = ndimage.label(mask)
    large = np.bincount(part.ravel()) >= least
    large[0] = False
    return large[part]
