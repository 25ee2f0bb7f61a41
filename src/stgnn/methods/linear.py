"""Simple strong siblings: logistic regression on a cell's own expression, the same with its neighbours' means, kNN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
import scipy.sparse as sp
from scipy.special import softmax

from stgnn import experts
from stgnn.data.cells import Cells, Prediction
from stgnn.data.schema import CoordinatesError
from stgnn.graph.build import spatial_knn
from stgnn.methods.base import Annotator

if TYPE_CHECKING:
    from jaxtyping import Float

N_COMPONENTS = 50
MOST_GENES = 600
"""Above this many genes, logistic regression sees principal components."""

NEIGHBOURS = (15, 60)
"""Sizes of the neighbourhoods whose mean expression is joined to a cell's own."""


@final
@dataclass(eq=False)
class LogisticRegression(Annotator):
    r"""Multinomial logistic regression on standardised expression.

    .. math:: p(y_n) = \mathrm{softmax}(W z_n + b), \qquad z = \mathrm{zscore}(\log(1 + d\,x / \textstyle\sum_g x_g))

    with :math:`d` the median depth of the query, and mean and deviation of each gene those of the reference: a query of
    other proportions keeps them (standardised by itself, it would lose half of its macro-F1 on visual cortex; where
    platforms differ much and proportions do not, it would gain a point). With more than 600 genes, :math:`z` is 50
    principal components of them.

    Parameters
    ----------
    C
        Inverse strength of the penalty on :math:`W`.
    random_state
        Seed of the principal components.

    Examples
    --------
    >>> from stgnn.data.cells import align, read_query, read_reference
    >>> from stgnn.data.toy import toy
    >>> adata, adata_query = toy(n_cells=100)
    >>> reference, query = align(read_reference(adata), read_query(adata_query))
    >>> LogisticRegression().fit(reference, query).predict_proba(query).shape
    (100, 5)
    """

    C: float = 0.05
    random_state: int = 0

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Fit the weights on the reference; the query gives only the depth and the components."""
        self.genes_, self.types_ = reference.genes, reference.types
        self.depth_ = _median_depth(query)
        self.moments_ = _moments(reference, self.depth_)
        values = _standardised(reference, self.depth_, self.moments_)
        self.axes_ = _axes(values, _standardised(query, self.depth_, self.moments_), self.random_state)
        self.weight_, self.bias_ = _fit_softmax(values @ self.axes_, _labels(reference), self.C)
        return self

    def predict(self, query: Cells) -> Prediction:
        """Apply the weights to the query, on the reference's scale."""
        scores = _standardised(query, self.depth_, self.moments_) @ self.axes_ @ self.weight_ + self.bias_
        return _prediction(scores, {"method": "logistic regression"})

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"moments": self.moments_, "axes": self.axes_, "weight": self.weight_, "bias": self.bias_}

    def _facts(self) -> dict[str, Any]:
        return {"depth_": self.depth_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.moments_, self.axes_ = arrays["moments"], arrays["axes"]
        self.weight_, self.bias_ = arrays["weight"], arrays["bias"]
        _check_fit(self.moments_, self.axes_, self.weight_, self.bias_, self.depth_, len(self.genes_), len(self.types_))


@final
@dataclass(eq=False)
class LogisticNeighbours(Annotator):
    r"""Logistic regression on a cell's own expression joined with its neighbours' means.

    .. math:: p(y_n) = \mathrm{softmax}\big(W [z_n, \bar z_{N_{15}(n)}, \bar z_{N_{60}(n)}] + b\big)

    with :math:`N_k` the k nearest cells of the same section and :math:`z` the expression of each data set, standardised
    by itself: that takes away what differs between sections. Weights of neighbours can only be learned where the
    reference has coordinates too; where either side has none, this is plain logistic regression, and
    ``details["space"]`` says so.

    Parameters
    ----------
    C
        Inverse strength of the penalty on :math:`W`.
    random_state
        Seed of the principal components.
    """

    C: float = 0.05
    random_state: int = 0

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Fit the weights on the reference; the query gives only the depth and the components."""
        self.genes_, self.types_ = reference.genes, reference.types
        self.depth_ = _median_depth(query)
        without = [name for name, cells in (("reference", reference), ("query", query)) if cells.coords is None]
        self.space_ = (
            "neighbours' means joined" if not without else f"own expression only: no coordinates in the {without[0]}"
        )
        self.uses_space_ = not without
        self.moments_ = np.empty((0, 0), dtype=np.float32) if self.uses_space_ else _moments(reference, self.depth_)
        own = _standardised(reference, self.depth_, self.moments_)
        self.axes_ = _axes(own, _standardised(query, self.depth_, self.moments_), self.random_state)
        own = own @ self.axes_
        joined = _with_neighbours(own, reference) if self.uses_space_ else own
        self.weight_, self.bias_ = _fit_softmax(joined, _labels(reference), self.C)
        return self

    def predict(self, query: Cells) -> Prediction:
        """Apply the weights to the query.

        Raises
        ------
        CoordinatesError
            If the model was fitted with coordinates and the query has none.
        """
        values = _standardised(query, self.depth_, self.moments_) @ self.axes_
        if self.uses_space_:
            values = _with_neighbours(values, query)
        return _prediction(values @ self.weight_ + self.bias_, {"method": "logistic regression", "space": self.space_})

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"moments": self.moments_, "axes": self.axes_, "weight": self.weight_, "bias": self.bias_}

    def _facts(self) -> dict[str, Any]:
        return {"depth_": self.depth_, "space_": self.space_, "uses_space_": self.uses_space_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.moments_, self.axes_ = arrays["moments"], arrays["axes"]
        self.weight_, self.bias_ = arrays["weight"], arrays["bias"]
        _check_fit(self.moments_, self.axes_, self.weight_, self.bias_, self.depth_, len(self.genes_), len(self.types_))


@final
@dataclass(eq=False)
class KnnHarmony(Annotator):
    """Vote of the nearest reference cells in principal components that Harmony has aligned.

    Transductive: both data sets are aligned anew for every query, so a saved model holds the reference's counts.

    References
    ----------
    Korsunsky et al., Fast, sensitive and accurate integration of single-cell data with Harmony, Nat. Methods 2019.

    Parameters
    ----------
    k
        Number of reference cells that vote, each weighted by its inverse distance.
    random_state
        Seed of the components and of the alignment.
    """

    k: int = 30
    random_state: int = 0

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Keep the reference: all the work is in ``predict``."""
        self.genes_, self.types_ = reference.genes, reference.types
        self.counts_, self.labels_ = reference.counts, _labels(reference)
        return self

    def predict(self, query: Cells) -> Prediction:
        """Align the query with the reference and let the nearest cells vote."""
        depth = _median_depth(query)
        reference, asked = (experts.standardise(experts.log_normalise(x, depth)) for x in (self.counts_, query.counts))
        components = experts.joint_pca(reference, asked, N_COMPONENTS, self.random_state)
        batch = np.repeat([0, 1], [len(self.labels_), len(query)])
        aligned = experts.harmony(components, batch, random_state=self.random_state)
        known, asked = np.split(aligned, [len(self.labels_)])
        proba = experts.vote(known, self.labels_, asked, len(self.types_), self.k)
        return Prediction(proba, asked, 1 - proba.max(1), details={"method": "kNN in aligned components"})

    def _arrays(self) -> dict[str, np.ndarray]:
        x = self.counts_
        return {"data": x.data, "indices": x.indices, "indptr": x.indptr, "labels": self.labels_}

    def _facts(self) -> dict[str, Any]:
        return {}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.labels_ = arrays["labels"]
        shape = (len(self.labels_), len(self.genes_))
        self.counts_ = sp.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)


def _labels(reference: Cells) -> np.ndarray:
    if reference.labels is None:
        raise TypeError("reference: expected labelled cells, as read_reference gives; found none")
    return reference.labels


def _median_depth(cells: Cells) -> float:
    return float(np.median(np.asarray(cells.counts.sum(axis=1))))


def _moments(cells: Cells, depth: float) -> Float[np.ndarray, "2 genes"]:
    """Mean and deviation of each gene."""
    values = experts.log_normalise(cells.counts, depth)
    return np.stack([values.mean(0), values.std(0) + 1e-3])


def _standardised(
    cells: Cells, depth: float, moments: Float[np.ndarray, "m genes"]
) -> Float[np.ndarray, "cells genes"]:
    """Expression by the moments given; by the cells' own where none are."""
    values = experts.log_normalise(cells.counts, depth)
    if not moments.size:
        return experts.standardise(values)
    return np.clip((values - moments[0]) / moments[1], -experts.CLIP, experts.CLIP)


def _axes(
    reference: Float[np.ndarray, "a genes"], query: Float[np.ndarray, "b genes"], random_state: int
) -> Float[np.ndarray, "genes components"]:
    """Directions to project onto, each scaled to unit variance in the reference; all genes as they are if few."""
    n_genes = reference.shape[1]
    if n_genes <= MOST_GENES:
        return np.eye(n_genes, dtype=np.float32)
    from sklearn.decomposition import PCA

    both = np.vstack([reference, query])
    model = PCA(min(N_COMPONENTS, len(both) - 1), svd_solver="randomized", random_state=random_state).fit(both)
    axes = model.components_.T
    return (axes / ((reference @ axes).std(0) + 1e-6)).astype(np.float32)


def _with_neighbours(values: Float[np.ndarray, "cells d"], cells: Cells) -> Float[np.ndarray, "cells 3*d"]:
    """Own values beside the means of the neighbours'; zero, the mean of all cells, where there is no neighbour."""
    if cells.coords is None:
        raise CoordinatesError("query", expected="coordinates, with which the model was fitted", found="none")
    out = [values]
    for k in NEIGHBOURS:
        graph = spatial_knn(cells.coords, cells.section, k)
        adjacent = sp.csr_array(
            (np.ones(len(graph.indices), np.float32), graph.indices, graph.indptr), (len(cells),) * 2
        )
        out.append((adjacent @ values) / np.maximum(graph.degree, 1)[:, None].astype(np.float32))
    return np.hstack(out)


def _fit_softmax(
    values: Float[np.ndarray, "cells d"], labels: np.ndarray, C: float
) -> tuple[Float[np.ndarray, "d types"], Float[np.ndarray, " types"]]:
    from sklearn.linear_model import LogisticRegression as Regression

    model = Regression(C=C, max_iter=300).fit(values, labels)
    weight, bias = model.coef_.T, model.intercept_
    if len(model.classes_) == 2:  # the library keeps one column for two classes: softmax([0, z]) is its sigmoid
        weight, bias = np.hstack([0 * weight, weight]), np.append(0, bias)
    return weight, bias


def _prediction(scores: Float[np.ndarray, "cells types"], details: dict[str, Any]) -> Prediction:
    proba = softmax(scores, axis=1)
    return Prediction(proba, scores, 1 - proba.max(1), details=details)


def _check_fit(
    moments: np.ndarray,
    axes: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    depth: float,
    n_genes: int,
    n_types: int,
) -> None:
    """Refuse parts of a saved model that do not belong together."""
    if axes.shape[:1] != (n_genes,) or weight.shape[1:] != (n_types,) or bias.shape != (n_types,):
        raise ValueError(
            f"{n_genes} genes and {n_types} types, with axes {axes.shape}, weight {weight.shape}, bias {bias.shape}"
        )
    if moments.shape not in ((0, 0), (2, n_genes)):
        raise ValueError(f"{n_genes} genes, with moments {moments.shape}")
    if not depth > 0:
        raise ValueError(f"a depth of {depth}")
