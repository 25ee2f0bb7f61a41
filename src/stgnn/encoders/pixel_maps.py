"""Maps of integers over the pixels of a tile: stains, gradients, local binary patterns, nuclei.

All of them are integers, so that sums over windows are exact: a feature does not depend on where a tile begins, nor on
which way up the tissue lies. Near a tile's border maps are wrong as far as ``margin`` reaches; the caller cuts it off.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

ONE = 256
"""Fixed-point value of one unit of optical density."""

RGB_FROM_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density of haematoxylin, eosin and DAB in red, green and blue (Ruifrok & Johnston 2001, as scikit-image)."""

NUCLEI_UM = {"small": (6.0, 22.0), "large": (10.0, 30.0)}
"""Widths of a nucleus and of what lies around it."""

NUCLEUS_CONTRASTS = {"pale": 0.03, "dark": 0.10}
"""How much denser in haematoxylin a nucleus is than what lies around it."""

EDGES_UM = (6.0, 14.0)
BANDS_UM = (2.0, 6.0, 14.0, 30.0, 62.0)
PATTERN_RADII_UM = (2.0, 4.0, 8.0)
PATTERNS = 10
_SMOOTH = 16  # fixed-point value of one unit of what is smoothed, on top of its own
_RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))


def odd(width_um: float, mpp: float) -> int:
    """Odd number of pixels nearest to a width.

    Examples
    --------
    >>> odd(15, 2.0), odd(16, 1.0), odd(0.5, 1.0)
    (7, 17, 1)
    """
    return 2 * max(0, round((width_um / mpp - 1) / 2)) + 1


def margin(mpp: float) -> int:
    """Pixels from a tile's border within which maps are wrong."""
    widest = max(BANDS_UM[-1], *(around for _, around in NUCLEI_UM.values()))
    return odd(widest, mpp) // 2 + odd(max(inner for inner, _ in NUCLEI_UM.values()), mpp) // 2 + 2


def stains(rgb: np.ndarray) -> dict[str, np.ndarray]:
    """Colours, stains and total optical density.

    Parameters
    ----------
    rgb
        Pixels, uint8 (h, w, 3).

    Returns
    -------
    dict
        "red", "green", "blue" (0 to 255), "haematoxylin", "eosin", "dab" and "density" (``ONE`` a unit), int32 (h, w).

    Examples
    --------
    >>> {name: int(value[0, 0]) for name, value in stains(np.full((1, 1, 3), 255, np.uint8)).items()}["density"]
    0
    """
    tables = _stain_tables()
    out = {name: rgb[..., i].astype(np.int32) for i, name in enumerate(("red", "green", "blue"))}
    for s, name in enumerate(("haematoxylin", "eosin", "dab", "density")):
        red, green, blue = (np.take(tables[s, c], rgb[..., c]) for c in range(3))
        out[name] = red + green + blue
    return out


@cache
def _stain_tables() -> np.ndarray:
    """What each value (0 to 255) of each colour adds to each stain, and to their sum: int32 (4, 3, 256)."""
    density = -np.log(np.maximum(np.arange(256), 1) / 255)  # 0 and 1 are equally black: 1 grey level is the least seen
    shares = np.vstack([np.linalg.inv(RGB_FROM_HED).T, np.ones(3)])
    return np.rint(shares[:, :, None] * density * ONE).astype(np.int32)


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over a square of ``width`` pixels, times 16, rounded down: int32 (h, w)."""
    half, out = width // 2, values
    for axis in (0, 1):
        sums = np.zeros((out.shape[0] + (axis == 0), out.shape[1] + (axis == 1)), dtype=np.int32)
        accumulate(out, axis, sums)
        moved = np.zeros(out.shape, dtype=np.int32)
        if out.shape[axis] >= width:
            ahead, behind = (sums[width:], sums[:-width]) if axis == 0 else (sums[:, width:], sums[:, :-width])
            place = slice(half, half + ahead.shape[axis])
            np.subtract(ahead, behind, out=moved[place] if axis == 0 else moved[:, place])
        out = moved
    return (out * _SMOOTH) // (width * width)


def accumulate(values: np.ndarray, axis: int, out: np.ndarray) -> None:
    """Write running sums along an axis into ``out``, which has one more place there, zero at the start."""
    if axis == 1:
        np.cumsum(values, axis=1, out=out[:, 1:], dtype=out.dtype)
        return
    for row in range(len(values)):  # row by row is ten times quicker than cumsum down the columns
        np.add(out[row], values[row], out=out[row + 1])


def _shift(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return np.roll(values, (-rows, -columns), axis=(0, 1))


def slopes(values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Differences across each pixel, along columns and rows, of smoothed values: int32 (h, w) each."""
    even = smooth(values, width)
    return _shift(even, 0, 1) - _shift(even, 0, -1), _shift(even, 1, 0) - _shift(even, -1, 0)


def steepness(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Length of the gradient: int32 (h, w)."""
    squares = columns.astype(np.float64) ** 2 + rows.astype(np.float64) ** 2
    return np.rint(np.sqrt(squares)).astype(np.int32)


def binary_patterns(values: np.ndarray, radius: int) -> np.ndarray:
    """Uniform local binary pattern of the eight neighbours on a square ring, whichever way it is turned.

    Parameters
    ----------
    values
        int32 (h, w).
    radius
        Pixels to the ring; values are smoothed over about as many first.

    Returns
    -------
    numpy.ndarray
        uint8 (h, w): 0 to 8 neighbours that are larger, in one run; 9 if in several.

    References
    ----------
    Ojala, Pietikainen & Maenpaa, IEEE TPAMI 24, 971 (2002).
    """
    even = smooth(values, 2 * (radius // 2) + 1)
    code = np.zeros(values.shape, dtype=np.uint8)
    for bit, (row, column) in enumerate(_RING):
        code |= (_shift(even, row * radius, column * radius) > even).astype(np.uint8) << np.uint8(bit)
    return np.take(_uniform(), code)


@cache
def _uniform() -> np.ndarray:
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    changes = (bits != np.roll(bits, 1, axis=1)).sum(1)
    return np.where(changes <= 2, bits.sum(1), PATTERNS - 1).astype(np.uint8)


def contrast(values: np.ndarray, inner: int, around: int) -> np.ndarray:
    """Smoothed over a small square, less smoothed over a large one: int32 (h, w), 16 a unit of ``values``."""
    return smooth(values, inner) - smooth(values, around)


def bands(values: np.ndarray, mpp: float) -> Iterator[tuple[str, np.ndarray]]:
    """How much values vary at each size: absolute contrast between each width of ``BANDS_UM`` and the next."""
    before = smooth(values, odd(BANDS_UM[0], mpp))
    for width in BANDS_UM[1:]:
        after = smooth(values, odd(width, mpp))
        yield f"{width:g}um", np.abs(before - after)
        before = after


def peaks(values: np.ndarray, width: int, least: int) -> np.ndarray:
    """Pixels that nothing within a square of ``width`` surpasses, and that are above ``least``: bool (h, w)."""
    from scipy.ndimage import maximum_filter1d

    highest = maximum_filter1d(maximum_filter1d(values, width, axis=0), width, axis=1)
    return (values == highest) & (values > least)
