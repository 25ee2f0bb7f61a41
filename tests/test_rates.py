"""Rates over a slide: what is integrated, drawn, held out and predicted, and what MagNet promises of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as pil
from scipy.stats import nbinom, poisson

from pictures import stained_slide
from stgnn import rate_model, rate_training
from stgnn.data.expression import learnable, share_genes
from stgnn.data.images import open_image
from stgnn.data.levels import assign
from stgnn.data.schema import OptionError
from stgnn.data.slide import Slide, take
from stgnn.data.slides import aggregate, without_expression
from stgnn.fields import Features, Pixels, quadrature, tiles, turned
from stgnn.methods.base import load
from stgnn.methods.magnet import MagNet
from stgnn.nn import lattice
from stgnn.nn.losses import gamma_deviance, negative_binomial_nll, poisson_nll
from stgnn.rate_model import hold_out
from stgnn.rate_training import Lesson, Recipe, draw, loss_of
from stgnn.rates import Parts, RateNetwork
from stgnn.train import Plan

pytestmark = pytest.mark.usefixtures("feature_cache")

SMALL = {"steps": 6, "crop_um": 256.0, "bins": 200, "encoder": "none", "cross_attention": True, "graph": True}


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Slide:
    (whole,) = share_genes([stained_slide(tmp_path_factory.mktemp("slide"))])
    return learnable(replace(whole, round=False))  # bins, which make up coarser ones


@pytest.fixture(scope="module")
def fitted(slide) -> MagNet:
    return MagNet(**SMALL).fit([slide])


def test_counts_have_the_likelihoods_of_scipy():
    rng = np.random.default_rng(0)
    counts, mean, theta = rng.poisson(2.0, (6, 3)), rng.uniform(0.5, 4.0, (6, 3)), np.array([0.5, 2.0, 30.0])
    c, log_mean, log_theta = (torch.tensor(x, dtype=torch.float64) for x in (counts, np.log(mean), np.log(theta)))
    log_factorial = torch.lgamma(c + 1)
    assert np.allclose(poisson_nll(c, log_mean) + log_factorial, -poisson.logpmf(counts, mean))
    found = negative_binomial_nll(c, log_mean, log_theta) + log_factorial
    assert np.allclose(found, -nbinom.logpmf(counts, theta, theta / (theta + mean)))


def test_gamma_deviance_is_least_at_the_mean_and_has_no_unit():
    truth = torch.tensor([1.0, 4.0, 7.0])
    at = torch.linspace(0.5, 3.0, 400)
    assert at[int(torch.stack([gamma_deviance(truth, m.expand(3)) for m in at]).argmin())].exp() == pytest.approx(
        4.0, rel=0.01
    )
    assert gamma_deviance(truth, truth.log()) == pytest.approx(0.0, abs=1e-6)
    assert gamma_deviance(truth * 10, at[:3] + np.log(10)) == pytest.approx(float(gamma_deviance(truth, at[:3])))


@pytest.mark.parametrize("view", range(8))
def test_places_stay_on_what_they_lay_on(view):
    crop = np.arange(36.0).reshape(1, 6, 6)
    places = np.random.default_rng(0).uniform(0, 6, (20, 2))
    seen, there = turned(crop, places, view)
    x, y = np.floor(there).astype(int).T
    column, row = np.floor(places).astype(int).T
    assert (seen[0, y, x] == crop[0, row, column]).all()


def test_eight_views_are_eight():
    crop = np.arange(9.0).reshape(1, 3, 3)
    assert len({turned(crop, np.zeros((0, 2)), view)[0].tobytes() for view in range(8)}) == 8


@pytest.mark.parametrize("width", [8.0, 16.0, 32.0])
def test_points_of_a_bin_are_those_of_its_quarters(width):
    quarters = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) * width / 2
    fine = (quarters[:, None] + quadrature(width, False, 8.0)).reshape(-1, 2)
    assert {tuple(p) for p in fine} == {tuple(p) for p in quadrature(2 * width, False, 8.0)}


def test_points_of_a_spot_lie_in_it():
    points = quadrature(55.0, True, 8.0)
    assert np.hypot(*points.T).max() <= 27.5
    assert len(points) == pytest.approx(np.pi / 4 * 49, rel=0.15)
    assert np.allclose(points.mean(0), 0, atol=1e-9)


def test_features_are_read_at_the_centres_of_cells():
    field = Features(np.arange(12.0, dtype=np.float32).reshape(3, 4, 1), 10.0)
    places = np.array([[5.0, 5.0], [10.0, 5.0], [35.0, 25.0], [5.0, 10.0], [-50.0, 900.0]])
    assert field.read(places).ravel().tolist() == [0.0, 0.5, 11.0, 2.0, 8.0]


def test_tiles_hold_every_place_once():
    places = np.random.default_rng(0).uniform(0, 1, (500, 2)) * (300, 200)
    seen = []
    for row, column, inside in tiles((200, 300), places, 64, 16, 8):
        seen.append(inside)
        assert row % 8 == column % 8 == 0
        assert row + 96 < 200 + 8
        assert column + 96 < 300 + 8
        from_border = np.minimum(places[inside] - (column, row), (column + 96, row + 96) - places[inside])
        to_border = np.minimum(places[inside], (300, 200) - places[inside])
        assert (from_border >= np.minimum(16, to_border) - 1e-9).all()
    assert sorted(np.concatenate(seen)) == list(range(500))


def test_a_field_smaller_than_a_tile_is_one():
    ((row, column, inside),) = tiles((20, 30), np.array([[5.0, 5.0], [29.0, 19.0]]), 64, 16, 8)
    assert (row, column, inside.tolist()) == (0, 0, [0, 1])


@pytest.mark.parametrize("level", range(5))
def test_maps_are_read_where_what_they_show_lies(level):
    """What moves a map's value at a place lies around that place, on the mean."""
    net = network(4)
    for stage in net.pyramid.modules():  # all pixels weigh alike, so that the centre is that of the field of view
        if isinstance(stage, torch.nn.Conv2d):
            torch.nn.init.constant_(stage.weight, 1.0)
        if isinstance(stage, torch.nn.GroupNorm):
            stage.forward = lambda x: x
    field, place = torch.full((3, 704, 704), 1e-6, requires_grad=True), torch.tensor([[352.0, 352.0]])
    stride = net.pyramid.strides[level]
    lattice.read(net.pyramid(field)[level], place + (stride - 1) / 2, stride).sum().backward()
    weight = field.grad.sum(0)
    centre = (weight.sum(0) * (torch.arange(704) + 0.5)).sum() / weight.sum()
    assert float(centre) == pytest.approx(352.0, abs=0.5)


def test_pixels_beyond_the_image_are_white(slide):
    field = Pixels.of(slide.image, 2.0)
    inside, beyond = field.crop(0, 0, 8, 8), field.crop(-8, -8, 8, 8)
    assert np.allclose(beyond, ((255 - field.mean) / field.spread)[:, None, None], atol=1e-5)
    assert inside.shape == beyond.shape == (3, 8, 8)


def test_features_beyond_the_slide_are_zero():
    field = Features(np.ones((3, 4, 2), dtype=np.float32), 50.0)
    crop = field.crop(-1, 2, 3, 4)
    assert crop.shape == (2, 3, 4)
    assert crop[0].tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


def network(genes: int, **parts: bool) -> RateNetwork:
    torch.manual_seed(0)
    made = RateNetwork(3, 4, torch.full((genes,), 1 / genes), 1.0, Parts(**parts)).eval()
    torch.nn.init.normal_(made.head[-1].weight, std=0.1)  # which starts at zero
    return made


@pytest.mark.parametrize("parts", [{}, {"graph": False}, {"cross_attention": False}])
def test_every_parameter_is_learned(slide, parts):
    genes = slide.counts.shape[1]
    net, recipe = network(genes, **parts), Recipe("negative-binomial", crop_um=256.0, bins=200, points_um=11.0)
    lesson = Lesson.of(slide, Pixels.of(slide.image, 2.0))
    loss_of(net, draw([lesson], recipe, 64, np.random.default_rng(0)), recipe).backward()
    unused = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert unused == []


def test_the_rate_of_a_place_depends_on_what_lies_a_region_away():
    field = torch.randn(3, 256, 256)
    place, none = torch.tensor([[128.0, 128.0]]), torch.empty(1, 0)
    for parts, heard in (({}, True), ({"cross_attention": False}, False)):
        net, moved = network(5, **parts), field.clone()
        moved[:, :, 224:] += 3.0
        with torch.no_grad():
            maps, other = net.maps(field), net.maps(moved)
            for level, (a, b) in enumerate(zip(maps, other, strict=True)):
                if level < 4:  # what the place reads itself stays as it was: only the coarsest level tells
                    other[level] = a
                else:
                    other[level] = torch.where(torch.arange(a.shape[2]) >= a.shape[2] // 2 + 1, b, a)
            far = (net.at(maps, place, none)[0] - net.at(other, place, none)[0]).abs().max() > 1e-5
        assert bool(far) == heard


def test_a_crop_holds_the_counts_of_its_bins(slide):
    recipe = Recipe(crop_um=256.0, bins=50, jitter=0.0)
    crop = draw([Lesson.of(slide, Pixels.of(slide.image, 2.0))], recipe, 64, np.random.default_rng(1))
    rows = {row.tobytes() for row in slide.counts.toarray()}
    assert len(crop.counts) == len(crop.total) == len(crop.square) == 50
    assert all(row.tobytes() in rows for row in crop.counts.numpy())
    assert ((crop.places >= 0) & (crop.places <= 128)).all()


def test_squares_of_a_crop_are_neighbours(slide):
    recipe = Recipe(crop_um=256.0, bins=1000, jitter=0.0, coarse_um=32.0, points_um=16.0)
    crop = draw([Lesson.of(slide, Pixels.of(slide.image, 2.0))], recipe, 64, np.random.default_rng(1))
    for square in crop.square.unique():
        places = crop.places[crop.square == square] * slide.image.mpp
        assert (places.max(0).values - places.min(0).values <= 32.0).all()


def test_of_three_slides_the_smallest_is_held_out(slide):
    small, third = (replace(slide, name=name, patient=slide.patient) for name in "bc")
    small = take(small, np.arange(40))
    assert hold_out([slide, small]) == ([slide, small], [])
    assert hold_out([slide, small, third]) == ([slide, third], [small])
    # whole patients, where there are three
    patients = [replace(s, patient=p) for s, p in zip([slide, small, small, third], "xyyz", strict=True)]
    assert [s.patient for s in hold_out(patients)[1]] == ["y", "y"]


def test_coarse_predictions_are_the_sums_of_fine_ones(fitted, slide):
    fine = fitted.predict(slide)
    coarse = aggregate(slide, 2 * slide.width_um)
    direct = fitted.predict(coarse)
    of = assign(slide.places, coarse.width_um, slide.width_um).parent
    whole = np.bincount(of, minlength=len(coarse)) == 4
    total = np.bincount(of, weights=fine.total, minlength=len(coarse))
    counts = np.zeros((len(coarse), fine.share.shape[1]))
    np.add.at(counts, of, fine.share * fine.total[:, None])
    assert np.allclose(total[whole], direct.total[whole], rtol=1e-3)
    assert np.allclose(counts[whole], (direct.share * direct.total[:, None])[whole], rtol=1e-2, atol=1e-6)


def test_prediction_needs_no_expression(fitted, slide):
    known, unknown = fitted.predict(slide), fitted.predict(without_expression(slide))
    assert np.array_equal(known.share, unknown.share)
    assert np.array_equal(known.total, unknown.total)


def test_views_and_members_tell_how_sure_a_prediction_is(fitted, slide):
    assert np.isfinite(fitted.predict(slide).spread).all()
    single = MagNet(views=1, **SMALL).fit([slide])
    assert np.isnan(single.predict(slide).spread).all()


@pytest.mark.parametrize("likelihood", ["negative-binomial", "gaussian"])
def test_other_likelihoods(slide, likelihood):
    said = MagNet(likelihood=likelihood, points_um=11.0, **SMALL).fit([slide]).predict(slide)
    assert np.isfinite(said.share).all()
    assert (said.share >= 0).all()
    assert said.share.sum(1).mean() == pytest.approx(1.0, rel=0.5)  # from the first step on, about the mean


class Killed(Exception):
    pass


def test_a_killed_fit_resumes(slide, tmp_path, monkeypatch):
    options = SMALL | {"steps": 8}
    whole = MagNet(**options).fit([slide]).predict(slide)
    often = replace(Plan(1), save_every=2)
    monkeypatch.setattr(rate_model, "Plan", lambda steps, **own: replace(often, steps=steps, **own))
    drawn, real = [], rate_training.draw

    def draw_until_killed(*arguments):
        drawn.append(len(drawn))
        if len(drawn) == 6:
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(rate_training, "draw", draw_until_killed)
    with pytest.raises(Killed):
        MagNet(**options, checkpoint=str(tmp_path)).fit([slide])
    again = MagNet(**options, checkpoint=str(tmp_path)).fit([slide]).predict(slide)
    assert len(drawn) == 6 + 4  # five steps were done and four of them saved
    assert np.array_equal(whole.share, again.share)


def test_a_checkpoint_of_another_image_is_not_resumed(slide, tmp_path):
    first = MagNet(**SMALL, checkpoint=str(tmp_path / "state")).fit([slide]).predict(slide)
    other = tmp_path / "other.png"
    with pil.open(slide.image.path) as picture:
        picture.rotate(180).save(other)
    turned_slide = replace(slide, image=open_image(other, mpp=slide.image.mpp))
    resumed = MagNet(**SMALL, checkpoint=str(tmp_path / "state")).fit([turned_slide]).predict(slide)
    assert not np.array_equal(first.share, resumed.share)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("views", 0),
        ("views", 9),
        ("members", 0),
        ("steps", 2.5),
        ("bins", 0),
        ("rate", -1.0),
        ("feature_um", 0.0),
        ("crop_um", -64.0),
        ("points_um", 0.0),
        ("coarse_um", -5.0),
        ("mpp", float("nan")),
        ("likelihood", "normal"),
    ],
)
def test_options_out_of_range_are_refused(slide, option, value):
    with pytest.raises(OptionError, match=f"^{option}: expected .*; found {value!r}"):
        MagNet(**(SMALL | {option: value})).fit([slide])


def test_bins_at_the_border_of_the_slide_are_learned(slide):
    field = Pixels.of(slide.image, 2.0)
    few = take(replace(slide, places=slide.places - slide.places.min(0) + 3.0), np.arange(4))
    crop = draw([Lesson.of(few, field)], Recipe(crop_um=256.0), 64, np.random.default_rng(0))
    assert len(crop.counts) == 4


def test_a_wide_bin_is_read_at_more_places(slide):
    wide = replace(slide, width_um=64.0, round=True)
    crop = draw([Lesson.of(wide, Pixels.of(slide.image, 2.0))], Recipe(crop_um=256.0), 64, np.random.default_rng(0))
    assert len(crop.places) == 3 * len(crop.counts)


def test_a_saved_model_of_three_slides_is_the_same(slide, tmp_path):
    """One of the slides is held out, in which a gene may be constant."""
    others = [replace(slide, name=name, counts=slide.counts.multiply(np.arange(24) > 0).tocsr()) for name in "bc"]
    model = MagNet(**SMALL).fit([slide, *others])
    model.save(tmp_path / "model")
    same = load(tmp_path / "model")
    assert np.array_equal(model.predict(slide).share, same.predict(slide).share)


def test_frozen_features_in_place_of_convolutions(slide):
    options = {"encoder": "colour-texture", "convolution": False, "feature_um": 16.0, "crop_um": 256.0}
    model = MagNet(**options, steps=4, bins=100).fit([slide])
    assert np.isfinite(model.predict(slide).share).all()


def test_frozen_features_beside_convolutions_are_heard(slide):
    model = MagNet(**(SMALL | {"encoder": "colour-texture", "feature_um": 16.0})).fit([slide])
    (network,), said = model.rates_.networks, model.predict(slide).share
    with torch.no_grad():
        network.told[1].weight.zero_()
    assert not np.allclose(model.predict(slide).share, said)


def test_no_crop_is_empty_where_bins_are_few_and_far_between(slide):
    few = take(slide, np.arange(0, len(slide), max(1, len(slide) // 9)))
    lesson = Lesson.of(few, Pixels.of(slide.image, 2.0))
    rng = np.random.default_rng(0)
    assert all(len(draw([lesson], Recipe(crop_um=65.0), 1, rng).counts) for _ in range(300))
