"""Scores of predicted expression against scipy, scikit-learn and hand calculations, and the laws they must keep."""

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
import sklearn.linear_model
import sklearn.metrics

from stgnn import metrics


@pytest.fixture
def slides():
    """Truth and prediction of 5 genes at 150 spots of 3 slides with offsets; gene 4 is constant in slide c."""
    rng = np.random.default_rng(0)
    slide = rng.permutation(np.repeat(["a", "b", "c"], [60, 50, 40]))
    offset = 3 * (slide == "b")[:, None]
    truth = rng.normal(size=(150, 5)) + offset
    predicted = truth + rng.normal(size=(150, 5)) + offset
    truth[slide == "c", 4] = 0.1
    return truth, predicted, slide


@pytest.fixture
def square():
    """A full grid of 24 by 20 places, with a smooth and a rough gene."""
    grid = np.array([[i, j] for i in range(24) for j in range(20)])
    smooth = np.sin(grid[:, 0] / 4) + np.cos(grid[:, 1] / 5)
    return grid, np.column_stack([smooth, np.random.default_rng(1).normal(size=len(grid))])


# ---- correlation


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(metrics.gene_pearson, scipy.stats.pearsonr), (metrics.gene_spearman, scipy.stats.spearmanr)],
)
def test_gene_correlation_against_scipy(slides, ours, theirs):
    truth, predicted, slide = slides
    scores = ours(truth, predicted, slide)
    assert scores.slides.tolist() == ["a", "b", "c"]
    for row, name in enumerate("abc"):
        for gene in range(5):
            if (name, gene) != ("c", 4):
                inside = slide == name
                expected = theirs(truth[inside, gene], predicted[inside, gene]).statistic
                assert scores.by_slide[row, gene] == pytest.approx(expected)
    assert scores.left_out == 1
    assert np.isnan(scores.by_slide[2, 4])
    assert scores.per_gene[4] == pytest.approx(scores.by_slide[:2, 4].mean())
    assert scores.mean == pytest.approx(np.mean([np.nanmean(row) for row in scores.by_slide]))


def test_gene_correlation_takes_many_rows_in_blocks(monkeypatch, slides):
    whole = metrics.gene_pearson(*slides).by_slide, metrics.gene_spearman(*slides).by_slide, metrics.mse(*slides[:2])
    monkeypatch.setattr("stgnn.metrics.expression._BLOCK", 17)
    np.testing.assert_allclose(metrics.gene_pearson(*slides).by_slide, whole[0])
    np.testing.assert_allclose(metrics.gene_spearman(*slides).by_slide, whole[1])
    assert metrics.mse(*slides[:2]) == pytest.approx(whole[2])


@pytest.mark.parametrize("score", [metrics.gene_pearson, metrics.gene_spearman])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_prediction_scores_zero(slides, score, dtype):
    truth, _, slide = slides
    profile = np.array([0.1, 7.3, 1e-3, 1e6, 1 / 3], dtype=dtype)
    scores = score(truth.astype(dtype), np.tile(profile, (150, 1)), slide)
    assert np.nanmax(np.abs(scores.by_slide)) == 0
    by_slide = np.stack([profile + (name == "b") for name in slide])  # the slides' own means are no better
    assert score(truth.astype(dtype), by_slide, slide).mean == 0
    assert metrics.pooled_pearson(truth, by_slide, np.zeros(150)).mean > 0.5


def test_spots_in_another_order_and_genes_on_another_scale_score_the_same(slides):
    truth, predicted, slide = slides
    order = np.random.default_rng(2).permutation(150)
    scale, offset = np.array([1.0, 2, 3, 4, 0.01]), np.array([5.0, -5, 100, 0, 1])
    for score in (metrics.gene_pearson, metrics.gene_spearman):
        expected = score(truth, predicted, slide).by_slide
        np.testing.assert_allclose(score(truth[order], predicted[order], slide[order]).by_slide, expected)
        np.testing.assert_allclose(score(truth, predicted * scale + offset, slide).by_slide, expected)
    flipped = metrics.gene_pearson(truth, -predicted, slide)
    np.testing.assert_allclose(flipped.by_slide, -metrics.gene_pearson(truth, predicted, slide).by_slide)


def test_large_offsets_leave_the_correlation():
    rng = np.random.default_rng(3)
    truth, predicted = rng.normal(size=(2, 400, 1))
    expected = scipy.stats.pearsonr(truth[:, 0], predicted[:, 0]).statistic
    scores = metrics.gene_pearson(truth + 1e6, predicted - 1e6, np.zeros(400))
    assert scores.mean == pytest.approx(expected, abs=1e-6)


def test_the_mean_profile_is_praised_by_spots_and_not_by_genes():
    rng = np.random.default_rng(4)
    truth = np.log1p(rng.poisson(rng.gamma(0.5, 4, size=200), size=(300, 200)))
    mean = truth.mean(axis=0)
    constant = np.tile(mean, (300, 1))
    assert metrics.spot_pearson(truth, constant).mean() > 0.8
    assert metrics.gene_pearson(truth, constant, np.zeros(300)).mean == 0
    assert np.all(metrics.spot_gain(truth, constant, mean) == 0)
    assert metrics.spot_gain(truth, truth, mean).mean() == pytest.approx(
        1 - metrics.spot_pearson(truth, constant).mean()
    )


def test_spot_correlation_against_scipy(slides):
    truth, predicted, _ = slides
    expected = [scipy.stats.pearsonr(t, p).statistic for t, p in zip(truth, predicted)]
    np.testing.assert_allclose(metrics.spot_pearson(truth, predicted), expected)


# ---- targets and counts


def test_targets_by_hand_dense_and_sparse():
    counts, total = np.array([[0, 3], [2, 0], [0, 0]]), np.array([10, 4, 0])
    expected = np.log1p([[0, 3 * 7 / 10], [2 * 7 / 4, 0], [0, 0]])  # the median of 10 and 4
    np.testing.assert_allclose(metrics.log1p_normalised(counts, total), expected)
    np.testing.assert_allclose(metrics.log1p_counts(counts), np.log1p(counts))
    sparse = sp.csr_matrix(counts.astype(np.float32))
    found = metrics.log1p_normalised(sparse, total)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)
    np.testing.assert_allclose(metrics.log1p_counts(sparse).toarray(), np.log1p(counts), rtol=1e-6)
    assert sparse.toarray().tolist() == counts.tolist()
    np.testing.assert_allclose(metrics.log1p_normalised(counts[:1], total[:1], scale=100.0), np.log1p([[0, 30]]))


def test_deviance_against_scikit_learn():
    rng = np.random.default_rng(5)
    rate = rng.gamma(2, size=(80, 6))
    counts, guess = rng.poisson(rate), rate * rng.gamma(20, 0.05, size=rate.shape)
    flat = np.full(counts.shape, counts.mean())
    expected = sklearn.metrics.d2_tweedie_score(counts.ravel(), guess.ravel(), power=1)
    assert metrics.deviance_explained(counts, guess, flat) == pytest.approx(expected)
    assert metrics.deviance_explained(counts, flat, flat) == 0
    assert metrics.deviance_explained(counts, counts, flat) == 1


def poisson_ceiling(depth, spread, spots=4000, genes=6):
    """Counts of a share that varies with ``spread`` (of its mean) over spots, and the true rates."""
    rng = np.random.default_rng(6)
    rate = depth * rng.gamma(1 / spread**2, spread**2, size=(spots, genes))
    counts = rng.poisson(rate)
    total = counts.sum(axis=1) + rng.poisson(1e5, size=spots)
    return counts, rate, total


def test_ceiling_of_huge_counts_is_one_and_of_noise_next_to_nothing():
    counts, _, total = poisson_ceiling(depth=1e6, spread=0.5)
    assert metrics.noise_ceiling(counts, 10 * total + counts.sum(1), np.zeros(4000)).mean > 0.999
    rng = np.random.default_rng(7)
    ceilings = []
    for spots in (500, 50_000):
        noise = rng.poisson(3.0, size=(spots, 30))
        total = noise.sum(axis=1) + rng.poisson(500, size=spots)
        ceilings.append(metrics.noise_ceiling(sp.csr_matrix(noise), total, np.zeros(spots)).mean)
    assert ceilings[1] < 0.06 < ceilings[0] < 0.25


@pytest.mark.parametrize("depth", [2.0, 10.0])
def test_ceiling_is_what_the_true_rates_reach(depth):
    spread = 0.4
    counts, rate, total = poisson_ceiling(depth, spread)
    ceiling = metrics.noise_ceiling(counts, total, np.zeros(4000), random_state=1, scale=1e5)
    reached = metrics.gene_pearson(metrics.log1p_normalised(counts, total, 1e5), np.log1p(rate), np.zeros(4000))
    assert ceiling.mean == pytest.approx(reached.mean, abs=0.03)
    signal, noise = (spread * depth) ** 2, depth
    assert ceiling.mean == pytest.approx(np.sqrt(signal / (signal + noise)), abs=0.04)
    assert metrics.share_of_ceiling(reached, ceiling) == pytest.approx(1, abs=0.05)


def test_ceiling_is_drawn_from_its_seed_and_counts_what_it_leaves_out():
    counts, _, total = poisson_ceiling(2.0, 0.4, spots=300)
    counts[:, 0] = 0
    slide = np.arange(300) % 2
    first, again, other = (metrics.noise_ceiling(counts, total, slide, random_state=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.by_slide, again.by_slide)
    assert np.nanmax(np.abs(first.by_slide - other.by_slide)) > 0
    assert first.left_out == 2
    single = np.zeros((300, 1))
    single[0] = 1  # one half is constant
    assert metrics.noise_ceiling(single, total, np.zeros(300)).mean == 0


# ---- error


def test_errors_and_skill_against_scikit_learn(slides):
    truth, predicted, _ = slides
    mean = truth.mean(axis=0)
    assert metrics.mse(truth, predicted) == pytest.approx(sklearn.metrics.mean_squared_error(truth, predicted))
    assert metrics.mae(truth, predicted) == pytest.approx(sklearn.metrics.mean_absolute_error(truth, predicted))
    expected = sklearn.metrics.r2_score(truth, predicted, multioutput="variance_weighted")
    assert metrics.skill(truth, predicted, mean) == pytest.approx(expected)
    assert metrics.skill(truth, np.tile(mean, (150, 1)), mean) == 0
    assert metrics.skill(truth, truth, mean) == 1


def test_calibration_slope_against_least_squares(slides):
    truth, predicted, slide = slides
    centred = [values.copy() for values in (predicted, truth)]
    for name in "abc":
        for values in centred:
            values[slide == name] -= values[slide == name].mean(axis=0)
    line = sklearn.linear_model.LinearRegression(fit_intercept=False)
    expected = line.fit(centred[0].reshape(-1, 1), centred[1].ravel()).coef_[0]
    assert metrics.calibration_slope(truth, predicted, slide) == pytest.approx(expected)
    assert metrics.calibration_slope(truth, 3 * truth, slide) == pytest.approx(1 / 3)
    assert np.isnan(metrics.calibration_slope(truth, np.ones_like(truth), slide))


def test_a_prediction_is_consistent_with_its_own_sums():
    rng = np.random.default_rng(8)
    fine = rng.gamma(1, size=(40, 3))
    parent = np.arange(36) // 9  # the last four bins are part of no spot
    assign = sp.csr_matrix((np.ones(36), (np.arange(36), parent)), shape=(40, 4))
    coarse = np.stack([fine[:36][parent == spot].sum(axis=0) for spot in range(4)])
    assert metrics.consistency_error(fine, assign, coarse) == pytest.approx(0, abs=1e-12)
    assert metrics.consistency_error(1.1 * fine, assign, coarse) == pytest.approx(0.1)


# ---- space


def test_moran_against_the_full_double_sum(square):
    grid, values = square
    distance = np.linalg.norm(grid[:, None] - grid[None], axis=2)
    near = (distance < 1.5) & (distance > 0)
    near_ring = near.sum(axis=1) == 8  # away from the border six nearest are eight by ties
    weight = np.zeros(near.shape)
    for i, row in enumerate(distance):
        reach = np.sort(row)[6]
        weight[i] = (row <= reach + 1e-9) & (row > 0)
    assert np.array_equal(weight[near_ring] > 0, near[near_ring])
    weight /= weight.sum(axis=1, keepdims=True)
    z = values - values.mean(axis=0)
    expected = np.einsum("ig,ij,jg->g", z, weight, z) / (z**2).sum(axis=0)
    section = np.zeros(len(grid), dtype=int)
    np.testing.assert_allclose(metrics.moran(values, grid, section), expected)
    assert expected[0] > 0.8 > 0.1 > abs(expected[1])
    np.testing.assert_allclose(metrics.moran(sp.csr_matrix(values), grid, section), expected)


def test_moran_ignores_order_scale_and_levels_of_sections(square):
    grid, values = square
    both, coords = np.concatenate([values, values + 50]), np.concatenate([grid, grid + 7])
    section = np.repeat([3, 8], len(grid))
    expected = metrics.moran(values, grid, np.zeros(len(grid), dtype=int))
    order = np.random.default_rng(9).permutation(len(both))
    np.testing.assert_allclose(metrics.moran(7 * both[order], coords[order], section[order]), expected)
    assert np.isnan(metrics.moran(np.ones((480, 1)), grid, section[:480])).all()


def test_a_blurred_prediction_is_smoother_than_the_truth(square):
    from scipy.ndimage import uniform_filter

    grid, values = square
    truth = values[:, :1] + 0.5 * values[:, 1:]
    blurred = uniform_filter(truth.reshape(24, 20), 3).reshape(-1, 1)
    section = np.zeros(480, dtype=int)
    assert metrics.moran_ratio(truth, truth, grid, section) == pytest.approx(1)
    assert metrics.moran_ratio(truth, blurred, grid, section) > 1.1
    assert np.isnan(metrics.moran_ratio(truth, np.ones_like(truth), grid, section))


def test_ssim_against_scikit_image(square):
    similarity = pytest.importorskip("skimage.metrics").structural_similarity
    truth = square[1]
    predicted = truth + np.random.default_rng(10).normal(size=truth.shape) / 2
    extent = np.ptp(truth, axis=0)
    # Borders are treated differently, so that the picture is set in a wide frame of zeros, occupied by spots.
    wide = np.array([[i, j] for i in range(44) for j in range(40)])
    frame = [np.zeros((44, 40, 2)) for _ in range(2)]
    for image, values in zip(frame, (truth, predicted)):
        image[10:34, 10:30] = values.reshape(24, 20, 2)
    found = metrics.ssim_grid(*(image.reshape(-1, 2) for image in frame), wide, extent)
    for gene in range(2):
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
        picture = similarity(frame[0][..., gene], frame[1][..., gene], data_range=extent[gene], **options)[1]
        assert found[gene] == pytest.approx(picture.mean(), abs=1e-6)


def test_ssim_of_itself_holes_and_the_fixed_range(square):
    grid, truth = square
    rng = np.random.default_rng(11)
    kept = rng.permutation(480)[:300]
    np.testing.assert_allclose(metrics.ssim_grid(truth[kept], truth[kept], grid[kept], 4.0), 1)
    noisy = truth + rng.normal(size=truth.shape)
    score = metrics.ssim_grid(truth[kept], noisy[kept], grid[kept], 4.0)
    assert np.all(score < 0.9)
    shuffled = rng.permutation(kept)
    np.testing.assert_allclose(metrics.ssim_grid(truth[shuffled], noisy[shuffled], grid[shuffled] + 5, 4.0), score)
    np.testing.assert_allclose(metrics.ssim_grid(9 * truth[kept], 9 * noisy[kept], grid[kept], 36.0), score)


def test_spatial_genes_are_found_in_noise():
    rng = np.random.default_rng(12)
    coords = np.array([[i, j] for i in range(30) for j in range(30)], dtype=float)
    rate = np.full((900, 40), 3.0)
    rate[:, [5, 17]] *= 1 + np.sin(coords[:, :1] / 4)
    counts = rng.poisson(rate)
    counts[:, 3] = 0
    total, section = counts.sum(axis=1) + 200, np.zeros(900, dtype=int)
    found = metrics.spatial_genes(sp.csr_matrix(counts), total, coords, section, n=2)
    assert sorted(found.tolist()) == [5, 17]
    assert np.array_equal(found, metrics.spatial_genes(counts, total, coords, section, n=2))
    with pytest.raises(ValueError, match=r"^n: expected 1 to 39 genes"):
        metrics.spatial_genes(counts, total, coords, section, n=40)


# ---- patients


def test_means_weigh_patients_alike(slides):
    values = np.array([[0.1, 0.3], [0.5, np.nan], [0.9, 0.7], [np.nan, np.nan]])
    names, means = metrics.patient_means(values, np.array([1, 2, 3, 4]), np.array(["p", "p", "q", "r"]))
    assert names.tolist() == ["p", "q", "r"]
    np.testing.assert_allclose(means, [0.35, 0.8, np.nan])
    assert metrics.mean_over(values, np.arange(4), np.array(["p", "p", "q", "r"])) == pytest.approx(0.575)
    truth, predicted, slide = slides
    spots = metrics.spot_pearson(truth, predicted)
    patient = np.where(slide == "c", "two", "one")
    by_slide = [spots[slide == name].mean() for name in "abc"]
    expected = ((by_slide[0] + by_slide[1]) / 2 + by_slide[2]) / 2
    assert metrics.mean_over(spots, slide, patient) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"^patient: expected one patient a slide"):
        metrics.patient_means(spots, slide, np.arange(150))


def test_bootstrap_draws_groups_not_rows():
    rng = np.random.default_rng(13)
    patient = np.repeat(np.arange(20), 50)
    level = rng.normal(size=20)
    values = level[patient] + 0.01 * rng.normal(size=1000)
    found = metrics.bootstrap(values, patient)
    assert found.groups == 20
    assert found.mean == pytest.approx(values.mean())
    width = 2 * 1.96 * level.std() / np.sqrt(20)
    assert found.high - found.low == pytest.approx(width, rel=0.1)
    assert metrics.bootstrap(values, patient) == found
    assert metrics.bootstrap(np.append(values, np.nan), np.append(patient, 99)).groups == 20


def test_paired_comparison_against_scipy():
    rng = np.random.default_rng(14)
    a, b = rng.normal(size=(2, 9))
    a += 0.8
    found = metrics.paired(a, b, np.arange(9))
    expected = scipy.stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert found.p_value == pytest.approx(expected)
    assert found.difference == pytest.approx((a - b).mean())
    assert found.low < found.difference < found.high
    swapped = metrics.paired(b, a, np.arange(9))
    assert (swapped.difference, swapped.p_value) == (pytest.approx(-found.difference), found.p_value)
    many = metrics.paired(np.tile(a, 4), np.tile(b, 4), np.repeat(np.arange(4), 9))
    assert (many.groups, many.p_value) == (4, 0.125)
    assert metrics.paired(np.arange(30.0), np.arange(30.0) - 1, np.arange(30)).p_value < 0.001
    assert metrics.paired(a, a, np.arange(9)).p_value == 1


# ---- bad input


SQUARE = np.ones((4, 2))
HOLED = np.array([[1.0, np.nan], [2, 2], [3, 3], [4, 4]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.gene_pearson(SQUARE, SQUARE[:3], np.zeros(4)), "predicted: expected the shape of truth"),
        (lambda: metrics.gene_pearson(SQUARE, SQUARE, np.zeros(3)), "slide: expected one for each of 4 spots"),
        (lambda: metrics.gene_pearson(SQUARE, HOLED, np.zeros(4)), "predicted: expected finite values"),
        (lambda: metrics.gene_pearson(SQUARE * np.inf, SQUARE, np.zeros(4)), "predicted: expected finite values"),
        (lambda: metrics.gene_spearman(HOLED, SQUARE, np.zeros(4)), "predicted: expected finite values"),
        (lambda: metrics.mse(SQUARE, HOLED), "predicted: expected finite values"),
        (lambda: metrics.spot_gain(SQUARE, SQUARE, np.ones(3)), "baseline: expected one value for each of 2 genes"),
        (lambda: metrics.skill(SQUARE, SQUARE, np.ones(2)), "baseline: expected a mean predictor that errs"),
        (lambda: metrics.log1p_counts(-SQUARE), "counts: expected a matrix"),
        (lambda: metrics.log1p_counts(HOLED), "counts: expected a matrix"),
        (lambda: metrics.log1p_normalised(SQUARE, np.ones(4)), "total: expected at least the sum of the spot's counts"),
        (lambda: metrics.log1p_normalised(SQUARE, np.ones(3)), "total: expected one for each of 4 spots"),
        (lambda: metrics.log1p_normalised(SQUARE, np.full(4, 9.0), 0.0), "scale: expected a total above 0"),
        (lambda: metrics.noise_ceiling(SQUARE / 2, np.full(4, 9.0), np.zeros(4)), "counts: expected whole numbers"),
        (lambda: metrics.deviance_explained(SQUARE, 0 * SQUARE, SQUARE + 1), "expected: expected finite counts"),
        (lambda: metrics.deviance_explained(SQUARE, SQUARE[:1], SQUARE + 1), "expected: expected the shape of counts"),
        (lambda: metrics.consistency_error(SQUARE, sp.eye(4, 3), SQUARE), "assign: expected shape"),
        (lambda: metrics.consistency_error(SQUARE, sp.eye(4), 0 * SQUARE), "coarse: expected counts with a sum"),
        (lambda: metrics.moran(SQUARE, SQUARE, np.arange(4)), "section: expected a section of two spots"),
        (lambda: metrics.moran(SQUARE, SQUARE, np.zeros(4), k=0), "k: expected 1 or more"),
        (lambda: metrics.moran(SQUARE, SQUARE[:3], np.zeros(4)), "section: expected coordinates and a section"),
        (lambda: metrics.ssim_grid(SQUARE, SQUARE, np.zeros((4, 2), int), 1.0), "grid: expected a place"),
        (
            lambda: metrics.ssim_grid(SQUARE, SQUARE, np.eye(4)[:, :2] + np.eye(4)[:, 1:3] * 3, 0.0),
            "grid: expected|data",
        ),
        (lambda: metrics.bootstrap(np.ones(3), np.zeros(3)), "groups: expected two or more"),
        (lambda: metrics.bootstrap(np.ones(3), np.arange(3), n=0), "n: expected 1 or more draws"),
        (lambda: metrics.paired(np.ones(3), np.ones(2), np.arange(3)), "values_b: expected as many as values_a"),
        (lambda: metrics.paired(np.ones(3), np.ones(3), np.arange(2)), "groups: expected one for each of 3"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=f"^({message})"):
        call()


def test_scores_of_other_slides_have_no_share():
    one, two = (metrics.GeneScores(np.full((1, n), 0.5), np.zeros(1)) for n in (2, 3))
    with pytest.raises(ValueError, match=r"^ceiling: expected the slides and genes of scores"):
        metrics.share_of_ceiling(one, two)
    none = metrics.GeneScores(np.zeros((1, 2)), np.zeros(1))
    assert np.isnan(metrics.share_of_ceiling(one, none))
