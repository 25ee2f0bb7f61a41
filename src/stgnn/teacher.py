"""The teacher: experts weighted by how they do on a stand-in for the query whose labels are known.

No label of the query is ever seen, so experts, context and confidence are judged on held-out reference cells made to
look like the query: whole blocks of tissue where the reference is a section, else cells with the query's depths,
composition and platform noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from scipy.optimize import minimize
from sklearn.decomposition import PCA

from stgnn import experts
from stgnn.data.cells import Cells
from stgnn.graph.build import spatial_knn

MAX_GENES = 600
"""Beyond this many genes, linear experts see principal components: fewer cells than genes over-fit."""

CONTEXT = (6, 30, 150)
"""Neighbourhood sizes whose mean expression the context expert sees."""


@dataclass(frozen=True)
class Views:
    """Both data sets on one scale.

    Parameters
    ----------
    reference, query
        Standardised expression or its whitened components (cells, features); the reference's mean and spread are those
        of a reference with the query's composition, so that neither platform nor mix moves the origin.
    composition
        Estimated share of each type in the query (types,).
    loadings
        Matrix (genes, features) from standardised expression to features; the identity's place is None.
    """

    reference: np.ndarray
    query: np.ndarray
    composition: np.ndarray
    loadings: np.ndarray | None


def cell_weights(labels: np.ndarray, composition: np.ndarray) -> np.ndarray:
    """Weight of each reference cell that gives the weighted reference the wanted composition; sums to 1."""
    count = np.bincount(labels, minlength=len(composition))
    weight = (composition / np.maximum(count, 1))[labels]
    return weight / weight.sum()


def weighted_standardise(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Centre and scale each gene by weighted moments, and clip."""
    mean = weight @ values
    spread = np.sqrt(np.maximum(weight @ (values * values) - mean * mean, 0))
    return np.clip((values - mean) / (spread + 1e-3), -experts.CLIP, experts.CLIP).astype(np.float32)


def neighbour_means(values: np.ndarray, coords: np.ndarray, section: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Own values joined with the means over the nearest neighbours, one block a neighbourhood size."""
    graph = spatial_knn(coords, section, max(sizes))
    blocks = [values]
    for size in sizes:
        heard = graph.table(size)
        share = heard[2] / np.maximum(heard[2].sum(1, keepdims=True), 1)
        rows = np.repeat(np.arange(len(values)), heard[0].shape[1])
        matrix = sp.csr_array((share.ravel().astype(np.float32), (rows, heard[0].ravel())), shape=(len(values),) * 2)
        blocks.append(matrix @ values)
    return np.hstack(blocks).astype(np.float32)


def first_guesses(reference: Cells, query: Cells, random_state: int) -> dict[str, np.ndarray]:
    """Four experts that need no common scale: count profiles with and without platform, vote and regression after Harmony."""
    labels, n_types = _labels(reference), len(reference.types)
    rates = experts.profiles(reference.counts, labels, n_types)
    ambient = np.asarray(query.counts.sum(0)).ravel() / query.counts.sum()
    depth = typical_depth(query)
    z_reference = experts.standardise(experts.log_normalise(reference.counts, depth))
    z_query = experts.standardise(experts.log_normalise(query.counts, depth))
    parts = experts.joint_pca(z_reference, z_query, 30, random_state)
    n = len(reference)
    batch = np.r_[np.zeros(n, dtype=int), np.ones(len(query), dtype=int)]
    aligned = experts.harmony(parts, batch, random_state=random_state)
    return {
        "profiles": experts.temper(experts.profile_scores(query.counts, 0.95 * rates + 0.05 * ambient)),
        "profiles, platform": experts.temper(experts.platform_scores(query.counts, rates)[0]),
        "vote": experts.vote(aligned[:n], labels, aligned[n:], n_types),
        "regression, aligned": experts.logistic(aligned[:n], labels, aligned[n:], n_types, C=0.3, balanced=True),
    }


def common_scale(reference: Cells, query: Cells, guess: np.ndarray, random_state: int) -> Views:
    """Standardise the query by itself and the reference as if it had the query's composition."""
    labels = _labels(reference)
    own = np.bincount(labels, minlength=len(reference.types)) / len(labels)
    composition = 0.8 * guess.mean(0) + 0.2 * own
    depth = typical_depth(query)
    z_reference = weighted_standardise(experts.log_normalise(reference.counts, depth), cell_weights(labels, composition))
    z_query = experts.standardise(experts.log_normalise(query.counts, depth))
    if z_query.shape[1] <= MAX_GENES:
        return Views(z_reference, z_query, composition, None)
    # half the variance from each side, however many cells each has
    both = np.vstack([z_reference, z_query])
    pca = PCA(50, svd_solver="randomized", random_state=random_state).fit(both)
    loadings = (pca.components_ / np.sqrt(pca.explained_variance_)[:, None]).T.astype(np.float32)
    return Views(z_reference @ loadings, z_query @ loadings, composition, loadings)


def guesses(reference: Cells, query: Cells, random_state: int) -> tuple[dict[str, np.ndarray], Views]:
    """All experts' probabilities (cells, types) for the query, and the common scale that the later ones use."""
    out = first_guesses(reference, query, random_state)
    views = common_scale(reference, query, experts.mix(list(out.values())), random_state)
    labels, n_types = _labels(reference), len(reference.types)
    few = _stratified(labels, 8000, random_state)
    fit = views.reference[few]
    for C in (0.003, 0.03):
        out[f"regression, {C}"] = experts.logistic(fit, labels[few], views.query, n_types, C=C, balanced=True)
    if reference.coords is not None and query.coords is not None:
        near = neighbour_means(views.reference, reference.coords, reference.section, CONTEXT)[few]
        far = neighbour_means(views.query, query.coords, query.section, CONTEXT)
        out["regression, context"] = experts.logistic(near, labels[few], far, n_types, C=0.01, balanced=True)
    return out, views


def stand_ins(reference: Cells, query: Cells, composition: np.ndarray, random_state: int) -> list[tuple[Cells, Cells, np.ndarray]]:
    """Two pairs of a reference half and a labelled stand-in for the query made of the other half."""
    rng = np.random.default_rng(random_state)
    labels = _labels(reference)
    spatial = reference.coords is not None and query.coords is not None
    fold = blocks(reference, 60, rng) if spatial else rng.permutation(len(labels)) % 2
    out = []
    for held in (0, 1):
        kept, left = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
        part = _rows(reference, left)
        target = part if spatial else look_alike(part, query, composition, rng)
        out.append((_rows(reference, kept), replace(target, labels=None, types=()), _labels(target)))
    return out


def blocks(cells: Cells, cells_per_block: int, rng: np.random.Generator) -> np.ndarray:
    """Fold (0 or 1) of each cell, constant over square blocks of tissue: neighbours are held out together."""
    from stgnn.graph.hierarchy import regions

    level = regions(cells.coords, cells.section, cells_per_block)
    return rng.permutation(level.assignment.shape[1])[level.parent] % 2


def look_alike(
    cells: Cells, query: Cells, composition: np.ndarray, rng: np.random.Generator, noise: float = 0.3, spill: float = 0.2, n: int = 4000
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
    labels = _labels(cells)
    drawn = rng.choice(len(labels), n, p=cell_weights(labels, composition))
    counts = degrade(cells.counts[drawn], labels[drawn], depths(query), rng, noise=noise, spill=spill)
    kept = np.flatnonzero(np.asarray(counts.sum(1)).ravel() > 0)
    return replace(_rows(cells, drawn[kept]), counts=counts[kept])


def degrade(
    counts: sp.csr_matrix, labels: np.ndarray, depth: np.ndarray, rng: np.random.Generator, *, noise: float, spill: float
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


def stack(probas: list[np.ndarray], labels: np.ndarray, n_types: int, penalty: float = 0.02) -> np.ndarray:
    r"""Non-negative weights of the experts' log-probabilities that best predict known labels.

    Minimises :math:`-\sum_n c_{y_n} \log \mathrm{softmax}(\sum_e w_e \log p_{en})_{y_n} / N + \lambda |w|^2` with
    rare types weighted up (:math:`c_k \propto n_k^{-1/2}`). The scale of the weights is a temperature.
    """
    logs = np.stack([np.log(p + 1e-3) for p in probas], 2)
    balance = 1 / np.sqrt(np.maximum(np.bincount(labels, minlength=n_types), 1))[labels]
    balance /= balance.mean()
    truth = logs[np.arange(len(labels)), labels]

    def objective(weight: np.ndarray) -> tuple[float, np.ndarray]:
        score = logs @ weight
        score -= score.max(1, keepdims=True)
        total = np.exp(score).sum(1)
        proba = np.exp(score) / total[:, None]
        loss = balance * (np.log(total) - score[np.arange(len(labels)), labels])
        slope = balance[:, None] * (np.einsum("nk,nke->ne", proba, logs) - truth)
        return loss.mean() + penalty * weight @ weight, slope.mean(0) + 2 * penalty * weight

    start = np.full(logs.shape[2], 1 / logs.shape[2])
    return minimize(objective, start, jac=True, bounds=[(0, None)] * len(start)).x


def disagreement(probas: list[np.ndarray]) -> float:
    """Mean share of cells on which two experts differ (0 to 1): it grows with the distance between data sets."""
    best = np.stack([p.argmax(1) for p in probas])
    pairs = [(best[i] != best[j]).mean() for i in range(len(best)) for j in range(i)]
    return float(np.mean(pairs))


def typical_depth(query: Cells) -> float:
    """Median total of the query's cells, at least 10."""
    return float(max(np.median(depths(query)), 10.0))


def depths(cells: Cells) -> np.ndarray:
    """Total counts of each cell."""
    return np.asarray(cells.counts.sum(1)).ravel()


def _labels(cells: Cells) -> np.ndarray:
    if cells.labels is None:
        raise ValueError("reference: expected labelled cells; found none")
    return cells.labels


def _rows(cells: Cells, rows: np.ndarray) -> Cells:
    return replace(
        cells,
        counts=cells.counts[rows],
        names=cells.names[rows],
        coords=None if cells.coords is None else cells.coords[rows],
        section=cells.section[rows],
        labels=None if cells.labels is None else cells.labels[rows],
        rows=cells.rows[rows],
    )


def _stratified(labels: np.ndarray, at_most: int, random_state: int) -> np.ndarray:
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
