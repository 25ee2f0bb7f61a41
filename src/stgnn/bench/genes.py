"""Tasks of imputation: measured genes held out, fold by fold, and compared with what is imputed in their place."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn.bench.kinds import Kind, check_fields
from stgnn.bench.tasks import BUILT_IN as OTHERS
from stgnn.bench.tasks import locate, strip
from stgnn.data.schema import RELIABILITY_KEY, SPATIAL_KEY, OptionError

if TYPE_CHECKING:
    from anndata import AnnData
    from jaxtyping import Float

    from stgnn.bench.measure import Job


@dataclass(frozen=True)
class GeneTask:
    """A reference and a query, some of whose shared genes are imputed as if they had not been measured.

    Parameters
    ----------
    name
        Unique name.
    reference, query
        Names of two AnnData files without their suffix.
    labels_key
        Column of the reference's ``obs`` with the types.
    section_key
        Column of the query's ``obs`` with the section of each cell; None for one section.
    n_folds
        Parts that the shared genes are held out in; a run's seed shuffles them.
    title
        What a reader should know.
    """

    name: str
    reference: str
    query: str
    labels_key: str
    section_key: str | None = None
    n_folds: int = 5
    title: str = ""


Ask = Callable[["AnnData", "AnnData", np.ndarray], tuple[np.ndarray, np.ndarray | None]]
"""Asks a method for genes, given reference, query and their names: values (cells, genes) and reliability (genes,)."""


def parse(values: dict[str, Any], name: str, source: str) -> GeneTask:
    """Make a task of the contents of a TOML file.

    Raises
    ------
    OptionError
        If a field is unknown, missing or of a wrong kind.

    Examples
    --------
    >>> parse({"reference": "a", "query": "b", "labels_key": "type"}, "mine", "mine.toml").n_folds
    5
    """
    check_fields(values, GeneTask, source, required=("reference", "query", "labels_key"))
    if values.get("n_folds", 2) < 2:
        raise OptionError("tasks", expected="2 or more as n_folds", found=f"{values['n_folds']} in {source!r}")
    return from_record({"name": name} | values)


def from_record(values: dict[str, Any]) -> GeneTask:
    """Make a task of plain values, as JSON and TOML hold them; the inverse of ``dataclasses.asdict``."""
    return GeneTask(**values)


KIND = Kind("genes", "_genes", ("hypothalamus", "prefrontal", "visual"), parse, "methods that impute genes", OTHERS)
"""What ``kind`` says in the TOML file of such a task, and where the built-in ones are."""


def find(names: str) -> list[GeneTask]:
    """Tasks of imputation among names; see :meth:`stgnn.bench.kinds.Kind.find`.

    Examples
    --------
    >>> [task.name for task in find("genes")], find("main")
    (['hypothalamus', 'prefrontal', 'visual'], [])
    """
    return KIND.find(names)


def load(task: GeneTask, data_dir: str | Path) -> tuple[AnnData, AnnData]:
    """Read reference and query; the query has sections and places alone beside its counts.

    Raises
    ------
    InputError
        One of its kinds, for whatever is missing or does not fit.
    """
    from stgnn.data.files import open_h5ad_or_zarr

    reference = open_h5ad_or_zarr(locate(task.reference, data_dir), task.name)
    query = open_h5ad_or_zarr(locate(task.query, data_dir), task.name)
    strip(query, task.section_key)
    return reference, query


def measure(job: Job) -> dict[str, Any]:
    """Impute the genes of each fold from the others, and score them; see :func:`stgnn.bench.measure.measure`.

    Returns
    -------
    dict
        Seconds, CPU seconds, memory, scores and details; plain values.
    """
    import pandas as pd
    from anndata import AnnData

    from stgnn.bench.measure import cpu_seconds, memory_gb
    from stgnn.data.cells import read_query, read_reference
    from stgnn.data.imputed import pair
    from stgnn.experts import log_normalise
    from stgnn.standins import typical_depth

    task = job.task
    if not isinstance(task, GeneTask):
        raise TypeError(f"task: expected a GeneTask; found {type(task).__name__}")
    reference, query = load(task, job.data_dir)
    _, cells, _ = pair(
        read_reference(reference, labels_key=task.labels_key), read_query(query, section_key=task.section_key)
    )
    query = AnnData(cells.counts, obs=query.obs.iloc[cells.rows], var=pd.DataFrame(index=cells.genes.astype(str)))
    if cells.coords is not None:
        query.obsm[SPATIAL_KEY] = cells.coords
    truth = log_normalise(cells.counts, typical_depth(cells))
    ask = _ask_peer(job) if job.method.group == "peers" else _imputer(job, task)
    said, told = np.empty_like(truth), np.full(truth.shape[1], np.nan)
    start, used = time.perf_counter(), cpu_seconds()
    order = np.random.default_rng(job.seed).permutation(truth.shape[1])
    for held in np.array_split(order, min(task.n_folds, len(order))):
        seen = np.setdiff1d(np.arange(truth.shape[1]), held)
        said[:, held], reliability = ask(reference, query[:, seen].copy(), cells.genes[held])
        told[held] = np.nan if reliability is None else reliability
    costs = {"seconds": time.perf_counter() - start, "cpu_seconds": cpu_seconds() - used, "memory_gb": memory_gb()}
    scores, details = score(truth, said, told, cells.genes)
    return costs | {"scores": scores, "details": details}


def score(
    truth: Float[np.ndarray, "n g"], said: Float[np.ndarray, "n g"], told: Float[np.ndarray, " g"], genes: np.ndarray
) -> tuple[dict[str, float], dict[str, Any]]:
    """Compare imputed genes with measured ones.

    Parameters
    ----------
    truth, said
        Log-normalised expression (cells, genes).
    told
        Reliability that the method told of each gene (genes,); NaN where it told none.
    genes
        Names (genes,).

    Returns
    -------
    scores : dict
        spearman and pearson (means over genes, -1 to 1, up; 0 where a method says the same of all cells);
        reliability_pearson (correlation over genes of what was told with the rank correlation achieved, up) and
        reliability_error (mean absolute difference of the two, down), where reliability is told.
    details : dict
        Rank correlation of each gene, and the reliability told of it.
    """
    from stgnn import metrics

    achieved = np.nan_to_num(metrics.spearman(truth, said))
    scores = {
        "spearman": float(achieved.mean()),
        "pearson": float(np.nan_to_num(metrics.pearson(truth, said)).mean()),
    }
    details = {"spearman": dict(zip(map(str, genes), achieved.tolist(), strict=True))}
    if np.isfinite(told).all():
        scores["reliability_pearson"] = float(np.nan_to_num(metrics.pearson(achieved[:, None], told[:, None])[0]))
        scores["reliability_error"] = float(np.abs(told - achieved).mean())
        details["reliability"] = dict(zip(map(str, genes), told.tolist(), strict=True))
    return scores, details


def _imputer(job: Job, task: GeneTask) -> Ask:
    """Make the method, and import all it needs: that takes seconds, and is no part of imputing."""
    from stgnn import tl
    from stgnn.bench.methods import make_imputer

    method = make_imputer(job.method, job.seed)

    def ask(reference: AnnData, query: AnnData, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = tl.impute(
            query,
            reference,
            genes=genes.tolist(),
            labels_key=task.labels_key,
            section_key=task.section_key,
            method=method,
        )
        return found.X, found.var[RELIABILITY_KEY].to_numpy(dtype=np.float64)

    return ask


def _ask_peer(job: Job) -> Ask:
    from stgnn.bench.peers import impute

    def ask(reference: AnnData, query: AnnData, genes: np.ndarray) -> tuple[np.ndarray, None]:
        return impute(job.method.cls, reference, query, genes.tolist(), job.seed, str(job.interpreter)), None

    return ask
