"""Accuracy of every method on the development tasks: one fresh process a run, one row a run, resumable.

python benchmarks/annotate.py --data ../shared/data/cells --output results/annotate.csv --seeds 3 --jobs 2
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

METHODS = ("stgnn", "mixture", "logistic", "logistic-neighbours", "knn-harmony")
FIELDS = ("task", "method", "seed", "accuracy", "macro_f1", "weighted_f1", "calibration_error", "unknown")
FIELDS += ("seconds", "memory_gb", "error")


def split(adata, column, first):
    """Two parts of a data set by the values of a column."""
    inside = adata.obs[column].astype(str).isin(first).to_numpy()
    return adata[inside].copy(), adata[~inside].copy()


def load(task, folder):
    """Reference, query, label column and section column of a task."""
    import anndata as ad
    import numpy as np

    def read(name):
        return ad.read_h5ad(Path(folder) / f"{name}.h5ad")

    if task == "main":
        return read("hypothalamus_scrna"), read("hypothalamus_merfish_animal1"), "cell_type", "section"
    if task == "fine":
        animal = read("hypothalamus_merfish_animal1")
        first = sorted(animal.obs["section"].astype(str).unique())[:2]
        return *split(animal, "section", first), "cell_type_fine", "section"
    if task in ("BZ5-BZ9", "BZ9-BZ5"):
        return *split(read("starmap_mpfc_BZ5_BZ9"), "donor", [task[:3]]), "cell_type", "section"
    if task in ("mop-mPFC", "mop-V1"):
        query = read("starmap_mpfc_BZ5_BZ9" if task == "mop-mPFC" else "starmap_v1")
        return read("mop_10x"), query, "cell_type_coarse", "section"
    if task in ("673-674", "674-673"):
        layers = read("dlpfc_151673_151674")
        return *split(layers, "section", ["151" + task[:3]]), "cell_type", "section"
    if task == "many":
        mop = read("mop_10x")
        return *split(mop, "batch", sorted(mop.obs["batch"].astype(str).unique())[:12]), "cell_type", None
    if task == "embryo":
        embryo = read("seqfish_embryo_z2")
        x = embryo.obsm["spatial"][:, 0]
        left = x < np.median(x)
        return embryo[left].copy(), embryo[~left].copy(), "cell_type", "section"
    raise SystemExit(f"--tasks: expected one of {', '.join(TASKS)}; found {task!r}")


TASKS = ("main", "fine", "BZ5-BZ9", "BZ9-BZ5", "mop-mPFC", "mop-V1", "673-674", "674-673", "many", "embryo")


def run(task, method, seed, folder):
    """Annotate and score: the truth is set aside before the query is handed over."""
    import numpy as np

    import stgnn
    from stgnn import metrics

    reference, query, labels_key, section_key = load(task, folder)
    truth = query.obs[labels_key].astype(str).to_numpy()
    del query.obs[labels_key]
    start = time.perf_counter()
    stgnn.tl.annotate(
        query, reference, labels_key=labels_key, section_key=section_key, method=method, random_state=seed
    )
    seconds = time.perf_counter() - start
    types = query.uns["stgnn"]["types"]
    best = np.asarray(types)[query.obsm["stgnn_proba"].to_numpy().argmax(1)]  # of the types: unknown is scored apart
    scored, _ = metrics.scored_cells(truth, types)
    classes = np.unique(truth[scored])
    right = (best == truth)[scored]
    confidence = query.obs["stgnn_confidence"].to_numpy()[scored]
    return {
        "accuracy": metrics.accuracy(truth[scored], best[scored]),
        "macro_f1": metrics.macro_f1(truth[scored], best[scored], classes),
        "weighted_f1": metrics.weighted_f1(truth[scored], best[scored], classes),
        "calibration_error": metrics.expected_calibration_error(confidence, right),
        "unknown": float((query.obs["stgnn"] == "unknown").mean()),
        "seconds": seconds,
        "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def in_process(task, method, seed, folder, threads):
    """One run in a fresh process; a failure is a row."""
    row = {"task": task, "method": method, "seed": seed}
    command = [sys.executable, __file__, "--one", task, method, str(seed), "--data", folder]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return row | {"error": done.stderr.strip().splitlines()[-1]}
    return row | json.loads(done.stdout.splitlines()[-1])


def main():
    """Run what the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data/cells")
    parser.add_argument("--output", default="results/annotate.csv")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=3, metavar=("TASK", "METHOD", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        task, method, seed = options.one
        sys.stdout.write(json.dumps(run(task, method, int(seed), options.data)) + "\n")
        return
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    known = set()
    if output.exists():
        with output.open() as lines:
            known = {(r["task"], r["method"], int(r["seed"])) for r in csv.DictReader(lines) if not r["error"]}
    seeds, methods, tasks = range(options.seeds), options.methods.split(","), options.tasks.split(",")
    wanted = [(t, m, s) for s in seeds for t in tasks for m in methods if (t, m, s) not in known]
    with output.open("a", newline="") as file, ThreadPoolExecutor(options.jobs) as pool:
        writer = csv.DictWriter(file, FIELDS)
        if file.tell() == 0:
            writer.writeheader()
        for row in pool.map(lambda job: in_process(*job, options.data, options.threads), wanted):
            writer.writerow(row)
            file.flush()
            sys.stderr.write(f"{row}\n")


if __name__ == "__main__":
    main()
