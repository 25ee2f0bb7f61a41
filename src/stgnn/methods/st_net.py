"""ST-Net: a convolutional network looks at the tissue around a bin."""

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
from stgnn.data.images import Image
from stgnn.data.slide import Slide
from stgnn.methods.base import ExpressionPredictor
from stgnn.train import Plan, autocast, find_device

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

PIXELS = 64
"""Pixels a side of a crop."""

MOST_PIXELS = 100e6
"""Pixels of an image, at the crops' resolution, up to which it is held whole; of larger ones, each crop is read."""

NARROW_UM, CROPS_UM = 40.0, (128.0, 224.0)
"""Bins below this width are seen in crops of the first of these sizes, others in crops of the second."""

_WIDTHS = ((24, 48, 64), (96, 96), (128, 128))
_HIDDEN, _PART, _WHITE = 256, 256, 255
_JITTER, _SHIFT = 0.1, 0.05


@final
@dataclass(frozen=True)
class Crops:
    """Crops of an image around places.

    Parameters
    ----------
    image
        The slide's image.
    places
        Centres (n, 2), micrometres.
    um
        Side of a crop in micrometres.
    whole
        The image at the crops' resolution, with half a crop of white around it, uint8 (h, w, 3); None to read crop by
        crop.
    """

    image: Image
    places: Float[np.ndarray, "n 2"]
    um: float
    whole: UInt8[np.ndarray, "h w 3"] | None

    @classmethod
    def of(cls, slide: Slide, um: float, most_pixels: float = MOST_PIXELS) -> Self:
        """Read the image once, where it is small enough to be held."""
        width, height = slide.image.size_um
        mpp, margin = um / PIXELS, PIXELS // 2
        if width * height / mpp**2 > most_pixels:
            return cls(slide.image, slide.places, um, None)
        whole = slide.image.region(0, 0, width, height, mpp=mpp)
        edge = ((margin, margin + 1), (margin, margin + 1), (0, 0))
        return cls(slide.image, slide.places, um, np.pad(whole, edge, constant_values=_WHITE))

    def at(self, rows: np.ndarray) -> UInt8[np.ndarray, "rows 3 h w"]:
        """Crops around some of the places."""
        if self.whole is None:
            corners = self.places[rows] - self.um / 2
            read = [self.image.region(x, y, self.um, self.um, mpp=self.um / PIXELS) for x, y in corners]
            return np.stack(read).transpose(0, 3, 1, 2)
        height, width, _ = self.whole.shape
        left, top = np.rint(self.places[rows].T / (self.um / PIXELS)).astype(np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(self.whole, (PIXELS, PIXELS), axis=(0, 1))
        return windows[np.clip(top, 0, height - PIXELS), np.clip(left, 0, width - PIXELS)]


def symmetry(crops: Float[Tensor, "n 3 p p"], number: int) -> Float[Tensor, "n 3 p p"]:
    """One of the eight ways to turn and flip a square, by number."""
    turned = torch.rot90(crops, number % 4, dims=(2, 3))
    return turned.flip(3) if number >= 4 else turned


class Network(nn.Module):
    """Convolutions at four strides; the middle of each map, as wide as the bin, and the mean of the last are read."""

    centre: Tensor
    spread: Tensor

    def __init__(self, centre: np.ndarray, spread: np.ndarray, share: float) -> None:
        super().__init__()
        self.register_buffer("centre", torch.from_numpy(centre))
        self.register_buffer("spread", torch.from_numpy(spread))
        self.share, before = share, 3
        self.stages = nn.ModuleList()
        for number, widths in enumerate(_WIDTHS):
            layers: list[nn.Module] = []
            for depth, width in enumerate(widths):
                stride = 2 if depth == 0 or (number == 0 and depth == 1) else 1
                layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.GroupNorm(8, width), nn.GELU()]
                before = width
            self.stages.append(nn.Sequential(*layers))
        read = sum(widths[-1] for widths in _WIDTHS) + before
        self.hidden = nn.Sequential(nn.LayerNorm(read), nn.Linear(read, _HIDDEN), nn.GELU(), nn.Dropout(0.2))
        self.last = nn.Linear(_HIDDEN, len(centre))
        nn.init.zeros_(self.last.weight)  # so that training starts at the mean expression
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Float[Tensor, "n 3 p p"]) -> Float[Tensor, "n outputs"]:
        """Return targets in units of their spread, as differences from the mean."""
        seen = []
        for stage in self.stages:
            x = stage(x)
            side = x.shape[-1]
            middle = min(side, 2 * max(1, round(side * self.share / 2)))  # even, as the side is
            start = (side - middle) // 2
            seen.append(x[..., start : start + middle, start : start + middle].mean((2, 3)))
        return self.last(self.hidden(torch.cat([*seen, x.mean((2, 3))], dim=1)))

    def targets(self, crops: UInt8[Tensor, "n 3 p p"]) -> Float[Tensor, "n outputs"]:
        """Mean of the targets over the eight symmetries of the crops."""
        x = crops.float() / 127.5 - 1
        mean = torch.stack([self(symmetry(x, number)).float() for number in range(8)]).mean(0)
        return self.centre + self.spread * mean


@final
@dataclass(eq=False)
class StNet(ExpressionPredictor):
    r"""Expression of a bin from the pixels around it, the mean over a square's eight symmetries g.

    .. math:: \hat y_n = \bar y + \sigma \odot \tfrac18 \sum_g f(g\,x_n)

    with :math:`x` a crop of 64 x 64 pixels, 128 micrometres wide around bins below 40 micrometres and 224 around
    others, :math:`\bar y` and :math:`\sigma` the mean and spread of the log of counts, scaled to one total, and f a
    small convolutional network that starts at 0 and is trained from scratch by squared error, on crops turned, flipped
    and changed in colour at random. The paper tunes a network of 121 layers that had learned from photographs.

    Parameters
    ----------
    crop_um
        Side of a crop in micrometres; None for the above.
    steps, batch
        Updates, and bins in each.
    rate, decay
        Highest learning rate, and weight decay.
    precision
        "float32", "bfloat16" or "auto": bfloat16 on a GPU that has it.
    random_state
        Seed.
    device
        "auto", "cpu", "cuda", ...

    References
    ----------
    He et al., Integrating spatial gene expression and breast tumour morphology via deep learning, Nature Biomedical
    Engineering 4, 827 (2020).
    """

    crop_um: float | None = None
    steps: int = 1500
    batch: int = 128
    rate: float = 2e-3
    decay: float = 1e-2
    precision: str = "auto"
    random_state: int = 0
    device: str = "auto"

    def fit(self, slides: Sequence[Slide]) -> Self:
        """Train on crops around random bins of all slides."""
        self.genes_, self.scale_ = slides[0].genes, predicting.scale_of(slides)
        self.width_um_ = predicting.one_width(slides, "st-net")
        known = [predicting.with_density(slide, self.scale_) for slide in slides]
        target = predicting.Standard.of(np.concatenate(known))
        self.network_, device = self._network(target.centre, target.spread), find_device(self.device)
        crops, sizes = [Crops.of(slide, self._crop()) for slide in slides], np.array([len(slide) for slide in slides])

        def loss(step: int, part: int) -> Tensor:
            rng = np.random.default_rng([self.random_state, step])
            which = int(rng.choice(len(slides), p=sizes / sizes.sum()))
            rows = rng.integers(sizes[which], size=self.batch)
            x = torch.from_numpy(crops[which].at(rows)).to(device).float() / 127.5 - 1
            x = torch.cat([symmetry(part, number) for number, part in enumerate(x.tensor_split(8))])
            colour = rng.standard_normal((2, len(x), 3, 1, 1)) * [[[[[_JITTER]]]], [[[[_SHIFT]]]]]
            factor, shift = torch.from_numpy(colour.astype(np.float32)).to(device)
            truth = torch.from_numpy((known[which][rows] - target.centre) / target.spread).to(device)
            return F.mse_loss(self.network_(x * (1 + factor) + shift).float(), truth)

        plan = Plan(
            self.steps, rate=self.rate, decay=self.decay, precision=self.precision, random_state=self.random_state
        )
        siblings.train(self.network_, loss, 1, plan, "st-net")
        return self

    @torch.no_grad()
    def predict(self, slide: Slide) -> Expression:
        """Look at the crop around each bin, in eight ways."""
        predicting.same_width(slide, self.width_um_, "st-net")
        device, crops = find_device(self.device), Crops.of(slide, self._crop())
        network = self.network_.to(device)
        y = np.empty((len(slide), len(network.centre)), dtype=np.float32)
        for start in range(0, len(slide), _PART):
            rows = np.arange(start, min(start + _PART, len(slide)))
            with autocast(network, self.precision):
                y[rows] = network.targets(torch.from_numpy(crops.at(rows)).to(device)).cpu().numpy()
        return predicting.expression_of(y[:, :-1], y[:, -1], slide, self.scale_)

    def _crop(self) -> float:
        return self.crop_um or CROPS_UM[int(self.width_um_ >= NARROW_UM)]

    def _network(self, centre: np.ndarray, spread: np.ndarray) -> Network:
        torch.manual_seed(self.random_state)
        return Network(centre, spread, self.width_um_ / self._crop()).to(find_device(self.device))

    def _arrays(self) -> dict[str, np.ndarray]:
        return siblings.weights_of(self.network_, "network")

    def _facts(self) -> dict[str, Any]:
        return {"scale_": self.scale_, "width_um_": self.width_um_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.network_ = self._network(arrays["network.centre"], arrays["network.spread"])
        siblings.load_weights(self.network_, "network", arrays)
