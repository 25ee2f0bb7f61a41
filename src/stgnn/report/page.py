"""The page: its summary, and its parts in the order in which a reader asks."""

from __future__ import annotations

from importlib.resources import files
from string import Template

import numpy as np

from stgnn.report.details import curve_part, run_part
from stgnn.report.dotplot import full_width, marker_part
from stgnn.report.facts import Facts
from stgnn.report.html import number, paragraph, percent, section, several, table, text
from stgnn.report.interactive import content_policy, picture_part, style
from stgnn.report.maps import confidence_part, doubt_part, type_part
from stgnn.report.shares import composition_part

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<link rel="icon" href="data:,">
<style>
$style
$picture_style
@media (max-width: ${narrow}px) { .dots-full { display: none } }
@media (min-width: ${wide}px) { .dots-own { display: none } }
</style>
</head>
<body>
<header>
<h1>Cell type annotation</h1>
<p class="lede">$summary</p>
$tiles
$sections
<nav aria-label="Parts of this report"><ul>$links</ul></nav>
</header>
<main>
$main
</main>
<footer>$footer</footer>
</body>
</html>
""")


def build(facts: Facts) -> str:
    """Make the whole page."""
    parts = {
        "types": ("Types on the map" if not facts.no_map else "Types", _types(facts)),
        "confidence": ("Confidence", confidence_part(facts)),
        "doubt": ("Cells to look at twice", doubt_part(facts)),
        "composition": ("Composition", composition_part(facts)),
        "markers": ("Marker genes", marker_part(facts)),
        "training": ("Training", curve_part(facts)),
        "run": ("The run", run_part(facts)),
    }
    narrow = full_width(facts)
    return _PAGE.substitute(
        title=text(f"Cell type annotation of {several(len(facts.confidence), 'cell')}"),
        style=files("stgnn.report").joinpath("style.css").read_text(encoding="utf-8"),
        picture_style=style(),
        policy=content_policy(),
        narrow=narrow - 1,
        wide=narrow,
        summary=text(summary(facts)),
        tiles=_tiles(facts),
        sections=_section_table(facts),
        links="".join(f'<li><a href="#{name}">{text(title)}</a></li>' for name, (title, _) in parts.items()),
        main="\n".join(section(name, title, body) for name, (title, body) in parts.items()),
        footer=paragraph(f"Written by stgnn {facts.record.get('version', '')}".strip() + "."),
    )


def summary(facts: Facts) -> str:
    """One sentence on the whole annotation."""
    n_cells, n_found = len(facts.confidence), int((facts.assigned.number()[:-1] > 0).sum())
    where = f" in {several(len(facts.sections), 'section')}" if facts.section_key is not None else ""
    n_unknown = int(facts.unknown.sum())
    unknown = f"{percent(n_unknown / n_cells)} are unknown" if n_unknown else "none is unknown"
    if facts.no_map:
        space = ", and no places of the cells were known, so space was not used"
    elif facts.space_used is None:
        space = ", and whether space was used is not recorded"
    elif isinstance(facts.space_used, str):
        space = f"; on space, the method notes: {facts.space_used}"
    else:
        space = ", and the places of the cells were " + ("used" if facts.space_used else "not used")
    return (
        f"{several(n_cells, 'cell')}{where} were given {n_found} of {several(len(facts.types), 'known type')}: "
        f"{unknown}, the median confidence is {np.median(facts.confidence):.2f}{space}."
    )


def _types(facts: Facts) -> str:
    """The picture, and the maps that stand in its place where a browser cannot draw it."""
    return f'<div id="picture-still">{type_part(facts)}</div>\n' + picture_part(facts)


def _tiles(facts: Facts) -> str:
    n_cells = len(facts.confidence)
    tiles = {
        "cells": number(n_cells),
        "types found": f"{int((facts.assigned.number()[:-1] > 0).sum())} of {len(facts.types)}",
        "unknown": percent(float(facts.unknown.mean())),
        "low confidence": percent(float(facts.low.mean())),
        "median confidence": f"{np.median(facts.confidence):.2f}",
    }
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in tiles.items())
    return f'<dl class="tiles">{items}</dl>'


def _section_table(facts: Facts) -> str:
    if len(facts.sections) < 2:
        return ""
    rows = [
        (
            text(name),
            number(len(rows)),
            text(percent(float(facts.unknown[rows].mean()))),
            text(percent(float(facts.low[rows].mean()))),
            f"{np.median(facts.confidence[rows]):.2f}",
        )
        for name, rows in facts.sections.items()
    ]
    head = ("section", "cells", "unknown", "low confidence", "median confidence")
    return table("By section", head, rows, "numbers")
