"""What every method that predicts expression promises, on small stained slides, and a law of each paper's own."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from pictures import stained_slide
from refusals import refusal
from stgnn import predicting
from stgnn.data.expression import Expression, learnable, share_genes
from stgnn.data.schema import CountsError, OptionError
from stgnn.data.slide import Slide, take
from stgnn.data.slides import aggregate, without_expression
from stgnn.methods import PREDICTORS, name_of, predictor
from stgnn.methods.base import RUNTIME, ExpressionPredictor
from stgnn.methods.deep_sets import DeepSets, around_of, pooled
from stgnn.methods.retrieval import Retrieval, soft_contrastive
from stgnn.methods.st_net import Crops, StNet, symmetry
from stgnn.metrics import gene_pearson, log1p_normalised
from stgnn.splits import contiguous_blocks

pytestmark = pytest.mark.usefixtures("feature_cache")

SMALL: dict[str, dict[str, Any]] = {
    "magnet": {"steps": 40, "crop_um": 512.0, "bins": 400, "views": 1, "feature_um": 16.0},
    "dense": {"steps": 40, "crop_um": 512.0, "bins": 400},
    "ridge-hest": {"components": 16},  # of 300 bins, 256 components leave nothing to average
    "retrieval": {"steps": 60, "batch": 128, "neighbours": 15},
    "deep-sets": {"steps": 60, "width": 64, "batch": 64},
    "st-net": {"steps": 30, "batch": 24},
}
"""Options that keep training short, or fit a slide of so few bins."""

HALF_PRECISION = ("magnet", "dense")
"""Methods whose sums are rounded so that their order shows after some steps."""

BLIND = ("mean", "coordinates")
"""Methods that do not look at the image."""


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Slide:
    whole = stained_slide(tmp_path_factory.mktemp("slide"))
    block, guard = contiguous_blocks(whole.places, 4, 8.0)
    (whole,) = share_genes([replace(whole, block=block, guard=guard)])
    return learnable(whole)


@pytest.fixture(scope="module")
def train(slide) -> Slide:
    return take(slide, slide.block != 3)


@pytest.fixture(scope="module")
def test(slide) -> Slide:
    return take(slide, slide.block == 3)


@pytest.fixture(scope="module", params=list(PREDICTORS))
def fitted(request, train) -> ExpressionPredictor:
    return small(request.param).fit([train])


@pytest.fixture(scope="module")
def predicted(fitted, test) -> Expression:
    return fitted.predict(test)


def small(method: str | ExpressionPredictor) -> ExpressionPredictor:
    """Make an unfitted method, of that name or like that given, that trains for a short time."""
    name = method if isinstance(method, str) else name_of(type(method))
    return predictor(name)(**SMALL.get(name, {}))


def same(found: Expression, expected: Expression, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(found.share, expected.share, atol=atol)
    np.testing.assert_allclose(found.total, expected.total, rtol=1e-3)


def contents(slide: Slide) -> list[bytes]:
    parts = [slide.counts.data, slide.counts.indices, slide.counts.indptr, slide.total, slide.places]
    return [part.tobytes() for part in (*parts, slide.block, slide.guard, slide.rows)]


def score(predicted: Expression, slide: Slide) -> float:
    scale = float(np.median(slide.total))
    truth = log1p_normalised(slide.counts, slide.total, scale).toarray()
    return gene_pearson(truth, predicted.log1p(scale), np.zeros(len(slide), dtype=int)).mean


@pytest.mark.parametrize("name", PREDICTORS)
def test_is_a_final_dataclass_whose_constructor_only_stores(name):
    cls = predictor(name)
    assert name_of(cls) == name
    assert is_dataclass(cls)
    assert getattr(cls, "__final__", False)
    assert "__post_init__" not in vars(cls)
    made = cls()
    assert vars(made) == {field.name: field.default for field in fields(cls)}
    assert json.loads(json.dumps(vars(made))) == vars(made)
    assert ("device" in vars(made)) == ("steps" in vars(made))  # what is trained can be trained anywhere
    assert "random_state" in vars(made) or name in ("mean", "ridge")


def test_prediction_keeps_its_contract(fitted, predicted, train, test):
    assert fitted.genes_.tolist() == train.genes.tolist()
    assert predicted.share.shape == (len(test), len(train.genes))
    assert predicted.share.dtype == np.float32
    assert predicted.total.shape == predicted.spread.shape == (len(test),)
    assert np.isfinite(predicted.share).all()
    assert (predicted.share >= 0).all()
    assert (predicted.total > 0).all()
    assert np.isfinite(predicted.total).all()
    # all genes of these slides are at hand; the mean of logs lies below the log of the mean
    assert 0.7 < predicted.share.sum(1).mean() < 1.05
    np.testing.assert_allclose(np.median(predicted.total), np.median(test.total), rtol=0.5)


def test_equal_seeds_give_equal_results(fitted, predicted, train, test):
    again = small(fitted)
    assert again.fit([train]) is again
    same(again.predict(test), predicted)


def test_inputs_are_unchanged(fitted, train, test):
    before = contents(train), contents(test)
    small(fitted).fit([train]).predict(test)
    assert (contents(train), contents(test)) == before


def test_counts_are_never_looked_at(fitted, predicted, test):
    found = fitted.predict(without_expression(test))
    np.testing.assert_array_equal(found.share, predicted.share)
    np.testing.assert_array_equal(found.total, predicted.total)


def test_permuting_bins_permutes_the_output(fitted, predicted, test):
    order = np.random.default_rng(0).permutation(len(test))
    turned = fitted.predict(take(test, order))
    same(turned, take_bins(predicted, order))


def take_bins(expression: Expression, rows: np.ndarray) -> Expression:
    return Expression(expression.share[rows], expression.total[rows], expression.spread[rows])


def test_gene_order_is_irrelevant(fitted, predicted, train, test):
    turned = replace(train, counts=train.counts[:, ::-1], genes=train.genes[::-1])
    found = small(fitted).fit([turned])
    assert found.genes_.tolist() == train.genes[::-1].tolist()
    back = found.predict(test)
    if name_of(type(fitted)) in HALF_PRECISION:
        one, other = np.log(back.share[:, ::-1]), np.log(predicted.share)
        one, other = one - one.mean(0), other - other.mean(0)  # else the means of genes would carry it
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.8
    else:
        np.testing.assert_allclose(back.share[:, ::-1], predicted.share, atol=1e-3)
        np.testing.assert_allclose(back.total, predicted.total, rtol=1e-2)


def test_beats_the_mean(fitted, predicted, test):
    if name_of(type(fitted)) in BLIND:
        assert abs(score(predicted, test)) < 0.1
    else:
        assert score(predicted, test) > 0.1


def test_bins_of_another_width_are_refused_or_predicted(fitted, train, test):
    wide = aggregate(test, 32.0)
    if fitted.any_width:
        assert len(fitted.predict(wide)) == len(wide)
        return
    assert "bins of 16 um" in refusal(OptionError, fitted.predict, wide)
    assert "bins of one width" in refusal(OptionError, small(fitted).fit, [train, aggregate(train, 32.0)])


def test_no_counts_are_refused(fitted, train):
    assert "none in slide" in refusal(CountsError, small(fitted).fit, [without_expression(train)])


def test_what_is_kept_makes_the_same_model(fitted, predicted, test):
    facts, arrays = json.loads(json.dumps(fitted._facts())), fitted._arrays()
    assert all(name.endswith("_") and not name.startswith("_") for name in facts)
    assert all(array.dtype.kind in "biuf" for array in arrays.values())
    other = type(fitted)(**{f.name: getattr(fitted, f.name) for f in fields(fitted) if f.name not in RUNTIME})
    vars(other).update(facts, genes_=fitted.genes_)
    other._restore({name: array.copy() for name, array in arrays.items()})
    same(other.predict(test), predicted)
    assert other._facts() == fitted._facts()
    assert other._arrays().keys() == arrays.keys()


def test_several_slides_and_a_new_one(fitted, train, tmp_path):
    other = learnable(stained_slide(tmp_path, side=10, seed=5, name="other"))
    model = small(fitted).fit([train, other])
    new = learnable(stained_slide(tmp_path, side=10, seed=6, name="new"))
    found = model.predict(without_expression(new))
    assert np.isfinite(found.share).all()
    if name_of(type(fitted)) not in BLIND:
        assert score(found, new) > 0.1


def test_a_single_slide_without_blocks_is_cut_into_parts(slide):
    (group,) = predicting.groups_of([replace(slide, block=np.full(len(slide), -1))])
    assert np.bincount(group).tolist() == [100, 100, 100, 100]
    (own,) = predicting.groups_of([slide])
    np.testing.assert_array_equal(own, slide.block)


# the laws of each paper


def test_ridge_hest_is_the_pipeline_of_the_benchmark(train, test):
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = predictor("ridge-hest")(components=40).fit([train])
    x, asked = predicting.features([train, test], "colour-texture")
    y = predicting.with_density(train, model.scale_)
    ridge = Ridge(alpha=100 / (256 * 50), fit_intercept=False, solver="lsqr", tol=1e-9, max_iter=10_000)
    pipeline = make_pipeline(StandardScaler(), PCA(40, svd_solver="full"), ridge).fit(x.astype(np.float64), y)
    expected = pipeline.predict(asked.astype(np.float64)) + y.mean(0)
    found = model.predict(test)
    np.testing.assert_allclose(found.log1p(model.scale_), np.maximum(expected[:, :-1], 0), atol=2e-3)
    np.testing.assert_allclose(np.log(found.total / test.area_um2), expected[:, -1], atol=2e-3)


def test_ridge_hest_keeps_all_components_where_there_are_few_bins(train, test):
    few = take(train, np.arange(30))
    found = predictor("ridge-hest")().fit([few]).predict(few)
    scale = float(np.median(few.total))
    truth = log1p_normalised(few.counts, few.total, scale).toarray()
    np.testing.assert_allclose(found.log1p(scale), truth, atol=0.05)  # as many components as bins meet them all


class Blind:
    """An image that may not be read."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the image was asked for {name}")


@pytest.mark.parametrize("name", BLIND)
def test_blind_methods_never_read_the_image(name, train, test):
    dark = [replace(slide, image=Blind()) for slide in (train, test)]
    same(small(name).fit([dark[0]]).predict(dark[1]), small(name).fit([train]).predict(test))


def test_methods_that_look_do_read_the_image(train):
    for name in set(PREDICTORS) - set(BLIND):
        with pytest.raises(AssertionError, match="the image was asked for"):
            small(name).fit([replace(train, image=Blind())])


def test_coordinates_follow_the_nearest_bins_of_a_slide_that_was_seen(slide):
    odd = np.random.default_rng(0).random(len(slide)) < 0.5  # a split that leaks: the nearest bins are known
    known, asked = take(slide, ~odd), take(slide, odd)
    model = predictor("coordinates")().fit([replace(known, block=np.full(len(known), -1))])
    near = predictor("coordinates")(neighbours=5).fit([known])
    assert score(near.predict(asked), asked) > 0.1
    assert 0 <= model.trust_ <= 1
    unseen = near.predict(replace(asked, name="another"))
    assert np.ptp(unseen.share, axis=0).max() == 0
    scale = float(np.median(known.total))
    truth = log1p_normalised(known.counts, known.total, scale).toarray()
    np.testing.assert_allclose(unseen.log1p(scale), np.tile(truth.mean(0), (len(asked), 1)), atol=1e-4)
    own = predictor("coordinates")(neighbours=1).fit([known]).predict(known)
    np.testing.assert_allclose(own.log1p(scale), truth, atol=1e-4)


def test_coordinates_choose_the_smooth_field_and_distrust_noise(slide):
    gradient = np.exp((slide.places[:, 0] - slide.places[:, 0].mean()) / 200)
    counts = slide.counts.toarray()
    smooth = counts.mean(0) * np.where(np.arange(counts.shape[1]) % 2, gradient[:, None], 1 / gradient[:, None])
    drawn = np.random.default_rng(0).poisson(smooth).astype(np.float32)
    turned = replace(slide, counts=type(slide.counts)(drawn), total=drawn.sum(1).astype(float))
    assert predictor("coordinates")().fit([turned]).trust_ > 0.5
    noise = np.random.default_rng(1).poisson(np.tile(counts.mean(0), (len(slide), 1))).astype(np.float32)
    flat = replace(slide, counts=type(slide.counts)(noise), total=noise.sum(1).astype(float))
    assert predictor("coordinates")().fit([flat]).trust_ < 0.25


def test_retrieval_of_the_whole_reference_is_its_mean(train, test):
    found = Retrieval(steps=2, neighbours=10_000).fit([train]).predict(test)
    mean = log1p_normalised(train.counts, train.total, float(np.median(train.total))).toarray().mean(0)
    np.testing.assert_allclose(found.log1p(float(np.median(train.total))), np.tile(mean, (len(test), 1)), atol=1e-4)


def test_retrieval_finds_a_bin_by_its_own_image(train):
    model = Retrieval(steps=150, batch=64, temperature=0.05, dropout=0.0).fit([train])
    (x,) = predicting.features([train], "colour-texture")
    with torch.no_grad():
        seen = model.network_.image(torch.from_numpy(model.standard_.see(x))).numpy()
    alike = seen @ model.bank_.T
    rank = (alike > np.diag(alike)[:, None]).sum(1)
    assert np.median(rank) < len(train) / 10  # by chance, half of them lie before it


def test_retrieval_keeps_no_more_than_asked(train, test):
    model = Retrieval(steps=2, most=50, neighbours=50).fit([train])
    assert len(model.bank_) == len(model.reference_) == 50
    assert np.isfinite(model.predict(test).share).all()


def test_soft_targets_forgive_what_is_alike():
    one, two = torch.eye(8)[[0, 1, 2]], torch.eye(8)[[0, 0, 2]]
    apart = soft_contrastive(one, one[[1, 2, 0]], 0.1)
    assert soft_contrastive(one, one, 0.1) < 0.01 < apart
    # bins 0 and 1 are the same in image and expression: to mistake one for the other costs no more than to tell them
    torch.testing.assert_close(soft_contrastive(two, two, 0.1), soft_contrastive(two, two[[1, 0, 2]], 0.1))
    logits = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    image, expression = torch.nn.functional.normalize(logits, dim=2)
    torch.testing.assert_close(soft_contrastive(image, expression, 0.1), by_hand(image, expression, 0.1))


def by_hand(image: torch.Tensor, expression: torch.Tensor, temperature: float) -> torch.Tensor:
    cross_entropy = torch.nn.functional.cross_entropy
    target = torch.softmax((image @ image.T + expression @ expression.T) / 2 / temperature, dim=-1)
    logits = expression @ image.T / temperature
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target.T)) / 2


def test_sets_have_no_order_and_may_be_empty():
    rng = torch.Generator().manual_seed(0)
    values, there = torch.randn(6, 5, 3, generator=rng), torch.rand(6, 5, generator=rng) < 0.5
    there[0] = False
    mean, highest = pooled(values, there)
    order = torch.randperm(5, generator=rng)
    torch.testing.assert_close(pooled(values[:, order], there[:, order]), (mean, highest))
    assert not mean[0].any()
    assert not highest[0].any()
    torch.testing.assert_close(mean[1], values[1][there[1]].mean(0))
    torch.testing.assert_close(highest[1], values[1][there[1]].amax(0))


def test_deep_sets_hear_their_neighbours_in_any_order(train, test):
    model = small("deep-sets").fit([train])
    (x,) = predicting.features([test], "colour-texture")
    view = model._view([x], [test], [model._inside(test)])
    rows = torch.arange(len(test))
    own, sets = view.at(rows)
    with torch.no_grad():
        expected = model.network_(own, sets)
        order = torch.randperm(sets[0][0].shape[1], generator=torch.Generator().manual_seed(0))
        turned = [(values[:, order], there[:, order]) for values, there in sets]
        torch.testing.assert_close(model.network_(own, turned), expected, atol=1e-5, rtol=1e-4)
        deaf = [(values, torch.zeros_like(there)) for values, there in sets]
        assert (model.network_(own, deaf) - expected).abs().max() > 0.01
        assert (model.network_(own.flip(0), sets) - expected).abs().max() > 0.01


def test_deep_sets_never_look_around_on_another_slide(train, test):
    model = small("deep-sets").fit([train])
    both = model._view(predicting.features([train, test], "colour-texture"), [train, test], [model._inside(train)] * 2)
    (x,) = predicting.features([test], "colour-texture")
    alone = model._view([x], [test], [model._inside(test)])
    rows = torch.arange(len(test))
    own, ((around, there),) = both.at(rows + len(train))
    expected_own, ((expected, expected_there),) = alone.at(rows)
    torch.testing.assert_close(own, expected_own)
    assert torch.equal(there, expected_there)
    assert there.any()
    torch.testing.assert_close(around[there], expected[there])


def test_deep_sets_look_around_at_places_not_at_ranks():
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(40)), axis=-1).reshape(-1, 2) * 16.0
    near = around_of(grid)
    middle = 20 * 40 + 20
    assert (near[middle] >= 0).all()
    distance = np.linalg.norm(grid[near[middle]] - grid[middle], axis=1).reshape(3, 8)
    np.testing.assert_allclose(distance, np.repeat([[48.0], [112.0], [192.0]], 8, axis=1), atol=12)
    assert (near[0] == -1).any()
    assert not (near == np.arange(len(grid))[:, None]).any()
    spots = np.array([[x * 100 + (y % 2) * 50, y * 86.6] for x in range(5) for y in range(5)], dtype=float)
    assert (around_of(spots) >= 0).any(1).all()


def test_deep_sets_see_the_parts_of_wide_bins(slide):
    wide = aggregate(replace(slide, grid=None), 48.0)
    model = DeepSets(steps=5, width=16, batch=16).fit([wide])
    inside = model._inside(wide)
    assert inside.shape == (len(wide), 4, 448)
    assert np.ptp(inside, axis=1).max() > 0
    assert len(model.network_.phi) == 3
    found = model.predict(wide)
    other = DeepSets(steps=5, width=16, batch=16)
    vars(other).update(model._facts(), genes_=model.genes_)
    other._restore(model._arrays())
    same(other.predict(wide), found)


@pytest.mark.parametrize("name", ["deep-sets", "st-net"])
def test_training_starts_at_the_mean_expression(name, train, test):
    found = replace_steps(small(name), 0).fit([train]).predict(test)
    scale = float(np.median(train.total))
    mean = log1p_normalised(train.counts, train.total, scale).toarray().mean(0)
    np.testing.assert_allclose(found.log1p(scale), np.tile(mean, (len(test), 1)), atol=1e-4)


def replace_steps(method: ExpressionPredictor, steps: int) -> ExpressionPredictor:
    return replace(method, steps=steps)


@pytest.fixture(scope="module")
def st_net(train) -> StNet:
    return small("st-net").fit([train])


def test_st_net_sees_no_difference_between_the_eight_symmetries(st_net, test):
    crops = torch.from_numpy(Crops.of(test, 128.0).at(np.arange(20)))
    assert len({symmetry(crops[:1], number).numpy().tobytes() for number in range(8)}) == 8
    with torch.no_grad():
        expected = st_net.network_.targets(crops)
        for number in range(8):
            torch.testing.assert_close(st_net.network_.targets(symmetry(crops, number)), expected, atol=1e-5, rtol=1e-4)
        turned = [st_net.network_(symmetry(crops.float() / 127.5 - 1, number)) for number in (0, 5)]
    assert (turned[0] - turned[1]).abs().max() > 1e-3  # the network itself does


def test_st_net_reads_the_same_crops_from_the_whole_and_one_by_one(test):
    whole, parts = Crops.of(test, 64.0), Crops.of(test, 64.0, most_pixels=10.0)
    assert parts.whole is None
    rows = np.array([0, 7, len(test) - 1])
    np.testing.assert_array_equal(whole.at(rows), parts.at(rows))
    x, y = test.places[7] - 32
    np.testing.assert_array_equal(whole.at(rows)[1], test.image.region(x, y, 64, 64).transpose(2, 0, 1))


def test_st_net_sees_its_crop_and_nothing_else(st_net, test):
    crops = torch.from_numpy(Crops.of(test, 128.0).at(np.arange(4)))
    changed = crops.clone()
    changed[1] = 255
    with torch.no_grad():
        before, after = st_net.network_.targets(crops), st_net.network_.targets(changed)
    differs = (before - after).abs().amax(1) > 1e-4
    assert differs.tolist() == [False, True, False, False]


def test_predictions_far_from_all_that_was_learned_stay_shares(slide):
    values = np.tile(np.array([-5.0, 0.1, 400.0], dtype=np.float32), (len(slide), 1))
    said = predicting.expression_of(values, np.full(len(slide), 300.0), slide, 1000.0)
    assert said.share.min() == 0
    assert said.share.max() == pytest.approx(1, rel=1e-5)
    assert np.isfinite(said.total).all()
