"""From cells and the teacher's word to tensors: what a network sees, remembers, and learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stgnn import experts
from stgnn.council import MAX_GENES, Scale, composition_of, weighted_standardise
from stgnn.graph.build import gene_correlation, metacells
from stgnn.nn.tissue import Batch, plain_batches, spatial_batches
from stgnn.standins import NOISE, SPILL, cell_weights, degrade, depths, labels_of, typical_depth
from stgnn.teacher import Teaching

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from stgnn.data.cells import Cells

GENE_NEIGHBOURS, GENES_PER_MODULE, MOST_MODULES = 8, 12, 8
LEAST_TRUST = 0.3
"""Weight of the query's loss at least: on one platform, too, the query's own guesses steady the network."""

PROTOTYPES = 4
"""Reference prototypes of a type that the memory holds, at most."""

_AT_ONCE = 16_384


@dataclass(frozen=True)
class Shape:
    """Sizes of a network and the fixed arrays it is built around.

    Parameters
    ----------
    features, types, dims
        Width of the input, number of types, dimensions of space.
    genes
        Which genes the gene-level module sees (g,).
    loadings
        From standardised expression to features (genes, features); empty where features are the genes.
    gene_neighbours, gene_correlation, gene_mask, gene_module
        The gene graph as a table (g, k), and the module of each gene (g,).
    memory_features, memory_genes, memory_kind
        Reference prototypes (m, f), (m, g), and their types, one-hot (m, types).
    """

    features: int
    types: int
    dims: int
    genes: Int[np.ndarray, " g"]
    loadings: Float[np.ndarray, "all f"]
    gene_neighbours: Int[np.ndarray, "g k"]
    gene_correlation: Float[np.ndarray, "g k"]
    gene_mask: Bool[np.ndarray, "g k"]
    gene_module: Int[np.ndarray, " g"]
    memory_features: Float[np.ndarray, "m f"]
    memory_genes: Float[np.ndarray, "m g"]
    memory_kind: Float[np.ndarray, "m c"]

    def see(self, standardised: Float[np.ndarray, "n all"]) -> tuple[np.ndarray, np.ndarray]:
        """Features and gene-level genes of standardised cells; one array twice where they are the same."""
        if self.loadings.size == 0:
            return standardised, standardised
        return standardised @ self.loadings, np.ascontiguousarray(standardised[:, self.genes])


@dataclass(frozen=True)
class Layout:
    """How cells are laid out for a network.

    Parameters
    ----------
    spatial
        Whether coordinates are used.
    neighbours, hops
        Neighbours of a cell, and rounds of listening.
    cells_per_region, cells_per_tile
        Sizes of the regions and of the minibatches.
    """

    spatial: bool
    neighbours: int
    hops: int
    cells_per_region: int = 50
    cells_per_tile: int = 2500

    def batches(self, cells: Cells, features: np.ndarray, genes: np.ndarray) -> list[Batch]:
        """Cut cells into minibatches, along space where it is used and known."""
        if not self.spatial or cells.coords is None:
            return plain_batches(features, genes, self.cells_per_tile)
        return spatial_batches(
            features,
            genes,
            cells.coords,
            cells.section,
            k=self.neighbours,
            hops=self.hops,
            cells_per_region=self.cells_per_region,
            cells_per_tile=self.cells_per_tile,
        )


@dataclass(frozen=True)
class Side:
    """One data set in training: its minibatches, and further versions of them as another platform would see them."""

    batches: list[Batch]
    views: list[list[Batch]]


@dataclass(frozen=True)
class Lesson:
    """What a network learns from.

    Parameters
    ----------
    reference, query
        The two data sets.
    labels
        Types of the reference cells.
    teacher
        The experts' joint log-probabilities for the query (cells, types).
    trust
        Weight of the query's loss; the reference's weighs one minus it.
    pairs
        Memory entries that are mutual nearest neighbours of each query cell (cells, entries).
    """

    reference: Side
    query: Side
    labels: Int[np.ndarray, " r"]
    teacher: Float[np.ndarray, "n c"]
    trust: float
    pairs: Bool[np.ndarray, "n m"]


def prepare(
    reference: Cells, query: Cells, teaching: Teaching, layout: Layout, *, augmentation: bool, random_state: int
) -> tuple[Shape, Lesson]:
    """Build the shape of a network and its lesson."""
    labels, scale = labels_of(reference), teaching.scale
    depth, weight = typical_depth(query), cell_weights(labels, scale.composition)
    known = weighted_standardise(experts.log_normalise(reference.counts, depth), weight)
    asked = Look.of(query).at(query)
    shape = shape_of(reference, query, known, scale, random_state)
    see_known, see_asked = shape.see(known), shape.see(asked)
    views = []
    if augmentation:
        rng = np.random.default_rng([random_state, 1])
        for _ in range(2):
            counts = degrade(reference.counts, labels, depths(query), rng, noise=NOISE, spill=SPILL)
            view = weighted_standardise(experts.log_normalise(counts, depth), weight)
            views.append(layout.batches(reference, *shape.see(view)))
    lesson = Lesson(
        Side(layout.batches(reference, *see_known), views),
        Side(layout.batches(query, *see_asked), []),
        labels,
        teaching.posterior,
        max(teaching.trust, LEAST_TRUST),
        mutual_neighbours(see_asked[0], shape.memory_features),
    )
    return shape, lesson


def review(reference: Cells, query: Cells, shape: Shape, layout: Layout, guess: np.ndarray, trust: float) -> Lesson:
    """Build a further lesson for networks of a known shape, from a fitted model's probabilities (cells, types)."""
    labels, depth = labels_of(reference), typical_depth(query)
    weight = cell_weights(labels, composition_of(labels, guess))
    known = shape.see(weighted_standardise(experts.log_normalise(reference.counts, depth), weight))
    asked = shape.see(Look.of(query).at(query))
    return Lesson(
        Side(layout.batches(reference, *known), []),
        Side(layout.batches(query, *asked), []),
        labels,
        np.log(guess + 1e-9),
        max(trust, LEAST_TRUST),
        np.zeros((len(query), len(shape.memory_features)), dtype=bool),
    )


@dataclass(frozen=True)
class Look:
    """How the cells of a query are standardised: by themselves, all together, however few are looked at.

    Parameters
    ----------
    depth
        Total that every cell is scaled to.
    mean, spread
        Of the log-normalised expression of each gene (genes,), float32.
    """

    depth: float
    mean: Float[np.ndarray, " g"]
    spread: Float[np.ndarray, " g"]

    @classmethod
    def of(cls, query: Cells) -> Look:
        """Look at all cells, some thousands at a time."""
        depth, n_genes = typical_depth(query), query.counts.shape[1]
        total, squares = np.zeros(n_genes), np.zeros(n_genes)
        for start in range(0, len(query), _AT_ONCE):
            values = experts.log_normalise(query.counts[start : start + _AT_ONCE], depth).astype(np.float64)
            total += values.sum(0)
            squares += np.einsum("ng,ng->g", values, values)
        mean = total / len(query)
        spread = np.sqrt(np.maximum(squares / len(query) - mean**2, 0))
        return cls(depth, mean.astype(np.float32), spread.astype(np.float32))

    def at(self, cells: Cells) -> Float[np.ndarray, "n g"]:
        """Standardised expression of some of the query's cells."""
        values = experts.log_normalise(cells.counts, self.depth)
        return experts.standardise(values, self.mean, self.spread)


def shape_of(reference: Cells, query: Cells, known: Float[np.ndarray, "r g"], scale: Scale, random_state: int) -> Shape:
    """Shape of a network for cells whose standardised expression is known (cells, genes), and their features' scale."""
    labels, n_types = labels_of(reference), len(reference.types)
    loadings = scale.loadings
    genes = np.arange(known.shape[1])
    if loadings is not None:
        genes = np.sort(np.argsort(-known.std(0), kind="stable")[:MAX_GENES])
    averaged, _ = metacells(known[:, genes], labels, 20, random_state)
    table = gene_correlation(averaged, GENE_NEIGHBOURS).table(GENE_NEIGHBOURS)
    groups, kinds = _prototypes(scale.reference, labels, n_types, random_state)
    dims = 2
    if reference.coords is not None and query.coords is not None:
        dims = min(reference.coords.shape[1], query.coords.shape[1])
    elif query.coords is not None:
        dims = query.coords.shape[1]
    return Shape(
        features=scale.reference.shape[1],
        types=n_types,
        dims=dims,
        genes=genes,
        loadings=np.empty((0, 0), np.float32) if loadings is None else loadings,
        gene_neighbours=table[0],
        gene_correlation=table[1],
        gene_mask=table[2],
        gene_module=_modules(averaged, random_state),
        memory_features=np.stack([scale.reference[rows].mean(0) for rows in groups]),
        memory_genes=np.stack([known[rows][:, genes].mean(0) for rows in groups]),
        memory_kind=np.eye(n_types, dtype=np.float32)[kinds],
    )


def _modules(expression: np.ndarray, random_state: int) -> np.ndarray:
    """Group genes by their correlations with all genes (genes,)."""
    from sklearn.cluster import KMeans

    n = expression.shape[1]
    spread = expression.std(0)
    pattern = np.zeros((n, n))
    alive = spread > 1e-6
    if alive.sum() > 1:
        pattern[np.ix_(alive, alive)] = np.corrcoef(expression[:, alive].T)
    n_modules = int(np.clip(n // GENES_PER_MODULE, 2, MOST_MODULES))
    n_modules = min(n_modules, len(np.unique(pattern.round(6), axis=0)))
    module = KMeans(n_modules, n_init=2, random_state=random_state).fit(pattern).labels_
    return np.unique(module, return_inverse=True)[1].astype(np.int64)


def _prototypes(
    features: np.ndarray, labels: np.ndarray, n_types: int, random_state: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Rows of each prototype's cells, and its type: k-means within each type."""
    from sklearn.cluster import KMeans

    groups, kinds = [], []
    for k in range(n_types):
        own = np.flatnonzero(labels == k)
        wanted = int(np.clip(len(own) // 10, 1, PROTOTYPES))
        group = np.zeros(len(own), dtype=int)
        if wanted > 1 and len(np.unique(features[own], axis=0)) >= wanted:
            group = KMeans(wanted, n_init=1, random_state=random_state).fit(features[own]).labels_
        for code in np.unique(group):
            groups.append(own[group == code])
            kinds.append(k)
    return groups, np.array(kinds)


def mutual_neighbours(
    features: Float[np.ndarray, "n f"], memory: Float[np.ndarray, "m f"], nearest: int = 3
) -> Bool[np.ndarray, "n m"]:
    """Which cells and prototypes are among each other's nearest by correlation."""
    score = experts.correlations(features, memory)
    forward = np.zeros(score.shape, dtype=bool)
    close = np.argpartition(-score, min(nearest, score.shape[1]) - 1, axis=1)[:, :nearest]
    np.put_along_axis(forward, close, True, axis=1)
    back = np.zeros(score.shape, dtype=bool)
    share = min(max(10, len(features) // (4 * len(memory))), len(features))
    np.put_along_axis(back, np.argpartition(-score, share - 1, axis=0)[:share], True, axis=0)
    return forward & back


def shape_arrays(shape: Shape) -> dict[str, np.ndarray]:
    """Arrays of a shape, to save."""
    return {f"shape.{name}": value for name, value in vars(shape).items() if isinstance(value, np.ndarray)}


def shape_from(arrays: dict[str, np.ndarray], sizes: dict[str, Any]) -> Shape:
    """Shape from saved arrays and sizes."""
    own = {name.removeprefix("shape."): value for name, value in arrays.items() if name.startswith("shape.")}
    return Shape(features=int(sizes["features"]), types=int(sizes["types"]), dims=int(sizes["dims"]), **own)
