"""MagNet: expression from histology at any resolution, by levels of tissue that talk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import numpy as np

from stgnn.data.expression import Expression
from stgnn.data.schema import check_option
from stgnn.data.slide import Slide
from stgnn.methods.base import ExpressionPredictor
from stgnn.rate_model import Settings, fit_rates, pack, predict_rates, unpack
from stgnn.rate_training import LIKELIHOODS, Recipe
from stgnn.rates import Parts


@final
@dataclass(eq=False)
class MagNet(ExpressionPredictor):
    r"""Rates over a slide, read at each place from maps of five strides; see :class:`stgnn.rates.RateNetwork`.

    .. math:: c_{ng} \sim \mathrm{Poisson}\big(t_n\, p_{ng}\big), \quad
        p_{ng} = \frac{\int_n \rho(r)\, p_g(r)\, dr}{\int_n \rho(r)\, dr}

    The rate is integrated over any bin or spot, so one fitted model predicts bins of any width. Of three slides or
    patients or more one is held out: it tells when to stop, and whether the network is better than its start at all
    (``kept`` in ``curve_``).

    References
    ----------
    Zhu et al., MagNet: Multi-Level Attention Graph Network for Predicting High-Resolution Spatial Transcriptomics,
    arXiv 2502.21011. The paper's model is another in this: it has a head for each of its three resolutions, trained to
    agree.

    Parameters
    ----------
    encoder
        Frozen encoder whose features the network is told beside what it sees, and by linear rates in which
        (:mod:`stgnn.linear_rates`) it starts; "none" for none.
    registration
        Whether bins of slides that are learned from are moved to where the frozen features show what they hold
        (:mod:`stgnn.placement`), and others on the same images with them.
    convolution
        Whether convolutions, trained with the rest, see the image; else all is learned from frozen features.
    cross_attention, graph
        Whether places attend to the levels of spots and regions, and whether the cells of these talk with their
        neighbours first. Off: measured on three quadrants of a kidney they add nothing to maps of five strides read
        at each place, and a third of the cost.
    likelihood
        "poisson", "negative-binomial", or "gaussian", of log-normalised values.
    coarse_um
        Side of the squares, in micrometres, whose summed counts are learned beside those of the bins; 0 for none.
    mpp
        Micrometres per pixel at which the convolutions see the image.
    feature_um
        Micrometres between frozen features.
    crop_um
        Side of a training crop in micrometres.
    bins, points_um
        Bins learned from in each crop, at most, and side of the square of which each gets one place in a bin.
    steps, rate
        Updates of each network, and the highest learning rate.
    members, views
        Networks, and symmetric views of the image, whose predictions are averaged.
    random_state
        Seed.
    device
        "auto", "cpu", "cuda", ...
    checkpoint
        Folder that keeps the state of training; a killed run resumes from it.
    """

    any_width: ClassVar[bool] = True

    encoder: str = "colour-texture"
    registration: bool = True
    convolution: bool = True
    cross_attention: bool = False
    graph: bool = False
    likelihood: str = "poisson"
    coarse_um: float = 0.0
    mpp: float = 2.0
    feature_um: float = 32.0
    crop_um: float = 1280.0
    bins: int = 2500
    points_um: float = 32.0
    steps: int = 2000
    rate: float = 3e-3
    members: int = 1
    views: int = 2
    random_state: int = 0
    device: str = "auto"
    checkpoint: str | None = None

    def fit(self, slides: Sequence[Slide]) -> Self:
        """Train the networks."""
        check_option("likelihood", self.likelihood, LIKELIHOODS)
        self.genes_ = slides[0].genes
        self.rates_ = fit_rates(slides, self._settings())
        self.scale_, self.curve_ = self.rates_.scale, self.rates_.curve
        return self

    def predict(self, slide: Slide) -> Expression:
        """Integrate the rates over each bin."""
        return predict_rates(self.rates_, slide, self._settings())

    def _settings(self) -> Settings:
        return Settings(
            convolution=self.convolution,
            encoder=self.encoder,
            mpp=self.mpp,
            feature_um=self.feature_um,
            registration=self.registration,
            parts=Parts(self.cross_attention, self.graph),
            recipe=Recipe(
                self.likelihood,
                crop_um=self.crop_um,
                bins=self.bins,
                points_um=self.points_um,
                coarse_um=self.coarse_um,
            ),
            steps=self.steps,
            rate=self.rate,
            members=self.members,
            views=self.views,
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
