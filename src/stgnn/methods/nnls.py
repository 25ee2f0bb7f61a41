"""Non-negative least squares of a spot's profile on the types': the plainest mixture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
from scipy.optimize import nnls

from stgnn import experts
from stgnn.data.cells import Cells, Prediction
from stgnn.methods.base import Annotator
from stgnn.standins import labels_of


@final
@dataclass(eq=False)
class Nnls(Annotator):
    r"""Shares that add up to a spot's profile as nearly as can be.

    .. math:: \hat a_s = \arg\min_{a \ge 0} \sum_g \Big(\frac{y_{sg}}{\sum_h y_{sh}} - \sum_k a_k p_{kg}\Big)^2,
        \qquad \hat p_{sk} = \hat a_{sk} \Big/ \sum_j \hat a_{sj}

    References
    ----------
    Lawson and Hanson, Solving least squares problems, 1974.

    Examples
    --------
    >>> from stgnn.data.cells import align, read_query, read_reference
    >>> from stgnn.data.toy import toy
    >>> adata, adata_query = toy(n_cells=100)
    >>> reference, query = align(read_reference(adata), read_query(adata_query))
    >>> Nnls().fit(reference, query).predict_proba(query).shape
    (100, 5)
    """

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Pool the reference's counts."""
        self.genes_, self.types_ = reference.genes, reference.types
        self.rates_ = experts.profiles(reference.counts, labels_of(reference), len(reference.types), shrink=0.0)
        return self

    def predict(self, query: Cells) -> Prediction:
        """Solve each spot by itself."""
        total = np.asarray(query.counts.sum(1)).ravel()
        found = np.array(
            [nnls(self.rates_.T, query.counts[row].toarray()[0] / total[row])[0] for row in range(len(query))]
        )
        found += 1e-12  # a spot that no type fits at all is any of them
        shares = found / found.sum(1, keepdims=True)
        return Prediction(shares, shares, np.zeros(len(query)), abundance=shares * total[:, None])

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"rates": self.rates_}

    def _facts(self) -> dict[str, Any]:
        return {}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.rates_ = arrays["rates"]
