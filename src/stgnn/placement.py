"""Where the bins of a slide lie on its image: an affine map, learned from what they hold and what the image shows."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import Ridge

from stgnn.data.slide import Slide
from stgnn.fields import Features
from stgnn.linear_rates import Evidence

if TYPE_CHECKING:
    from jaxtyping import Float, Int

logger = logging.getLogger(__name__)

_FEWEST, _MOST = 2000, 30_000
"""Bins below which a shift is chance, and at most so many are looked at."""

_PATTERNS = 16
_PENALTY = 0.1
"""Of the squared weights of features, for each bin; shrunken maps would say too short a way."""

_BLOCK_UM = 640.0
_DIFFERENCE_UM = 8.0
_ROUNDS, _DONE_UM, _FARTHEST_UM = 20, 0.1, 100.0
_GAIN = 0.01
"""Share by which what held-out blocks show of their counts must grow for bins to be moved."""


@dataclass(frozen=True)
class Placement:
    r"""An affine correction of places, :math:`p \mapsto p + (1, u)^\top S` with :math:`u = (p - c) / w`.

    Parameters
    ----------
    centre, width
        c and w in micrometres: the middle of the bins it was learned from, and their spread.
    shift
        S in micrometres (3, 2): of the middle, and what a spread to the right and down adds.
    """

    centre: Float[np.ndarray, " 2"]
    width: float
    shift: Float[np.ndarray, "3 2"]

    def move(self, places: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Places (n, 2) in micrometres, on the image that the bins were measured on."""
        return places + self._basis(places) @ self.shift

    def _basis(self, places: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
        return np.column_stack([np.ones(len(places)), (places - self.centre) / self.width])

    def moved(self, slide: Slide) -> Slide:
        """A slide with its bins where they belong; bins that were laid over the image stay."""
        if slide.laid:
            return slide
        return replace(slide, places=np.clip(self.move(slide.places), 0, slide.image.size_um))

    def nearer(self, step: Float[np.ndarray, "3 2"]) -> Placement:
        """The correction after one more step."""
        return replace(self, shift=self.shift + step)

    def farthest(self, places: Float[np.ndarray, "n 2"]) -> float:
        """Largest distance in micrometres by which places are moved."""
        return float(np.linalg.norm(self.move(places) - places, axis=1).max())


def placement(slides: list[Evidence], random_state: int) -> Placement | None:
    r"""Find where bins lie on their image.

    Maps :math:`M_k` of the counts' strongest patterns, linear in the features of the image, are learned on half of the
    blocks of the tissue. The other half is moved to where it fits them best, by Gauss-Newton steps on

    .. math:: \sum_n \sum_k \big(y_{nk} - M_k(p_n + (1, u_n)^\top S)\big)^2

    and the other way round, until nothing moves. Features look the same to all sides, so maps learned from bins that
    lie askew still say where they belong. A scanner's and an array's frames differ by a rotation and a scale, hence
    affine: it holds for parts of the slide that were not looked at.

    References
    ----------
    Lucas and Kanade, An iterative image registration technique, IJCAI 1981.

    Parameters
    ----------
    slides
        What the bins of one image tell; those with most counts are looked at.
    random_state
        Seed of the choice of bins, where there are more than needed.

    Returns
    -------
    None if there are too few bins, or if held-out blocks fit no better once moved.
    """
    known = max(slides, key=lambda slide: float(slide.total.sum()))
    if len(known.places_um) < _FEWEST:
        return None
    rows = np.random.default_rng(random_state).permutation(len(known.places_um))[:_MOST]
    places = known.places_um[np.sort(rows)]
    patterns = _strongest(known, np.sort(rows), random_state)
    block = (np.floor(places / _BLOCK_UM).astype(np.int64).sum(1)) % 2
    if np.ptp(block) == 0:
        return None
    start = found = Placement(places.mean(0), float(places.std()), np.zeros((3, 2)))
    errors: list[float] = []
    for _ in range(_ROUNDS):
        step, error = _step(found, known.features, places, patterns, block)
        errors.append(error)
        moving = start.nearer(step).farthest(places)
        if moving < _DONE_UM:
            break
        found = found.nearer(step * min(1.0, known.features.um / moving))  # maps say little of what lies farther
    shown, before = 1 - errors[-1], 1 - errors[0]
    if shown - before < _GAIN * max(before, 0.0) or shown <= 0 or found.farthest(places) > _FARTHEST_UM:
        return None
    logger.info(
        "bins moved by up to %.0f um to fit their image: counts that held-out blocks show %.3f, before %.3f",
        found.farthest(places),
        shown,
        before,
    )
    return found


def _strongest(known: Evidence, rows: Int[np.ndarray, " k"], random_state: int) -> Float[np.ndarray, "k patterns"]:
    """Scores of bins on the strongest patterns of their counts, each of variance 1."""
    counts, total = known.counts[rows], known.total[rows]
    mean = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel() / total.sum()
    seen = np.flatnonzero(mean > 0)
    counts, mean = counts[:, seen], mean[seen]
    residual = (counts.multiply(1 / total[:, None]).toarray() - mean) * np.sqrt(total / total.mean())[:, None]
    scores = TruncatedSVD(min(_PATTERNS, len(seen) - 1), random_state=random_state).fit_transform(
        residual / np.sqrt(mean)
    )
    return (scores - scores.mean(0)) / np.maximum(scores.std(0), 1e-12)


def _step(
    now: Placement,
    features: Features,
    places: Float[np.ndarray, "n 2"],
    patterns: Float[np.ndarray, "n k"],
    block: Int[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, "3 2"], float]:
    """One Gauss-Newton step, and the share of the patterns that held-out blocks do not show so far."""
    at, basis = now.move(places), now._basis(places)
    normal, right, error = np.zeros((6, 6)), np.zeros(6), 0.0
    for held in (0, 1):
        known, test = block != held, block == held
        model = Ridge(_PENALTY * int(known.sum())).fit(features.read(at[known]), patterns[known])
        shown = Features((features.values @ model.coef_.T).astype(np.float32), features.um)
        left = patterns[test] - model.intercept_ - shown.read(at[test])
        error += float((left**2).sum())
        slope = [
            (shown.read(at[test] + d) - shown.read(at[test] - d)) / (2 * _DIFFERENCE_UM)
            for d in _DIFFERENCE_UM * np.eye(2)
        ]
        for k in range(patterns.shape[1]):
            design = np.hstack([basis[test] * side[:, k : k + 1] for side in slope])
            normal += design.T @ design
            right += design.T @ left[:, k]
    step = np.linalg.lstsq(normal, right, rcond=None)[0]
    return step.reshape(2, 3).T, error / patterns.size
