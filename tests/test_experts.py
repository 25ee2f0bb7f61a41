"""Simple experts against oracles and laws."""

from __future__ import annotations

import harmonypy
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.special import softmax
from scipy.stats import nbinom

from stgnn import experts


def two_batches(seed: int = 0, n: int = 300, shift: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Components of three types in two batches, of which the second is shifted; batch and type of each cell."""
    rng = np.random.default_rng(seed)
    kind, batch = np.arange(2 * n) % 3, np.repeat([0, 1], n)
    centres = 8 * np.eye(3, 6)
    offset = np.zeros(6)
    offset[3:5] = shift
    x = centres[kind] + rng.normal(0, 1, (2 * n, 6)) + batch[:, None] * offset
    return x - x.mean(0), batch, kind


def between(x: np.ndarray, batch: np.ndarray, kind: np.ndarray) -> float:
    """Mean distance of the batches' centres within each type."""
    gaps = [x[(kind == k) & (batch == 0)].mean(0) - x[(kind == k) & (batch == 1)].mean(0) for k in range(3)]
    return float(np.linalg.norm(gaps, axis=1).mean())


def test_harmony_removes_what_the_reference_implementation_removes():
    x, batch, kind = two_batches()
    ours = experts.harmony(x, batch, random_state=0)
    theirs = harmonypy.run_harmony(x, pd.DataFrame({"batch": batch.astype(str)}), ["batch"], verbose=False).Z_corr
    theirs = np.asarray(theirs)
    theirs = theirs if theirs.shape == x.shape else theirs.T
    for column in range(x.shape[1]):
        assert np.corrcoef(ours[:, column], theirs[:, column])[0, 1] > 0.9
    assert between(ours, batch, kind) < 1.5 * between(theirs, batch, kind) + 0.3


def test_harmony_removes_offsets_between_identical_populations():
    x, batch, kind = two_batches()
    aligned = experts.harmony(x, batch, random_state=0)
    assert between(aligned, batch, kind) < 0.2 * between(x, batch, kind)
    spread = np.linalg.norm(np.stack([aligned[kind == k].mean(0) for k in range(3)])[[0, 1, 2]] - aligned.mean(0))
    before = np.linalg.norm(np.stack([x[kind == k].mean(0) for k in range(3)]) - x.mean(0))
    assert spread > 0.9 * before  # types stay apart


def test_harmony_leaves_one_batch_as_it_is():
    x, _, _ = two_batches(shift=0)
    same = experts.harmony(x, np.zeros(len(x), dtype=int), random_state=0, ridge=1e6)
    np.testing.assert_allclose(same, x, atol=0.05)


def test_the_objective_of_diverse_clusters_is_distance_entropy_and_diversity():
    x, batch, _ = two_batches()
    unit, hot = experts.row_unit(x.astype(np.float32)), np.eye(2, dtype=np.float32)[batch]
    rng, share, theta, sigma = np.random.default_rng(0), hot.mean(0), 2.0, 0.1
    member = rng.dirichlet(np.ones(7), len(x)).astype(np.float32)
    member, centres, objective = experts._diverse_clusters(unit, member, unit[:7], hot, share, theta, sigma, rng)
    distance, observed = 2 * (1 - unit @ centres.T), member.T @ hot
    expected = observed.sum(1, keepdims=True) * share
    diversity = observed * np.log((observed + 1) / (expected + 1))
    entropy = member * np.log(np.maximum(member, 1e-30))
    direct = (member * distance).sum() + sigma * entropy.sum() + sigma * theta * diversity.sum()
    np.testing.assert_allclose(objective, direct, rtol=1e-4)
    np.testing.assert_allclose(member.sum(1), 1, rtol=1e-5)


def test_profile_scores_between_levels_are_those_of_every_cell_by_itself():
    rng = np.random.default_rng(0)
    rates = rng.dirichlet(np.full(30, 0.3), 4)
    counts = sp.csr_matrix(rng.poisson(rng.lognormal(5, 0.7, (900, 1)) * rates[rng.integers(4, size=900)]))
    at_levels, by_itself = experts.profile_scores(counts, rates), experts.profile_scores(counts, rates, levels=10_000)
    assert np.ptp(by_itself) > 1000
    np.testing.assert_allclose(at_levels, by_itself, atol=0.02)
    np.testing.assert_array_equal(experts.profile_scores(counts[:1], rates)[0], by_itself[0])


def test_profile_scores_are_negative_binomial_up_to_a_constant_of_the_cell():
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(rng.poisson(2, (12, 20)).astype(np.float32))
    rates = rng.dirichlet(np.ones(20), 4)
    ours = experts.profile_scores(counts, rates, dispersion=2.0)
    mean = np.asarray(counts.sum(1))[:, None, :] * rates[None] + 1e-6
    log_pmf = nbinom.logpmf(counts.toarray()[:, None], 2.0, 2.0 / (2.0 + mean)).sum(2)
    np.testing.assert_allclose(ours - ours[:, :1], log_pmf - log_pmf[:, :1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", [0.5, 0.7, 0.9])
def test_temperature_hits_its_target(target):
    scores = np.random.default_rng(0).normal(0, 20, (200, 5))
    factor = experts.temperature(scores, target)
    assert softmax(scores * factor, 1).max(1).mean() == pytest.approx(target, abs=1e-3)


def test_temperature_stops_at_the_highest():
    assert experts.temperature(np.zeros((5, 3)), 0.9, highest=7.0) == pytest.approx(7.0, rel=1e-3)


def test_mix_is_a_normalised_product():
    rng = np.random.default_rng(0)
    first, second = rng.dirichlet(np.ones(4), 10), rng.dirichlet(np.ones(4), 10)
    product = first * second**2
    mixed = experts.mix([first, second], np.array([1.0, 2.0]), floor=0.0)
    np.testing.assert_allclose(mixed, product / product.sum(1, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(experts.mix([first, second]).sum(1), 1)


def test_a_floor_keeps_one_veto_from_settling_the_vote():
    veto, friends = np.array([[0.0, 1.0]]), np.array([[0.99, 0.01]])
    assert experts.mix([veto, friends, friends, friends]).argmax() == 0
    assert experts.mix([veto, friends, friends, friends], floor=1e-12).argmax() == 1


def test_confident_keeps_the_share_of_every_type_and_the_best_of_it():
    rng = np.random.default_rng(0)
    proba = rng.dirichlet([5, 2, 0.3], 400)
    keep, guess, top = experts.confident(proba, share=0.5, at_least=4), proba.argmax(1), proba.max(1)
    for k in np.unique(guess):
        own = guess == k
        assert keep[own].sum() == min(own.sum(), max(4, int(0.5 * own.sum())))
        if (own & ~keep).any():
            assert top[own & keep].min() >= top[own & ~keep].max()


def test_log_normalise_forgets_depth():
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(rng.poisson(3, (6, 8)).astype(np.float32) + 1)
    deeper = sp.csr_matrix(counts.toarray() * np.arange(1, 7)[:, None])
    np.testing.assert_allclose(experts.log_normalise(counts, 50), experts.log_normalise(deeper, 50), rtol=1e-5)
    np.testing.assert_allclose(np.expm1(experts.log_normalise(counts, 50)).sum(1), 50, rtol=1e-5)


def test_standardise_forgets_scale_and_origin_of_a_gene():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (50, 4)).astype(np.float32)
    same = experts.standardise(values * np.array([2, 5, 1, 9]) + np.array([0, 3, -4, 1]))
    np.testing.assert_allclose(experts.standardise(values), same, atol=6e-3)
    assert np.abs(experts.standardise(np.r_[np.zeros(1000), 1.0][:, None])).max() == experts.CLIP


def test_platform_rates_recover_the_scale_of_genes():
    rng = np.random.default_rng(0)
    rates = rng.dirichlet(np.full(60, 0.3), 4)
    factor = rng.lognormal(0, 1, 60)
    true = rates * factor / (rates * factor).sum(1, keepdims=True)
    kind = rng.integers(0, 4, 800)
    counts = sp.csr_matrix(rng.poisson(100 * true[kind]).astype(np.float32))
    ambient = np.asarray(counts.sum(0)).ravel() / counts.sum()

    def error(fitted: np.ndarray) -> float:
        goal = experts.with_ambient(true, ambient)
        return float(np.abs(np.log(fitted / goal)).mean())

    assert error(experts.platform_rates(counts, rates)) < 0.6 * error(experts.with_ambient(rates, ambient))


def test_profiles_pool_counts_and_shrink_to_the_overall_mix():
    counts = sp.csr_matrix(np.array([[3, 1], [1, 3], [0, 8]], dtype=np.float32))
    found = experts.profiles(counts, np.array([0, 0, 1]), 3, shrink=0.5)
    overall = np.array([4, 12]) / 16
    np.testing.assert_allclose(found[0], (np.array([0.5, 0.5]) + 0.5 * overall) / 1.5)
    np.testing.assert_allclose(found[1], (np.array([0.0, 1.0]) + 0.5 * overall) / 1.5)
    np.testing.assert_allclose(found[2] / found[2].sum(), overall)  # a type without cells has no opinion


@pytest.mark.parametrize("rounds", [1, 3])
def test_self_training_gives_probabilities_and_helps_a_noisy_teacher(rounds):
    rng = np.random.default_rng(0)
    truth = np.arange(300) % 3
    features = np.eye(3)[truth] * 3 + rng.normal(0, 1, (300, 3))
    teacher = softmax(1.2 * np.eye(3)[truth] + rng.normal(0, 1, (300, 3)), 1)
    for proba in experts.self_train(teacher, features, rounds=rounds):
        np.testing.assert_allclose(proba.sum(1), 1, atol=1e-9)
        assert (proba.argmax(1) == truth).mean() > (teacher.argmax(1) == truth).mean() + 0.1


def test_self_training_on_one_type_returns_the_teacher():
    teacher = np.tile([0.8, 0.2], (20, 1))
    for proba in experts.self_train(teacher, np.zeros((20, 3))):
        np.testing.assert_array_equal(proba, teacher)
