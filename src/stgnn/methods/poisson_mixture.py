"""Poisson regression of spots on the types' profiles, with effects of the platform read off all spots together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
import scipy.sparse as sp

from stgnn import experts, mixtures
from stgnn.data.cells import Cells, Prediction
from stgnn.data.schema import OptionError
from stgnn.methods.base import Annotator
from stgnn.standins import labels_of

_BULK_STEPS, _STEPS = 500, 150
_POISSON = 1e9


@final
@dataclass(eq=False)
class PoissonMixture(Annotator):
    r"""Mixtures under counts that vary more than Poisson's, after one correction for the platform.

    .. math:: y_{sg} \sim \mathrm{Poisson}(\lambda_{sg}), \qquad
        \log \lambda_{sg} = \log \sum_k a_{sk} p_{kg} + \gamma_g + \varepsilon_{sg}, \qquad
        \varepsilon_{sg} \sim N(0, \sigma^2)

    The effects are :math:`\gamma_g = \log \big(\sum_s y_{sg} \big/ \sum_k \beta_k p_{kg}\big)` with :math:`\beta` the
    mixture of all spots together. Where this departs from the paper: a gamma of the same first two moments stands for
    the log-normal, which makes the counts negative-binomial; :math:`\sigma` is given, since the likeliest of a few (1)
    does worse by a fifth where platforms differ; effects have no normal prior; all genes take part.

    References
    ----------
    Cable et al., Robust decomposition of cell type mixtures in spatial transcriptomics, Nat. Biotechnol. 2022: RCTD in
    its full mode.

    Parameters
    ----------
    spread
        :math:`\sigma`, above 0.

    Examples
    --------
    >>> from stgnn.data.cells import align, read_query, read_reference
    >>> from stgnn.data.toy import toy
    >>> adata, adata_query = toy(n_cells=100)
    >>> reference, query = align(read_reference(adata), read_query(adata_query))
    >>> PoissonMixture().fit(reference, query).predict_proba(query).shape
    (100, 5)
    """

    spread: float = 0.1

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Pool the reference's counts, and see them as the query's platform does."""
        if not self.spread > 0:
            raise OptionError("spread", expected="a number above 0", found=repr(self.spread))
        self.genes_, self.types_ = reference.genes, reference.types
        profiles = experts.profiles(reference.counts, labels_of(reference), len(reference.types))
        seen = np.asarray(query.counts.sum(0), dtype=float).ravel()
        bulk = mixtures.fit(sp.csr_matrix(seen[None]), profiles, _POISSON, _BULK_STEPS)[0]
        rates = profiles * (seen + 1) / (bulk @ profiles + 1)
        self.rates_ = rates / rates.sum(1, keepdims=True)
        return self

    def predict(self, query: Cells) -> Prediction:
        """Fit each spot's mixture."""
        found = mixtures.fit(query.counts, self.rates_, float(1 / np.expm1(self.spread**2)), _STEPS)
        shares = found / found.sum(1, keepdims=True)
        return Prediction(shares, shares, np.zeros(len(query)), abundance=found)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"rates": self.rates_}

    def _facts(self) -> dict[str, Any]:
        return {}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.rates_ = arrays["rates"]
