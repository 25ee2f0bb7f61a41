"""Colours of types and of confidence, chosen to stay apart for the colour-blind and on white."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stgnn.data.schema import UNKNOWN

if TYPE_CHECKING:
    from matplotlib.colors import LinearSegmentedColormap

UNKNOWN_COLOR = "#cfcfcf"

# The first six are Okabe and Ito's without black and yellow. Each later one is the colour of medium lightness and
# chroma that lies farthest, in OKLab, from all before it, from white and from the grey of "unknown", as seen with
# normal vision, without red cones and without green cones (Machado et al. 2009), whichever is nearest.
_CODES = (
    "0072b2 d55e00 009e73 cc79a7 56b4e9 e69f00 701429 331f99 855266 8f7aff "
    "ad1400 47cc85 333d5c d6d600 3d47c2 5c4785 a3e08f 99ccff 5c66e0 006633 "
    "708fd6 eb5c66 66c2b8 85708f eb7a3d ff9970 66007a 8f5299 667047 8599ff "
    "29a3b8 1f5252 ff99c2 7033a3 a37a47 477acc 8f000a ffad52 a35c70 e08fe0 "
    "a35c0a c29999 667aad ccb8e0 8f0a70 70333d c27a85 b8cca3 525cc2 476685"
)
_PALETTE = tuple(f"#{code}" for code in _CODES.split())

_CONFIDENCE = ("#9e2a2b", "#e0a03e", "#5fa8d3", "#1d5c8f")


def type_colors(types: Sequence[str]) -> dict[str, str]:
    """Colour of each type, by its place in the list of types; ``"unknown"`` is light grey.

    Examples
    --------
    >>> type_colors(["Astro", "Oligo", "unknown"])
    {'Astro': '#0072b2', 'Oligo': '#d55e00', 'unknown': '#cfcfcf'}
    """
    known = [name for name in types if name != UNKNOWN]
    colors = {name: _color(place) for place, name in enumerate(known)}
    return {name: colors.get(name, UNKNOWN_COLOR) for name in types}


def confidence_colors() -> LinearSegmentedColormap:
    """Colours of confidence from 0 (red) over orange to 1 (dark blue)."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("stgnn_confidence", _CONFIDENCE)


def confidence_gradient() -> str:
    """The same colours as a CSS gradient from left to right."""
    return f"linear-gradient(to right, {', '.join(_CONFIDENCE)})"


def _color(place: int) -> str:
    """Colour at a place; past the end the palette returns, each time paler."""
    turn, index = divmod(place, len(_PALETTE))
    base = _PALETTE[index]
    pale = 1 - 0.6**turn
    parts = (int(base[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(part + (225 - part) * pale):02x}" for part in parts)
