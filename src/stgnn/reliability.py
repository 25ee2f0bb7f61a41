"""How well genes that were not measured are imputed, as learned from measured genes that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from stgnn.experts import log_normalise
from stgnn.messages import Blend, standard_ranks

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
    genes, achieved
        Names of the measured genes, and the rank correlation of each, when held out, with what was measured (genes,).
    expression
        Their log expression in the reference, centred, columns of length 1 (cells, genes).
    model
        Regression of ``achieved`` on :func:`_signs`.
    """

    genes: np.ndarray
    achieved: Float[np.ndarray, " g"]
    expression: Float[np.ndarray, "r g"]
    model: Pipeline

    def of_measured(self, genes: np.ndarray) -> Float[np.ndarray, " h"]:
        """What measured genes achieved when they were held out, 0 to 1."""
        place = {gene: column for column, gene in enumerate(self.genes)}
        return np.clip(self.achieved[[place[gene] for gene in genes]], 0, 1)

    def of(
        self,
        expression: Float[np.ndarray, "r h"],
        messages: Float[np.ndarray, "s r n h"],
        weights: Float[np.ndarray, "s r"],
        total: Float[np.ndarray, " n"],
        depth: float,
    ) -> Float[np.ndarray, " h"]:
        """Rank correlation to be expected of genes that were not measured, 0 to 1.

        Parameters
        ----------
        expression
            Their log expression in the reference (cells, genes).
        messages, weights
            What is heard of them (speakers, relays, cells, genes), and the weights of messages (speakers, relays).
        total, depth
            Counts of the query cells (cells,), and the total that messages are scaled to.
        """
        alike = np.abs(_unit_columns(expression).T @ self.expression)
        signs = _signs(messages, weights, total, depth, _of_partners(alike, self.achieved))
        return np.clip(self.model.predict(signs), 0, 1)


def learn(known: Cells, trials: Sequence[Trial], weights: Float[np.ndarray, "s r"]) -> Reliability:
    """Learn from trials what tells a gene that is imputed well.

    Parameters
    ----------
    known
        Reference cells with the measured genes.
    trials
        All measured genes, each held out once.
    weights
        Weights of the messages.
    """
    achieved = np.empty(len(known.genes))
    for trial in trials:
        said = standard_ranks(Blend.on(trial.messages, weights).join(trial.messages))
        achieved[trial.held] = (said * standard_ranks(trial.truth)).mean(axis=0)
    expression = _unit_columns(log_normalise(known.counts, trials[0].depth))
    alike = np.abs(expression.T @ expression)
    np.fill_diagonal(alike, 0)
    partners = _of_partners(alike, achieved)
    signs = [_signs(trial.messages, weights, trial.total, trial.depth, partners[trial.held]) for trial in trials]
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 3, 9)))
    model.fit(np.vstack(signs), achieved[np.concatenate([trial.held for trial in trials])])
    return Reliability(known.genes, achieved, expression, model)


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
    ceiling = (standard_ranks(value) * standard_ranks(seen)).mean(axis=0)
    scores = [_unit_columns(said) for said in messages[:, 0] if said.any()]
    pairs = [(a * b).sum(axis=0) for place, a in enumerate(scores) for b in scores[:place]]
    agreement = np.mean(pairs, axis=0) if pairs else np.zeros(value.shape[1])
    return np.column_stack([ceiling, agreement, partners])


def _of_partners(alike: Float[np.ndarray, "h g"], achieved: Float[np.ndarray, " g"]) -> Float[np.ndarray, " h"]:
    """Mean success of the measured genes that are most correlated with each gene, weighted by the correlation."""
    order = np.argsort(-alike, axis=1, kind="stable")[:, :PARTNERS]
    weight = np.take_along_axis(alike, order, axis=1)
    return (weight * achieved[order]).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-9)


def _unit_columns(values: Float[np.ndarray, "n g"]) -> Float[np.ndarray, "n g"]:
    centred = values - values.mean(axis=0)
    return centred / np.maximum(np.linalg.norm(centred, axis=0), 1e-9)
