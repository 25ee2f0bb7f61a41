"""A transformer whose tokens are genes: no graph, no space."""

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
from stgnn.nn.gene_tokens import GeneTokens, states, telling_genes
from stgnn.standins import labels_of, stratified, typical_depth
from stgnn.train import Plan, find_device, seed_of

if TYPE_CHECKING:
    from jaxtyping import Float

MOST_GENES = 256
"""Attention among genes costs their square: of more genes only those that tell the types apart best are seen."""

MOST_CELLS = 10_000
"""Reference cells that training draws from, rare types kept whole as far as they fit."""

SMOOTHING = 0.05


class Network(nn.Module):
    """Logits of the types from the state that :class:`stgnn.nn.gene_tokens.GeneTokens` gives a cell."""

    def __init__(self, n_genes: int, n_types: int, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.genes = GeneTokens(n_genes, width, heads, layers, dropout)
        self.own = nn.Linear(width, n_types)

    def forward(self, x: Float[Tensor, "n g"]) -> Float[Tensor, "n c"]:
        """Return logits."""
        return self.own(self.genes(x))


@final
@dataclass(eq=False)
class Transformer(Annotator):
    r"""Genes attend to genes; the cell is what attention reads from them.

    .. math::
        t_{ng} = z_{ng}\, e_g + b_g, \qquad h_n = \mathrm{read}\big(\mathrm{blocks}(t_n)\big), \qquad
        p(y_n) = \mathrm{softmax}(W h_n + c)

    with :math:`z` the log expression, standardised in each data set by itself; see
    :class:`stgnn.nn.gene_tokens.GeneTokens` for blocks and read-out. Trained on the reference's labels only.

    This is the plain form of transformers over genes, such as CIForm, not a copy of one of them, and smaller: one
    block, no pre-training, a few hundred updates on minibatches of 64 cells in which rare types are drawn more often,
    and a third of a cell's values hidden in each. Genes are the 256 that tell the types apart best, reference cells at
    most 10,000. Memory is linear in cells.

    References
    ----------
    Vaswani et al., Attention is all you need, NeurIPS 2017; Xu et al., CIForm as a Transformer-based model for
    cell-type annotation of large-scale single-cell RNA-seq data, Brief. Bioinform. 2023.

    Parameters
    ----------
    width, heads, layers
        Width of a token, heads of attention, number of blocks.
    dropout
        Share of values dropped in training.
    steps, cells_per_step
        Updates, and cells that each of them sees.
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
    >>> Transformer(steps=5).fit(reference, query).predict_proba(query).shape
    (100, 5)
    """

    width: int = 32
    heads: int = 2
    layers: int = 1
    dropout: float = 0.1
    steps: int = 300
    cells_per_step: int = 64
    random_state: int = 0
    device: str = "auto"

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Learn from the labelled reference; the query gives only the depth that counts are scaled to."""
        self.genes_, self.types_ = reference.genes, reference.types
        self.depth_ = typical_depth(query)
        values, labels = self._see(reference), labels_of(reference)
        self.chosen_ = telling_genes(values, labels, MOST_GENES)
        kept = stratified(labels, MOST_CELLS, self.random_state)
        device = find_device(self.device)
        seen = torch.as_tensor(np.ascontiguousarray(values[np.ix_(kept, self.chosen_)]), device=device)
        kind = labels[kept]
        chance = siblings.balanced(kind)
        self.network_ = self._network()

        def loss(step: int, part: int) -> Tensor:
            rng = np.random.default_rng([self.random_state, step, part])
            rows = rng.choice(len(kind), self.cells_per_step, p=chance)
            target = torch.as_tensor(kind[rows], device=device)
            return F.cross_entropy(self.network_(seen[rows]), target, label_smoothing=SMOOTHING)

        plan = Plan(self.steps, random_state=seed_of(self.random_state))
        self.curve_ = siblings.train(self.network_, loss, 1, plan, "training")
        return self

    def predict(self, query: Cells) -> Prediction:
        """Apply the network to the query, standardised by its own means and deviations."""
        device = find_device(self.device)
        values = self._see(query)[:, self.chosen_]
        state = states(self.network_.to(device).genes, np.ascontiguousarray(values), device)
        with torch.no_grad():
            logits = self.network_.own(torch.as_tensor(state, device=device)).float().cpu().numpy()
        proba = softmax(logits.astype(float), axis=1)
        return Prediction(proba, state, 1 - proba.max(1), details={"curve": self.curve_})

    def _see(self, cells: Cells) -> Float[np.ndarray, "n g"]:
        return siblings.Scaling(self.depth_, np.empty((0, 0), dtype=np.float32)).see(cells)

    def _network(self) -> Network:
        torch.manual_seed(seed_of(self.random_state))
        sizes = (len(self.chosen_), len(self.types_), self.width, self.heads, self.layers)
        return Network(*sizes, self.dropout).to(find_device(self.device))

    def _arrays(self) -> dict[str, np.ndarray]:
        return siblings.weights_of(self.network_, "network") | {"chosen": self.chosen_}

    def _facts(self) -> dict[str, Any]:
        return {"depth_": self.depth_, "curve_": self.curve_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.chosen_ = arrays["chosen"]
        self.network_ = self._network()
        siblings.load_weights(self.network_, "network", arrays)
