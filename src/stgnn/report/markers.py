"""Do the cells of a type express the genes that mark the type in the reference?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stgnn.data.schema import LabelsError
from stgnn.pl.dots import expression_by_type, scaled_by_gene
from stgnn.pl.keys import Assigned

if TYPE_CHECKING:
    from anndata import AnnData

_FEW_TYPES = 15
_CELLS_A_TYPE = 500  # enough for a mean; a large reference need not be copied for it
_LEAST_SHARE = 0.2  # a gene that fewer of a type's reference cells express marks too few of them


class Markers(NamedTuple):
    """Marker genes of the reference in the annotated cells.

    Parameters
    ----------
    types
        Types (types,) with cells both annotated and in the reference.
    genes
        Genes (genes,).
    owner
        Position in ``types`` of the type each gene marks (genes,).
    level
        Mean log-normalised expression (genes, types) over the gene's largest, 0 to 1.
    share
        Share of expressing cells (genes, types).
    """

    types: list[str]
    genes: list[str]
    owner: np.ndarray
    level: np.ndarray
    share: np.ndarray

    def agrees(self) -> np.ndarray:
        """Whether each gene (genes,) is expressed most in the type it marks."""
        return self.level[np.arange(len(self.genes)), self.owner] >= 1.0


def find_markers(
    adata: AnnData,
    assigned: Assigned,
    reference: AnnData,
    *,
    labels_key: str,
    spatial_key: str,
    layers: tuple[str | None, str | None],
    recover_counts: bool,
) -> Markers:
    """Choose each type's markers in the reference and measure them in the annotated cells.

    Raises
    ------
    InputError
        If one of the two has no counts, too few genes are shared, or no type is.
    """
    from stgnn.data.cells import align, read_query, read_reference

    query = read_query(adata, spatial_key=spatial_key, layer=layers[0], recover_counts=recover_counts)
    known = read_reference(
        _thinned(reference, labels_key), labels_key=labels_key, layer=layers[1], recover_counts=recover_counts
    )
    known, query = align(known, query)
    code = assigned.code[query.rows]
    number = np.bincount(code, minlength=len(assigned.names))
    types = [name for name in assigned.names[:-1] if name in known.types and number[assigned.names.index(name)]]
    if not types:
        raise LabelsError(
            "labels_key", expected="types that the annotation names", found=f"none of them in {labels_key!r}"
        )
    columns = np.arange(len(known.genes))
    mean, share = expression_by_type(known.counts, np.asarray(known.labels), len(known.types), columns)
    chosen = choose(mean, share, [known.types.index(name) for name in types], 3 if len(types) <= _FEW_TYPES else 2)
    owner = np.repeat(np.arange(len(types)), [len(genes) for genes in chosen])
    columns = np.concatenate([np.array(genes, dtype=np.int64) for genes in chosen])
    mean, share = expression_by_type(query.counts, code, len(assigned.names), columns)
    shown = [assigned.names.index(name) for name in types]
    return Markers(
        types=types,
        genes=[str(known.genes[column]) for column in columns],
        owner=owner,
        level=scaled_by_gene(mean[shown]).T,
        share=share[shown].T,
    )


def choose(mean: np.ndarray, share: np.ndarray, rows: list[int], each: int) -> list[list[int]]:
    """Pick up to ``each`` genes for each of some types; no gene twice.

    A gene's score is the mean of two differences of mean log-normalised expression: from the average of the other
    types, and from the highest of them, without which a gene that two types share would be picked for both.

    Parameters
    ----------
    mean, share
        Mean log-normalised expression and share of expressing cells (all types, genes).
    rows
        Types wanted.
    each
        Number of genes a type.

    Examples
    --------
    >>> mean = np.array([[3.0, 0.0, 2.0], [0.0, 1.0, 2.0]])
    >>> choose(mean, np.ones((2, 3)), [0, 1], 2)
    [[0], [1]]
    """
    score = np.full(mean.shape, -np.inf)
    for row in range(len(mean)):
        others = np.delete(mean, row, axis=0)
        if len(others):
            score[row] = mean[row] - (others.mean(axis=0) + others.max(axis=0)) / 2
    score[(share < _LEAST_SHARE) | (score <= 0)] = -np.inf
    picked: list[list[int]] = [[] for _ in rows]
    taken: set[int] = set()
    for _ in range(each):
        for place, row in enumerate(rows):
            order = np.argsort(-score[row], kind="stable")
            for column in order[: len(taken) + 1]:
                if np.isfinite(score[row, column]) and int(column) not in taken:
                    picked[place].append(int(column))
                    taken.add(int(column))
                    break
    return picked


def _thinned(reference: AnnData, labels_key: str) -> AnnData:
    """At most so many cells of each type, chosen by a fixed seed."""
    import pandas as pd

    code = pd.factorize(reference.obs[labels_key])[0]
    order = np.random.default_rng(0).permutation(reference.n_obs)
    rank = pd.Series(code[order]).groupby(code[order]).cumcount().to_numpy()
    kept = np.sort(order[rank < _CELLS_A_TYPE])
    return reference if len(kept) == reference.n_obs else reference[kept]
