"""Raw counts: where they are, whether they are counts at all, and how to get them back from log-normalised values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from stgnn.data.schema import CountsError, nearest

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

COUNT_LAYERS = ("counts", "count", "raw_counts")
TOLERANCE = 1e-3
"""How far from an integer a stored count may lie: some exports carry float noise."""

_NEARLY_ZERO = 1e-5  # below this a value is noise on a zero, above it proportions would pass for zeros
_BLOCK = 1 << 22  # values checked at a time, so that checking a large matrix needs little extra memory
_SAMPLE = 200
_LARGEST_STEP = 100
_LOG_BASES = {"log1p": np.e, "log2(1 + x)": 2.0, "log10(1 + x)": 10.0}


class Found(NamedTuple):
    """Counts and where they came from.

    Parameters
    ----------
    values
        Counts, float32 CSR (cells, genes), a copy that shares nothing with the source.
    var
        The table of the genes that the columns of ``values`` stand for.
    note
        One sentence when the choice was not the obvious one, else empty.
    """

    values: sp.csr_matrix
    var: pd.DataFrame
    note: str


class Candidate(NamedTuple):
    """A matrix that may hold counts, what messages call it, and the table of its genes."""

    name: str
    matrix: Any
    var: pd.DataFrame


def find_counts(adata: AnnData, layer: str | None, argument: str, *, recover_counts: bool = False) -> Found:
    """Find the raw counts of an AnnData object.

    Only a named layer is looked at. Without one, ``X``, then the layers called counts, count or raw_counts, then
    ``raw`` are tried, and the first that holds counts is taken.

    Parameters
    ----------
    adata
        Cells by genes; dense, CSR, CSC or backed by a file. Never modified.
    layer
        Name of a layer, ``"X"`` or ``"raw"``; None to look for it.
    argument
        What the user calls ``adata``, for messages.
    recover_counts
        Whether values that are not counts may be turned back into counts by :func:`recover`.

    Returns
    -------
    Found
        The counts, the table of their genes and a note.

    Raises
    ------
    CountsError
        If nothing holds counts, if values are NaN, infinite or negative, or if the layer does not exist.

    Examples
    --------
    >>> from anndata import AnnData
    >>> adata = AnnData(np.log1p(np.eye(3, dtype="float32")), layers={"counts": np.eye(3)})
    >>> find_counts(adata, None, "query").note
    "counts taken from layers['counts'], since X does not hold counts"
    """
    candidates = find_candidates(adata, layer, argument)
    first_values, first_problem = None, ""
    for name, matrix, var in candidates:
        values = to_csr(matrix)
        problem = find_problem(values, var.index)
        if not problem:
            round_counts(values)
            return Found(values, var, found_in(name, candidates))
        if first_values is None:
            first_values, first_problem = values, problem
    name, _, var = candidates[0]
    if recover_counts and first_values is not None:
        return Found(recover(first_values, f"{argument}, {name}"), var, f"counts recovered from the values in {name}")
    raise not_counts(f"{argument}, {name}", first_problem)


def round_counts(values: sp.csr_matrix) -> None:
    """Take the float noise of an export off counts, in place."""
    np.rint(values.data, out=values.data)
    values.eliminate_zeros()


def found_in(name: str, candidates: list[Candidate]) -> str:
    """Sentence on where counts were found, if that is not the first place that was looked at; else empty."""
    skipped = candidates[0].name
    return "" if name == skipped else f"counts taken from {name}, since {skipped} does not hold counts"


def not_counts(where: str, problem: str) -> CountsError:
    """Error for values that :func:`find_problem` found to be no counts."""
    return CountsError(
        where,
        expected="raw counts",
        found=problem,
        hint="pass layer=... with the layer of raw counts, or recover_counts=True to undo a log-normalisation",
    )


def expected_counts(adata: AnnData, argument: str) -> Found:
    """Counts that a model expects from an image, in ``X`` of what :func:`stgnn.tl.predict_expression` wrote.

    They need not be whole: likelihoods of counts and their logarithms are defined between whole numbers, too.

    Raises
    ------
    CountsError
        If there is no ``X``, or if values are NaN, infinite or negative.
    """
    (name, matrix, var), *_ = find_candidates(adata, "X", argument)
    values = to_csr(matrix)
    if problem := _impossible(values, var.index):
        raise CountsError(f"{argument}, {name}", expected="counts expected from an image", found=problem)
    return Found(values, var, f"the {argument} holds counts expected from an image, not measured ones")


def find_candidates(adata: AnnData, layer: str | None, argument: str) -> list[Candidate]:
    """Places to look for counts, in order; see :func:`find_counts`."""
    if layer is not None:
        if layer in adata.layers:
            return [Candidate(f"layers[{layer!r}]", adata.layers[layer], adata.var)]
        if layer == "X" and adata.X is not None:
            return [Candidate("X", adata.X, adata.var)]
        if layer == "raw" and adata.raw is not None:
            return [Candidate("raw", adata.raw.X, adata.raw.var)]
        options = [*adata.layers, *(["X"] if adata.X is not None else []), *(["raw"] if adata.raw is not None else [])]
        raise CountsError(
            "layer", expected=f"a layer of {argument}", found=f"no layer {layer!r}", hint=nearest(layer, options)
        )
    found = [] if adata.X is None else [Candidate("X", adata.X, adata.var)]
    for name in sorted(adata.layers, key=lambda name: (str(name).lower() not in COUNT_LAYERS[:1], str(name))):
        if str(name).lower() in COUNT_LAYERS:
            found.append(Candidate(f"layers[{name!r}]", adata.layers[name], adata.var))
    if adata.raw is not None:
        found.append(Candidate("raw", adata.raw.X, adata.raw.var))
    if not found:
        raise CountsError(
            argument,
            expected="raw counts in X",
            found="no X",
            hint="pass layer=...; " + nearest("counts", adata.layers),
        )
    return found


def to_csr(matrix: Any) -> sp.csr_matrix:
    """Copy any matrix that AnnData can hold into float32 CSR, without ever making a sparse one dense.

    Examples
    --------
    >>> to_csr(sp.csc_matrix(np.eye(2))).dtype
    dtype('float32')
    """
    if hasattr(matrix, "to_memory"):  # sparse matrix in an open file
        matrix = matrix.to_memory()
    elif hasattr(matrix, "compute"):  # dask
        matrix = matrix.compute()
    elif not sp.issparse(matrix):  # array, or a dense dataset in an open file
        matrix = np.asarray(matrix[()])
    values = sp.csr_matrix(matrix, dtype=np.float32, copy=True)
    values.sum_duplicates()
    values.eliminate_zeros()
    return values


def find_problem(values: sp.csr_matrix, genes: Any) -> str:
    """Say why a matrix is not one of raw counts; empty if it is.

    Examples
    --------
    >>> find_problem(sp.csr_matrix([[1.0, -2.0]]), ["Gad1", "Sst"])
    "1 negative value, the first in gene 'Sst'"
    """
    if problem := _impossible(values, genes):
        return problem
    if any(_not_integer(block).any() for block in _blocks(values.data)):
        return _describe(values)
    return ""


def _impossible(values: sp.csr_matrix, genes: Any) -> str:
    """Say why values can be neither counts nor expected counts; empty if they can."""
    tests: dict[str, Callable] = {"NaN": np.isnan, "infinite": np.isinf, "negative": lambda block: block < 0}
    for name, test in tests.items():
        number = sum(int(np.count_nonzero(test(block))) for block in _blocks(values.data))
        if number:
            gene = genes[values.indices[int(np.argmax(test(values.data)))]]
            fractional = name == "negative" and any(_not_integer(block).any() for block in _blocks(values.data))
            scaled = ", and values are not integers: looks scaled or centred" if fractional else ""
            return f"{number} {name} value{'s' * (number > 1)}, the first in gene {str(gene)!r}{scaled}"
    return ""


def _blocks(data: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(data), _BLOCK):
        yield data[start : start + _BLOCK]


def _not_integer(data: np.ndarray) -> np.ndarray:
    nearest_integer = np.rint(data)
    return (np.abs(data - nearest_integer) > TOLERANCE) | ((nearest_integer == 0) & (np.abs(data) > _NEARLY_ZERO))


def _describe(values: sp.csr_matrix) -> str:
    """Say what non-integer, non-negative values look like, from a sample of the cells."""
    largest = float(values.data.max())
    start = f"non-integer values, max {largest:.3g}"
    sample = _sample(values)
    total = _equal_total(sample)
    if total:
        return f"{start}, equal row sums: looks normalised to a total of {total:.0f} per cell, without a logarithm"
    for name, base in _LOG_BASES.items():
        if not _may_be_log(largest, base):
            continue
        unlogged = _unlog(sample, base)
        inverse = "exp(x)-1" if base == np.e else f"{base:.0f}^x-1"
        total = _equal_total(unlogged)
        if total:
            return f"{start}, {inverse} has equal row sums: looks log-normalised with target {total:.0f}"
        if _to_steps(unlogged).all():
            return f"{start}, {inverse} is a multiple of one step in each cell: looks log-normalised ({name})"
    return f"{start}: looks " + ("log-transformed" if largest < 25 else "normalised or corrected for background")


def _sample(values: sp.csr_matrix) -> sp.csr_matrix:
    filled = np.flatnonzero(np.diff(values.indptr))
    return values[filled[:: max(1, len(filled) // _SAMPLE)][:_SAMPLE]].astype(np.float64)


def _equal_total(values: sp.csr_matrix) -> float:
    """Return the total that all rows share, or 0 if they do not (or if there are too few rows to tell)."""
    totals = np.asarray(values.sum(axis=1)).ravel()
    middle = float(np.median(totals)) if len(totals) else 0.0
    return middle if len(totals) > 2 and np.abs(totals - middle).max() < 0.01 * middle else 0.0


def _unlog(values: sp.csr_matrix, base: float | None) -> sp.csr_matrix:
    """Undo log(1 + x), in a copy; None for values that are not logarithms."""
    out = values.astype(np.float64, copy=True)
    if base is not None:
        out.data = np.expm1(out.data * np.log(base))
    return out


def _may_be_log(largest: float, base: float) -> bool:
    """Whether values so large can be logarithms of counts: no cell has a billion."""
    return largest * np.log(base) < np.log(1e9)


def _to_steps(values: sp.csr_matrix) -> np.ndarray:
    """Divide each row, in place, by the largest step of which all its values are multiples; say which rows have one.

    The step is the row's smallest value over 1, 2, 3, ...: a cell's smallest count is nearly always 1.
    """
    solved = np.diff(values.indptr) == 0
    filled = np.flatnonzero(~solved)
    if not len(filled):
        return solved
    smallest = np.ones(values.shape[0])
    smallest[filled] = np.minimum.reduceat(values.data, values.indptr[filled])
    values.data /= np.repeat(smallest, np.diff(values.indptr))
    factor = np.ones(values.shape[0])
    for multiple in range(1, _LARGEST_STEP + 1):
        open_rows = np.flatnonzero(~solved)
        if not len(open_rows):
            break
        part = values[open_rows] * multiple
        # float32 logarithms carry a relative error, which a large count turns into an absolute one
        off = np.abs(part.data - np.rint(part.data)) > TOLERANCE + 1e-5 * part.data
        fits = np.add.reduceat(off, part.indptr[:-1]) == 0
        factor[open_rows[fits]] = multiple
        solved[open_rows[fits]] = True
    values.data = np.rint(values.data * np.repeat(factor, np.diff(values.indptr)))
    return solved


def recover(values: sp.csr_matrix, argument: str = "values") -> sp.csr_matrix:
    r"""Turn log-normalised values back into counts.

    .. math:: c_{ij} = (e^{x_{ij}} - 1) / s_i, \qquad s_i = \min_{j: x_{ij} > 0} (e^{x_{ij}} - 1) / m_i

    with :math:`m_i` the smallest whole number that makes all of a cell's values whole. Exact up to a factor common to
    all counts of a cell, which nothing in the values can tell. Logarithms of base e, 2 and 10, then none, are tried.

    Parameters
    ----------
    values
        Log-normalised or normalised values, CSR (cells, genes), non-negative. Not modified.
    argument
        What the user calls the values, for messages.

    Returns
    -------
    scipy.sparse.csr_matrix
        Counts, float32 (cells, genes).

    Raises
    ------
    CountsError
        If the values of some cell are not multiples of one step.

    Examples
    --------
    >>> counts = sp.csr_matrix([[1.0, 3.0, 0.0], [2.0, 1.0, 5.0]])
    >>> normalised = sp.csr_matrix(np.log1p(counts.toarray() / counts.sum(axis=1) * 1e4))
    >>> recover(normalised).toarray()
    array([[1., 3., 0.],
           [2., 1., 5.]], dtype=float32)
    """
    if not np.isfinite(values.data).all() or (values.data < 0).any():
        raise CountsError(
            argument,
            expected="non-negative values to recover counts from",
            found="NaN, infinite or negative values: scaling cannot be undone",
            hint="pass layer=... with the raw counts",
        )
    sample, largest = _sample(values), float(values.data.max(initial=0.0))
    for base in (*_LOG_BASES.values(), None):
        if base is not None and not _may_be_log(largest, base):
            continue
        if not _to_steps(_unlog(sample, base)).all():  # far cheaper than to try it on every cell
            continue
        counts = _unlog(values, base)
        if _to_steps(counts).all():
            return counts.astype(np.float32)
    raise CountsError(
        argument,
        expected="values that are multiples of one step in every cell once the logarithm is undone",
        found="values that are not",
        hint="counts cannot be recovered: pass layer=... with the raw counts",
    )
