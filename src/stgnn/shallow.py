"""Shallow experts that judge any query by arrays alone, so that they are saved with a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
import scipy.sparse as sp
from scipy.special import log_softmax

from stgnn import experts
from stgnn.graph.build import spatial_knn

if TYPE_CHECKING:
    from jaxtyping import Float, Int

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
    _joined: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def with_neighbours(self, sizes: tuple[int, ...]) -> Float[np.ndarray, "n f2"]:
        """Own features joined with the means of those many neighbours, found once; own alone without sizes."""
        if not sizes:
            return self.features
        if self.cells.coords is None:
            raise ValueError("sizes: expected none for cells without coordinates")
        if sizes not in self._joined:
            self._joined[sizes] = neighbour_means(self.features, self.cells.coords, self.cells.section, sizes)
        return self._joined[sizes]


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


@dataclass(frozen=True)
class Guesses:
    r"""Regression on first guesses, a cell's own and its neighbours', with weights learned from labels: auto-context.

    .. math:: \log p = W\,[\log q_n,\; \overline{\log q}_{N_8(n)},\; \dots] + b

    with :math:`q` the mean of some first regressions. Where neighbours' types say nothing, W learns to ignore them.

    References
    ----------
    Tu, Auto-context and its application to high-level vision tasks, CVPR 2008.

    Parameters
    ----------
    first
        Regressions that make the guesses.
    second
        Regression on the guesses of a cell and of its neighbours.
    """

    first: tuple[Regression, ...]
    second: Regression

    def log_proba(self, view: View) -> Float[np.ndarray, "n c"]:
        """Log-probability of each type for each cell."""
        return self.second.log_proba(first_guess(self.first, view))


@dataclass(frozen=True)
class Clusters:
    """What cells of one cluster of expression are called together, averaged over several clusterings.

    Parameters
    ----------
    axes
        From features to the components that are clustered (features, components).
    centres
        Centres of each clustering (clusterings, clusters, components).
    log_probas
        What the cells of each cluster are called (clusterings, clusters, types).
    """

    axes: Float[np.ndarray, "f d"]
    centres: Float[np.ndarray, "r k d"]
    log_probas: Float[np.ndarray, "r k c"]

    def members(self, features: Float[np.ndarray, "n f"]) -> Int[np.ndarray, "r n"]:
        """Cluster of each cell in each clustering."""
        parts = features @ self.axes
        return np.stack([nearest(parts, centres) for centres in self.centres])

    def of_members(self, members: Int[np.ndarray, "r n"]) -> Float[np.ndarray, "n c"]:
        """Log-probability of each type for cells whose clusters are known."""
        said = sum(said[member] for member, said in zip(members, self.log_probas, strict=True))
        return log_softmax(said / len(members), axis=1)

    def log_proba(self, view: View) -> Float[np.ndarray, "n c"]:
        """Log-probability of each type for each cell."""
        return self.of_members(self.members(view.features))


Expert = Regression | Profiles | Guesses | Clusters


def first_guess(first: Sequence[Regression], view: View) -> View:
    """The same cells with the mean log-probabilities of some regressions as their features."""
    guess = log_softmax(np.mean([expert.log_proba(view) for expert in first], axis=0), axis=1)
    return View(view.cells, experts.floored(guess).astype(np.float32))


def cluster_means(
    values: Float[np.ndarray, "n v"], member: Int[np.ndarray, " n"], n_clusters: int
) -> Float[np.ndarray, "k v"]:
    """Mean of the values of each cluster's cells; 0 for a cluster without any."""
    ones = sp.csr_array((np.ones(len(member)), (member, np.arange(len(member)))), shape=(n_clusters, len(member)))
    return (ones @ values) / np.maximum(np.bincount(member, minlength=n_clusters), 1)[:, None]


def nearest(points: Float[np.ndarray, "n d"], centres: Float[np.ndarray, "k d"]) -> Int[np.ndarray, " n"]:
    """Nearest centre of each point, a tile of points at a time."""
    size = (centres * centres).sum(1) / 2
    tiles = range(0, len(points), 8192)
    return np.concatenate([(size - points[i : i + 8192] @ centres.T).argmin(1) for i in tiles])


def regress(
    features: np.ndarray, labels: np.ndarray, n_types: int, *, C: float, balance: float, sizes: tuple[int, ...] = ()
) -> Regression:
    r"""Fit a multinomial regression; types without cells get :data:`UNSEEN`.

    A cell of a type with :math:`n_k` cells weighs :math:`n_k^{-b}` with b the ``balance``: at 0 cells weigh the same,
    at 1 types do.
    """
    from sklearn.linear_model import LogisticRegression

    weight = np.bincount(labels, minlength=n_types)[labels] ** -float(balance)
    model = LogisticRegression(C=C, max_iter=500, tol=1e-3)
    model.fit(features, labels, sample_weight=weight / weight.mean())
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
    blocks = [values, *(graph.mean(size) @ values for size in sizes)]
    return np.hstack(blocks).astype(np.float32)


def sizes_of(expert: Expert) -> tuple[int, ...]:
    """Sizes of the neighbourhoods that an expert sees; none for one that needs no coordinates."""
    match expert:
        case Regression():
            return expert.sizes
        case Guesses():
            return expert.second.sizes
        case _:
            return ()


def reach(council: Sequence[Expert]) -> tuple[int, int]:
    """Most neighbours that an expert listens to, and in how many rounds: guesses of neighbours have heard theirs."""
    most = max((size for expert in council for size in sizes_of(expert)), default=0)
    return most, 2 if any(isinstance(expert, Guesses) for expert in council) else 1


def usable(expert: Expert, view: View) -> bool:
    """Whether an expert can judge this query: neighbours' means need coordinates."""
    return view.cells.coords is not None or not sizes_of(expert)


def heard(
    council: Sequence[Expert],
    weights: Float[np.ndarray, " e"],
    view: View,
    members: Int[np.ndarray, "r n"] | None,
) -> tuple[Float[np.ndarray, "n c"], list[Float[np.ndarray, "n c"]]]:
    """What experts say together, and each for itself; clusters, the last, are heard where ``members`` are known."""
    speaking = council if members is None else council[:-1]
    pairs = [(w, e) for w, e in zip(weights, speaking, strict=False) if usable(e, view)]
    said = [experts.floored(expert.log_proba(view)) for _, expert in pairs]
    own = [weight for weight, _ in pairs]
    if members is not None:
        said.append(experts.floored(cast(Clusters, council[-1]).of_members(members)))
        own.append(weights[-1])
    # experts that need coordinates fall silent without them; the others then speak for them
    louder = weights.sum() / max(sum(own), 1e-9)
    return sum(louder * weight * log for weight, log in zip(own, said, strict=True)), said


def pack(council: Sequence[Expert]) -> dict[str, np.ndarray]:
    """Experts as named arrays; see :func:`unpack`."""
    arrays: dict[str, np.ndarray] = {}
    for i, expert in enumerate(council):
        arrays |= {f"expert{i}.{name}": value for name, value in _arrays(expert).items()}
    return arrays


def _arrays(expert: Expert) -> dict[str, np.ndarray]:
    match expert:
        case Profiles():
            return {"rates": expert.rates, "temperature": np.array(expert.temperature)}
        case Clusters():
            return {"axes": expert.axes, "centres": expert.centres, "log_probas": expert.log_probas}
        case Guesses():
            parts = {f"first{i}": part for i, part in enumerate(expert.first)} | {"second": expert.second}
            return {f"{part}.{name}": value for part, own in parts.items() for name, value in _arrays(own).items()}
        case Regression():
            sizes = np.array(expert.sizes, dtype=np.int64)
            return {"coefficients": expert.coefficients, "intercept": expert.intercept, "sizes": sizes}


def unpack(arrays: dict[str, np.ndarray]) -> list[Expert]:
    """Experts from the arrays of :func:`pack`."""
    council: list[Expert] = []
    while own := _under(arrays, f"expert{len(council)}."):
        council.append(_expert(own))
    return council


def _expert(arrays: dict[str, np.ndarray]) -> Expert:
    if "rates" in arrays:
        return Profiles(arrays["rates"], float(arrays["temperature"]))
    if "centres" in arrays:
        return Clusters(arrays["axes"], arrays["centres"], arrays["log_probas"])
    if "second.sizes" in arrays:
        first: list[Regression] = []
        while own := _under(arrays, f"first{len(first)}."):
            first.append(_regression(own))
        return Guesses(tuple(first), _regression(_under(arrays, "second.")))
    return _regression(arrays)


def _regression(arrays: dict[str, np.ndarray]) -> Regression:
    return Regression(arrays["coefficients"], arrays["intercept"], tuple(int(size) for size in arrays["sizes"]))


def _under(arrays: dict[str, np.ndarray], start: str) -> dict[str, np.ndarray]:
    """Arrays whose names begin so, by the rest of their names."""
    return {name.removeprefix(start): value for name, value in arrays.items() if name.startswith(start)}
