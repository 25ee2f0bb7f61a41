"""Two layers of graph convolution: the plainest graph network, as a sibling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor, nn

from stgnn import siblings
from stgnn.data.cells import Cells, Prediction
from stgnn.methods.base import Annotator
from stgnn.siblings import GraphConvolution, Piece, Scaling
from stgnn.standins import labels_of
from stgnn.train import Plan, find_device

if TYPE_CHECKING:
    from jaxtyping import Float

CELLS_PER_TILE = 20_000


class Network(nn.Module):
    """Two graph convolutions with dropout before each."""

    def __init__(self, features: int, width: int, types: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = GraphConvolution(features, width), GraphConvolution(width, types)
        self.dropout = nn.Dropout(dropout)

    def forward(self, piece: Piece) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n d"]]:
        """Return logits and hidden states."""
        hidden = torch.relu(self.first(self.dropout(piece.features), piece))  # (n, d)
        return self.second(self.dropout(hidden), piece), hidden


@final
@dataclass(eq=False)
class Gcn(Annotator):
    r"""Graph convolutional network on the graph of cells, trained on the reference's labels.

    .. math:: p(y) = \mathrm{softmax}\big(\hat A\, \mathrm{ReLU}(\hat A X W_0 + b_0)\, W_1 + b_1\big), \qquad
        \hat A = \hat D^{-1/2} (A + I) \hat D^{-1/2}

    with X the standardised expression of each side, 50 principal components of it beyond 600 genes, and A the
    symmetric graph of the nearest cells: in space where both sides have coordinates, else in expression;
    ``details["graph"]`` says which. Weights are learned on the reference's graph and applied to the query's.

    References
    ----------
    Kipf & Welling, Semi-supervised classification with graph convolutional networks, ICLR 2017.

    Parameters
    ----------
    width
        Hidden units; the paper has 16, for 3 to 7 classes.
    neighbours
        Nearest cells linked to each cell.
    space
        Whether cells are linked in space where both sides have coordinates; else both are linked in expression, for
        weights learned on one kind of graph mean nothing on another.
    dropout
        Share of inputs and of hidden units dropped in training.
    steps
        Updates, as in the paper; a reference of more than 20,000 cells is seen by tiles, one a step.
    random_state
        Seed.
    device
        "auto", "cpu", "cuda", ...

    Examples
    --------
    >>> from stgnn.data.cells import align, read_query, read_reference
    >>> from stgnn.data.toy import toy
    >>> adata, adata_query = toy(n_cells=100)
    >>> reference, query = align(read_reference(adata), read_query(adata_query))
    >>> Gcn(steps=20).fit(reference, query).predict_proba(query).shape
    (100, 5)
    """

    width: int = 64
    neighbours: int = 6
    space: bool = True
    dropout: float = 0.5
    steps: int = 200
    random_state: int = 0
    device: str = "auto"

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Learn on the reference's graph; the query gives only the depth and the components."""
        self.genes_, self.types_ = reference.genes, reference.types
        self.space_ = self.space and siblings.both_in_space(reference, query)
        self.scaling_ = Scaling.of(reference, query, self.random_state)
        labels, device = torch.from_numpy(labels_of(reference)), find_device(self.device)
        values = self.scaling_.see(reference)
        batches, self.reference_graph_ = self._pieces(reference, values)
        self.network_ = self._network(values.shape[1])

        def loss(step: int, part: int) -> Tensor:
            batch = batches[np.random.default_rng([self.random_state, step]).integers(len(batches))]
            logits, _ = self.network_(batch.to(device))
            return F.cross_entropy(logits[: len(batch.cells)].float(), labels[batch.cells].to(device))

        plan = Plan(self.steps, rate=1e-2, decay=5e-4, random_state=self.random_state)
        self.curve_ = siblings.train(self.network_, loss, 1, plan, "graph convolution")
        return self

    def predict(self, query: Cells) -> Prediction:
        """Apply the weights to the query on its own graph."""
        batches, kind = self._pieces(query, self.scaling_.see(query))
        device = find_device(self.device)
        scores, hidden = siblings.judge(batches, self.network_.to(device), device)
        proba = softmax(scores, axis=1)
        details = {
            "method": "graph convolution",
            "graph": f"{kind} in the query, {self.reference_graph_} in the reference",
            "space_used": kind == "spatial",
            "curve": self.curve_,
        }
        return Prediction(proba, hidden, 1 - proba.max(1), details=details)

    def _pieces(self, cells: Cells, values: np.ndarray) -> tuple[list[Piece], str]:
        graph, kind = siblings.cell_graph(cells, values, self.neighbours, self.space_)
        matrix = siblings.symmetric_weights(graph)
        return siblings.pieces(cells, values, graph, matrix, hops=2, cells_per_tile=CELLS_PER_TILE), kind

    def _network(self, features: int) -> Network:
        torch.manual_seed(self.random_state)
        return Network(features, self.width, len(self.types_), self.dropout).to(find_device(self.device))

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"axes": self.scaling_.axes, **siblings.weights_of(self.network_, "network")}

    def _facts(self) -> dict[str, Any]:
        graph = {"space_": self.space_, "reference_graph_": self.reference_graph_}
        return {"depth_": self.scaling_.depth, **graph, "curve_": self.curve_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.scaling_ = Scaling(vars(self)["depth_"], arrays["axes"])
        self.network_ = self._network(arrays["axes"].shape[1] or len(self.genes_))
        siblings.load_weights(self.network_, "network", arrays)
