"""The part of the page that checks the reference's marker genes in the annotated cells."""

from __future__ import annotations

import numpy as np

from stgnn.report.facts import Facts
from stgnn.report.html import paragraph, table, text
from stgnn.report.markers import Markers

_NAMES_PX, _COLUMN_PX, _PAGE_PX = 180, 15, 32
_MOST_NAMED = 6


def full_width(facts: Facts) -> int:
    """Width of the page, in pixels, from which on all columns of the dot plot can be told apart."""
    return _PAGE_PX + _NAMES_PX + _COLUMN_PX * (len(facts.markers.types) if facts.markers else 0)


def marker_part(facts: Facts) -> str:
    """Dot plot of all types, and for narrow pages a table of each gene in its type against the highest other."""
    found = facts.markers
    if found is None:
        return paragraph(facts.no_markers)
    if not found.genes:
        return paragraph("No gene marks any of the types in the reference.")
    intro = paragraph(
        "Genes that mark each type in the reference, measured in the annotated cells. "
        "If the types are right, each gene is strongest in the type that it marks."
    )
    return intro + paragraph(verdict(found), "verdict") + _KEY + _full(found) + _own(found)


def verdict(found: Markers) -> str:
    """Say in how many types the markers agree, and name those in which none does."""
    agrees = found.agrees()
    marked = np.unique(found.owner)
    good = [code for code in marked if agrees[found.owner == code].mean() >= 0.5]
    sentence = (
        f"In {len(good)} of {len(marked)} types with cells and markers, at least half of the markers are highest in "
        "the type itself."
    )
    doubtful = []
    for code in marked:
        genes = np.flatnonzero(found.owner == code)
        if not agrees[genes].any():
            gene = int(genes[0])
            level = found.level[gene]
            what = f"highest in {found.types[int(level.argmax())]}" if level.max() > 0 else "not seen in any"
            doubtful.append(f"{found.types[code]} ({found.genes[gene]} is {what})")
    if len(doubtful) > _MOST_NAMED:
        doubtful = [*doubtful[:_MOST_NAMED], f"and {len(doubtful) - _MOST_NAMED} more"]
    return sentence + (f" Look twice at: {'; '.join(doubtful)}." if doubtful else "")


_KEY = (
    '<p class="key" aria-hidden="true"><span><i class="dot" style="--s:.32;--c:60%"></i>'
    '<i class="dot" style="--s:.71;--c:60%"></i><i class="dot" style="--s:1;--c:60%"></i> 10, 50, 100 % of cells '
    'express the gene</span> <span><i class="dot" style="--s:1;--c:8%"></i><i class="dot" style="--s:1;--c:50%"></i>'
    '<i class="dot" style="--s:1;--c:100%"></i> mean expression, 0 to the gene’s largest</span></p>'
)


def _dot(found: Markers, gene: int, code: int) -> str:
    level, share = found.level[gene, code], found.share[gene, code]
    # The area, not the width, is what the eye compares.
    return f'<i class="dot" style="--s:{np.sqrt(share):.2f};--c:{100 * level:.0f}%"></i>'


def _said(found: Markers, gene: int, code: int) -> str:
    return f"{100 * found.share[gene, code]:.0f} %, {found.level[gene, code]:.2f}"


def _full(found: Markers) -> str:
    heads = "".join(f'<th scope="col"><span>{text(name)}</span></th>' for name in found.types)
    groups = []
    for code, name in enumerate(found.types):
        genes = np.flatnonzero(found.owner == code).tolist()
        rows = []
        for place, gene in enumerate(genes):
            lead = f'<th scope="rowgroup" rowspan="{len(genes)}">{text(name)}</th>' if place == 0 else ""
            cells = "".join(
                f'<td{" class=own" if other == code else ""} title="{_said(found, gene, other)}">'
                f"{_dot(found, gene, other)}</td>"
                for other in range(len(found.types))
            )
            rows.append(f'<tr>{lead}<th scope="row">{text(found.genes[gene])}</th>{cells}</tr>')
        if rows:
            groups.append("<tbody>" + "\n".join(rows) + "</tbody>")
    return (
        '<table class="dots dots-full"><caption>Marker genes (rows) in the cells of each type (columns)</caption>'
        f'<thead><tr><th scope="col">marks</th><th scope="col">gene</th>{heads}</tr></thead>\n'
        + "\n".join(groups)
        + "</table>"
    )


def _own(found: Markers) -> str:
    rows = []
    for gene, owner in enumerate(found.owner.tolist()):
        others = [code for code in range(len(found.types)) if code != owner]
        highest = max(others, key=lambda code: float(found.level[gene, code]), default=None)
        elsewhere = ""
        if highest is not None:
            said = _said(found, gene, highest)
            elsewhere = f'{_dot(found, gene, highest)} {text(found.types[highest])}, <span class="said">{said}</span>'
        rows.append(
            (
                f'{text(found.types[owner])} <span class="gene">{text(found.genes[gene])}</span>',
                f'{_dot(found, gene, owner)} <span class="said">{_said(found, gene, owner)}</span>',
                elsewhere,
            )
        )
    caption = "Marker genes in their own type, and in the other type that has most: cells, mean of the gene’s largest"
    return table(caption, ("type and gene", "in the type", "highest elsewhere"), rows, "dots-own")
