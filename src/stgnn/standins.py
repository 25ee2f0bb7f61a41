"""Stand-ins for the query whose labels are known: held-out reference cells, made to look like the query's.

Whole blocks of tissue are held out where the reference is a section; else cells are drawn with the query's composition
and depths, under platform noise and spill-over.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from stgnn.data.cells import Cells
from stgnn.graph.graph import by_section
from stgnn.graph.hierarchy import regions
from stgnn.graph.sample import morton_order

NOISE, SPILL = 0.3, 0.2

CELLS_PER_PATCH = 2000
"""Size of the pieces of a large query that are learned from: whole neighbourhoods."""


def stand_ins(
    reference: Cells, query: Cells, composition: np.ndarray, random_state: int
) -> list[tuple[Cells, Cells, np.ndarray]]:
    """Two pairs of a reference half and a labelled stand-in for the query made of the other half."""
    rng = np.random.default_rng(random_state)
    labels = labels_of(reference)
    spatial = reference.coords is not None and query.coords is not None
    fold = blocks(reference, 60, rng) if spatial else rng.permutation(len(labels)) % 2
    if min(len(np.unique(labels[fold == held])) for held in (0, 1)) < 2:
        fold = _halves(labels, rng)
    out = []
    for held in (0, 1):
        kept, left = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
        part = take(reference, left)
        target = part if spatial else look_alike(part, query, composition, rng, noise=NOISE, spill=SPILL)
        out.append((take(reference, kept), replace(target, labels=None, types=()), labels_of(target)))
    return out


def _halves(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fold (0 or 1) of each cell, drawn within each type: both halves of a small reference can then be learned from."""
    order = rng.permutation(len(labels))
    fold = np.empty(len(labels), dtype=int)
    fold[order[np.argsort(labels[order], kind="stable")]] = np.arange(len(labels)) % 2
    return fold


def blocks(cells: Cells, cells_per_block: int, rng: np.random.Generator) -> np.ndarray:
    """Fold (0 or 1) of each cell, constant over square blocks of tissue: neighbours are held out together."""
    if cells.coords is None:
        raise ValueError("cells: expected coordinates to cut blocks; found none")
    level = regions(cells.coords, cells.section, cells_per_block)
    return rng.permutation(level.assignment.shape[1])[level.parent] % 2


def look_alike(
    cells: Cells,
    query: Cells,
    composition: np.ndarray,
    rng: np.random.Generator,
    noise: float = 0.3,
    spill: float = 0.2,
    n: int = 4000,
) -> Cells:
    """Draw labelled cells that look like the query's: its composition and depths, platform noise, spill-over.

    Parameters
    ----------
    cells
        Labelled cells to draw from.
    query
        Where the depths come from.
    composition
        Shares of the types (types,).
    rng
        Source of randomness.
    noise
        Standard deviation of the log-normal gene factors, once for all cells and once for each type.
    spill
        Largest share of another cell's counts mixed in, as by imperfect segmentation.
    n
        Number of cells drawn, with replacement.
    """
    labels = labels_of(cells)
    drawn = rng.choice(len(labels), n, p=cell_weights(labels, composition))
    counts = degrade(cells.counts[drawn], labels[drawn], depths(query), rng, noise=noise, spill=spill)
    kept = np.flatnonzero(np.asarray(counts.sum(1)).ravel() > 0)
    return replace(take(cells, drawn[kept]), counts=counts[kept])


def degrade(
    counts: sp.csr_matrix,
    labels: np.ndarray,
    depth: np.ndarray,
    rng: np.random.Generator,
    *,
    noise: float,
    spill: float,
) -> sp.csr_matrix:
    """Cells as another platform would see them: spill-over, gene-wise noise, and depths drawn from ``depth``."""
    dense = counts.toarray()
    n, n_genes = dense.shape
    total = dense.sum(1, keepdims=True)
    other = rng.permutation(n)
    share = rng.uniform(0, spill, (n, 1))
    mixed = (1 - share) * dense + share * dense[other] * (total / np.maximum(total[other], 1))
    factors = rng.normal(0, noise, (1, n_genes)) + rng.normal(0, noise, (labels.max() + 1, n_genes))
    mixed *= np.exp(factors)[labels]
    wanted = rng.choice(depth, n)[:, None]
    scale = np.minimum(wanted / np.maximum(mixed.sum(1, keepdims=True), 1e-6), 2.0)
    return sp.csr_matrix(rng.poisson(mixed * scale).astype(np.float32))


def typical_depth(query: Cells) -> float:
    """Median total of the query's cells, at least 10."""
    return float(max(np.median(depths(query)), 10.0))


def depths(cells: Cells) -> np.ndarray:
    """Total counts of each cell."""
    return np.asarray(cells.counts.sum(1)).ravel()


def labels_of(cells: Cells) -> np.ndarray:
    """Type codes of labelled cells (cells,)."""
    if cells.labels is None:
        raise ValueError("reference: expected labelled cells; found none")
    return cells.labels


def take(cells: Cells, rows: np.ndarray) -> Cells:
    """Cells of those row numbers, in that order; a row may be taken more than once."""
    return replace(
        cells,
        counts=cells.counts[rows],
        names=cells.names[rows],
        coords=None if cells.coords is None else cells.coords[rows],
        section=cells.section[rows],
        labels=None if cells.labels is None else cells.labels[rows],
        rows=cells.rows[rows],
    )


def stratified(labels: np.ndarray, at_most: int, random_state: int) -> np.ndarray:
    """Sorted row numbers of at most so many cells, rare types kept whole as far as they fit."""
    if len(labels) <= at_most:
        return np.arange(len(labels))
    rng = np.random.default_rng(random_state)
    count = np.bincount(labels)
    low, high = 1, int(count.max())
    while low < high:  # largest cap per type that still fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(count, middle).sum() <= at_most else (low, middle - 1)
    picked = [rng.permutation(np.flatnonzero(labels == k))[:low] for k in range(len(count))]
    return np.sort(np.concatenate(picked))


def cell_weights(labels: np.ndarray, composition: np.ndarray) -> np.ndarray:
    """Weight of each reference cell that gives the weighted reference the wanted composition; sums to 1."""
    count = np.bincount(labels, minlength=len(composition))
    weight = (composition / np.maximum(count, 1))[labels]
    return weight / weight.sum()


def patches(cells: Cells, at_most: int, cells_per_patch: int, random_state: int) -> np.ndarray:
    """Sorted row numbers of so many cells at most, in patches of whole neighbourhoods drawn from all sections alike."""
    rng = np.random.default_rng(random_state)
    if cells.coords is None:
        return np.sort(rng.choice(len(cells), min(at_most, len(cells)), replace=False))
    runs = []
    for members in by_section(cells.section):
        members = members[morton_order(cells.coords[members])]
        runs += np.array_split(members, -(-len(members) // cells_per_patch))
    size, order = np.array([len(run) for run in runs]), rng.permutation(len(runs))
    kept = order[np.cumsum(size[order]) <= at_most]
    return np.sort(np.concatenate([runs[run] for run in kept])) if len(kept) else np.sort(runs[order[0]][:at_most])


def learned_from(query: Cells, at_most: int, random_state: int) -> Cells:
    """A query of up to so many cells, or patches of a larger one; in memory, wherever its counts are."""
    small = len(query) <= at_most
    rows = np.arange(len(query)) if small else patches(query, at_most, CELLS_PER_PATCH, random_state)
    return take(query, rows)


def known_from(reference: Cells, at_most: int, random_state: int) -> Cells:
    """A reference of up to so many cells, or a sample of a larger one, rare types whole as far as they fit.

    A section is kept whole: cells of a sample would have other neighbours.
    """
    if reference.coords is not None or len(reference) <= at_most:
        return reference
    return take(reference, stratified(labels_of(reference), at_most, random_state))
