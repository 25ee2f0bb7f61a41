"""A dense convolutional network with the rate head and nothing else: what levels that talk have to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import numpy as np

from stgnn.data.expression import Expression
from stgnn.data.slide import Slide
from stgnn.methods.base import ExpressionPredictor
from stgnn.rate_model import NONE, Settings, fit_rates, pack, predict_rates, unpack
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
    crop_um
        Side of a training crop in micrometres.
    bins, points_um
        Bins learned from in each crop, at most, and side of the square of which each gets one place in a bin.
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
    crop_um: float = 1280.0
    bins: int = 2500
    points_um: float = 32.0
    steps: int = 1500
    rate: float = 3e-3
    random_state: int = 0
    device: str = "auto"
    checkpoint: str | None = None

    def fit(self, slides: Sequence[Slide]) -> Self:
        """Train the network."""
        self.genes_ = slides[0].genes
        self.rates_ = fit_rates(slides, self._settings())
        self.scale_, self.curve_ = self.rates_.scale, self.rates_.curve
        return self

    def predict(self, slide: Slide) -> Expression:
        """Integrate the rates over each bin."""
        return predict_rates(self.rates_, slide, self._settings())

    def _settings(self) -> Settings:
        return Settings(
            convolution=True,
            encoder=NONE,
            mpp=self.mpp,
            feature_um=1.0,
            registration=False,
            parts=Parts(cross_attention=False, graph=False),
            recipe=Recipe(crop_um=self.crop_um, bins=self.bins, points_um=self.points_um, coarse_um=0.0),
            steps=self.steps,
            rate=self.rate,
            members=1,
            views=1,
            random_state=self.random_state,
            device=self.device,
            checkpoint=self.checkpoint,
        )

    def _arrays(self) -> dict[str, np.ndarray]:
        return pack(self.rates_)

    def _facts(self) -> dict[str, Any]:
        return {"scale_": self.scale_, "curve_": self.curve_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.rates_ = unpack(arrays, self._settings(), self.scale_, self.curve_)
