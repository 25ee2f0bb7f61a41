"""Gene names in a common form: duplicates, versions of Ensembl ids, Ensembl ids against symbols, case."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stgnn.data.schema import GenesError

if TYPE_CHECKING:
    import pandas as pd

MIN_SHARED = 10
"""Fewest shared genes that are worth learning from."""

VAR_NAMES = "var_names"
_VERSIONED = re.compile(r"(ENS[A-Z]*G\d{6,})\.\d+")
_ENSEMBL = re.compile(r"(ENS[A-Z]*G)\d{6,}(\.\d+)?")
_CASE_RATIO = 5  # some symbols (C3, F2) are spelt alike in man and mouse, so a few matches prove nothing


def strip_versions(names: np.ndarray) -> np.ndarray:
    """Cut the version off Ensembl gene ids; other names stay as they are.

    Examples
    --------
    >>> strip_versions(np.array(["ENSMUSG00000000001.4", "RP11-34P13.7"], dtype=object)).tolist()
    ['ENSMUSG00000000001', 'RP11-34P13.7']
    """
    out = [str(name).strip() for name in names]
    return np.array([match[1] if (match := _VERSIONED.fullmatch(name)) else name for name in out], dtype=object)


def ensembl_species(names: np.ndarray) -> str:
    """Prefix of the Ensembl gene ids (ENSG, ENSMUSG, ...) if most names are such ids, else empty.

    Examples
    --------
    >>> ensembl_species(np.array(["ENSMUSG00000000001", "ENSMUSG00000000002"]))
    'ENSMUSG'
    """
    prefixes = [match[1] for name in names if (match := _ENSEMBL.fullmatch(str(name)))]
    return max(set(prefixes), key=prefixes.count) if 2 * len(prefixes) > len(names) else ""


def merge_duplicates(counts: sp.csr_matrix, names: np.ndarray) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """Sum the columns that share a name, and drop those without one.

    Parameters
    ----------
    counts
        Counts, CSR (cells, columns).
    names
        Name of each column (columns,); empty where it has none.

    Returns
    -------
    tuple
        Counts (cells, genes), names (genes,) and, for each gene, its first column (genes,).

    Examples
    --------
    >>> counts, genes, _ = merge_duplicates(sp.csr_matrix([[1.0, 2.0, 4.0]]), np.array(["A", "B", "A"], dtype=object))
    >>> counts.toarray().tolist(), genes.tolist()
    ([[5.0, 2.0]], ['A', 'B'])
    """
    named = np.flatnonzero(names != "")
    unique, first, gene = np.unique(names[named].astype(str), return_index=True, return_inverse=True)
    if len(unique) == len(names):
        return counts, names, np.arange(len(names))
    ones = np.ones(len(named), dtype=counts.dtype)
    total = sp.csr_matrix((ones, (named, gene.ravel())), shape=(len(names), len(unique)))
    return (counts @ total).tocsr(), unique.astype(object), named[first]


def other_ids(var: pd.DataFrame) -> dict[str, np.ndarray]:
    """Columns of a gene table that may hold another name of each gene, such as ``gene_ids`` or ``feature_name``.

    A column counts if it holds text and mostly differs from gene to gene. Missing names become empty.
    """
    found = {}
    for column in var.columns:
        values = var[column]
        if str(values.dtype) not in ("object", "category", "string", "str"):
            continue
        known = values.notna().to_numpy()
        names = np.array([str(value) if ok else "" for value, ok in zip(values, known)], dtype=object)
        if 2 * len(set(names[known])) > len(names):
            found[str(column)] = strip_versions(names)
    return found


def best_pair(reference: dict[str, np.ndarray], query: dict[str, np.ndarray]) -> tuple[str, str]:
    """Choose the kind of name, on each side, by which two sets of genes match best.

    The names proper (``var_names``) are kept unless another pair shares more than twice as many genes.

    Examples
    --------
    >>> reference = {"var_names": np.array(["Gad1", "Sst"]), "gene_ids": np.array(["ENSG1", "ENSG2"])}
    >>> best_pair(reference, {"var_names": np.array(["ENSG1", "ENSG2"])})
    ('gene_ids', 'var_names')
    """
    left = {column: set(names) - {""} for column, names in reference.items()}
    right = {column: set(names) - {""} for column, names in query.items()}
    shared = {(a, b): len(left[a] & right[b]) for a in left for b in right}
    best = max(shared, key=lambda pair: shared[pair])
    proper = (VAR_NAMES, VAR_NAMES)
    return proper if 2 * shared[proper] >= shared[best] else best


def check_shared(reference: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the sorted names that both sides have, and a note, or say why there are too few.

    Raises
    ------
    GenesError
        If fewer than 10 genes are shared, or if ignoring case would match many times more.

    Examples
    --------
    >>> names = np.array([f"Gene{i}" for i in range(12)], dtype=object)
    >>> check_shared(names, names[::-1])[1]
    '12 genes shared, of 12 in the reference and 12 in the query'
    """
    shared = set(reference) & set(query)
    folded = {name.lower() for name in reference} & {name.lower() for name in query}
    if len(shared) >= MIN_SHARED and len(folded) <= _CASE_RATIO * len(shared):
        note = f"{len(shared)} genes shared, of {len(reference)} in the reference and {len(query)} in the query"
        more = len(folded) - len(shared)
        if more > 0:
            note += f"; {more} more would be if case were ignored"
        return np.array(sorted(shared), dtype=object), note
    raise GenesError(
        "genes",
        expected=f"at least {MIN_SHARED} genes shared by reference and query",
        found=f"{len(shared)} shared of {len(reference)} in the reference ({_examples(reference)}) "
        f"and {len(query)} in the query ({_examples(query)})",
        hint=_why_few(reference, query, len(shared), folded),
    )


def _examples(names: np.ndarray) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")


def _why_few(reference: np.ndarray, query: np.ndarray, n_shared: int, folded: set[str]) -> str:
    if len(folded) > n_shared:
        by_lower = {name.lower(): name for name in query}
        name = next(name for name in sorted(reference) if name.lower() in folded and by_lower[name.lower()] != name)
        return (
            f"{len(folded)} would match if case were ignored ({name!r} against {by_lower[name.lower()]!r}): looks like "
            "different species or capitalisation, rename one side's genes by a table of orthologues"
        )
    kinds = ensembl_species(reference), ensembl_species(query)
    if all(kinds) and kinds[0] != kinds[1]:
        return f"Ensembl ids of different species ({kinds[0]} against {kinds[1]}): map one side to its orthologues"
    if any(kinds) and not all(kinds):
        with_ids, other = ("reference", "query") if kinds[0] else ("query", "reference")
        return f"the {with_ids} has Ensembl ids, the {other} has not: add a column with the other names to either's var"
    return "check that both hold the same species and the same kind of gene name"
