"""BLEEP's idea: one space for images and expression, in which a bin's image finds the profiles that look like it."""

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
from stgnn.methods.base import ExpressionPredictor
from stgnn.train import Plan, find_device

if TYPE_CHECKING:
    from jaxtyping import Float

_PART = 1024
_ONE_IN, _LEAST = 30, 30


class Head(nn.Module):
    """Projection with one residual layer, normalised to unit length."""

    def __init__(self, width_in: int, width: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(width_in, width)
        self.more = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "n f"]) -> Float[Tensor, "n d"]:
        """Return unit vectors."""
        x = self.project(x)
        return F.normalize(self.norm(x + self.more(x)), dim=1)


class Network(nn.Module):
    """A head for the features of images, and one for expression."""

    def __init__(self, features: int, genes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.image, self.expression = Head(features, width, dropout), Head(genes, width, dropout)


def soft_contrastive(
    image: Float[Tensor, "n d"], expression: Float[Tensor, "n d"], temperature: float
) -> Float[Tensor, ""]:
    r"""Cross-entropy, both ways, between how pairs match and how alike they are within each kind.

    .. math:: T = \mathrm{softmax}\Big(\frac{V V^\top + E E^\top}{2 \tau}\Big), \qquad
        \tfrac12 \big(H(T,\ E V^\top / \tau) + H(T^\top,\ V E^\top / \tau)\big)

    with V and E unit vectors of images and of expression. Targets get no gradient.
    """
    with torch.no_grad():
        target = ((image @ image.T + expression @ expression.T) / (2 * temperature)).softmax(1)
    logits = expression @ image.T / temperature
    forth = -(target * logits.log_softmax(1)).sum(1).mean()
    back = -(target.T * logits.T.log_softmax(1)).sum(1).mean()
    return (forth + back) / 2


@final
@dataclass(eq=False)
class Retrieval(ExpressionPredictor):
    r"""Mean expression of the bins of training whose expression lies nearest to a bin's image.

    .. math:: \hat y_n = \frac1k \sum_{i \in \mathrm{top}_k(v_n \cdot e_i)} y_i

    with :math:`v` the embedding of frozen features of the image, :math:`e` that of expression (log of counts, scaled
    to one total), trained side by side by :func:`soft_contrastive`.

    Parameters
    ----------
    encoder
        Encoder of the image.
    width
        Dimensions of the common space.
    dropout
        Share of hidden units dropped in training.
    temperature
        :math:`\tau`.
    neighbours
        Profiles that are averaged, :math:`k`; None for one in thirty of the reference, and 30 at least. The
        paper has 50, of spots with many more counts than small bins.
    most
        Bins kept as reference; of more, so many are drawn.
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
    Xie et al., BLEEP, NeurIPS 2023, arXiv 2306.01859.
    """

    encoder: str = "colour-texture"
    width: int = 256
    dropout: float = 0.3
    temperature: float = 0.05
    neighbours: int | None = None
    most: int = 30_000
    steps: int = 1000
    batch: int = 512
    rate: float = 1e-3
    decay: float = 1e-2
    random_state: int = 0
    device: str = "auto"

    def fit(self, slides: Sequence[Slide]) -> Self:
        """Train both heads, and keep a reference of expression and where it lies in their space."""
        self.genes_, self.scale_ = slides[0].genes, predicting.scale_of(slides)
        self.width_um_ = predicting.one_width(slides, "retrieval")
        x = np.concatenate(predicting.features(slides, self.encoder, self.device))
        y = np.concatenate([predicting.with_density(slide, self.scale_) for slide in slides])
        self.standard_, self.profile_ = predicting.Standard.of(x), predicting.Standard.of(y[:, :-1])
        order = np.argsort(self.genes_.astype(str))  # the same weights for a gene wherever it stands
        device = find_device(self.device)
        self.network_ = self._network(x.shape[1], len(order))

        def expression(rows: np.ndarray) -> Tensor:
            return torch.from_numpy(self.profile_.see(y[rows, :-1])[:, order]).to(device)

        def loss(step: int, part: int) -> Tensor:
            rows = np.random.default_rng([self.random_state, step]).integers(len(x), size=self.batch)
            seen = self.network_.image(torch.from_numpy(self.standard_.see(x[rows])).to(device))
            return soft_contrastive(seen, self.network_.expression(expression(rows)), self.temperature)

        plan = Plan(self.steps, rate=self.rate, decay=self.decay, random_state=self.random_state)
        siblings.train(self.network_, loss, 1, plan, "retrieval")
        rng = np.random.default_rng(self.random_state)
        kept = np.sort(rng.choice(len(x), min(self.most, len(x)), replace=False))
        with torch.no_grad():
            parts = [self.network_.expression(expression(rows)).cpu() for rows in _parts(kept)]
        self.bank_, self.reference_ = torch.cat(parts).float().numpy(), y[kept]
        return self

    @torch.no_grad()
    def predict(self, slide: Slide) -> Expression:
        """Average the profiles that each bin's image finds."""
        predicting.same_width(slide, self.width_um_, "retrieval")
        (x,) = predicting.features([slide], self.encoder, self.device)
        device = find_device(self.device)
        bank, network = torch.from_numpy(self.bank_).to(device).T, self.network_.to(device)
        k = min(self.neighbours or max(_LEAST, len(self.bank_) // _ONE_IN), len(self.bank_))
        y = np.empty((len(x), self.reference_.shape[1]), dtype=np.float32)
        for rows in _parts(np.arange(len(x))):
            alike = network.image(torch.from_numpy(self.standard_.see(x[rows])).to(device)).float() @ bank
            near = alike.topk(k, dim=1, sorted=False).indices.cpu().numpy()
            y[rows] = predicting.mean_of_rows(self.reference_, near)
        return predicting.expression_of(y[:, :-1], y[:, -1], slide, self.scale_)

    def _network(self, features: int, genes: int) -> Network:
        torch.manual_seed(self.random_state)
        return Network(features, genes, self.width, self.dropout).to(find_device(self.device))

    def _arrays(self) -> dict[str, np.ndarray]:
        scalings = {"features": self.standard_, "profiles": self.profile_}
        arrays = {f"{name}.{key}": value for name, found in scalings.items() for key, value in vars(found).items()}
        reference = {"bank": self.bank_, "reference": self.reference_}
        return {**arrays, **reference, **siblings.weights_of(self.network_, "network")}

    def _facts(self) -> dict[str, Any]:
        return {"scale_": self.scale_, "width_um_": self.width_um_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.standard_, self.profile_ = (
            predicting.Standard(arrays[f"{name}.centre"], arrays[f"{name}.spread"]) for name in ("features", "profiles")
        )
        self.bank_, self.reference_ = arrays["bank"], arrays["reference"]
        self.network_ = self._network(len(self.standard_.centre), len(self.profile_.centre))
        siblings.load_weights(self.network_, "network", arrays)


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    """Rows in runs, so that little is held at a time."""
    return [rows[start : start + _PART] for start in range(0, len(rows), _PART)]
