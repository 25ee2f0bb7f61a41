"""The parts of the page with maps: types, confidence, and the cells to look at twice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stgnn.pl.colors import confidence_gradient, type_colors
from stgnn.report.facts import LOW, Facts
from stgnn.report.html import histogram, number, paragraph, percent, several, swatch, table, text
from stgnn.report.images import LOW_COLOR, MAX_SECTIONS, OTHER_COLOR, UNKNOWN_COLOR, map_uri, mapped_sections

_BINS = 40
_PERCENTILES = (5, 25, 50, 75, 95)


def type_part(facts: Facts) -> str:
    """Maps by type, with a legend that also counts."""
    colors, count = type_colors(facts.assigned.names), facts.assigned.number()
    items = "".join(
        f'<li>{swatch(colors[name], name)} <span class="count">{number(count[place])}</span></li>'
        for place, name in enumerate(facts.assigned.names)
        if count[place]
    )
    missing = [name for place, name in enumerate(facts.types) if not count[place]]
    absent = f"Not found: {', '.join(missing)}." if missing else ""
    legend = f'<div class="legend"><h3>Types and cells</h3><ul>{items}</ul>{paragraph(absent) if absent else ""}</div>'

    def describe(rows: np.ndarray) -> str:
        number_here = np.bincount(facts.assigned.code[rows], minlength=len(facts.assigned.names))
        most = [place for place in np.argsort(-number_here, kind="stable")[:3] if number_here[place]]
        return "coloured by type; most are " + ", ".join(
            f"{facts.assigned.names[place]} ({percent(number_here[place] / len(rows))})" for place in most
        )

    return _maps(facts, "type", describe, legend)


def confidence_part(facts: Facts) -> str:
    """Maps by confidence, its distribution, and a row a type."""
    legend = (
        '<div class="legend"><h3>Confidence</h3>'
        f'<div class="gradient" style="background:{confidence_gradient()}" aria-hidden="true"></div>'
        '<div class="scale" aria-hidden="true"><span>0</span><span>0.5</span><span>1</span></div>'
        + paragraph("The calibrated probability of the assigned type. The least sure cells lie on top.")
        + "<h3>All cells</h3>"
        + histogram(
            np.histogram(np.clip(facts.confidence, 0, 1), _BINS, (0.0, 1.0))[0].tolist(),
            f"Histogram of confidence; the median is {np.median(facts.confidence):.2f}",
        )
        + "</div>"
    )

    def describe(rows: np.ndarray) -> str:
        return f"coloured by confidence; the median is {np.median(facts.confidence[rows]):.2f}"

    return _maps(facts, "confidence", describe, legend) + _confidence_table(facts)


def doubt_part(facts: Facts) -> str:
    """Unknown and low-confidence cells: how many of each type, and where."""
    n_low, n_unknown, n_cells = int(facts.low.sum()), int(facts.unknown.sum()), len(facts.confidence)
    intro = paragraph(
        f"{several(n_low, 'cell')} ({percent(n_low / n_cells)}) got a type with a confidence below {LOW:g}; "
        f"{several(n_unknown, 'cell')} ({percent(n_unknown / n_cells)}) are unknown: "
        "the reference seems to have no answer for them."
    )
    if not n_low and not n_unknown:
        return paragraph(f"Every cell got a type with a confidence of {LOW:g} or more.")
    legend = (
        '<div class="legend"><h3>Cells</h3><ul>'
        f'<li>{swatch(UNKNOWN_COLOR, "unknown")} <span class="count">{number(n_unknown)}</span></li>'
        f'<li>{swatch(LOW_COLOR, "low confidence")} <span class="count">{number(n_low)}</span></li>'
        f'<li>{swatch(OTHER_COLOR, "other")} <span class="count">{number(n_cells - n_low - n_unknown)}</span></li>'
        "</ul></div>"
    )

    def describe(rows: np.ndarray) -> str:
        return f"{number(facts.unknown[rows].sum())} unknown and {number(facts.low[rows].sum())} of low confidence"

    maps = _maps(facts, "doubt", describe, legend) if not facts.no_map else ""
    return intro + maps + _doubt_table(facts)


def _maps(facts: Facts, kind: str, describe: Callable[[np.ndarray], str], legend: str) -> str:
    """One map a section beside their legend; ``describe`` says what the map of some cells shows."""
    if facts.no_map:
        return (paragraph(facts.no_map) if kind == "type" else "") + f'<div class="maps alone">{legend}</div>'
    figures = []
    for name in mapped_sections(facts):
        uri, width, height = map_uri(facts, kind, name)
        rows = facts.sections[name]
        alt = f"Map of {several(len(rows), 'cell')}{f' of section {name}' if name else ''}: {describe(rows)}."
        caption = f"<figcaption>{text(name)} <span>{several(len(rows), 'cell')}</span></figcaption>" if name else ""
        figures.append(
            f'<figure><img src="{uri}" width="{width}" height="{height}" alt="{text(alt)}">{caption}</figure>'
        )
    left_out = len(facts.sections) - len(figures)
    note = f"Shown are the {MAX_SECTIONS} sections with the most cells; {left_out} more are not." if left_out else ""
    css = "single" if len(figures) == 1 else "several"
    return (
        f'<div class="maps"><div class="panels {css}">{"".join(figures)}</div>{legend}</div>'
        f"{paragraph(note) if note else ''}"
    )


def _confidence_table(facts: Facts) -> str:
    colors, rows = type_colors(facts.assigned.names), []
    for place, name in enumerate(facts.assigned.names):
        mine = facts.confidence[facts.assigned.code == place]
        if len(mine):
            points = np.percentile(np.clip(mine, 0, 1), _PERCENTILES)
            rows.append((swatch(colors[name], name), _strip(points), f"{points[2]:.2f}", number(len(mine))))
    caption = (
        "Confidence by type: the line spans the middle 90 % of the cells, the bar the middle half, the dot the median"
    )
    return table(caption, ("type", "0 to 1", "median", "cells"), rows, "numbers strips")


def _strip(points: np.ndarray) -> str:
    low, lower, middle, upper, high = (100 * points).tolist()
    return (
        '<span class="strip" aria-hidden="true">'
        f'<i class="range" style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<i class="half" style="left:{lower:.1f}%;width:{upper - lower:.1f}%"></i>'
        f'<i class="middle" style="left:{middle:.1f}%"></i></span>'
    )


def _doubt_table(facts: Facts) -> str:
    colors, count = type_colors(facts.assigned.names), facts.assigned.number()
    n_types = len(facts.types)
    low = np.bincount(facts.assigned.code[facts.low], minlength=n_types + 1)[:n_types]
    near = np.zeros(n_types, dtype=np.int64)
    if facts.best is not None:
        near = np.bincount(facts.best[facts.unknown & facts.judged], minlength=n_types)[:n_types]
    rows = [
        (
            swatch(colors[facts.types[place]], facts.types[place]),
            number(low[place]),
            text(percent(low[place] / count[place])) if count[place] else "",
            *((number(near[place]),) if facts.best is not None else ()),
        )
        for place in np.argsort(-(low + near), kind="stable")
        if low[place] + near[place]
    ]
    if not rows:
        return ""
    head = ["type", f"confidence below {LOW:g}", "of the type"] + ["unknown, nearest to it"] * (facts.best is not None)
    return table("Cells to look at twice, by type", head, rows, "numbers")
