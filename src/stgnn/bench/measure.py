"""One run, in a process of its own: ``python -m stgnn.bench.measure JOB`` prints its record as one line of JSON."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from anndata import AnnData

    from stgnn.bench.expression_tasks import ExpressionTask
    from stgnn.bench.genes import GeneTask
    from stgnn.bench.methods import Method
    from stgnn.bench.scale import ScaleTask
    from stgnn.bench.score import Answer
    from stgnn.bench.spots import SpotTask
    from stgnn.bench.tasks import Task
    from stgnn.methods.base import Annotator


@dataclass(frozen=True)
class Job:
    """What to run.

    Parameters
    ----------
    task, method, seed
        Of the run.
    data_dir
        Folder with the data.
    interpreter
        Python of a peer; None for methods of stgnn's own kind.
    scratch
        Folder in which ablations share what does not depend on what they switch off; None to share nothing. Their
        seconds then leave out what another has done.
    """

    task: Task | ExpressionTask | SpotTask | GeneTask | ScaleTask
    method: Method
    seed: int
    data_dir: str
    interpreter: str | None = None
    scratch: str | None = None


def measure(job: Job) -> dict[str, Any]:
    """Annotate, or predict expression, and score: the truth is set aside before the query is handed over.

    Parameters
    ----------
    job
        What to run.

    Returns
    -------
    dict
        Seconds, CPU seconds, memory, scores and details; plain values.

    Raises
    ------
    StgnnError
        For whatever is wrong with data, method or options.

    Examples
    --------
    >>> import tempfile
    >>> from stgnn.bench.methods import Method
    >>> from stgnn.bench.tasks import Task
    >>> from stgnn.data.toy import toy
    >>> reference, query = toy(n_cells=100)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     reference.write_h5ad(folder + "/reference.h5ad")
    ...     query.write_h5ad(folder + "/query.h5ad")
    ...     task = Task("toy", "reference", "query", "cell_type", "section")
    ...     measure(Job(task, Method("logistic", "logistic"), 0, folder))["scores"]["accuracy"] > 0.5
    True
    """
    import numpy as np

    from stgnn.bench import genes, scale, spots
    from stgnn.bench.expression_tasks import ExpressionTask
    from stgnn.bench.genes import GeneTask
    from stgnn.bench.score import score
    from stgnn.bench.spots import SpotTask
    from stgnn.bench.tasks import load, types_of
    from stgnn.data.schema import SPATIAL_KEY

    if isinstance(job.task, ExpressionTask):
        from stgnn.bench.expression import measure_fold

        return measure_fold(job)
    if isinstance(job.task, SpotTask):
        return spots.measure(job)
    if isinstance(job.task, GeneTask):
        return genes.measure(job)
    if isinstance(job.task, scale.ScaleTask):
        return scale.measure(job)
    reference, query, truth = load(job.task, job.data_dir)
    types = types_of(reference, job.task.labels_key)
    coords = np.asarray(query.obsm[SPATIAL_KEY], dtype=np.float64) if SPATIAL_KEY in query.obsm else None
    section = None
    if job.task.section_key is not None:
        section = np.unique(query.obs[job.task.section_key].astype(str), return_inverse=True)[1]
    ask = asker(job)
    start, used = time.perf_counter(), cpu_seconds()
    answer = ask(job, job.task, reference, query)
    seconds, own_seconds = time.perf_counter() - start, cpu_seconds() - used
    memory = memory_gb()
    scores, details = score(truth, answer, types, coords, section, job.task.without)
    return {
        "seconds": seconds,
        "cpu_seconds": own_seconds,
        "memory_gb": memory,
        "scores": scores,
        "details": details,
    }


def describe_machine() -> str:
    """One line on processor and accelerator.

    Examples
    --------
    >>> "CPU" in describe_machine()
    True
    """
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    line = f"{os.cpu_count()} CPUs, {model}"
    torch = sys.modules.get("torch")  # what no method has loaded was not used
    if torch is not None and torch.cuda.is_available():
        line += f", {torch.cuda.get_device_name()}"
    return line


Ask = Callable[[Job, "Task | ScaleTask", "AnnData", "AnnData"], "Answer"]
"""Asks a method to annotate a query."""


def asker(job: Job) -> Ask:
    """How a method is asked to annotate, with all that it needs imported."""
    return _ask_peer if job.method.group == "peers" else _annotator(job)


def _annotator(job: Job) -> Ask:
    """Make the method, and import all it needs: that takes seconds, and is no part of annotating."""
    from stgnn import tl
    from stgnn.bench.methods import make
    from stgnn.methods.spatial_transformer_gnn import SpatialTransformerGNN

    method = make(job.method, job.seed)
    if isinstance(method, SpatialTransformerGNN):
        method.checkpoint = job.scratch
    return lambda _, task, reference, query: _annotate(tl, method, task, reference, query)


def _annotate(tl: ModuleType, method: Annotator, task: Task | ScaleTask, reference: AnnData, query: AnnData) -> Answer:
    import numpy as np

    from stgnn.bench.score import Answer
    from stgnn.data.schema import KEY_ADDED, UNKNOWN, confidence_key, proba_key, rejection_key

    tl.annotate(
        query,
        reference,
        labels_key=task.labels_key,
        section_key=task.section_key,
        method=method,
    )
    types = np.asarray(query.uns[KEY_ADDED]["types"])
    return Answer(
        types[query.obsm[proba_key(KEY_ADDED)].to_numpy().argmax(axis=1)].astype(str),
        query.obs[confidence_key(KEY_ADDED)].to_numpy(dtype=np.float64),
        query.obs[rejection_key(KEY_ADDED)].to_numpy(dtype=np.float64),
        (query.obs[KEY_ADDED] == UNKNOWN).to_numpy(),
    )


def _ask_peer(job: Job, task: Task | ScaleTask, reference: AnnData, query: AnnData) -> Answer:
    import numpy as np

    from stgnn.bench.peers import SCORES_ONLY, annotate
    from stgnn.bench.score import Answer

    table = annotate(
        job.method.cls,
        reference,
        query,
        task.labels_key,
        job.seed,
        str(job.interpreter),
        section_key=task.section_key or "section",
    )
    values = table.reindex(query.obs_names).to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        lacking = int((~np.isfinite(values)).any(axis=1).sum())
        raise ValueError(f"{job.method.name}: expected finite scores of every cell; found {lacking} cells without")
    confidence = values.max(axis=1)
    best = table.columns.to_numpy()[values.argmax(axis=1)].astype(str)
    calibrated = job.method.cls not in SCORES_ONLY
    return Answer(best, confidence, -confidence, np.zeros(len(values), dtype=bool), calibrated)


def cpu_seconds() -> float:
    """User and system time so far, of this process and of those it has waited for."""
    used = os.times()  # in ticks of 10 ms, within which the fastest method is done
    return time.process_time() + used.children_user + used.children_system


def memory_gb() -> float:
    """Most memory so far, of this process or of one that it has waited for."""
    import resource

    unit = 2**30 if sys.platform == "darwin" else 2**20  # there bytes, elsewhere kilobytes
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss begins with the peak of the process that started this one
        lines = status.read_text(encoding="utf-8").splitlines()
        own = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), own)
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / unit


def _end_with_parent() -> None:
    """End this process, and all it has started, when the other end of its standard input closes."""
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def main(text: str) -> None:
    """Run a job given as JSON, and print its record."""
    from stgnn import __version__
    from stgnn.bench import expression_tasks, genes, scale, spots, tasks
    from stgnn.bench.methods import Method
    from stgnn.bench.records import kind_of

    values = json.loads(text)
    kinds = {"expression": expression_tasks, "spots": spots, "genes": genes, "scale": scale, "cells": tasks}
    kind = kinds[kind_of(values["task"])]
    job = Job(**values | {"task": kind.from_record(values["task"]), "method": Method(**values["method"])})
    if os.getpgrp() == os.getpid():  # else a group of others would end too
        threading.Thread(target=_end_with_parent, daemon=True).start()
    record = measure(job)
    facts = {"version": __version__, "python": platform.python_version(), "machine": describe_machine()}
    sys.stdout.write("\n" + json.dumps(facts | record) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
