"""The query teaches itself: students of confident guesses, and the consensus of cells alike in expression."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_softmax, softmax

from stgnn import experts, shallow
from stgnn.data.subset import pooled
from stgnn.standins import stratified
from stgnn.train import shared

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from stgnn.data.cells import Cells

MAX_CELLS = 6000
"""Students and clusters are fitted on at most this many cells."""

BALANCE = 0.4
"""Balance of a student's types: what few cells are guessed to be would else be fewer in each round."""

COUNTED, PRIOR_COUNTS, AMBIENT = 0.8, 500.0, 0.02
"""Share of the cells of each guessed type that a profile is counted on, weight of the reference's, share of ambient."""

N_COMPONENTS, CELLS_PER_CLUSTER, MOST_CLUSTERS, CLUSTERINGS = 30, 20, 400, 10
CELLS_TO_START = 5
"""Cells for each cluster among which its first centre is chosen."""


def study(
    teacher: Float[np.ndarray, "n c"],
    view: shallow.View,
    sizes: tuple[int, ...],
    *,
    share: float,
    weight: float,
    rounds: int = 4,
) -> shallow.Regression | None:
    """Students of the query: regressions fitted on confident guesses, each joined with part of the teacher.

    Parameters
    ----------
    teacher
        Joint log-probabilities of the experts.
    view
        The query.
    sizes
        Neighbourhood sizes whose means the students see.
    share
        Share of the cells of each guessed type, the most confident, that a student learns from.
    weight
        Weight of the teacher's log-probabilities beside a student's.
    rounds
        Number of students, one after the other.

    Returns
    -------
    The last student; None if one type is all that is guessed.
    """
    features, n_types = view.with_neighbours(sizes), teacher.shape[1]
    joint, student = softmax(teacher, 1), None
    for _ in range(rounds):
        guess, sure = joint.argmax(1), np.flatnonzero(experts.confident(joint, share))
        if len(np.unique(guess[sure])) < 2:
            return student
        student = learn(guess, sure, features, n_types, sizes)
        own = log_softmax(features @ student.coefficients.T + student.intercept, axis=1)
        joint = softmax(np.log(np.exp(own) + 1e-4) + weight * experts.floored(log_softmax(teacher, axis=1)), 1)
    return student


def learn(
    guess: Int[np.ndarray, " n"],
    rows: Int[np.ndarray, " k"],
    features: Float[np.ndarray, "n f"],
    n_types: int,
    sizes: tuple[int, ...],
) -> shallow.Regression:
    """A student of the guesses of some cells, and of no more of these than needed."""
    some = rows[stratified(guess[rows], MAX_CELLS, 0)]
    return shallow.regress(features[some], guess[some], n_types, C=0.04, balance=BALANCE, sizes=sizes)


def recount(
    guess: Float[np.ndarray, "n c"],
    teacher: Float[np.ndarray, "n c"],
    cells: Cells,
    rates: Float[np.ndarray, "c g"],
    *,
    expected: float,
    weight: float,
    rounds: int = 6,
) -> shallow.Profiles:
    r"""Count profiles of the query's own types, by hard EM from a guess: a student that knows how counts scatter.

    .. math:: r_{kg} \propto \sum_{n: k_n = k} x_{ng} + a\,r^0_{kg}

    over confident cells, with :math:`r^0` the reference's profiles and a of :data:`PRIOR_COUNTS`, and a little of the
    mix that floats everywhere. Regressions and counts err on different cells.

    References
    ----------
    Danaher et al., Insitutype: likelihood-based cell typing for single cell spatial transcriptomics, bioRxiv 2022.

    Parameters
    ----------
    guess
        Log-probabilities to start from.
    teacher
        Joint log-probabilities of the experts, which are heard in each round.
    cells
        The query.
    rates
        Share of each gene in each type of the reference.
    expected
        Expected accuracy, which the likelihood is tempered to.
    weight
        Weight of the teacher's log-probabilities.
    rounds
        Number of times that cells are guessed and profiles counted.
    """
    ambient = np.asarray(cells.counts.sum(0)).ravel() / cells.counts.sum()
    joint, told = softmax(guess, 1), weight * experts.floored(log_softmax(teacher, axis=1))
    student = shallow.Profiles(rates, 1.0)
    for _ in range(rounds):
        sure = np.flatnonzero(experts.confident(joint, COUNTED))
        counted = pooled(cells.counts[sure], joint[sure].argmax(1), len(rates)) + PRIOR_COUNTS * rates
        own = experts.with_ambient(counted, ambient, AMBIENT)
        scores = experts.profile_scores(cells.counts, own)
        student = shallow.Profiles(own, experts.temperature(scores, expected))
        joint = softmax(experts.floored(log_softmax(scores * student.temperature, axis=1)) + told, 1)
    return student


def consensus(posterior: Float[np.ndarray, "n c"], view: shallow.View, random_state: int) -> shallow.Clusters:
    """Clusters of the query's own expression, each with the mean log-probabilities of its cells.

    What makes one cell of a kind look like another type is mostly noise; its kind looks right on average.

    Parameters
    ----------
    posterior
        Log-probabilities of the types.
    view
        The query.
    random_state
        Seed of the clusterings.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    if len(posterior) < 2:  # nothing to cluster: one that holds all
        axes = np.zeros((view.features.shape[1], 1), dtype=np.float32)
        return shallow.Clusters(axes, np.zeros((1, 1, 1), np.float32), posterior[None].astype(np.float32))
    n_parts = min(N_COMPONENTS, view.features.shape[1], len(posterior) - 1)
    pca = PCA(n_parts, svd_solver="randomized", random_state=random_state).fit(view.features)
    axes = pca.components_.T.astype(np.float32)
    parts = view.features @ axes
    wanted = int(np.clip(len(parts) // CELLS_PER_CLUSTER, 2, MOST_CLUSTERS))
    rng = np.random.default_rng(random_state)
    some = parts[np.sort(rng.permutation(len(parts))[: 2 * MAX_CELLS])]
    wanted = min(wanted, len(np.unique(some, axis=0)))

    def clustered(seed: int) -> tuple[np.ndarray, np.ndarray]:
        centres = KMeans(wanted, init=_start, n_init=1, max_iter=20, random_state=seed).fit(some).cluster_centers_
        return centres, shallow.cluster_means(posterior, shallow.nearest(parts, centres), wanted)

    seeds = [int(rng.integers(2**31)) for _ in range(CLUSTERINGS)]
    centres, said = zip(*shared([partial(clustered, seed) for seed in seeds], threads=True), strict=True)
    return shallow.Clusters(axes, np.stack(centres).astype(np.float32), np.stack(said).astype(np.float32))


def _start(parts: np.ndarray, wanted: int, random_state: np.random.RandomState) -> np.ndarray:
    """Centres to start from, by k-means++ among a few cells for each: among all it would cost most of the time."""
    from sklearn.cluster import kmeans_plusplus

    some = random_state.permutation(len(parts))[: CELLS_TO_START * wanted]
    return kmeans_plusplus(parts[some], wanted, random_state=random_state)[0]


def nearest_consensus(clusters: shallow.Clusters, members: Int[np.ndarray, "r n"], share: float) -> shallow.Clusters:
    """That share of the clusterings, at least one: those whose word on the cells is nearest to that of all.

    Parameters
    ----------
    clusters
        Several clusterings.
    members
        Cluster of each cell in each of them.
    share
        Above 0 to 1.
    """
    said = np.stack([own[member] for own, member in zip(clusters.log_probas, members, strict=True)])
    apart = np.abs(softmax(said, 2) - np.exp(clusters.of_members(members))).mean((1, 2))
    best = np.sort(np.argsort(apart, kind="stable")[: int(np.ceil(share * len(said)))])
    return shallow.Clusters(clusters.axes, clusters.centres[best], clusters.log_probas[best])


def purity(posterior: Float[np.ndarray, "n c"], agreed: Float[np.ndarray, "n c"]) -> float:
    """How far clusters are types (0 to 1): 0 where 3 of 4 cells are called what their cluster is, 1 where 9 of 10 are.

    Where fewer are, clusters cut across types: a consensus would wipe out what single cells know.
    """
    together = (posterior.argmax(1) == agreed.argmax(1)).mean()
    return float(np.clip((together - 0.75) / 0.15, 0, 1))
