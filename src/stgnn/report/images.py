"""Maps as PNG images inside the page: points only, so that all text stays text of the page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn.pl.keys import read_places
from stgnn.pl.maps import draw_points, fitting_size, frame, spatial_confidence, spatial_types

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from stgnn.report.facts import Facts

MAX_SECTIONS = 24
LOW_COLOR, UNKNOWN_COLOR, OTHER_COLOR = "#e07b00", "#6a1b9a", "#dcdcdc"
KINDS = ("type", "confidence", "doubt")

_ALL_PIXELS = 7.5e6  # over all maps together, which keeps 100,000 cells under 5 MB
_WIDEST, _NARROWEST = 1500, 260
_DPI = 144
_COLORS = 128


def mapped_sections(facts: Facts) -> list[str]:
    """Sections to draw, in order; of very many only those with the most cells."""
    largest = sorted(facts.sections, key=lambda name: -len(facts.sections[name]))[:MAX_SECTIONS]
    return [name for name in facts.sections if name in largest]


def map_uri(facts: Facts, kind: str, section: str) -> tuple[str, int, int]:
    """Map of a section as a data URI, with its width and height in pixels.

    Parameters
    ----------
    facts
        What is known of the cells.
    kind
        One of :data:`KINDS`: by type, by confidence, or the unknown and low-confidence cells among the others.
    section
        Name of the section.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = section if facts.section_key is not None else None
    _, coords = read_places(facts.adata, facts.spatial_key, facts.section_key, chosen)
    width, height = _pixels(facts, coords)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    if kind == "doubt":
        _draw_doubt(facts, ax, chosen)
    else:
        draw = spatial_types if kind == "type" else spatial_confidence
        draw(
            facts.adata,
            key=facts.key,
            section_key=facts.section_key,
            section=chosen,
            spatial_key=facts.spatial_key,
            ax=ax,
            legend=False,
        )
    if facts.down:
        ax.invert_yaxis()  # as the picture, whose image would stand on its head else
    ax.set(title="")
    ax.set_axis_off()
    return _encode(figure), width, height


def _draw_doubt(facts: Facts, ax: Axes, section: str | None) -> None:
    rows, coords = read_places(facts.adata, facts.spatial_key, facts.section_key, section)
    frame(ax, coords, None)
    size = fitting_size(ax, coords)
    low, unknown = facts.low[rows], facts.unknown[rows]
    for mask, color, larger in (
        (~low & ~unknown, OTHER_COLOR, 1.0),
        (low, LOW_COLOR, 1.6),
        (unknown, UNKNOWN_COLOR, 1.6),
    ):
        if mask.any():
            draw_points(ax, coords[mask], np.full(int(mask.sum()), color), larger * size)


def _pixels(facts: Facts, coords: np.ndarray) -> tuple[int, int]:
    """Size of the map of one section: the tissue's own shape within bounds, and a fair part of all pixels."""
    span = np.maximum(np.ptp(coords, axis=0), 1e-9)
    shape = float(np.clip(span[1] / span[0], 0.4, 1.5))
    n_maps = len(KINDS) * min(len(facts.sections), MAX_SECTIONS)
    width = int(np.clip(np.sqrt(_ALL_PIXELS / n_maps / shape), _NARROWEST, _WIDEST))
    return width, max(int(width * shape), 1)


def _encode(figure: Any) -> str:
    from PIL import Image

    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy())
    # A palette of so many colours is a third of the size, and the eye sees no difference between points.
    small = image.quantize(_COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", compress_level=7)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
