"""Linear rates, which networks start from, and what is expected of counts drawn from rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import poisson
from sklearn.cross_decomposition import PLSRegression

from pictures import stained_slide
from stgnn.data.expression import Expression, learnable, share_genes
from stgnn.data.slide import Slide, take
from stgnn.fields import Features, standardised
from stgnn.linear_rates import WIDE_UM, Evidence, LinearRates, around, has_features
from stgnn.methods.base import load
from stgnn.methods.magnet import MagNet
from stgnn.metrics import expected_log1p
from stgnn.predicting import as_measured, targets
from stgnn.rate_model import _at_best, _is_gain
from stgnn.rates import Parts, RateNetwork

pytestmark = pytest.mark.usefixtures("feature_cache")

UM = 50.0
SMALL = {"steps": 4, "crop_um": 256.0, "bins": 200, "feature_um": 32.0, "views": 1}


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Slide:
    (whole,) = share_genes([stained_slide(tmp_path_factory.mktemp("slide"))])
    return learnable(whole)


def lattice(seed: int, channels: int = 6, side: int = 24) -> Features:
    """Smooth fields of mean 0 and variance 1."""
    rng = np.random.default_rng(seed)
    values = np.stack([gaussian_filter(rng.standard_normal((side, side)), 1.5) for _ in range(channels)], axis=2)
    values = (values - values.mean((0, 1))) / values.std((0, 1))
    return Features(values.astype(np.float32), UM)


def evidence(seed: int, genes: int = 30, depth: float = 2000.0) -> tuple[Evidence, np.ndarray]:
    """Counts whose log shares follow the first feature; and that feature at each bin."""
    features, rng = lattice(seed), np.random.default_rng(seed)
    row, column = np.divmod(np.arange(576), 24)
    places = (np.column_stack([column, row]) + 0.5) * UM
    first = features.read(places)[:, 0]
    slope = np.linspace(-0.5, 0.5, genes)
    share = np.exp(first[:, None] * slope)
    share /= share.sum(1, keepdims=True)
    total = np.round(depth * np.exp(0.4 * features.read(places)[:, 1]))
    counts = rng.poisson(total[:, None] * share).astype(np.float32)
    return Evidence(features, places, sp.csr_matrix(counts), counts.sum(1).astype(float)), first


def test_smears_do_not_set_the_scale_of_features():
    values = np.random.default_rng(0).normal(3.0, 2.0, (4000, 5))
    smeared = np.vstack([values, np.full((1000, 5), 60.0)])
    assert np.allclose(standardised(values).std(0), 1, atol=0.05)
    assert np.allclose(standardised(smeared)[:4000].std(0), 1, atol=0.35)
    assert np.abs(standardised(smeared)).max() == 5
    assert standardised(np.eye(100)[:, :1])[0] == 5  # the middle half does not vary


def said(lines: LinearRates, features: Features, places: np.ndarray) -> np.ndarray:
    scores = lines.joined(features).read(places)[:, features.values.shape[2] :]
    return scores @ lines.say


def test_what_one_slide_tells_holds_on_another():
    (one, _), (other, first) = evidence(0), evidence(1)
    lines = LinearRates.fit([one], np.full(30, 1 / 30), 0)
    out = said(lines, other.features, other.places_um)
    assert np.corrcoef(out[:, 0], -first)[0, 1] > 0.85
    assert np.corrcoef(out[:, 29], first)[0, 1] > 0.85
    assert np.corrcoef(out[:, 30], np.log(other.total))[0, 1] > 0.8
    assert np.allclose(out.mean(0), 0, atol=0.02)  # over the tissue, which the bins are here


def test_components_are_those_of_scikit_learn_the_second_halved():
    (one, _) = evidence(0)
    x = np.hstack(
        [
            one.features.read(one.places_um),
            Features(around(one.features.values, has_features(one.features), WIDE_UM / UM), UM).read(one.places_um),
        ]
    ).astype(float)
    z = (x - x.mean(0)) / x.std(0)
    counts = one.counts.toarray().astype(float)
    counts[30:, 0] = 0  # one of few counts
    one = replace(one, counts=sp.csr_matrix(counts))
    mean = (counts.sum(0) + 0.5 / 30) / (one.total.sum() + 0.5)
    residual = (counts / one.total[:, None] - mean) / np.sqrt(mean)
    both = [PLSRegression(k, scale=False).fit(z, residual).predict(z) for k in (1, 2)]
    expected = (both[0] + both[1]) / 2 / np.sqrt(mean) * (counts.sum(0) / (counts.sum(0) + 20))
    lines = LinearRates.fit([one], np.full(30, 1 / 30), 0)
    found = said(lines, one.features, one.places_um)[:, :30]
    assert np.allclose(found - found.mean(0), expected - expected.mean(0), atol=2e-3)


def test_linear_shares_keep_their_sum():
    one, _ = evidence(0)
    say = LinearRates.fit([one], np.full(30, 1 / 30), 0).say[:2, :30]
    share = np.asarray(one.counts.sum(0)).ravel() / one.total.sum()
    assert np.all(np.abs(say @ share) < 0.02 * np.abs(say) @ share)


def test_slides_are_averaged():
    slides, share = [evidence(seed)[0] for seed in (0, 1, 2)], np.full(30, 1 / 30)
    alone = [said(LinearRates.fit([one], share, 0), slides[0].features, slides[0].places_um) for one in slides]
    together = said(LinearRates.fit(slides, share, 0), slides[0].features, slides[0].places_um)
    assert np.allclose(together, np.mean(alone, axis=0), atol=1e-4)
    merged = LinearRates.fit(slides[:2], share, 0).merged(LinearRates.fit(slides[2:], share, 0))
    assert np.allclose(said(merged, slides[0].features, slides[0].places_um), together, atol=1e-4)


def test_few_bins_tell_nothing():
    one, _ = evidence(0)
    few = Evidence(one.features, one.places_um[:20], one.counts[:20], one.total[:20])
    out = said(LinearRates.fit([few], np.full(30, 1 / 30), 0), one.features, one.places_um)
    assert out.shape == (576, 31)
    assert not out.any()


@pytest.mark.parametrize("cells", [0.7, 3.0])
def test_the_average_around_a_cell_knows_tissue_alone(cells):
    rng = np.random.default_rng(0)
    on = rng.random((20, 17)) < 0.6
    values = rng.standard_normal((20, 17, 2)).astype(np.float32)
    found = around(values, on, cells)
    reach = int(2 * cells + 0.5)
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * cells**2))
    for row, column in [(0, 0), (9, 8), (19, 16), (4, 13)]:
        weight, total = 0.0, np.zeros(2)
        for r in range(max(0, row - reach), min(20, row + reach + 1)):
            for c in range(max(0, column - reach), min(17, column + reach + 1)):
                w = kernel[r - row + reach] * kernel[c - column + reach] * on[r, c]
                weight, total = weight + w, total + w * values[r, c]
        expected = total / weight if on[row, column] else np.zeros(2)
        assert np.allclose(found[row, column], expected, atol=1e-5)


def test_a_network_starts_from_linear_rates():
    say = torch.randn(2, 6)
    net = RateNetwork(3, 4, torch.full((5,), 0.2), 1.0, Parts(), 4, say).eval()
    field, places, beside = torch.randn(3, 128, 128), torch.rand(7, 2) * 128, torch.randn(7, 6)
    with torch.no_grad():
        share, density = net(field, places, beside)
    linear = beside[:, 4:] @ say
    assert torch.allclose(share.exp(), 0.2 * (1 + linear[:, :5]).clamp(1 / 8, 8), atol=1e-5)
    assert torch.allclose(density.exp(), linear[:, 5].exp().clamp(1 / 8, 8), atol=1e-5)


def test_features_that_do_not_vary_tell_nothing():
    one, _ = evidence(0)
    blank = replace(one, features=Features(np.zeros_like(one.features.values), UM))
    lines = LinearRates.fit([blank, one], np.full(30, 1 / 30), 0)
    assert len(lines.say) == 3
    partly = one.features.values.copy()
    partly[:, :, 2] = 1.0
    lines = LinearRates.fit([replace(one, features=Features(partly, UM))], np.full(30, 1 / 30), 0)
    assert np.isfinite(lines.own).all()
    assert not lines.own[2].any()


def test_one_gene_and_equal_totals_are_no_error(recwarn):
    one, _ = evidence(0)
    flat = replace(one, counts=one.counts[:, :1], total=np.full(576, 5000.0))
    lines = LinearRates.fit([flat], np.array([0.03]), 0)
    assert np.isfinite(lines.say).all()
    assert not lines.say[:, 1].any()
    assert not recwarn.list


def test_what_is_kept_has_fallen_by_more_than_chance_and_modesty():
    assert _is_gain(np.array([0.3, 0.2, 0.4]))
    assert not _is_gain(np.array([0.9, -0.4, 0.1]))
    net = RateNetwork(3, 4, torch.full((5,), 0.2), 1.0, Parts(), 4, torch.ones(2, 6))
    found = _at_best(net, lambda: np.array([float((net.lines.mean() - 0.5) ** 2), 1.0]))
    assert found.tolist() == [0.0, 1.0]
    assert torch.equal(net.lines, torch.ones(2, 6))


def test_a_network_that_carries_nothing_over_stays_at_its_start(slide, tmp_path):
    """Of three slides one is held out, which tells that steps were far too large."""
    other = replace(slide, name="b", patient="b")
    held = replace(take(slide, np.arange(len(slide) - 1)), name="c", patient="c")
    model = MagNet(**SMALL, rate=30.0).fit([slide, other, held])
    assert model.rates_.networks[0].head[-1].weight.eq(0).all()
    assert model.curve_[-1]["kept"] == 0
    assert len(model.rates_.lines.say) == 9  # those of all slides, in the end
    model.save(tmp_path / "model")
    assert np.array_equal(load(tmp_path / "model").predict(slide).share, model.predict(slide).share)


def test_logs_of_counts_against_the_sum_over_all_counts():
    rate = np.array([[0.0, 1e-4, 0.3, 2.0, 11.9], [12.1, 30.0, 90.0, 400.0, 5.0]])
    factor = np.array([0.2, 7.0])
    k = np.arange(700)
    expected = [
        [(poisson.pmf(k, value) * np.log1p(k * f)).sum() for value in row] for row, f in zip(rate, factor, strict=True)
    ]
    assert np.allclose(expected_log1p(rate, factor), expected, rtol=2e-3, atol=1e-6)


def test_values_to_expect_are_the_mean_of_those_measured(slide):
    rng = np.random.default_rng(0)
    n, genes = slide.counts.shape
    share, total = rng.uniform(0.1, 0.5, (1, genes)).astype(np.float32) / genes, rng.uniform(60, 400, n)
    share = np.repeat(share, n, axis=0)
    means = np.zeros((n, genes))
    for _ in range(300):
        counts = rng.poisson(share * total[:, None])
        drawn = replace(slide, counts=sp.csr_matrix(counts.astype(np.float32)), total=total)
        means += targets(drawn, 100.0) / 300
    expression = Expression(share, 3 * total, np.full(n, np.nan))  # of a deeper slide
    found = as_measured(expression, drawn, 100.0)
    assert np.allclose(found.mean(0), means.mean(0), rtol=0.03)
    assert np.allclose(found.mean(1), means.mean(1), rtol=0.06)
