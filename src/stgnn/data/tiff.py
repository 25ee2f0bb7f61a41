"""TIFF, OME-TIFF, BTF and SVS by tifffile: only the tiles or strips that a region touches are decoded."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stgnn.data.pixels import Level, level_scale, over_white, plausible, refuse_depth, told
from stgnn.data.schema import FileError, InputError

_UM_PER_UNIT = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "nm": 1e-3,
    "inch": 25400.0,
    "in": 25400.0,
}
_APERIO = re.compile(r"\bMPP\s*=\s*([0-9.]+)")


_KEPT_BYTES = 1 << 27
"""Of decoded tiles or strips: crops of neighbouring bins lie on the same ones, and decoding is most of the cost."""


class TiffPixels:
    """Any TIFF of 8-bit grey, RGB or RGBA pixels; see :class:`stgnn.data.pixels.Pixels`."""

    def __init__(self, path: Path) -> None:
        tifffile = _tifffile()
        self._path = path
        with told(path), tifffile.TiffFile(path) as tif:
            series = tif.series[0]
            self.levels, self._pages = _levels(path, series)
            self.mpp = _ome_mpp(tif) or _aperio_mpp(series) or _tag_mpp(series)
        self._kept: dict[tuple[int, int, int], np.ndarray | None] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[TiffPixels], tuple[Path]]:
        return TiffPixels, (self._path,)  # the decoders of pages cannot be copied

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See :class:`stgnn.data.pixels.Pixels`."""
        with told(self._path), open(self._path, "rb") as file:
            parts = []
            for number, page in enumerate(self._pages[level]):
                if _is_mappable(page):  # often a single strip, which would be the whole image
                    shape = page.imagelength, page.imagewidth, page.samplesperpixel
                    mapped = np.memmap(file, np.uint8, "r", offset=page.dataoffsets[0], shape=shape)
                    parts.append(np.array(mapped[y : y + height, x : x + width]))
                else:
                    segment_of = partial(self._segment, file, level, number)
                    parts.append(_read_page(page, segment_of, x, y, width, height))
            pixels = np.concatenate(parts, axis=2)
        if pixels.shape[2] == 4:
            return over_white(pixels)
        return np.broadcast_to(pixels[..., :1], (height, width, 3)) if pixels.shape[2] < 3 else pixels

    def _segment(self, file: Any, level: int, number: int, index: int) -> np.ndarray | None:
        """Decode a tile or strip (1, h, w, channels); None for one that was left out of the file: background."""
        key = level, number, index
        with self._lock:
            if key in self._kept:
                return self._kept[key]
        page = self._pages[level][number]
        data = None
        if page.databytecounts[index]:
            file.seek(page.dataoffsets[index])
            data = file.read(page.databytecounts[index])
        segment = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)[0]
        with self._lock:
            self._kept[key] = segment
            while len(self._kept) > 1 and sum(0 if x is None else x.nbytes for x in self._kept.values()) > _KEPT_BYTES:
                del self._kept[next(iter(self._kept))]
        return segment


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise InputError(
            "image", expected="tifffile, to read TIFF files", found="none", hint="pip install 'stgnn[histology]'"
        ) from error
    return tifffile


def _levels(path: Path, series: Any) -> tuple[tuple[Level, ...], list[tuple[Any, ...]]]:
    """Resolutions of a series, the full one first, and the pages of each (one, or one a channel)."""
    levels: list[Level] = []
    pages: list[tuple[Any, ...]] = []
    for level in series.levels:
        size = {axis: n for axis, n in zip(level.axes, level.shape) if n > 1 or axis in "YX"}
        channels = size.get("S", 1) * size.get("C", 1)
        found = [page for page in level.pages if page is not None]
        pages.append(tuple(page.aspage() if hasattr(page, "aspage") else page for page in found))
        fits = set(size) <= set("YXSC") and channels in (1, 2, 3, 4) and len(pages[-1]) in (1, channels)
        if level.dtype != np.uint8 or not fits:
            refuse_depth(path, f"{level.dtype} with axes {level.axes} of {tuple(level.shape)}")
        for page in pages[-1]:
            _ = page.jpegtables, page.jpegheader, page.dataoffsets, page.decode  # read now: the file is closed later
        width = levels[0].width if levels else size["X"]
        levels.append(Level(size["X"], size["Y"], level_scale(width, size["X"])))
    return tuple(levels), pages


def _is_mappable(page: Any) -> bool:
    """Whether a page's pixels lie in the file as they are, one after another."""
    return page.compression == 1 and page.planarconfig == 1 and not page.is_tiled and bool(page.is_contiguous)


def _read_page(
    page: Any, segment_of: Callable[[int], np.ndarray | None], x: int, y: int, width: int, height: int
) -> np.ndarray:
    """Box of a page (height, width, channels), from the tiles or strips under it."""
    out = np.full((height, width, page.samplesperpixel), 255, dtype=np.uint8)
    tall, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    tall = min(tall, page.imagelength)
    down, across = -(-page.imagelength // tall), -(-page.imagewidth // wide)
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    for plane in range(planes):
        for row in range(y // tall, -(-(y + height) // tall)):
            for column in range(x // wide, -(-(x + width) // wide)):
                segment = segment_of((plane * down + row) * across + column)
                if segment is None:
                    continue
                top, left = row * tall, column * wide
                part = segment[0, max(y - top, 0) : y + height - top, max(x - left, 0) : x + width - left]
                at_y, at_x = max(top - y, 0), max(left - x, 0)
                channels = slice(plane, plane + 1) if planes > 1 else slice(None)
                out[at_y : at_y + part.shape[0], at_x : at_x + part.shape[1], channels] = part
    return out


def _ome_mpp(tif: Any) -> float | None:
    """Micrometres per pixel of an OME-TIFF; its two sides must agree."""
    if not tif.is_ome:
        return None
    tag = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", tif.ome_metadata or "")
    if not tag:
        return None
    sides = []
    for side in "XY":
        size = re.search(rf'\bPhysicalSize{side}\s*=\s*"([^"]+)"', tag[0])
        unit = re.search(rf'\bPhysicalSize{side}Unit\s*=\s*"([^"]+)"', tag[0])
        factor = _UM_PER_UNIT.get(unit[1].replace("&#181;", "µ").replace("&#xB5;", "µ") if unit else "µm")
        sides.append(plausible(float(size[1]) * factor) if size and factor else None)
    return _square(sides[0], sides[1], "OME PhysicalSizeX and PhysicalSizeY")


def _aperio_mpp(series: Any) -> float | None:
    match = _APERIO.search(str(series.keyframe.description or ""))
    return plausible(match[1]) if match else None


def _tag_mpp(series: Any) -> float | None:
    """Micrometres per pixel by the resolution tags, where these have a unit and are those of a microscope."""
    tags = series.keyframe.tags
    um = {2: 25400.0, 3: 1e4}.get(int(tags.valueof("ResolutionUnit", 1)))
    sides = []
    for name in ("XResolution", "YResolution"):
        over, under = tags.valueof(name, (0, 1))
        sides.append(plausible(um * under / over) if um and over else None)
    return _square(sides[0], sides[1], "XResolution and YResolution")


def _square(x: float | None, y: float | None, what: str) -> float | None:
    """Size of a square pixel; refuses one that is longer than wide."""
    if x is not None and y is not None and abs(x - y) > 0.02 * x:
        raise FileError("image", expected="square pixels", found=f"{what} of {x:g} and {y:g} micrometres per pixel")
    return x
