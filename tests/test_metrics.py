"""Metrics against scikit-learn and scipy, hand-computed cases, permutation, and their own limits."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics
from scipy.spatial.distance import cdist, jensenshannon
from scipy.stats import pearsonr, spearmanr

from stgnn import metrics


@pytest.fixture
def labelled():
    rng = np.random.default_rng(0)
    truth = rng.choice(["a", "b", "c"], size=300, p=[0.6, 0.3, 0.1])
    predicted = np.where(rng.random(300) < 0.7, truth, rng.choice(["a", "b", "c", "unknown"], size=300))
    return truth, predicted


@pytest.fixture
def confident():
    rng = np.random.default_rng(1)
    confidence = rng.random(400)
    return confidence, rng.random(400) < confidence


@pytest.fixture
def tissue():
    rng = np.random.default_rng(2)
    coords = rng.random((240, 2))
    section = rng.permutation(np.repeat([0, 3], [150, 90]))
    labels = np.where(
        coords[:, 0] + 0.2 * rng.normal(size=240) > 0.5, "left", np.where(coords[:, 1] > 0.5, "up", "down")
    )
    return labels, coords, section


def brute_neighbours(points, section, k):
    distance = cdist(points, points)
    distance[section[:, None] != section] = np.inf
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1)[:, :k]


# ---- labels


def test_f1_and_accuracy_against_scikit_learn(labelled):
    truth, predicted = labelled
    classes = ["a", "b", "c"]
    assert metrics.accuracy(truth, predicted) == pytest.approx(sklearn.metrics.accuracy_score(truth, predicted))
    report = sklearn.metrics.classification_report(truth, predicted, labels=classes, output_dict=True, zero_division=0)
    assert metrics.macro_f1(truth, predicted, classes) == pytest.approx(report["macro avg"]["f1-score"])
    assert metrics.weighted_f1(truth, predicted, classes) == pytest.approx(report["weighted avg"]["f1-score"])


def test_f1_by_hand():
    truth, predicted = np.array(["a", "a", "a", "b"]), np.array(["a", "b", "unknown", "b"])
    # a: 2 / (2 + 0 + 2); b: 2 / (2 + 1 + 0); the unknown counts against a, and is itself no class.
    assert metrics.macro_f1(truth, predicted, ["a", "b"]) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metrics.weighted_f1(truth, predicted, ["a", "b"]) == pytest.approx((3 * 1 / 2 + 2 / 3) / 4)
    assert metrics.accuracy(truth, predicted) == 0.5


def test_a_class_never_predicted_scores_zero():
    assert metrics.macro_f1(np.array(["a", "b"]), np.array(["a", "a"]), ["a", "b"]) == pytest.approx(1 / 3)
    assert metrics.macro_f1(np.array(["a", "a"]), np.array(["a", "a"]), ["a", "absent"]) == 0.5


def test_scored_cells_name_what_they_leave_out():
    truth = np.repeat(["known", "rare", "new", "edge"], [9, 4, 30, 5])
    mask, left_out = metrics.scored_cells(truth, ["known", "rare", "edge", "absent"])
    assert set(truth[mask]) == {"known", "edge"}
    assert mask.sum() == 14
    assert left_out == [("new", 30), ("rare", 4)]


# ---- confidence and rejection


def test_rejection_auroc_against_scikit_learn_and_by_pairs(confident):
    score, unknown = confident
    pairs = [float(u > v) + 0.5 * (u == v) for u in score[unknown] for v in score[~unknown]]
    assert metrics.rejection_auroc(score, unknown) == pytest.approx(np.mean(pairs))
    assert metrics.rejection_auroc(-score, unknown) == pytest.approx(1 - np.mean(pairs))
    with pytest.raises(ValueError, match=r"^is_unknown: expected"):
        metrics.rejection_auroc(score, np.zeros(400, dtype=bool))


def test_reliability_bins_hold_equal_mass(confident):
    mean, share, count = metrics.reliability_curve(*confident, bins=15)
    assert count.tolist().count(26) + count.tolist().count(27) == 15
    assert np.average(mean, weights=count) == pytest.approx(confident[0].mean())
    assert np.average(share, weights=count) == pytest.approx(confident[1].mean())
    assert np.all(np.diff(mean) > 0)


@pytest.mark.parametrize("n", [1, 7, 15, 16, 31])
def test_reliability_bins_of_few_cells(n):
    count = metrics.reliability_curve(np.linspace(0, 1, n), np.ones(n, dtype=bool))[2]
    assert len(count) == min(n, 15)
    assert count.max() - count.min() <= 1


def test_calibration_error_by_hand():
    confidence = np.array([0.6, 0.8, 0.8, 1.0, 0.0, 0.2, 0.2, 0.4])
    correct = np.array([1, 1, 1, 0, 0, 0, 0, 1], dtype=bool)
    # Two bins of four: 0.2 against 1/4, and 0.8 against 3/4.
    assert metrics.expected_calibration_error(confidence, correct, bins=2) == pytest.approx(0.05)


def test_calibration_error_at_its_limits(confident):
    confidence, correct = confident
    n = 30_000
    drawn = np.random.default_rng(3).random(n)
    honest = np.random.default_rng(4).random(n) < drawn
    assert metrics.expected_calibration_error(drawn, honest) < 0.02
    assert metrics.expected_calibration_error(np.ones(n), np.zeros(n, dtype=bool)) == 1
    assert metrics.expected_calibration_error(correct.astype(float), correct) == 0
    # Equal confidences are one bin, however their cells are ordered.
    half = np.arange(400) < 200
    assert metrics.expected_calibration_error(np.full(400, 0.5), half) == 0
    with pytest.raises(ValueError, match=r"^confidence: expected"):
        metrics.expected_calibration_error(confidence + 1, correct)


@pytest.mark.parametrize("name", ["expected_calibration_error", "area_under_risk_coverage", "rejection_auroc"])
def test_order_of_cells_is_irrelevant_even_with_ties(name, confident):
    confidence, correct = confident[0].round(1), confident[1]
    order = np.random.default_rng(5).permutation(400)
    score = getattr(metrics, name)
    assert score(confidence[order], correct[order]) == pytest.approx(score(confidence, correct), abs=1e-12)


def test_risk_coverage_against_a_loop(confident):
    confidence, correct = confident
    coverage, risk = metrics.risk_coverage(confidence, correct)
    wrong = ~correct[np.argsort(-confidence)]
    for i in (1, 2, 50, 400):
        assert coverage[i - 1] == i / 400
        assert risk[i - 1] == pytest.approx(wrong[:i].mean())
    assert metrics.area_under_risk_coverage(confidence, correct) == pytest.approx(risk.mean())


def test_risk_coverage_shares_ties_like_the_mean_of_all_orders():
    confidence, correct = np.array([0.9, 0.5, 0.5, 0.5, 0.1]), np.array([1, 0, 1, 1, 0], dtype=bool)
    orders = [[0, *middle, 4] for middle in itertools.permutations([1, 2, 3])]
    mean = np.mean([np.cumsum(~correct[order]) / np.arange(1, 6) for order in orders], axis=0)
    np.testing.assert_allclose(metrics.risk_coverage(confidence, correct)[1], mean)


def test_better_confidence_has_less_area(confident):
    _, correct = confident
    perfect, useless, inverted = (
        metrics.area_under_risk_coverage(c, correct) for c in (correct * 1.0, np.ones(400), 1.0 - correct)
    )
    assert perfect < useless < inverted
    assert useless == pytest.approx(np.mean(~correct))


# ---- space


def test_neighbourhood_preservation_against_sets(tissue):
    _, coords, section = tissue
    other = coords + 0.05 * np.random.default_rng(0).normal(size=coords.shape)
    mine, theirs = brute_neighbours(coords, section, 15), brute_neighbours(other, section, 15)
    jaccard = [len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in zip(mine.tolist(), theirs.tolist())]
    assert 0.1 < np.mean(jaccard) < 0.9
    assert metrics.neighbourhood_preservation(coords, other, section) == pytest.approx(np.mean(jaccard))


def test_neighbourhood_preservation_at_its_limits(tissue):
    _, coords, section = tissue
    assert metrics.neighbourhood_preservation(coords, 3 * coords[:, ::-1] + 1, section) == 1
    noise = np.random.default_rng(0).normal(size=(240, 5))
    assert metrics.neighbourhood_preservation(coords, noise, np.zeros(240), k=15) == pytest.approx(15 / 480, abs=0.01)
    # Chain 0-1-2-3 against a space in which the ends of the chain are neighbours: no neighbour in common.
    first, second = np.array([[0.0], [1], [10], [11]]), np.array([[0.0], [10], [1], [11]])
    assert metrics.neighbourhood_preservation(first, second, np.zeros(4), k=1) == 0


def test_homophily_against_brute_force(tissue):
    labels, coords, section = tissue
    near = brute_neighbours(coords, section, 15)
    assert metrics.homophily(labels, coords, section) == pytest.approx(np.mean(labels[near] == labels[:, None]))


def test_coherence_subtracts_the_mean_over_all_permutations():
    rng = np.random.default_rng(0)
    # Sections differ in cells, in neighbours per cell and in label mix, so that each weight in the mean matters.
    coords, section = rng.random((8, 2)), np.array([0] * 5 + [1] * 2 + [2])
    labels = np.array(list("aabbcaaa"))
    rates = [
        metrics.homophily(np.array([*first, *labels[5:]]), coords, section, k=3)
        for first in set(itertools.permutations(labels[:5]))
    ]
    observed = metrics.homophily(labels, coords, section, k=3)
    assert metrics.spatial_coherence(labels, coords, section, k=3) == pytest.approx(observed - np.mean(rates))


def test_coherence_orders_smoothing(tissue):
    labels, coords, section = tissue
    shuffled = np.random.default_rng(0).permutation(labels)
    smooth = np.where(coords[:, 0] > 0.5, "left", "down")
    values = [metrics.spatial_coherence(x, coords, section) for x in (shuffled, labels, smooth)]
    assert abs(values[0]) < 0.03 < values[1] < values[2] < 1
    assert metrics.spatial_coherence(np.full(240, "one"), coords, section) == pytest.approx(0)


def test_composition_correlation_against_pearsonr(tissue):
    labels, coords, section = tissue
    predicted = np.where(np.random.default_rng(0).random(240) < 0.6, labels, "down")
    near = brute_neighbours(coords, section, 15)
    each = [
        pearsonr((labels[near] == name).mean(axis=1), (predicted[near] == name).mean(axis=1)).statistic
        for name in ("left", "up", "down")
    ]
    assert metrics.composition_correlation(labels, predicted, coords, section) == pytest.approx(np.mean(each))
    assert metrics.composition_correlation(labels, labels, coords, section) == pytest.approx(1)
    assert metrics.composition_correlation(labels, np.full(240, "unknown"), coords, section) == 0
    with pytest.raises(ValueError, match=r"^truth: expected"):
        metrics.composition_correlation(np.full(240, "one"), labels, coords, section)


def test_chaos_against_brute_force(tissue):
    labels, coords, section = tissue
    labels = labels.copy()
    labels[0] = "alone"
    nearest = np.zeros(240)
    for i in range(1, 240):
        inside = section == section[i]
        scale = coords[inside].std(axis=0, ddof=1)
        mates = [j for j in np.flatnonzero(inside & (labels == labels[i])) if j != i]
        nearest[i] = np.min(np.linalg.norm((coords[mates] - coords[i]) / scale, axis=1))
    assert metrics.chaos(labels, coords, section) == pytest.approx(nearest.mean())


def test_chaos_of_a_section_in_one_plane_of_space(tissue):
    labels, coords, section = tissue
    flat = np.column_stack([coords, np.full(240, 5.0)])
    assert metrics.chaos(labels, flat, section) == pytest.approx(metrics.chaos(labels, coords, section))


def test_pas_against_brute_force(tissue):
    labels, coords, section = tissue
    near = brute_neighbours(coords, section, 10)
    assert 0 < metrics.pas(labels, coords, section) < 1
    assert metrics.pas(labels, coords, section) == np.mean((labels[near] != labels[:, None]).sum(axis=1) >= 6)


@pytest.mark.parametrize("name", ["homophily", "spatial_coherence", "chaos", "pas"])
def test_spatial_scores_ignore_order_place_and_scale(name, tissue):
    labels, coords, section = tissue
    score = getattr(metrics, name)
    still = score(labels, coords, section)
    order = np.random.default_rng(0).permutation(240)
    assert score(labels[order], coords[order], section[order]) == pytest.approx(still)
    assert score(labels, 5 * coords + 100, section) == pytest.approx(still)
    renamed = np.char.add("type ", labels)
    assert score(renamed, coords, section) == pytest.approx(still)


def test_sections_with_one_cell_are_passed_over():
    coords = np.array([[0.0, 0], [1, 0], [5, 5]])
    labels, section = np.array(["a", "b", "a"]), np.array([0, 0, 1])
    assert metrics.homophily(labels, coords, section) == 0
    assert metrics.spatial_coherence(labels, coords, section) == 0
    assert metrics.pas(labels, coords, section) == 1
    with pytest.raises(ValueError, match=r"^section: expected"):
        metrics.homophily(labels, coords, np.arange(3))


# ---- numbers


@pytest.fixture
def mixtures():
    rng = np.random.default_rng(0)
    return rng.dirichlet(np.ones(5), size=40), rng.dirichlet(np.ones(5), size=40)


def test_columns_against_scipy(mixtures):
    truth, predicted = mixtures
    np.testing.assert_allclose(metrics.pearson(truth, predicted), pearsonr(truth, predicted, axis=0).statistic)
    rank = [spearmanr(a, b).statistic for a, b in zip(truth.round(1).T, predicted.round(1).T)]
    np.testing.assert_allclose(metrics.spearman(truth.round(1), predicted.round(1)), rank)


def test_constant_columns():
    truth, predicted = np.random.default_rng(0).random((2, 7, 2))
    truth[:, 0], predicted[:, 1] = 0.1, 0.1
    for score in (metrics.pearson, metrics.spearman):
        np.testing.assert_array_equal(score(truth, predicted), [np.nan, 0])


def test_mixtures_against_scipy(mixtures):
    truth, predicted = mixtures
    assert metrics.rmse(truth, predicted) == pytest.approx(np.linalg.norm(truth - predicted) / np.sqrt(200))
    each = [jensenshannon(p, q, base=2) ** 2 for p, q in zip(truth, predicted)]
    assert metrics.jensen_shannon(truth, predicted) == pytest.approx(np.mean(each))
    assert metrics.jensen_shannon(truth, 7 * truth) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match=r"^predicted: expected non-negative"):
        metrics.jensen_shannon(truth, np.zeros_like(truth))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: metrics.accuracy(x, x[1:]),
        lambda x: metrics.macro_f1(x[:0], x[:0], ["a"]),
        lambda x: metrics.weighted_f1(x, x, []),
        lambda x: metrics.risk_coverage(np.ones(4), np.ones(3, dtype=bool)),
        lambda x: metrics.homophily(x, np.zeros((4, 2)), np.zeros(3)),
        lambda x: metrics.chaos(x[1:], np.zeros((4, 2)), np.zeros(4)),
        lambda x: metrics.pas(x, np.zeros((4, 2)), np.zeros(4), k=0),
        lambda x: metrics.rmse(np.zeros((2, 2)), np.zeros((2, 3))),
    ],
)
def test_arguments_are_checked(call):
    with pytest.raises(ValueError, match=r"^\w+: expected .*; found "):
        call(np.array(["a", "a", "b", "b"]))


def test_metrics_see_neither_torch_nor_anndata():
    program = "import sys, stgnn.metrics; print(sorted({'torch', 'anndata', 'sklearn'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
