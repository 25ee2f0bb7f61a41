"""Sections that lie over one another: the reference's map of types, laid over the query by what its cells look like.

Serial sections, and sections of tissue with a common plan, hold the same types at the same places. No coordinate frame
is trusted: the query is turned, mirrored, shifted and stretched until its cells' first guesses and their expression
agree best with the map, and the map is listened to only as far as the guesses do agree then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import minimize
from scipy.spatial import cKDTree
from scipy.special import log_softmax

from stgnn import experts
from stgnn.graph.graph import by_section
from stgnn.standins import labels_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from stgnn.data.cells import Cells
    from stgnn.data.stored import StoredRows

WEIGHT = 1.5
"""Weight of the map beside all that is said otherwise, where sections lie over one another; above 1, since what is
said otherwise errs for whole stretches at once."""

APART, TOGETHER = 0.72, 0.9
"""Agreement at which the map is first listened to, and at which it has its full weight."""

SHARPNESS, BACKGROUND = 0.75, 0.1
"""Width of the map's kernel in spacings of cells, and weight of the whole section's mix in units of usual density."""

CLEAR = 0.25
"""Maps that say less of a type than this share of its entropy are not tried: there types mix everywhere."""

PIXELS, COARSE = 256, 64
"""Most pixels a side of a map, and pixels a side for the first search."""

ANGLES, STARTS = 36, 3
"""Rotations tried at first, each also mirrored, and how many of the best places are refined."""

N_COMPONENTS, EXPRESSION_SHARPNESS = 20, 1.5
"""Components of expression that are drawn, and their kernel's width in spacings."""

FEWEST, MOST_CELLS, MOST_MAPS = 200, 4000, 8
"""Sections with fewer cells agree by chance; of larger ones so many cells are looked at; so many maps are tried."""


@dataclass(frozen=True)
class Atlas:
    r"""Map of the types and of the expression of one section.

    .. math:: p(k | u) = \frac{\sum_n K(u - u_n) [y_n = k] + m \pi_k}{\sum_n K(u - u_n) + m}

    with :math:`\pi` the section's mix, K a Gaussian kernel, and m a tenth of the usual density; expression likewise.

    Parameters
    ----------
    log_proba
        Log-probability of each type at each pixel (types, pixels, pixels).
    expression
        Mean components of expression at each pixel (components, pixels, pixels).
    axes
        From features to those components (features, components).
    composition
        Share of each type (types,).
    corner
        Coordinates of the first pixel's lower corner (2,), in the reference's unit.
    pitch
        Width of a pixel, in the same unit.
    spacing
        Usual distance between neighbouring cells, in the same unit.
    clarity, accuracy
        Nats that a place says of the type of a cell of the section itself, left out of the map, and how often it is
        right.
    """

    log_proba: Float[np.ndarray, "c p p"]
    expression: Float[np.ndarray, "d p p"]
    axes: Float[np.ndarray, "f d"]
    composition: Float[np.ndarray, " c"]
    corner: Float[np.ndarray, " 2"]
    pitch: float
    spacing: float
    clarity: float
    accuracy: float

    def at(self, places: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n c"]:
        """Log-probability of each type at places of the section, interpolated; beyond the map its edge's."""
        return self._read(self.log_proba, places)

    def gain(self, places: Float[np.ndarray, "n 2"], proba: Float[np.ndarray, "n c"]) -> float:
        """Nats that the map says, at these places, of types with these probabilities, beyond the section's mix."""
        return float(((self.at(places) - np.log(self.composition)) * proba).sum(1).mean())

    def likeness(self, places: Float[np.ndarray, "n 2"], parts: Float[np.ndarray, "n d"]) -> float:
        r"""Nats that the map says of expression, :math:`-\frac12 \sum_d \log(1 - r_d^2)`, r over the cells."""
        drawn = self._read(self.expression, places)
        spread = drawn.std(0) * parts.std(0) + 1e-9
        r = ((drawn - drawn.mean(0)) * (parts - parts.mean(0))).mean(0) / spread
        return float(-0.5 * np.log1p(-np.minimum(r * r, 0.999)).sum())

    def _read(self, planes: Float[np.ndarray, "d p p"], places: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n d"]:
        pixel = ((places - self.corner) / self.pitch - 0.5).T
        return np.stack([map_coordinates(plane, pixel, order=1, mode="nearest") for plane in planes], 1)


@dataclass(frozen=True)
class Pose:
    """How a query's section is laid on a map: ``(coords - centre) @ matrix.T + shift``."""

    centre: Float[np.ndarray, " 2"]
    matrix: Float[np.ndarray, "2 2"]
    shift: Float[np.ndarray, " 2"]

    def of(self, coords: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Places on the map."""
        return (coords - self.centre) @ self.matrix.T + self.shift


def atlases(reference: Cells, features: Float[np.ndarray, "n f"]) -> list[Atlas]:
    """Maps of those sections of a reference whose places say something of the type.

    Parameters
    ----------
    reference
        Labelled cells; without coordinates, or with three of them, there is no map.
    features
        Their expression, on the scale that the query's will be on too.
    """
    if reference.coords is None or reference.coords.shape[1] != 2:
        return []
    labels, n_types = labels_of(reference), len(reference.types)
    drawn = [draw(reference.coords[own], labels[own], n_types, features[own]) for own in by_section(reference.section)]
    clear = [atlas for atlas in drawn if atlas is not None and atlas.clarity > CLEAR * _entropy(atlas.composition)]
    return sorted(clear, key=lambda atlas: -atlas.clarity)[:MOST_MAPS]


def draw(
    coords: Float[np.ndarray, "n 2"],
    labels: Int[np.ndarray, " n"],
    n_types: int,
    features: Float[np.ndarray, "n f"],
) -> Atlas | None:
    """Draw the map of one section; None for a section of few cells, or whose cells lie on one another.

    Parameters
    ----------
    coords, labels, features
        Places, type codes and expression of its cells.
    n_types
        Number of types.
    """
    if len(coords) < FEWEST:
        return None
    spacing = float(np.median(cKDTree(coords).query(coords, k=2)[0][:, 1]))
    if spacing == 0:
        return None
    paper = _Paper.around(coords, spacing)
    composition = (np.bincount(labels, minlength=n_types) + 1) / (len(labels) + n_types)
    seen = paper.draw(coords, np.eye(n_types)[labels], SHARPNESS)
    density = seen.sum(0)
    background = BACKGROUND * float(np.median(density[density > density.max() / 20]))
    log_proba = np.log((seen + background * composition[:, None, None]) / (density + background))
    # a cell left out: what is at its pixel, less what it puts there itself
    x, y = paper.pixel(coords).T
    own, others = np.arange(len(labels)), seen[:, x, y]
    others[labels, own] -= paper.draw(paper.middle[None], np.ones((1, 1)), SHARPNESS).max()
    others = np.maximum(others, 0)
    left_out = (others + background * composition[:, None]) / (others.sum(0) + background)
    clarity = float(np.log(left_out[labels, own] / composition[labels]).mean())
    accuracy = float((left_out.argmax(0) == labels).mean())
    axes = np.linalg.svd(np.cov(features.T).reshape(features.shape[1], -1))[0][:, :N_COMPONENTS]
    total = paper.draw(coords, np.c_[np.ones(len(coords)), features @ axes], EXPRESSION_SHARPNESS)
    expression = total[1:] / (total[:1] + 0.05 * total[0].max())
    return Atlas(
        log_proba.astype(np.float32),
        expression.astype(np.float32),
        axes.astype(np.float32),
        composition,
        paper.corner,
        paper.pitch,
        spacing,
        clarity,
        accuracy,
    )


@dataclass(frozen=True)
class Overlay:
    """Where each section of a query lies on a map of the reference, and how far it is listened to there.

    Parameters
    ----------
    placed
        By code of the section: the map, how the section lies on it, and the weight that it has earned, above 0.
    agreement
        By section, what the map says of its cells' types over what it says of the reference's own, as far as it was
        tried.
    """

    placed: dict[int, tuple[Atlas, Pose, float]]
    agreement: dict[str, float]

    def said(self, query: Cells, rows: slice) -> Float[np.ndarray, "m c"] | float:
        """What is to be added to the log-probabilities of some cells of the query; 0 where no map fits."""
        scores: np.ndarray | float = 0.0
        for code, (atlas, pose, weight) in self.placed.items():
            own = query.section[rows] == code
            if query.coords is None or not own.any():
                continue
            if isinstance(scores, float):
                scores = np.zeros((len(own), len(atlas.composition)))
            said = log_softmax(atlas.at(pose.of(query.coords[rows][own])), axis=1)
            scores[own] = weight * experts.floored(said)
        return scores


def overlay(
    maps: Sequence[Atlas],
    query: Cells,
    features: np.ndarray | StoredRows,
    log_proba: np.ndarray | StoredRows,
    expected: float,
) -> Overlay:
    """Lay each section of a query over the map that it agrees with best.

    Parameters
    ----------
    maps
        Of the reference's sections.
    query
        Cells with or without coordinates.
    features
        Their expression, on the maps' scale (cells, features).
    log_proba
        What is said of them otherwise (cells, types).
    expected
        Accuracy that is expected of it: a map that errs more often than that weighs the less.
    """
    placed: dict[int, tuple[Atlas, Pose, float]] = {}
    agreement: dict[str, float] = {}
    if not maps or query.coords is None or query.coords.shape[1] != 2:
        return Overlay(placed, agreement)
    for own in by_section(query.section):
        if len(own) < FEWEST:
            continue
        code = int(query.section[own[0]])  # a section may have lost all of its cells
        some = own[:: max(1, len(own) // MOST_CELLS)]
        said = log_softmax(experts.floored(log_softmax(log_proba[some], axis=1)), axis=1)
        atlas, pose, agreed = _best(maps, query.coords[some], features[some], np.exp(said))
        agreement[query.sections[code]] = agreed
        weight = WEIGHT * np.clip((agreed - APART) / (TOGETHER - APART), 0, 1)
        weight *= min((1 - expected) / max(1 - atlas.accuracy, 1e-9), 1)
        if weight > 0:
            placed[code] = atlas, pose, float(weight)
    return Overlay(placed, agreement)


def _best(
    maps: Sequence[Atlas], coords: np.ndarray, features: np.ndarray, proba: np.ndarray
) -> tuple[Atlas, Pose, float]:
    """The map that a section agrees with best, how it lies there, and how far they agree."""

    def agreement(atlas: Atlas, pose: Pose) -> float:
        return atlas.gain(pose.of(coords), proba) / atlas.clarity

    fits = [(atlas, pose) for atlas in maps for pose in lay(atlas, coords, proba)]
    atlas, pose = max(fits, key=lambda fit: agreement(*fit))
    if agreement(atlas, pose) > APART / 2:  # guesses err together at borders, expression does not
        parts = features @ atlas.axes
        pose = _refined(atlas, pose, lambda at: atlas.gain(at, proba) + atlas.likeness(at, parts), coords)
    return atlas, pose, agreement(atlas, pose)


def lay(atlas: Atlas, coords: Float[np.ndarray, "n 2"], proba: Float[np.ndarray, "n c"]) -> list[Pose]:
    """Lay a section on a map where its guesses agree best: a search on a grid, whose best places are refined.

    Parameters
    ----------
    atlas
        Map of the reference.
    coords, proba
        Places of the query's cells, and the probabilities of their types.
    """
    return [_refined(atlas, pose, lambda at: atlas.gain(at, proba), coords) for pose in _search(atlas, coords, proba)]


def _refined(atlas: Atlas, start: Pose, score: Callable[[np.ndarray], float], coords: np.ndarray) -> Pose:
    """Turn, shift and stretch a little, as long as the score rises; stretching has its price."""

    def pose(x: np.ndarray) -> Pose:
        stretch = np.array([[1 + x[3], x[4]], [x[4], 1 + x[5]]])
        return Pose(start.centre, stretch @ _turned(x[0]) @ start.matrix, start.shift + 10 * atlas.spacing * x[1:3])

    def loss(x: np.ndarray) -> float:
        return 5 * float((x[3:] ** 2).sum()) - score(pose(x).of(coords))

    first = np.vstack([np.zeros(6), np.diag([0.05, 0.3, 0.3, 0.03, 0.03, 0.03])])
    options = {"maxiter": 600, "xatol": 1e-3, "fatol": 1e-5, "initial_simplex": first}
    return pose(minimize(loss, np.zeros(6), method="Nelder-Mead", options=options).x)


def pack(maps: Sequence[Atlas]) -> dict[str, np.ndarray]:
    """Maps as named arrays; see :func:`unpack`."""
    return {f"map{i}.{name}": np.asarray(value) for i, atlas in enumerate(maps) for name, value in vars(atlas).items()}


def unpack(arrays: dict[str, np.ndarray]) -> list[Atlas]:
    """Maps from the arrays of :func:`pack`."""
    maps: list[Atlas] = []
    while f"map{len(maps)}.log_proba" in arrays:
        own: dict[str, Any] = {field.name: arrays[f"map{len(maps)}.{field.name}"] for field in fields(Atlas)}
        maps.append(Atlas(**{name: value if value.ndim else value.item() for name, value in own.items()}))
    return maps


@dataclass(frozen=True)
class _Paper:
    """A square of pixels."""

    corner: np.ndarray
    pitch: float
    side: int
    spacing: float

    @classmethod
    def around(cls, coords: np.ndarray, spacing: float) -> Self:
        """Paper that holds these cells and some room; half a spacing a pixel, or more on a large section."""
        reach = 1.15 * float(np.ptp(coords, axis=0).max())
        pitch = max(spacing / 2, reach / PIXELS)
        side = int(np.ceil(reach / pitch))
        return cls((coords.max(0) + coords.min(0)) / 2 - side * pitch / 2, pitch, side, spacing)

    @property
    def middle(self) -> np.ndarray:
        return self.corner + self.side * self.pitch / 2

    def pixel(self, coords: np.ndarray) -> np.ndarray:
        return np.floor((coords - self.corner) / self.pitch).astype(int)

    def draw(self, coords: np.ndarray, values: np.ndarray, sharpness: float) -> Float[np.ndarray, "c p p"]:
        """Sum of the cells' values, each spread by a kernel so many spacings wide; cells beyond the paper are lost."""
        pixel = self.pixel(coords)
        inside = ((pixel >= 0) & (pixel < self.side)).all(1)
        where = pixel[inside] @ [self.side, 1]
        planes = [np.bincount(where, weights=column, minlength=self.side**2) for column in values[inside].T]
        width = sharpness * max(self.spacing / self.pitch, 1)
        shape = (self.side, self.side)
        return np.stack([gaussian_filter(plane.reshape(shape), width, mode="constant") for plane in planes])


def _search(atlas: Atlas, coords: Float[np.ndarray, "n 2"], proba: Float[np.ndarray, "n c"]) -> list[Pose]:
    """Rotations with their best shifts, the best first; one correlation scores all shifts of a rotation."""
    centre, size = coords.mean(0), atlas.log_proba.shape[1] * atlas.pitch
    reach = max(size / 2, float(np.linalg.norm(coords - centre, axis=1).max()))
    pitch, side = 2 * reach / COARSE, 2 * COARSE
    paper, middle = _Paper(np.full(2, -side * pitch / 2), pitch, side, pitch), atlas.corner + size / 2
    pixel = (np.arange(side) + 0.5) * pitch - side * pitch / 2
    grid = np.stack(np.meshgrid(pixel, pixel, indexing="ij"), -1).reshape(-1, 2)
    inside = (np.abs(grid) < size / 2).all(1)
    said = np.where(inside[:, None], atlas.at(middle + grid) - np.log(atlas.composition), 0.0)
    known = scipy.fft.rfft2(said.T.reshape(-1, side, side))
    found = []
    for mirror in (1.0, -1.0):
        for angle in np.arange(ANGLES) * 2 * np.pi / ANGLES:
            rotation = _turned(angle) @ np.diag([1.0, mirror])
            asked = scipy.fft.rfft2(paper.draw((coords - centre) @ rotation.T, proba, 1.0))
            score = scipy.fft.irfft2((known * asked.conj()).sum(0), (side, side))
            best = np.array(np.unravel_index(score.argmax(), score.shape))
            shift = np.where(best < COARSE, best, best - side) * pitch
            found.append((float(score.max()), Pose(centre, rotation, middle + shift)))
    return [pose for _, pose in sorted(found, key=lambda one: -one[0])[:STARTS]]


def _turned(angle: float) -> Float[np.ndarray, "2 2"]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _entropy(composition: Float[np.ndarray, " c"]) -> float:
    return float(-(composition * np.log(composition)).sum())
