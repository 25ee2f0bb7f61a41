"""The self-trained mixture of simple experts: the sibling to beat, and the idea the model's own teacher grew from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
import scipy.sparse as sp
from scipy.special import softmax

from stgnn import experts
from stgnn.council import MAX_GENES
from stgnn.data.cells import Cells, Prediction
from stgnn.methods.base import Annotator
from stgnn.shallow import View
from stgnn.standins import labels_of, typical_depth

AROUND = (12, 50)


@final
@dataclass(eq=False)
class Mixture(Annotator):
    r"""Four experts of expression, equally weighted, and students of the query's own confident guesses.

    .. math:: \log p = \log p_{student} + \tfrac12 \sum_e \log p_e

    The experts are a nearest-neighbour vote and a regression after Harmony, and tempered negative-binomial profiles
    with and without a platform scale. Transductive: every prediction runs on the stored reference.

    Parameters
    ----------
    neighbours
        Whether the students also see the mean expression of the 12 and 50 nearest cells.
    rounds
        Rounds of self-training; 0 for the mixture alone.
    random_state
        Seed.

    Examples
    --------
    >>> from stgnn.data.cells import align, read_query, read_reference
    >>> from stgnn.data.toy import toy
    >>> adata, adata_query = toy(n_cells=120)
    >>> reference, query = align(read_reference(adata), read_query(adata_query))
    >>> Mixture().fit(reference, query).predict_proba(query).shape
    (120, 5)
    """

    neighbours: bool = False
    rounds: int = 4
    random_state: int = 0

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Keep the reference; the query is judged when it is asked about."""
        self.genes_, self.types_ = reference.genes, reference.types
        self.counts_, self.labels_ = reference.counts, labels_of(reference)
        return self

    def predict(self, query: Cells) -> Prediction:
        """Annotate cells that have the genes the method was fitted with."""
        depth, n = typical_depth(query), len(self.labels_)
        known = experts.standardise(experts.log_normalise(self.counts_, depth))
        asked = experts.standardise(experts.log_normalise(query.counts, depth))
        parts = experts.joint_pca(known, asked, 50 if known.shape[1] > MAX_GENES else 30, self.random_state)
        batch = np.r_[np.zeros(n, dtype=int), np.ones(len(query), dtype=int)]
        aligned = experts.harmony(parts[:, :30], batch, random_state=self.random_state)
        proba = experts.mix(self._experts(query, aligned[:n], aligned[n:]))
        features = asked if known.shape[1] <= MAX_GENES else (parts / parts.std(0))[n:].astype(np.float32)
        spatial = self.neighbours and query.coords is not None
        if self.rounds:
            seen = View(query, features).with_neighbours(AROUND if spatial else ())
            proba, _ = experts.self_train(proba, seen, self.rounds)
        details = {"space_used": spatial}
        return Prediction(proba.astype(np.float32), aligned[n:], 1 - proba.max(1), 1.0, details)

    def _experts(self, query: Cells, near: np.ndarray, far: np.ndarray) -> list[np.ndarray]:
        n_types = len(self.types_)
        rates = experts.profiles(self.counts_, self.labels_, n_types)
        ambient = np.asarray(query.counts.sum(0)).ravel() / query.counts.sum()
        both = experts.with_ambient(rates, ambient), experts.platform_rates(query.counts, rates)
        scores = [experts.profile_scores(query.counts, r) for r in both]
        return [
            experts.vote(near, self.labels_, far, n_types),
            experts.logistic(near, self.labels_, far, n_types, C=0.3, balanced=True),
            *(softmax(s * experts.temperature(s), axis=1) for s in scores),
        ]

    def _arrays(self) -> dict[str, np.ndarray]:
        counts = self.counts_
        return {"data": counts.data, "indices": counts.indices, "indptr": counts.indptr, "labels": self.labels_}

    def _facts(self) -> dict[str, Any]:
        return {}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        shape = (len(arrays["labels"]), len(self.genes_))
        self.counts_ = sp.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
        self.labels_ = arrays["labels"]
