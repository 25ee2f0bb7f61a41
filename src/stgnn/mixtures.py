"""Counts of spots as mixtures of the reference's profiles, as the query's platform would see them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stgnn.data.subset import informative

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float, Int

DISPERSION = 50.0
"""Of a spot's counts around their mean: its few cells of a type are no average cell of that type."""

MOST_GENES = 800
"""Genes that mixtures are fitted to, those that differ most between types: others add cost, and noise."""

_ROUNDS = 10
_FIRST, _STEPS = 120, 40
_PRIOR = 5.0
"""Counts of each gene in favour of no effect of the platform."""

_SPOTS_AT_ONCE = 2048
_LEAST = 1e-6
"""Share of a spot that each type keeps: one at nothing could never come back."""


@dataclass(frozen=True)
class Mixtures:
    """What was fitted to spots.

    Parameters
    ----------
    genes
        Which genes were looked at (g,).
    abundance
        Counts in these genes that each type gave each spot (spots, types).
    rates
        Profiles over these genes as the platform sees them (types, g); rows sum to 1.
    """

    genes: Int[np.ndarray, " g"]
    abundance: Float[np.ndarray, "n c"]
    rates: Float[np.ndarray, "c g"]

    def of(self, counts: sp.csr_matrix, dispersion: float) -> Mixtures:
        """Mixtures of other spots (spots, all genes) of the same platform."""
        return replace(self, abundance=fit(counts[:, self.genes], self.rates, dispersion, _FIRST))

    @property
    def shares(self) -> Float[np.ndarray, "n c"]:
        """Shares of the types in each spot; rows sum to 1."""
        return self.abundance / self.abundance.sum(1, keepdims=True)


def deconvolve(counts: sp.csr_matrix, profiles: Float[np.ndarray, "c all"], dispersion: float = DISPERSION) -> Mixtures:
    r"""Fit mixtures and the platform's gene-wise effects in turn.

    .. math:: y_{sg} \sim \mathrm{NegBin}\Big(\sum_k a_{sk} w_{kg},\ \theta\Big), \qquad
        w_{kg} = \frac{e^{\gamma_g} p_{kg}}{\sum_h e^{\gamma_h} p_{kh}}, \qquad
        e^{\gamma_g} = \frac{\sum_s y_{sg} + c}{\sum_s \sum_k a_{sk} p_{kg} + c}

    References
    ----------
    Cable et al., Robust decomposition of cell type mixtures in spatial transcriptomics, Nat. Biotechnol. 2022, read the
    effects off all spots together, once; here they are read off the spots' mixtures, and both are fitted in turn.

    The step for the effects leaves out the profiles' sums after them (the denominators above). With these it would meet
    the gene's counts exactly, and on counts drawn from the model it then does better; on real spots, whose types
    differ between platforms by more than such effects, it does worse (``docs/experiments.md``).

    Parameters
    ----------
    counts
        Raw counts of spots (spots, genes).
    profiles
        Share of each gene in each type's counts (types, genes).
    dispersion
        :math:`\theta`; the larger, the more like Poisson.
    """
    genes = informative(profiles, MOST_GENES)
    counts = counts[:, genes]
    plain = profiles[:, genes] / profiles[:, genes].sum(1, keepdims=True)
    seen = np.asarray(counts.sum(0), dtype=float).ravel()
    rates, abundance = plain, fit(counts, plain, dispersion, _FIRST)
    for _ in range(_ROUNDS):
        effects = (seen + _PRIOR) / (abundance.sum(0) @ plain + _PRIOR)
        rates = plain * effects
        rates /= rates.sum(1, keepdims=True)
        abundance = fit(counts, rates, dispersion, _STEPS, abundance)
    return Mixtures(genes, abundance, rates)


def fit(
    counts: sp.csr_matrix,
    rates: Float[np.ndarray, "c g"],
    dispersion: float,
    steps: int,
    start: Float[np.ndarray, "n c"] | None = None,
) -> Float[np.ndarray, "n c"]:
    r"""Abundances of given profiles (spots, types) by multiplicative updates, none of which lowers the likelihood.

    .. math:: a_{sk} \leftarrow a_{sk} \frac{\sum_g w_{kg}\, y_{sg} / \mu_{sg}}
        {\sum_g w_{kg}\, (y_{sg} + \theta) / (\mu_{sg} + \theta)}, \qquad \mu_{sg} = \sum_k a_{sk} w_{kg}

    References
    ----------
    Gouvert et al., Negative binomial matrix factorization, IEEE Signal Processing Letters 2020.
    """
    out, seen = np.empty((counts.shape[0], len(rates))), rates.astype(np.float32)
    for rows, y in _parts(counts):
        total = np.maximum(y.sum(1, keepdims=True), 1.0)
        a = np.repeat(total / len(rates), len(rates), axis=1) if start is None else start[rows].astype(np.float32)
        for _ in range(steps):
            mean = np.maximum(a @ seen, 1e-9)
            a = a * ((y / mean) @ seen.T) / (((y + dispersion) / (mean + dispersion)) @ seen.T)
            a = np.maximum(a, _LEAST * total)
        out[rows] = a
    return out


def unexplained(
    counts: sp.csr_matrix, shares: Float[np.ndarray, "n c"], found: Mixtures, dispersion: float
) -> np.ndarray:
    r"""Share of each spot's counts beyond what its mixture and chance explain (spots,), 0 to 1.

    .. math:: u_s = \frac{\sum_g \max(0,\ y_{sg} - \mu_{sg} - 2 \sigma_{sg})}{\sum_g y_{sg}}, \qquad
        \sigma_{sg}^2 = \mu_{sg} + \mu_{sg}^2 / \theta
    """
    out = np.empty(counts.shape[0])
    for rows, y in _parts(counts[:, found.genes]):
        total = np.maximum(y.sum(1, keepdims=True), 1.0)
        mean = total * (shares[rows] @ found.rates)
        beyond = np.maximum(y - mean - 2 * np.sqrt(mean + mean**2 / dispersion), 0)
        out[rows] = beyond.sum(1) / total[:, 0]
    return out


def _parts(counts: sp.csr_matrix) -> Iterator[tuple[slice, Float[np.ndarray, "n g"]]]:
    """Runs of spots, dense: memory does not grow with the section."""
    for first in range(0, counts.shape[0], _SPOTS_AT_ONCE):
        rows = slice(first, first + _SPOTS_AT_ONCE)
        yield rows, counts[rows].toarray().astype(np.float32)
