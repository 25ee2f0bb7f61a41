"""Imputation on graphs: what types, alike reference cells and other genes say of a gene, weighed on measured genes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import scipy.sparse as sp
from scipy.special import softmax

from stgnn import reliability, shallow
from stgnn.data.imputed import Imputed
from stgnn.data.schema import LabelsError, check_at_least
from stgnn.data.subset import drop_rare
from stgnn.data.subset import take as take_genes
from stgnn.experts import floored, log_normalise
from stgnn.graph.graph import by_section
from stgnn.graph.sample import pieces
from stgnn.lesson import Look
from stgnn.messages import (
    RELAYS,
    SPEAKERS,
    Blend,
    Listeners,
    Reference,
    fit_of,
    hear,
    listen_to,
    relayed,
    relays,
    weigh,
)
from stgnn.methods.base import Imputer
from stgnn.standins import depths, learned_from, take, typical_depth
from stgnn.teacher import Teaching, teach

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from stgnn.data.cells import Cells

PATCH = 4000
"""Query cells on which measured genes are held out, and moments are taken."""

GENES_AT_ONCE = 1000
"""Genes that are heard of together."""

CELLS_AT_ONCE = 20_000
"""Cells of a piece of tissue."""

MOST_HELD = 600
"""Measured genes that are held out, at most: more would teach nothing new, and what is heard of all is kept."""

PENALTY = 0.05
"""Ridge penalty, a gene, of the weights of standardised messages."""


@final
@dataclass(eq=False)
class GraphImputer(Imputer):
    r"""What is heard of a gene along the graphs, weighed by how it does on measured genes that were held out.

    .. math:: \hat y_{ng} = \mu_g + \sigma_g \sum_m w_m \frac{x_{mng} - \bar x_{mg}}{s_{mg}}, \qquad
        w = \arg\min_{w \ge 0} \sum_{g\ \mathrm{held\ out}} \|r_g - X_g w\|^2 + \lambda \|w\|^2

    The messages :math:`x_m` are what types, reference cells (by cross-modal attention) and measured genes (by the gene
    graph) say of a gene, heard directly, passed on among query cells that express alike, and from those to neighbours
    in the tissue (the cell graph). The measured genes are held out fold by fold, with all that is learned from the
    query; :math:`r_g` are the ranks of the cells in such a gene, :math:`\mu_g` and :math:`\sigma_g` its mean and spread
    according to the reference. A gene that was measured is given the posterior mean of its rate: its own count, and the
    messages as the mean of a gamma prior [1]_.

    Parameters
    ----------
    cross_modal, gene_graph, cell_graph
        Whether reference cells speak, whether measured genes do, and whether messages are passed on.
    temperature, type_share
        Of the attention: its temperature, and how much types count in it beside expression.
    penalty
        Ridge penalty of the gene graph.
    alike, near
        Number of query cells that messages are averaged over, by expression and in the tissue.
    folds
        Parts that the measured genes are held out in.
    max_cells
        Query cells that the teacher learns from; of a larger query, patches of tissue from all sections.
    random_state
        Seed.

    References
    ----------
    .. [1] Huang et al., SAVER: gene expression recovery for single-cell RNA sequencing. Nature Methods, 2018.

    Examples
    --------
    >>> from stgnn.data.cells import read_query, read_reference
    >>> from stgnn.data.imputed import pair
    >>> from stgnn.data.toy import toy
    >>> adata, adata_query = toy(n_cells=120)
    >>> reference, query, _ = pair(read_reference(adata), read_query(adata_query[:, :30]))
    >>> GraphImputer(folds=2).impute(reference, query, reference.genes[-5:]).values.shape
    (120, 5)
    """

    cross_modal: bool = True
    gene_graph: bool = True
    cell_graph: bool = True
    temperature: float = 0.2
    type_share: float = 0.25
    penalty: float = 10.0
    alike: int = 15
    near: int = 12
    folds: int = 5
    max_cells: int = 40_000
    random_state: int = 0

    def impute(self, reference: Cells, query: Cells, genes: np.ndarray) -> Imputed:
        """Impute genes of the reference in the cells of a query, all of whose own genes the reference has, too."""
        self._check()
        known, learned = take_genes(reference, query.genes), learned_from(query, self.max_cells, self.random_state)
        patch = _patch(learned, self.random_state)
        trials = [self._trial(known, take(learned, patch), held) for held in self._parts(len(query.genes))]
        tried = [trial for trial in trials if trial is not None]
        weights = self._weights(tried)
        tested = reliability.learn(known, tried, weights, self.random_state)
        teaching = teach(known, learned, selector=True, random_state=self.random_state)
        judged, depth, look = _listeners(learned, teaching), typical_depth(query), Look.of(query)

        def listen(nodes: Int[np.ndarray, " m"]) -> Listeners:
            return judged.take(nodes) if learned is query else _overheard(take(query, nodes), look, teaching)

        some, own = judged.take(patch), np.isin(genes, query.genes)
        by, total = self._relays(some), depths(learned)[patch]
        expected, runs = np.empty(len(genes)), []
        for chosen in [*_runs(np.flatnonzero(~own)), *_runs(np.flatnonzero(own))]:
            counts = take_genes(reference, genes[chosen]).counts
            source = listen_to(known, teaching, counts, depth, self.penalty, self.random_state)
            messages = relayed(self._hear(source, some), by)
            # a measured gene is among the features that other genes speak from: it would repeat itself
            weighed = weights * (np.array(SPEAKERS) != "genes")[:, None] if own[chosen[0]] else weights
            runs.append((chosen, source, Blend.on(messages, weighed)))
            expected[chosen] = tested.of(genes[chosen], source.values, messages, total, depth)
        values = self._stream(runs, query, listen, shallow.reach(teaching.council), len(genes))
        measured = np.flatnonzero(own)
        if len(measured):
            own_counts = take_genes(query, genes[measured]).counts
            values[:, measured] = posterior_mean(values[:, measured], own_counts, depths(query), depth)
        heard = [f"{speaker}, {relay}" for speaker in SPEAKERS for relay in RELAYS]
        return Imputed(values, depth, expected, {"weights": dict(zip(heard, weights.ravel().tolist(), strict=True))})

    def _check(self) -> None:
        for name, least in (("folds", 2), ("alike", 1), ("near", 1), ("max_cells", 1)):
            check_at_least(name, getattr(self, name), least)
        for name in ("temperature", "penalty"):
            check_at_least(name, getattr(self, name), 1e-6)

    def _parts(self, n_genes: int) -> list[np.ndarray]:
        """Measured genes, some hundreds at most, in the parts that are held out in turn."""
        order = np.random.default_rng(self.random_state).permutation(n_genes)[:MOST_HELD]
        return [np.sort(part) for part in np.array_split(order, min(self.folds, len(order) // 2))]

    def _trial(self, known: Cells, query: Cells, held: np.ndarray) -> reliability.Trial | None:
        """Hear of measured genes what would be heard if they had not been measured; None if nothing could be."""
        seen = np.delete(query.genes, held)
        part, asked = take_genes(known, seen), take_genes(query, seen)
        there = np.flatnonzero(depths(asked) > 0)
        try:
            part = drop_rare(take(part, np.flatnonzero(depths(part) > 0)))
        except LabelsError:  # the other genes know of one type at most
            return None
        if len(there) < 2:
            return None
        asked, kept = take(asked, there), np.isin(known.rows, part.rows)
        teaching = teach(part, asked, selector=True, random_state=self.random_state)
        depth, listeners = typical_depth(asked), _listeners(asked, teaching)
        counts = take_genes(known, query.genes[held]).counts[np.flatnonzero(kept)]
        source = listen_to(part, teaching, counts, depth, self.penalty, self.random_state)
        messages = relayed(self._hear(source, listeners), self._relays(listeners))
        truth = log_normalise(query.counts, typical_depth(query))[there][:, held]
        return reliability.Trial(held, messages, truth, depths(asked), depth)

    def _hear(self, source: Reference, listeners: Listeners) -> Float[np.ndarray, "s n g"]:
        said = hear(source, listeners, self.temperature, self.type_share)
        silent = {"cells": not self.cross_modal, "cells and types": not self.cross_modal, "genes": not self.gene_graph}
        said[[silent.get(name, False) for name in SPEAKERS]] = 0
        return said

    def _relays(self, listeners: Listeners) -> list[sp.csr_array]:
        return relays(listeners, self.alike, self.near, self.random_state) if self.cell_graph else []

    def _weights(self, trials: list[reliability.Trial]) -> Float[np.ndarray, "s r"]:
        """Weights of messages; of who is switched off, or says nothing, 0."""
        n_genes, shape = sum(len(trial.held) for trial in trials), (len(SPEAKERS), len(RELAYS))
        if not n_genes:
            return np.full(shape, 1 / (len(SPEAKERS) * len(RELAYS)))
        fits = [fit_of(trial.messages, trial.truth) for trial in trials]
        gram, pull = (np.sum(part, axis=0) for part in zip(*fits, strict=True))
        return weigh(gram, pull, n_genes, PENALTY).reshape(shape)

    def _stream(
        self,
        runs: list[tuple[np.ndarray, Reference, Blend]],
        query: Cells,
        listen: Callable[[np.ndarray], Listeners],
        reach: tuple[int, int],
        n_genes: int,
    ) -> Float[np.ndarray, "n g"]:
        """Values of all cells, piece by piece of tissue, and run by run of genes."""
        values = np.empty((len(query), n_genes), dtype=np.float32)
        # neighbours pass on what they have heard: one round more than the experts need
        most, hops = max(self.near, reach[0]), reach[1] + 1
        for piece in pieces(query.coords, query.section, most, CELLS_AT_ONCE, hops):
            here = listen(piece.nodes)
            by = self._relays(here)
            for chosen, source, blend in runs:
                own = blend.pass_on(self._hear(source, here), by)[: len(piece.core)]
                values[np.ix_(piece.core, chosen)] = own
        return values


def _runs(places: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, " m"]]:
    """Places in runs of as many genes as are heard of together; none of none."""
    return np.array_split(places, -(-len(places) // GENES_AT_ONCE)) if len(places) else []


def _listeners(query: Cells, teaching: Teaching) -> Listeners:
    """The cells that the teacher has learned from."""
    posterior = np.exp(teaching.posterior).astype(np.float32)
    return Listeners(teaching.scale.query, posterior, query.coords, query.section)


def _overheard(cells: Cells, look: Look, teaching: Teaching) -> Listeners:
    """Cells that it has not learned from, by the word of the experts that it keeps."""
    values = look.at(cells)
    features = values if teaching.scale.loadings is None else values @ teaching.scale.loadings
    view = shallow.View(cells, features)
    heard = [(w, e) for w, e in zip(teaching.weights, teaching.council, strict=True) if shallow.usable(e, view)]
    said = teaching.prior + sum(weight * floored(expert.log_proba(view)) for weight, expert in heard)
    return Listeners(features, softmax(said, axis=1).astype(np.float32), cells.coords, cells.section)


def _patch(query: Cells, random_state: int) -> Int[np.ndarray, " n"]:
    """Cells of one round piece of every section, so that neighbours stay neighbours; all cells if they are few."""
    if len(query) <= PATCH:
        return np.arange(len(query))
    rng = np.random.default_rng(random_state)
    if query.coords is None:
        return np.sort(rng.choice(len(query), PATCH, replace=False))
    rows = []
    for members in by_section(query.section):
        away = np.linalg.norm(query.coords[members] - query.coords[rng.choice(members)], axis=1)
        rows.append(members[np.argsort(away, kind="stable")[: -(-PATCH * len(members) // len(query))]])
    return np.sort(np.concatenate(rows))


def posterior_mean(
    values: Float[np.ndarray, "n g"], counts: sp.csr_matrix, total: Float[np.ndarray, " n"], depth: float
) -> Float[np.ndarray, "n g"]:
    r"""What measured genes are, given their counts and what is heard of them.

    .. math:: x \sim \mathrm{Poisson}(N \lambda), \quad \lambda \sim \Gamma(\phi, \phi / r) \quad\Rightarrow\quad
        E[\lambda \mid x] = \frac{\phi + x}{\phi / r + N}

    with :math:`r` what is heard, brought to the mean of what was measured, and :math:`\phi` by moments, gene by gene.

    Parameters
    ----------
    values
        What is heard (cells, genes), log-normalised.
    counts
        What was measured (cells, genes).
    total
        Total counts of the cells (cells,).
    depth
        Total that values are scaled to.

    Returns
    -------
    numpy.ndarray
        Log-normalised expression (cells, genes), float32.
    """
    out = np.empty_like(values)
    columns = counts.tocsc()
    for gene in range(values.shape[1]):
        count = columns[:, [gene]].toarray().ravel().astype(np.float64)
        rate = np.expm1(values[:, gene].astype(np.float64)) + 1e-3
        rate *= count.sum() / max(rate @ total, 1e-9)
        mean = np.maximum(rate * total, 1e-9)
        excess = float(((count - mean) ** 2 - mean).sum())
        shape = float(np.clip((mean**2).sum() / max(excess, 1e-9), 0.1, 1e3))
        out[:, gene] = np.log1p(depth * (shape + count) / (shape * total / mean + total))
    return out
