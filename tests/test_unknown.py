"""Cells without an answer: strangeness and the score of rejection."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stgnn.data.cells import align, read_query, read_reference
from stgnn.data.schema import ModelError
from stgnn.data.toy import toy
from stgnn.methods.base import load
from stgnn.methods.spatial_transformer_gnn import THRESHOLD, SpatialTransformerGNN
from stgnn.shallow import Clusters
from stgnn.unknown import Common, discord, divergence, rejection, strangeness, usual


def _strangeness(features, kind, clusters, means) -> np.ndarray:
    members = clusters.members(features)
    common = Common.of(features, members, np.zeros(len(features)), clusters.centres.shape[1])
    return strangeness(kind, members, common, means)


def _discord(votes, features, clusters) -> np.ndarray:
    members = clusters.members(features)
    return discord(members, Common.of(features, members, divergence(votes), clusters.centres.shape[1]))


@pytest.fixture
def tissue() -> tuple[np.ndarray, np.ndarray, Clusters, np.ndarray]:
    """Three well separated kinds of cells, of which the reference knows two; the third is called the second."""
    rng = np.random.default_rng(0)
    middles = np.array([[4.0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 4]])
    kind = np.repeat([0, 1, 2], [120, 120, 30])
    features = (middles[kind] + rng.normal(0, 0.5, (270, 4))).astype(np.float32)
    clusters = Clusters(np.eye(4, dtype=np.float32), middles[None], np.zeros((1, 3, 2)))
    return features, np.minimum(kind, 1), clusters, middles[:2]


def test_cells_whose_kind_lies_far_from_their_type_are_strange(tissue):
    strange = _strangeness(*tissue)
    assert strange[240:].min() > 3 * strange[:240].max()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6])
def test_an_unknown_type_is_called_so_however_common_it_is(tissue, share):
    features, kind, clusters, means = tissue
    rng = np.random.default_rng(1)
    n = int(240 * share / (1 - share))
    strangers = (np.array([0, 0, 4.0, 4]) + rng.normal(0, 0.5, (n, 4))).astype(np.float32)
    features, kind = np.vstack([features[:240], strangers]), np.r_[kind[:240], np.ones(n, dtype=int)]
    strange = _strangeness(features, kind, clusters, means)
    score = rejection(np.full((240 + n, 2), [0.95, 0.05]), strange / usual(strange), np.ones(240 + n))
    assert score[240:].min() > 0.9
    assert score[:240].max() < THRESHOLD


def test_strangeness_equals_its_equation(tissue):
    features, kind, _, means = tissue
    member = np.repeat([0, 1, 2], [120, 120, 30])
    around = np.stack([features[member == k].mean(0) for k in range(3)])[member]
    spread = np.sqrt(((features - around) ** 2).mean(0)) + 0.1
    scale = np.sqrt(spread**2 + (0.4 * means[kind]) ** 2)
    distance = np.sqrt((((around - means[kind]) / scale) ** 2).mean(1))
    np.testing.assert_allclose(_strangeness(*tissue), distance, rtol=1e-5)


def test_what_cells_have_in_common_adds_up(tissue):
    features, _, clusters, _ = tissue
    members, apart = clusters.members(features), np.arange(270.0)
    whole = Common.of(features, members, apart, 3)
    parts = [Common.of(features[rows], members[:, rows], apart[rows], 3) for rows in (slice(100), slice(100, None))]
    for name in ("number", "features", "apart", "squares"):
        np.testing.assert_allclose(getattr(parts[0] + parts[1], name), getattr(whole, name), rtol=1e-5)


def test_one_poor_cell_of_a_known_kind_is_not_strange(tissue):
    features, kind, clusters, means = tissue
    features[0] += 2.5  # still nearest to its kind
    strange = _strangeness(features, kind, clusters, means)
    assert strange[0] < 1.5 * usual(strange)


def test_what_a_type_shows_most_of_may_move_the_most(tissue):
    features, kind, clusters, means = tissue
    kind, member = np.zeros(240, dtype=int), np.repeat([0, 1], 120)
    means = np.array([[4.0, 0, 0, 0]])
    more, other = means[0] + [1, 0, 0, 0], means[0] + [0, 0, 1, 0]
    rng = np.random.default_rng(0)
    features = (np.stack([more, other])[member] + rng.normal(0, 0.2, (240, 4))).astype(np.float32)
    clusters = Clusters(clusters.axes, np.stack([more, other])[None], np.zeros((1, 2, 1)))
    strange = _strangeness(features, kind, clusters, means)
    assert strange[120:].min() > 2 * strange[:120].max()


@pytest.fixture
def votes() -> tuple[np.ndarray, np.ndarray]:
    """Two experts that are sure: of one type for the first two kinds of cells, of two types for the third."""
    kind = np.repeat([0, 1, 2], [120, 120, 30])
    sure = np.log(np.array([[0.98, 0.02], [0.02, 0.98]]))
    return sure[np.minimum(kind, 1)], sure[np.where(kind == 1, 1, 0)]


def test_experts_that_are_sure_of_different_types_are_in_discord(tissue, votes):
    features, _, clusters, _ = tissue
    apart = _discord(votes, features, clusters)
    np.testing.assert_allclose(apart[:240], 0, atol=1e-12)
    mixed, own = np.log(2), -(0.98 * np.log(0.98) + 0.02 * np.log(0.02))
    np.testing.assert_allclose(apart[240:], mixed - own, rtol=1e-6)
    score = rejection(np.full((270, 2), [0.95, 0.05]), np.ones(270), apart / usual(apart))
    assert score[240:].min() > 0.9
    assert score[:240].max() < THRESHOLD


def test_experts_that_are_all_unsure_are_not_in_discord(tissue, votes):
    features, _, clusters, _ = tissue
    unsure = np.log(np.full((270, 2), 0.5))
    np.testing.assert_allclose(_discord([unsure, unsure + 3], features, clusters), 0, atol=1e-12)


def test_discord_is_that_of_the_cells_alike(tissue, votes):
    features, _, clusters, _ = tissue
    first, second = (said.copy() for said in votes)
    second[0] = second[0, ::-1]  # one cell on which they differ, in a kind on which they do not
    apart = _discord([first, second], features, clusters)
    np.testing.assert_allclose(apart[:120], apart[0])
    assert apart[0] < usual(apart)


def test_rejection_grows_with_strangeness_with_discord_and_with_doubt():
    proba = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    score = rejection(proba, np.array([1.0, 2, 1, 1, 0, 50, 0]), np.array([1.0, 1, 2, 1, 0, 0, 50]))
    assert (score[1:4] > score[0]).all()
    np.testing.assert_allclose(score[4:], [0, 1, 1])


def test_a_model_of_before_is_refused_when_it_is_loaded(tmp_path):
    reference, query = align(*(read(cells) for read, cells in zip((read_reference, read_query), toy(60), strict=True)))
    SpatialTransformerGNN(members=1, rounds=0, steps=1, selector=False).fit(reference, query).save(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    config["facts"]["usual_"] = config["facts"]["usual_"][0]
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"^model, contents: expected those of a 'stgnn' model; found TypeError"):
        load(tmp_path / "model")
