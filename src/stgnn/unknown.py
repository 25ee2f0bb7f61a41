"""Cells without an answer: how far those alike lie from the type that they are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stgnn import shallow

if TYPE_CHECKING:
    from jaxtyping import Float, Int

DOUBT = 0.3
"""Weight of a cell's lack of confidence beside its strangeness."""


def strangeness(
    features: Float[np.ndarray, "n f"],
    kind: Int[np.ndarray, " n"],
    clusters: shallow.Clusters,
    means: Float[np.ndarray, "c f"],
) -> Float[np.ndarray, " n"]:
    r"""Distance of the cells alike to a cell from the type that it is called (0 up); see :func:`usual`.

    .. math:: r_n = \mathrm{rms}_f \frac{\bar x_{f, C(n)} - \mu_{f, k_n}}{s_f}

    with :math:`C(n)` the cells of its cluster, :math:`s` the spread of features within clusters; averaged over several
    clusterings. One cell is too noisy to tell an unknown type from a poor measurement; its kind is not.

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
    parts, total = features @ clusters.axes, np.zeros(len(features))
    around, spread = [], np.zeros(features.shape[1])
    for centres in clusters.centres:
        member = shallow.nearest(parts, centres)
        around.append(shallow.cluster_means(features, member, len(centres))[member])
        spread += ((features - around[-1]) ** 2).mean(0) / len(clusters.centres)
    for mean in around:
        total += np.sqrt((((mean - means[kind]) / (np.sqrt(spread) + 0.1)) ** 2).mean(1))
    return total / len(clusters.centres)


def usual(strange: Float[np.ndarray, " n"]) -> float:
    """Strangeness to measure others by: a quarter more than the lower quartile's, about the median of known cells.

    The lower quartile, since up to half and more of a query's cells may be of types that the reference lacks.
    """
    return max(1.25 * float(np.quantile(strange, 0.25)), 1e-9)


def rejection(proba: Float[np.ndarray, "n c"], strange: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    r"""Score of having no answer (0 to 1): :math:`1 - p_{max}^{0.3} \exp(-r^2 / 4)`, r strange over usual."""
    return 1 - np.maximum(proba.max(1), 1e-12) ** DOUBT * np.exp(-(strange**2) / 4)
