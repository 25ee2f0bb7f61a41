"""What the readers of platforms share: from arrays to AnnData, controls left out, files found in a folder."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from stgnn.data.counts import find_problem
from stgnn.data.genes import merge_duplicates
from stgnn.data.schema import (
    SECTION_KEY,
    SOURCE_KEY,
    SPATIAL_KEY,
    CoordinatesError,
    CountsError,
    FileError,
    number_of,
)
from stgnn.data.tables import damaged
from stgnn.data.tenx import GENE, Features

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "Measured",
    "check_counts",
    "check_names",
    "find_file",
    "has_file",
    "join",
    "places_of",
    "read_json",
    "to_anndata",
]

GENE_IDS = "gene_ids"


@dataclass(frozen=True)
class Measured:
    """What a platform's files hold.

    Parameters
    ----------
    features
        Counts of all features in all cells.
    places
        Coordinates (cells, 2 or 3) in units of the file; None without any.
    um_per_unit
        Micrometres per unit of ``places``.
    scale
        Who says so where the files don't, in words; a user's ``um_per_unit`` replaces such a scale.
    obs
        What else the files say of each cell, with a row for each (cells, columns).
    facts
        More for ``uns``: image, its scale, versions.
    notes
        What was done, in sentences.
    """

    features: Features
    places: np.ndarray | None = None
    um_per_unit: float = 1.0
    scale: str = ""
    obs: pd.DataFrame | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


def to_anndata(measured: Measured, platform: str) -> AnnData:
    """Make AnnData of what was measured: genes only, counts of genes of one name summed.

    Parameters
    ----------
    measured
        What the files hold.
    platform
        What wrote them.

    Returns
    -------
    anndata.AnnData
        Raw counts (float32 CSR) in ``X``; ``var["gene_ids"]`` where the files tell ids; ``obsm["spatial"]``, in units
        of the file; ``uns["stgnn_source"]`` with ``um_per_unit`` and ``scale``.
    """
    from anndata import AnnData

    barcodes, counts, ids, names, kinds = measured.features
    is_gene = kinds == GENE
    notes = [*measured.notes, *_left_out(kinds[~is_gene])]
    counts, genes, first = merge_duplicates(counts[:, is_gene], names[is_gene])
    n_same = int(is_gene.sum()) - len(genes)
    if n_same:
        notes.append(f"counts of {number_of(n_same, 'repeated gene name')} summed")
    var = pd.DataFrame(index=pd.Index(genes.astype(str)))
    if not np.array_equal(ids, names):
        var[GENE_IDS] = ids[is_gene][first].astype(str)
    obs = pd.DataFrame() if measured.obs is None else measured.obs
    obs = obs.set_axis(pd.Index(barcodes.astype(str)), axis=0) if len(obs.columns) else pd.DataFrame(index=barcodes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Transforming to str index")
        adata = AnnData(counts.tocsr(), obs=_writable(obs), var=var)
    source = {"platform": platform, **measured.facts, "notes": np.array(notes, dtype=object)}
    if measured.places is not None:
        adata.obsm[SPATIAL_KEY] = np.ascontiguousarray(measured.places, dtype=np.float64)
        source |= {"um_per_unit": float(measured.um_per_unit), "scale": measured.scale}
    adata.uns[SOURCE_KEY] = source
    return adata


def _left_out(kinds: np.ndarray) -> list[str]:
    """Say how many features are no genes, by kind."""
    if not len(kinds):
        return []
    parts = ", ".join(f"{number} {kind}" for kind, number in sorted(Counter(kinds).items()))
    return [f"{number_of(len(kinds), 'feature')} that are no genes left out: {parts}"]


def _writable(obs: pd.DataFrame) -> pd.DataFrame:
    """Columns that every AnnData file can hold: those of mixed values become text."""
    obs = obs.copy()
    for column in obs.columns:
        if obs[column].dtype.kind in "mM":
            obs[column] = obs[column].astype(str)
        elif obs[column].dtype == object:
            obs[column] = obs[column].map(lambda value: value.decode() if isinstance(value, bytes) else value)
            obs[column] = obs[column].fillna("").astype(str)
    obs.columns = [str(column).replace("/", "|") for column in obs.columns]
    return obs


def find_file(folder: Path, *endings: str) -> Path:
    """Find the one file whose name ends in one of some ways; of several endings the first that there is.

    Raises
    ------
    FileError
        If there is none, or several.
    """
    for ending in endings:
        found = _ending_in(folder, ending)
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(path.name for path in found[:3]) + (", ..." if len(found) > 3 else "")
            hint = "put each section into a folder of its own"
            raise FileError(
                "source", expected=f"one {ending}", found=f"{len(found)} in {str(folder)!r}: {shown}", hint=hint
            )
    expected = " or ".join(endings)
    raise FileError("source", expected=expected, found=f"none in {str(folder)!r}", hint="copy it there")


def has_file(folder: Path, *endings: str) -> bool:
    """Whether a folder holds a file whose name ends in one of some ways."""
    return any(_ending_in(folder, ending) for ending in endings)


def _ending_in(folder: Path, ending: str) -> list[Path]:
    paths = folder.glob(f"*{ending}") if folder.is_dir() else ()
    return sorted(path for path in paths if path.is_file() and not path.name.startswith("."))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises
    ------
    FileError
        If it is damaged.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    if not isinstance(facts, dict):
        raise damaged(path, ValueError("no object in it"))
    return facts


def places_of(table: pd.DataFrame, columns: Sequence[str], path: Path) -> np.ndarray:
    """Coordinates (cells, columns) out of a table.

    Raises
    ------
    FileError
        If a column is missing.
    CoordinatesError
        If places are not numbers, as in a row cut short.
    """
    missing = [column for column in columns if column not in table]
    if missing:
        raise FileError(
            "source", expected=f"the columns {', '.join(columns)}", found=f"no {', '.join(missing)} in {path.name!r}"
        )
    places = table[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    bad = ~np.isfinite(places).all(axis=1)
    if bad.any():
        raise CoordinatesError(
            "source",
            expected="a place for every cell",
            found=f"{int(bad.sum())} of {len(bad)} without in {path.name!r}, the first in row {int(bad.argmax()) + 1}",
            hint="it may be truncated: copy it again",
        )
    return places


def check_names(names: pd.Index, path: Path) -> None:
    """Refuse a table in which cells repeat, or that has none.

    Raises
    ------
    FileError
        If so.
    """
    if not len(names):
        raise FileError("source", expected=f"cells in {path.name!r}", found="none")
    repeats = int(names.duplicated().sum())
    if repeats:
        first = names[names.duplicated()][0]
        found = f"{number_of(repeats, 'repeat')} in {path.name!r}, the first of {first!r}"
        raise FileError("source", expected="one row for each cell", found=found)


def check_counts(counts: sp.csr_matrix, genes: np.ndarray, path: Path) -> None:
    """Refuse what are no counts.

    Raises
    ------
    CountsError
        If values are negative or not whole.
    """
    if problem := find_problem(counts, genes):
        raise CountsError("source", expected=f"raw counts in {path.name!r}", found=problem)


def join(sections: Mapping[str, AnnData]) -> AnnData:
    """Put sections into one AnnData, each named in ``obs["section"]``; genes that not all have are left out.

    Parameters
    ----------
    sections
        Of one platform, by name.

    Returns
    -------
    anndata.AnnData
        Names of cells start with that of their section.
    """
    import anndata

    if len(sections) == 1:
        return next(iter(sections.values()))
    joined = anndata.concat(sections, label=SECTION_KEY, index_unique=None, merge="same")
    joined.obs_names = joined.obs[SECTION_KEY].astype(str) + "_" + joined.obs_names
    sources = {name: adata.uns[SOURCE_KEY] for name, adata in sections.items()}
    notes = [f"{name}: {sentence}" for name, source in sources.items() for sentence in source["notes"]]
    lost = max(adata.n_vars for adata in sections.values()) - joined.n_vars
    notes += [f"{number_of(lost, 'gene')} that not all sections have left out"] if lost else []
    first = next(iter(sources.values()))
    joined.uns[SOURCE_KEY] = first | {"section_key": SECTION_KEY, "notes": np.array(notes, dtype=object)}
    return joined
