"""HEST-bench's regression: 256 principal components of frozen features, and one fixed penalty."""

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


@final
@dataclass(eq=False)
class RidgeHest(ExpressionPredictor):
    r"""Standardise, keep the first principal components, solve a ridge without an intercept.

    .. math:: \hat W = \arg\min_W \lVert Y - P W \rVert^2 + \alpha \lVert W \rVert^2

    with :math:`P` the components of the standardised features and :math:`Y` the log of counts, scaled to one total.
    Components have mean 0, so a ridge without an intercept misses the mean of :math:`Y`: the benchmark's correlations
    do not see that, but shares of counts do, so the mean is added to what is predicted.

    Parameters
    ----------
    encoder
        Encoder of the image.
    components
        Principal components to keep; all, where there are fewer features or bins.
    penalty
        :math:`\alpha`; the benchmark's, for 256 components and 50 genes.
    random_state
        Seed of the principal components, where features are so many that these are found by random projection.

    References
    ----------
    Jaume et al., HEST-1k, arXiv 2406.16192. The benchmark solves by LSQR; the solution here is the exact one.
    """

    encoder: str = "colour-texture"
    components: int = 256
    penalty: float = 100 / (256 * 50)
    random_state: int = 0

    def fit(self, slides: Sequence[Slide]) -> Self:
        """Fit scaler, components and weights, one after the other."""
        self.genes_, self.scale_ = slides[0].genes, predicting.scale_of(slides)
        self.width_um_ = predicting.one_width(slides, "ridge-hest")
        x = np.concatenate(predicting.features(slides, self.encoder))
        y = np.concatenate([predicting.with_density(slide, self.scale_) for slide in slides])
        self.mean_ = y.mean(0, dtype=np.float64).astype(np.float32)
        self.centre_, self.weight_ = self._solved(x, y)
        return self

    def predict(self, slide: Slide) -> Expression:
        """Weigh the features of each bin."""
        predicting.same_width(slide, self.width_um_, "ridge-hest")
        (x,) = predicting.features([slide], self.encoder)
        y = (x - self.centre_) @ self.weight_ + self.mean_
        return predicting.expression_of(y[:, :-1], y[:, -1], slide, self.scale_)

    def _solved(
        self, x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n outputs"]
    ) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d outputs"]]:
        """Centre of the features and weights on them: scaler, components and ridge in one product, made in float64."""
        from sklearn.decomposition import PCA
        from sklearn.linear_model import Ridge
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler()
        z = scaler.fit_transform(x)
        pca = PCA(min(self.components, *z.shape), random_state=self.random_state)
        components = pca.fit_transform(z)
        # Where there are far more bins than features, both solve by sums over bins, of features by features.
        ridge = Ridge(alpha=self.penalty, fit_intercept=False, solver="cholesky").fit(components, y)
        axes = pca.components_.astype(np.float64).T / scaler.scale_[:, None]  # (d, components)
        weight = axes @ np.atleast_2d(ridge.coef_).T.astype(np.float64)
        centre = scaler.mean_ + scaler.scale_ * pca.mean_
        return centre.astype(np.float32), weight.astype(np.float32)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"centre": self.centre_, "weight": self.weight_, "mean": self.mean_}

    def _facts(self) -> dict[str, Any]:
        return {"scale_": self.scale_, "width_um_": self.width_um_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.centre_, self.weight_, self.mean_ = arrays["centre"], arrays["weight"], arrays["mean"]
