"""What a network learns spots from: mixtures of reference cells, of known shares, and the query's own counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import Tensor

from stgnn import experts
from stgnn.council import MAX_GENES, Scale, weighted_standardise, whitening
from stgnn.data.cells import Cells
from stgnn.lesson import Layout, Shape, shape_of
from stgnn.mixtures import Mixtures
from stgnn.nn.tissue import Batch, plain_batches
from stgnn.standins import cell_weights, depths, labels_of, typical_depth

if TYPE_CHECKING:
    from jaxtyping import Float

MIXED = 4000
"""Spots mixed from reference cells."""

CELLS = (3, 25)
"""Least cells of such a spot, and one more than the most."""

SIZES = 0.5
"""Standard deviation of the logarithm of a cell's counts beside another's."""

NOISE = 0.3
"""Of features, in units of their spread: another platform's, for each spot anew."""

DRAWN = 256
"""Such spots in a step."""

LIKELIHOOD = 0.3
"""Weight of the counts' likelihood, a gene's part of it."""


def mix(
    reference: Cells, shares: Float[np.ndarray, "m c"], depth: Float[np.ndarray, " d"], n: int, rng: np.random.Generator
) -> tuple[sp.csr_matrix, Float[np.ndarray, "n c"]]:
    """Spots of several reference cells each.

    Parameters
    ----------
    reference
        Labelled cells.
    shares
        Shares of the types (spots, types), one of which each spot's are drawn around.
    depth
        Totals to draw from.
    n
        Number of spots.
    rng
        Source of randomness.

    Returns
    -------
    Counts (n, genes), and the share of each type among the cells of each spot (n, types).
    """
    labels, n_types = labels_of(reference), len(reference.types)
    by_type = [np.flatnonzero(labels == k) for k in range(n_types)]
    wanted = shares[rng.integers(len(shares), size=n)]
    number = np.stack([rng.multinomial(rng.integers(*CELLS), p / p.sum()) for p in wanted])
    spot = np.repeat(np.arange(n), number.sum(1))
    kind = np.repeat(np.tile(np.arange(n_types), n), number.ravel())
    cell = np.empty(len(kind), dtype=np.int64)
    for k, own in enumerate(by_type):
        cell[kind == k] = own[rng.integers(len(own), size=int((kind == k).sum()))]
    size = rng.lognormal(0.0, SIZES, len(cell)) / depths(reference)[cell]
    rate = (sp.csr_array((size, (spot, cell)), shape=(n, len(labels))) @ reference.counts).toarray()
    rate *= (rng.choice(depth, n) / rate.sum(1))[:, None]
    return sp.csr_matrix(rng.poisson(rate).astype(np.float32)), number / number.sum(1, keepdims=True)


@dataclass(frozen=True)
class Eye:
    """How spots are seen: log-normalised at one depth, standardised by the spots that a model was fitted to.

    Parameters
    ----------
    depth
        Counts that each spot is scaled to.
    mean, spread
        Of each gene over those spots (genes,).
    """

    depth: float
    mean: Float[np.ndarray, " g"]
    spread: Float[np.ndarray, " g"]

    @classmethod
    def of(cls, query: Cells) -> Eye:
        """How the spots of a query are seen."""
        depth = typical_depth(query)
        values = experts.log_normalise(query.counts, depth)
        return cls(depth, values.mean(0), values.std(0) + 1e-3)

    def see(self, counts: sp.csr_matrix) -> Float[np.ndarray, "n g"]:
        """Standardised expression of spots."""
        values = (experts.log_normalise(counts, self.depth) - self.mean) / self.spread
        return np.clip(values, -experts.CLIP, experts.CLIP).astype(np.float32)


@dataclass(frozen=True)
class SpotLesson:
    """What a network learns from.

    Parameters
    ----------
    mixed, shares
        Spots of known shares, as one batch.
    query
        Minibatches of the query's spots.
    counts
        Of the query's spots, in the genes of the mixtures (spots, g).
    rates
        Profiles as the query's platform sees them (types, g).
    teacher
        Shares that are learned, too (spots, types).
    dispersion
        Of counts around their mean.
    """

    mixed: Batch
    shares: Tensor
    query: list[Batch]
    counts: sp.csr_matrix
    rates: Tensor
    teacher: Float[np.ndarray, "n c"]
    dispersion: float


def prepare(
    reference: Cells,
    query: Cells,
    found: Mixtures,
    teacher: Float[np.ndarray, "n c"],
    dispersion: float,
    layout: Layout,
    random_state: int,
) -> tuple[Shape, SpotLesson]:
    """Mix spots around the shares that a teacher says, and lay out the query's own."""
    rng = np.random.default_rng([random_state, 2])
    counts, shares = mix(reference, teacher, depths(query), MIXED, rng)
    eye = Eye.of(query)
    mixed = experts.standardise(experts.log_normalise(counts, eye.depth))  # by themselves: they are of another platform
    own = eye.see(query.counts)
    loadings = whitening(np.vstack([mixed, own]), random_state) if own.shape[1] > MAX_GENES else None
    weight = cell_weights(labels_of(reference), teacher.mean(0))
    known = weighted_standardise(experts.log_normalise(reference.counts, eye.depth), weight)
    see = (lambda x: x) if loadings is None else (lambda x: x @ loadings)
    scale = Scale(see(known), see(own), teacher.mean(0), loadings)
    shape = shape_of(reference, query, known, scale, random_state)
    (batch,) = plain_batches(*shape.see(mixed), len(mixed))
    batches = layout.batches(query, *shape.see(own))
    target = torch.from_numpy(shares.astype(np.float32))
    seen = torch.from_numpy(found.rates.astype(np.float32))
    return shape, SpotLesson(batch, target, batches, query.counts[:, found.genes], seen, teacher, dispersion)


def error_model(truth: Float[np.ndarray, "n c"], said: Float[np.ndarray, "n c"]) -> list[float]:
    r"""Coefficients a and b of the squared error of a share, :math:`a p (1 - p) + b`, by non-negative least squares."""
    terms = np.column_stack([(said * (1 - said)).ravel(), np.ones(said.size)])
    return [float(value) for value in nnls(terms, ((truth - said) ** 2).ravel())[0]]


def variance(shares: Float[np.ndarray, "n c"], model: list[float]) -> Float[np.ndarray, "n c"]:
    """Squared error to expect of shares, by :func:`error_model`."""
    return model[0] * shares * (1 - shares) + model[1]


def loss_on_mixed(network: torch.nn.Module, lesson: SpotLesson, rows: np.ndarray, device: torch.device) -> Tensor:
    """Cross-entropy of known shares."""
    batch = lesson.mixed
    features, genes = batch.features[rows], batch.genes[rows]
    features = features + NOISE * torch.randn_like(features)
    genes = features if batch.genes is batch.features else genes + NOISE * torch.randn_like(genes)
    own, *_ = network(Batch(rows, features, genes, None).to(device), 0.0)
    return _entropy(own, lesson.shares[rows].to(device))


def loss_on_query(
    network: torch.nn.Module, lesson: SpotLesson, batch: Batch, openness: float, device: torch.device
) -> Tensor:
    """Likelihood of the counts of a tile's spots under mixtures of the profiles, and cross-entropy of the teacher's."""
    own, context, *_ = network(batch.to(device), openness)
    count = len(batch.cells)
    counts = torch.from_numpy(lesson.counts[batch.cells].toarray()).to(device)
    teacher = torch.from_numpy(lesson.teacher[batch.cells].astype(np.float32)).to(device)
    total = torch.zeros((), device=device)
    for logits in (own, context) if openness > 0 else (own,):
        said = logits[:count]
        total = total + LIKELIHOOD * _misfit(said, counts, lesson) + _entropy(said, teacher)
    return total


def _entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * F.log_softmax(logits.float(), 1)).sum(1).mean()


def _misfit(logits: Tensor, counts: Tensor, lesson: SpotLesson) -> Tensor:
    """Negative-binomial deviance, the mean over spots and genes: 0 where every count is met."""
    theta = lesson.dispersion
    mean = counts.sum(1, keepdim=True) * (logits.float().softmax(1) @ lesson.rates.to(counts.device)) + 1e-6
    met = counts.clamp(min=1e-6)
    gap = counts * (met.log() - mean.log()) - (counts + theta) * (torch.log(counts + theta) - torch.log(mean + theta))
    return gap.mean()
