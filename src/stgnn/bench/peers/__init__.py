"""Methods of other packages, each run as it is, by an interpreter of its own.

Their dependencies exclude each other and ours, so nothing of them is imported here. Every peer is one script in this
folder that runs without this package: it reads ``reference.h5ad`` and ``query.h5ad`` from a folder and writes
``result.csv`` there, or ``result.npy`` where it predicts genes. How to install them stands in ``docs/peers.md``.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn.data.schema import GenesError, LabelsError, StgnnError, check_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from jaxtyping import Float

SCRIPTS = {
    "celltypist": "_celltypist.py",
    "tacco": "_tacco.py",
    "tangram": "_tangram.py",
    "scanvi": "_scanvi.py",
    "resolvi": "_resolvi.py",
    "singler": "_singler.py",
}
"""Script of each peer that annotates cells, by its name."""

SPOT_SCRIPTS = {"tacco": "_tacco.py", "flashdeconv": "_flashdeconv.py"}
"""Script of each peer that gives spots shares of types, by its name."""

SCORES_ONLY = ("celltypist", "singler")
"""Peers whose figures are no probabilities of one type among all."""

GENE_SCRIPTS = {"tangram": "_tangram_genes.py"}
"""Script of each peer that predicts genes that were not measured, by its name."""

SUM_TOLERANCE = 1e-3
"""How far from 1 a spot's shares may sum, as a peer's arithmetic in single precision does."""

LABEL, SECTION, SPATIAL = "label", "section", "spatial"
"""Where the scripts find types, sections and coordinates."""


class PeerError(StgnnError):
    """A peer could not be run, or gave no usable result."""


def annotate(
    name: str,
    reference: AnnData,
    query: AnnData,
    labels_key: str,
    seed: int,
    python: str,
    section_key: str = "section",
) -> pd.DataFrame:
    """Annotate a query by a peer, with its default parameters.

    Parameters
    ----------
    name
        One of :data:`SCRIPTS`.
    reference, query
        Raw counts in ``X`` (cells, genes); only genes that both have are handed over. The query's types are not.
    labels_key
        Column of the reference's ``obs`` with the types; cells without one are left out.
    seed
        Seed, for peers that draw.
    python
        Path of an interpreter that has the peer.
    section_key
        Column of the query's ``obs`` with its sections; without it, all cells are of one.

    Returns
    -------
    pandas.DataFrame
        What the peer says (cells of the query, types of the reference): probabilities, or scores where it knows none.
        Types it does not mention get the least of the row, at most 0; cells it does not judge, such as those without a
        count, get the same for all types.

    Raises
    ------
    OptionError
        If there is no peer of that name.
    GenesError, LabelsError
        If the two share no gene, or the reference has no such column.
    PeerError
        If the interpreter is missing, the script fails, or the result is unusable; the last line of what it wrote to
        stderr is in the message.
    """
    check_option("peer", name, SCRIPTS)
    return _ask(name, SCRIPTS[name], reference, query, labels_key, seed, python, section_key)


def deconvolve(
    name: str,
    reference: AnnData,
    query: AnnData,
    labels_key: str,
    seed: int,
    python: str,
    section_key: str = "section",
) -> pd.DataFrame:
    """Give spots their shares of types by a peer, with its default parameters.

    Parameters and errors are those of :func:`annotate`; ``name`` is one of :data:`SPOT_SCRIPTS`.

    Returns
    -------
    pandas.DataFrame
        Shares (spots of the query, types of the reference); rows sum to 1. Spots that the peer does not judge, such as
        those without a count, get the same of all types.
    """
    check_option("peer", name, SPOT_SCRIPTS)
    table = _ask(name, SPOT_SCRIPTS[name], reference, query, labels_key, seed, python, section_key)
    least, sums = table.min(axis=None), table.sum(axis=1)
    if not (least >= 0 and np.allclose(sums, 1, atol=SUM_TOLERANCE)):
        found = f"a least of {least:.3g}, sums of {sums.min():.3g} to {sums.max():.3g}"
        raise PeerError(f"{name}: expected shares of 0 or more that sum to 1; found {found}")
    return table


def impute(
    name: str, reference: AnnData, query: AnnData, genes: Sequence[str], seed: int, python: str
) -> Float[np.ndarray, "cells genes"]:
    """Predict genes that a query has not measured by a peer, with its default parameters.

    Parameters
    ----------
    name
        One of :data:`GENE_SCRIPTS`.
    reference, query
        Raw counts in ``X`` (cells, genes). The reference's genes are all handed over, so that the peer can scale counts
        by those of the whole cell; the query's are those that the reference has too, without ``genes``.
    genes
        Genes of the reference to predict. What the query has of them is not handed over.
    seed
        Seed, for peers that draw.
    python
        Path of an interpreter that has the peer.

    Returns
    -------
    numpy.ndarray
        What the peer says, in units of its own (cells of the query, genes in the order given), float32; cells without a
        count get the mean of the others.

    Raises
    ------
    OptionError
        If there is no peer of that name.
    GenesError
        If the reference lacks one of the genes, or the two share no other.
    PeerError
        As :func:`annotate`.
    """
    check_option("peer", name, GENE_SCRIPTS)
    lacking = [gene for gene in genes if gene not in reference.var_names]
    if lacking or not len(genes):
        raise GenesError("genes", expected="genes of the reference", found=", ".join(map(repr, lacking)) or "none")
    measured = _shared_genes(reference, query)
    measured = measured[~measured.isin(list(genes))]
    if not len(measured):
        raise GenesError("query", expected="genes of the reference other than those to predict", found="none")
    with tempfile.TemporaryDirectory(prefix="stgnn-peer-") as place:
        folder = Path(place)
        _save(folder / "reference.h5ad", reference, reference.var_names.unique(), {})
        given = _save(folder / "query.h5ad", query, measured, {})
        (folder / "genes.txt").write_text("\n".join(genes), encoding="utf-8")
        _run(name, GENE_SCRIPTS[name], folder, seed, python)
        try:
            values = np.load(folder / "result.npy").astype(np.float32)
        except (OSError, EOFError, ValueError) as error:
            found = f"{type(error).__name__}: {error}"
            raise PeerError(f"{name}: expected an array in result.npy; found {found}") from error
    shape, finite = (int(given.sum()), len(genes)), bool(np.isfinite(values).all())
    if values.shape != shape or not finite:
        found = f"{values.shape}, {'' if finite else 'not '}all finite"
        raise PeerError(f"{name}: expected finite values of shape {shape}; found {found}")
    filled = np.tile(values.mean(axis=0), (len(given), 1))
    filled[given] = values
    return filled


def _ask(
    name: str,
    script: str,
    reference: AnnData,
    query: AnnData,
    labels_key: str,
    seed: int,
    python: str,
    section_key: str,
) -> pd.DataFrame:
    import pandas as pd

    with tempfile.TemporaryDirectory(prefix="stgnn-peer-") as place:
        folder = Path(place)
        types = _write(folder, reference, query, labels_key, section_key)
        _run(name, script, folder, seed, python)
        try:
            table = pd.read_csv(folder / "result.csv", index_col=0, converters={0: str})
        except (OSError, ValueError) as error:
            raise PeerError(f"{name}: expected a table in result.csv; found {type(error).__name__}: {error}") from error
    return _complete(name, table, query.obs_names.astype(str), types)


def _write(folder: Path, reference: AnnData, query: AnnData, labels_key: str, section_key: str) -> list[str]:
    """Write what the scripts read, and return the types."""
    from stgnn.data.columns import read_labels

    if labels_key not in reference.obs:
        raise LabelsError("labels_key", expected="a column of reference.obs", found=repr(labels_key))
    genes = _shared_genes(reference, query)
    code, names, _ = read_labels(reference, labels_key, "reference")  # the labels that every other method gets
    known = (code >= 0) & (np.bincount(code[code >= 0], minlength=len(names)) > 1)[code]
    labels = np.array(names, dtype=object)[code[known]]
    kept = _save(folder / "reference.h5ad", reference[known], genes, {LABEL: labels})
    sections = query.obs[section_key].astype(str).to_numpy() if section_key in query.obs else "1"
    _save(folder / "query.h5ad", query, genes, {SECTION: sections})
    return sorted(set(labels[kept]))


def _shared_genes(reference: AnnData, query: AnnData) -> pd.Index:
    genes = query.var_names[query.var_names.isin(reference.var_names)].unique()
    if not len(genes):
        raise GenesError("query", expected="genes that the reference has too", found="none")
    return genes


def _save(path: Path, source: AnnData, genes: pd.Index, columns: dict[str, Any]) -> np.ndarray:
    """Write counts of genes in cells that have any, with columns of cells, and return which cells these are."""
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    counts = sp.csr_matrix(source[:, genes].X, dtype=np.float32)
    kept = np.asarray(counts.sum(1)).ravel() > 0
    obs = pd.DataFrame(columns, index=source.obs_names.astype(str))
    out = anndata.AnnData(counts[kept], obs=obs[kept], var=pd.DataFrame(index=genes.astype(str)))
    if SPATIAL in source.obsm:
        out.obsm[SPATIAL] = np.asarray(source.obsm[SPATIAL], dtype=np.float64)[kept]
    out.write_h5ad(path)
    return kept


def _run(name: str, script: str, folder: Path, seed: int, python: str) -> None:
    # ours must not shine through: neither our modules nor a user's own folder of packages
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"PYTHONNOUSERSITE": "1", "PYTHONHASHSEED": str(seed % 2**32), "CELLTYPIST_FOLDER": str(folder)}
    try:
        done = subprocess.run(
            [python, str(Path(__file__).parent / script), str(folder), str(seed)],
            capture_output=True,
            text=True,
            errors="replace",
            cwd=folder,
            env=environment,
            check=False,
        )
    except OSError as error:
        raise PeerError(f"{name}: expected a Python interpreter; found {python!r}: {error.strerror}") from error
    if done.returncode:
        written = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        last = written[-1] if written else f"exit code {done.returncode} and nothing on stderr"
        hint = f"; install it as docs/peers.md says, for {python}" if "ModuleNotFoundError" in last else ""
        raise PeerError(f"{name}: expected a result; found {last}{hint}")


def _complete(name: str, table: pd.DataFrame, cells: pd.Index, types: list[str]) -> pd.DataFrame:
    """Rows of all cells in their order, columns of all types."""
    table.index, table.columns = table.index.astype(str), table.columns.astype(str)
    others = [column for column in table.columns if column not in types]
    if others or not len(table.columns):
        raise PeerError(f"{name}: expected types of the reference as columns; found {', '.join(others) or 'none'}")
    strange = table.index.difference(cells)
    if len(strange) or not table.index.is_unique:
        found = f"{len(strange)} others" if len(strange) else "the same name twice"
        raise PeerError(f"{name}: expected cells of the query as rows; found {found}")
    values = table.reindex(columns=types).astype(float)
    least = np.fmin(values.min(axis=1), 0)
    values = values.where(values.notna(), least, axis=0)
    return values.reindex(cells).fillna(1 / len(types))
