"""The picture to look around in: its elements, what it is told, and its code, inlined into the page."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from stgnn.pl.colors import CONFIDENCE_COLORS, type_colors
from stgnn.pl.keys import read_places
from stgnn.pl.maps import area_per_cell
from stgnn.report.facts import Facts
from stgnn.report.html import paragraph, several, text
from stgnn.report.picture import codes, joined, lay_out, pack, quantise

_SCRIPTS = ("data.js", "gl.js", "paint.js", "classes.js", "view.js", "lasso.js", "overlay.js", "picture.js")
_EXPRESSION_COLORS = ("#e4e4e0", "#a9bcd6", "#5b7db1", "#243b6b")  # light to dark, so that no hue need be told
_NO_REGION = "none"


def picture_part(facts: Facts) -> str:
    """The picture, which stays hidden where the browser cannot draw it; empty without places."""
    if facts.no_map:
        return ""
    told, packed = tell(facts)
    note = paragraph(facts.no_underlay) if facts.no_underlay else ""
    label = f"Picture of {several(len(facts.confidence), 'cell')}, each a point at its place"
    return (
        _ELEMENTS.replace("$label", text(label))
        + note
        + f'\n<script type="application/json" id="picture-facts">{as_json(told)}</script>'
        + f'\n<script type="text/plain" id="picture-data">{packed}</script>'
        + f'\n<script id="picture-code">{code()}</script>'
    )


def content_policy() -> str:
    """What the page may load and run: nothing from anywhere, and no script but the picture's own."""
    digest = base64.b64encode(hashlib.sha256(code().encode("utf-8")).digest()).decode("ascii")
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


@cache
def code() -> str:
    """The picture's own JavaScript, as one function."""
    parts = [files("stgnn.report").joinpath("_page", name).read_text(encoding="utf-8") for name in _SCRIPTS]
    return "(() => {\n'use strict';\n" + "\n".join(parts) + "})();\n"


def style() -> str:
    """The picture's own CSS."""
    return files("stgnn.report").joinpath("_page", "picture.css").read_text(encoding="utf-8")


def as_json(value: Any) -> str:
    r"""JSON for a script element, which no name can end.

    Examples
    --------
    >>> as_json("</script><b>")
    '"\\u003c/script\\u003e\\u003cb\\u003e"'
    """
    written = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def tell(facts: Facts) -> tuple[dict[str, Any], str]:
    """Say what the picture shows: names, colours and scales, and the packed arrays.

    Returns
    -------
    tuple[dict, str]
        What goes into the page as JSON, and the arrays as base64.
    """
    names = list(facts.sections)
    section = np.zeros(len(facts.confidence), dtype=np.int64)
    for place, rows in enumerate(facts.sections.values()):
        section[rows] = place
    _, coords = read_places(facts.adata, facts.spatial_key, None, None)
    placed = lay_out(coords, section, len(names), down=facts.down)
    layers, arrays = _layers(facts, section)
    arrays = {"x": placed.places[:, 0], "y": placed.places[:, 1], **arrays, "names": joined(facts.adata.obs_names)}
    packed, contents = pack(arrays)
    images = [
        {"uri": underlay.uri, "box": ((np.reshape(underlay.box, (2, 2)) - shift) / placed.step).ravel().tolist()}
        for name, shift in zip(names, placed.shift)
        if (underlay := facts.underlays.get(name)) is not None
    ]
    told = {
        "cells": len(section),
        "down": facts.down,
        "unit": facts.unit,
        "step": placed.step,
        "spacing": float(np.sqrt(area_per_cell(placed.places.astype(np.float64)))),
        "sections": [{"name": name, "shift": shift.tolist()} for name, shift in zip(names, placed.shift)],
        "layers": layers,
        "images": images,
        "arrays": contents,
    }
    return told, packed


def _layers(facts: Facts, section: np.ndarray) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """All that cells can be coloured by, and the arrays of it: classes first, then values from 0 to a largest."""
    assigned = facts.assigned
    classes = {"type": (assigned.code, assigned.names)}
    if len(facts.sections) > 1:
        classes["section"] = (section, list(facts.sections))
    if facts.region is not None:
        code, names = facts.region
        lost = bool((code < 0).any())
        classes["region"] = (np.where(code < 0, len(names), code), [*names, _NO_REGION] if lost else names)
    layers: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for name, (code, members) in classes.items():
        colors = type_colors(members)
        layers.append({"title": name, "array": name, "names": members, "colors": [colors[each] for each in members]})
        arrays[name] = codes(code, len(members))
    layers.append(_values("confidence", "confidence", 1.0, CONFIDENCE_COLORS))
    arrays["confidence"] = quantise(facts.confidence, 1.0)
    for place, (gene, values) in enumerate(facts.expression.items()):
        largest = _largest(values)
        layers.append({**_values(gene, f"gene {place}", largest, _EXPRESSION_COLORS), "gene": True})
        arrays[f"gene {place}"] = quantise(values, largest)
    return layers, arrays


def _values(title: str, array: str, largest: float, colors: Sequence[str]) -> dict[str, Any]:
    return {"title": title, "array": array, "largest": round(largest, 4), "colors": list(colors)}


def _largest(values: np.ndarray) -> float:
    """End of a gene's scale: few cells with very many counts must not make all others look alike."""
    expressed = values[values > 0]
    return float(np.percentile(expressed, 99)) if len(expressed) else 1.0


_ELEMENTS = """<div class="picture" id="picture" hidden>
<div class="picture-tools" role="group" aria-label="Picture">
<label>Colour by <select id="picture-by"></select></label>
<span class="picture-group" role="group" aria-label="What dragging does">
<button type="button" data-tool="move" aria-pressed="true">Move</button>
<button type="button" data-tool="lasso" aria-pressed="false">Lasso</button></span>
<span class="picture-group" role="group" aria-label="View">
<button type="button" data-do="closer" aria-label="Closer">+</button>
<button type="button" data-do="farther" aria-label="Farther">−</button>
<button type="button" data-do="whole">Whole</button></span>
<button type="button" data-do="take">Take what is in view</button>
<label class="picture-image" hidden><input type="checkbox" id="picture-image" checked> Image</label>
<label class="picture-image" hidden>Cells <input type="range" id="picture-cells" min="0" max="100" value="80"
aria-label="Opacity of the cells"></label>
</div>
<div class="picture-body">
<div class="picture-left">
<div class="picture-stage"><div class="picture-images"></div>
<canvas id="picture-canvas" tabindex="0" role="img" aria-label="$label" aria-describedby="picture-help"></canvas>
<svg class="picture-lasso" aria-hidden="true"><polygon points=""></polygon></svg>
<div class="picture-labels" aria-hidden="true"></div>
<div class="picture-bar" aria-hidden="true"><i class="picture-length"></i><span></span></div>
<div class="picture-tip" role="tooltip" hidden></div></div>
<div class="picture-scale" hidden><span></span><i class="picture-ramp"></i><span></span></div>
<p class="picture-help" id="picture-help">Keys on the picture: arrows move, + and − zoom, 0 shows the whole,
L draws a lasso, Esc clears it. Shift and drag also draws a lasso.</p>
<p class="picture-status" id="picture-status" role="status"></p>
<div class="picture-taken" hidden>
<button type="button" data-do="save">Download as CSV</button> <button type="button" data-do="clear">Clear</button>
<div class="picture-table" tabindex="0" role="region" aria-label="Cells taken">
<table><caption></caption><thead></thead><tbody></tbody></table></div>
</div>
</div>
<div class="picture-classes"></div>
</div>
</div>"""
