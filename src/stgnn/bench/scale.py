"""What annotation costs as sections grow: tissue of any size laid out of real sections, file to annotated file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from anndata.io import read_elem

from stgnn.bench.tasks import locate
from stgnn.bench.tissue import SECTION_KEY, resample, write_tile
from stgnn.data.schema import KEY_ADDED, OptionError, proba_key

if TYPE_CHECKING:
    from stgnn.bench.measure import Job

    Annotate = Callable[["ScaleTask", Path, Path, Path], None]

REFERENCE, SECTIONS = "hypothalamus_scrna", "hypothalamus_merfish_animal1"
"""What tissue is made of."""

LABELS_KEY = "cell_type"
N_REFERENCE = 20_000


@dataclass(frozen=True)
class ScaleTask:
    """A reference and a query that have been made by :func:`make`.

    Parameters
    ----------
    name
        Unique name.
    reference, query
        Names of their files without the suffix.
    n_cells, n_genes
        Size of the query.
    title
        What a reader should know.
    """

    name: str
    reference: str
    query: str
    n_cells: int
    n_genes: int
    title: str = ""
    labels_key: ClassVar[str] = LABELS_KEY
    section_key: ClassVar[str] = SECTION_KEY


def from_record(values: dict[str, Any]) -> ScaleTask:
    """Make a task of plain values; the inverse of ``dataclasses.asdict``."""
    return ScaleTask(**values)


def make(sizes: Sequence[int], n_genes: int, data_dir: str | Path, folder: str | Path) -> list[ScaleTask]:
    """Lay tissue of several sizes, with one reference of 20,000 cells, and write it.

    Parameters
    ----------
    sizes
        Numbers of cells.
    n_genes
        Number of genes.
    data_dir
        Folder with the sections and the reference that it is made of.
    folder
        Where to write.

    Returns
    -------
    list of ScaleTask
        One a size.

    Raises
    ------
    OptionError
        If a size is below 1,000 cells or 10 genes.
    FileError
        If the data are missing.
    """
    from stgnn.data.files import open_h5ad_or_zarr

    for name, value, least in (*(("cells", size, 1000) for size in sizes), ("genes", n_genes, 10)):
        if value < least:
            raise OptionError(name, expected=f"{least:,} or more", found=f"{value:,}")
    known, section = (open_h5ad_or_zarr(locate(name, data_dir), "data_dir") for name in (REFERENCE, SECTIONS))
    shared = [gene for gene in known.var_names if gene in section.var_names]
    known, section = known[:, shared].copy(), section[:, shared].copy()
    place = Path(folder)
    resample(known, N_REFERENCE, n_genes, labels_key=LABELS_KEY).write_h5ad(place / "reference.h5ad")
    tasks = []
    for size in sizes:
        path = place / f"cells{size}.h5ad"
        write_tile(section, path, size, n_genes, labels_key=LABELS_KEY, section_key=SECTION_KEY)
        name = f"{size:,} cells, {n_genes} genes"
        tasks.append(ScaleTask(name, "reference", f"cells{size}", size, n_genes, "laid out of MERFISH sections"))
    return tasks


def measure(job: Job) -> dict[str, Any]:
    """Annotate from file to file, and score; see :func:`stgnn.bench.measure.measure`.

    Returns
    -------
    dict
        Seconds, CPU seconds, memory, scores and details; plain values. A peer's include what it takes to hand it files.
    """
    from stgnn import metrics
    from stgnn.bench.measure import cpu_seconds, memory_gb
    from stgnn.data.backed import opened

    task = job.task
    if not isinstance(task, ScaleTask):
        raise TypeError(f"task: expected a ScaleTask; found {type(task).__name__}")
    query, reference = (locate(name, job.data_dir) for name in (task.query, task.reference))
    annotate = _peer(job) if job.method.group == "peers" else _own(job)
    with TemporaryDirectory() as folder:
        output = Path(folder) / "annotated.h5ad"
        start, used = time.perf_counter(), cpu_seconds()
        annotate(task, query, reference, output)
        costs = {"seconds": time.perf_counter() - start, "cpu_seconds": cpu_seconds() - used, "memory_gb": memory_gb()}
        called = _called(output)
    with opened(query) as file:
        truth = np.asarray(read_elem(file["obs"][LABELS_KEY])).astype(str)
    classes = sorted(set(truth))
    scores = {
        "accuracy": float((called == truth).mean()),
        "macro_f1": float(metrics.macro_f1(truth, called, classes)),
        "cells_per_second": task.n_cells / costs["seconds"],
    }
    return costs | {"scores": scores, "details": {}}


def _own(job: Job) -> Annotate:
    """Annotate by a method of stgnn's kind, with all that it needs imported."""
    from stgnn import tl
    from stgnn.bench.methods import make

    method = make(job.method, job.seed)

    def annotate(task: ScaleTask, query: Path, reference: Path, output: Path) -> None:
        tl.annotate_file(query, output, reference, labels_key=LABELS_KEY, section_key=SECTION_KEY, method=method)

    return annotate


def _peer(job: Job) -> Annotate:
    """Annotate by a peer, which is handed AnnData."""
    import anndata

    from stgnn.bench.measure import asker

    ask = asker(job)

    def annotate(task: ScaleTask, query: Path, reference: Path, output: Path) -> None:
        asked = anndata.read_h5ad(query)
        del asked.obs[LABELS_KEY]
        asked.obs[KEY_ADDED] = ask(job, task, anndata.read_h5ad(reference), asked).best
        asked.write_h5ad(output)

    return annotate


def _called(output: Path) -> np.ndarray:
    """The most probable type of each cell: what a peer says, and a method of stgnn's kind, unknown or not."""
    from stgnn.data.backed import opened

    with opened(output) as file:
        if proba_key(KEY_ADDED) not in file["obsm"]:
            return np.asarray(read_elem(file["obs"][KEY_ADDED])).astype(str)
        types = read_elem(file["uns"][KEY_ADDED]["types"]).astype(str)
        return types[read_elem(file["obsm"][proba_key(KEY_ADDED)]).to_numpy().argmax(axis=1)]
