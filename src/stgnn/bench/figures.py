"""Figures of results, each as a PNG inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn.bench.tables import in_order
from stgnn.pl.colors import type_colors

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 110
_COLUMNS = 3
_BINS = 10


def task_bars(table: pd.DataFrame) -> str:
    """Macro-F1 of each method, one panel a task: bars for means, lines for standard deviations, dots for seeds."""
    methods, tasks = in_order(table["method"]), in_order(table["task"])
    colors = type_colors(methods)
    figure, panels = _panels(tasks, height=0.6 + 0.27 * len(methods))
    for place, (task, ax) in enumerate(panels):
        for row, method in enumerate(methods):
            own = table[(table["task"] == task) & (table["method"] == method)]["macro_f1"]
            if len(own):
                deviation = own.std() if len(own) > 1 else 0.0
                ax.barh(row, own.mean(), xerr=deviation, color=colors[method], height=0.7)
                ax.plot(own, np.full(len(own), row), ".", color="black", markersize=3)
        ax.set(xlim=(0, 1), ylim=(len(methods) - 0.4, -0.6))
        ax.set_yticks(range(len(methods)), methods if place % _COLUMNS == 0 else [""] * len(methods))
    return _uri(figure)


def confusion(records: Sequence[dict[str, Any]]) -> str:
    """Share of each true type that was given each type, over all seeds of one task."""
    found = [record["details"]["confusion"] for record in records]
    rows, columns = (sorted(set().union(*(one[side] for one in found))) for side in ("truth", "predicted"))
    counts = np.zeros((len(rows), len(columns)))
    for one in found:  # a method may answer in one seed what it does not in another
        counts[np.ix_(np.searchsorted(rows, one["truth"]), np.searchsorted(columns, one["predicted"]))] += one["counts"]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    small = 6 if max(len(rows), len(columns)) > 25 else 8
    step = 0.16 if small == 6 else 0.26
    figure = _figure(2.4 + step * len(columns), 1.8 + step * len(rows))
    ax = figure.add_subplot()
    image = ax.imshow(share, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    ax.set_xticks(range(len(columns)), columns, rotation=90, fontsize=small)
    ax.set_yticks(range(len(rows)), rows, fontsize=small)
    ax.set_xlabel("predicted", fontsize=8)
    ax.set_ylabel("true", fontsize=8)
    figure.colorbar(image, ax=ax, shrink=0.6).ax.tick_params(labelsize=7)
    return _uri(figure)


def homophily(table: pd.DataFrame) -> str:
    """Accuracy of each method on each task, against how alike neighbours are there."""
    figure = _figure(8.5, 4.2)
    ax = figure.add_subplot()
    table = table.dropna(subset=["homophily"])
    for method, color in type_colors(in_order(table["method"])).items():
        own = table[table["method"] == method].groupby("task")[["homophily", "accuracy"]].mean()
        ax.plot(own["homophily"], own["accuracy"], "o", color=color, label=method, markersize=5)
    for task, place in table.groupby("task")["homophily"].mean().items():
        ax.annotate(str(task), (place, 1.01), xycoords=("data", "axes fraction"), rotation=60, fontsize=7, va="bottom")
    ax.set_xlabel("share of neighbour pairs with one true type", fontsize=8)
    ax.set_ylabel("accuracy", fontsize=8)
    ax.tick_params(labelsize=7)
    _legend(figure, ax)
    return _uri(figure)


def growth(table: pd.DataFrame) -> str:
    """Seconds and memory of each method against the number of cells, both on logarithmic axes."""
    figure = _figure(8.5, 3.6)
    table = table.assign(cells=(table["cells_per_second"] * table["seconds"]).round())
    panels = figure.subplots(1, 2)
    for ax, (column, title) in zip(panels, (("seconds", "seconds"), ("memory_gb", "memory, GB")), strict=True):
        for method, color in type_colors(in_order(table["method"])).items():
            own = table[table["method"] == method].groupby("cells")[column].mean()
            ax.plot(own.index, own, "o-", color=color, label=method, markersize=4)
        ax.set(xscale="log", yscale="log")
        ax.set_xlabel("cells", fontsize=8)
        ax.set_ylabel(title, fontsize=8)
        ax.tick_params(labelsize=7)
    _legend(figure, panels[1])
    return _uri(figure)


def cost(table: pd.DataFrame) -> str:
    """Seconds and memory of each method: bars for means over tasks, dots for tasks."""
    methods = in_order(table["method"])
    colors = type_colors(methods)
    figure = _figure(9, 0.9 + 0.27 * len(methods))
    titles = {"seconds": "seconds", "cpu_seconds": "CPU seconds", "memory_gb": "memory, GB"}
    for ax, (column, title) in zip(figure.subplots(1, 3, sharey=True), titles.items()):
        for row, method in enumerate(methods):
            each = table[table["method"] == method].groupby("task")[column].mean()
            ax.barh(row, each.mean(), color=colors[method], height=0.7)
            ax.plot(each, np.full(len(each), row), ".", color="black", markersize=3)
        ax.set_title(title, fontsize=9)
        if column != "memory_gb":
            _whole_decades(ax, table[column])
        ax.tick_params(labelsize=7)
    ax.set_yticks(range(len(methods)), methods)
    ax.set_ylim(len(methods) - 0.4, -0.6)
    return _uri(figure)


def calibration(records: Sequence[dict[str, Any]]) -> str:
    """Share of right answers against confidence, one panel a task, seeds together."""
    figure, panels = _panels(in_order(record["task"] for record in records), height=2.4)
    colors = type_colors(in_order(record["method"] for record in records))
    for task, ax in panels:
        ax.plot((0, 1), (0, 1), color="#bbbbbb", linewidth=0.8)
        for method, own in _of_task(records, task, "reliability"):
            mean, share = _pooled(own)
            ax.plot(mean, share, ".-", color=colors[method], label=method, linewidth=1, markersize=4)
        ax.set(xlim=(0, 1), ylim=(0, 1))
    figure.supxlabel("confidence", fontsize=8)
    figure.supylabel("share of right answers", fontsize=8)
    _legend(figure, *figure.axes)
    return _uri(figure)


def risk_coverage(records: Sequence[dict[str, Any]]) -> str:
    """Share of errors among the most confident cells, against the share answered, one panel a task; means of seeds."""
    figure, panels = _panels(in_order(record["task"] for record in records), height=2.4)
    colors = type_colors(in_order(record["method"] for record in records))
    for task, ax in panels:
        for method, own in _of_task(records, task, "risk_coverage"):
            coverage = own[0]["coverage"]
            risk = np.mean([np.interp(coverage, each["coverage"], each["risk"]) for each in own], axis=0)
            ax.plot(coverage, risk, color=colors[method], label=method, linewidth=1)
        ax.set_xlim(0, 1)
        ax.set_ylim(bottom=0)
    figure.supxlabel("share of cells answered", fontsize=8)
    figure.supylabel("share of errors", fontsize=8)
    _legend(figure, *figure.axes)
    return _uri(figure)


def _of_task(
    records: Sequence[dict[str, Any]], task: str, detail: str
) -> Iterator[tuple[str, list[dict[str, list[float]]]]]:
    """One detail of all seeds, by method."""
    rows = [record for record in records if record["task"] == task and detail in record["details"]]
    for method in in_order(record["method"] for record in rows):
        yield method, [record["details"][detail] for record in rows if record["method"] == method]


def _pooled(curves: Sequence[dict[str, list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Join reliability curves of several seeds, whose bins differ, in bins of equal width."""
    mean, share, count = (
        np.concatenate([np.asarray(curve[name], dtype=float) for curve in curves])
        for name in ("confidence", "accuracy", "count")
    )
    code = np.minimum((mean * _BINS).astype(int), _BINS - 1)
    total = np.bincount(code, count, minlength=_BINS)
    used = total > 0
    return tuple(np.bincount(code, count * values, minlength=_BINS)[used] / total[used] for values in (mean, share))  # type: ignore[return-value]


def _whole_decades(ax: Axes, values: pd.Series) -> None:
    """Logarithmic axis whose ends are powers of ten, so that two labels at least are shown."""
    low, high = np.floor(np.log10(max(values.min(), 0.01))), np.ceil(np.log10(max(values.max(), 0.02)))
    ax.set_xscale("log")
    ax.set_xlim(10.0**low, 10.0 ** max(high, low + 1))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _panels(names: Sequence[str], height: float) -> tuple[Figure, list[tuple[str, Axes]]]:
    """Grid of panels, each with its title."""
    rows = -(-len(names) // _COLUMNS)
    figure = _figure(9, height * rows)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for ax in axes[len(names) :]:
        ax.remove()
    for ax, name in zip(axes, names):
        ax.set_title(name, fontsize=9)
        ax.tick_params(labelsize=7)
    return figure, list(zip(names, axes))


def _legend(figure: Figure, *axes: Axes) -> None:
    """One legend for all panels, above them."""
    entries: dict[str, Any] = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles))
    if entries:
        figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=4, fontsize=8, frameon=False)


def _uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
