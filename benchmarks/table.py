"""The README's results table from the rows of ``annotate.py``.

python benchmarks/table.py results/annotate.csv
"""

from __future__ import annotations

import sys

import pandas as pd


def table(rows: pd.DataFrame) -> str:
    """Markdown: macro-F1 in percent, mean and spread over seeds, by task and method; then cost by method."""
    rows = rows[rows["error"].isna()]
    methods = list(dict.fromkeys(rows["method"]))
    lines = ["| task | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    grouped = rows.groupby(["task", "method"], sort=False)
    for task in dict.fromkeys(rows["task"]):
        cells = []
        for method in methods:
            own = grouped.get_group((task, method))
            spread = f" ± {100 * own['macro_f1'].std():.1f}" if len(own) > 1 else ""
            cells.append(f"{100 * own['macro_f1'].mean():.1f}{spread} ({100 * own['accuracy'].mean():.1f})")
        lines.append(f"| {task} | " + " | ".join(cells) + " |")
    mean = rows.groupby("method")
    lines.append(
        "| seconds, mean | " + " | ".join(f"{mean.get_group(m)['seconds'].mean():.0f}" for m in methods) + " |"
    )
    most = [f"{mean.get_group(m)['memory_gb'].max():.1f}" for m in methods]
    lines.append("| memory, GB at most | " + " | ".join(most) + " |")
    error = [f"{mean.get_group(m)['calibration_error'].mean():.2f}" for m in methods]
    lines.append("| calibration error, mean | " + " | ".join(error) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table(pd.read_csv(sys.argv[1])) + "\n")
