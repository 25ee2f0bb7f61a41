"""Tables of results: means and spreads over seeds, ranks, differences, as numbers and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

from stgnn.bench.methods import ABLATIONS, GROUPS, OURS, WHOLE
from stgnn.bench.tasks import BUILT_IN
from stgnn.methods import ANNOTATORS

if TYPE_CHECKING:
    from collections.abc import Sequence

DASH = "–"
COSTS = ("seconds", "cpu_seconds", "memory_gb")


def runs(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row a finished run.

    Parameters
    ----------
    records
        As :func:`stgnn.bench.records.read` gives them; those that failed are left out.

    Returns
    -------
    pandas.DataFrame
        Columns task, method, group, seed, open (whether a type was left out of the reference), date, the costs, and
        every score by its name.

    Examples
    --------
    >>> runs([{"task": "a", "method": "b", "seed": 0, "error": "failed"}]).empty
    True
    """
    rows = [
        {
            "task": record["task"],
            "method": record["method"],
            "group": record["group"],
            "seed": record["seed"],
            "open": bool(record["definition"]["task"].get("without")),
            "date": record.get("date", ""),
            **{name: record[name] for name in COSTS},
            **record["scores"],
        }
        for record in records
        if record["error"] is None
    ]
    return pd.DataFrame(rows, columns=None if rows else ["task", "method", "group", "seed", "open", "date"])


def ordered(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records by task, method and seed, which finish in any order; ours first, then as the package lists its own.

    Examples
    --------
    >>> names = [("new", "logistic"), ("main", "logistic"), ("main", "stgnn")]
    >>> records = [{"task": task, "method": method, "group": "siblings", "seed": 0} for task, method in names]
    >>> [(record["task"], record["method"]) for record in ordered(records)]
    [('main', 'stgnn'), ('main', 'logistic'), ('new', 'logistic')]
    """
    records = list(records)
    tasks = in_order([*BUILT_IN, *(record["task"] for record in records)])
    groups = [[record["method"] for record in records if record["group"] == group] for group in GROUPS]
    ablations = [f"{OURS}, {name}" for name in ABLATIONS]
    methods = in_order([*ANNOTATORS, *ablations, *(name for group in groups for name in group)])
    return sorted(
        records,
        key=lambda record: (tasks.index(record["task"]), methods.index(record["method"]), record["seed"]),
    )


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """Runs of the main comparison: neither ablations nor open-set variants."""
    return table[(table["group"] != "ablations") & ~table["open"].astype(bool)]


def in_order(values: Iterable[str]) -> list[str]:
    """Values without repetition, each where it came first."""
    return list(dict.fromkeys(values))


def spread(values: pd.Series, digits: int = 1) -> str:
    """Mean and standard deviation of shares, in percent.

    Examples
    --------
    >>> spread(pd.Series([0.5, 0.6])), spread(pd.Series([0.5])), spread(pd.Series([], dtype=float))
    ('55.0 ± 7.1', '50.0', '–')
    """
    values = values.dropna()
    if values.empty:
        return DASH
    more = f" ± {100 * values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.{digits}f}{more}"


def means(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Mean over seeds of a score (tasks, methods), NaN where a method has no run; empty if no run has the score."""
    tasks, methods = in_order(table["task"]), in_order(table["method"])
    if score not in table:
        return pd.DataFrame(index=tasks, columns=methods, dtype=float)
    return table.pivot_table(score, "task", "method", aggfunc="mean").reindex(index=tasks, columns=methods)


def shared(mean: pd.DataFrame) -> pd.DataFrame:
    """Tasks that every method has finished, so that means over them compare like with like."""
    return mean.dropna(axis=0, how="any")


def ranks(mean: pd.DataFrame) -> pd.Series:
    """Mean rank of each method over the tasks that all have finished; 1 is best.

    Examples
    --------
    >>> ranks(pd.DataFrame({"x": [0.9, 0.8], "y": [0.7, 0.8]})).tolist()
    [1.25, 1.75]
    """
    return shared(mean).rank(axis=1, ascending=False).mean()


def differences(table: pd.DataFrame, score: str = "macro_f1") -> pd.DataFrame:
    """Differences of our method and its ablations to the model with all parts, on the same task with the same seed.

    Parameters
    ----------
    table
        Of :func:`runs`.
    score
        What to compare.

    Returns
    -------
    pandas.DataFrame
        Columns task, method, seed, difference; negative where what is missing helps.
    """
    table = table[~table["open"].astype(bool)]
    own = table["group"].isin(["ours", "ablations"])
    is_whole = table["method"] == f"{OURS}, {WHOLE}"
    whole = table[is_whole].set_index(["task", "seed"])[score]
    rows = table[own & ~is_whole]
    found = rows[["task", "method", "seed"]].assign(
        difference=[
            value - whole.get((task, seed), float("nan"))
            for task, seed, value in zip(rows["task"], rows["seed"], rows[score])
        ]
    )
    return found.dropna()


def markdown(records: Iterable[dict[str, Any]]) -> str:
    """Markdown table: macro-F1 in percent, mean over seeds (accuracy), by method and task, then costs; best first.

    Parameters
    ----------
    records
        As :func:`stgnn.bench.records.read` gives them.

    Returns
    -------
    str
        The table, in the order of the mean over the tasks that all methods have; without ablations and open-set
        variants.
    """
    table = compared(runs(records))
    mean, tasks = means(table, "macro_f1"), in_order(table["task"])
    both = shared(mean)  # means over different tasks do not compare
    methods = (both if len(both) else mean).mean().sort_values(ascending=False, kind="stable").index
    last = ["mean", "seconds", "GB at most", "calibration error"]
    lines = [_line("method", [*tasks, *last]), "|---" * (len(tasks) + len(last) + 1) + "|"]
    for method in methods:
        own = table[table["method"] == method]
        cells = [f1_and_accuracy(own[own["task"] == task]) for task in tasks]
        costs = [f"{own['seconds'].mean():.0f}", f"{own['memory_gb'].max():.1f}"]
        calibration = _mean(own, "expected_calibration_error")
        lines.append(
            _line(method, [*cells, f"{100 * both[method].mean():.1f}" if len(both) else DASH, *costs, calibration])
        )
    return "\n".join(lines) + "\n"


def f1_and_accuracy(own: pd.DataFrame) -> str:
    """Macro-F1 with its spread, and accuracy in brackets."""
    return f"{spread(own['macro_f1'])} ({100 * own['accuracy'].mean():.1f})" if len(own) else DASH


def _mean(own: pd.DataFrame, score: str) -> str:
    value = own[score].mean() if score in own else float("nan")
    return DASH if pd.isna(value) else f"{value:.2f}"


def _line(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"
