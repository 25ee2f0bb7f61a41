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
    from jaxtyping import Bool, Float, Int

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
"""Share by which what one part of the tissue shows of its counts must grow, where another part says that bins lie."""


@dataclass(frozen=True)
class Placement:
    r"""An affine correction of places, :math:`p \mapsto p + (1, u)^\top S` with :math:`u = (p - c) / w`.

    Parameters
    ----------
    centre, width
        c and w in micrometres: the middle of the bins it was learned from, and their standard deviation along an axis.
    shift
        S in micrometres (3, 2): of the middle, and what a spread to the right and down adds.
    """

    centre: Float[np.ndarray, " 2"]
    width: float
    shift: Float[np.ndarray, "3 2"]

    def move(self, places: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Places (n, 2) in micrometres, on the image that the bins were measured on."""
        return places + self.basis(places) @ self.shift

    def basis(self, places: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
        """What the shift is multiplied with."""
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
    None if there are too few bins, or if what one half of the tissue says does not make the other fit better.
    """
    many = [slide for slide in slides if len(slide.places_um) >= _FEWEST]
    if not many:
        return None
    known = max(many, key=lambda slide: float(slide.total.sum()))
    rows = np.sort(np.random.default_rng(random_state).permutation(len(known.places_um))[:_MOST])
    patterns = _strongest(known, rows, random_state)
    if patterns is None:
        return None
    bins = _Bins(known.features, known.places_um[rows], patterns)
    part = _checkers(bins.places, 2 * _BLOCK_UM)
    parts = [bins.of(part == here) for here in (0, 1)]
    if not all(one.has_blocks() for one in parts):  # hardly wider than a block
        return None
    start = bins.start()
    for one, other in (parts, parts[::-1]):  # what one part of the tissue says has to hold in the other
        found, before = _fit(one), other.shown(start)
        if found is None or other.shown(found) - before <= max(_GAIN * before, 0):
            return None
    found = _fit(bins)
    if found is not None:
        logger.info("bins moved by up to %.0f um to fit their image", found.farthest(bins.places))
    return found


@dataclass(frozen=True)
class _Bins:
    """Bins of one image: what it shows, where they are said to be, and scores of their counts (n, patterns)."""

    features: Features
    places: Float[np.ndarray, "n 2"]
    patterns: Float[np.ndarray, "n k"]

    def of(self, rows: Bool[np.ndarray, " n"]) -> _Bins:
        return replace(self, places=self.places[rows], patterns=self.patterns[rows])

    def has_blocks(self) -> bool:
        """Whether there are blocks of both colours, one to learn from and one to hold out."""
        return len(np.unique(_checkers(self.places, _BLOCK_UM))) == 2

    def start(self) -> Placement:
        """Bins as they are."""
        return Placement(self.places.mean(0), max(float(self.places.std(0).mean()), 1.0), np.zeros((3, 2)))

    def shown(self, placement: Placement) -> float:
        """Share of the counts' patterns that blocks show which were not learned from."""
        return 1 - _step(placement, self)[1]


def _fit(bins: _Bins) -> Placement | None:
    """Gauss-Newton until nothing moves; None if it does not come to rest nearby."""
    start = found = bins.start()
    for _ in range(_ROUNDS):
        step, _ = _step(found, bins)
        moving = start.nearer(step).farthest(bins.places)
        if moving < _DONE_UM:
            return found
        found = found.nearer(step * min(1.0, bins.features.um / moving))  # maps say little of what lies farther
        if found.farthest(bins.places) > _FARTHEST_UM:
            return None
    return None


def _checkers(places: Float[np.ndarray, "n 2"], side_um: float) -> Int[np.ndarray, " n"]:
    """Colour (0 or 1) of the square of a checkerboard that each place lies on."""
    return np.floor(places / side_um).astype(np.int64).sum(1) % 2


def _strongest(
    known: Evidence, rows: Int[np.ndarray, " k"], random_state: int
) -> Float[np.ndarray, "k patterns"] | None:
    """Scores of bins on the strongest patterns of their counts, each of variance 1; None of fewer than two genes."""
    counts, total = known.counts[rows], known.total[rows]
    mean = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel() / total.sum()
    seen = np.flatnonzero(mean > 0)
    if len(seen) < 2:
        return None
    counts, mean = counts[:, seen], mean[seen]
    residual = (counts.multiply(1 / total[:, None]).toarray() - mean) * np.sqrt(total / total.mean())[:, None]
    scores = TruncatedSVD(min(_PATTERNS, len(seen) - 1), random_state=random_state).fit_transform(
        residual / np.sqrt(mean)
    )
    return (scores - scores.mean(0)) / np.maximum(scores.std(0), 1e-12)


def _step(now: Placement, bins: _Bins) -> tuple[Float[np.ndarray, "3 2"], float]:
    """One Gauss-Newton step, and the share of the patterns that held-out blocks do not show so far."""
    at, basis, block = now.move(bins.places), now.basis(bins.places), _checkers(bins.places, _BLOCK_UM)
    normal, right, error = np.zeros((6, 6)), np.zeros(6), 0.0
    for held in (0, 1):
        known, test = block != held, block == held
        model = Ridge(_PENALTY * max(1, int(known.sum()))).fit(bins.features.read(at[known]), bins.patterns[known])
        shown = Features((bins.features.values @ model.coef_.T).astype(np.float32), bins.features.um)
        left = bins.patterns[test] - model.intercept_ - shown.read(at[test])
        error += float((left**2).sum())
        slope = [
            (shown.read(at[test] + d) - shown.read(at[test] - d)) / (2 * _DIFFERENCE_UM)
            for d in _DIFFERENCE_UM * np.eye(2)
        ]
        for k in range(bins.patterns.shape[1]):
            design = np.hstack([basis[test] * side[:, k : k + 1] for side in slope])
            normal += design.T @ design
            right += design.T @ left[:, k]
    step = np.linalg.lstsq(normal, right, rcond=None)[0]
    return step.reshape(2, 3).T, error / bins.patterns.size
