"""The teacher's scale, stand-ins, weights and label-free decisions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial import cKDTree
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from stgnn import council, shallow, standins, students, teacher
from stgnn.data.cells import Cells, align, read_query, read_reference
from stgnn.data.toy import toy
from stgnn.shallow import Clusters, Guesses, Profiles, Regression, View


@pytest.fixture(scope="module")
def pair() -> tuple[Cells, Cells]:
    reference, query = toy(n_cells=600, n_genes=40, n_sections=1, homophily=1.0, random_state=5)
    return align(read_reference(reference), read_query(query))


@pytest.fixture(scope="module")
def spatial() -> tuple[Cells, Cells]:
    """Reference that is a section, too, with its labels."""
    query = toy(n_cells=600, n_genes=40, n_sections=1, homophily=1.0, random_state=5)[1]
    return align(read_reference(query.copy()), read_query(query))


def uniform(cells: Cells) -> np.ndarray:
    return np.full(len(cells.types), 1 / len(cells.types))


def test_weights_give_the_wanted_composition():
    labels, wanted = np.array([0, 0, 0, 1, 2, 2]), np.array([0.2, 0.5, 0.3])
    weight = standins.cell_weights(labels, wanted)
    np.testing.assert_allclose(np.bincount(labels, weight), wanted)
    assert weight[:3] == pytest.approx(weight[0])


def test_scale_does_not_depend_on_the_composition_of_the_reference():
    rng = np.random.default_rng(0)
    values, labels = rng.normal(0, 1, (90, 6)), np.repeat([0, 1, 2], 30)
    values += labels[:, None]
    rows = np.r_[0:30, np.tile(np.arange(30, 60), 4), np.tile(np.arange(60, 90), 2)]
    wanted = np.array([0.5, 0.2, 0.3])
    plain = council.weighted_standardise(values, standins.cell_weights(labels, wanted))
    again = council.weighted_standardise(values[rows], standins.cell_weights(labels[rows], wanted))
    np.testing.assert_allclose(again, plain[rows], atol=1e-5)
    ignored = council.weighted_standardise(values[rows], np.full(len(rows), 1 / len(rows)))
    assert np.abs(ignored - plain[rows]).max() > 0.1


def test_stacking_finds_the_one_informative_expert():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 500)
    noise = [np.log(rng.dirichlet(np.ones(4), 500) + 1e-3) for _ in range(3)]
    good = np.log(0.7 * np.eye(4)[truth] + 0.3 * rng.dirichlet(np.ones(4), 500) + 1e-3)
    weight = teacher.stack([noise[0], good, *noise[1:]], truth, 4)
    assert (weight >= 0).all()
    assert weight[1] > 0.8 * weight.sum()


def test_disagreement_counts_differing_cells():
    first, second = np.eye(2)[[0, 0, 1, 1]], np.eye(2)[[0, 1, 1, 1]]
    assert teacher.disagreement([first, second]) == pytest.approx(0.25)
    assert teacher.disagreement([first, first]) == 0


@pytest.mark.parametrize("kind", ["pair", "spatial"])
def test_halves_share_no_cell_with_their_stand_in(kind, request):
    reference, query = request.getfixturevalue(kind)
    halves = standins.stand_ins(reference, query, uniform(reference), 0)
    assert len(halves) == 2
    for kept, target, truth in halves:
        assert not set(kept.names) & set(target.names)
        assert target.labels is None
        known = dict(zip(reference.names, reference.labels, strict=True))
        assert [known[name] for name in target.names] == truth.tolist()


def test_blocks_hold_neighbours_together(spatial):
    cells = spatial[0]
    fold = standins.blocks(cells, 60, np.random.default_rng(0))
    assert set(fold) == {0, 1}
    apart = np.linalg.norm(cells.coords[:, None] - cells.coords[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    together = (fold == fold[apart.argmin(1)]).mean()
    assert together > 0.8  # half for folds drawn cell by cell


def test_look_alikes_have_the_composition_and_the_depths_asked_for(pair):
    reference, query = pair
    wanted = np.array([0.5, 0.3, 0.1, 0.1, 0.0])
    drawn = standins.look_alike(reference, query, wanted, np.random.default_rng(0), noise=0, spill=0, n=3000)
    share = np.bincount(drawn.labels, minlength=5) / len(drawn)
    np.testing.assert_allclose(share, wanted, atol=0.04)
    assert np.median(standins.depths(drawn)) == pytest.approx(np.median(standins.depths(query)), rel=0.15)


def test_degrading_without_noise_at_great_depth_keeps_proportions():
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(1000.0 * rng.integers(1, 20, (30, 10)))
    labels = np.arange(30) % 3
    depth = np.asarray(counts.sum(1)).ravel()
    same = standins.degrade(counts, labels, depth, rng, noise=0, spill=0).toarray()
    before = counts.toarray()
    np.testing.assert_allclose(same / same.sum(1, keepdims=True), before / before.sum(1, keepdims=True), atol=0.01)


def test_spill_over_mixes_in_other_cells_and_noise_changes_genes():
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(np.kron(np.eye(2), np.full((50, 5), 1000.0)))
    labels, depth = np.repeat([0, 1], 50), np.full(100, 5000.0)
    spilt = standins.degrade(counts, labels, depth, rng, noise=0, spill=0.5).toarray()
    assert 0.05 < spilt[:50, 5:].sum() / spilt[:50].sum() < 0.25
    noisy = standins.degrade(counts, labels, depth, rng, noise=1.0, spill=0).toarray()
    assert noisy[:50, 5:].sum() == 0
    assert noisy[:50, :5].mean(0).std() > 300


def test_platform_distance_sees_gene_factors_and_nothing_else(pair):
    reference, _ = pair
    labels = reference.labels
    even, odd = standins.take(reference, np.arange(0, 600, 2)), standins.take(reference, np.arange(1, 600, 2))
    composition = np.bincount(labels[1::2], minlength=5) / 300
    rng = np.random.default_rng(0)
    assert teacher.platform_distance(even, odd, composition) < 0.15
    factor = sp.diags_array(rng.lognormal(0, 1, len(reference.genes)))
    other = replace(odd, counts=sp.csr_matrix(odd.counts @ factor))
    assert teacher.platform_distance(even, other, composition) > 0.5

    skewed = np.concatenate([np.flatnonzero(labels[1::2] == k)[: 60 // (k + 1)] for k in range(5)])
    few = standins.take(odd, skewed)
    matched = np.bincount(few.labels, minlength=5) / len(few)
    assert teacher.platform_distance(even, few, matched) < teacher.platform_distance(even, few, matched[::-1])


def test_neighbours_are_heard_in_layers_and_not_in_chaos(pair):
    reference, query = pair
    rng = np.random.default_rng(0)
    faint = replace(query, counts=sp.csr_matrix(rng.binomial(query.counts.toarray().astype(int), 0.3)).astype(float))
    chaos = replace(faint, coords=faint.coords[rng.permutation(len(faint))])
    gains = []
    for cells in (faint, chaos):
        scale = council.common_scale(reference, cells, np.tile(uniform(reference), (len(cells), 1)), 0)
        gains.append(teacher.context_gain(reference, cells, scale, 0))
    assert gains[0] > 0.1
    assert gains[1] < 0.05


def test_packed_experts_come_back():
    rng = np.random.default_rng(0)
    around, own = Regression(rng.normal(size=(3, 4)), rng.normal(size=3), (6, 30)), Regression(np.eye(3), np.ones(3))
    experts = [
        around,
        Profiles(rng.dirichlet(np.ones(5), 3), 0.125),
        Guesses((around, own), own),
        Clusters(rng.normal(size=(4, 2)), rng.normal(size=(5, 6, 2)), rng.normal(size=(5, 6, 3))),
        own,
    ]
    packed = shallow.pack(experts)
    again = shallow.unpack(packed)
    assert [type(expert) for expert in again] == [type(expert) for expert in experts]
    repacked = shallow.pack(again)
    assert list(repacked) == list(packed)
    for name, value in packed.items():
        np.testing.assert_array_equal(repacked[name], value)
    assert shallow.unpack({}) == []


def test_guesses_are_read_from_neighbours_too(spatial):
    """A first regression that knows nothing of a cell but its place's marker, a second that averages 8 neighbours."""
    query = spatial[1]
    features = np.eye(3, dtype=np.float32)[np.arange(len(query)) % 3]
    first = Regression(4 * np.eye(3, dtype=np.float32), np.zeros(3))
    weights = np.hstack([np.zeros((3, 3)), np.eye(3)])
    expert = Guesses((first, first), Regression(weights, np.zeros(3), (8,)))
    guess = np.log(np.exp(first.log_proba(View(query, features))) + 1e-3)
    around = shallow.neighbour_means(guess, query.coords, query.section, (8,))[:, 3:]
    np.testing.assert_allclose(expert.log_proba(View(query, features)), log_softmax(around, axis=1), atol=1e-5)
    assert shallow.sizes_of(expert) == (8,)


def test_nearest_centres_are_those_of_the_library():
    rng = np.random.default_rng(0)
    points, centres = rng.normal(size=(9000, 3)), rng.normal(size=(20, 3))
    np.testing.assert_array_equal(shallow.nearest(points, centres), cKDTree(centres).query(points)[1])


def test_consensus_outvotes_the_odd_cell_and_purity_knows_when_clusters_are_types(pair):
    rng = np.random.default_rng(0)
    kind = np.arange(600) % 4
    query = standins.take(pair[1], np.arange(600) % len(pair[1]))
    apart = View(query, (10 * np.eye(4)[kind] + rng.normal(0, 0.1, (600, 4))).astype(np.float32))
    said = np.where(rng.random(600) < 0.08, (kind + 1) % 4, kind)
    posterior = np.log(0.9 * np.eye(4)[said] + 0.025)
    together = students.consensus(posterior, apart, 0).log_proba(apart)
    np.testing.assert_array_equal(together.argmax(1), kind)
    assert students.purity(posterior, together) == 1
    mixed = View(query, rng.normal(0, 1, (600, 4)).astype(np.float32))
    assert students.purity(posterior, students.consensus(posterior, mixed, 0).log_proba(mixed)) == 0


def test_a_type_that_is_absent_resembles_itself_less_than_those_present(pair):
    """Cells of all types, called by a type that the query lacks, look no more like it than like the others."""
    reference, query = pair
    labels = standins.labels_of(reference)
    rng = np.random.default_rng(0)
    means = rng.normal(0, 1, (5, 40))
    known = means[labels] + rng.normal(0, 1, (len(labels), 40))
    truth = np.arange(len(query)) % 4  # the fifth type is absent
    asked = means[truth] + rng.normal(0, 1, (len(query), 40))
    guess = np.where(rng.random(len(query)) < 0.1, 4, truth)
    scale = council.Scale(known, asked, uniform(reference), None)
    likeness = teacher.resemblance(reference, scale, guess)
    assert likeness[:4].min() > 0.7
    assert likeness[4] < teacher.PRESENT
    assert teacher.resemblance(reference, scale, truth)[4] == 1  # nothing was called so: nothing to doubt


@pytest.mark.parametrize("kinds", [2, 3])
def test_regression_equals_the_library_and_never_says_an_unseen_type(pair, kinds):
    rng = np.random.default_rng(0)
    labels = np.array([0, 2, 3])[np.arange(120) % kinds]
    features = rng.normal(0, 1, (120, 4)) + labels[:, None]
    expert = shallow.regress(features, labels, 5, C=0.5, balance=0)
    view = View(standins.take(pair[1], np.arange(120)), features)
    proba = np.exp(expert.log_proba(view))
    seen = np.unique(labels)
    same = LogisticRegression(C=0.5, max_iter=500, tol=1e-3).fit(features, labels)  # stops where ours does
    np.testing.assert_allclose(proba[:, seen], same.predict_proba(features), atol=1e-5)
    exact = LogisticRegression(C=0.5, max_iter=1000, tol=1e-8).fit(features, labels)
    np.testing.assert_allclose(proba[:, seen], exact.predict_proba(features), atol=0.01)
    assert proba[:, np.setdiff1d(np.arange(5), seen)].max() < 1e-6


def test_neighbour_means_are_means_over_the_neighbours():
    coords = np.array([[0.0, 0], [1, 0], [2.5, 0], [100, 0]])
    values = np.array([[1.0], [2.0], [4.0], [8.0]], dtype=np.float32)
    found = shallow.neighbour_means(values, coords, np.array([0, 0, 0, 1]), (1, 2))
    expected = [[1, 2, 3], [2, 1, 2.5], [4, 2, 1.5], [8, 0, 0]]  # alone in its section: nothing is heard
    np.testing.assert_allclose(found, expected)


def test_experts_that_need_coordinates_are_silent_without(pair):
    bare = View(replace(pair[1], coords=None), np.zeros((len(pair[1]), 4)))
    own, around = Regression(np.zeros((2, 4)), np.zeros(2)), Regression(np.zeros((2, 8)), np.zeros(2), (6,))
    assert shallow.usable(own, bare)
    assert not shallow.usable(around, bare)
    with pytest.raises(ValueError, match="without coordinates"):
        around.log_proba(bare)


def test_teaching_is_better_than_chance_and_says_why(pair):
    reference, query = pair
    taught = teacher.teach(reference, query, selector=True, random_state=0)
    np.testing.assert_allclose(np.exp(taught.posterior).sum(1), 1, atol=1e-6)
    assert 0 <= taught.trust <= 1
    assert 0 <= taught.openness <= 1
    assert 1 / 5 <= taught.expected_accuracy <= 0.99
    assert taught.facts["platform_distance"] > 0.2  # the toy's platforms differ by log-normal(0, 0.5) factors
    assert len(taught.council) == len(taught.weights)
    truth = toy(n_cells=600, n_genes=40, n_sections=1, homophily=1.0, random_state=5)[1].obs["cell_type"].astype(str)
    called = np.array(reference.types)[taught.posterior.argmax(1)]
    assert (called == truth.to_numpy()[query.rows]).mean() > 0.8
    unweighted = teacher.teach(reference, query, selector=False, random_state=0)
    assert unweighted.trust == unweighted.openness == 1


def test_balance_weighs_types_as_the_library_does_and_less():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [180, 20])
    features = rng.normal(0, 1, (200, 3)) + labels[:, None]
    said = [shallow.regress(features, labels, 2, C=0.5, balance=b) for b in (0, 0.4, 1)]
    called = [(features @ one.coefficients.T + one.intercept).argmax(1).mean() for one in said]
    assert called[0] < called[1] < called[2]
    same = LogisticRegression(C=0.5, max_iter=500, tol=1e-3, class_weight="balanced").fit(features, labels)
    np.testing.assert_allclose(said[2].coefficients[1] * 2, same.coef_[0], atol=1e-4)


def recounted(query: Cells, truth: np.ndarray, rates: np.ndarray, rounds: int = 6) -> Profiles:
    guess = np.log(0.9 * np.eye(len(rates))[truth] + 0.1 / len(rates))
    return students.recount(guess, guess, query, rates, expected=0.9, weight=0.3, rounds=rounds)


def test_recounted_profiles_are_those_of_the_querys_own_cells(pair):
    reference, query = pair
    truth = toy(n_cells=600, n_genes=40, n_sections=1, homophily=1.0, random_state=5)[1].obs["cell_type"].astype(str)
    kind = np.searchsorted(reference.types, truth.to_numpy()[query.rows])
    n_types = len(reference.types)
    rates = students.experts.profiles(reference.counts, standins.labels_of(reference), n_types)
    own = students.experts.profiles(query.counts, kind, n_types, shrink=0)
    found = recounted(query, kind, rates).rates
    there = np.unique(kind)
    far, near = (np.abs(one - own)[there].sum(1).max() for one in (rates, found))
    assert near < 0.5 * far  # platforms differ gene by gene, and the query's counts say how
    np.testing.assert_allclose(found.sum(1), 1)


def test_a_type_that_nothing_is_guessed_to_be_keeps_the_references_profile(pair):
    reference, query = pair
    n_types = len(reference.types)
    rates = students.experts.profiles(reference.counts, standins.labels_of(reference), n_types)
    found = recounted(query, np.zeros(len(query), dtype=int), rates, rounds=1).rates
    ambient = np.asarray(query.counts.sum(0)).ravel() / query.counts.sum()
    np.testing.assert_allclose(found[1], 0.98 * rates[1] / rates[1].sum() + 0.02 * ambient)
    assert np.abs(np.log(found[0] / rates[0])).max() > 0.1
