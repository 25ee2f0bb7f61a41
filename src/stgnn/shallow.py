"""Shallow experts that judge any query by arrays alone, so that they are saved with a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from scipy.special import log_softmax

from stgnn import experts
from stgnn.graph.build import spatial_knn

if TYPE_CHECKING:
    from jaxtyping import Float

    from stgnn.data.cells import Cells

UNSEEN = -30.0
"""Intercept of a type that a regression was never shown: never chosen, yet finite."""


@dataclass(frozen=True)
class View:
    """A query as the experts see it.

    Parameters
    ----------
    cells
        Counts and places.
    features
        Standardised expression, or its whitened components (cells, features).
    """

    cells: Cells
    features: Float[np.ndarray, "n f"]

    def with_neighbours(self, sizes: Sequence[int]) -> Float[np.ndarray, "n f2"]:
        """Own features joined with the means of those many neighbours; own alone without sizes."""
        if not sizes:
            return self.features
        if self.cells.coords is None:
            raise ValueError("sizes: expected none for cells without coordinates")
        return neighbour_means(self.features, self.cells.coords, self.cells.section, sizes)


@dataclass(frozen=True)
class Regression:
    """Multinomial regression on own features and on neighbours' means.

    Parameters
    ----------
    coefficients, intercept
        (types, features) and (types,).
    sizes
        Neighbourhood sizes whose means follow the own features.
    """

    coefficients: Float[np.ndarray, "c f"]
    intercept: Float[np.ndarray, " c"]
    sizes: tuple[int, ...] = ()

    def log_proba(self, view: View) -> Float[np.ndarray, "n c"]:
        """Log-probability of each type for each cell."""
        return log_softmax(view.with_neighbours(self.sizes) @ self.coefficients.T + self.intercept, axis=1)


@dataclass(frozen=True)
class Profiles:
    """Negative-binomial likelihood under each type's rates, tempered.

    Parameters
    ----------
    rates
        Share of each gene in each type (types, genes).
    temperature
        Factor of the log-likelihood.
    """

    rates: Float[np.ndarray, "c g"]
    temperature: float

    def log_proba(self, view: View) -> Float[np.ndarray, "n c"]:
        """Log-probability of each type for each cell."""
        return log_softmax(experts.profile_scores(view.cells.counts, self.rates) * self.temperature, axis=1)


Expert = Regression | Profiles


def regress(
    features: np.ndarray, labels: np.ndarray, n_types: int, *, C: float, balanced: bool, sizes: tuple[int, ...] = ()
) -> Regression:
    """Fit a multinomial regression; types without cells get :data:`UNSEEN`."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=C, max_iter=100, tol=1e-3, class_weight="balanced" if balanced else None)
    model.fit(features, labels)
    coefficients = np.zeros((n_types, features.shape[1]), dtype=np.float32)
    intercept = np.full(n_types, UNSEEN, dtype=np.float32)
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        coefficients[model.classes_] = np.vstack([-model.coef_[0], model.coef_[0]]) / 2
        intercept[model.classes_] = np.array([-model.intercept_[0], model.intercept_[0]]) / 2
    else:
        coefficients[model.classes_], intercept[model.classes_] = model.coef_, model.intercept_
    return Regression(coefficients, intercept, sizes)


def neighbour_means(
    values: np.ndarray, coords: np.ndarray, section: np.ndarray, sizes: Sequence[int]
) -> Float[np.ndarray, "n f2"]:
    """Own values joined with the means over the nearest neighbours, one block a neighbourhood size."""
    graph = spatial_knn(coords, section, max(sizes))
    n, blocks = len(values), [values]
    for size in sizes:
        neighbours, _, mask = graph.table(size)
        share = mask / np.maximum(mask.sum(1, keepdims=True), 1)
        rows = np.repeat(np.arange(n), neighbours.shape[1])
        matrix = sp.csr_array((share.ravel().astype(np.float32), (rows, neighbours.ravel())), shape=(n, n))
        blocks.append(matrix @ values)
    return np.hstack(blocks).astype(np.float32)


def usable(expert: Expert, view: View) -> bool:
    """Whether an expert can judge this query: neighbours' means need coordinates."""
    return view.cells.coords is not None or isinstance(expert, Profiles) or not expert.sizes


def pack(council: Sequence[Expert]) -> dict[str, np.ndarray]:
    """Experts as named arrays; see :func:`unpack`."""
    arrays: dict[str, np.ndarray] = {}
    for i, expert in enumerate(council):
        if isinstance(expert, Profiles):
            arrays[f"expert{i}.rates"] = expert.rates
            arrays[f"expert{i}.temperature"] = np.array(expert.temperature)
        else:
            arrays[f"expert{i}.coefficients"], arrays[f"expert{i}.intercept"] = expert.coefficients, expert.intercept
            arrays[f"expert{i}.sizes"] = np.array(expert.sizes, dtype=np.int64)
    return arrays


def unpack(arrays: dict[str, np.ndarray]) -> list[Expert]:
    """Experts from the arrays of :func:`pack`."""
    council: list[Expert] = []
    while True:
        name = f"expert{len(council)}"
        if f"{name}.rates" in arrays:
            council.append(Profiles(arrays[f"{name}.rates"], float(arrays[f"{name}.temperature"])))
        elif f"{name}.coefficients" in arrays:
            sizes = tuple(int(size) for size in arrays[f"{name}.sizes"])
            council.append(Regression(arrays[f"{name}.coefficients"], arrays[f"{name}.intercept"], sizes))
        else:
            return council
