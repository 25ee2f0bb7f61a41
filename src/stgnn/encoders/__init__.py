"""Image encoders: features of windows of a slide, from built-in statistics or from pretrained networks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from stgnn.data.files import cache_folder
from stgnn.encoders.cache import cached, key_of
from stgnn.encoders.load import Extractor, load_encoder
from stgnn.encoders.picture import Picture, bar, check_places, check_width
from stgnn.encoders.records import ENCODERS, Encoder, find_encoder
from stgnn.encoders.weights import weights_hash

__all__ = ["ENCODERS", "Encoder", "Extractor", "Picture", "extract", "find_encoder", "load_encoder"]

_PART_UM = 2048.0
_PART = {"built-in": 32768, "timm": 2048, "transformers": 2048}
"""Places at a time, which is what a killed run may lose."""


def extract(
    picture: Picture,
    places_um: np.ndarray,
    *,
    encoder: str = "colour-texture",
    width_um: float | None = None,
    weights: str | Path | None = None,
    cache: str | Path | Literal[False] | None = None,
    device: str = "auto",
) -> np.ndarray:
    """Features of crops of a slide centred on places, computed once and kept on disk.

    Parameters
    ----------
    picture
        The slide's image.
    places_um
        Places (n, 2), x and y in micrometres from the image's upper-left corner.
    encoder
        One of ``ENCODERS``, or ``timm:NAME`` or ``hf:NAME``.
    width_um
        Side of the crops in micrometres; None for what the encoder was made for.
    weights
        Local weights instead of the hub's.
    cache
        Folder of features; None for the one that STGNN_CACHE names or else the system's; False to keep nothing.
    device
        "auto", "cpu", "cuda", ...

    Returns
    -------
    numpy.ndarray
        float32 (n, d); mapped from disk where it is kept.

    Raises
    ------
    OptionError
        If the encoder is unknown, a package is missing, or weights are missing or do not fit.
    CoordinatesError
        If the places are not finite (x, y).
    FileError
        If nothing can be written to the folder.

    Examples
    --------
    >>> from stgnn.encoders.colour_texture import _Blank
    >>> extract(_Blank(), np.array([[10.0, 20.0]]), cache=False).shape
    (1, 448)
    """
    record, places, width = find_encoder(encoder), check_places(places_um), check_width(width_um)
    if cache is False or not len(places):
        return load_encoder(encoder, weights, device).features(picture, places, width)
    key = key_of(picture, record.name, weights_hash(record, weights), width, places)
    ready: list[Extractor] = []

    folder = cache_folder() if cache is None else Path(cache)
    with bar(f"features by {record.name}", len(places)) as done:

        def compute(part: np.ndarray) -> np.ndarray:
            if not ready:  # a hit needs neither the network nor its package
                ready.append(load_encoder(encoder, weights, device))
            return ready[0].features(picture, places[part], width, done)

        return cached(folder, key, _parts(places, _PART[record.source]), compute, done)


def _parts(places: np.ndarray, most: int) -> list[np.ndarray]:
    """Indices of at most so many places at a time, near one another, so that few parts read the same pixels."""
    square = np.floor(places / _PART_UM)
    order = np.lexsort((places[:, 0], places[:, 1], square[:, 0], square[:, 1]))
    return [order[start : start + most] for start in range(0, len(order), most)]
