"""The teacher: experts weighted by how they do on stand-ins for the query, then students of the query itself.

No label of the query is ever seen. What its experts may weigh, how far the query may teach itself, how far space may
act and how sure to be are decided from stand-ins, from the distance between the platforms, and from the query's genes
split in halves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from stgnn import experts, shallow
from stgnn.council import Council, Scale, convene
from stgnn.data.cells import Cells
from stgnn.experts import floored
from stgnn.standins import blocks, cell_weights, labels_of, stand_ins, stratified
from stgnn.students import consensus, learn, purity, recount, study
from stgnn.train import shared

if TYPE_CHECKING:
    from jaxtyping import Float, Int

AROUND = (12, 50)
"""Sizes of the neighbourhoods that students of the query see."""

PRESENT, ABSENCE = 0.3, 3.0
"""Types that resemble themselves less than this are doubted, and by how much at most (natural logarithm)."""


@dataclass(frozen=True)
class Teaching:
    """What the teacher decided and says.

    Parameters
    ----------
    posterior
        Log-probabilities for the query (cells, types), all experts joined.
    council, weights
        Experts that can judge other queries too, and their weights.
    prior
        Log prior of the types, up to a constant (types,): below 0 for types that seem to be absent from the query.
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
    prior: np.ndarray
    scale: Scale
    trust: float
    openness: float
    expected_accuracy: float
    facts: dict[str, object]

    def save(self, path: Path) -> None:
        """Write to a file, whole or not at all."""
        scale = {f"scale.{name}": value for name, value in vars(self.scale).items() if value is not None}
        numbers = {name: getattr(self, name) for name in ("trust", "openness", "expected_accuracy")}
        words = np.array(json.dumps({"numbers": numbers, "facts": self.facts}))
        own = {"posterior": self.posterior, "weights": self.weights, "prior": self.prior, "words": words}
        arrays: dict[str, Any] = own | scale | shallow.pack(self.council)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> Teaching | None:
        """Read what :meth:`save` wrote; None where nothing, or nothing whole, was written."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        except (OSError, ValueError, EOFError, BadZipFile):
            return None
        words = json.loads(str(arrays["words"]))
        known, asked, composition = (arrays[f"scale.{name}"] for name in ("reference", "query", "composition"))
        scale = Scale(known, asked, composition, arrays.get("scale.loadings"))
        posterior, weights, prior = (arrays[name] for name in ("posterior", "weights", "prior"))
        return cls(posterior, shallow.unpack(arrays), weights, prior, scale, **words["numbers"], facts=words["facts"])


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
    spatial = query.coords is not None
    audition, gain = _audition(reference, query, council, random_state, context=spatial)
    everyone, alone, accuracy, usual = audition
    excess = disagreement([said[name] for name in portable]) - usual
    distance = platform_distance(reference, query, council.scale.composition)
    trust = float(np.clip(2 * distance - 1, 0, 1))
    # look-alikes cannot show what a real platform does to each expert, nor to what neighbours say
    openness = max(float(np.clip(10 * gain, 0, 1)), _context_share(portable, alone), trust) if spatial else 0.0
    if not selector:
        trust, openness = 1.0, float(spatial)
    everyone, alone = ((1 - trust) * x + trust * x.mean() for x in (everyone, alone))
    joint = sum(w * said[name] for w, name in zip(everyone, names, strict=True))
    likeness = resemblance(reference, council.scale, council.first.argmax(1))
    prior = -ABSENCE * trust * np.clip(1 - likeness / PRESENT, 0, 1)
    joint = joint + prior
    # experts that agree more than on stand-ins are only half believed: they may err together
    expected = float(np.clip(accuracy - max(excess, excess / 2), 1 / len(reference.types), 0.99))
    pupils: list[shallow.Expert] = []
    posterior, weights = log_softmax(joint, axis=1), list(alone)
    if trust > 0:
        view = shallow.View(query, council.scale.query)
        rates = experts.profiles(reference.counts, labels_of(reference), len(reference.types))
        posterior, pupils, shares = _self_taught(joint, view, rates, trust, expected, random_state)
        weights = [shares[0] * w for w in weights] + shares[1:]
    facts = {
        "experts": dict(zip(names, np.round(everyone, 3).tolist(), strict=True)),
        "platform_distance": distance,
        "trust": trust,
        "context_gain": gain,
        "openness": openness,
        "stand_in_accuracy": accuracy,
        "excess_disagreement": excess,
        "expected_accuracy": expected,
        "resemblance": dict(zip(reference.types, np.round(likeness, 3).tolist(), strict=True)),
    }
    heard = [council.experts[name] for name in portable] + pupils
    return Teaching(posterior, heard, np.array(weights), prior, council.scale, trust, openness, expected, facts)


def _self_taught(
    joint: np.ndarray, view: shallow.View, rates: np.ndarray, trust: float, expected: float, random_state: int
) -> tuple[np.ndarray, list[shallow.Expert], list[float]]:
    """Let the query teach itself.

    Returns
    -------
    Log-probabilities after experts, students and the consensus of cells alike; the students; and the weights of experts
    and students.
    """
    # the less the experts can be relied on, the fewer of their guesses are learned from, and the less they weigh
    share, weight = float(np.clip(expected - 0.15, 0.4, 0.6)), float(np.clip(expected - 0.35, 0.2, 0.5))
    sizes = AROUND if view.cells.coords is not None else ()
    student = study(joint, view, sizes, share=share, weight=weight)
    if student is None:
        return log_softmax(joint, axis=1), [], [1.0]
    kept, counted = 1 - trust + trust * weight, trust * float(np.clip(2 * expected - 1, 0, 0.5))
    teacher, joint = joint, kept * joint + trust * floored(student.log_proba(view))
    pupils: list[shallow.Expert] = [student]
    if counted > 0:
        pupils.append(recount(joint, teacher, view.cells, rates, expected=expected, weight=weight))
        joint = joint + counted * floored(pupils[-1].log_proba(view))
    posterior = log_softmax(joint, axis=1)
    clusters = consensus(posterior, view, random_state)
    said = floored(clusters.log_proba(view))
    pure = purity(posterior, said)
    posterior = log_softmax(joint + trust * pure * said, axis=1)
    # the student that is kept learns the last word: part of it comes from experts that cannot be kept
    called = posterior.argmax(1)
    sure = np.flatnonzero(experts.confident(np.exp(posterior), share + (1 - share) * pure))
    if len(np.unique(called[sure])) > 1:
        pupils[0] = learn(called, sure, view.with_neighbours(sizes), posterior.shape[1], sizes)
    return posterior, pupils, [kept, trust, counted][: 1 + len(pupils)]


def _audition(
    reference: Cells, query: Cells, council: Council, random_state: int, *, context: bool
) -> tuple[tuple[np.ndarray, np.ndarray, float, float], float]:
    """Weights of all experts and of the portable ones, joint accuracy, and disagreement, on the stand-ins.

    Also what context gains, where it is asked for: neither waits for the other.
    """
    everyone, alone, right, apart = [], [], [], []
    pairs = stand_ins(reference, query, council.scale.composition, random_state)
    work: list[Callable[[], Any]] = [partial(_heard, kept, target, random_state) for kept, target, _ in pairs]
    if context:
        work.append(partial(context_gain, reference, query, council.scale, random_state))
    results = shared(work, threads=True)
    for (_, _, truth), said in zip(pairs, results, strict=False):
        logs = [floored(said[name]) for name in council.log_probas]
        own = [floored(said[name]) for name in council.experts]
        everyone.append(stack(logs, truth, len(reference.types)))
        alone.append(stack(own, truth, len(reference.types)))
        joint = sum(w * log for w, log in zip(everyone[-1], logs, strict=True))
        right.append((joint.argmax(1) == truth).mean())
        apart.append(disagreement(own))
    judged = np.mean(everyone, 0), np.mean(alone, 0), float(np.mean(right)), float(np.mean(apart))
    return judged, results[-1] if context else 0.0


def _heard(reference: Cells, query: Cells, random_state: int) -> dict[str, np.ndarray]:
    # the weights of experts hardly depend on it, and most of the time of small queries would go into it
    return convene(reference, query, random_state, alignments=1).log_probas


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


def resemblance(reference: Cells, scale: Scale, guess: Int[np.ndarray, " n"]) -> Float[np.ndarray, " c"]:
    r"""How much the query's cells of a guessed type look like it rather than like another (1 at most; below 0 unlike).

    .. math:: s_k = \min_j \frac{r(\bar x_k, \mu_k) - r(\bar x_k, \mu_j)}{1 - r(\mu_k, \mu_j)}

    with :math:`\bar x_k` the mean of the cells guessed to be k, :math:`\mu_k` the mean of the reference's cells of
    type k, and r the correlation over features. Poor cells of many types end up in a type that the query lacks; their
    mean looks no more like it than like another. Types that fewer than 3 cells are guessed to be get 1.

    Parameters
    ----------
    reference
        Labelled cells.
    scale
        The common scale of both data sets.
    guess
        Type codes of the query's cells.
    """
    labels, n_types = labels_of(reference), len(reference.types)
    means = np.stack([scale.reference[labels == k].mean(0, dtype=float) for k in range(n_types)])
    among = experts.correlations(means, means)
    out = np.ones(n_types)
    for k in range(n_types):
        own = guess == k
        if own.sum() < 3:
            continue
        mean = scale.query[own].mean(0, dtype=float)
        if mean.std() < 1e-9:  # the same in all features: like no type, and unlike none
            continue
        alike = experts.correlations(mean[None], means)[0]
        others = np.arange(n_types) != k
        out[k] = ((alike[k] - alike[others]) / np.maximum(1 - among[k, others], 1e-6)).min()
    return out


def disagreement(log_probas: list[np.ndarray]) -> float:
    """Mean share of cells on which two experts differ (0 to 1): it grows with the distance between data sets."""
    best = np.stack([p.argmax(1) for p in log_probas])
    pairs = [(best[i] != best[j]).mean() for i in range(len(best)) for j in range(i)]
    return float(np.mean(pairs))


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
        guide = shallow.regress(scale.reference[few][:, first], labels[few], n_types, C=0.01, balance=1)
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
    model = shallow.regress(x[fit], guess[fit], n_types, C=0.03, balance=0)
    return float(((x[test] @ model.coefficients.T + model.intercept).argmax(1) == guess[test]).mean())


def _context_share(names: list[str], weights: np.ndarray) -> float:
    """Share of the context regressions among the regressions; 0 without any."""
    kinds = ("regression, context", "regression")
    context, total = (sum(w for n, w in zip(names, weights, strict=True) if n.startswith(kind)) for kind in kinds)
    return float(context / total) if total > 0 else 0.0
