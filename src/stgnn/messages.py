r"""What query cells hear of genes that were not measured in them, along each graph, as pure functions of arrays.

Four kinds of speaker know of a gene: types (their mean in the reference), reference cells that express alike (attention
of query cells over reference cells), those of the same type among them (the same attention, over expression and type),
and other genes (a regression of the gene on the measured ones, the gene graph with its weights). What they say is
passed on once or twice: among query cells that express alike, and from those to neighbours in the tissue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from stgnn.experts import log_normalise, row_unit
from stgnn.graph.build import spatial_knn
from stgnn.shallow import cluster_means
from stgnn.standins import cell_weights, depths, labels_of, stratified

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from stgnn.data.cells import Cells
    from stgnn.teacher import Teaching

SPEAKERS = ("types", "cells", "cells and types", "genes")
"""Who speaks."""

RELAYS = ("heard", "passed on", "passed on in the tissue")
"""How often it is passed on: not, among query cells that express alike, and then among neighbours too."""

MAX_CELLS = 6000
"""Reference cells that are listened to; rare types whole as far as they fit."""

COMPONENTS = 20
"""Principal components in which query cells are alike."""

FLAT = 1e-6
"""Messages that vary less over cells say nothing."""

_ROWS = 1024


@dataclass(frozen=True)
class Reference:
    """Reference cells as their listeners need them.

    Parameters
    ----------
    keys
        Expression of the reference cells on the common scale, each of length 1 (cells, features), float32.
    labels, weight
        Type and weight of each cell; weighted, the cells have the query's composition (cells,).
    values
        What is to be heard: log-normalised expression (cells, genes), float32.
    profiles
        Mean of each type (types, genes).
    slope, centre
        Regression of the genes on the features (features, genes), (genes,).
    """

    keys: Float[np.ndarray, "s f"]
    labels: Int[np.ndarray, " s"]
    weight: Float[np.ndarray, " s"]
    values: Float[np.ndarray, "s g"]
    profiles: Float[np.ndarray, "c g"]
    slope: Float[np.ndarray, "f g"]
    centre: Float[np.ndarray, " g"]


@dataclass(frozen=True)
class Listeners:
    """Query cells.

    Parameters
    ----------
    features, posterior
        Expression on the common scale (cells, features), and probabilities of the types (cells, types).
    coords, section
        Their places (cells, 2 or 3), None where unknown, and the codes of their sections (cells,).
    """

    features: Float[np.ndarray, "n f"]
    posterior: Float[np.ndarray, "n c"]
    coords: Float[np.ndarray, "n d"] | None
    section: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: Int[np.ndarray, " m"]) -> Listeners:
        """Some of them."""
        coords = None if self.coords is None else self.coords[rows]
        return Listeners(self.features[rows], self.posterior[rows], coords, self.section[rows])


def listen_to(
    reference: Cells, teaching: Teaching, values: sp.csr_matrix, depth: float, penalty: float, random_state: int
) -> Reference:
    """Prepare reference cells to be heard of some genes.

    Parameters
    ----------
    reference
        Labelled cells with the measured genes.
    teaching
        What the teacher found: the common scale and the query's composition.
    values
        Counts of the genes to hear of (cells, genes).
    depth
        Total of measured genes that every cell is scaled to.
    penalty
        Ridge penalty of the gene graph, per cell.
    random_state
        Seed of the choice of cells.
    """
    labels = labels_of(reference)
    few = stratified(labels, MAX_CELLS, random_state)
    heard = log_normalise(values[few], depth, depths(reference)[few])
    labels, features = labels[few], teaching.scale.reference[few]
    weight = cell_weights(labels, teaching.scale.composition)
    profiles = cluster_means(heard, labels, len(reference.types)).astype(np.float32)
    centre = weight @ heard
    weighted = features * weight[:, None]
    gram = weighted.T @ features + penalty * np.eye(features.shape[1])
    slope = np.linalg.solve(gram, weighted.T @ (heard - centre)).astype(np.float32)
    return Reference(row_unit(features), labels, weight.astype(np.float32), heard, profiles, slope, centre)


def hear(
    reference: Reference, listeners: Listeners, temperature: float, type_share: float
) -> Float[np.ndarray, "speakers n g"]:
    r"""What each speaker says of the genes in each query cell.

    .. math:: m_n = \sum_s \operatorname{softmax}_s\!\Big(\frac{\cos(z_n, z_s) + a \cos(p_n, e_s)}{(1 + a) \tau} +
        \log w_s\Big) v_s

    with :math:`a` 0 for "cells" and ``type_share`` for "cells and types", :math:`p` the posterior, :math:`e` the type.

    Parameters
    ----------
    reference, listeners
        Who is heard, and by whom.
    temperature
        :math:`\tau`.
    type_share
        :math:`a`.
    """
    said = np.empty((len(SPEAKERS), len(listeners), reference.values.shape[1]), dtype=np.float32)
    said[0] = listeners.posterior @ reference.profiles
    said[3] = reference.centre + listeners.features @ reference.slope
    for start in range(0, len(listeners), _ROWS):
        rows = slice(start, start + _ROWS)
        near = row_unit(listeners.features[rows]) @ reference.keys.T
        same = row_unit(listeners.posterior[rows])[:, reference.labels]
        said[1, rows] = _attend(near / temperature, reference)
        said[2, rows] = _attend((near + type_share * same) / ((1 + type_share) * temperature), reference)
    return said


def _attend(score: Float[np.ndarray, "n s"], reference: Reference) -> Float[np.ndarray, "n g"]:
    share = np.exp(score - score.max(1, keepdims=True)) * reference.weight
    return (share @ reference.values) / share.sum(1, keepdims=True)


def cells_alike(features: Float[np.ndarray, "n f"], k: int, random_state: int) -> sp.csr_array:
    """Mean over the k query cells nearest in expression, the cell itself among them, as a matrix (cells, cells)."""
    n, k = len(features), min(k, len(features))
    points = features - features.mean(axis=0)
    if np.ptp(features, axis=0).max() > FLAT:  # cells that are all the same have no components
        parts = PCA(min(COMPONENTS, features.shape[1], n), svd_solver="randomized", random_state=random_state)
        points = parts.fit_transform(features)
    return sp.csr_array(NearestNeighbors(n_neighbors=k).fit(points).kneighbors_graph(points) / k, dtype=np.float32)


def relays(listeners: Listeners, alike: int, near: int, random_state: int) -> list[sp.csr_array]:
    """How messages are passed on: matrices (cells, cells), one a relay, each applied to what the one before gives."""
    found = [cells_alike(listeners.features, alike, random_state)]
    if listeners.coords is not None:
        found.append(spatial_knn(listeners.coords, listeners.section, near).mean(near))
    return found


def relayed(said: Float[np.ndarray, "s n g"], by: list[sp.csr_array]) -> Float[np.ndarray, "s r n g"]:
    """What was said, and what of it arrives after each relay; zeros after a relay that is missing."""
    out = np.zeros((len(said), len(RELAYS), *said.shape[1:]), dtype=np.float32)
    out[:, 0] = said
    for speaker in out:
        for relay, matrix in enumerate(by):
            speaker[relay + 1] = matrix @ speaker[relay]
    return out


@dataclass(frozen=True)
class Blend:
    r"""Messages about each gene joined: :math:`\mu + \sigma \sum_m w_m (x_m - \bar x_m) / s_m`.

    Parameters
    ----------
    weights
        Of the messages (speakers, relays), summing to 1.
    mean, spread
        Mean and standard deviation of each message over cells (speakers, relays, genes); a spread is infinite where
        nothing varies. The mean of what types say is :math:`\mu`, the weighted mean of the spreads :math:`\sigma`.
    """

    weights: Float[np.ndarray, "s r"]
    mean: Float[np.ndarray, "s r g"]
    spread: Float[np.ndarray, "s r g"]

    @classmethod
    def on(cls, messages: Float[np.ndarray, "s r n g"], weights: Float[np.ndarray, "s r"]) -> Blend:
        """Blend with the moments of some messages."""
        spread = messages.std(axis=2)
        return cls(weights, messages.mean(axis=2), np.where(spread > FLAT, spread, np.inf))

    @property
    def slope(self) -> Float[np.ndarray, "s r g"]:
        """How much the value of a gene rises with each message."""
        weights = self.weights[..., None]
        finite = np.where(np.isfinite(self.spread), self.spread, 0)
        scale = (weights * finite).sum((0, 1)) / max(self.weights.sum(), 1e-9)
        return (weights * scale / self.spread).astype(np.float32)

    @property
    def offset(self) -> Float[np.ndarray, " g"]:
        """Value where all messages are 0."""
        return (self.mean[0, 0] - (self.slope * self.mean).sum((0, 1))).astype(np.float32)

    def join(self, messages: Float[np.ndarray, "s r n g"]) -> Float[np.ndarray, "n g"]:
        """Value of each gene in each cell, at least 0."""
        return np.maximum(np.einsum("srg,srng->ng", self.slope, messages) + self.offset, 0)

    def pass_on(self, said: Float[np.ndarray, "s n g"], by: list[sp.csr_array]) -> Float[np.ndarray, "n g"]:
        """The same of what is still to be passed on: it is joined first, since averages are linear."""
        slope = self.slope
        parts = [np.einsum("sg,sng->ng", slope[:, relay], said) for relay in range(len(by) + 1)]
        for relay in range(1, len(parts)):
            for matrix in by[:relay]:
                parts[relay] = matrix @ parts[relay]
        return np.maximum(sum(parts) + self.offset, 0)


def fit_of(
    messages: Float[np.ndarray, "s r n g"], truth: Float[np.ndarray, "n g"]
) -> tuple[Float[np.ndarray, "m m"], Float[np.ndarray, " m"]]:
    """Mean products of standardised messages with each other and with the ranks of the truth, summed over genes."""
    blend = Blend.on(messages, np.empty(0))
    scores = (messages - blend.mean[:, :, None]) / blend.spread[:, :, None]
    scores = scores.reshape(-1, *truth.shape)
    ranks = standard_ranks(truth)
    return np.einsum("ang,bng->ab", scores, scores) / len(truth), np.einsum("ang,ng->a", scores, ranks) / len(truth)


def standard_ranks(values: Float[np.ndarray, "n g"]) -> Float[np.ndarray, "n g"]:
    """Ranks of the cells in each gene, centred and scaled; 0 in a gene without spread."""
    ranks = rankdata(values, axis=0)
    ranks -= ranks.mean(axis=0)
    return ranks / np.maximum(ranks.std(axis=0), 1e-9)


def weigh(gram: Float[np.ndarray, "m m"], pull: Float[np.ndarray, " m"], n_genes: int, penalty: float) -> np.ndarray:
    r"""Weights of the messages: :math:`\min_{w \ge 0} \sum_g \|r_g - X_g w\|^2 + \lambda \|w\|^2`, summing to 1.

    Parameters
    ----------
    gram, pull
        Sums over genes of what :func:`fit_of` gives.
    n_genes
        Number of genes summed over.
    penalty
        Ridge penalty a gene.
    """
    speaking = np.diag(gram) > 0  # a message that never varies has no weight, not even by rounding
    weights = np.zeros(len(gram))
    if not speaking.any():
        return weights
    lower = np.linalg.cholesky(gram[np.ix_(speaking, speaking)] / n_genes + penalty * np.eye(speaking.sum()))
    weights[speaking], _ = nnls(lower.T, solve_triangular(lower, pull[speaking] / n_genes, lower=True))
    if not weights.sum():  # nothing that was held out could be told: then nobody is better than the others
        weights[speaking] = 1
    return weights / weights.sum()
