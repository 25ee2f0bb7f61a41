"""One self-contained HTML file of the benchmark's results, and its main table as Markdown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from stgnn.bench import figures, report_parts, tables
from stgnn.bench.methods import OURS
from stgnn.bench.records import ABSENT, RUNS, is_of, read
from stgnn.bench.report_parts import image, wide_table
from stgnn.bench.tables import DASH, in_order
from stgnn.data.schema import FileError
from stgnn.report import check_path
from stgnn.report.html import paragraph, section, several, text

if TYPE_CHECKING:
    import pandas as pd

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Benchmark</title>
<link rel="icon" href="data:,">
<style>
$style
.wide { overflow-x: auto }
figure { margin: 0 0 1.5rem }
figure img { width: auto; max-width: 100% }
</style>
</head>
<body>
<header>
<h1>Benchmark of cell type annotation</h1>
<p class="lede">$summary</p>
<nav aria-label="Parts of this report"><ul>$links</ul></nav>
</header>
<main>
$main
</main>
</body>
</html>
""")


def write(results: str | Path, path: str | Path, *, markdown: str | Path | None = None) -> None:
    """Write what was found as one HTML file, which appears whole or not at all and loads nothing from anywhere.

    Parameters
    ----------
    results
        Folder that :func:`stgnn.bench.run.run` has filled.
    path
        Where: a name ending in ``.html``. An earlier file is replaced.
    markdown
        File to write the main table to as Markdown; None for none.

    Returns
    -------
    None
        Writes the files.

    Raises
    ------
    FileError
        If there are no results, or a file cannot be written.

    Examples
    --------
    >>> write("no/such/folder", "benchmark.html")
    Traceback (most recent call last):
    stgnn.data.schema.FileError: results: expected a folder with runs.jsonl; found 'no/such/folder'
    """
    path = check_path(path, argument="output")
    if markdown is not None:
        _check_markdown(Path(markdown))
    found = read(results)
    records = tables.ordered(record for record in found if not is_of(record, "expression"))
    if found and not records:
        what = f"those of predicted expression in {str(results)!r}"
        raise FileError("results", expected="results of annotation", found=what, hint="see its summary.csv")
    if not records:
        what = f"none finished in {str(results)!r}" if (Path(results) / RUNS).is_file() else repr(str(results))
        raise FileError("results", expected=f"a folder with {RUNS}", found=what)
    _write_atomically(build(records), path, "output")
    if markdown is not None:
        cells = [record for record in records if is_of(record, "cells")]
        _write_atomically(tables.markdown(cells), Path(markdown), "markdown")


def _check_markdown(path: Path) -> None:
    """Refuse a place for the table that is another file's."""
    if path.suffix != ".md" or not path.absolute().parent.is_dir():
        raise FileError("markdown", expected="a name ending in .md, in an existing folder", found=repr(str(path)))
    if path.is_file() and not path.read_text(encoding="utf-8", errors="replace").startswith("| method |"):
        found = f"{str(path)!r}, which holds something else"
        raise FileError("markdown", expected="a new file, or an earlier table", found=found, hint="choose another name")


def build(records: Sequence[dict[str, Any]]) -> str:
    """Make the whole page.

    Parameters
    ----------
    records
        As :func:`stgnn.bench.records.read` gives them.

    Returns
    -------
    str
        HTML.
    """
    kinds = ("cells", "spots", "genes", "scale")
    cells, spots, genes, scale = ([record for record in records if is_of(record, kind)] for kind in kinds)
    table = tables.runs(cells)
    main = tables.compared(table)
    done = [record for record in cells if record["error"] is None]
    kept = set(main.index)
    compared = [record for place, record in enumerate(done) if place in kept]
    parts = {
        "scores": ("Macro-F1 and accuracy", _scores_part(main)),
        "tasks": (
            "By task",
            image(figures.task_bars(main), "Macro-F1 of each method on each task") if compared else "",
        ),
        "cost": ("Time and memory", _cost_part(main)),
        "homophily": ("Accuracy and spatial order", _homophily_part(main)),
        "calibration": ("Confidence", _confidence_part(compared)),
        "confusion": ("Confusion", _confusion_part(compared)),
        "open": ("Types that the reference lacks", _open_part(table)),
        "spots": (
            "Spots",
            report_parts.scores_by_task(tables.runs(spots), report_parts.SPOT_SCORES, report_parts.SPOT_SEEDS),
        ),
        "genes": (
            "Imputed genes",
            report_parts.scores_by_task(tables.runs(genes), report_parts.GENE_SCORES, report_parts.GENE_SEEDS),
        ),
        "scale": ("How costs grow", report_parts.growth(tables.runs(scale))),
        "ablations": ("Ablations", _ablation_part(table)),
        "failures": ("Failed and absent", _failure_part(records)),
        "runs": ("Tasks, versions and machines", _run_part(records)),
    }
    shown = {name: (title, body) for name, (title, body) in parts.items() if body}
    return _PAGE.substitute(
        style=files("stgnn.report").joinpath("style.css").read_text(encoding="utf-8"),
        summary=text(_summary(records)),
        links="".join(f'<li><a href="#{name}">{text(title)}</a></li>' for name, (title, _) in shown.items()),
        main="\n".join(section(name, title, body) for name, (title, body) in shown.items()),
    )


def _summary(records: Sequence[dict[str, Any]]) -> str:
    failed = sum(record["error"] is not None for record in records)
    sizes = [several(len({record[name] for record in records}), name) for name in ("task", "method", "seed")]
    return f"{several(len(records), 'run')}: {', '.join(sizes)}; {failed} failed or absent."


def _scores_part(main: pd.DataFrame) -> str:
    if main.empty:
        return paragraph("No run has finished.")
    methods = in_order(main["method"])
    mean = tables.means(main, "macro_f1")
    rows = []
    for task in mean.index:
        own = main[main["task"] == task]
        best = mean.loc[task].idxmax()
        cells = [tables.f1_and_accuracy(own[own["method"] == method]) for method in methods]
        rows.append([text(task), *(f"<b>{c}</b>" if method == best else c for method, c in zip(methods, cells))])
    common = tables.shared(mean)
    if len(common):
        accuracy = tables.means(main, "accuracy").loc[common.index].mean()
        overall = [f"{100 * f1:.1f} ({100 * accuracy[method]:.1f})" for method, f1 in common.mean().items()]
        rows.append([f"mean over {several(len(common), 'task')}", *overall])
        rows.append(["mean rank", *(f"{rank:.1f}" for rank in tables.ranks(mean))])
    said = (
        "Macro-F1 in percent, mean ± standard deviation over seeds, and accuracy in brackets, over query cells whose "
        "type is in the reference and has at least 5 of them. Means and ranks are over the tasks that every method "
        "has finished."
    )
    return paragraph(said) + wide_table("Macro-F1 (accuracy), percent", ["task", *methods], rows)


def _cost_part(main: pd.DataFrame) -> str:
    if main.empty:
        return ""
    said = "Of the annotation alone, without reading files: mean over tasks (bars) and each task (dots)."
    return paragraph(said) + image(figures.cost(main), "Seconds, CPU seconds and memory of each method")


def _homophily_part(main: pd.DataFrame) -> str:
    if "homophily" not in main:
        return ""
    methods, rows = in_order(main["method"]), []
    for task in in_order(main["task"]):
        own = main[main["task"] == task]
        if own["homophily"].notna().any():
            found = [own[own["method"] == method]["spatial_coherence"].mean() for method in methods]
            rows.append([text(task), *map(_short, [own["true_spatial_coherence"].mean(), *found])])
    said = "Spatial coherence: rate of neighbours of one type beyond chance. More than the truth's is over-smoothing."
    return (
        image(figures.homophily(main), "Accuracy of each method against the homophily of the task")
        + paragraph(said)
        + wide_table("Spatial coherence", ["task", "truth", *methods], rows)
    )


def _confidence_part(compared: Sequence[dict[str, Any]]) -> str:
    if not compared:
        return ""
    return (
        paragraph("Share of right answers against confidence; on the grey line, confidence is what it says.")
        + image(figures.calibration(compared), "Calibration curves of each method on each task")
        + paragraph("Share of errors (upwards) among the most confident cells, against the share of cells answered.")
        + image(figures.risk_coverage(compared), "Risk against coverage of each method on each task")
    )


def _confusion_part(compared: Sequence[dict[str, Any]]) -> str:
    methods = in_order(record["method"] for record in compared)
    if not methods:
        return ""
    shown = OURS if OURS in methods else methods[0]
    own = [record for record in compared if record["method"] == shown]
    drawn = [
        image(
            figures.confusion([record for record in own if record["task"] == task]),
            f"Share of each true type given each type by {shown}: {task}",
        )
        for task in in_order(record["task"] for record in own)
    ]
    return paragraph(f"Answers of {shown}, seeds together; each row sums to 1.") + "\n".join(drawn)


_OPEN_SCORES = (
    (
        "rejection_auroc_left_out",
        "Rejection AUROC, the type left out",
        "One type was left out of the reference. AUROC of the rejection score, its cells against those of types that "
        "the reference has, mean over seeds; 0.5 is chance.",
    ),
    (
        "rejection_auroc",
        "Rejection AUROC, all unknown types",
        "The same for the query's cells of any type that the reference lacks, some under that name only.",
    ),
)
"""Scores of tasks whose references lack a type on purpose: name, title, what it says."""


def _open_part(table: pd.DataFrame) -> str:
    own = table[table["open"].astype(bool)]
    drawn = ""
    for score, title, said in _OPEN_SCORES:
        mean = tables.means(own, score).dropna(how="all") if score in own else own[:0]
        if mean.empty:
            continue
        rows = [[text(task), *(_short(value) for value in mean.loc[task])] for task in mean.index]
        both = tables.shared(mean)  # means over different tasks do not compare
        rows.append(
            ["mean", *(_short(value) for value in both.mean())] if len(both) else ["mean", *[DASH] * mean.shape[1]]
        )
        drawn += paragraph(said) + wide_table(title, ["task", *mean.columns], rows)
    return drawn


def _ablation_part(table: pd.DataFrame) -> str:
    own = table[table["group"].isin(["ours", "ablations"]) & ~table["open"].astype(bool)]
    methods, tasks = in_order(own["method"]), in_order(own["task"])
    if not (own["group"] == "ablations").any():
        return ""
    found = tables.differences(own)
    scores, rows = [], []
    for method in methods:
        each = own[own["method"] == method]
        scores.append([text(method), *(tables.f1_and_accuracy(each[each["task"] == task]) for task in tasks)])
        change = found[found["method"] == method]
        if len(change):
            cells = [_signed(change[change["task"] == task]["difference"]) for task in tasks]
            rows.append([text(method), *cells, _signed(change.groupby("seed")["difference"].mean())])
    said = (
        f"Difference in macro-F1 to {OURS} with all parts and the same seed, in points: mean ± standard deviation over "
        f"seeds. Below 0, what is missing helps; {OURS} itself lacks the parts that helped on no task. "
        f"{_when(own)}"
    )
    differences = paragraph(said) + wide_table(
        "Difference to the model with all parts, points", ["", *tasks, "mean"], rows
    )
    return (differences if rows else "") + wide_table("Macro-F1 (accuracy), percent", ["", *tasks], scores)


def _when(table: pd.DataFrame) -> str:
    """When the rows of a comparison were run: the package may have changed between."""
    days = {name: sorted(set(own["date"].str[:10])) for name, own in table.groupby("group", sort=False) if len(own)}
    said = [f"{name} {own[0]}" + (f" to {own[-1]}" if len(own) > 1 else "") for name, own in days.items()]
    return f"Run on: {'; '.join(said)}; rows of different days may be of different versions of the package."


def _signed(values: pd.Series) -> str:
    if values.empty:
        return DASH
    return tables.spread(values).replace("-", "−") if values.mean() < 0 else f"+{tables.spread(values)}"


def _failure_part(records: Sequence[dict[str, Any]]) -> str:
    """Failures of one method with one error share a row: a peer that is absent is so on every task."""
    failed: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if record["error"] is not None:
            failed.setdefault((record["method"], record["error"]), []).append(record["task"])
    if not failed:
        return paragraph("None.")
    ordered = sorted(failed.items(), key=lambda item: item[0][1].startswith(ABSENT))
    rows = [
        [text(method), text(error), str(len(tasks)), text(", ".join(in_order(tasks)))]
        for (method, error), tasks in ordered
    ]
    return wide_table("Runs without a result", ["method", "error", "runs", "tasks"], rows, "plain")


def _run_part(records: Sequence[dict[str, Any]]) -> str:
    titles = {record["task"]: record["definition"]["task"]["title"] for record in records}
    done = [record for record in records if record["error"] is None]
    facts = {
        "stgnn": in_order(record["version"] for record in done),
        "Python": in_order(record["python"] for record in done),
        "machine": in_order(record["machine"] for record in done),
        "threads of a run": in_order(str(record["threads"]) for record in done),
        "dates": in_order(sorted(record["date"][:10] for record in records)),
    }
    return wide_table(
        "Tasks", ["task", "what"], [[text(name), text(title or DASH)] for name, title in titles.items()], "plain"
    ) + wide_table(
        "Recorded with the runs",
        ["what", "value"],
        [[text(name), text("; ".join(values) or DASH)] for name, values in facts.items()],
        "plain",
    )


def _short(value: float) -> str:
    return DASH if value != value else f"{value:.2f}"


def _write_atomically(page: str, path: Path, argument: str) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(page, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    except OSError as error:
        found = f"{type(error).__name__}: {error}"
        raise FileError(argument, expected=f"to write {str(path)!r}", found=found) from error
    finally:
        partial.unlink(missing_ok=True)
