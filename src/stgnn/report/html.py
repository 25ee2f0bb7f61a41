"""The few pieces of HTML that a report is made of; every text that comes from data passes :func:`text`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_THIN = "\u202f"  # a narrow space, at which no line breaks, before the percent sign


def text(value: object) -> str:
    """Escape a value for a text or an attribute.

    Examples
    --------
    >>> text("<b>&")
    '&lt;b&gt;&amp;'
    """
    # Characters that XML and HTML forbid would make the whole page malformed.
    return escape(
        "".join(letter if letter.isprintable() or letter == _THIN else " " for letter in str(value)), quote=True
    )


def number(value: float) -> str:
    """Write a whole number with thin groups of three.

    Examples
    --------
    >>> number(20693)
    '20,693'
    """
    return f"{int(value):,}"


def percent(share: float) -> str:
    """Write a share as a percentage that is 0 or 100 only if the share is.

    Examples
    --------
    >>> percent(0.031), percent(0.0), percent(0.0001), percent(1.0), percent(0.9999)
    ('3.1\u202f%', '0\u202f%', '<0.1\u202f%', '100\u202f%', '>99.9\u202f%')
    """
    if share in (0, 1):
        return f"{100 * share:.0f}{_THIN}%"
    if share < 0.0005:
        return f"<0.1{_THIN}%"
    return f">99.9{_THIN}%" if share > 0.9995 else f"{100 * share:.1f}{_THIN}%"


def several(count: int, thing: str) -> str:
    """Write a number of things.

    Examples
    --------
    >>> several(1, "cell"), several(2000, "cell")
    ('1 cell', '2,000 cells')
    """
    return f"{number(count)} {thing}" + ("" if count == 1 else "s")


def section(identifier: str, title: str, body: str) -> str:
    """Part of the page under a heading of the second level; the body is HTML."""
    return (
        f'<section id="{text(identifier)}" aria-labelledby="{text(identifier)}-title">\n'
        f'<h2 id="{text(identifier)}-title">{text(title)}</h2>\n{body}\n</section>'
    )


def paragraph(sentence: str, css: str = "") -> str:
    """Paragraph of plain text."""
    return f"<p{_class(css)}>{text(sentence)}</p>"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], css: str = "") -> str:
    """Table whose first column names the rows; the head is plain text, the cells are HTML."""
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "\n".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    return (
        f"<table{_class(css)}>\n<caption>{text(caption)}</caption>\n"
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    )


def swatch(color: str, name: str) -> str:
    """Name of a type after a dot of its colour."""
    return (
        f'<span class="name"><span class="swatch" style="background:{text(color)}" aria-hidden="true"></span>'
        f"<span>{text(name)}</span></span>"
    )


def bar(share: float, color: str, css: str = "") -> str:
    """Bar of a length from 0 to 1; decoration beside a number, so that a reader aloud may pass it."""
    if share <= 0:
        return f'<span class="bar {text(css)}" aria-hidden="true"></span>'
    return (
        f'<span class="bar {text(css)}" aria-hidden="true">'
        f'<span style="width:{100 * share:.2f}%;background:{text(color)}"></span></span>'
    )


def histogram(counts: Sequence[int], label: str, marker: float | None = None) -> str:
    """Bars over 0 to 1, drawn as SVG that stretches with the page; ``marker`` is a place from 0 to 1."""
    step, largest = 100 / len(counts), max(max(counts), 1)
    bars = "".join(
        f'<rect x="{place * step + 0.15:.2f}%" y="{100 - 100 * count / largest:.2f}%" '
        f'width="{step - 0.3:.2f}%" height="{100 * count / largest:.2f}%"/>'
        for place, count in enumerate(counts)
        if count
    )
    line = ""
    if marker is not None:
        line = f'<line x1="{100 * marker:.2f}%" x2="{100 * marker:.2f}%" y1="0" y2="100%"/>'
    return (
        f'<div class="histogram"><svg role="img" aria-label="{text(label)}">{bars}{line}</svg>'
        '<div class="scale" aria-hidden="true"><span>0</span><span>0.5</span><span>1</span></div></div>'
    )


def _class(css: str) -> str:
    return f' class="{text(css)}"' if css else ""
