"""Tasks of spots: simulated from a section of single cells, so that their mixtures are known."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn.bench.kinds import Kind, check_fields
from stgnn.bench.tasks import BUILT_IN as OTHERS
from stgnn.bench.tasks import locate
from stgnn.data.schema import KEY_ADDED, deviation_key, proba_key, rejection_key

if TYPE_CHECKING:
    from anndata import AnnData

    from stgnn.bench.measure import Job

Ask = Callable[["AnnData", "AnnData"], tuple[Any, Any | None, np.ndarray | None]]
"""Asks a method for shares of spots, their deviation and what is unexplained, given reference and query."""

WITHIN = 2.0
"""Standard deviations about a share, in which the truth is expected in 95 % of all cases."""


@dataclass(frozen=True)
class SpotTask:
    """A reference of cells, a section of labelled cells, and the array that measures it.

    Parameters
    ----------
    name
        Unique name.
    reference, section
        Names of two AnnData files without their suffix.
    labels_key
        Column of ``obs`` with the types, in both.
    section_key
        Column of ``obs`` with the section of each cell; None for one section.
    layout, width_um, pitch_um, efficiency, platform, diffusion_um
        Of the array; see :class:`stgnn.datasets.SpotDesign`. A run's seed is the simulation's, too.
    um_per_unit
        Micrometres per unit of the coordinates.
    without
        Types removed from the reference, which should leave counts unexplained.
    title
        What a reader should know.
    """

    name: str
    reference: str
    section: str
    labels_key: str
    section_key: str | None = None
    layout: str = "hexagonal"
    width_um: float = 55.0
    pitch_um: float = 100.0
    efficiency: float = 1.0
    platform: float = 0.0
    diffusion_um: float = 0.0
    um_per_unit: float = 1.0
    without: tuple[str, ...] = ()
    title: str = ""


def parse(values: dict[str, Any], name: str, source: str) -> SpotTask:
    """Make a task of the contents of a TOML file.

    Raises
    ------
    OptionError
        If a field is unknown, missing or of a wrong kind, or the array is none.
    """
    check_fields(values, SpotTask, source, required=("reference", "section", "labels_key"))
    task = from_record({"name": name} | values)
    _design(task).check()
    return task


def from_record(values: dict[str, Any]) -> SpotTask:
    """Make a task of plain values, as JSON and TOML hold them; the inverse of ``dataclasses.asdict``."""
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return SpotTask(**given)


KIND = Kind(
    "spots",
    "_spots",
    ("squares", "hexagons", "squares-diffused", "hexagons-platform", "squares-hard"),
    parse,
    "methods for spots",
    OTHERS,
)
"""What ``kind`` says in the TOML file of such a task, and where the built-in ones are."""


def find(names: str) -> list[SpotTask]:
    """Tasks of spots among names; see :meth:`stgnn.bench.kinds.Kind.find`.

    Examples
    --------
    >>> [task.name for task in find("squares,hexagons")], find("main")
    (['squares', 'hexagons'], [])
    """
    return KIND.find(names)


def load(task: SpotTask, data_dir: str | Path, seed: int = 0) -> tuple[AnnData, AnnData, AnnData]:
    """Read the data of a task, and simulate its spots.

    Returns
    -------
    reference : anndata.AnnData
        Without the types of ``task.without``.
    query : anndata.AnnData
        Spots with counts, places and sections alone.
    truth : anndata.AnnData
        The same spots with their mixtures.

    Raises
    ------
    InputError
        One of its kinds, for whatever is missing or does not fit.
    """
    from stgnn.data.files import open_h5ad_or_zarr
    from stgnn.data.simulated_spots import N_CELLS_KEY, PROPORTIONS_KEY, simulate_spots

    reference = open_h5ad_or_zarr(locate(task.reference, data_dir), task.name)
    section = open_h5ad_or_zarr(locate(task.section, data_dir), task.name)
    if task.without:
        reference = reference[~reference.obs[task.labels_key].isin(task.without)].copy()
    truth = simulate_spots(
        section,
        _design(task),
        labels_key=task.labels_key,
        section_key=task.section_key,
        um_per_unit=task.um_per_unit,
        random_state=seed,
    )
    query = truth.copy()
    del query.obsm[PROPORTIONS_KEY], query.obs[N_CELLS_KEY]
    return reference, query, truth


def measure(job: Job) -> dict[str, Any]:
    """Give spots their shares, and score them; see :func:`stgnn.bench.measure.measure`.

    Returns
    -------
    dict
        Seconds, CPU seconds, memory, scores and details; plain values.
    """
    from stgnn.bench.measure import cpu_seconds, memory_gb
    from stgnn.data.simulated_spots import PROPORTIONS_KEY

    task = job.task
    if not isinstance(task, SpotTask):
        raise TypeError(f"task: expected a SpotTask; found {type(task).__name__}")
    reference, query, truth = load(task, job.data_dir, job.seed)
    ask = _ask_peer(job, task) if job.method.group == "peers" else _deconvolver(job, task)
    start, used = time.perf_counter(), cpu_seconds()
    shares, deviation, unexplained = ask(reference, query)
    costs = {"seconds": time.perf_counter() - start, "cpu_seconds": cpu_seconds() - used, "memory_gb": memory_gb()}
    scores, details = score(truth.obsm[PROPORTIONS_KEY], shares, deviation, unexplained, task.without)
    return costs | {"scores": scores, "details": details}


def _deconvolver(job: Job, task: SpotTask) -> Ask:
    """Make the method, and import all it needs: that takes seconds, and is no part of annotating."""
    from stgnn import tl
    from stgnn.bench.methods import make_deconvolver

    method = make_deconvolver(job.method, job.seed)

    def ask(reference: AnnData, query: AnnData) -> tuple[Any, Any | None, np.ndarray]:
        section_key = task.section_key or "section"
        tl.annotate(query, reference, labels_key=task.labels_key, section_key=section_key, method=method)
        types = list(query.uns[KEY_ADDED]["types"])  # the columns of its tables are written without slashes
        shares, deviation = (query.obsm.get(key(KEY_ADDED)) for key in (proba_key, deviation_key))
        return (
            shares.set_axis(types, axis=1),
            None if deviation is None else deviation.set_axis(types, axis=1),
            query.obs[rejection_key(KEY_ADDED)].to_numpy(dtype=np.float64),
        )

    return ask


def _ask_peer(job: Job, task: SpotTask) -> Ask:
    from stgnn.bench.peers import deconvolve

    python, section_key = str(job.interpreter), task.section_key or "section"

    def ask(reference: AnnData, query: AnnData) -> tuple[Any, None, None]:
        shares = deconvolve(job.method.cls, reference, query, task.labels_key, job.seed, python, section_key)
        return shares, None, None

    return ask


def score(
    truth: Any, shares: Any, deviation: Any | None, unexplained: np.ndarray | None, without: tuple[str, ...]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Compare shares with the truth, over the types of either side.

    Parameters
    ----------
    truth, shares, deviation
        Data frames (spots, types); ``deviation`` None where a method does not tell it.
    unexplained
        Share of each spot's counts that is not explained (spots,); None where a method does not tell it.
    without
        Types that the reference lacks on purpose.

    Returns
    -------
    scores : dict
        rmse (0 to 1, down), pearson (mean over types that vary, up), jensen_shannon (0 to 1, down), covered (share of
        true values within two standard deviations, .95 meant), unexplained_auroc (where a type is left out, up); the
        last two only where they are told.
    details : dict
        Pearson's correlation of each type.
    """
    from stgnn import metrics

    types = sorted(set(truth.columns) | set(shares.columns))
    true, said = (table.reindex(columns=types, fill_value=0.0).to_numpy(dtype=np.float64) for table in (truth, shares))
    varies = [place for place, name in enumerate(types) if true[:, place].std() > 0 and name not in without]
    by_type = metrics.pearson(true[:, varies], said[:, varies])
    scores = {
        "rmse": metrics.rmse(true, said),
        "pearson": float(np.nan_to_num(by_type).mean()),
        "jensen_shannon": metrics.jensen_shannon(true, said),
    }
    if deviation is not None:
        spread = deviation.reindex(columns=types, fill_value=0.0).to_numpy(dtype=np.float64)
        known = np.isin(types, list(shares.columns))
        scores["covered"] = float((np.abs(true - said) <= WITHIN * spread)[:, known].mean())
    there = truth.reindex(columns=list(without), fill_value=0.0).to_numpy().sum(axis=1) > 0
    if unexplained is not None and there.any() and not there.all():
        scores["unexplained_auroc"] = metrics.rejection_auroc(unexplained, there)
    return scores, {
        "pearson": dict(zip([types[place] for place in varies], np.nan_to_num(by_type).tolist(), strict=True))
    }


def _design(task: SpotTask) -> Any:
    from stgnn.data.simulated_spots import SpotDesign

    return SpotDesign(**{field.name: getattr(task, field.name) for field in fields(SpotDesign)})
