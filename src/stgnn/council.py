"""Experts of expression and of neighbourhoods, fitted on the reference, and the scale they share with the query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from stgnn import experts, shallow
from stgnn.data.cells import Cells
from stgnn.standins import blocks, cell_weights, labels_of, stratified, typical_depth
from stgnn.train import seed_of, shared

MAX_GENES = 600
"""Beyond this many genes, linear experts see principal components: fewer cells than genes over-fit."""

MAX_CELLS = 6000
"""Regressions are fitted on at most this many reference cells, rare types kept whole as far as they fit."""

PENALTIES = (0.003, 0.03)
"""Inverse penalties of the regressions on genes alone."""

GENES_ALONE = 2 + len(PENALTIES)
"""So many experts come first that can judge other queries by genes alone: two profiles, then the regressions."""

CONTEXT = (((6, 30, 150), 0.01, 1), ((15, 60), 0.05, 0))
"""Context experts: sizes of the neighbourhoods they see, inverse penalty, balance of types."""

ALIGNMENTS = 3
"""Harmony's result depends on where its clusters start: that many starts are averaged, for the query itself."""

AROUND_GUESSES = (8, 30, 100)
"""Sizes of the neighbourhoods whose first guesses a second regression sees."""


@dataclass(frozen=True)
class Scale:
    """Both data sets on one scale.

    Parameters
    ----------
    reference, query
        Standardised expression or its whitened components (cells, features); the reference's mean and spread are those
        of a reference with the query's composition, so that neither platform nor mix moves the origin.
    composition
        Estimated share of each type in the query (types,).
    loadings
        From standardised expression to features (genes, features); None where features are the genes themselves.
    """

    reference: np.ndarray
    query: np.ndarray
    composition: np.ndarray
    loadings: np.ndarray | None


@dataclass(frozen=True)
class Council:
    """What all experts say of a query.

    Parameters
    ----------
    log_probas
        By name of the expert, log-probabilities (cells, types).
    experts
        Those of them that can judge other queries too.
    scale
        The common scale they were fitted on.
    first
        Probabilities of the experts that need no common scale, equally mixed (cells, types).
    """

    log_probas: dict[str, np.ndarray]
    experts: dict[str, shallow.Expert]
    scale: Scale
    first: np.ndarray


def weighted_standardise(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Centre and scale each gene by weighted moments, and clip."""
    mean = weight @ values
    spread = np.sqrt(np.maximum(weight @ (values * values) - mean * mean, 0))
    return np.clip((values - mean) / (spread + 1e-3), -experts.CLIP, experts.CLIP).astype(np.float32)


def convene(reference: Cells, query: Cells, random_state: int, *, alignments: int = ALIGNMENTS) -> Council:
    """Fit every expert, those after an alignment from so many starts, and let it judge the query."""
    labels, n_types = labels_of(reference), len(reference.types)
    work: list[Callable[[], tuple[Any, np.ndarray]]] = list(
        _after_alignment(reference, query, random_state, alignments)
    )
    # among the alignments, since two processes then have about as much to do, what context gains included
    work.insert(1, partial(_profiles, reference, query, on_platform=True))
    work.append(partial(_profiles, reference, query, on_platform=False))
    first, platform, *others, plain = shared(work, threads=True)
    aligned = [first, *others]
    council: dict[str, shallow.Expert] = {"profiles": plain[0], "profiles, platform": platform[0]}
    said = {"profiles": plain[1], "profiles, platform": platform[1]}
    for name, probas in zip(("vote", "regression, aligned"), zip(*aligned, strict=True), strict=True):
        said[name] = np.log(np.mean(probas, axis=0) + 1e-3)
    mixed = experts.mix([np.exp(log) for log in said.values()])
    scale = common_scale(reference, query, mixed, random_state)
    few = stratified(labels, MAX_CELLS, random_state)
    for C in PENALTIES:
        council[f"regression, {C}"] = shallow.regress(scale.reference[few], labels[few], n_types, C=C, balance=1)
    if reference.coords is not None and query.coords is not None:
        council |= _contextual(reference, scale.reference, few, random_state)
    view = shallow.View(query, scale.query)
    said |= {name: expert.log_proba(view) for name, expert in council.items() if name not in said}
    return Council(said, council, scale, mixed)


def _profiles(reference: Cells, query: Cells, *, on_platform: bool) -> tuple[shallow.Profiles, np.ndarray]:
    """Count profiles, with a platform scale or without one, fitted on a sample of the query; and what they say."""
    rates = experts.profiles(reference.counts, labels_of(reference), len(reference.types))
    some = query.counts[:: max(1, len(query) // 4000)]
    if on_platform:
        rates = experts.platform_rates(some, rates)
    else:
        rates = experts.with_ambient(rates, np.asarray(query.counts.sum(0)).ravel() / query.counts.sum())
    expert = shallow.Profiles(rates, experts.temperature(experts.profile_scores(some, rates)))
    return expert, expert.log_proba(shallow.View(query, np.empty((len(query), 0))))


def _after_alignment(
    reference: Cells, query: Cells, random_state: int, alignments: int
) -> list[Callable[[], tuple[np.ndarray, np.ndarray]]]:
    """Work: a vote and a regression on principal components that Harmony aligns, for each of its random starts."""
    labels, n_types, n = labels_of(reference), len(reference.types), len(reference)
    depth = typical_depth(query)
    z_reference = experts.standardise(experts.log_normalise(reference.counts, depth))
    z_query = experts.standardise(experts.log_normalise(query.counts, depth))
    parts = experts.joint_pca(z_reference, z_query, 30, random_state)
    batch = np.r_[np.zeros(n, dtype=int), np.ones(len(query), dtype=int)]

    def judged(start: int) -> tuple[np.ndarray, np.ndarray]:
        aligned = experts.harmony(parts, batch, random_state=seed_of(random_state, start))
        near, far = aligned[:n], aligned[n:]
        vote = experts.vote(near, labels, far, n_types)
        return vote, experts.logistic(near, labels, far, n_types, C=0.3, balanced=True)

    return [partial(judged, start) for start in range(alignments)]


def _contextual(
    reference: Cells, features: np.ndarray, few: np.ndarray, random_state: int
) -> dict[str, shallow.Expert]:
    """Regressions that see neighbours' expression, and one that sees what the neighbours are guessed to be."""
    labels, n_types, known = labels_of(reference), len(reference.types), shallow.View(reference, features)
    first = _first(known, few)
    out: dict[str, shallow.Expert] = {f"regression, context {expert.sizes}": expert for expert in first}
    # the guesses that the second regression learns from must come from regressions that have not seen the cell
    fold = blocks(reference, 60, np.random.default_rng(random_state))
    guess = np.zeros((len(labels), n_types), dtype=np.float32)
    for held in (0, 1):
        learnt = few[fold[few] != held]
        if len(np.unique(labels[learnt])) < 2:  # too small to hold anything out
            learnt = few
        said = shallow.first_guess(_first(known, learnt), known).features
        guess[fold == held] = said[fold == held]
    near = shallow.View(reference, guess).with_neighbours(AROUND_GUESSES)[few]
    second = shallow.regress(near, labels[few], n_types, C=0.05, balance=0, sizes=AROUND_GUESSES)
    return out | {"regression, guesses": shallow.Guesses(first, second)}


def _first(known: shallow.View, rows: np.ndarray) -> tuple[shallow.Regression, ...]:
    labels, n_types = labels_of(known.cells)[rows], len(known.cells.types)
    return tuple(
        shallow.regress(known.with_neighbours(sizes)[rows], labels, n_types, C=C, balance=balance, sizes=sizes)
        for sizes, C, balance in CONTEXT
    )


def composition_of(labels: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Share of each type in the query, from guesses (cells, types) and a little of the reference's own mix."""
    own = np.bincount(labels, minlength=guess.shape[1]) / len(labels)
    return 0.8 * guess.mean(0) + 0.2 * own


def common_scale(reference: Cells, query: Cells, guess: np.ndarray, random_state: int) -> Scale:
    """Standardise the query by itself and the reference as if it had the query's composition."""
    labels = labels_of(reference)
    composition = composition_of(labels, guess)
    depth = typical_depth(query)
    weight = cell_weights(labels, composition)
    z_reference = weighted_standardise(experts.log_normalise(reference.counts, depth), weight)
    z_query = experts.standardise(experts.log_normalise(query.counts, depth))
    if z_query.shape[1] <= MAX_GENES:
        return Scale(z_reference, z_query, composition, None)
    loadings = whitening(np.vstack([z_reference, z_query]), random_state)
    return Scale(z_reference @ loadings, z_query @ loadings, composition, loadings)


def whitening(values: np.ndarray, random_state: int) -> np.ndarray:
    """Loadings of the first components of standardised cells, each scaled to a variance of 1 (genes, components)."""
    pca = PCA(min(50, len(values) - 1), svd_solver="randomized", random_state=random_state).fit(values)
    return (pca.components_ / np.sqrt(pca.explained_variance_)[:, None]).T.astype(np.float32)
