"""Cells without an answer: strangeness and the score of rejection."""

from __future__ import annotations

import numpy as np
import pytest

from stgnn.shallow import Clusters
from stgnn.unknown import rejection, strangeness, usual


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
    strange = strangeness(*tissue)
    assert strange[240:].min() > 3 * strange[:240].max()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6])
def test_an_unknown_type_is_called_so_however_common_it_is(tissue, share):
    features, kind, clusters, means = tissue
    rng = np.random.default_rng(1)
    n = int(240 * share / (1 - share))
    strangers = (np.array([0, 0, 4.0, 4]) + rng.normal(0, 0.5, (n, 4))).astype(np.float32)
    features, kind = np.vstack([features[:240], strangers]), np.r_[kind[:240], np.ones(n, dtype=int)]
    strange = strangeness(features, kind, clusters, means)
    score = rejection(np.full((240 + n, 2), [0.95, 0.05]), strange / usual(strange))
    assert score[240:].min() > 0.9
    assert score[:240].max() < 0.6


def test_strangeness_equals_its_equation(tissue):
    features, kind, _, means = tissue
    member = np.repeat([0, 1, 2], [120, 120, 30])
    around = np.stack([features[member == k].mean(0) for k in range(3)])[member]
    spread = np.sqrt(((features - around) ** 2).mean(0)) + 0.1
    distance = np.sqrt((((around - means[kind]) / spread) ** 2).mean(1))
    np.testing.assert_allclose(strangeness(*tissue), distance, rtol=1e-5)


def test_one_poor_cell_of_a_known_kind_is_not_strange(tissue):
    features, kind, clusters, means = tissue
    features[0] += 2.5  # still nearest to its kind
    strange = strangeness(features, kind, clusters, means)
    assert strange[0] < 1.5 * usual(strange)


def test_rejection_grows_with_strangeness_and_with_doubt():
    proba = np.array([[0.9, 0.1], [0.9, 0.1], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0]])
    score = rejection(proba, np.array([1.0, 2.0, 1.0, 0.0, 50.0]))
    assert score[0] < score[1]
    assert score[0] < score[2]
    np.testing.assert_allclose(score[3:], [0, 1])
