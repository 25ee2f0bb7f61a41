"""Doublets that the user knows of, or that scanpy's scrublet calls; none are called here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stgnn.data.columns import read_numbers
from stgnn.data.schema import InputError, OptionError, nearest

if TYPE_CHECKING:
    import scipy.sparse as sp
    from anndata import AnnData

__all__ = ["read_doublets", "scrublet_doublets"]

_FLAGS = {"doublet": True, "true": True, "1": True, "singlet": False, "false": False, "0": False}


def read_doublets(adata: AnnData, key: str, above: float | None) -> np.ndarray:
    """Read which cells are doublets.

    Parameters
    ----------
    adata
        Cells. Not modified.
    key
        Column of ``obs``: true or false, "doublet" or "singlet", or scores.
    above
        Score above which a cell is a doublet; None for a column without scores.

    Returns
    -------
    numpy.ndarray
        Whether each cell is one (cells,).

    Raises
    ------
    InputError
        If the column is missing, or holds something else.
    OptionError
        If scores come without ``above``.
    """
    if above is not None:
        if isinstance(above, bool) or not np.isfinite(above):
            raise OptionError("doublet_above", expected="a number", found=repr(above))
        return read_numbers(adata, key, "doublets_key") > above
    if key not in adata.obs:
        hint = nearest(key, adata.obs.columns)
        raise InputError("doublets_key", expected="a column of obs", found=f"no column {key!r}", hint=hint)
    codes, values = pd.factorize(adata.obs[key].astype(str).str.strip().str.lower())
    wrong = [value for value in values if value not in _FLAGS]
    if wrong:
        raise OptionError(
            "doublets_key",
            expected="true or false, or doublet or singlet, for every cell",
            found=f"{wrong[0]!r} in {key!r}",
            hint="if these are scores, doublet_above=... says from where on a cell is a doublet",
        )
    return np.array([_FLAGS[value] for value in values], dtype=bool)[codes]


def scrublet_doublets(counts: sp.csr_matrix, batches: np.ndarray, random_state: int) -> np.ndarray:
    """Call doublets by ``scanpy.pp.scrublet``, each batch by itself.

    Parameters
    ----------
    counts
        Raw counts (cells, genes).
    batches
        Donor, or library, of each cell (cells,).
    random_state
        Seed.

    Returns
    -------
    numpy.ndarray
        Whether each cell is one (cells,).

    Raises
    ------
    InputError
        If scanpy is not here, or cannot tell.
    """
    from anndata import AnnData

    try:
        import scanpy
    except ImportError:
        raise InputError(
            "scrublet",
            expected="scanpy, which has scrublet",
            found="none",
            hint="pip install scanpy scikit-image, or name a column of doublets by doublets_key=...",
        ) from None
    obs = pd.DataFrame({"batch": pd.Categorical(batches.astype(str))}, index=np.arange(len(batches)).astype(str))
    cells = AnnData(counts.copy(), obs=obs)
    try:
        scanpy.pp.scrublet(cells, batch_key="batch", random_state=random_state)
        called = cells.obs["predicted_doublet"].to_numpy(dtype=bool)
    except MemoryError:
        raise
    except Exception as error:  # too few cells or genes of a batch fail anywhere within
        found = f"{type(error).__name__}: {error}"
        raise InputError("scrublet", expected="batches in which it can call doublets", found=found) from error
    return called
