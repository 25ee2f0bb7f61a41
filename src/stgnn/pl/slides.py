"""A slide with its bins drawn on it: whether places and image belong together is seen at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stgnn.pl.keys import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from stgnn.data.slides import Slide

_MOST_OUTLINES = 3000
_THUMBNAIL = 1200
_ON, _OFF, _GUARD = "#1b4f9c", "#d7301f", "#f2a900"


def slide(slide: Slide, ax: Axes | None = None) -> Axes:
    """Draw the outlines of bins or spots, at their true size, over the image of their slide.

    Those on tissue are blue, guards between blocks yellow, and those off the tissue red; of more than 3,000, so many
    are drawn, drawn by lot. Places that do not follow the tissue's outline are of another image, or of another scale.

    Parameters
    ----------
    slide
        What :func:`stgnn.data.slides.read_slide` returns.
    ax
        Axes to draw on; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        In micrometres from the image's upper-left corner, y downwards, with a scale bar.

    Examples
    --------
    >>> import tempfile
    >>> import stgnn.pl
    >>> from PIL import Image as pil
    >>> from stgnn.data.images import open_image
    >>> from stgnn.data.slides import grid_slide
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     picture = pil.new("RGB", (400, 300), (240, 238, 240))
    ...     picture.paste((180, 90, 160), (100, 100, 300, 200))
    ...     picture.save(folder + "/slide.png")
    ...     ax = stgnn.pl.slide(grid_slide(open_image(folder + "/slide.png", mpp=2.0), bin_um=50.0))
    >>> ax.get_title(), ax.texts[0].get_text()
    ('slide: 32 bins of 50 um', '200 um')
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Circle, Rectangle

    width, height = slide.image.size_um
    ax = new_axes(7.0, max(2.0, min(9.0, 7.0 * height / width))) if ax is None else ax
    ax.imshow(slide.image.thumbnail(_THUMBNAIL), extent=(0, width, height, 0), interpolation="bilinear")
    shown = np.arange(len(slide))
    if len(shown) > _MOST_OUTLINES:
        shown = np.sort(np.random.default_rng(0).choice(shown, _MOST_OUTLINES, replace=False))
    half = slide.width_um / 2
    outlines = [
        Circle((x, y), half) if slide.round else Rectangle((x - half, y - half), 2 * half, 2 * half)
        for x, y in slide.places[shown]
    ]
    colours = np.where(slide.in_tissue[shown], np.where(slide.guard[shown], _GUARD, _ON), _OFF)
    ax.add_collection(PatchCollection(outlines, facecolors="none", edgecolors=colours.tolist(), linewidths=0.6))
    kind = "spots" if slide.round else "bins"
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    ax.set_title(f"{slide.name}: {len(slide)} {kind} of {slide.width_um:g} um")
    _scale_bar(ax, width, height)
    return ax


def _scale_bar(ax: Axes, width: float, height: float) -> None:
    """Draw a bar of a round length, at most a quarter of the width."""
    power = 10.0 ** np.floor(np.log10(width / 4))
    length = max(step * power for step in (1, 2, 5) if step * power <= width / 4)
    left, bottom = 0.03 * width, 0.97 * height
    ax.plot([left, left + length], [bottom, bottom], color="black", linewidth=3, solid_capstyle="butt")
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} um"
    ax.text(left + length / 2, bottom - 0.01 * height, label, ha="center", va="bottom", color="black")
