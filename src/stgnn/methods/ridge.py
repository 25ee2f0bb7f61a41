"""Ridge regression of expression on frozen features of an image: the field's yardstick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np

from stgnn import predicting
from stgnn.data.expression import Expression
from stgnn.data.slide import Slide
from stgnn.methods.base import ExpressionPredictor

if TYPE_CHECKING:
    from jaxtyping import Float

_ROWS = 16384
_PENALTIES = tuple(10.0 ** np.arange(-3, 6.5))


@final
@dataclass(eq=False)
class Ridge(ExpressionPredictor):
    r"""Linear in the features, with a penalty that other patients or other blocks chose.

    .. math:: \hat W = \arg\min_W \lVert Y - Z W \rVert^2 + \alpha \lVert W \rVert^2

    with :math:`Z` standardised features and :math:`Y` the log of counts, scaled to one total, less their mean.

    Parameters
    ----------
    encoder
        Encoder of the image.
    components
        Principal components of the features to keep; 0 for the features themselves.
    penalty
        :math:`\alpha`; None to choose it by inner folds of patients, or of blocks of a single slide.

    References
    ----------
    Jaume et al., HEST-1k, arXiv 2406.16192, whose benchmark has 256 components and the penalty 100 / (256 * 50).
    """

    encoder: str = "colour-texture"
    components: int = 0
    penalty: float | None = None

    def fit(self, slides: Sequence[Slide]) -> Self:
        """Solve for the weights, from sums over blocks of rows."""
        self.genes_, self.scale_ = slides[0].genes, predicting.scale_of(slides)
        self.width_um_ = predicting.one_width(slides, "ridge")
        x = np.concatenate(predicting.features(slides, self.encoder))
        self.centre_, spread = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
        axes = np.diag(1 / np.where(spread > 1e-9, spread, 1.0))
        if self.components:
            axes = axes @ _principal(x, self.centre_, axes, self.components)
        group = np.concatenate(predicting.groups_of(slides))
        y = np.concatenate([predicting.with_density(slide, self.scale_) for slide in slides])
        self.mean_ = y.mean(0, dtype=np.float64)
        sums = [_sums((x[rows] - self.centre_) @ axes, y[rows] - self.mean_) for rows in _parts(group)]
        self.penalty_ = _chosen(sums) if self.penalty is None else self.penalty
        self.weight_ = (axes @ _solve(_joined(sums), self.penalty_)).astype(np.float32)
        return self

    def predict(self, slide: Slide) -> Expression:
        """Weigh the features of each bin."""
        predicting.same_width(slide, self.width_um_, "ridge")
        (x,) = predicting.features([slide], self.encoder)
        y = (x - self.centre_.astype(np.float32)) @ self.weight_ + self.mean_.astype(np.float32)
        return predicting.expression_of(y[:, :-1], y[:, -1], slide, self.scale_)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"centre": self.centre_, "weight": self.weight_, "mean": self.mean_}

    def _facts(self) -> dict[str, Any]:
        return {"scale_": self.scale_, "width_um_": self.width_um_, "penalty_": self.penalty_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.centre_, self.weight_, self.mean_ = arrays["centre"], arrays["weight"], arrays["mean"]


Sums = tuple[np.ndarray, np.ndarray, np.ndarray, int]
"""Z'Z, Z'Y, the squares of Y by gene, and the number of rows: all that a ridge needs to know of them."""


def _parts(group: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(group == code) for code in np.unique(group)]


def _sums(z: Float[np.ndarray, "n f"], y: Float[np.ndarray, "n g"]) -> Sums:
    return z.T @ z, z.T @ y, (y * y).sum(0), len(z)


def _joined(sums: Sequence[Sums]) -> Sums:
    zz, zy, yy, n = (sum(part) for part in zip(*sums, strict=True))
    return zz, zy, yy, n


def _solve(sums: Sums, penalty: float) -> Float[np.ndarray, "f g"]:
    zz, zy, _, _ = sums
    return np.linalg.solve(zz + penalty * np.eye(len(zz)), zy)


def _chosen(sums: Sequence[Sums]) -> float:
    """Penalty whose weights, learned from all groups but one, leave the least squared error in that one, over groups.

    Each gene's error is divided by its variance, so that no few genes choose for all.
    """
    if len(sums) < 2:
        return _PENALTIES[len(_PENALTIES) // 2]
    variance = np.maximum(_joined(sums)[2], 1e-12)
    error = np.zeros(len(_PENALTIES))
    for out, (zz, zy, yy, _) in enumerate(sums):
        rest = _joined([part for number, part in enumerate(sums) if number != out])
        for number, penalty in enumerate(_PENALTIES):
            w = _solve(rest, penalty)
            error[number] += ((yy - 2 * (w * zy).sum(0) + (w * (zz @ w)).sum(0)) / variance).mean()
    return _PENALTIES[int(error.argmin())]


def _principal(x: np.ndarray, centre: np.ndarray, axes: np.ndarray, k: int) -> Float[np.ndarray, "f k"]:
    """First principal axes of standardised features."""
    cross = np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), _ROWS):
        z = (x[start : start + _ROWS] - centre) @ axes
        cross += z.T @ z
    return np.linalg.eigh(cross)[1][:, ::-1][:, :k]
