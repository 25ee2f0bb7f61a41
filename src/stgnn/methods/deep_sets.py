"""DeepSpot's idea: what a bin, its parts and its surroundings show, each a set that is pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgnn import predicting, siblings
from stgnn.data.expression import Expression
from stgnn.data.slide import Slide
from stgnn.encoders import extract
from stgnn.methods.base import ExpressionPredictor
from stgnn.nn.blocks import mlp
from stgnn.train import Plan, find_device

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

RINGS_UM = (48.0, 112.0, 192.0)
"""Distances at which a bin looks around itself, in eight directions each."""

WIDE_UM = 40.0
"""Width from which on a bin has parts that are looked at by themselves."""

_DIRECTIONS, _SIDE, _PART = 8, 2, 1024


class Network(nn.Module):
    r"""Sets of features to one prediction: :math:`\rho\big(\phi_0(x),\ \mathrm{pool}_j \phi_s(x_{sj}), \dots\big)`.

    The last layer starts at zero, so that what is predicted starts at the mean, and no gene differs from another.
    """

    def __init__(self, features: int, width: int, outputs: int, sets: int, dropout: float) -> None:
        super().__init__()
        self.phi = nn.ModuleList(mlp(features, width, width, dropout) for _ in range(1 + sets))
        pooled_width = (1 + 2 * sets) * width
        self.rho = nn.Sequential(
            nn.LayerNorm(pooled_width), nn.Linear(pooled_width, width), nn.GELU(), nn.Dropout(dropout)
        )
        self.last = nn.Linear(width, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, own: Float[Tensor, "n d"], sets: Sequence[tuple[Float[Tensor, "n k d"], Bool[Tensor, "n k"]]]
    ) -> Float[Tensor, "n outputs"]:
        """Return targets, as differences from the mean in units of their spread."""
        parts = [self.phi[0](own)]
        for phi, (values, there) in zip(self.phi[1:], sets, strict=True):
            parts += pooled(phi(values), there)
        return self.last(self.rho(torch.cat(parts, dim=1)))


def pooled(
    values: Float[Tensor, "n k d"], there: Bool[Tensor, "n k"]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """Mean and maximum over the members of each set that are there; 0 for an empty set."""
    mask = there[..., None]
    mean = (values * mask).sum(1) / mask.sum(1).clamp(min=1)
    highest = values.masked_fill(~mask, -torch.inf).amax(1)
    return mean, torch.where(there.any(1)[:, None], highest, 0.0)


@dataclass(frozen=True)
class View:
    """Bins as the network sees them.

    Parameters
    ----------
    own
        Standardised features of the bins (n, d).
    around
        Bins around each (n, k); -1 where there is none.
    inside
        Standardised features of the parts of each (n, parts, d); without any where bins are small.
    """

    own: Float[Tensor, "n d"]
    around: Int[Tensor, "n k"]
    inside: Float[Tensor, "n parts d"]

    def at(self, rows: Int[Tensor, " rows"]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Features of some bins, and of their sets."""
        around = self.around[rows]
        sets = [(self.own[around], around >= 0)]
        if self.inside.shape[1]:
            inside = self.inside[rows]
            sets.append((inside, torch.ones(inside.shape[:2], dtype=torch.bool, device=inside.device)))
        return self.own[rows], sets


@final
@dataclass(eq=False)
class DeepSets(ExpressionPredictor):
    r"""Sum up what each tile of a bin's surroundings says by itself, whatever their number and order.

    .. math:: \hat y_n = \rho\big(\phi_0(x_n),\ \mathrm{pool}_{j \in A(n)} \phi_1(x_j),\
        \mathrm{pool}_{j \in P(n)} \phi_2(z_j)\big)

    with :math:`x` frozen features of the image at the bins, A the bins nearest to eight places on each of three rings
    around a bin, P its four quarters, with features :math:`z` of crops as wide as the bin, where it is at least 40
    micrometres wide, and pool the mean and the maximum. Learned by the squared error of the log of counts, scaled to
    one total.

    Parameters
    ----------
    encoder
        Encoder of the image.
    width
        Hidden units.
    dropout
        Share of hidden units dropped in training.
    steps, batch
        Updates, and bins in each.
    rate, decay
        Highest learning rate, and weight decay.
    random_state
        Seed.
    device
        "auto", "cpu", "cuda", ...

    References
    ----------
    Nonchev et al., DeepSpot, 2025; Zaheer et al., Deep sets, NeurIPS 2017.
    """

    encoder: str = "colour-texture"
    width: int = 256
    dropout: float = 0.2
    steps: int = 1000
    batch: int = 256
    rate: float = 1e-3
    decay: float = 1e-2
    random_state: int = 0
    device: str = "auto"

    def fit(self, slides: Sequence[Slide]) -> Self:
        """Learn from random batches of bins of all slides."""
        self.genes_, self.scale_ = slides[0].genes, predicting.scale_of(slides)
        self.width_um_ = predicting.one_width(slides, "deep-sets")
        own, inside = predicting.features(slides, self.encoder, self.device), [self._inside(slide) for slide in slides]
        self.standard_ = predicting.Standard.of(np.concatenate(own))
        self.inside_ = (
            predicting.Standard.of(np.concatenate(inside).reshape(-1, own[0].shape[1]))
            if inside[0].size
            else self.standard_
        )
        y = np.concatenate([predicting.with_density(slide, self.scale_) for slide in slides])
        self.target_ = predicting.Standard.of(y)
        view = self._view(own, slides, inside)
        self.network_, device = self._network(own[0].shape[1], y.shape[1], inside[0].shape[1]), find_device(self.device)
        known = torch.from_numpy(y)
        centre, spread = (torch.from_numpy(x).to(device) for x in (self.target_.centre, self.target_.spread))

        def loss(step: int, part: int) -> Tensor:
            rows = torch.from_numpy(
                np.random.default_rng([self.random_state, step]).integers(len(known), size=self.batch)
            )
            return F.mse_loss(
                self.network_(*view.at(rows.to(device))).float(), (known[rows].to(device) - centre) / spread
            )

        plan = Plan(self.steps, rate=self.rate, decay=self.decay, random_state=self.random_state)
        siblings.train(self.network_, loss, 1, plan, "deep sets")
        return self

    @torch.no_grad()
    def predict(self, slide: Slide) -> Expression:
        """Apply the network to the bins of a slide, with the bins of that slide around them."""
        predicting.same_width(slide, self.width_um_, "deep-sets")
        view = self._view(predicting.features([slide], self.encoder, self.device), [slide], [self._inside(slide)])
        network = self.network_.to(view.own.device)
        rows = torch.arange(len(slide), device=view.own.device).split(_PART)
        y = torch.cat([network(*view.at(part)).float().cpu() for part in rows]).numpy()
        y = y * self.target_.spread + self.target_.centre
        return predicting.expression_of(y[:, :-1], y[:, -1], slide, self.scale_)

    def _inside(self, slide: Slide) -> Float[np.ndarray, "n parts d"]:
        """Features of the quarters of each bin."""
        if slide.width_um < WIDE_UM:
            return np.empty((len(slide), 0, 0), dtype=np.float32)
        step = (np.arange(_SIDE) + 0.5) / _SIDE - 0.5
        offset = slide.width_um * np.stack(np.meshgrid(step, step), axis=-1).reshape(-1, 2)
        places = (slide.places[:, None] + offset).reshape(-1, 2)
        values = extract(slide.image, places, encoder=self.encoder, width_um=slide.width_um, device=self.device)
        return values.reshape(len(slide), len(offset), -1)

    def _view(self, own: Sequence[np.ndarray], slides: Sequence[Slide], inside: Sequence[np.ndarray]) -> View:
        start = np.cumsum([0] + [len(slide) for slide in slides])
        around = [around_of(slide.places) for slide in slides]
        around = [np.where(near >= 0, near + first, -1) for near, first in zip(around, start)]
        features = self.standard_.see(np.concatenate(own))
        parts = np.concatenate(inside)
        if parts.size:
            parts = self.inside_.see(parts)
        device = find_device(self.device)
        return View(*(torch.from_numpy(x).to(device) for x in (features, np.concatenate(around), parts)))

    def _network(self, features: int, outputs: int, parts: int) -> Network:
        torch.manual_seed(self.random_state)
        return Network(features, self.width, outputs, 2 if parts else 1, self.dropout).to(find_device(self.device))

    def _arrays(self) -> dict[str, np.ndarray]:
        scalings = {"features": self.standard_, "parts": self.inside_, "targets": self.target_}
        arrays = {f"{name}.{key}": value for name, found in scalings.items() for key, value in vars(found).items()}
        return {**arrays, **siblings.weights_of(self.network_, "network")}

    def _facts(self) -> dict[str, Any]:
        return {"scale_": self.scale_, "width_um_": self.width_um_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.standard_, self.inside_, self.target_ = (
            predicting.Standard(arrays[f"{name}.centre"], arrays[f"{name}.spread"])
            for name in ("features", "parts", "targets")
        )
        wide = vars(self)["width_um_"] >= WIDE_UM
        self.network_ = self._network(len(self.standard_.centre), len(self.target_.centre), int(wide))
        siblings.load_weights(self.network_, "network", arrays)


def around_of(places: Float[np.ndarray, "n 2"]) -> Int[np.ndarray, "n k"]:
    """Bins nearest to eight places on each ring around every bin; -1 where none is near, or only the bin itself.

    A bin is near a place if it lies within half the way from there to the bin in the middle, so that bins of any pitch
    up to the widest ring have neighbours.

    Examples
    --------
    >>> line = np.array([[0.0, 0.0], [112.0, 0.0], [500.0, 0.0]])
    >>> [np.unique(near).tolist() for near in around_of(line)]
    [[-1, 1], [-1, 0], [-1]]
    """
    from scipy.spatial import cKDTree

    angle = 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    tree, out = cKDTree(places), []
    for radius in RINGS_UM:
        for way in np.stack([np.cos(angle), np.sin(angle)], axis=1):
            near = tree.query(places + radius * way, distance_upper_bound=radius / 2 * (1 - 1e-9))[1]
            out.append(np.where(near < len(places), near, -1))
    return np.stack(out, axis=1)
