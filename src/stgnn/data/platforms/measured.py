"""From what a platform measured to AnnData: controls left out, genes of one name summed, sections joined."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stgnn.data.genes import merge_duplicates
from stgnn.data.schema import (
    SECTION_KEY,
    SOURCE_KEY,
    SPATIAL_KEY,
    number_of,
)
from stgnn.data.tenx import GENE, Features

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Measured", "join", "to_anndata"]

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
        More for ``uns``: ``image``, ``um_per_pixel``, ``image_origin_um`` (its corner, if not at 0), versions.
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
    notes.insert(0, f"{len(sections)} sections, told apart in obs[{SECTION_KEY!r}]: {', '.join(sections)}")
    notes += [f"{number_of(lost, 'gene')} that not all sections have left out"] if lost else []
    first = next(iter(sources.values()))
    joined.uns[SOURCE_KEY] = first | {"section_key": SECTION_KEY, "notes": np.array(notes, dtype=object)}
    return joined
