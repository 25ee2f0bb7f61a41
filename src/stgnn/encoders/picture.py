"""What encoders need of a slide's image, and of places on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from stgnn.data.images import Picture
from stgnn.data.schema import CoordinatesError, OptionError
from stgnn.train import progress

__all__ = ["Picture", "bar", "check_places", "check_width"]


def check_places(places_um: np.ndarray) -> np.ndarray:
    """Return places (n, 2) in micrometres as float64, or raise :class:`CoordinatesError`.

    Examples
    --------
    >>> check_places([[1, 2]]).shape
    (1, 2)
    """
    places = np.asarray(places_um, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 2 or not np.isfinite(places).all():
        found = f"an array {places.shape}" if places.ndim != 2 or places.shape[1] != 2 else "values that are not finite"
        raise CoordinatesError("places_um", expected="finite (x, y) in micrometres, an array (n, 2)", found=found)
    return places


def check_width(width_um: float | None) -> float | None:
    """Return a width in micrometres if it is a positive number or None, else raise :class:`OptionError`."""
    if width_um is None:
        return None
    if isinstance(width_um, bool) or not math.isfinite(width_um) or width_um <= 0:
        raise OptionError("width_um", expected="a positive number of micrometres", found=repr(width_um))
    return float(width_um)


@contextmanager
def bar(title: str, places: int) -> Iterator[Callable[[int], None]]:
    """Progress bar over places; yields a function to tell how many more are done."""
    ticks = min(places, 100)  # a call a place would cost more than a place of built-in features
    told = 0
    with progress(title, ticks) as step:

        def done(more: int) -> None:
            nonlocal told
            before, told = told, told + more
            if new := told * ticks // max(places, 1) - before * ticks // max(places, 1):
                step(new)

        yield done
