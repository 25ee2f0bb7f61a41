"""Negative-binomial profiles of the types, with gene-wise platform effects: a likelihood and no training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
from scipy.special import log_softmax, softmax

from stgnn import experts
from stgnn.data.cells import Cells, Prediction
from stgnn.methods.base import Annotator
from stgnn.standins import labels_of

if TYPE_CHECKING:
    from jaxtyping import Float


@final
@dataclass(eq=False)
class Profiles(Annotator):
    r"""The type under whose profile a cell's counts are most likely.

    .. math::
        x_{ng} &\sim \mathrm{NegBin}(\mu_{nkg},\ \theta = 2), \qquad
        \mu_{nkg} = s_n \big((1 - a)\, \widetilde{f_g r_{kg}} + a\, m_g\big) \\
        p(k \mid x_n) &= \mathrm{softmax}_k\big(\tau \textstyle\sum_g \log p(x_{ng} \mid \mu_{nkg})\big)

    with :math:`s_n` the total of the cell, :math:`r_k` the pooled profile of type k in the reference, :math:`f_g` the
    platform's effect on gene g, :math:`\widetilde{\cdot}` scaling to a sum of 1, and :math:`m` the query's mean
    profile, of which a share :math:`a = 0.05` floats everywhere. EM on the query fits :math:`f`: types of the cells
    given the effects, then effects as observed over expected counts, shrunken and cut at :math:`e^{\pm 1.4}`. Genes
    are not independent, as the likelihood takes them to be, so :math:`\tau \le 1` lowers the mean top probability
    to ``certainty``.

    Where this departs from the paper: InSituType fits no platform effects and subtracts a background measured by
    negative probes; here the effects come from the query itself, and the background is the query's mean profile. Types
    are not refined nor added by clustering, and all are equally likely beforehand.

    References
    ----------
    Danaher et al., Insitutype: likelihood-based cell typing for single cell spatial transcriptomics, bioRxiv 2022;
    Cable et al., Robust decomposition of cell type mixtures in spatial transcriptomics, Nat. Biotechnol. 2022, for the
    platform effects.

    Parameters
    ----------
    platform
        Whether gene-wise platform effects are fitted.
    certainty
        Mean top probability that the tempered likelihood has at most, 0 to 1.
    random_state
        Without effect: nothing is drawn.

    Examples
    --------
    >>> from stgnn.data.cells import align, read_query, read_reference
    >>> from stgnn.data.toy import toy
    >>> adata, adata_query = toy(n_cells=100)
    >>> reference, query = align(read_reference(adata), read_query(adata_query))
    >>> Profiles().fit(reference, query).predict_proba(query).shape
    (100, 5)
    """

    platform: bool = True
    certainty: float = 0.85
    random_state: int = 0

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Pool the reference's counts; the platform is judged when a query is asked about."""
        self.genes_, self.types_ = reference.genes, reference.types
        self.rates_ = experts.profiles(reference.counts, labels_of(reference), len(reference.types))
        return self

    def predict(self, query: Cells) -> Prediction:
        """Fit the platform's effects to the query, and weigh the types by their likelihood."""
        rates, effects = self._rates(query)
        scores = experts.profile_scores(query.counts, rates)
        temperature = experts.temperature(scores, self.certainty)
        proba = softmax(scores * temperature, axis=1)
        details: dict[str, Any] = {
            "temperature": float(temperature),
            "platform_effects": f"from {effects.min():.2f} to {effects.max():.2f}" if self.platform else "off",
        }
        return Prediction(proba, log_softmax(scores * temperature, axis=1), 1 - proba.max(1), details=details)

    def _rates(self, query: Cells) -> tuple[Float[np.ndarray, "types genes"], Float[np.ndarray, " genes"]]:
        """Rates as this query's platform would see them, and its effects on the genes, whose median is 1."""
        ambient = np.asarray(query.counts.sum(0)).ravel() / query.counts.sum()
        plain = experts.with_ambient(self.rates_, ambient)
        if not self.platform:
            return plain, np.ones(len(ambient))
        scaled = experts.platform_rates(query.counts, self.rates_)
        effects = np.exp(np.log((scaled + 1e-12) / (plain + 1e-12)).mean(0))  # a gene may be silent on both sides
        return scaled, effects / np.median(effects)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"rates": self.rates_}

    def _facts(self) -> dict[str, Any]:
        return {}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.rates_ = arrays["rates"]
        if self.rates_.shape != (len(self.types_), len(self.genes_)):
            raise ValueError(f"{len(self.types_)} types and {len(self.genes_)} genes, with rates {self.rates_.shape}")
