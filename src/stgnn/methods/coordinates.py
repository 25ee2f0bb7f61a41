"""The yardstick within a slide: expression of the nearest bins of training, without a look at the image."""

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

_CHOICES = (5, 20, 80, 320, 1280)
_JUDGED = 1500
_PART = 2048


@final
@dataclass(eq=False)
class Coordinates(ExpressionPredictor):
    r"""Mean over the nearest bins of training of the same slide, drawn towards the mean over all.

    .. math:: \hat y_n = \bar y + \frac{a}{k} \sum_{i \in N_k(n)} (y_i - \bar y)

    A slide that was not seen in training gets the mean over all. What a method scores within a slide beyond this, it
    owes to the image.

    Parameters
    ----------
    neighbours
        Nearest bins of training to average, :math:`k`, with :math:`a = 1`; None to choose both by inner folds of
        blocks, or of parts, of each slide.
    random_state
        Seed of the bins that the choice is made on.
    """

    neighbours: int | None = None
    random_state: int = 0

    def fit(self, slides: Sequence[Slide]) -> Self:
        """Keep the places and targets of all bins, and choose how many to average."""
        self.genes_, self.scale_ = slides[0].genes, predicting.scale_of(slides)
        self.width_um_ = predicting.one_width(slides, "coordinates")
        self.slides_ = [_key(slide) for slide in slides]
        self.places_ = [slide.places for slide in slides]
        self.targets_ = [predicting.with_density(slide, self.scale_) for slide in slides]
        self.mean_ = np.concatenate(self.targets_).mean(0, dtype=np.float64).astype(np.float32)
        self.neighbours_, self.trust_ = (self.neighbours, 1.0) if self.neighbours else self._chosen(slides)
        return self

    def predict(self, slide: Slide) -> Expression:
        """Average the nearest bins of training."""
        predicting.same_width(slide, self.width_um_, "coordinates")
        y = np.tile(self.mean_, (len(slide), 1))
        if self.trust_ and _key(slide) in self.slides_:
            number = self.slides_.index(_key(slide))
            near = _nearest_mean(self.places_[number], self.targets_[number], slide.places, self.neighbours_)
            y += np.float32(self.trust_) * (near - y)
        return predicting.expression_of(y[:, :-1], y[:, -1], slide, self.scale_)

    def _chosen(self, slides: Sequence[Slide]) -> tuple[int, float]:
        """Neighbours and trust that err least on parts of slides whose other parts are known.

        With d a guess's difference from the mean, and r the truth's, the best trust is the sum of d r over that of d d.
        """
        rng = np.random.default_rng(self.random_state)
        variance = np.maximum(np.concatenate(self.targets_).var(0), 1e-12)
        cross, square = np.zeros(len(_CHOICES)), np.full(len(_CHOICES), 1e-12)
        for slide, y in zip(slides, self.targets_, strict=True):
            if len(slide) < 2 * predicting.GROUPS:
                continue
            (group,) = predicting.groups_of([slide])
            for code in np.unique(group):
                known, asked = np.flatnonzero(group != code), np.flatnonzero(group == code)
                asked = rng.choice(asked, min(_JUDGED, len(asked)), replace=False)
                truth = (y[asked] - y[known].mean(0)) / variance
                for number, k in enumerate(_CHOICES):
                    guess = _nearest_mean(slide.places[known], y[known], slide.places[asked], k) - y[known].mean(0)
                    cross[number] += (guess * truth).sum()
                    square[number] += (guess * guess / variance).sum()
        trust = np.clip(cross / square, 0.0, 1.0)
        best = int((2 * trust * cross - trust**2 * square).argmax())
        return _CHOICES[best], float(trust[best])

    def _arrays(self) -> dict[str, np.ndarray]:
        places = {f"places.{number}": places for number, places in enumerate(self.places_)}
        return {**places, **{f"targets.{number}": y for number, y in enumerate(self.targets_)}, "mean": self.mean_}

    def _facts(self) -> dict[str, Any]:
        known = {"scale_": self.scale_, "width_um_": self.width_um_, "neighbours_": self.neighbours_}
        return {**known, "trust_": self.trust_, "slides_": self.slides_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        numbers = range(len(self.slides_))
        self.places_ = [arrays[f"places.{number}"] for number in numbers]
        self.targets_ = [arrays[f"targets.{number}"] for number in numbers]
        self.mean_ = arrays["mean"]


def _key(slide: Slide) -> list[str]:
    """What tells a slide from others."""
    return [slide.patient, slide.name]


def _nearest_mean(
    known: Float[np.ndarray, "m 2"], y: Float[np.ndarray, "m outputs"], asked: Float[np.ndarray, "n 2"], k: int
) -> Float[np.ndarray, "n outputs"]:
    """Mean over the k nearest of known places.

    Examples
    --------
    >>> known, y = np.array([[0.0, 0], [1, 0], [9, 0]]), np.array([[0.0], [2], [7]], dtype=np.float32)
    >>> _nearest_mean(known, y, np.array([[0.6, 0.0], [8.0, 0.0]]), 2).ravel().tolist()
    [1.0, 4.5]
    """
    from scipy.spatial import cKDTree

    k, tree = min(k, len(known)), cKDTree(known)
    out = np.empty((len(asked), y.shape[1]), dtype=np.float32)
    for start in range(0, len(asked), _PART):
        near = tree.query(asked[start : start + _PART], k=np.arange(1, k + 1))[1]
        out[start : start + _PART] = predicting.mean_of_rows(y, near)
    return out
