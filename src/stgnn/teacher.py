"""The teacher: experts weighted by how they do on stand-ins for the query, then students of the query itself.

No label of the query is ever seen. What its experts may weigh, how far the query may teach itself, how far space may
act and how sure to be are decided from stand-ins, from the distance between the platforms, and from the query's genes
split in halves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.decomposition import PCA

from stgnn import experts, shallow
from stgnn.data.cells import Cells
from stgnn.standins import blocks, cell_weights, labels_of, stand_ins, stratified, typical_depth

MAX_GENES = 600
"""Beyond this many genes, linear experts see principal components: fewer cells than genes over-fit."""

MAX_CELLS = 6000
"""Regressions are fitted on at most this many reference cells, rare types kept whole as far as they fit."""

CONTEXT = (((6, 30, 150), 0.01, True), ((15, 60), 0.05, False))
"""Context experts: sizes of the neighbourhoods they see, inverse penalty, whether types weigh the same."""

AROUND = (12, 50)
"""Those that students of the query see."""


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
    """

    log_probas: dict[str, np.ndarray]
    experts: dict[str, shallow.Expert]
    scale: Scale


def weighted_standardise(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Centre and scale each gene by weighted moments, and clip."""
    mean = weight @ values
    spread = np.sqrt(np.maximum(weight @ (values * values) - mean * mean, 0))
    return np.clip((values - mean) / (spread + 1e-3), -experts.CLIP, experts.CLIP).astype(np.float32)


def convene(reference: Cells, query: Cells, random_state: int) -> Council:
    """Fit every expert and let it judge the query."""
    labels, n_types = labels_of(reference), len(reference.types)
    council: dict[str, shallow.Expert] = _profiles(reference, query)
    view = shallow.View(query, np.empty((len(query), 0)))
    said = {name: expert.log_proba(view) for name, expert in council.items()}
    said |= _after_alignment(reference, query, random_state)
    first = experts.mix([np.exp(log) for log in said.values()])
    scale = common_scale(reference, query, first, random_state)
    few = stratified(labels, MAX_CELLS, random_state)
    for C in (0.003, 0.03):
        council[f"regression, {C}"] = shallow.regress(scale.reference[few], labels[few], n_types, C=C, balanced=True)
    if reference.coords is not None and query.coords is not None:
        known = shallow.View(reference, scale.reference)
        for sizes, C, balanced in CONTEXT:
            near = known.with_neighbours(sizes)[few]
            council[f"regression, context {sizes}"] = shallow.regress(
                near, labels[few], n_types, C=C, balanced=balanced, sizes=sizes
            )
    view = shallow.View(query, scale.query)
    said |= {name: expert.log_proba(view) for name, expert in council.items() if name not in said}
    return Council(said, council, scale)


def _profiles(reference: Cells, query: Cells) -> dict[str, shallow.Expert]:
    """Count profiles with and without a platform scale, the latter fitted on a sample of the query."""
    rates = experts.profiles(reference.counts, labels_of(reference), len(reference.types))
    some = query.counts[:: max(1, len(query) // 4000)]
    plain = experts.with_ambient(rates, np.asarray(query.counts.sum(0)).ravel() / query.counts.sum())
    platform = experts.platform_rates(some, rates)
    return {
        name: shallow.Profiles(r, experts.temperature(experts.profile_scores(some, r)))
        for name, r in (("profiles", plain), ("profiles, platform", platform))
    }


def _after_alignment(reference: Cells, query: Cells, random_state: int) -> dict[str, np.ndarray]:
    """A vote and a regression on principal components that Harmony has aligned."""
    labels, n_types, n = labels_of(reference), len(reference.types), len(reference)
    depth = typical_depth(query)
    z_reference = experts.standardise(experts.log_normalise(reference.counts, depth))
    z_query = experts.standardise(experts.log_normalise(query.counts, depth))
    parts = experts.joint_pca(z_reference, z_query, 30, random_state)
    batch = np.r_[np.zeros(n, dtype=int), np.ones(len(query), dtype=int)]
    aligned = experts.harmony(parts, batch, random_state=random_state)
    near, far = aligned[:n], aligned[n:]
    said = {
        "vote": experts.vote(near, labels, far, n_types),
        "regression, aligned": experts.logistic(near, labels, far, n_types, C=0.3, balanced=True),
    }
    return {name: np.log(proba + 1e-3) for name, proba in said.items()}


def common_scale(reference: Cells, query: Cells, guess: np.ndarray, random_state: int) -> Scale:
    """Standardise the query by itself and the reference as if it had the query's composition."""
    labels = labels_of(reference)
    own = np.bincount(labels, minlength=len(reference.types)) / len(labels)
    composition = 0.8 * guess.mean(0) + 0.2 * own
    depth = typical_depth(query)
    weight = cell_weights(labels, composition)
    z_reference = weighted_standardise(experts.log_normalise(reference.counts, depth), weight)
    z_query = experts.standardise(experts.log_normalise(query.counts, depth))
    if z_query.shape[1] <= MAX_GENES:
        return Scale(z_reference, z_query, composition, None)
    both = np.vstack([z_reference, z_query])
    pca = PCA(50, svd_solver="randomized", random_state=random_state).fit(both)
    loadings = (pca.components_ / np.sqrt(pca.explained_variance_)[:, None]).T.astype(np.float32)
    return Scale(z_reference @ loadings, z_query @ loadings, composition, loadings)


def stack(log_probas: list[np.ndarray], labels: np.ndarray, n_types: int, penalty: float = 0.02) -> np.ndarray:
    r"""Non-negative weights of the experts' log-probabilities that best predict known labels.

    Minimises :math:`-\sum_n c_{y_n} \log \mathrm{softmax}(\sum_e w_e \log p_{en})_{y_n} / N + \lambda |w|^2` with
    rare types weighted up (:math:`c_k \propto n_k^{-1/2}`). The scale of the weights is a temperature.
    """
    logs = np.stack(log_probas, 2)
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


def disagreement(log_probas: list[np.ndarray]) -> float:
    """Mean share of cells on which two experts differ (0 to 1): it grows with the distance between data sets."""
    best = np.stack([p.argmax(1) for p in log_probas])
    pairs = [(best[i] != best[j]).mean() for i in range(len(best)) for j in range(i)]
    return float(np.mean(pairs))


@dataclass(frozen=True)
class Teaching:
    """What the teacher decided and says.

    Parameters
    ----------
    posterior
        Log-probabilities for the query (cells, types), all experts joined.
    council, weights
        Experts that can judge other queries too, and their weights.
    scale
        The common scale of both data sets.
    trust
        How far the query may teach itself: 0 on one platform, 1 across platforms.
    openness
        How far the cell level counts: 0 where neighbours say nothing new, 1 where they say much.
    expected_accuracy
        Accuracy on the stand-ins less the experts' excess disagreement on the query.
    facts
        The same decisions and what they rest on, as plain values.
    """

    posterior: np.ndarray
    council: list[shallow.Expert]
    weights: np.ndarray
    scale: Scale
    trust: float
    openness: float
    expected_accuracy: float
    facts: dict[str, object]


def teach(reference: Cells, query: Cells, *, selector: bool, random_state: int) -> Teaching:
    """Weigh the experts, decide how far to trust and to listen, and let the query teach itself that far.

    Parameters
    ----------
    reference, query
        Labelled and unlabelled cells with the same genes.
    selector
        Whether decisions follow the data; else experts weigh the same, and trust and openness are 1.
    random_state
        Seed.
    """
    council = convene(reference, query, random_state)
    names, portable = list(council.log_probas), list(council.experts)
    said = {name: floored(log) for name, log in council.log_probas.items()}
    everyone, alone, accuracy, usual = _audition(reference, query, council, random_state)
    excess = disagreement([said[name] for name in portable]) - usual
    distance = platform_distance(reference, query, council.scale.composition)
    trust = float(np.clip(2 * distance - 1, 0, 1))
    spatial = query.coords is not None
    gain = context_gain(reference, query, council.scale, random_state) if spatial else 0.0
    openness = float(np.clip(10 * gain, 0, 1))
    if spatial:
        openness = max(openness, _context_share(portable, alone))
    if not selector:
        everyone, alone = (np.full(len(x), 1 / len(x)) for x in (everyone, alone))
        trust, openness = 1.0, float(spatial)
    # look-alikes cannot show what the real platform does to each expert: then trust their verdict by half
    everyone, alone = ((1 - trust / 2) * x + trust / 2 * x.mean() for x in (everyone, alone))
    joint = sum(w * said[name] for w, name in zip(everyone, names, strict=True))
    experts_, weights = [council.experts[name] for name in portable], list(alone)
    if trust > 0:
        view = shallow.View(query, council.scale.query)
        student = study(joint, view, AROUND if spatial else ())
        if student is not None:
            joint = (1 - trust / 2) * joint + trust * floored(student.log_proba(view))
            experts_.append(student)
            weights = [(1 - trust / 2) * w for w in weights] + [trust]
    expected = float(np.clip(accuracy - excess, 1 / len(reference.types), 0.99))
    facts = {
        "experts": dict(zip(names, np.round(everyone, 3).tolist(), strict=True)),
        "platform_distance": distance,
        "trust": trust,
        "context_gain": gain,
        "openness": openness,
        "stand_in_accuracy": accuracy,
        "excess_disagreement": excess,
        "expected_accuracy": expected,
    }
    posterior = log_softmax(joint, axis=1)
    return Teaching(posterior, experts_, np.array(weights), council.scale, trust, openness, expected, facts)


def _audition(
    reference: Cells, query: Cells, council: Council, random_state: int
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Weights of all experts and of the portable ones, joint accuracy, and disagreement, on the stand-ins."""
    everyone, alone, right, apart = [], [], [], []
    for kept, target, truth in stand_ins(reference, query, council.scale.composition, random_state):
        said = convene(kept, target, random_state).log_probas
        logs = [floored(said[name]) for name in council.log_probas]
        own = [floored(said[name]) for name in council.experts]
        everyone.append(stack(logs, truth, len(reference.types)))
        alone.append(stack(own, truth, len(reference.types)))
        joint = sum(w * log for w, log in zip(everyone[-1], logs, strict=True))
        right.append((joint.argmax(1) == truth).mean())
        apart.append(disagreement(own))
    return np.mean(everyone, 0), np.mean(alone, 0), float(np.mean(right)), float(np.mean(apart))


def floored(log_proba: np.ndarray) -> np.ndarray:
    """Log-probabilities that no expert may push below a thousandth: one veto must not settle a vote."""
    return np.log(np.exp(log_proba) + 1e-3)


def platform_distance(reference: Cells, query: Cells, composition: np.ndarray) -> float:
    """Robust spread over genes of the log ratio of mean expression, at one composition (0 up; 0 is one platform)."""
    weight = cell_weights(labels_of(reference), composition)
    left = (reference.counts.multiply(1 / reference.counts.sum(1))).T @ weight
    right = np.asarray(query.counts.multiply(1 / query.counts.sum(1)).mean(0)).ravel()
    floor = 0.01 / len(right)
    seen = (left + right) / 2 > 5 * floor
    ratio = np.log((right + floor) / (left + floor))[seen]
    return float(1.4826 * np.median(np.abs(ratio - np.median(ratio)))) if seen.any() else 0.0


def context_gain(reference: Cells, query: Cells, scale: Scale, random_state: int) -> float:
    """How much better neighbours help to guess types (relative fall of the error; below 0 if they harm).

    Types guessed from one half of the features are predicted from the other half, with and without the neighbours'
    means of that half, over held-out blocks of tissue: the halves' noise is independent, so what neighbours add is
    news of the type.
    """
    rng = np.random.default_rng(random_state)
    labels, n_types = labels_of(reference), len(reference.types)
    few = stratified(labels, 3000, random_state)
    fold = blocks(query, 60, rng)
    right: list[list[float]] = []
    order = rng.permutation(scale.query.shape[1])
    for first, second in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        guide = shallow.regress(scale.reference[few][:, first], labels[few], n_types, C=0.01, balanced=True)
        proba = np.exp(guide.log_proba(shallow.View(query, scale.query[:, first])))
        guess, sure = proba.argmax(1), experts.confident(proba)
        near = shallow.View(query, scale.query[:, second]).with_neighbours(AROUND)
        for held in (0, 1):
            fit, test = rng.permutation(np.flatnonzero(sure & (fold != held)))[:2000], sure & (fold == held)
            if len(np.unique(guess[fit])) < 2 or not test.any():
                continue
            right.append([_hits(x, guess, fit, test, n_types) for x in (near[:, : len(second)], near)])
    if not right:
        return 0.0
    own, more = np.mean(right, axis=0)
    return float((more - own) / max(1 - own, 0.01))


def _hits(x: np.ndarray, guess: np.ndarray, fit: np.ndarray, test: np.ndarray, n_types: int) -> float:
    model = shallow.regress(x[fit], guess[fit], n_types, C=0.03, balanced=False)
    return float(((x[test] @ model.coefficients.T + model.intercept).argmax(1) == guess[test]).mean())


def _context_share(names: list[str], weights: np.ndarray) -> float:
    """Share of the context regressions among the regressions; 0 without any."""
    kinds = ("regression, context", "regression")
    context, total = (sum(w for n, w in zip(names, weights, strict=True) if n.startswith(kind)) for kind in kinds)
    return float(context / total) if total > 0 else 0.0


def study(
    teacher: np.ndarray, view: shallow.View, sizes: tuple[int, ...], rounds: int = 4
) -> shallow.Regression | None:
    """Students of the query: regressions fitted on confident guesses, each joined with half of the teacher.

    Parameters
    ----------
    teacher
        Joint log-probabilities of the experts (cells, types).
    view
        The query.
    sizes
        Neighbourhood sizes whose means the students see.
    rounds
        Number of students, one after the other.

    Returns
    -------
    The last student; None if one type is all that is guessed.
    """
    features, n_types = view.with_neighbours(sizes), teacher.shape[1]
    joint, student = softmax(teacher, 1), None
    for _ in range(rounds):
        guess, sure = joint.argmax(1), np.flatnonzero(experts.confident(joint))
        sure = sure[stratified(guess[sure], MAX_CELLS, 0)]
        if len(np.unique(guess[sure])) < 2:
            return student
        student = shallow.regress(features[sure], guess[sure], n_types, C=0.04, balanced=False, sizes=sizes)
        own = log_softmax(features @ student.coefficients.T + student.intercept, axis=1)
        joint = softmax(np.log(np.exp(own) + 1e-4) + 0.5 * floored(log_softmax(teacher, axis=1)), 1)
    return student
