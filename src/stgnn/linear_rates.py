"""Rates linear in frozen features, one map a slide, averaged: what a network of rates starts from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import scipy.sparse as sp
from scipy.ndimage import gaussian_filter1d
from sklearn.cross_decomposition import PLSRegression

from stgnn.fields import Features

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

WIDE_UM = 100.0
"""Standard deviation of the Gaussian by which features are averaged around a place, which they are told beside."""

_FEW = 32
"""Bins that a slide must have to be heard."""

_VALUES = 15_000_000
"""Bins times genes, or features, of a slide to learn from at most."""

_COUNTS = 20.0
"""Counts of a gene in a slide at which its map is halved: of few counts it is mostly noise."""

_LEAST = 0.1
"""Spread over a slide's bins, of 1 over its tissue, that a feature must have: its weight would be of chance."""

_TRUNCATE = 2.0


@dataclass(frozen=True)
class Evidence:
    """What one slide tells of rates.

    Parameters
    ----------
    features
        Frozen features of the slide.
    places_um
        Centres of its bins (n, 2), x and y.
    counts, total
        Counts (n, genes), and over the whole transcriptome (n,).
    """

    features: Features
    places_um: Float[np.ndarray, "n 2"]
    counts: sp.csr_matrix
    total: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class LinearRates:
    r"""Shares relative to their means, and log density, by partial least squares in each slide.

    .. math:: \frac{p_g(r)}{\pi_g} - 1 = \frac{1}{S} \sum_{s=1}^{S} \frac{n_{sg}}{n_{sg} + 20}\, x(r)^\top
        \big(u_{s1} q_{s1g} + \tfrac{1}{2} u_{s2} q_{s2g}\big)

    with :math:`x` the features of a place and their average around it, :math:`n_{sg}` the counts of a gene in a slide,
    and u, q the two components that explain most of the covariance of features and Pearson residuals
    :math:`(c_{ng} / t_n - \pi_{sg}) / \sqrt{\pi_{sg}}`; log density likewise, from one component. Scores have mean 0
    over the tissue of any slide. Hundreds of features of a few hundred spots carry over to another patient only by
    their strongest directions; what slides differ in is averaged away.

    Parameters
    ----------
    own, wide
        Weights (features, r) of the features of a place, and of their average around it, in each score.
    say
        What each score adds to the shares, relative to their means, and, last, to the log density (r, genes + 1).

    References
    ----------
    Wold, Sjöström and Eriksson, PLS-regression: a basic tool of chemometrics, Chemometr. Intell. Lab. Syst. 2001.
    """

    own: Float[np.ndarray, "f r"]
    wide: Float[np.ndarray, "f r"]
    say: Float[np.ndarray, "r outputs"]

    @classmethod
    def fit(cls, slides: Sequence[Evidence], share: Float[np.ndarray, " g"], random_state: int) -> Self:
        """Learn a map of each slide that has enough bins.

        Parameters
        ----------
        slides
            What they tell.
        share
            Mean share of each gene over all slides (genes,).
        random_state
            Seed of the choice of bins, where there are more than needed.
        """
        rng = np.random.default_rng(random_state)
        maps = [found for slide in slides if (found := _map(slide, share, rng)) is not None]
        if not maps:
            f, none = slides[0].features.values.shape[2], np.zeros((0, len(share) + 1), dtype=np.float32)
            return cls(np.zeros((f, 0), dtype=np.float32), np.zeros((f, 0), dtype=np.float32), none)
        own, wide, say = zip(*maps, strict=True)
        return cls(np.hstack(own), np.hstack(wide), np.vstack(say) / np.float32(len(maps)))

    def merged(self, other: LinearRates) -> LinearRates:
        """Average over the slides of both, each of which has as many scores as any."""
        slides = max(1, len(self.say) + len(other.say))
        say = [lines.say * np.float32(len(lines.say) / slides) for lines in (self, other)]
        return LinearRates(np.hstack([self.own, other.own]), np.hstack([self.wide, other.wide]), np.vstack(say))

    def joined(self, features: Features) -> Features:
        """Features with the scores as further channels."""
        values, on = features.values, has_features(features)
        scores = values @ self.own + around(values @ self.wide, on, WIDE_UM / features.um)
        if on.any():
            scores[on] -= scores[on].mean(0)
        return Features(np.concatenate([values, scores], axis=2), features.um)


def has_features(features: Features) -> Bool[np.ndarray, "h w"]:
    """Which cells of a lattice have features."""
    return (features.values != 0).any(2)


def around(values: Float[np.ndarray, "h w c"], on: Bool[np.ndarray, "h w"], cells: float) -> Float[np.ndarray, "h w c"]:
    """Average over the tissue around each cell, by a Gaussian of that standard deviation; zero beyond the tissue.

    Examples
    --------
    >>> on = np.array([[True, True, False, True]])
    >>> around(np.array([[[2.0], [2.0], [0.0], [2.0]]]), on, 1.0).ravel().round(3).tolist()
    [2.0, 2.0, 0.0, 2.0]
    """
    weight, out = on.astype(np.float32), np.where(on[:, :, None], values, 0).astype(np.float32)
    for axis in (0, 1):
        weight = gaussian_filter1d(weight, cells, axis=axis, mode="constant", truncate=_TRUNCATE)
        out = gaussian_filter1d(out, cells, axis=axis, mode="constant", truncate=_TRUNCATE)
    return np.where(on, 1 / np.maximum(weight, 1e-6), 0).astype(np.float32)[:, :, None] * out


def _map(
    slide: Evidence, share: Float[np.ndarray, " g"], rng: np.random.Generator
) -> tuple[Float[np.ndarray, "f r"], Float[np.ndarray, "f r"], Float[np.ndarray, "r outputs"]] | None:
    """Weights of features, and of those around, in the scores of one slide, and what the scores say; None if too few.

    Features that hardly vary are left out; a slide needs three that do.
    """
    most, genes = max(_FEW, _VALUES // max(len(share), 2 * slide.features.values.shape[2])), len(share)
    rows = np.arange(len(slide.places_um))
    if len(rows) > most:
        rows = np.sort(rng.choice(rows, most, replace=False))
    if len(rows) < _FEW:
        return None
    x = _seen(slide, rows)
    spread = x.std(0)
    varies = spread > _LEAST
    if varies.sum() < 3:
        return None
    x = (x[:, varies] - x[:, varies].mean(0)) / spread[varies]
    counts, total = slide.counts[rows], slide.total[rows]
    seen = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel()
    mean = (seen + 0.5 * np.maximum(share, 1e-8)) / (total.sum() + 0.5)
    residual = (counts.multiply(1 / total[:, None]).toarray() - mean) / np.sqrt(mean)
    weights = np.zeros((len(varies), 3), dtype=np.float32)
    say = np.zeros((3, genes + 1), dtype=np.float32)
    weights[varies, :2], loadings = _components(x, residual, 2)
    say[:2, :genes] = (loadings * (1.0, 0.5)).T * (seen / (seen + _COUNTS) / np.sqrt(mean))
    weights[varies, 2:], loadings = _components(x, np.log(total)[:, None], 1)
    say[2, genes] = loadings[0, 0]
    weights[varies] /= spread[varies, None].astype(np.float32)
    own, wide = np.split(weights, 2)
    return own, wide, say


def _seen(slide: Evidence, rows: np.ndarray) -> Float[np.ndarray, "n features"]:
    """Features of bins, and of what lies around them."""
    places, features = slide.places_um[rows], slide.features
    wide = Features(around(features.values, has_features(features), WIDE_UM / features.um), features.um)
    return np.hstack([features.read(places), wide.read(places)]).astype(np.float64)


def _components(
    x: Float[np.ndarray, "n f"], y: Float[np.ndarray, "n outputs"], k: int
) -> tuple[Float[np.ndarray, "f k"], Float[np.ndarray, "outputs k"]]:
    """Rotations and loadings of partial least squares; zero where nothing varies."""
    if np.ptp(y, axis=0).max() < 1e-9:
        return np.zeros((x.shape[1], k)), np.zeros((y.shape[1], k))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that one gene has no second component
        found = PLSRegression(k, scale=False).fit(x, y)
    return found.x_rotations_, found.y_loadings_
