"""Parts of the page on spots, imputed genes and large sections, and the pieces that all parts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stgnn.bench import figures, tables
from stgnn.bench.tables import DASH, in_order
from stgnn.report.html import paragraph, text
from stgnn.report.html import table as html_table

if TYPE_CHECKING:
    import pandas as pd

SPOT_SCORES = (
    ("rmse", "Error of shares (root mean square), percent", "0 is perfect."),
    ("pearson", "Correlation with the true shares, percent", "Mean over types that vary; 100 is perfect."),
    ("jensen_shannon", "Jensen-Shannon divergence, percent of a bit", "0 is perfect."),
    ("covered", "True shares within two standard deviations, percent", "95 is meant."),
    ("unexplained_auroc", "AUROC of the unexplained share, percent", "Where a type left out is; 50 is chance."),
)
"""Scores of spots: name, title, how to read it."""

SPOT_SEEDS = "Mean ± standard deviation over seeds, each of which simulates spots anew."

GENE_SCORES = (
    ("spearman", "Rank correlation with held-out genes, percent", "Mean over genes; a gene's mean has 0 in all cells."),
    ("pearson", "Correlation with held-out genes, percent", "Mean over genes, of log-normalised expression."),
    (
        "reliability_pearson",
        "Correlation of reliability told and achieved, percent",
        "Over genes; methods that do not tell how far a gene can be relied on have none.",
    ),
    (
        "reliability_error",
        "Error of the reliability told, points of rank correlation",
        "Mean over genes; 0 is perfect.",
    ),
)
"""Scores of imputed genes: name, title, how to read it."""

GENE_SEEDS = "Mean ± standard deviation over seeds, each of which holds genes out in other parts."


def scores_by_task(table: pd.DataFrame, scores: Sequence[tuple[str, str, str]], seeds: str) -> str:
    """A table of each score, methods against tasks; nothing without runs."""
    drawn = ""
    for score, title, said in scores:
        if score not in table or table[score].isna().all():
            continue
        methods, tasks = in_order(table["method"]), in_order(table["task"])
        means = tables.means(table, score)
        rows = []
        for task in tasks:
            own = table[table["task"] == task]
            rows.append([text(task), *(tables.spread(own[own["method"] == name][score]) for name in methods)])
        common = tables.shared(means)
        if len(common):
            rows.append(["mean", *(f"{100 * common[name].mean():.1f}" for name in methods)])
        drawn += paragraph(f"{said} {seeds}")
        drawn += wide_table(title, ["task", *methods], rows)
    return drawn


def growth(table: pd.DataFrame) -> str:
    """What annotation costs as sections grow; nothing without runs."""
    if table.empty:
        return ""
    methods, tasks = in_order(table["method"]), in_order(table["task"])
    said = "Tissue of any size, laid out of real sections; from file to annotated file, reference and fitting included."
    drawn = paragraph(said) + image(figures.growth(table), "Seconds and memory of each method against cells")
    for title, column, form in (
        ("Seconds", "seconds", "{:,.0f}"),
        ("Memory, GB", "memory_gb", "{:.1f}"),
        ("Macro-F1, percent", "macro_f1", "{:.1%}"),
    ):
        means = table.groupby(["task", "method"])[column].mean()
        rows = [
            [text(task), *(form.format(means[task, name]) if (task, name) in means else DASH for name in methods)]
            for task in tasks
        ]
        drawn += wide_table(title, ["", *methods], rows)
    return drawn


def wide_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], css: str = "numbers") -> str:
    """A table that scrolls where the page is narrower."""
    return f'<div class="wide">{html_table(caption, head, rows, css)}</div>'


def image(uri: str, caption: str) -> str:
    """A figure with its caption."""
    return f'<figure><img src="{uri}" alt="{text(caption)}"><figcaption>{text(caption)}</figcaption></figure>'
