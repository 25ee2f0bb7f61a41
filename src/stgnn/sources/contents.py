"""What a file holds: cells, counts, labels and places, and which options say so to ``stgnn annotate``."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stgnn.data import platforms
from stgnn.data.columns import MAX_TYPES, read_labels
from stgnn.data.counts import COUNT_LAYERS, find_candidates, find_problem, to_csr
from stgnn.data.schema import LABELS_KEY, SECTION_KEY, SPATIAL_KEY, LabelsError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Contents", "commands", "describe"]

_LABELS = (LABELS_KEY, "annotation", "celltype", "cell_class", "cell_subclass", "subclass")
"""Columns that hold types by custom; the first that can be learned from is taken."""


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Parameters
    ----------
    path
        The file.
    n_cells, n_genes
        Its size.
    layer
        Where raw counts are: ``"X"``, ``"raw"`` or the name of a layer; empty if nowhere.
    problem
        Why what stands for counts is none; empty if there are counts.
    labels_key
        Column of ``obs`` with types; empty if there is none of a usual name.
    n_types
        Number of types in it.
    others
        Other columns of ``obs`` that could be types.
    section_key
        Column of ``obs`` that tells sections apart; empty if there is none, or one section.
    n_axes
        Columns of ``obsm["spatial"]``; 0 if there is none.
    """

    path: str
    n_cells: int
    n_genes: int
    layer: str
    problem: str
    labels_key: str
    n_types: int
    others: tuple[str, ...]
    section_key: str
    n_axes: int


def describe(path: str | Path) -> Contents:
    """Read a file and look for counts, labels and places in it.

    Parameters
    ----------
    path
        Whatever :func:`stgnn.read` reads.

    Returns
    -------
    Contents
        What was found.

    Raises
    ------
    FileError
        If it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from stgnn.data.toy import toy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     toy(n_cells=50)[0].write_h5ad(f"{folder}/a.h5ad")
    ...     found = describe(f"{folder}/a.h5ad")
    >>> found.layer, found.labels_key
    ('X', 'cell_type')
    """
    adata = platforms.read(path)
    layer, problem = _counts(adata)
    types = {str(key): number for key in adata.obs if (number := _n_types(adata, str(key)))}
    labels_key = next((key for key in _LABELS if key in types), "")
    section_key = SECTION_KEY if types.get(SECTION_KEY) else ""
    others = tuple(key for key in types if key not in (labels_key, section_key))
    places = adata.obsm.get(SPATIAL_KEY)
    n_axes = 0 if places is None else int(places.shape[1])
    return Contents(
        path=str(path),
        n_cells=adata.n_obs,
        n_genes=adata.n_vars,
        layer=layer,
        problem=problem,
        labels_key=labels_key,
        n_types=types.get(labels_key, 0),
        others=others,
        section_key=section_key,
        n_axes=n_axes,
    )


def commands(contents: Contents) -> list[str]:
    """Write what to run next with a file: as a query if it has places, as a reference if it has labels.

    Examples
    --------
    >>> commands(Contents("a.h5ad", 9, 9, "count", "", "annotation", 3, (), "", 0))
    ['stgnn annotate QUERY --reference a.h5ad --labels-key annotation --reference-layer count --output annotated.h5ad']
    """
    path, layer = shlex.quote(contents.path), shlex.quote(contents.layer)
    end = "--output annotated.h5ad"
    found = []
    if contents.labels_key and contents.layer:
        labels = shlex.quote(contents.labels_key)
        found.append(f"stgnn annotate QUERY --reference {path} --labels-key {labels} --reference-layer {layer} {end}")
    if contents.n_axes and contents.layer:
        section = f"--section-key {contents.section_key} " if contents.section_key else ""
        found.append(f"stgnn annotate {path} --layer {layer} {section}--reference REFERENCE {end}")
    return found


def _counts(adata: AnnData) -> tuple[str, str]:
    """Where raw counts are, in the words of ``--layer``; or what is wrong with what comes first."""
    named = [str(name) for name in adata.layers if str(name).lower() in COUNT_LAYERS]
    first_problem = ""
    for layer in (["X"] if adata.X is not None else []) + named + (["raw"] if adata.raw is not None else []):
        (candidate,) = find_candidates(adata, layer, "file")
        problem = find_problem(to_csr(candidate.matrix), candidate.var.index)
        if not problem:
            return layer, ""
        first_problem = first_problem or f"{candidate.name} holds {problem}"
    return "", first_problem or "no X and no layer of counts"


def _n_types(adata: AnnData, key: str) -> int:
    """Number of types in a column that can be learned from; 0 for another."""
    if adata.obs[key].nunique() > MAX_TYPES:  # names of cells, say: long to read as types
        return 0
    try:
        _, types, _ = read_labels(adata, key, "file")
    except LabelsError:
        return 0
    return len(types) if len(types) > 1 else 0
