"""Where pixels come from: a reader for each kind of image file, all with the same few attributes.

A reader has ``levels`` (the full resolution first), ``mpp`` (micrometres per pixel; None where the file does not tell)
and ``read``. None keeps a file open, so that readers can be copied into other processes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from stgnn.data.schema import FileError, InputError

PLAUSIBLE_MPP = (0.1, 20.0)
"""Micrometres per pixel that a microscope makes; a resolution in a file outside of it is meant for printers."""

_DRAFTS = (2, 4, 8)  # by how much a JPEG can be made smaller while it is decoded
_WHITE = 255
_bomb_limit = threading.Lock()


class Level(NamedTuple):
    """One resolution: its size in its own pixels, and how many pixels of the full one each of them is wide."""

    width: int
    height: int
    scale: float


class Pixels(Protocol):
    """What every reader of image files has."""

    levels: tuple[Level, ...]
    mpp: float | None

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of a level, uint8 (height, width, 3); the box, in pixels of that level, lies within it."""
        ...


class PillowPixels:
    """JPEG, PNG and whatever else Pillow reads: decoded once a level, and kept.

    A JPEG has levels too: it can be decoded at a half, a quarter or an eighth of its size, in a fraction of the time.
    Its orientation tag is not heeded, since positions are told in pixels as stored.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.mpp: float | None = None  # the density of a JPEG or PNG is that of a printer
        with _pillow_image(path) as image:
            width, height = image.size
            if image.mode.startswith(("I", "F")):
                refuse_depth(path, f"pixels of kind {image.mode!r}")
        self.levels: tuple[Level, ...] = (Level(width, height, 1.0),)
        for scale in _DRAFTS:
            with _pillow_image(path) as image:  # each in an image of its own: drafts add up
                if _draft(image, scale):
                    self.levels += (Level(image.width, image.height, float(scale)),)
        self._decoded: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoded": {}}

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See :class:`Pixels`."""
        if level not in self._decoded:
            self._decoded[level] = self._decode(level)
        return self._decoded[level][y : y + height, x : x + width]

    def _decode(self, level: int) -> np.ndarray:
        with _pillow_image(self._path) as image, told(self._path):
            if level:
                _draft(image, int(self.levels[level].scale))
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                return over_white(np.asarray(image.convert("RGBA")))
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


class OpenslidePixels:
    """Whole-slide images of any make, by openslide."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as slide, told(path):
            width = slide.dimensions[0]
            self.levels = tuple(Level(w, h, level_scale(width, w)) for w, h in slide.level_dimensions)
            self.mpp = plausible(slide.properties.get("openslide.mpp-x"))

    def _open(self) -> Any:
        import openslide

        with told(self._path):
            return openslide.OpenSlide(self._path)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See :class:`Pixels`."""
        scale = self.levels[level].scale
        with self._open() as slide, told(self._path):  # openslide takes the corner in full-resolution pixels
            image = slide.read_region((round(x * scale), round(y * scale)), level, (width, height))
        return over_white(np.asarray(image))


def plausible(mpp: Any) -> float | None:
    """Return micrometres per pixel if they can be those of a microscope, else None.

    Examples
    --------
    >>> plausible("0.5"), plausible(352.8), plausible("unknown")
    (0.5, None, None)
    """
    try:
        value = float(mpp)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and PLAUSIBLE_MPP[0] <= value <= PLAUSIBLE_MPP[1] else None


def over_white(pixels: np.ndarray) -> np.ndarray:
    """Lay RGBA pixels (h, w, 4) over white: RGB (h, w, 3).

    Examples
    --------
    >>> over_white(np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], dtype=np.uint8)).tolist()
    [[[10, 20, 30], [255, 255, 255]]]
    """
    if (pixels[..., 3] == _WHITE).all():
        return pixels[..., :3]
    share = pixels[..., 3:].astype(np.float32) / _WHITE
    return np.rint(pixels[..., :3] * share + _WHITE * (1 - share)).astype(np.uint8)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises on a damaged file into one line."""
    try:
        yield
    except (MemoryError, InputError):
        raise
    except Exception as error:  # a damaged file can fail anywhere in the readers
        raise FileError(
            "image",
            expected="a readable image",
            found=f"{str(path)!r}, which cannot be read ({type(error).__name__}: {error})",
            hint="it may be truncated, or of another kind than its name says: copy or write it again",
        ) from error


def refuse_depth(path: Path, found: str) -> None:
    """Refuse an image that is not of 8-bit grey, RGB or RGBA pixels."""
    raise FileError(
        "image",
        expected="8 bits a channel, grey, RGB or RGBA",
        found=f"{found} in {str(path)!r}",
        hint="convert it to 8-bit RGB first",
    )


def level_scale(full: int, level: int) -> float:
    """How much smaller a level is: a whole number if rounding its width explains the rest.

    Examples
    --------
    >>> level_scale(40003, 10000), level_scale(1000, 300)
    (4.0, 3.3333333333333335)
    """
    scale = full / level
    whole = round(scale)
    return float(whole) if abs(scale - whole) * level < whole else scale


@contextmanager
def _pillow_image(path: Path) -> Iterator[Any]:
    """Open an image of any size: Pillow's limit, against files from strangers, is lifted for this one only."""
    from PIL import Image

    with told(path), _bomb_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def _draft(image: Any, scale: int) -> bool:
    """Have a JPEG decoded at 1 / scale of its size; say whether it will be."""
    width, height = image.size
    if image.format != "JPEG" or min(width, height) < scale:
        return False
    image.draft(image.mode, (width // scale, height // scale))
    return image.size == (-(-width // scale), -(-height // scale))
