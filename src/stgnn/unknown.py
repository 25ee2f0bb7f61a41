"""Cells without an answer: those alike lie far from the type that they are called, or experts differ on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import entr, log_softmax

from stgnn import shallow

if TYPE_CHECKING:
    from jaxtyping import Float, Int

UNSURE = 0.2
"""Weight of a cell's lack of confidence beside the strangeness of its kind and the experts' discord over it."""

GAIN = 0.4
"""Spread, over genes, of a platform's factors for a type; stand-ins have two such factors of spread .3."""

FLOOR = 0.05
"""Strangeness (spreads) and discord (nats) that mean nothing: where types are easy, the usual is next to none."""


def strangeness(
    features: Float[np.ndarray, "n f"],
    kind: Int[np.ndarray, " n"],
    clusters: shallow.Clusters,
    means: Float[np.ndarray, "c f"],
) -> Float[np.ndarray, " n"]:
    r"""Distance of the cells alike to a cell from the type that it is called (0 up); see :func:`usual`.

    .. math:: r_n = \mathrm{rms}_f \frac{\bar x_{f, C(n)} - \mu_{f, k_n}}{\sqrt{s_f^2 + (g \mu_{f, k_n})^2}}

    with :math:`C(n)` the cells of its cluster, :math:`s` the spread of features within clusters, and :math:`g` that of
    a platform's factors, which move what a type shows most of the most; averaged over several clusterings. One cell is
    too noisy to tell an unknown type from a poor measurement; its kind is not.

    Parameters
    ----------
    features
        Of the query, on the common scale.
    kind
        Type that each cell is called.
    clusters
        Clusterings of the query.
    means
        Mean features of the reference's types.
    """
    total, around, spread = np.zeros(len(features)), [], np.zeros(features.shape[1])
    for member, n_clusters in _memberships(features, clusters):
        around.append(shallow.cluster_means(features, member, n_clusters)[member])
        spread += ((features - around[-1]) ** 2).mean(0) / len(clusters.centres)
    scale = np.sqrt((np.sqrt(spread) + 0.1) ** 2 + (GAIN * means) ** 2)
    for mean in around:
        total += np.sqrt((((mean - means[kind]) / scale[kind]) ** 2).mean(1))
    return total / len(clusters.centres)


def discord(
    log_probas: Sequence[Float[np.ndarray, "n c"]], features: Float[np.ndarray, "n f"], clusters: shallow.Clusters
) -> Float[np.ndarray, " n"]:
    r"""How far experts differ on the cells alike to a cell (nats, 0 up): Jensen-Shannon divergence, by cluster.

    .. math:: d_n = \overline{H\Big(\frac{1}{E} \sum_e p_e\Big) - \frac{1}{E} \sum_e H(p_e)}_{C(n)}

    with :math:`C(n)` the cells of its cluster; averaged over several clusterings. Experts have learned to agree on the
    types of the reference. On others each goes its own way, even where all are sure; noise, which makes all of them
    unsure, does not set them apart.

    References
    ----------
    Lakshminarayanan et al., Simple and scalable predictive uncertainty estimation using deep ensembles, NeurIPS 2017.

    Parameters
    ----------
    log_probas
        What each expert says, up to a constant of the cell.
    features
        Of the query, on the common scale.
    clusters
        Clusterings of the query.
    """
    probas = [np.exp(log_softmax(log, axis=1)) for log in log_probas]
    apart = entr(np.mean(probas, axis=0)).sum(1) - np.mean([entr(p).sum(1) for p in probas], axis=0)
    parts = [shallow.cluster_means(apart[:, None], m, n)[m, 0] for m, n in _memberships(features, clusters)]
    return np.maximum(np.mean(parts, axis=0), 0)


def _memberships(features: Float[np.ndarray, "n f"], clusters: shallow.Clusters) -> list[tuple[np.ndarray, int]]:
    """Cluster of each cell and number of clusters, for each clustering."""
    parts = features @ clusters.axes
    return [(shallow.nearest(parts, centres), len(centres)) for centres in clusters.centres]


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
