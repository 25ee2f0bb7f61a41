"""Colours of types and of confidence, chosen to stay apart for the colour-blind and on white."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stgnn.data.schema import UNKNOWN

if TYPE_CHECKING:
    from matplotlib.colors import LinearSegmentedColormap

UNKNOWN_COLOR = "#cfcfcf"

# The first six are Okabe and Ito's without black and yellow; four darker and lighter ones follow. Each later one is the
# colour of medium lightness and chroma that lies farthest, in OKLab, from all before it, from white and from the grey
# of "unknown", as seen with normal vision, without red cones and without green cones (Machado et al. 2009), whichever
# is nearest.
_CODES = (
    "0072b2 d55e00 009e73 cc79a7 56b4e9 e69f00 332288 882255 a3d65c 8c6d31 "
    "294700 8f7aff b83d8f 99ad85 7033a3 3d7066 66e0ff 005270 7a4733 eba3c2 "
    "665cd6 478fd6 f585eb 1fd68f eb5c66 0052c2 851400 a34752 5c6600 f57a3d "
    "857ab8 522966 cc66d6 5c3333 14a3ad 52c2ad b899cc 991f85 7a8500 e0c214 "
    "ffad8f 9952b8 ad668f 70b85c ad7a52 666699 a3d6ad c2b8e0 c285ff b82900"
)
_PALETTE = tuple(f"#{code}" for code in _CODES.split())

CONFIDENCE_COLORS = ("#9e2a2b", "#e0a03e", "#5fa8d3", "#1d5c8f")
"""Of a confidence of 0, 1/3, 2/3 and 1."""


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

    return LinearSegmentedColormap.from_list("stgnn_confidence", CONFIDENCE_COLORS)


def confidence_gradient() -> str:
    """The same colours as a CSS gradient from left to right."""
    return f"linear-gradient(to right, {', '.join(CONFIDENCE_COLORS)})"


def _color(place: int) -> str:
    """Colour at a place; past the end the palette returns, each time paler."""
    turn, index = divmod(place, len(_PALETTE))
    base = _PALETTE[index]
    pale = 1 - 0.6**turn
    parts = (int(base[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(part + (225 - part) * pale):02x}" for part in parts)
