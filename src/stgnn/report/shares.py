"""The part of the page that sets the composition against the reference's."""

from __future__ import annotations

from stgnn.data.schema import UNKNOWN
from stgnn.pl.colors import type_colors
from stgnn.report.facts import Facts
from stgnn.report.html import bar, paragraph, percent, swatch, table, text

_REFERENCE = "var(--grey)"


def composition_part(facts: Facts) -> str:
    """Share of each type among the cells and in the reference, the largest first."""
    share = dict(zip(facts.assigned.names, (facts.assigned.number() / len(facts.confidence)).tolist()))
    other, colors = facts.reference_share, type_colors(facts.assigned.names)
    names = [*share, *(name for name in other if name not in share)]
    names = [name for name in names if share.get(name) or other.get(name)]
    names.sort(key=lambda name: (name == UNKNOWN, -share.get(name, 0.0), -other.get(name, 0.0)))
    longest = max([*share.values(), *other.values()])
    rows = []
    for name in names:
        color = colors.get(name, _REFERENCE)
        bars = bar(share.get(name, 0.0) / longest, color)
        values = [text(percent(share.get(name, 0.0)))]
        if other:
            bars += bar(other.get(name, 0.0) / longest, _REFERENCE, "thin")
            values.append(text(percent(other[name])) if name in other else "–")
        rows.append((swatch(color, name), bars, *values))
    head = ["type", "share", "here"] + ["reference"] * bool(other)
    caption = "Share of each type" + (": coloured, the annotated cells; grey, the reference" if other else "")
    said = (
        "The shares need not agree: a dissociated reference loses fragile cells, and was cut from other tissue."
        if other
        else "No reference was given to compare with."
    )
    return paragraph(said) + table(caption, head, rows, "numbers bars")
