"""The page of the benchmark, written from the tables in ``results`` each time that the site is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
PAGES = ("benchmark.html", "spots/benchmark.html", "genes/benchmark.html", "scale/benchmark.html")
DASH = "–"

INTRODUCTION = """# Benchmark

All figures on this page are read from the tables in `results/` when the site is built; those in the README come from
the same files. `stgnn bench run` wrote them, each run in a fresh process; the truth is removed before the query is
handed over. Mean and standard deviation over seeds. Runs may be of different days: `runs.jsonl` beside each table has
their dates. The tasks were used to develop stgnn, so expect somewhat less elsewhere.
"""


def on_files(files: Any, config: Any) -> Any:
    """Put the page, and the reports that need no other file, on the site."""
    from mkdocs.structure.files import File

    for old in [file for file in files if file.src_uri == "benchmark.md"]:
        files.remove(old)
    files.append(File.generated(config, "benchmark.md", content=page(RESULTS)))
    for name in PAGES:
        files.append(File.generated(config, f"results/{name}", abs_src_path=str(RESULTS / name)))
    return files


def page(results: Path) -> str:
    """Write the page as Markdown.

    Parameters
    ----------
    results
        Folder with ``metrics.csv``, and ``spots``, ``genes``, ``scale`` and ``expression`` in it.

    Returns
    -------
    str
        Markdown.
    """
    return "\n".join(
        [
            INTRODUCTION,
            _types(pd.read_csv(results / "metrics.csv")),
            _spots(pd.read_csv(results / "spots" / "metrics.csv")),
            _genes(pd.read_csv(results / "genes" / "metrics.csv")),
            _expression(pd.read_csv(results / "expression" / "summary.csv")),
            _scale(pd.read_csv(results / "scale" / "metrics.csv")),
        ]
    )


def _types(table: pd.DataFrame) -> str:
    open_set, part = table["task"].str.contains(" without "), table["method"].str.startswith("stgnn, ")
    main = table[~open_set & ~part]
    order = _best_first(main, "macro_f1")
    lost = table[~open_set & (part | (table["method"] == "stgnn")) & (table["metric"] == "macro_f1")]
    told = table[table["metric"] == "rejection_auroc_left_out"].assign(
        task=lambda rows: rows["task"].str.partition(" without ")[0]
    )
    return "\n".join(
        [
            "## Cell types\n",
            "Macro-F1 in percent, best mean first, over query cells whose type is in the reference. Confusion and",
            "calibration are in the [full report](results/benchmark.html); [some rows](peers.md) are real packages.\n",
            _grid(main, "macro_f1", order, percent),
            "Accuracy in percent, in the same order:\n",
            _grid(main, "accuracy", order, percent),
            "Seconds and memory of a whole annotation, in the same order:\n",
            _costs(main, order),
            "### Parts switched off\n",
            "Macro-F1 in percent. `all parts` has those on, too, that are off by default; `no ...` lacks one:\n",
            _grid(lost, "macro_f1", _best_first(lost, "macro_f1"), percent),
            "### Types that the reference lacks\n",
            "AUROC of the rejection score when a type is left out of the reference, over the types left out in turn:\n",
            _grid(told, "rejection_auroc_left_out", _best_first(told, "rejection_auroc_left_out"), plain),
        ]
    )


def _spots(table: pd.DataFrame) -> str:
    order = _best_first(table, "rmse")[::-1]
    return "\n".join(
        [
            "## Spots\n",
            "Root mean square error of the shares, best mean first ([full report](results/spots/benchmark.html)):\n",
            _grid(table, "rmse", order, plain),
            "Correlation of the types over spots, in the same order:\n",
            _grid(table, "pearson", order, plain),
        ]
    )


def _genes(table: pd.DataFrame) -> str:
    return "\n".join(
        [
            "## Imputed genes\n",
            "Rank correlation of held-out genes with what was measured ([report](results/genes/benchmark.html)):\n",
            _grid(table, "spearman", _best_first(table, "spearman"), plain),
        ]
    )


def _expression(table: pd.DataFrame) -> str:
    lines = [
        "## Expression from histology\n",
        "Correlation of the most spatial genes with what was measured, mean over folds; noise allows the `ceiling`.",
        "All scores, with intervals, are in `results/expression/summary.csv`, paired differences beside it.\n",
    ]
    spatial = table[table["genes"] == "spatial"]
    for kind, own in spatial.groupby("kind", sort=False):
        where = own["task"] + " " + own["level"].astype(str) + " um"
        own = own.assign(task=where)
        ceiling = own[own["metric"] == "ceiling"].assign(method="ceiling", metric="pearson")
        order = ["ceiling", *_best_first(own, "pearson")]
        lines += [f"{str(kind).capitalize()}:\n", _grid(pd.concat([own, ceiling]), "pearson", order, one)]
    return "\n".join(lines)


def _scale(table: pd.DataFrame) -> str:
    rows = table[table["metric"] == "macro_f1"]
    lines = [
        "## Large sections\n",
        "From file to annotated file ([full report](results/scale/benchmark.html)):\n",
        _line(["tissue", "method", "seconds", "GB", "macro-F1"]),
        "|---" * 5 + "|",
        *[
            _line([row.task, row.method, f"{row.seconds:.0f}", f"{row.memory_gb:.1f}", f"{100 * row.value:.1f}"])
            for row in rows.itertuples()
        ],
    ]
    return "\n".join(lines) + "\n"


def percent(values: pd.Series) -> str:
    """Mean and spread of shares, in percent.

    Examples
    --------
    >>> percent(pd.Series([0.5, 0.6]))
    '55.0 ± 7.1'
    """
    return plain(100 * values, 1)


def plain(values: pd.Series, digits: int = 3) -> str:
    """Mean of scores, and their spread where there are several."""
    return f"{values.mean():.{digits}f}" + (f" ± {values.std():.{digits}f}" if len(values) > 1 else "")


def one(values: pd.Series) -> str:
    """Mean of scores alone."""
    return f"{values.mean():.3f}"


def _best_first(table: pd.DataFrame, metric: str) -> list[str]:
    """Methods by the mean of a score over the tasks that all have, else over those that each has."""
    means = table[table["metric"] == metric].pivot_table("value", "task", "method")
    whole = means.dropna()
    return list((whole if len(whole) else means).mean().sort_values(ascending=False, kind="stable").index)


def _grid(table: pd.DataFrame, metric: str, methods: Sequence[str], write: Callable[[pd.Series], str]) -> str:
    """Table of a score, a row a method and a column a task."""
    rows = table[table["metric"] == metric]
    tasks = list(dict.fromkeys(rows["task"]))
    cell = {key: write(values) for key, values in rows.groupby(["method", "task"])["value"]}
    lines = [_line(["method", *tasks]), "|---" * (len(tasks) + 1) + "|"]
    lines += [_line([name, *[cell.get((name, task), DASH) for task in tasks]]) for name in methods]
    return "\n".join(lines) + "\n"


def _costs(table: pd.DataFrame, methods: Sequence[str]) -> str:
    runs = table.drop_duplicates(["task", "method", "seed"]).groupby("method")
    seconds, memory = runs["seconds"].mean(), runs["memory_gb"].max()
    lines = [_line(["method", "seconds, mean over tasks", "GB at most"]), "|---" * 3 + "|"]
    return "\n".join(lines + [_line([name, f"{seconds[name]:.0f}", f"{memory[name]:.1f}"]) for name in methods]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
