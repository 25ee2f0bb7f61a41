"""The last parts of the page: how the model learned, and everything recorded of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from stgnn.pl.keys import curve_series, curve_steps
from stgnn.report.facts import Facts
from stgnn.report.html import histogram, paragraph, percent, table, text

_MOST_CURVES = 12
_MOST_ITEMS = 8


def curve_part(facts: Facts) -> str:
    """One small line chart for each column of the training curve."""
    names = curve_series(facts.curve)
    if not names:
        return paragraph("No training curve was recorded: the method may need no training.")
    charts = "".join(_chart(facts, name) for name in names[:_MOST_CURVES])
    return f'<div class="curves">{charts}</div>'


def run_part(facts: Facts) -> str:
    """Threshold and calibration, notes, and the recorded parameters behind a summary to open."""
    threshold = facts.record.get("threshold")
    parts = []
    if threshold is not None:
        n_unknown = int(facts.unknown.sum())
        parts.append(
            paragraph(
                f"Cells with a rejection score above {float(threshold):.3g} are called unknown: "
                f"{n_unknown:,} of {len(facts.confidence):,} ({percent(n_unknown / len(facts.confidence))})."
            )
        )
    if facts.rejection is not None and np.ptp(facts.rejection) > 0:
        counts = np.histogram(np.clip(facts.rejection, 0, 1), 40, (0.0, 1.0))[0].tolist()
        mark = float(threshold) if threshold is not None and 0 < float(threshold) < 1 else None
        label = "Histogram of the rejection score" + (
            f", with the threshold at {threshold:.3g}" if mark is not None else ""
        )
        drawn = histogram(counts, label, mark)
        parts.append(f'<h3>Rejection score</h3><div class="half-width">{drawn}</div>')
    notes = [str(note) for note in np.atleast_1d(facts.record.get("notes", []))]
    if notes:
        items = "".join(f"<li>{text(note)}</li>" for note in notes)
        parts.append(f"<h3>What was noted on reading the data</h3><ul>{items}</ul>")
    details = facts.record.get("details", {})
    kept = {name: value for name, value in details.items() if name != "curve"} if isinstance(details, Mapping) else {}
    groups = {
        "Calibration and choices": kept,
        "Parameters": facts.record.get("parameters", {}),
        "Versions and types": {
            "stgnn": facts.record.get("version", "not recorded"),
            **_mapping(facts.record.get("versions")),
            "types": facts.types,
        },
    }
    for title, values in groups.items():
        rows = [(text(name), text(value)) for name, value in _flat(_mapping(values))]
        if rows:
            parts.append(
                f"<details><summary>{text(title)}</summary>{table(title, ('name', 'value'), rows, 'plain')}</details>"
            )
    return "\n".join(parts)


def _chart(facts: Facts, name: str) -> str:
    x_name, steps = curve_steps(facts.curve, name)
    values = facts.curve[name]
    kept = np.isfinite(values) & np.isfinite(steps)
    steps, values = steps[kept], values[kept]
    title = name.replace("_", " ")
    if not len(values):
        return ""
    low, high = float(values.min()), float(values.max())
    across = (steps - steps.min()) / (np.ptp(steps) or 1.0) * 300
    up = 96 - 92 * (values - low) / ((high - low) or 1.0)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, up))
    label = f"{title}: from {values[0]:.3g} to {values[-1]:.3g} over {len(values)} points"
    shape = f'<polyline points="{points}"/>' if len(values) > 1 else '<circle cx="150" cy="50" r="4"/>'
    return (
        f"<figure><figcaption>{text(title)} <span>{values[0]:.3g} → {values[-1]:.3g}</span></figcaption>"
        '<div class="plot">'
        f'<div class="axis" aria-hidden="true"><span>{high:.3g}</span><span>{low:.3g}</span></div>'
        f'<svg viewBox="0 0 300 100" preserveAspectRatio="none" role="img" aria-label="{text(label)}">'
        f"{shape}</svg></div>"
        f'<div class="scale under" aria-hidden="true"><span>{steps.min():g}</span><span>{text(x_name)}</span>'
        f"<span>{steps.max():g}</span></div></figure>"
    )


def _mapping(values: Any) -> dict[str, Any]:
    return {str(name): value for name, value in values.items()} if isinstance(values, Mapping) else {}


def _flat(values: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, str]]:
    """Names and short texts of nested values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(_mapping(value), f"{start}{name}.")
        else:
            yield f"{start}{name}", _short(value)


def _short(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple, np.ndarray)):
        items = list(np.asarray(value, dtype=object).ravel())
        shown = ", ".join(_short(item) for item in items[:_MOST_ITEMS])
        return shown + (f", … ({len(items)} in all)" if len(items) > _MOST_ITEMS else "")
    shown = str(value)
    return shown if len(shown) <= 400 else shown[:400] + "…"
