"""Training of :class:`stgnn.rates.RateNetwork` on crops of slides, and its word on a whole slide, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from stgnn.data.expression import Expression, measured
from stgnn.data.images import digest_of
from stgnn.data.slide import Slide
from stgnn.fields import Features, Field, quadrature, tiles, turned
from stgnn.nn.losses import gamma_deviance, negative_binomial_nll, poisson_nll
from stgnn.rates import RateNetwork
from stgnn.train import Plan, autocast, fit, seed_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

LIKELIHOODS = ("poisson", "negative-binomial", "gaussian")

_MARGIN_UM = 32.0
"""Border of a crop where nothing is learned, unless the slide ends there: a convolution sees too little."""

_FEW, _TRIES = 32, 20
"""Bins that a crop should hold, and how many are tried for it."""

_CORE = 512
_HALO = 3
"""Cells of the coarsest map around a tile: its windows reach that far."""

_POINTS_UM = 8.0


@dataclass(frozen=True)
class Recipe:
    """How rates are learned.

    Parameters
    ----------
    likelihood
        One of :data:`LIKELIHOODS`.
    scale
        Counts that profiles are scaled to, for the Gaussian.
    crop_um
        Side of a crop in micrometres.
    bins
        Bins of a crop to learn from at most.
    points_um
        Side of the square of which each gets one random place, of those that a bin's rate is averaged over.
    coarse_um
        Side of the squares whose summed counts are learned, too; 0 for none.
    jitter
        Standard deviation of random gains of the field's channels; of what is added to each, it is twice that.
    """

    likelihood: str = "poisson"
    scale: float = 1.0
    crop_um: float = 1280.0
    bins: int = 2500
    points_um: float = 32.0
    coarse_um: float = 0.0
    jitter: float = 0.1


@dataclass(frozen=True)
class Lesson:
    """What one slide teaches: bins with counts on a field.

    Parameters
    ----------
    field
        What the network sees.
    places
        Centres of the bins (n, 2) in cells of the field, x and y.
    counts, total
        Counts (n, genes), and over the whole transcriptome (n,).
    width_um, round
        Of the bins.
    area_um2
        Of a bin.
    beside
        Frozen features that the network is told of each place; None for none.
    source
        What tells the image from others.
    """

    field: Field
    places: Float[np.ndarray, "n 2"]
    counts: sp.csr_matrix
    total: Float[np.ndarray, " n"]
    width_um: float
    round: bool
    area_um2: float
    beside: Features | None = None
    source: str = ""

    @classmethod
    def of(cls, slide: Slide, field: Field, beside: Features | None = None) -> Lesson:
        """What a learnable slide teaches."""
        counts, total = measured(slide)
        bins = slide.width_um, slide.round, slide.area_um2
        return cls(field, slide.places / field.um, counts.tocsr(), total, *bins, beside, digest_of(slide.image))


@dataclass(frozen=True)
class Crop:
    """Part of a slide, ready to learn from: equally many places for each bin, one bin after the other."""

    field: Tensor
    places: Tensor
    beside: Tensor
    counts: Tensor
    total: Tensor
    square: Tensor
    area_um2: float

    def to(self, device: torch.device) -> Crop:
        """The same on a device."""
        return Crop(
            self.field.to(device),
            self.places.to(device),
            self.beside.to(device),
            self.counts.to(device),
            self.total.to(device),
            self.square.to(device),
            self.area_um2,
        )


def draw(lessons: Sequence[Lesson], recipe: Recipe, stride: int, rng: np.random.Generator) -> Crop:
    """Crop around a random bin, seen from a random side, in random shades; its side is a multiple of ``stride``."""
    sizes = np.array([len(lesson.places) for lesson in lessons], dtype=np.float64)
    lesson = lessons[rng.choice(len(lessons), p=sizes / sizes.sum())]
    rows, columns = lesson.field.shape
    side = _multiple(min(recipe.crop_um / lesson.field.um, max(rows, columns)), stride)
    margin = min(_MARGIN_UM / lesson.field.um, side / 8)
    crops: list[tuple[int, int, np.ndarray]] = []
    while len(crops) < _TRIES and (not crops or len(crops[-1][2]) < _FEW):
        centre = int(rng.integers(len(lesson.places)))
        x, y = lesson.places[centre] - rng.uniform(margin, side - margin, 2)
        row, column = int(np.clip(y, 0, max(0, rows - side))), int(np.clip(x, 0, max(0, columns - side)))
        inside = np.flatnonzero(_learnable(lesson.places, row, column, side, margin, lesson.field.shape))
        # cells are whole: rounding may have put the bin onto the margin, and where bins are few it was the only one
        crops.append((row, column, inside if len(inside) else np.array([centre])))
    row, column, inside = max(crops, key=lambda crop: len(crop[2]))
    return _crop(lesson, recipe, row, column, side, inside, rng)


def _multiple(cells: float, of: int) -> int:
    return max(1, -(-int(np.ceil(cells)) // of)) * of


def _learnable(
    places: Float[np.ndarray, "n 2"], row: int, column: int, side: int, margin: float, shape: tuple[int, int]
) -> Bool[np.ndarray, " n"]:
    """Whether places lie on a crop, further than the margin from those of its sides that are not the slide's."""
    at = places - (column, row)
    low = np.array([margin if column > 0 else 0.0, margin if row > 0 else 0.0])
    high = np.array([margin if column + side < shape[1] else 0.0, margin if row + side < shape[0] else 0.0])
    return np.all((at >= low) & (at <= side - high), axis=1)


def _crop(
    lesson: Lesson, recipe: Recipe, row: int, column: int, side: int, inside: np.ndarray, rng: np.random.Generator
) -> Crop:
    um = lesson.field.um
    if len(inside) > recipe.bins and recipe.coarse_um:  # a square of them, so that coarser squares are whole
        inside = _square(lesson.places, inside, recipe.bins, rng)
    elif len(inside) > recipe.bins:
        inside = np.sort(rng.choice(inside, recipe.bins, replace=False))
    corner = np.array([column, row])
    places = lesson.places[inside] - corner
    square = np.zeros(len(inside), dtype=np.int64)
    if recipe.coarse_um > lesson.width_um:
        at = np.floor(places * um / recipe.coarse_um).astype(np.int64)
        square = np.unique(at, axis=0, return_inverse=True)[1].ravel()
    points = np.repeat(places, max(1, round(lesson.area_um2 / recipe.points_um**2)), axis=0)
    points = points + _within(len(points), lesson.width_um / um, lesson.round, rng)
    beside = _told(lesson.beside, (points + corner) * um)
    cells, points = turned(lesson.field.crop(row, column, side, side), points, int(rng.integers(8)))
    shape = (len(cells), 1, 1)
    cells = cells * (1 + recipe.jitter * rng.standard_normal(shape)) + 2 * recipe.jitter * rng.standard_normal(shape)
    counts = lesson.counts[inside].toarray()
    arrays = cells, points, beside, counts, lesson.total[inside]
    field, points_, beside_, counts_, total = (_tensor(x) for x in arrays)
    return Crop(field, points_, beside_, counts_, total, torch.from_numpy(square), lesson.area_um2)


def _told(beside: Features | None, places_um: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n f"]:
    return np.empty((len(places_um), 0), dtype=np.float32) if beside is None else beside.read(places_um)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _square(places: np.ndarray, inside: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """The bins nearest to one of them, by the larger of the two distances."""
    at = places[inside]
    far = np.abs(at - at[rng.integers(len(at))]).max(1)
    return inside[np.sort(np.argpartition(far, most)[:most])]


def _within(n: int, width: float, round_: bool, rng: np.random.Generator) -> Float[np.ndarray, "n 2"]:
    """Random offsets within a bin."""
    if round_:
        radius, angle = width / 2 * np.sqrt(rng.random(n)), 2 * np.pi * rng.random(n)
        return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    return (rng.random((n, 2)) - 0.5) * width


def loss_of(network: RateNetwork, crop: Crop, recipe: Recipe) -> Tensor:
    r"""Negative log-likelihood of a crop's counts, of their sums over coarser squares, and of the totals.

    Given its total :math:`t_n`, a bin's counts have the mean :math:`t_n p_{ng}`; densities follow the totals by a gamma
    deviance, which does not care for units.
    """
    out, density = network(crop.field, crop.places, crop.beside)
    k = len(out) // len(crop.counts)
    log_density = torch.logsumexp(density.view(-1, k), 1) - np.log(k)
    whole = gamma_deviance(crop.total / crop.area_um2, log_density)
    if recipe.likelihood == "gaussian":
        value = torch.log1p(crop.counts / crop.total[:, None] * recipe.scale)
        return (out.view(-1, k, out.shape[1]).mean(1) - value).square().mean() + 0.05 * whole
    log_share = out
    if k > 1:  # the mean over the bin's places, each weighted by the counts that it holds
        weight = density.detach().view(-1, k).log_softmax(1)
        log_share = torch.logsumexp(out.view(-1, k, out.shape[1]) + weight[..., None], 1)
    log_mean = log_share + crop.total.log()[:, None]
    if recipe.likelihood == "poisson":
        value = poisson_nll(crop.counts, log_mean).mean()
    else:
        value = negative_binomial_nll(crop.counts, log_mean, network.log_dispersion).mean()
    if recipe.coarse_um and (squares := int(crop.square.max()) + 1) > 1:
        # sums over squares hear what bins, each of a few counts, say together
        zero = log_mean.new_zeros(squares, log_mean.shape[1])
        counts = zero.index_add(0, crop.square, crop.counts)
        log_sum = zero.index_add(0, crop.square, log_mean.exp()).clamp(min=1e-12).log()
        value = value + poisson_nll(counts, log_sum).sum() / crop.counts.numel()
    return value + 0.05 * whole


def train(
    network: RateNetwork,
    lessons: Sequence[Lesson],
    recipe: Recipe,
    plan: Plan,
    device: torch.device,
    validate: Callable[[], float] | None,
    checkpoint: Path | None,
    watch: Callable[[int], None] | None,
) -> list[dict[str, float]]:
    """Train in place; a step is one crop."""

    def loss(step: int, part: int) -> Tensor:
        rng = np.random.default_rng(seed_of(plan.random_state, step, part, 1))
        crop = draw(lessons, recipe, network.pyramid.strides[-1], rng)
        return loss_of(network, crop.to(device), recipe)

    return fit(network, loss, 1, plan, validate=validate, checkpoint=checkpoint, watch=watch)


def predict(
    networks: Sequence[RateNetwork],
    slide: Slide,
    field: Field,
    beside: Features | None,
    recipe: Recipe,
    views: int,
    watch: Callable[[int], None] | None = None,
) -> Expression:
    """What networks say of every bin: means over networks and views, on tiles with a halo."""
    genes = networks[0].genes
    share = np.zeros((len(slide), genes), dtype=np.float32)
    total, spread = np.zeros(len(slide)), np.full(len(slide), np.nan, dtype=np.float32)
    offsets = quadrature(slide.width_um, slide.round, _POINTS_UM) / field.um
    stride, n_said = networks[0].pyramid.strides[-1], len(networks) * views
    core, halo = _multiple(_CORE, stride), _HALO * stride
    if max(field.shape) <= core + 2 * halo:
        core, halo = _multiple(max(field.shape), stride), 0
    for row, column, inside in tiles(field.shape, slide.places / field.um, core, halo, stride):
        cells, corner = field.crop(row, column, core + 2 * halo, core + 2 * halo), np.array([column, row])
        points = ((slide.places[inside] / field.um - corner)[:, None] + offsets).reshape(-1, 2)
        told = _tensor(_told(beside, (points + corner) * field.um))
        logs = squares = np.zeros((), dtype=np.float32)
        for network in networks:
            for view in range(views):
                said, density = _say(network, *turned(cells, points, view), told, len(offsets), recipe)
                share[inside] += said / n_said
                total[inside] += density / n_said * slide.area_um2
                said = np.log(np.maximum(said, 1e-9))
                logs, squares = logs + said / n_said, squares + said**2 / n_said
        if n_said > 1:
            spread[inside] = np.sqrt(np.maximum(squares - logs**2, 0)).mean(1)
        if watch is not None:
            watch(len(inside))
    return Expression(share, total, spread)


@torch.inference_mode()
def _say(
    network: RateNetwork, cells: np.ndarray, points: np.ndarray, told: Tensor, k: int, recipe: Recipe
) -> tuple[np.ndarray, np.ndarray]:
    """Share of each gene in each bin, and density, from the points in it."""
    device = next(network.parameters()).device
    with autocast(network, "bfloat16"):
        out, density = network(_tensor(cells).to(device), _tensor(points).to(device), told.to(device))
    density = density.exp().view(-1, k)
    weight = density / density.sum(1, keepdim=True)
    share = torch.expm1(out.clamp(min=0)) / recipe.scale if recipe.likelihood == "gaussian" else out.exp()
    share = torch.einsum("nkg,nk->ng", share.view(*weight.shape, -1), weight)
    return share.float().cpu().numpy(), density.mean(1).cpu().double().numpy()
