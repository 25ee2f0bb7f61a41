"""The image that lies under the cells of a section, where the AnnData holds or names one."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stgnn.data.schema import SOURCE_KEY, FileError, InputError

if TYPE_CHECKING:
    from anndata import AnnData

_LONGEST = 1600  # pixels; about 0.5 MB as JPEG
_MARGIN = 0.03  # of the cells' extent, kept around them
_LARGEST_FILE = 2**31  # bytes of an image that is read for this at all: some must be read whole


class Underlay(NamedTuple):
    """An image and where it lies.

    Parameters
    ----------
    uri
        JPEG as a data URI.
    box
        Its left, upper, right and lower edge in the coordinates of the cells; y points downwards.
    """

    uri: str
    box: tuple[float, float, float, float]


def find_underlays(adata: AnnData, places: Mapping[str, np.ndarray]) -> tuple[dict[str, Underlay], str]:
    """Find the image of each section, and say why there is none where one was named.

    Looked at are the images that ``uns["spatial"]`` holds, as scanpy keeps them (one library, or libraries named as the
    sections), and the file that ``uns["stgnn_source"]`` names, of a single section.

    Parameters
    ----------
    adata
        Annotated cells.
    places
        Coordinates of the cells of each section (cells, 2), by the section's name.
    """
    found = {}
    for name, coords in places.items():
        library = _library(adata, name, alone=len(places) == 1)
        if library is not None:
            pixels, pixel = library
            found[name] = _cropped(pixels, pixel, (0.0, 0.0), coords)
    source = adata.uns.get(SOURCE_KEY, {})
    if found or len(places) != 1 or not isinstance(source, Mapping) or "image" not in source:
        return found, ""
    name, coords = next(iter(places.items()))
    try:
        return {name: _from_file(source, coords)}, ""
    except (InputError, MemoryError) as error:  # a picture without its image is better than none
        return {}, f"The image could not be shown: {error}"


def _library(adata: AnnData, section: str, *, alone: bool) -> tuple[np.ndarray, float] | None:
    """Pixels, and the length of one in the coordinates of the cells."""
    spatial = adata.uns.get("spatial", {})
    libraries = {str(key): value for key, value in spatial.items()} if isinstance(spatial, Mapping) else {}
    library = libraries.get(section.replace("/", "|"))
    if library is None and alone and len(libraries) == 1:
        library = next(iter(libraries.values()))
    if not isinstance(library, Mapping):
        return None
    images, factors = library.get("images", {}), library.get("scalefactors", {})
    for size in ("hires", "lowres"):
        scale = float(factors.get(f"tissue_{size}_scalef", 0))
        if size in images and scale > 0:
            # Coordinates are in pixels of the full resolution, unless reading made micrometres of them.
            unit = adata.uns.get(SOURCE_KEY, {}).get("um_per_unit", 1.0)
            return _as_bytes(np.asarray(images[size])), float(unit) / scale
    return None


def _from_file(source: Mapping[str, Any], coords: np.ndarray) -> Underlay:
    from stgnn.data.images import open_image

    path = Path(str(source["image"]))
    if not path.is_file():
        raise FileError("image", expected="the file that was there on reading", found=f"no {path.name!r}")
    if path.stat().st_size > _LARGEST_FILE:
        raise FileError("image", expected="at most 2 GB", found=f"{path.stat().st_size / 2**30:.1f} GB")
    image = open_image(path, mpp=float(source["um_per_pixel"]))
    pixels = image.thumbnail(2 * _LONGEST)
    origin = np.asarray(source.get("image_origin_um", (0.0, 0.0)), dtype=np.float64)
    return _cropped(pixels, image.size_um[0] / pixels.shape[1], (float(origin[0]), float(origin[1])), coords)


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """RGB bytes (h, w, 3), from bytes or from numbers from 0 to 1."""
    if pixels.dtype != np.uint8:
        pixels = np.rint(255 * np.clip(np.nan_to_num(pixels), 0, 1)).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return pixels[:, :, :3] if pixels.shape[2] >= 3 else np.repeat(pixels[:, :, :1], 3, axis=2)


def _cropped(pixels: np.ndarray, pixel: float, origin: tuple[float, float], coords: np.ndarray) -> Underlay:
    """Cut an image to the cells, so that it fits between other sections, and make it small."""
    from PIL import Image

    low, high = coords.min(axis=0), coords.max(axis=0)
    margin = _MARGIN * max(float((high - low).max()), pixel)
    start = np.floor((low - margin - origin) / pixel).astype(int)
    end = np.ceil((high + margin - origin) / pixel).astype(int)
    left, top = np.clip(start, 0, np.array(pixels.shape[1::-1]) - 1)
    right, bottom = np.clip(end, (left + 1, top + 1), pixels.shape[1::-1])
    image = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
    image.thumbnail((_LONGEST, _LONGEST))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    edges = origin[0] + left * pixel, origin[1] + top * pixel, origin[0] + right * pixel, origin[1] + bottom * pixel
    return Underlay(uri, tuple(float(edge) for edge in edges))  # type: ignore[arg-type]
