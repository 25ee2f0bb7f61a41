"""Arrays of the picture, made small: quantised, laid end to end, deflated, and written as base64."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

_FINEST = 65535  # places are whole numbers of 16 bits: 0.15 um on a section of 10 mm
_WIDE = 4 / 3  # shape, width by height, that sections laid side by side fill
_GAP = 0.09  # between sections, of the largest one
_LEVEL = 6


class Placed(NamedTuple):
    """Cells of all sections on one sheet.

    Parameters
    ----------
    places
        Places on the sheet (cells, 2), uint16.
    step
        Length, in the unit of the coordinates, of one whole number.
    shift
        What to add to ``step * places`` for the coordinates in each section (sections, 2).
    """

    places: np.ndarray
    step: float
    shift: np.ndarray


def lay_out(coords: np.ndarray, section: np.ndarray, number: int, *, down: bool) -> Placed:
    """Lay sections side by side in reading order, none over another, and quantise.

    Parameters
    ----------
    coords
        Places within the sections (cells, 2).
    section
        Section of each cell (cells,), from 0 to ``number - 1``; none is empty.
    number
        Number of sections.
    down
        Whether y points downwards, as in an image; the first row of sections is then that with the smallest y.

    Examples
    --------
    >>> placed = lay_out(np.array([[5.0, 0], [7, 2], [5, 0], [6, 1]]), np.array([0, 0, 1, 1]), 2, down=True)
    >>> (placed.step * placed.places + placed.shift[[0, 0, 1, 1]]).round(3).tolist()
    [[5.0, 0.0], [7.0, 2.0], [5.0, 0.0], [6.0, 1.0]]
    """
    low, high = np.full((number, 2), np.inf), np.full((number, 2), -np.inf)
    np.minimum.at(low, section, coords)
    np.maximum.at(high, section, coords)
    largest = np.maximum((high - low).max(axis=0), 1e-9)
    pitch = largest + _GAP * largest.max()
    columns = int(np.clip(round(np.sqrt(number * _WIDE * pitch[1] / pitch[0])), 1, number))
    row, column = np.divmod(np.arange(number), columns)
    if not down:
        row = row.max() - row
    shift = low - np.column_stack([column, row]) * pitch
    moved = coords - shift[section]
    # Corners are subtracted and added in floating point, so that a place of -1e-17 can occur.
    step = max(float(moved.max()), 1e-9) / _FINEST
    return Placed(np.rint(np.clip(moved / step, 0, _FINEST)).astype(np.uint16), step, shift)


def quantise(values: np.ndarray, largest: float) -> np.ndarray:
    """Values from 0 to ``largest`` as whole numbers from 0 to 255; what lies beyond is moved to the nearest end.

    Examples
    --------
    >>> quantise(np.array([0.0, 0.5, 1.0, 2.0]), 1.0).tolist()
    [0, 128, 255, 255]
    """
    return np.rint(255 * np.clip(np.asarray(values) / (largest if largest > 0 else 1.0), 0, 1)).astype(np.uint8)


def codes(values: np.ndarray, number: int) -> np.ndarray:
    """Whole numbers below ``number`` in as few bytes as hold them."""
    return values.astype(np.uint8 if number <= 256 else np.uint16)


def joined(names: np.ndarray) -> np.ndarray:
    r"""Names as the bytes of lines of text; a name that has line breaks gets spaces for them.

    Examples
    --------
    >>> joined(np.array(["a", "b"])).tobytes()
    b'a\nb'
    """
    lines = "\n".join(str(name).replace("\n", " ") for name in names)
    return np.frombuffer(lines.encode("utf-8", errors="replace"), dtype=np.uint8)


def pack(arrays: Mapping[str, np.ndarray]) -> tuple[str, dict[str, list[int]]]:
    r"""Lay arrays of bytes and of 16-bit numbers end to end, deflated, in base64.

    Returns
    -------
    tuple[str, dict[str, list[int]]]
        The text, and of each array the bytes of a number, where it starts in the inflated bytes, and its length.

    Examples
    --------
    >>> text, contents = pack({"a": np.array([1, 2, 3], dtype=np.uint8), "b": np.array([256], dtype=np.uint16)})
    >>> zlib.decompress(base64.b64decode(text)), contents
    (b'\x01\x02\x03\x00\x00\x01', {'a': [1, 0, 3], 'b': [2, 4, 1]})
    """
    deflate, parts, contents, start = zlib.compressobj(_LEVEL), [], {}, 0
    for name, array in arrays.items():
        contents[name] = [array.itemsize, start, array.size]
        data = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        if len(data) % 2 and name != list(arrays)[-1]:
            data += b"\0"  # 16-bit numbers have to start at even places
        parts.append(deflate.compress(data))
        start += len(data)
    parts.append(deflate.flush())
    return base64.b64encode(b"".join(parts)).decode("ascii"), contents
