"""Simple strong experts as pure functions of arrays: alignment, votes, profiles, their mixture, guarded self-training.

The sibling methods are thin classes over these functions, and the mixture of them is the teacher from which
``SpatialTransformerGNN`` starts; since methods never import each other, what they share lives here.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.special import softmax

from stgnn.data.subset import pooled

CLIP = 10.0
"""Standardised values are cut here: a rare gene in one cell must not outweigh a hundred others."""


def log_normalise(counts: sp.csr_matrix, depth: float, total: np.ndarray | None = None) -> np.ndarray:
    r"""Log counts per cell scaled to one depth: :math:`\log(1 + d\,x_{ng} / \sum_g x_{ng})`.

    Parameters
    ----------
    counts
        Raw counts (cells, genes).
    depth
        Total that every cell is scaled to, usually the query's median.
    total
        Totals of the cells (cells,), where they are of other genes than these.

    Returns
    -------
    Dense float32 array (cells, genes).
    """
    return log_scaled(counts, depth, total).toarray()


def log_scaled(counts: sp.csr_matrix, depth: float, total: np.ndarray | None = None) -> sp.csr_matrix:
    """The same as :func:`log_normalise`, sparse: log(1 + 0) is 0."""
    total = np.asarray(counts.sum(1)).ravel() if total is None else total
    scaled = sp.csr_matrix(sp.diags_array(depth / np.maximum(total, 1.0)) @ counts, dtype=np.float32)
    scaled.data = np.log1p(scaled.data)
    return scaled


def standardise(values: np.ndarray, mean: np.ndarray | None = None, spread: np.ndarray | None = None) -> np.ndarray:
    """Centre and scale each gene within one data set, which removes gene-wise platform shifts, and clip.

    ``mean`` and ``spread`` are those of the whole data set where ``values`` are of a part of it.
    """
    mean, spread = values.mean(0) if mean is None else mean, values.std(0) if spread is None else spread
    return np.clip((values - mean) / (spread + 1e-3), -CLIP, CLIP).astype(np.float32)


def correlations(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Correlation over features of each row of one with each row of the other; 0 for a row without spread."""
    return _centred(left) @ _centred(right).T


def _centred(x: np.ndarray) -> np.ndarray:
    return row_unit(x - x.mean(1, keepdims=True))


def row_unit(x: np.ndarray) -> np.ndarray:
    """Rows scaled to a length of 1; a row of zeros stays one."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-8)


def joint_pca(reference: np.ndarray, query: np.ndarray, n_components: int, random_state: int) -> np.ndarray:
    """Principal components of both data sets together (cells of reference then query, components)."""
    from sklearn.decomposition import PCA

    both = np.vstack([reference, query])
    n_components = min(n_components, both.shape[1] - 1, both.shape[0] - 1)
    return PCA(n_components, svd_solver="randomized", random_state=random_state).fit_transform(both)


def vote(reference: np.ndarray, labels: np.ndarray, query: np.ndarray, n_types: int, k: int = 30) -> np.ndarray:
    """Distance-weighted vote of the ``k`` nearest reference cells: probabilities (cells, types)."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(min(k, len(labels)), weights="distance").fit(reference, labels)
    return spread(model.predict_proba(query), model.classes_, n_types)


def logistic(
    reference: np.ndarray, labels: np.ndarray, query: np.ndarray, n_types: int, *, C: float, balanced: bool
) -> np.ndarray:
    """Multinomial logistic regression: probabilities (cells, types)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=C, max_iter=200, class_weight="balanced" if balanced else None)
    return spread(model.fit(reference, labels).predict_proba(query), model.classes_, n_types)


def spread(proba: np.ndarray, classes: np.ndarray, n_types: int) -> np.ndarray:
    """Columns of the classes seen into columns of all types; the others get zero."""
    out = np.zeros((len(proba), n_types))
    out[:, classes] = proba
    return out


def harmony(
    components: np.ndarray,
    batch: np.ndarray,
    *,
    random_state: int,
    theta: float = 2.0,
    sigma: float = 0.1,
    ridge: float = 1.0,
) -> np.ndarray:
    r"""Components corrected for batches by soft clusters that every batch shares.

    Soft clusters maximise diversity, :math:`R_{ki} \propto e^{-2(1 - Y_k \cdot z_i)/\sigma} (E_{kb}/O_{kb})^\theta`
    on cosine-normalised components, then each cluster's batch offsets, estimated by ridge regression, are removed.

    References
    ----------
    Korsunsky et al., Fast, sensitive and accurate integration of single-cell data with Harmony, Nat. Methods 2019.

    Parameters
    ----------
    components
        Principal components (cells, components).
    batch
        Batch codes (cells,).
    random_state
        Seed of the k-means start and of the order of updates.
    theta, sigma, ridge
        Strength of the diversity term, width of the soft clusters, shrinkage of the offsets.

    Returns
    -------
    Corrected components, same shape.
    """
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(random_state)
    n, one_hot = len(batch), np.eye(batch.max() + 1, dtype=np.float32)[batch]
    share, n_clusters = one_hot.mean(0), int(np.clip(n / 30, 2, 100))
    original = components.astype(np.float32)
    corrected = original.copy()
    unit = row_unit(corrected)
    start = KMeans(n_clusters, n_init=1, max_iter=25, random_state=random_state).fit(unit)
    centres = row_unit(start.cluster_centers_.astype(np.float32))
    member = softmax(unit @ centres.T * (2 / sigma), 1)
    before = np.inf
    for _ in range(10):
        member, centres, objective = _diverse_clusters(unit, member, centres, one_hot, share, theta, sigma, rng)
        corrected = _remove_offsets(original, member, one_hot, ridge)
        unit = row_unit(corrected)
        if before - objective < 1e-4 * abs(before) and np.isfinite(before):
            break
        before = objective
    return corrected


def _diverse_clusters(
    unit: np.ndarray,
    member: np.ndarray,
    centres: np.ndarray,
    one_hot: np.ndarray,
    share: np.ndarray,
    theta: float,
    sigma: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, float]:
    r"""Soft k-means with the diversity penalty, updated block by block, a random twentieth of the cells each.

    As :math:`R_{nk} = e^{-d_{nk}/\sigma} P_{kb} / Z_n`, distances and entropy sum to
    :math:`\sigma (\sum_{nk} R_{nk} \log P_{kb} - \sum_n \log Z_n)`, so that no logarithm of R is taken.
    """
    order = rng.permutation(len(unit))  # blocks lie together, so that all is done in place
    unit, member, one_hot = unit[order], member[order], one_hot[order]
    blocks = [slice(part[0], part[-1] + 1) for part in np.array_split(np.arange(len(unit)), 20) if len(part)]
    penalties = np.empty((blocks[0].stop, member.shape[1]), dtype=np.float32)
    before = np.inf
    objective = np.inf
    for _ in range(20):
        centres = row_unit(member.T @ unit)
        near = (2 / sigma) * centres.T
        inertia = 2 / sigma * len(unit)
        observed = member.T @ one_hot
        for block in blocks:
            own, fresh = one_hot[block], member[block]
            observed -= fresh.T @ own
            expected = observed.sum(1, keepdims=True) * share
            penalty = ((expected + 1) / (observed + 1)) ** theta
            np.exp(np.matmul(unit[block], near, out=fresh), out=fresh)
            fresh *= np.matmul(own, penalty.T, out=penalties[: len(own)])
            total = np.maximum(fresh.sum(1, keepdims=True), 1e-30)
            fresh /= total
            held = fresh.T @ own
            observed += held
            inertia += float((held * np.log(penalty)).sum() - np.log(total).sum(dtype=np.float64))
        expected = observed.sum(1, keepdims=True) * share
        diversity = float((observed * np.log((observed + 1) / (expected + 1))).sum())
        objective = sigma * (inertia + theta * diversity)
        if abs(before - objective) < 1e-5 * abs(before):
            break
        before = objective
    back = np.empty_like(member)
    back[order] = member
    return back, centres, objective


def _remove_offsets(original: np.ndarray, member: np.ndarray, one_hot: np.ndarray, ridge: float) -> np.ndarray:
    """Ridge regression of the components on an intercept and the batches within each cluster, batches removed."""
    n_batches, width = one_hot.shape[1], original.shape[1]
    size = member.T @ one_hot  # (clusters, batches)
    sums = np.stack([(member * one_hot[:, b : b + 1]).T @ original for b in range(n_batches)], axis=1)
    normal = np.zeros((len(size), n_batches + 1, n_batches + 1))
    normal[:, 0, 0] = size.sum(1)
    normal[:, 0, 1:] = normal[:, 1:, 0] = size
    normal[:, 1:, 1:] = np.eye(n_batches) * (size + ridge)[:, None]
    right = np.concatenate([sums.sum(1, keepdims=True), sums], axis=1)
    # the intercept, a cluster's own centre, stays; only the batches' departures from it are removed
    offsets = np.linalg.solve(normal, right)[:, 1:].astype(np.float32).reshape(len(size), n_batches, width)
    corrected = original.copy()
    for b in range(n_batches):
        corrected -= one_hot[:, b : b + 1] * (member @ offsets[:, b])
    return corrected


def profiles(counts: sp.csr_matrix, labels: np.ndarray, n_types: int, shrink: float = 0.02) -> np.ndarray:
    """Share of each gene in each type's pooled counts (types, genes), shrunken towards the overall mix."""
    sums = pooled(counts, labels, n_types)
    overall = sums.sum(0) / sums.sum()
    return (sums / np.maximum(sums.sum(1, keepdims=True), 1) + shrink * overall) / (1 + shrink)


def profile_scores(counts: sp.csr_matrix, rates: np.ndarray, dispersion: float = 2.0, levels: int = 256) -> np.ndarray:
    r"""Negative-binomial log-likelihood of each cell under each type's rates, up to a constant of the cell.

    .. math:: \sum_g x_g \log\frac{\mu_g}{\mu_g + \theta} - \theta \log(1 + \mu_g/\theta), \qquad \mu_g = n\,r_{kg}

    Of a cell's total n this is a smooth function: where there are more totals than ``levels``, it is worked out at so
    many, evenly spaced in their logarithm, and interpolated between the two next to a cell's own. So the cost is that
    of the counts that are not zero.

    Parameters
    ----------
    counts
        Raw counts (cells, genes).
    rates
        Share of each gene in each type (types, genes).
    dispersion
        :math:`\theta`; the variance is :math:`\mu + \mu^2 / \theta`.
    levels
        Totals at which the likelihood is worked out, at most.
    """
    size = np.maximum(np.asarray(counts.sum(1)).ravel(), 1.0)
    grid = np.unique(size)
    if len(grid) > levels:
        grid = np.geomspace(grid[0], grid[-1], levels)
    below = np.clip(np.searchsorted(grid, size, side="right") - 1, 0, max(len(grid) - 2, 0))
    share = np.zeros(len(size))
    if len(grid) > 1:
        share = np.log(size / grid[below]) / np.log(grid[below + 1] / grid[below])
    out = np.zeros((counts.shape[0], len(rates)))
    order = np.argsort(below, kind="stable")
    sorted_counts, starts = counts[order], np.searchsorted(below[order], np.arange(len(grid) + 1))
    for level, total in enumerate(grid):
        rows = slice(starts[max(level - 1, 0)], starts[level + 1])  # those with this level just below or just above
        if rows.start == rows.stop:
            continue
        mean = total * rates.T + 1e-6
        said = sorted_counts[rows] @ np.log(mean / (mean + dispersion)) - dispersion * np.log1p(mean / dispersion).sum(
            0
        )
        cells = order[rows]
        weight = np.where(below[cells] == level, 1 - share[cells], share[cells])
        out[cells] += weight[:, None] * said
    return out


def platform_rates(counts: sp.csr_matrix, rates: np.ndarray, rounds: int = 8) -> np.ndarray:
    """Rates (types, genes) with a gene-wise platform scale, fitted by EM to the cells and shrunken, and ambient."""
    total = np.asarray(counts.sum(1)).ravel()
    per_gene = np.asarray(counts.sum(0)).ravel()
    size, ambient = np.maximum(total, 1.0), per_gene / per_gene.sum()
    prior = np.full(len(rates), 1 / len(rates))
    scaled = with_ambient(rates, ambient)
    for _ in range(rounds - 1):
        share = softmax(profile_scores(counts, scaled) + np.log(prior), 1)
        prior = 0.5 * share.mean(0) + 0.5 / len(rates)
        expected = (share * size[:, None]).sum(0) @ rates
        scale = np.exp(np.clip(np.log((per_gene + 5) / (expected + 5)), -2, 2) * 0.7)
        scaled = with_ambient(rates * scale, ambient)
    return scaled


def with_ambient(rates: np.ndarray, ambient: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Rates, rows scaled to sum to 1, with a share of the mix that floats everywhere."""
    return (1 - share) * rates / rates.sum(1, keepdims=True) + share * ambient


def temperature(scores: np.ndarray, target: float = 0.85, highest: float = 1.0) -> float:
    """The factor that makes the mean top probability of the softmax ``target``.

    Sums over genes count dependent evidence as independent; untempered, they are certain of everything.
    """
    low, high = 1e-3, highest
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if softmax(scores * middle, 1).max(1).mean() < target else (low, middle)
    return low


def mix(probas: list[np.ndarray], weights: np.ndarray | None = None, floor: float = 1e-3) -> np.ndarray:
    """Product of experts: softmax of the weighted sum of log-probabilities."""
    weights = np.ones(len(probas)) if weights is None else weights
    return softmax(sum(w * np.log(p + floor) for w, p in zip(weights, probas, strict=True)), 1)


def floored(log_proba: np.ndarray) -> np.ndarray:
    """Log-probabilities that no expert may push below a thousandth: one veto must not settle a vote."""
    return np.log(np.exp(log_proba) + 1e-3)


def confident(proba: np.ndarray, share: float = 0.6, at_least: int = 10) -> np.ndarray:
    """Mask of the most confident ``share`` of the cells of each predicted type, so that no type is crowded out."""
    guess, top, keep = proba.argmax(1), proba.max(1), np.zeros(len(proba), bool)
    for k in np.unique(guess):
        cells = np.flatnonzero(guess == k)
        keep[cells[np.argsort(-top[cells], kind="stable")][: max(at_least, int(share * len(cells)))]] = True
    return keep


def self_train(
    teacher: np.ndarray, features: np.ndarray, rounds: int = 4, C: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """The query teaches itself: students of confident guesses, joined with half of the teacher's log-probabilities.

    Returns
    -------
    The joined probabilities and the last student's own (cells, types).
    """
    from sklearn.linear_model import LogisticRegression

    joined, own = teacher, teacher
    for _ in range(rounds):
        keep, guess = confident(joined), joined.argmax(1)
        if len(np.unique(guess[keep])) < 2:
            break
        student = LogisticRegression(C=C, max_iter=100).fit(features[keep], guess[keep])
        own = spread(student.predict_proba(features), student.classes_, teacher.shape[1])
        own = (own + 1e-4) / (own + 1e-4).sum(1, keepdims=True)
        joined = softmax(np.log(own) + 0.5 * np.log(teacher + 1e-3), 1)
    return joined, own
