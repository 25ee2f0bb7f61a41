"""Features of colour and texture that need no weights: stains, patterns, gradients and nuclei in windows around places.

Dense maps are made tile by tile, summed over windows by integral images and read at the places: the cost grows with
the pixels, hardly with the places, and not with the windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from stgnn.encoders import pixel_maps as maps
from stgnn.encoders.picture import Picture, check_places, check_width

SCALES_UM = (16.0, 48.0, 112.0, 240.0)
"""Widths of the square windows around a place."""

MPP = 1.0
"""Micrometres per pixel at which features are made, as near as whole pixels of the image come; never finer than it."""

TILE = 1536
_HISTOGRAMS = {
    "haematoxylin": np.arange(-0.2, 0.70, 0.08),
    "eosin": np.arange(0.0, 3.0, 0.42),
    "density": np.arange(0.0, 4.6, 0.55),
}
_WEIGHT = 16  # the whole of a pixel in a soft histogram


def colour_texture(
    picture: Picture,
    places_um: np.ndarray,
    width_um: float | None = None,
    done: Callable[[int], None] | None = None,
    *,
    tile: int = TILE,
) -> np.ndarray:
    """Features of windows centred on places.

    Parameters
    ----------
    picture
        The slide's image.
    places_um
        Places (n, 2), x and y in micrometres from the upper-left corner.
    width_um
        Width of the largest window; the smaller ones keep their ratios to it. 240 by default.
    done
        Told how many more places are done.
    tile
        Pixels a side that are worked on at a time; features do not depend on it.

    Returns
    -------
    numpy.ndarray
        float32 (n, features), named by :func:`feature_names`. None depends on which way up the tissue lies.

    Raises
    ------
    CoordinatesError
        If the places are not finite (x, y).

    Examples
    --------
    >>> colour_texture(_Blank(), np.array([[5.0, 5.0], [9.0, 9.0]])).shape[0]
    2
    """
    places = check_places(places_um)
    factor = max(1, round(MPP / picture.mpp))
    mpp = factor * picture.mpp
    stretch = (check_width(width_um) or SCALES_UM[-1]) / SCALES_UM[-1]
    widths = tuple(maps.odd(scale * stretch, mpp) for scale in SCALES_UM)
    pixels = np.floor(places / mpp + 1e-9).astype(np.int64)[:, ::-1]  # rows, columns; a place on an edge stays there
    out = np.empty((len(places), len(feature_names())), dtype=np.float32)
    tiles, first = np.unique(pixels // tile, axis=0, return_inverse=True)
    for number in range(len(tiles)):
        inside = np.flatnonzero(first.ravel() == number)
        out[inside] = _tile_features(picture, factor, pixels[inside], widths)
        if done is not None:
            done(len(inside))
    return out


@cache
def feature_names() -> tuple[str, ...]:
    """Names of the features: what, of which colour or stain, and the width of the window.

    Examples
    --------
    >>> feature_names()[0], len(feature_names())
    ('mean red @ 16um', 448)
    """
    white = np.full((2 * maps.margin(MPP) + 3,) * 2 + (3,), 255, dtype=np.uint8)
    sums = _Sums.around(np.array([[1, 1]]), (1,) * len(SCALES_UM), (3, 3))
    return tuple(name for name, _ in _features(white, sums, MPP))


def _tile_features(picture: Picture, factor: int, pixels: np.ndarray, widths: tuple[int, ...]) -> np.ndarray:
    """Features of the places in one tile, whose pixels are read with what their windows reach into."""
    mpp = factor * picture.mpp
    edge = maps.margin(mpp)
    reach = edge + max(widths) // 2
    low, high = pixels.min(0) - reach, pixels.max(0) + reach + 1
    rgb = _read(picture, factor, low, high)
    rows, columns = high - low - 2 * edge
    sums = _Sums.around(pixels - low - edge, widths, (int(rows), int(columns)))
    return np.stack([values for _, values in _features(rgb, sums, mpp)], axis=1).astype(np.float32)


def _read(picture: Picture, factor: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Pixels from row and column ``low`` to ``high``, each the mean of ``factor`` x ``factor`` of the image's own.

    Whole pixels are averaged, rather than resampled by the reader, so that all tiles lie on one grid.
    """
    step = factor * picture.mpp
    (rows, columns), (top, left) = high - low, low
    rgb = picture.region(left * step, top * step, columns * step, rows * step)
    if factor == 1:
        return rgb
    blocks = rgb.reshape(rows, factor, columns, factor, 3)
    return (blocks.sum((1, 3), dtype=np.int32) // factor**2).astype(np.uint8)


@dataclass(frozen=True)
class _Sums:
    """Where to read integral images so as to have sums over the windows around places."""

    shape: tuple[int, int]
    corners: list[list[np.ndarray]]
    areas: list[int]

    @classmethod
    def around(cls, pixels: np.ndarray, widths: tuple[int, ...], shape: tuple[int, int]) -> _Sums:
        """For places at rows and columns (n, 2) of maps of that shape."""
        corners = []
        for width in widths:
            top, left = (pixels - width // 2).T
            line = shape[1] + 1
            above, below = top * line, (top + width) * line
            corners.append([below + left + width, above + left, above + left + width, below + left])
        return cls(shape, corners, [width * width for width in widths])

    def means(self, values: np.ndarray) -> list[np.ndarray]:
        """Mean of a map (h, w) over the window of each scale around each place: float64 (n,) each."""
        return [sums / area for sums, area in zip(self.sums(values), self.areas)]

    def sums(self, values: np.ndarray) -> list[np.ndarray]:
        """Sum of a map (h, w) over the window of each scale around each place: int64 (n,) each."""
        edge = (values.shape[0] - self.shape[0]) // 2
        inner = values[edge : edge + self.shape[0], edge : edge + self.shape[1]]
        integral = np.zeros((self.shape[0] + 1, self.shape[1] + 1), dtype=np.int64)
        lines = np.cumsum(inner, axis=1, dtype=np.int64)
        maps.accumulate(lines, 0, integral[:, 1:])
        flat = integral.ravel()
        return [flat[a] + flat[b] - flat[c] - flat[d] for a, b, c, d in self.corners]

    def shares(self, codes: np.ndarray, weights: np.ndarray) -> list[list[np.ndarray]]:
        """Mean of each column of ``weights`` (codes, k), whole numbers, over the windows: k lists of float64 (n,).

        Several columns share one integral image, each in bits of its own, as far as no sum can run over.
        """
        together = max(1, 63 // int(max(self.areas) * int(weights.max())).bit_length())
        bits = 63 // together
        out: list[list[np.ndarray]] = []
        for start in range(0, weights.shape[1], together):
            part = weights[:, start : start + together]
            table = (part.astype(np.int64) << (bits * np.arange(part.shape[1]))).sum(1)
            found = self.sums(np.take(table, codes))
            for i in range(part.shape[1]):
                fields = [(sums >> (bits * i)) & ((1 << bits) - 1) for sums in found]
                out.append([field / area for field, area in zip(fields, self.areas)])
        return out


def _features(rgb: np.ndarray, sums: _Sums, mpp: float) -> Iterator[tuple[str, np.ndarray]]:
    """Every feature's name and values (n,)."""
    stains = maps.stains(rgb)
    yield from _statistics(stains, sums)
    yield from _histograms(stains, sums)
    yield from _patterns(stains, sums, mpp)
    yield from _gradients(stains, sums, mpp)
    yield from _nuclei(stains["haematoxylin"], sums, mpp)


def _named(name: str, values: list[np.ndarray], unit: float = 1.0) -> Iterator[tuple[str, np.ndarray]]:
    for scale, value in zip(SCALES_UM, values):
        yield f"{name} @ {scale:g}um", value / unit


def _statistics(stains: dict[str, np.ndarray], sums: _Sums) -> Iterator[tuple[str, np.ndarray]]:
    for name, values in stains.items():
        if name == "density":
            continue  # the sum of the colours' densities says little more than the colours
        unit = 255.0 if name in ("red", "green", "blue") else maps.ONE
        mean = sums.means(values)
        squares = sums.means(values * values)
        yield from _named(f"mean {name}", mean, unit)
        spread = [np.sqrt(np.maximum(square - m * m, 0)) for square, m in zip(squares, mean)]
        yield from _named(f"spread {name}", spread, unit)


def _histograms(stains: dict[str, np.ndarray], sums: _Sums) -> Iterator[tuple[str, np.ndarray]]:
    for name, centres in _HISTOGRAMS.items():
        low = int(centres[0] * maps.ONE)
        codes = np.clip(stains[name] - low, 0, int(centres[-1] * maps.ONE) - low)
        values = (np.arange(codes.max() + 1 if codes.size else 1) + low) / maps.ONE
        distance = np.abs(values[:, None] - centres) / (centres[1] - centres[0])
        weights = np.rint(np.clip(1 - distance, 0, 1) * _WEIGHT).astype(np.int64)
        for centre, share in zip(centres, sums.shares(codes, weights)):
            yield from _named(f"share {name} near {centre:.2f}", share, _WEIGHT)


def _patterns(stains: dict[str, np.ndarray], sums: _Sums, mpp: float) -> Iterator[tuple[str, np.ndarray]]:
    for name in ("density", "haematoxylin"):
        for radius in maps.PATTERN_RADII_UM:
            codes = maps.binary_patterns(stains[name], max(1, round(radius / mpp)))
            shares = sums.shares(codes, np.eye(maps.PATTERNS, dtype=np.int64))
            for pattern, share in enumerate(shares):  # a window of few pixels has no histogram to speak of
                yield from list(_named(f"pattern {pattern} of {name} at {radius:g}um", share))[1:]


def _gradients(stains: dict[str, np.ndarray], sums: _Sums, mpp: float) -> Iterator[tuple[str, np.ndarray]]:
    for name in ("haematoxylin", "eosin", "density"):
        for width in maps.EDGES_UM:
            across, down = maps.slopes(stains[name], maps.odd(width, mpp))
            if name != "density":
                yield from _named(f"gradient {name} at {width:g}um", sums.means(maps.steepness(across, down)), maps.ONE)
                continue
            across, down = across.astype(np.int64), down.astype(np.int64)
            xx, yy, xy = (sums.means(product) for product in (across**2, down**2, across * down))
            aligned = [np.sqrt((a - b) ** 2 + 4 * c * c) for a, b, c in zip(xx, yy, xy)]
            total = [a + b for a, b in zip(xx, yy)]
            yield from _named(f"gradient {name} at {width:g}um", [np.sqrt(t) for t in total], maps.ONE)
            yield from _named(f"alignment {name} at {width:g}um", [a / (t + 1) for a, t in zip(aligned, total)])
    for size, values in maps.bands(stains["density"], mpp):
        yield from _named(f"band of density at {size}", sums.means(values), maps.ONE)


def _nuclei(haematoxylin: np.ndarray, sums: _Sums, mpp: float) -> Iterator[tuple[str, np.ndarray]]:
    for size, (inner, around) in maps.NUCLEI_UM.items():
        width = maps.odd(inner, mpp)
        contrast = maps.contrast(haematoxylin, width, maps.odd(around, mpp))
        denser, paler = sums.means(np.maximum(contrast, 0)), sums.means(np.maximum(-contrast, 0))
        power = sums.means(contrast.astype(np.int64) ** 2)
        yield from _named(f"{size} spots denser", denser, 16 * maps.ONE)
        yield from _named(f"{size} spots paler", paler, 16 * maps.ONE)
        yield from _named(f"{size} spots power", [np.sqrt(value) for value in power], 16 * maps.ONE)
        for shade, least in maps.NUCLEUS_CONTRASTS.items():
            least = round(least * 16 * maps.ONE)
            codes = (contrast > least).astype(np.uint8) + 2 * maps.peaks(contrast, width, least)
            area, number = sums.shares(codes, np.array([[0, 0], [1, 0], [0, 1], [1, 1]]))
            yield from _named(f"{size} {shade} nuclei area", area)
            yield from _named(f"{size} {shade} nuclei per square mm", number, mpp * mpp / 1e6)


@dataclass(frozen=True)
class _Blank:
    """A white picture, for examples."""

    path: Path = Path("white.png")
    width: int = 50
    height: int = 50
    mpp: float = 1.0

    def region(self, x: float, y: float, width: float, height: float, mpp: float | None = None) -> np.ndarray:
        """White pixels."""
        mpp = mpp or self.mpp
        return np.full((round(height / mpp), round(width / mpp), 3), 255, dtype=np.uint8)
