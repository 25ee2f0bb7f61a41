"""How well genes that were not measured are imputed, as learned from measured genes that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from stgnn import metrics
from stgnn.experts import correlations, log_scaled
from stgnn.messages import MAX_CELLS, Blend
from stgnn.standins import labels_of, stratified

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from stgnn.data.cells import Cells

PARTNERS = 10
"""Measured genes, those most correlated in the reference, whose success tells of a gene's."""


@dataclass(frozen=True)
class Trial:
    """Measured genes that were held out.

    Parameters
    ----------
    held
        Their columns among the measured genes (genes,).
    messages
        What is heard of them (speakers, relays, cells, genes).
    truth
        What they are: log-normalised (cells, genes).
    total, depth
        Counts of the cells in the other genes (cells,), and the total that messages are scaled to.
    """

    held: Int[np.ndarray, " g"]
    messages: Float[np.ndarray, "s r n g"]
    truth: Float[np.ndarray, "n g"]
    total: Float[np.ndarray, " n"]
    depth: float


@dataclass(frozen=True)
class Reliability:
    """What held-out genes taught of how well genes are imputed.

    Parameters
    ----------
    achieved
        Rank correlation of each gene that was held out with what was measured, by its name.
    expression
        Their log expression in the reference cells that are listened to (cells, genes).
    weights
        Weights of the messages (speakers, relays).
    model
        Regression of ``achieved`` on :func:`_signs`; None if no gene could be held out.
    """

    achieved: dict[str, float]
    expression: Float[np.ndarray, "r g"]
    weights: Float[np.ndarray, "s r"]
    model: Pipeline | None

    def of(
        self,
        genes: np.ndarray,
        expression: Float[np.ndarray, "r h"],
        messages: Float[np.ndarray, "s r n h"],
        total: Float[np.ndarray, " n"],
        depth: float,
    ) -> Float[np.ndarray, " h"]:
        """Rank correlation of genes, 0 to 1: achieved where they were held out, else to be expected; NaN if unknown.

        Parameters
        ----------
        genes
            Their names.
        expression
            Their log expression in the same reference cells (cells, genes).
        messages
            What is heard of them (speakers, relays, cells, genes).
        total, depth
            Counts of the query cells (cells,), and the total that messages are scaled to.
        """
        if self.model is None:
            return np.full(len(genes), np.nan)
        alike = np.abs(correlations(expression.T, self.expression.T))
        partners = _of_partners(alike, np.array(list(self.achieved.values())))
        told = self.model.predict(_signs(messages, self.weights, total, depth, partners))
        return np.clip([self.achieved.get(gene, value) for gene, value in zip(genes, told, strict=True)], 0, 1)


def learn(known: Cells, trials: Sequence[Trial], weights: Float[np.ndarray, "s r"], random_state: int) -> Reliability:
    """Learn from trials what tells a gene that is imputed well.

    Parameters
    ----------
    known
        Reference cells with the measured genes.
    trials
        Measured genes, each held out once.
    weights
        Weights of the messages.
    random_state
        Seed of the choice of reference cells.
    """
    rows = stratified(labels_of(known), MAX_CELLS, random_state)
    if not trials:
        return Reliability({}, np.empty((len(rows), 0)), weights, None)
    achieved = np.concatenate([_achieved(trial, weights) for trial in trials])
    held = np.concatenate([trial.held for trial in trials])
    expression = log_scaled(known.counts, trials[0].depth)[rows][:, held].toarray()
    alike = np.abs(correlations(expression.T, expression.T))
    np.fill_diagonal(alike, 0)
    partners = np.split(_of_partners(alike, achieved), np.cumsum([len(trial.held) for trial in trials])[:-1])
    signs = [
        _signs(trial.messages, weights, trial.total, trial.depth, own)
        for trial, own in zip(trials, partners, strict=True)
    ]
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 3, 9))).fit(np.vstack(signs), achieved)
    return Reliability(dict(zip(known.genes[held], achieved, strict=True)), expression, weights, model)


def _achieved(trial: Trial, weights: Float[np.ndarray, "s r"]) -> Float[np.ndarray, " g"]:
    return _rank_correlation(trial.truth, Blend.on(trial.messages, weights).join(trial.messages))


def _signs(
    messages: Float[np.ndarray, "s r n g"],
    weights: Float[np.ndarray, "s r"],
    total: Float[np.ndarray, " n"],
    depth: float,
    partners: Float[np.ndarray, " g"],
) -> Float[np.ndarray, "g signs"]:
    """What may tell how well a gene is imputed.

    The correlation that would be reached if all that is said were true and counts were Poisson; how far the speakers
    agree; how well its partners in the reference are imputed.
    """
    value = Blend.on(messages, weights).join(messages)
    drawn = np.random.default_rng(0).poisson(np.expm1(value) * (total / depth)[:, None])
    seen = np.log1p(drawn * (depth / np.maximum(total, 1))[:, None])
    ceiling = _rank_correlation(seen, value)
    direct = [said for said in messages[:, 0] if said.any()]
    pairs = [np.nan_to_num(metrics.pearson(a, b)) for place, a in enumerate(direct) for b in direct[:place]]
    agreement = np.mean(pairs, axis=0) if pairs else np.zeros(value.shape[1])
    return np.column_stack([ceiling, agreement, partners])


def _of_partners(alike: Float[np.ndarray, "h g"], achieved: Float[np.ndarray, " g"]) -> Float[np.ndarray, " h"]:
    """Mean success of the measured genes that are most correlated with each gene, weighted by the correlation."""
    order = np.argsort(-alike, axis=1, kind="stable")[:, :PARTNERS]
    weight = np.take_along_axis(alike, order, axis=1)
    return (weight * achieved[order]).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-9)


def _rank_correlation(truth: Float[np.ndarray, "n g"], said: Float[np.ndarray, "n g"]) -> Float[np.ndarray, " g"]:
    return np.nan_to_num(metrics.spearman(truth, said))  # a gene that does not vary tells nothing
