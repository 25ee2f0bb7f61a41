"""Registration: a section laid over the reference's map, and a map that is silent where it does not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import log_softmax

from stgnn import registration
from stgnn.data.cells import Cells, align, read_query, read_reference
from stgnn.data.toy import toy
from stgnn.methods.base import load
from stgnn.methods.spatial_transformer_gnn import SpatialTransformerGNN

N_TYPES = 5


def laid(maps, query, features, log_proba, expected):
    """Scores of all cells and the agreement of sections."""
    overlay = registration.overlay(maps, query, features, log_proba, expected)
    return overlay.said(query, slice(None)) + np.zeros_like(log_proba), overlay.agreement


def tissue(n: int = 1500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Places in an L-shaped section of curved layers, and their types: no turn or mirroring maps it onto itself."""
    rng = np.random.default_rng(seed)
    coords = rng.uniform(0, 1000, (3 * n, 2))
    coords = coords[(coords[:, 0] < 600) | (coords[:, 1] < 400)][:n]
    depth = coords[:, 1] + 0.3 * coords[:, 0] + 100 * np.sin(coords[:, 0] / 200)
    return coords, np.digitize(depth, np.quantile(depth, [0.15, 0.4, 0.6, 0.85]))


def cells(coords: np.ndarray | None, labels: np.ndarray | None, section: np.ndarray | None = None) -> Cells:
    n = len(labels if coords is None else coords)  # type: ignore[arg-type]
    section = np.zeros(n, dtype=np.int64) if section is None else section
    names = tuple(f"s{i}" for i in range(section.max() + 1))
    counts = sp.csr_matrix(np.ones((n, 1), dtype=np.float32))
    kinds = tuple("abcde")
    return Cells(
        counts, np.array(["g"]), np.arange(n).astype(str), coords, section, names, labels, kinds, np.arange(n), n
    )


def expression(labels: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.eye(N_TYPES)[labels] + rng.normal(0, 1.0, (len(labels), N_TYPES))


def guesses(labels: np.ndarray, right: float, seed: int = 0) -> np.ndarray:
    """Log-probabilities that point at the true type for so many cells."""
    rng = np.random.default_rng(seed)
    near = np.clip(labels + rng.choice([-1, 1], len(labels)), 0, N_TYPES - 1)  # wrong by one layer
    return log_softmax(4.0 * np.eye(N_TYPES)[np.where(rng.random(len(labels)) < right, labels, near)], axis=1)


@pytest.fixture(scope="module")
def maps() -> list[registration.Atlas]:
    coords, labels = tissue()
    return registration.atlases(cells(coords, labels), expression(labels, 0))


def test_map_is_the_kernel_mean_of_the_labels(maps):
    coords, labels = tissue()
    [atlas] = maps
    places = coords[::50]
    width = registration.SHARPNESS * max(atlas.spacing, atlas.pitch)
    kernel = np.exp(-((places[:, None] - coords[None]) ** 2).sum(2) / (2 * width**2)) / (2 * np.pi * width**2)
    kernel *= atlas.pitch**2
    seen = kernel @ np.eye(N_TYPES)[labels]
    usual = registration.BACKGROUND * np.median(kernel.sum(1))
    expected = (seen + usual * atlas.composition) / (seen.sum(1, keepdims=True) + usual)
    assert np.abs(np.exp(atlas.at(places)) - expected).mean() < 0.05  # pixels are half a spacing wide
    np.testing.assert_allclose(np.exp(atlas.log_proba).sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 1.0, 2.5, 4.0])
@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_another_section_of_the_tissue_is_found_however_it_lies(maps, angle, mirror):
    coords, labels = tissue(seed=1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([mirror, 1.0])
    moved = 1.1 * coords @ turn.T + [5000.0, -300.0]
    said = guesses(labels, 0.8)
    atlas, pose, _ = registration._best(maps, moved, expression(labels, 1), np.exp(said))
    assert (atlas.at(pose.of(moved)).argmax(1) == labels).mean() > 0.9


def test_the_map_speaks_up_where_sections_lie_over_one_another(maps):
    coords, labels = tissue(seed=1)
    said = guesses(labels, 0.95)
    scores, agreement = laid(maps, cells(coords, None), expression(labels, 1), said, 0.8)
    assert agreement["s0"] > registration.APART
    assert (scores.argmax(1) == labels).mean() > (said.argmax(1) == labels).mean()


def test_the_map_is_silent_for_another_plan(maps):
    coords, labels = tissue(seed=1)
    shuffled = np.random.default_rng(0).permutation(labels)
    scores, agreement = laid(maps, cells(coords, None), expression(shuffled, 1), guesses(shuffled, 0.9), 0.8)
    assert agreement["s0"] < registration.APART / 2
    np.testing.assert_array_equal(scores, 0)


def test_each_section_is_laid_by_itself_and_scored_alone(maps):
    coords, labels = tissue(seed=1)
    rng = np.random.default_rng(0)
    section = np.repeat([0, 1], len(labels))
    places = np.vstack([coords, coords[:, ::-1]])
    kinds = np.r_[labels, rng.permutation(labels)]
    said, seen = guesses(kinds, 0.9), expression(kinds, 1)
    scores, agreement = laid(maps, cells(places, None, section), seen, said, 0.8)
    alone, agreement_alone = laid(maps, cells(coords, None), seen[section == 0], said[section == 0], 0.8)
    np.testing.assert_array_equal(scores[section == 0], alone)
    assert agreement["s0"] == agreement_alone["s0"]
    np.testing.assert_array_equal(scores[section == 1], 0)


def test_no_map_of_mixed_few_heaped_or_placeless_cells():
    coords, labels = tissue()
    seen = expression(labels, 0)
    mixed = np.random.default_rng(0).permutation(labels)
    assert registration.atlases(cells(coords, mixed), seen) == []
    few = slice(registration.FEWEST - 1)
    assert registration.atlases(cells(coords[few], labels[few]), seen[few]) == []
    assert registration.atlases(cells(np.zeros_like(coords), labels), seen) == []
    assert registration.atlases(cells(None, labels), seen) == []
    assert registration.atlases(cells(np.c_[coords, coords[:, 0]], labels), seen) == []


def test_the_clearest_maps_are_kept(monkeypatch):
    monkeypatch.setattr(registration, "MOST_MAPS", 2)
    coords, labels = tissue()
    rng = np.random.default_rng(0)
    blurred = [
        np.where(rng.random(len(labels)) < share, rng.integers(0, N_TYPES, len(labels)), labels)
        for share in (0.2, 0, 0.1)
    ]
    section = np.repeat([0, 1, 2], len(labels))
    kept = registration.atlases(
        cells(np.vstack([coords] * 3), np.concatenate(blurred), section), expression(np.tile(labels, 3), 0)
    )
    assert len(kept) == 2
    assert kept[0].clarity > kept[1].clarity
    assert kept[0].accuracy > 0.9


def test_nothing_is_said_of_few_or_placeless_cells(maps):
    coords, labels = tissue(seed=1)
    few = slice(registration.FEWEST - 1)
    said, seen = guesses(labels, 0.9), expression(labels, 1)
    scores, agreement = laid(maps, cells(coords[few], None), seen[few], said[few], 0.8)
    assert agreement == {} and not scores.any()
    scores, agreement = laid(maps, cells(None, labels), seen, said, 0.8)
    assert agreement == {} and not scores.any()
    scores, agreement = laid([], cells(coords, None), seen, said, 0.8)
    assert agreement == {} and not scores.any()


def test_maps_survive_packing(maps):
    [atlas] = maps
    [again] = registration.unpack(registration.pack(maps))
    for name, value in vars(atlas).items():
        np.testing.assert_array_equal(getattr(again, name), value)


def test_unit_of_the_coordinates_does_not_matter(maps):
    coords, labels = tissue()
    large = registration.atlases(cells(1000 * coords, labels), expression(labels, 0))
    query, asked = tissue(seed=1)
    said, seen = guesses(asked, 0.9), expression(asked, 1)
    small_scores, _ = laid(maps, cells(query, None), seen, said, 0.8)
    large_scores, _ = laid(large, cells(1000 * query, None), seen, said, 0.8)
    np.testing.assert_allclose(large_scores, small_scores, atol=0.05)


def test_model_hears_the_map_of_a_serial_section(tmp_path):
    section = toy(n_cells=1200, n_genes=30, n_types=3, n_sections=1, homophily=0.95, random_state=3)[1]
    reference, query = align(read_reference(section[::2].copy()), read_query(section[1::2].copy()))
    truth = section[1::2].obs["cell_type"].to_numpy().astype(str)
    small = {"members": 1, "rounds": 1, "steps": 3}
    model = SpatialTransformerGNN(**small).fit(reference, query)
    said = model.predict(query)
    assert said.details["registration"]
    model.save(tmp_path / "model")
    again = load(tmp_path / "model").predict(query)
    np.testing.assert_array_equal(again.proba, said.proba)
    plain = SpatialTransformerGNN(**small, registration=False).fit(reference, query).predict(query)
    assert plain.details["registration"] == {}
    types = np.array(reference.types)
    with_map, without = ((types[p.proba.argmax(1)] == truth).mean() for p in (said, plain))
    assert with_map >= without
    nowhere = model.predict(replace(query, coords=None))
    assert nowhere.details["registration"] == {}


def test_a_section_that_has_lost_its_cells_is_passed_over(maps):
    coords, labels = tissue()
    query = replace(cells(coords, None), sections=("whole", "lost"))
    _, agreement = laid(maps, query, expression(labels, 1), guesses(labels, 0.9), 0.9)
    assert list(agreement) == ["whole"]
    other = replace(query, section=np.ones(len(coords), dtype=np.int64), sections=("lost", "whole"))
    assert laid(maps, other, expression(labels, 1), guesses(labels, 0.9), 0.9)[1] == agreement
