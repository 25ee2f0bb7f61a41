"""Methods of other packages, each run as it is, by an interpreter of its own.

Their dependencies exclude each other and ours, so nothing of them is imported here. Every peer is one script in this
folder that runs without this package: it reads ``reference.h5ad`` and ``query.h5ad`` from a folder and writes
``result.csv`` there. How to install them stands in ``docs/peers.md``.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stgnn.data.schema import GenesError, LabelsError, StgnnError, check_option

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

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
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    from stgnn.data.columns import read_labels

    if labels_key not in reference.obs:
        raise LabelsError("labels_key", expected="a column of reference.obs", found=repr(labels_key))
    genes = query.var_names[query.var_names.isin(reference.var_names)].unique()
    if not len(genes):
        raise GenesError("query", expected="genes that the reference has too", found="none")
    for name, source in (("reference", reference), ("query", query)):
        counts = sp.csr_matrix(source[:, genes].X, dtype=np.float32)
        kept = np.asarray(counts.sum(1)).ravel() > 0
        obs = pd.DataFrame(index=source.obs_names.astype(str))
        if name == "reference":  # the labels, and the types, that every other method gets
            code, names, _ = read_labels(source, labels_key, "reference")
            kept &= (code >= 0) & (np.bincount(code[code >= 0], minlength=len(names)) > 1)[code]
            obs[LABEL] = np.array(names, dtype=object)[code]
            types = sorted(set(obs[LABEL][kept]))
        elif section_key in source.obs:
            obs[SECTION] = source.obs[section_key].astype(str).to_numpy()
        else:
            obs[SECTION] = "1"
        out = anndata.AnnData(counts[kept], obs=obs[kept], var=pd.DataFrame(index=genes.astype(str)))
        if SPATIAL in source.obsm:
            out.obsm[SPATIAL] = np.asarray(source.obsm[SPATIAL], dtype=np.float64)[kept]
        out.write_h5ad(folder / f"{name}.h5ad")
    return types


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
