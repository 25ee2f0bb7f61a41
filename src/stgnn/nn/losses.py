"""Losses: classification with soft targets, contrastive alignment, likelihoods of counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def soft_cross_entropy(
    logits: Float[Tensor, "n c"], target: Float[Tensor, "n c"], weight: Float[Tensor, "n"]
) -> Float[Tensor, ""]:
    r"""Weighted cross-entropy with soft targets: :math:`-\sum_n w_n \sum_c t_{nc} \log p_{nc} / \sum_n w_n`."""
    loss = -(target * F.log_softmax(logits.float(), 1)).sum(1)
    return (weight * loss).sum() / weight.sum().clamp(min=1e-8)


def contrastive(
    anchor: Float[Tensor, "n d"], other: Float[Tensor, "m d"], positive: Bool[Tensor, "n m"], temperature: float = 0.1
) -> Float[Tensor, ""]:
    r"""Pull anchors to their positives and away from the rest.

    .. math:: -\frac{1}{|A|} \sum_{i \in A} \log \Big( \sum_{j \in P(i)} e^{z_i \cdot z_j / \tau} \Big/
        \sum_j e^{z_i \cdot z_j / \tau} \Big)

    Anchors without a positive do not count.

    References
    ----------
    van den Oord et al., Representation learning with contrastive predictive coding, 2018; Khosla et al., Supervised
    contrastive learning, NeurIPS 2020.

    Parameters
    ----------
    anchor, other
        Vectors, normalised here.
    positive
        Which of the others belong to each anchor.
    temperature
        Width of the softmax.
    """
    score = F.normalize(anchor.float(), dim=1) @ F.normalize(other.float(), dim=1).T / temperature
    has = positive.any(1)
    if not bool(has.any()):
        return score.sum() * 0.0
    near = score.masked_fill(~positive, -torch.inf)[has].logsumexp(1)
    return (score[has].logsumexp(1) - near).mean()


def poisson_nll(counts: Float[Tensor, "n g"], log_mean: Float[Tensor, "n g"]) -> Float[Tensor, "n g"]:
    r"""Negative log-likelihood of Poisson counts, without what no prediction changes: :math:`\mu - c \log \mu`."""
    return log_mean.exp() - counts * log_mean


def negative_binomial_nll(
    counts: Float[Tensor, "n g"], log_mean: Float[Tensor, "n g"], log_dispersion: Float[Tensor, " g"]
) -> Float[Tensor, "n g"]:
    r"""Negative log-likelihood of counts of variance :math:`\mu + \mu^2 / \theta`, less :math:`\log c!`.

    Parameters
    ----------
    counts
        Raw counts.
    log_mean
        :math:`\log \mu`.
    log_dispersion
        :math:`\log \theta`.
    """
    theta = log_dispersion.exp()
    both = torch.logaddexp(log_mean, log_dispersion.expand_as(log_mean))
    chance = torch.lgamma(theta) - torch.lgamma(counts + theta)
    return chance + (counts + theta) * both - counts * log_mean - theta * log_dispersion


def gamma_deviance(truth: Float[Tensor, " n"], log_mean: Float[Tensor, " n"]) -> Tensor:
    r"""Mean of :math:`y / \mu - \log(y / \mu) - 1`: zero where all is met, and the same in any unit."""
    ratio = truth.clamp(min=1e-12).log() - log_mean
    return (ratio.exp() - ratio - 1).mean()
