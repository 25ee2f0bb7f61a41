"""A dense convolutional network with the rate head and nothing else: what levels that talk have to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import numpy as np

from stgnn.data.expression import Expression
from stgnn.data.slide import Slide
from stgnn.methods.base import ExpressionPredictor
from stgnn.rate_model import CONVOLUTION, Settings, fit_rates, pack, predict_rates, unpack
from stgnn.rate_training import Recipe
from stgnn.rates import Parts


@final
@dataclass(eq=False)
class Dense(ExpressionPredictor):
    r"""Maps of an image at several strides, read at each place: :math:`\log p(r) = f(m_0(r), \dots, m_L(r))`.

    Trained as MagNet is, by the Poisson likelihood of each bin's counts given its total, without attention between
    levels, without a graph, without sums over coarser squares, and by one network that sees one view.

    Parameters
    ----------
    mpp
        Micrometres per pixel at which the image is seen.
    crop
        Side of a training crop in pixels.
    bins, points
        Bins learned from in each crop, and places in each bin.
    steps, rate
        Updates, and the highest learning rate.
    random_state
        Seed.
    device
        "auto", "cpu", "cuda", ...
    checkpoint
        Folder that keeps the state of training; a killed run resumes from it.
    """

    any_width: ClassVar[bool] = True

    mpp: float = 2.0
    crop: int = 640
    bins: int = 2500
    points: int = 1
    steps: int = 1500
    rate: float = 3e-3
    random_state: int = 0
    device: str = "auto"
    checkpoint: str | None = None

    def fit(self, slides: Sequence[Slide]) -> Self:
        """Train the network."""
        self.genes_ = slides[0].genes
        self.model_ = fit_rates(slides, self._settings())
        self.expected_ = self.model_.expected
        return self

    def predict(self, slide: Slide) -> Expression:
        """Integrate the rates over each bin."""
        return predict_rates(self.model_, slide, self._settings())

    def _settings(self) -> Settings:
        return Settings(
            encoder=CONVOLUTION,
            mpp=self.mpp,
            feature_um=1.0,
            parts=Parts(cross_attention=False, graph=False),
            recipe=Recipe(crop=self.crop, bins=self.bins, points=self.points, coarse_um=0.0),
            steps=self.steps,
            rate=self.rate,
            members=1,
            views=1,
            random_state=self.random_state,
            device=self.device,
            checkpoint=self.checkpoint,
        )

    def _arrays(self) -> dict[str, np.ndarray]:
        return pack(self.model_)

    def _facts(self) -> dict[str, Any]:
        return {"scale_": self.model_.scale, "curve_": self.model_.curve}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        own: dict[str, Any] = vars(self)
        self.model_ = unpack(arrays, self._settings(), own["scale_"], own["curve_"])
        self.expected_ = self.model_.expected
