"""The file of finished runs: one JSON object a line, only ever appended to, and the tidy table made of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stgnn.data.schema import FileError

if TYPE_CHECKING:
    import pandas as pd

RUNS = "runs.jsonl"
ABSENT = "absent: "
"""How the error of a peer begins that could not be run here."""

_PARTIAL = ".partial"


def append(folder: Path, record: dict[str, Any]) -> None:
    """Write one finished run; what is written is on disk when this returns."""
    path = folder / RUNS
    with path.open("a+b") as file:
        torn = False
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write(b"\n" * torn + json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(folder: str | Path) -> list[dict[str, Any]]:
    """Read the latest record of each task, method and seed, of tasks and methods as they were last defined.

    A line that a killed process left unfinished is passed over: its run counts as not done.

    Parameters
    ----------
    folder
        Results of ``stgnn bench run``.

    Returns
    -------
    list of dict
        In the order in which each was first recorded; empty without a file.

    Examples
    --------
    >>> read("no/such/folder")
    []
    """
    path = Path(folder) / RUNS
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    if not path.is_file():
        return []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
            key = record["task"], record["method"], record["seed"]
        except (ValueError, KeyError, TypeError):  # TypeError: a torn line can be a number
            continue
        found[key] = record
    return _of_one_kind(list(found.values()))


def _of_one_kind(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of each task and method as last defined: those of an older definition are of something else."""
    latest: dict[tuple[str, str], Any] = {}
    for record in sorted(records, key=lambda record: record.get("date", "")):
        latest |= _defined(record)
    return [record for record in records if all(latest[key] == value for key, value in _defined(record).items())]


def _defined(record: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """How a record's task and method are defined, and the whole whose fold the task is."""
    given = record.get("definition", {})
    out = {(part, record[part]): given.get(part) for part in ("task", "method")}
    if is_of(record, "expression"):
        task = given["task"]
        out["of", task["of"]] = {name: value for name, value in task.items() if name not in ("name", "fold")}
    return out


def tidy(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Long table of all scores.

    Parameters
    ----------
    records
        As :func:`read` gives them.

    Returns
    -------
    pandas.DataFrame
        Columns task, method, seed, metric, value, seconds, cpu_seconds, memory_gb, error; of predicted expression also
        fold, level (width of the bins) and genes (name of the set). A run that failed is one row with its error
        and without a metric.

    Examples
    --------
    >>> tidy([{"task": "a", "method": "b", "seed": 0, "error": None, "scores": {"accuracy": 1.0}}])["value"].tolist()
    [1.0]
    """
    import pandas as pd

    records = list(records)
    more = ["fold", "level", "genes"] if any(is_of(record, "expression") for record in records) else []
    columns = ["task", "method", "seed", *more, "metric", "value", "seconds", "cpu_seconds", "memory_gb", "error"]
    rows = []
    for record in records:
        own = {name: record.get(name) for name in columns}
        scores = record.get("scores") or {None: None}
        if is_of(record, "expression"):
            task = record["definition"]["task"]
            own |= {"task": task["of"], "fold": task["fold"]}
        if isinstance(scores, dict):
            scores = [{"metric": metric, "value": value} for metric, value in scores.items()]
        rows += [own | score for score in scores]
    table = pd.DataFrame(rows, columns=columns)
    numbers = ["value", "seconds", "cpu_seconds", "memory_gb"]
    return table.astype(dict.fromkeys(numbers, "float64") | {"seed": "int64"})


def write_tables(folder: Path) -> None:
    """Write ``metrics.csv`` and ``metrics.parquet``, each whole or not at all.

    Raises
    ------
    FileError
        If they cannot be written.
    """
    table = tidy(read(folder))
    for name in ("metrics.csv", "metrics.parquet"):
        write_table(table, folder / name)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as ``.csv`` or ``.parquet``, whole or not at all.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    partial = path.with_name(path.name + _PARTIAL)
    try:
        if path.suffix == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial, index=False)
        os.replace(partial, path)
    except OSError as error:
        raise FileError("output", expected=f"to write {str(path)!r}", found=str(error)) from error
    finally:
        partial.unlink(missing_ok=True)


_TELLING = {"slides": "expression", "pitch_um": "spots", "n_folds": "genes", "n_cells": "scale"}


def kind_of(task: Mapping[str, Any]) -> str:
    """Kind of a task, given its plain values: expression, spots, genes, scale or cells.

    Examples
    --------
    >>> kind_of({"name": "squares", "pitch_um": 100.0}), kind_of({"name": "main"})
    ('spots', 'cells')
    """
    return next((kind for field, kind in _TELLING.items() if field in task), "cells")


def is_of(record: Mapping[str, Any], kind: str) -> bool:
    """Whether a record is of a task of a kind."""
    return kind_of(record.get("definition", {}).get("task", {})) == kind
