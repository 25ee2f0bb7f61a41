"""Tables of predicted expression made of finished runs: each gene, means with intervals, paired comparisons, folds."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn.bench.expression_score import PRIMARY
from stgnn.bench.records import is_of, read, tidy, write_table
from stgnn.data.schema import FileError
from stgnn.metrics import bootstrap, paired

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

SETS = ("spatial", "all")
"""Sets of genes, the one to look at first in front."""


def write(folder: str | Path) -> None:
    """Write the tables of a folder of results; nothing where no expression was predicted.

    Parameters
    ----------
    folder
        Results, with ``runs.jsonl``.

    Returns
    -------
    None
        Writes ``genes.csv`` and ``genes.parquet`` (each gene in each slide), ``summary.csv`` (means over folds with
        intervals), ``comparisons.csv`` (each pair of methods) and ``folds.json`` (who was tested, genes, versions).

    Raises
    ------
    FileError
        If one cannot be written.
    """
    folder = Path(folder)
    records = [record for record in read(folder) if is_of(record, "expression")]
    if not records:
        return
    genes = by_gene(records)
    for name, table in (
        ("genes.csv", genes),
        ("genes.parquet", genes),
        ("summary.csv", summary(records)),
        ("comparisons.csv", comparisons(genes)),
    ):
        write_table(table, folder / name)
    partial, path = folder / "folds.json.partial", folder / "folds.json"
    try:
        partial.write_text(json.dumps(folds(records), indent=1), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise FileError("output", expected=f"to write {str(path)!r}", found=str(error)) from error
    finally:
        partial.unlink(missing_ok=True)


def by_gene(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Long table of the scores of each gene in each test slide.

    Parameters
    ----------
    records
        As :func:`stgnn.bench.records.read` gives them.

    Returns
    -------
    pandas.DataFrame
        Columns task, method, seed, fold, level, slide, patient, group (what intervals are drawn over: patient or
        block), gene, spatial (whether among the most spatial), pearson, spearman and ceiling, NaN where constant.
    """
    import pandas as pd

    parts = []
    for record in records:
        if record["error"] is not None:
            continue
        task, details = record["definition"]["task"], record["details"]
        chosen = set(details["spatial_genes"])
        for level, slides in details["by_gene"].items():
            for name, scores in slides.items():
                own = {"task": task["of"], "method": record["method"], "seed": record["seed"], "fold": task["fold"]}
                group = scores["patient"] if details["kind"] == "patients" else task["fold"]
                own |= {"level": level, "slide": name, "patient": scores["patient"], "group": group}
                own |= {"gene": details["genes"], "spatial": [gene in chosen for gene in details["genes"]]}
                values = {metric: scores.get(metric) for metric in ("pearson", "spearman", "ceiling")}
                table = pd.DataFrame(own | values)
                parts.append(table.astype(dict.fromkeys(values, "float64")))
    columns = ["task", "method", "seed", "fold", "level", "slide", "patient", "group", "gene", "spatial"]
    columns += ["pearson", "spearman", "ceiling"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def summary(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Mean of each score over folds, with an interval by drawing folds, which are patients or blocks.

    Parameters
    ----------
    records
        As :func:`stgnn.bench.records.read` gives them; seeds are averaged within folds.

    Returns
    -------
    pandas.DataFrame
        Columns task, kind, method, level, genes, metric, value, low, high, folds; no interval with one fold.
    """
    import pandas as pd

    kinds = {r["definition"]["task"]["of"]: r["details"]["kind"] for r in records if r["error"] is None}
    keys = ["task", "method", "level", "genes", "metric"]
    rows = []
    table = tidy(records).dropna(subset=["metric"])
    for key, own in table.groupby(keys, sort=False):
        means = own.groupby("fold", sort=False)["value"].mean()
        low = high = float("nan")
        if len(means) > 1:
            interval = bootstrap(means.to_numpy(), means.index.to_numpy())
            low, high = interval.low, interval.high
        values = {"value": means.mean(), "low": low, "high": high, "folds": len(means)}
        rows.append(dict(zip(keys, key)) | {"kind": kinds[key[0]]} | values)
    return pd.DataFrame(rows, columns=["task", "kind", *keys[1:], "value", "low", "high", "folds"])


def comparisons(genes: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of the primary score of each two methods, over the slides or blocks that both predicted.

    Parameters
    ----------
    genes
        Of :func:`by_gene`.

    Returns
    -------
    pandas.DataFrame
        Columns task, level, genes, method, other, difference, low, high, p_value, groups; none where fewer than two
        patients or blocks were tested.
    """
    import pandas as pd

    rows = []
    for name in SETS:
        chosen = genes[genes["spatial"].astype(bool)] if name == "spatial" else genes
        means = chosen.groupby(["task", "level", "group", "slide", "method"], sort=False)[PRIMARY].mean()
        for (task, level), own in means.groupby(level=["task", "level"], sort=False):
            wide = own.unstack("method")
            for one, other in itertools.combinations(wide.columns, 2):
                both = wide[[one, other]].dropna()
                group = both.index.get_level_values("group").to_numpy()
                if len(np.unique(group)) < 2:
                    continue
                found = paired(both[one].to_numpy(), both[other].to_numpy(), group)
                rows.append({"task": task, "level": level, "genes": name, "method": one, "other": other} | vars(found))
    columns = ["task", "level", "genes", "method", "other", "difference", "low", "high", "p_value", "groups"]
    return pd.DataFrame(rows, columns=columns)


def folds(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Who was tested in each fold, on which bins and genes, and by which versions of the package."""
    out: dict[str, Any] = {"versions": [], "folds": {}}
    for record in records:
        if record["error"] is None:
            task, details = record["definition"]["task"], record["details"]
            own = {name: value for name, value in details.items() if name != "by_gene"}
            out["folds"].setdefault(task["of"], {})[task["fold"]] = own
            versions = {"stgnn": record["version"], "python": record["python"]}
            out["versions"] += [] if versions in out["versions"] else [versions]
    return out


def show(table: pd.DataFrame, failed: Sequence[str] = ()) -> Table:
    """Table for the terminal: the primary score of each method at each width, its interval and share of the ceiling.

    Parameters
    ----------
    table
        Of :func:`summary`.
    failed
        Methods of which some run failed.

    Returns
    -------
    rich.table.Table
        With the noise ceiling and the measured total alone as rows of their own.
    """
    from rich.table import Table

    table = table[table["genes"] == SETS[0]]
    levels = sorted(table["level"].unique(), key=float)
    tasks = [] if table["task"].nunique() == 1 else ["task"]
    out = Table(*tasks, "method", *(f"{level} um" for level in levels), "of ceiling")
    title = "Pearson correlation by gene within slides, most spatial genes, log of normalised counts"
    out.title = f"{title} ({', '.join(table['kind'].unique())})"
    for task, own in table.groupby("task", sort=False):
        first = [task] if tasks else []
        best = own[own["metric"] == PRIMARY]
        order = best.groupby("method")["value"].mean().sort_values(ascending=False, kind="stable").index
        for method in order:
            scores = own[own["method"] == method]
            cells = [_cell(scores, level, PRIMARY) for level in levels]
            share = [_cell(scores, level, "share_of_ceiling", interval=False) for level in levels]
            said = f"{method} (some runs failed)" if method in failed else method
            out.add_row(*first, said, *cells, " ".join(share))
        scores = own[own["method"] == order[0]]
        for metric, said in (("ceiling", "noise ceiling"), ("total_alone", "measured total alone")):
            out.add_row(*first, said, *(_cell(scores, level, metric) for level in levels), "", style="dim")
    return out


def _cell(scores: pd.DataFrame, level: str, metric: str, interval: bool = True) -> str:
    found = scores[(scores["level"] == level) & (scores["metric"] == metric)]
    if found.empty:
        return "–"
    row = found.iloc[0]
    bounds = f" [{row['low']:.3f}, {row['high']:.3f}]" if interval and np.isfinite(row["low"]) else ""
    return f"{row['value']:.3f}{bounds}" if interval else f"{row['value']:.2f}"
