"""Where bins lie on their image: a known shift is found, a chance one is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.ndimage import gaussian_filter

from pictures import stained_slide
from stgnn import rate_model
from stgnn.data.expression import learnable, share_genes
from stgnn.data.images import digest_of
from stgnn.data.predictions import to_anndata
from stgnn.data.slide import take
from stgnn.data.slides import bins_on, grid_slide, without_expression
from stgnn.fields import Features
from stgnn.linear_rates import Evidence
from stgnn.methods.base import load
from stgnn.methods.magnet import MagNet
from stgnn.placement import Placement, placement
from stgnn.rate_model import _placed
from stgnn.rate_training import Lesson

UM, SIDE = 32.0, 96


def tissue(seed: int, depth: float = 800.0) -> Evidence:
    """3,600 bins whose counts follow smooth fields of an image."""
    rng = np.random.default_rng(seed)
    values = np.stack([gaussian_filter(rng.standard_normal((SIDE, SIDE)), 1.2) for _ in range(6)], axis=2)
    features = Features(((values - values.mean((0, 1))) / values.std((0, 1))).astype(np.float32), UM)
    row, column = np.divmod(np.arange(3600), 60)
    places = (np.column_stack([column, row]) + 8.0) * 40.0
    rate = np.exp(0.5 * features.read(places) @ rng.standard_normal((6, 40)))
    share = rate / rate.sum(1, keepdims=True)
    counts = rng.poisson(depth * share).astype(np.float32)
    return Evidence(features, places, sp.csr_matrix(counts), counts.sum(1).astype(float))


def askew(places: np.ndarray) -> np.ndarray:
    """Moved by some 30 um, and turned by half a degree."""
    turn = np.deg2rad(0.5)
    about = places - places.mean(0)
    return places + (24.0, -16.0) + about @ (np.array([[0, turn], [-turn, 0]]))


def test_a_known_shift_is_found_and_holds_for_bins_that_were_not_looked_at():
    told = tissue(0)
    seen = told.places_um[:, 1] < 1900
    wrong = askew(told.places_um)
    part = replace(told, places_um=wrong[seen], counts=told.counts[seen], total=told.total[seen])
    found = placement([part], 0)
    assert found is not None
    off = np.linalg.norm(found.move(wrong) - told.places_um, axis=1)
    before = np.linalg.norm(wrong - told.places_um, axis=1)
    assert off[seen].max() < 3 < 20 < before[seen].min()
    assert off[~seen].max() < 6


def test_bins_that_lie_well_are_not_moved():
    assert placement([tissue(1)], 0) is None


def test_counts_that_the_image_does_not_show_move_nothing():
    told, rng = tissue(2), np.random.default_rng(0)
    assert placement([replace(told, counts=told.counts[rng.permutation(3600)])], 0) is None


def test_of_few_bins_a_shift_is_chance():
    told = tissue(3)
    few = replace(told, places_um=askew(told.places_um)[:1500], counts=told.counts[:1500], total=told.total[:1500])
    assert placement([few], 0) is None


@pytest.mark.parametrize("width_um", [300.0, 700.0, 1000.0])
def test_of_a_small_piece_of_tissue_there_is_nothing_to_hold_out(width_um):
    told, rng = tissue(3), np.random.default_rng(0)
    crowded = 900.0 + rng.random((3600, 2)) * width_um
    assert placement([replace(told, places_um=crowded)], 0) is None


def test_the_slide_with_most_counts_is_looked_at():
    deep, shallow = tissue(4), tissue(4, depth=20.0)
    deep, shallow = (replace(one, places_um=askew(one.places_um)) for one in (deep, shallow))
    for pair in ([deep, shallow], [shallow, deep]):
        found, alone = placement(pair, 0), placement([deep], 0)
        assert found is not None and alone is not None
        np.testing.assert_array_equal(found.shift, alone.shift)


def test_a_weak_signal_moves_nothing_by_chance():
    for seed in range(6):
        told, rng = tissue(seed, depth=30.0), np.random.default_rng(seed)
        faint = told.counts.toarray()
        mixed = np.where(rng.random((3600, 1)) < 0.1, faint, faint[rng.permutation(3600)])  # nine of ten say nothing
        found = placement([replace(told, counts=sp.csr_matrix(mixed))], 0)
        assert found is None or found.farthest(told.places_um) < 8


def test_without_two_genes_there_is_no_pattern():
    told = tissue(5)
    assert placement([replace(told, counts=told.counts[:, :1])], 0) is None
    assert placement([replace(told, counts=told.counts[:, :1] * 0)], 0) is None


@pytest.mark.usefixtures("feature_cache")
def test_a_fit_learns_from_moved_bins_unless_it_is_told_not_to(tmp_path, monkeypatch):
    slide = learnable(share_genes([stained_slide(tmp_path)])[0])
    shift = Placement(np.zeros(2), 1.0, np.array([[5.0, -3.0], [0.0, 0.0], [0.0, 0.0]]))
    monkeypatch.setattr(rate_model, "placement", lambda evidence, seed: shift)
    learned: list[Lesson] = []
    monkeypatch.setattr(rate_model, "train", lambda network, lessons, *rest: learned.extend(lessons) or [{}])
    small = {"steps": 1, "crop_um": 256.0, "bins": 100, "views": 1}
    on = MagNet(**small).fit([slide])
    off = MagNet(**small, registration=False).fit([slide])
    moved, still = (lesson.places * lesson.field.um for lesson in learned)
    np.testing.assert_allclose(moved, np.clip(shift.move(slide.places), 0, slide.image.size_um))
    np.testing.assert_allclose(still, slide.places)
    assert list(on.rates_.placements.values()) == [shift]
    assert off.rates_.placements == {}


@pytest.mark.usefixtures("feature_cache")
def test_measured_bins_of_the_image_move_and_bins_laid_over_it_stay(tmp_path):
    slide = learnable(share_genes([stained_slide(tmp_path)])[0])
    model = MagNet(steps=2, crop_um=256.0, bins=100, views=1, convolution=False).fit([slide])
    assert model.rates_.placements == {}  # too few bins
    shift = np.array([[30.0, -10.0], [0.0, 0.0], [0.0, 0.0]])
    model.rates_.placements[digest_of(slide.image)] = Placement(np.zeros(2), 1.0, shift)
    inside = take(slide, (slide.places[:, 0] < slide.image.size_um[0] - 40) & (slide.places[:, 1] > 20))
    moved = _placed(inside, model.rates_.placements)
    np.testing.assert_allclose(moved.places - inside.places, np.tile([30.0, -10.0], (len(inside), 1)))
    laid = grid_slide(slide.image, 40.0)
    assert _placed(laid, model.rates_.placements) is laid
    to_anndata(laid, model.predict(laid), model.genes_, scale=1.0).write_h5ad(tmp_path / "laid.h5ad")
    assert bins_on(slide.image.path, tmp_path / "laid.h5ad").laid  # once written, too
    # prediction moves them, once, and a saved model does the same
    said = model.predict(without_expression(inside))
    other = model.predict(replace(without_expression(moved), laid=True))
    np.testing.assert_allclose(said.share, other.share, rtol=1e-5)
    assert said.details == {"moved_um": 31.6}
    assert other.details == {}
    model.save(tmp_path / "model")
    again = load(tmp_path / "model").predict(without_expression(inside))
    np.testing.assert_allclose(said.share, again.share, rtol=1e-5)


def test_moved_bins_stay_on_the_image(tmp_path):
    slide = stained_slide(tmp_path)
    far = Placement(np.zeros(2), 1.0, np.array([[1e5, -1e5], [0.0, 0.0], [0.0, 0.0]]))
    places = far.moved(slide).places
    assert (places >= 0).all() and (places <= slide.image.size_um).all()
