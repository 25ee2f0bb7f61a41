"""The predictor that never looks at the image: what a bin holds on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import numpy as np

from stgnn import predicting
from stgnn.data.expression import Expression
from stgnn.data.slide import Slide
from stgnn.methods.base import ExpressionPredictor


@final
@dataclass(eq=False)
class Mean(ExpressionPredictor):
    r"""The same for every bin: :math:`\hat p_g = \sum_i c_{ig} / \sum_i t_i`, and counts by area.

    Scores above it are what an image adds.

    Examples
    --------
    >>> Mean().any_width
    True
    """

    any_width: ClassVar[bool] = True

    def fit(self, slides: Sequence[Slide]) -> Self:
        """Average the counts of all bins."""
        self.genes_ = slides[0].genes
        share, self.density_ = predicting.mean_profile(slides)
        self.share_ = share.astype(np.float32)
        return self

    def predict(self, slide: Slide) -> Expression:
        """Give every bin the mean."""
        n = len(slide)
        share = np.broadcast_to(self.share_, (n, len(self.share_))).copy()
        return Expression(share, np.full(n, self.density_ * slide.area_um2), np.full(n, np.nan, dtype=np.float32))

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"share": self.share_}

    def _facts(self) -> dict[str, Any]:
        return {"density_": self.density_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.share_ = arrays["share"]
