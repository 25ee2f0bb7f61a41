"""Slide images, read by region: places and sizes in micrometres from the image's upper-left corner."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from stgnn.data.pixels import OpenslidePixels, PillowPixels, Pixels
from stgnn.data.schema import FileError, InputError, OptionError
from stgnn.data.tiff import TiffPixels

__all__ = ["SUFFIXES", "Image", "Picture", "check_mpp", "digest_of", "open_image"]

_PILLOW = (".jpg", ".jpeg", ".png")
_TIFF = (".tif", ".tiff", ".btf")
_WHOLE_SLIDE = (".svs", ".ndpi")
SUFFIXES = (*_PILLOW, *_TIFF, *_WHOLE_SLIDE)
"""Names that an image file may end in."""

MPP_TOLERANCE = 0.02
_MOST_PIXELS = 1 << 26  # held at a time, of whatever a region is made smaller from
_WHITE = 255
_VIEW = 512
"""Pixels along the longer side of the view that tells images apart which are no files."""


class Picture(Protocol):
    """A slide's image, read by regions; white beyond its border."""

    @property
    def path(self) -> Path:
        """File that it comes from, or what stands for one."""

    @property
    def width(self) -> int:
        """Pixels from left to right."""

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""

    @property
    def mpp(self) -> float:
        """Micrometres per pixel."""

    def region(self, x: float, y: float, width: float, height: float, mpp: float | None = None) -> np.ndarray:
        """Pixels of a rectangle, uint8 (h, w, 3); lengths in micrometres from the upper-left corner."""


def digest_of(picture: Picture) -> str:
    """What tells an image from others: a hash of its file's bytes, or, where it is no file, of a small view of it.

    A file is read once, as long as it does not change.
    """
    path = Path(picture.path)
    if path.is_file():
        stat = path.stat()
        return _file_hash(str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    width, height = picture.width * picture.mpp, picture.height * picture.mpp
    view = picture.region(0, 0, width, height, max(picture.mpp, max(width, height) / _VIEW))
    words = repr((str(path), picture.width, picture.height, view.shape))
    return hashlib.sha256(words.encode() + np.ascontiguousarray(view).tobytes()).hexdigest()


@lru_cache(maxsize=64)
def _file_hash(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Image:
    """A slide image, of which only the regions asked for are read.

    Parameters
    ----------
    path
        Where it lies.
    width, height
        Size in pixels of the full resolution.
    mpp
        Micrometres per pixel of the full resolution.
    pixels
        What reads the file.
    """

    path: Path
    width: int
    height: int
    mpp: float
    pixels: Pixels = field(repr=False, compare=False)

    @property
    def size_um(self) -> tuple[float, float]:
        """Width and height in micrometres."""
        return self.width * self.mpp, self.height * self.mpp

    def region(self, x: float, y: float, width: float, height: float, mpp: float | None = None) -> np.ndarray:
        """Read a region, resampled; white beyond the image's border.

        Parameters
        ----------
        x, y
            Upper-left corner in micrometres from the image's, x to the right, y down.
        width, height
            Size in micrometres.
        mpp
            Micrometres per pixel of what is returned; None for those of the image, whose pixels then come as they
            are, from the nearest whole one.

        Returns
        -------
        numpy.ndarray
            RGB, uint8 (h, w, 3), with ``h = round(height / mpp)`` and ``w = round(width / mpp)``, at least 1.

        Raises
        ------
        OptionError
            If the size or ``mpp`` is not positive.
        FileError
            If the file cannot be read.

        Examples
        --------
        >>> from PIL import Image as pil
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pil.new("RGB", (40, 30), "red").save(folder + "/red.png")
        ...     open_image(folder + "/red.png", mpp=0.5).region(0, 0, 10, 5, mpp=1.0).shape
        (5, 10, 3)
        """
        mpp = self.mpp if mpp is None else check_mpp(mpp)
        if not (math.isfinite(x + y) and math.isfinite(width + height) and width > 0 and height > 0):
            found = f"{width:g} x {height:g} at ({x:g}, {y:g})"
            raise OptionError("region", expected="a finite place and a positive size, micrometres", found=found)
        shape = max(1, round(height / mpp)), max(1, round(width / mpp))
        scale = mpp / self.mpp
        if abs(scale - 1) < 1e-9:
            return self._crop(0, round(x / mpp), round(y / mpp), shape[1], shape[0])
        level = max(i for i, there in enumerate(self.pixels.levels) if there.scale <= max(scale, 1.0) * (1 + 1e-6))
        step = scale / self.pixels.levels[level].scale  # what is left to do after the level has done its part
        left, top = x / mpp * step, y / mpp * step
        return self._resampled(level, left, top, step, shape)

    def thumbnail(self, pixels: int) -> np.ndarray:
        """Read the whole image, made small.

        Parameters
        ----------
        pixels
            Longer side of what is returned; the image's own size if that is smaller.

        Returns
        -------
        numpy.ndarray
            RGB, uint8 (h, w, 3).

        Examples
        --------
        >>> from PIL import Image as pil
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pil.new("RGB", (40, 30), "red").save(folder + "/red.png")
        ...     open_image(folder + "/red.png", mpp=0.5).thumbnail(20).shape
        (15, 20, 3)
        """
        longest = max(self.width, self.height)
        return self.region(0, 0, *self.size_um, mpp=self.mpp * longest / min(max(1, int(pixels)), longest))

    def _crop(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of a level, white where there are none."""
        there = self.pixels.levels[level]
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, there.width), min(y + height, there.height)
        if x1 <= x0 or y1 <= y0:
            return np.full((height, width, 3), _WHITE, dtype=np.uint8)
        found = self.pixels.read(level, x0, y0, x1 - x0, y1 - y0)
        if found.shape[:2] == (height, width):
            return np.array(found)
        out = np.full((height, width, 3), _WHITE, dtype=np.uint8)
        out[y0 - y : y0 - y + found.shape[0], x0 - x : x0 - x + found.shape[1]] = found
        return out

    def _resampled(self, level: int, left: float, top: float, step: float, shape: tuple[int, int]) -> np.ndarray:
        """Region of a level from a fractional corner, each pixel ``step`` pixels of the level wide."""
        from PIL import Image as pil

        x0, y0 = math.floor(left), math.floor(top)
        x1, y1 = math.ceil(left + shape[1] * step), math.ceil(top + shape[0] * step)
        whole = 1
        if (x1 - x0) * (y1 - y0) > _MOST_PIXELS:
            whole = max(1, math.floor(step))  # the bulk of the work band by band, so that memory stays bounded
        rows = max(1, _MOST_PIXELS // ((x1 - x0) * whole)) * whole
        bands = []
        for y in range(y0, y1, rows):
            band = pil.fromarray(self._crop(level, x0, y, x1 - x0, min(rows, y1 - y)))
            bands.append(np.asarray(band.reduce(whole) if whole > 1 else band))
        image = pil.fromarray(np.concatenate(bands) if len(bands) > 1 else bands[0])
        left, top = (left - x0) / whole, (top - y0) / whole
        right, bottom = left + shape[1] * step / whole, top + shape[0] * step / whole
        box = left, top, min(right, image.width), min(bottom, image.height)  # sums of fractions may run over
        return np.asarray(image.resize((shape[1], shape[0]), pil.Resampling.BILINEAR, box=box))


def open_image(path: str | Path, mpp: float | None = None) -> Image:
    """Open a slide image; its pixels are read when a region is asked for.

    Parameters
    ----------
    path
        JPEG, PNG, TIFF, OME-TIFF, BTF, SVS or NDPI, 8 bits a channel, grey, RGB or RGBA.
    mpp
        Micrometres per pixel of the full resolution; None to take them from the file. Never guessed.

    Returns
    -------
    Image
        The image.

    Raises
    ------
    FileError
        If the file is missing, of another kind or damaged.
    InputError
        If nobody tells the micrometres per pixel, or file and ``mpp`` differ by more than 2 %.

    Examples
    --------
    >>> open_image("slide.bmp")
    Traceback (most recent call last):
    stgnn.data.schema.FileError: image: expected a .jpg, .jpeg, .png, .tif, ...; found 'slide.bmp'...
    """
    path = Path(path)
    mpp = None if mpp is None else check_mpp(mpp)
    pixels = _reader(path)
    if mpp is None and pixels.mpp is None:
        raise InputError(
            "mpp",
            expected="micrometres per pixel",
            found=f"none in {path.name!r}, which does not tell",
            hint="pass mpp=...",
        )
    if mpp is not None and pixels.mpp is not None and abs(mpp - pixels.mpp) > MPP_TOLERANCE * pixels.mpp:
        raise InputError(
            "mpp",
            expected=f"the {pixels.mpp:.4g} micrometres per pixel that {path.name!r} tells",
            found=f"{mpp:.4g}",
            hint="leave mpp out if the file is right, else correct the file",
        )
    full = pixels.levels[0]
    return Image(path, full.width, full.height, float(pixels.mpp or 0.0) if mpp is None else mpp, pixels)


def check_mpp(mpp: float) -> float:
    """Return micrometres per pixel if they are a positive number, else raise :class:`OptionError`."""
    if isinstance(mpp, bool) or not isinstance(mpp, (int, float, np.number)) or not math.isfinite(mpp) or mpp <= 0:
        raise OptionError("mpp", expected="micrometres per pixel, a positive number", found=repr(mpp))
    return float(mpp)


def _reader(path: Path) -> Pixels:
    """Reader for a file, by its name."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise FileError("image", expected=f"a {', '.join(SUFFIXES)} file", found=repr(str(path)))
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob("*") if other.suffix.lower() in SUFFIXES)[:3]
        hint = f"that folder holds {', '.join(near)}" if near else "check the path"
        raise FileError("image", expected="an image file", found=f"no file {str(path)!r}", hint=hint)
    if suffix in _PILLOW:
        return PillowPixels(path)
    if suffix in _WHOLE_SLIDE and importlib.util.find_spec("openslide"):
        return OpenslidePixels(path)
    return TiffPixels(path)
