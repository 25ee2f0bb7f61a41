"""A slide as a field that networks slide over: its pixels, or frozen features on a lattice, in cells of one size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from stgnn.data.images import Image
from stgnn.data.tissue import on_tissue, tissue_mask
from stgnn.encoders import extract

if TYPE_CHECKING:
    from jaxtyping import Float, Int

SAME_MPP = 0.05
"""Share by which an image's micrometres per pixel may differ from those asked for without being resampled."""


_QUARTILES = 1.349
"""Distance between the quartiles of a normal distribution, in standard deviations."""

_MOST = 5.0


class Field(Protocol):
    """What a network sees of a slide."""

    @property
    def um(self) -> float:
        """Side of a cell in micrometres."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    def crop(self, row: int, column: int, height: int, width: int) -> Float[np.ndarray, "c h w"]:
        """Cells of a rectangle, float32; those beyond the slide are as blank as its background."""
        ...


@dataclass(frozen=True)
class Pixels:
    """The image itself, read by region, its colours standardised over the slide's tissue, as stains differ."""

    image: Image
    um: float
    mean: Float[np.ndarray, " 3"]
    spread: Float[np.ndarray, " 3"]

    @classmethod
    def of(cls, image: Image, mpp: float) -> Pixels:
        """At about so many micrometres per pixel; an image of about these is read as it is."""
        near = abs(image.mpp - mpp) <= SAME_MPP * mpp
        mask, coarse = tissue_mask(image)
        colours = image.region(0, 0, *image.size_um, mpp=coarse)
        tissue = colours[mask] if mask.any() else colours.reshape(-1, 3)
        mean, spread = tissue.mean(0, dtype=np.float32), tissue.std(0, dtype=np.float32)
        return cls(image, image.mpp if near else mpp, mean, np.maximum(spread, 1.0))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        width, height = self.image.size_um
        return max(1, round(height / self.um)), max(1, round(width / self.um))

    def crop(self, row: int, column: int, height: int, width: int) -> Float[np.ndarray, "3 h w"]:
        """Colours of a rectangle; white beyond the image."""
        um = self.um
        pixels = self.image.region(column * um, row * um, width * um, height * um, um)
        return np.ascontiguousarray(((pixels - self.mean) / self.spread).transpose(2, 0, 1), dtype=np.float32)


@dataclass(frozen=True)
class Features:
    """Frozen features at the centres of a lattice's cells, standardised over the slide's tissue; zero beyond it."""

    values: Float[np.ndarray, "h w c"]
    um: float

    @classmethod
    def of(cls, image: Image, encoder: str, um: float, device: str) -> Features:
        """Extract them where there is tissue, or take them from disk."""
        width, height = image.size_um
        rows, columns = max(1, round(height / um)), max(1, round(width / um))
        row, column = np.divmod(np.arange(rows * columns), columns)
        places = np.minimum((np.column_stack([column, row]) + 0.5) * um, image.size_um)
        on = on_tissue(*tissue_mask(image), places)
        on = on if on.any() else ~on
        found = np.asarray(extract(image, places[on], encoder=encoder, device=device))
        values = np.zeros((len(places), found.shape[1]), dtype=np.float32)
        values[on] = standardised(found)
        return cls(values.reshape(rows, columns, -1), um)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.values.shape[0], self.values.shape[1]

    def crop(self, row: int, column: int, height: int, width: int) -> Float[np.ndarray, "c h w"]:
        """Features of a rectangle; zero, which is their median, beyond the slide."""
        out = np.zeros((self.values.shape[2], height, width), dtype=np.float32)
        top, left = max(row, 0), max(column, 0)
        own = self.values[top : max(row + height, 0), left : max(column + width, 0)].transpose(2, 0, 1)
        out[:, top - row : top - row + own.shape[1], left - column : left - column + own.shape[2]] = own
        return out

    def read(self, places_um: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n c"]:
        """Features at places, bilinear between the centres of cells, the border's beyond them."""
        rows, columns = self.shape
        at = np.clip(places_um / self.um - 0.5, 0, (columns - 1, rows - 1))
        x0, y0 = np.floor(at).astype(np.int64).T
        x1, y1 = np.minimum(x0 + 1, columns - 1), np.minimum(y0 + 1, rows - 1)
        u, v = (at - np.column_stack([x0, y0])).astype(np.float32)[:, :, None].swapaxes(0, 1)
        upper = self.values[y0, x0] * (1 - u) + self.values[y0, x1] * u
        lower = self.values[y1, x0] * (1 - u) + self.values[y1, x1] * u
        return upper * (1 - v) + lower * v


def standardised(values: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    """Features less their median, over the spread of their middle half as of a normal distribution, cut off at 5.

    Background, folds and smears that a mask takes for tissue are few, but far from all else: mean and standard
    deviation would be theirs. A feature whose middle half hardly varies is divided by its standard deviation.

    Examples
    --------
    >>> standardised(np.array([[1.0], [2.0], [3.0], [4.0], [5.0]])).astype(float).round(1).ravel().tolist()
    [-1.3, -0.7, 0.0, 0.7, 1.3]
    """
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    spread, whole = (high - low) / _QUARTILES, values.std(0)
    spread = np.where(spread > 0.1 * whole, spread, whole)
    out = (values - middle) / np.where(spread > 1e-6, spread, 1.0)
    return np.clip(out, -_MOST, _MOST).astype(np.float32)


def tiles(
    shape: tuple[int, int], places: Float[np.ndarray, "n 2"], core: int, halo: int, step: int
) -> Iterator[tuple[int, int, Int[np.ndarray, " k"]]]:
    """Cut a field into squares of side ``core + 2 halo``, those with any place in their middle.

    Squares stay on the field where it is large enough for one, since networks that normalise over all of a square
    should see as little blank as in training.

    Parameters
    ----------
    shape
        Rows and columns of the field.
    places
        Places in cells, x and y.
    core
        Side of the middle.
    halo
        Cells around it that a network sees, too.
    step
        Corners are multiples of it, so that the cells of a network's maps lie alike in all squares.

    Yields
    ------
    row, column
        Upper-left corner of the square.
    inside
        Which places are its own; each place is one square's.
    """
    at = np.clip(np.floor(places / core).astype(np.int64), 0, [(shape[1] - 1) // core, (shape[0] - 1) // core])
    square, owner = np.unique(at[:, ::-1], axis=0, return_inverse=True)
    order = np.argsort(owner.ravel(), kind="stable")
    ends = np.searchsorted(owner.ravel()[order], np.arange(len(square) + 1))
    last = [max(0, -(-(cells - core - 2 * halo) // step) * step) for cells in shape]
    for number, place in enumerate(square):
        row, column = (int(np.clip(p * core - halo, 0, most)) for p, most in zip(place, last, strict=True))
        yield row, column, order[ends[number] : ends[number + 1]]


def turned(
    crop: np.ndarray, places: Float[np.ndarray, "n 2"], view: int
) -> tuple[np.ndarray, Float[np.ndarray, "n 2"]]:
    """See a square crop from one of its eight sides.

    Parameters
    ----------
    crop
        Cells (c, side, side).
    places
        Places in cells, x and y.
    view
        0 to 7: quarter turns, and from 4 on mirrored first.

    Returns
    -------
    The crop and the places, which lie on what they lay on.

    Examples
    --------
    >>> crop = np.arange(4.0).reshape(1, 2, 2)
    >>> seen, places = turned(crop, np.array([[0.5, 1.5]]), 5)
    >>> float(crop[0, 1, 0]) == float(seen[0, int(places[0, 1]), int(places[0, 0])])
    True
    """
    side = crop.shape[-1]
    if view >= 4:
        crop, places = crop[..., ::-1], np.column_stack([side - places[:, 0], places[:, 1]])
    for _ in range(view % 4):
        crop, places = crop.swapaxes(-1, -2)[..., ::-1], np.column_stack([side - places[:, 1], places[:, 0]])
    return np.ascontiguousarray(crop), places


def quadrature(width_um: float, round_: bool, spacing_um: float) -> Float[np.ndarray, "k 2"]:
    """Offsets from the centre of a bin at which to read a rate that is to be averaged over it, on a square lattice.

    A bin twice as wide has the points of the four that it is made of, so that its mean is theirs, down to bins of that
    distance.

    Parameters
    ----------
    width_um
        Side of a square bin, or diameter of a round spot, in micrometres.
    round_
        Whether it is a round spot.
    spacing_um
        Distance between points in micrometres; a narrower bin has one point.

    Examples
    --------
    >>> quadrature(16.0, False, 8.0).tolist()
    [[-4.0, -4.0], [4.0, -4.0], [-4.0, 4.0], [4.0, 4.0]]
    """
    n = max(1, round(width_um / spacing_um))
    step = ((np.arange(n) + 0.5) / n - 0.5) * width_um
    x, y = np.meshgrid(step, step)
    points = np.column_stack([x.ravel(), y.ravel()])
    if round_ and n > 1:
        points = points[(points**2).sum(1) <= (width_um / 2) ** 2]
    return points
