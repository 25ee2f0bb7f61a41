"""Cells without an answer: those alike lie far from the type that they are called, or experts differ on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from scipy.special import entr, log_softmax

if TYPE_CHECKING:
    from jaxtyping import Float, Int

UNSURE = 0.2
"""Weight of a cell's lack of confidence beside the strangeness of its kind and the experts' discord over it."""

GAIN = 0.4
"""Spread, over genes, of a platform's factors for a type; stand-ins have two such factors of spread .3."""

FLOOR = 0.05
"""Strangeness (spreads) and discord (nats) that mean nothing: where types are easy, the usual is next to none."""


@dataclass(frozen=True)
class Common:
    """What the cells of each cluster have in common, as sums: those of two sets of cells add up to those of both.

    Parameters
    ----------
    number
        Cells of each cluster of each clustering (clusterings, clusters).
    features, apart
        Sums of their features (clusterings, clusters, features), and of the experts' divergence on them (clusterings,
        clusters).
    squares
        Sum over all cells of the squares of their features (features,).
    """

    number: Float[np.ndarray, "r k"]
    features: Float[np.ndarray, "r k f"]
    apart: Float[np.ndarray, "r k"]
    squares: Float[np.ndarray, " f"]

    @classmethod
    def of(
        cls,
        features: Float[np.ndarray, "n f"],
        members: Int[np.ndarray, "r n"],
        apart: Float[np.ndarray, " n"],
        n_clusters: int,
    ) -> Common:
        """Sums over some cells, whose clusters are known."""
        n = len(features)
        ones = np.ones(n, dtype=np.float32)
        own = [sp.csr_array((ones, (member, np.arange(n))), shape=(n_clusters, n)) for member in members]
        return cls(
            np.stack([np.bincount(member, minlength=n_clusters) for member in members]).astype(np.float64),
            np.stack([each @ features for each in own]).astype(np.float64),
            np.stack([np.bincount(member, apart, minlength=n_clusters) for member in members]),
            np.einsum("nf,nf->f", features, features).astype(np.float64),
        )

    def __add__(self, other: Common) -> Common:
        """Sums over both sets of cells."""
        return Common(
            self.number + other.number,
            self.features + other.features,
            self.apart + other.apart,
            self.squares + other.squares,
        )


def strangeness(
    kind: Int[np.ndarray, " n"], members: Int[np.ndarray, "r n"], common: Common, means: Float[np.ndarray, "c f"]
) -> Float[np.ndarray, " n"]:
    r"""Distance of the cells alike to a cell from the type that it is called (0 up); see :func:`usual`.

    .. math:: r_n = \mathrm{rms}_f \frac{\bar x_{f, C(n)} - \mu_{f, k_n}}{\sqrt{s_f^2 + (g \mu_{f, k_n})^2}}

    with :math:`C(n)` the cells of its cluster, :math:`s` the spread of features within clusters, and :math:`g` that of
    a platform's factors, which move what a type shows most of the most; averaged over several clusterings. One cell is
    too noisy to tell an unknown type from a poor measurement; its kind is not.

    Parameters
    ----------
    kind
        Type that each cell is called.
    members
        Cluster of each cell in each clustering.
    common
        What the cells of each cluster have in common.
    means
        Mean features of the reference's types.
    """
    around = common.features / np.maximum(common.number, 1)[..., None]
    within = common.squares - (common.number[..., None] * around**2).sum((0, 1)) / len(members)
    spread = np.sqrt(np.maximum(within, 0) / max(common.number[0].sum(), 1))
    scale = np.sqrt((spread + 0.1) ** 2 + (GAIN * means) ** 2)
    total = np.zeros(len(kind))
    for mean, member in zip(around, members, strict=True):
        far = np.sqrt((((mean[:, None] - means) / scale) ** 2).mean(2))  # of every cluster from every type
        total += far[member, kind]
    return total / len(members)


def divergence(log_probas: Sequence[Float[np.ndarray, "n c"]]) -> Float[np.ndarray, " n"]:
    r"""How far experts differ on each cell (nats, 0 up): Jensen-Shannon divergence.

    .. math:: H\Big(\frac{1}{E} \sum_e p_e\Big) - \frac{1}{E} \sum_e H(p_e)

    Parameters
    ----------
    log_probas
        What each expert says, up to a constant of the cell.
    """
    probas = [np.exp(log_softmax(log, axis=1)) for log in log_probas]
    return entr(np.mean(probas, axis=0)).sum(1) - np.mean([entr(p).sum(1) for p in probas], axis=0)


def discord(members: Int[np.ndarray, "r n"], common: Common) -> Float[np.ndarray, " n"]:
    """How far experts differ on the cells alike to a cell: mean :func:`divergence` of its cluster (nats, 0 up).

    Averaged over several clusterings. Experts have learned to agree on the types of the reference. On others each goes
    its own way, even where all are sure; noise, which makes all of them unsure, does not set them apart.

    References
    ----------
    Lakshminarayanan et al., Simple and scalable predictive uncertainty estimation using deep ensembles, NeurIPS 2017.

    Parameters
    ----------
    members
        Cluster of each cell in each clustering.
    common
        What the cells of each cluster have in common.
    """
    mean = common.apart / np.maximum(common.number, 1)
    return np.maximum(np.mean([own[member] for own, member in zip(mean, members, strict=True)], axis=0), 0)


def usual(values: Float[np.ndarray, " n"]) -> float:
    """Strangeness or discord to measure others by: a quarter more than the lower quartile's, about known cells' median.

    The lower quartile, since up to half and more of a query's cells may be of types that the reference lacks.
    """
    return 1.25 * float(np.quantile(values, 0.25)) + FLOOR


def rejection(
    proba: Float[np.ndarray, "n c"], strange: Float[np.ndarray, " n"], apart: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    r"""Score of having no answer (0 to 1): :math:`1 - p_{max}^{0.2} \exp(-(r^2 + d^2) / 4)`.

    With r strangeness and d discord, each over what is usual.
    """
    return 1 - np.maximum(proba.max(1), 1e-12) ** UNSURE * np.exp(-(strange**2 + apart**2) / 4)
