"""scBiGNN: attention among genes and convolution among like cells teach each other; no space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor, nn

from stgnn import experts, siblings
from stgnn.data.cells import Cells, Prediction
from stgnn.methods.base import Annotator
from stgnn.nn import losses
from stgnn.nn.gene_tokens import GeneTokens, states, telling_genes
from stgnn.standins import labels_of, stratified, typical_depth
from stgnn.train import Plan, find_device, seed_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

MOST_GENES = 256
"""Attention among genes costs their square: of more genes only those that tell the types apart best are seen."""

MOST_NODES = 4000
"""Labelled, and unlabelled, cells at most that others listen to: this keeps the search for neighbours linear."""

CELLS_PER_STEP, CELL_STEPS, CELL_WIDTH, SMOOTHING = 64, 100, 64, 0.05
ROWS_AT_ONCE = 1024


class GeneLevel(nn.Module):
    """q(y | x): a state and logits from a cell's own genes."""

    def __init__(self, n_genes: int, n_types: int, width: int, heads: int) -> None:
        super().__init__()
        self.genes = GeneTokens(n_genes, width, heads, 1, 0.1)
        self.own = nn.Linear(width, n_types)

    def forward(self, x: Float[Tensor, "n g"]) -> Float[Tensor, "n c"]:
        """Return logits."""
        return self.own(self.genes(x))


class CellLevel(nn.Module):
    r"""p(y | h, A): two layers of mean graph convolution.

    .. math:: h' = \mathrm{ReLU}(W_1 \bar h), \quad \log p = W_2 \bar h' + c, \qquad
        \bar h_i = \tfrac{1}{1 + |N(i)|} \big(h_i + \textstyle\sum_{j \in N(i)} h_j\big)
    """

    def __init__(self, width: int, n_types: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, CELL_WIDTH)
        self.outer = nn.Linear(CELL_WIDTH, n_types)

    def hidden(self, h: Float[Tensor, "n d"], heard: Float[Tensor, "m d"], near: Int[Tensor, "n k"]) -> Tensor:
        """Return the first layer's states of cells with states h that hear the rows ``near`` of ``heard``."""
        state = F.relu(self.inner(mean(self.norm(h), self.norm(heard), near)))
        return F.dropout(state, 0.3, self.training)

    def forward(self, h: Float[Tensor, "m d"], near: Int[Tensor, "m k"]) -> Float[Tensor, "m c"]:
        """Return logits of nodes that hear each other."""
        hidden = self.hidden(h, h, near)
        return self.outer(mean(hidden, hidden, near))


def mean(own: Float[Tensor, "n d"], heard: Float[Tensor, "m d"], near: Int[Tensor, "n k"]) -> Float[Tensor, "n d"]:
    """Mean of one's own row and of the rows ``near`` of ``heard``."""
    return (own + F.embedding_bag(near, heard, mode="sum")) / (1 + near.shape[1])


def cosine_knn(
    h: Float[np.ndarray, "n d"], nodes: Float[np.ndarray, "m d"], k: int, itself: Int[np.ndarray, " n"]
) -> Int[np.ndarray, "n k"]:
    """Rows of the k nodes of the largest cosine with each cell (n, k), except itself.

    Parameters
    ----------
    h, nodes
        States of the cells that listen, and of those that can be heard.
    k
        Number of neighbours.
    itself
        Row of the cell among the nodes; -1 where it is none of them.

    Examples
    --------
    >>> h = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    >>> cosine_knn(h, h, 1, np.arange(4)).ravel().tolist()
    [1, 0, 3, 2]
    """
    left, right = (F.normalize(torch.as_tensor(x, dtype=torch.float32), dim=1) for x in (h, nodes))
    own, found = torch.as_tensor(itself), []
    for start in range(0, len(left), ROWS_AT_ONCE):
        score = left[start : start + ROWS_AT_ONCE] @ right.T
        here = (own[start : start + ROWS_AT_ONCE] >= 0).nonzero().ravel()
        score[here, own[start + here]] = -torch.inf
        found.append(score.topk(min(k, len(right) - 1), dim=1).indices)
    return torch.cat(found).numpy()


@final
@dataclass(eq=False)
class ScBiGnn(Annotator):
    r"""Expectation maximisation between a gene-level and a cell-level network.

    .. math::
        \text{M-step:}\quad & \min_p\ (1 - \beta) \sum_{n \in L} -\log p(y_n)
            + \beta \sum_{n \in U} -\log p(\hat y_n), \quad \hat y_n = \arg\max q(y \mid x_n) \\
        \text{E-step:}\quad & \min_q\ (1 - \alpha) \sum_{n \in L} -\log q(y_n)
            - \alpha \sum_{n \in U} \sum_k p_{nk} \log q(k \mid x_n)

    with L the labelled and U the unlabelled cells, of which only the most confident 60 % of each predicted type take
    part, and :math:`\alpha = \beta = 0.5`. :math:`q` is attention among the genes of a cell, tokens
    :math:`z_{ng} e_g + b_g`, see :class:`stgnn.nn.gene_tokens.GeneTokens`; :math:`p` is a two-layer mean graph
    convolution, :class:`CellLevel`, on the cosine nearest neighbours of q's states over labelled and unlabelled cells,
    built anew in every round. :math:`q` starts from the labelled cells; :math:`p` has the final word.

    Where this departs from the paper, to stay linear in cells and within minutes of one core: at most 4,000 labelled
    (rare types kept whole as far as they fit) and 4,000 unlabelled cells are nodes, all others listen to nodes only;
    of more than 256 genes those are seen that tell the types apart best; one block of attention of width 32; updates
    are counted, not epochs; each data set is standardised by itself.

    References
    ----------
    Yang et al., scBiGNN: Bilevel graph representation learning for cell type classification from single-cell RNA
    sequencing data, arXiv 2312.10310.

    Parameters
    ----------
    k
        Neighbours of a cell.
    rounds
        M-steps; an E-step lies between two of them.
    alpha, beta
        Weight of the unlabelled cells in the E-step and in the M-step.
    width, heads
        Width of a token, heads of attention.
    steps
        Updates of q at the start; each E-step has a third of them.
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
    >>> ScBiGnn(rounds=1, steps=5).fit(reference, query).predict_proba(query).shape
    (100, 5)
    """

    k: int = 15
    rounds: int = 3
    alpha: float = 0.5
    beta: float = 0.5
    width: int = 32
    heads: int = 2
    steps: int = 300
    random_state: int = 0
    device: str = "auto"

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Learn from labelled and unlabelled cells in turn."""
        self.genes_, self.types_ = reference.genes, reference.types
        self.depth_ = typical_depth(query)
        values, labels = self._see(reference), labels_of(reference)
        self.chosen_ = telling_genes(values, labels, MOST_GENES)
        kept = stratified(labels, MOST_NODES, self.random_state)
        known, kind = np.ascontiguousarray(values[np.ix_(kept, self.chosen_)]), labels[kept]
        asked = np.ascontiguousarray(self._see(query)[np.ix_(self._nodes(len(query)), self.chosen_)])
        hot = np.eye(len(self.types_), dtype=np.float32)
        self.gene_, self.cell_ = self._networks()
        self.curve_: list[dict[str, float]] = []
        self._fit_gene(known, hot[kind], asked[:0], hot[:0], "q on labels", self.steps)
        for number in range(max(self.rounds, 1)):
            h = self._states(np.vstack([known, asked]))
            near = cosine_knn(h, h, self.k, np.arange(len(h)))
            q = softmax(self._logits(h[len(known) :]), axis=1)
            p = self._fit_cell(h, near, kind, q, f"M-step {number + 1}")
            agreement = float((p.argmax(1) == q.argmax(1)).mean())
            self.curve_.append({"round": float(number + 1), "agreement": agreement})
            if number + 1 < self.rounds:
                sure = np.flatnonzero(experts.confident(p))
                self._fit_gene(known, hot[kind], asked[sure], p[sure], f"E-step {number + 1}", self.steps // 3)
        self.known_ = self._states(known)
        return self

    def predict(self, query: Cells) -> Prediction:
        """Let the cells hear labelled and unlabelled nodes that are like them."""
        state = self._states(np.ascontiguousarray(self._see(query)[:, self.chosen_]))
        asked = self._nodes(len(query))
        nodes = np.vstack([self.known_, state[asked]])
        itself = np.full(len(state), -1)
        itself[asked] = len(self.known_) + np.arange(len(asked))
        among = cosine_knn(nodes, nodes, self.k, np.arange(len(nodes)))
        near = cosine_knn(state, nodes, self.k, itself)
        device, network = find_device(self.device), self.cell_.eval()
        with torch.no_grad():
            heard, own = torch.as_tensor(nodes, device=device), torch.as_tensor(state, device=device)
            table = torch.as_tensor(near, device=device)
            inner = network.hidden(heard, heard, torch.as_tensor(among, device=device))
            logits = network.outer(mean(network.hidden(own, heard, table), inner, table)).cpu().numpy()
        proba = softmax(logits.astype(float), axis=1)
        return Prediction(proba, state, 1 - proba.max(1), details={"curve": self.curve_})

    def _fit_gene(
        self,
        known: Float[np.ndarray, "n g"],
        labels: Float[np.ndarray, "n c"],
        asked: Float[np.ndarray, "m g"],
        belief: Float[np.ndarray, "m c"],
        title: str,
        steps: int,
    ) -> None:
        """Train q on labelled cells and, in the E-step, on p's beliefs about those asked about."""
        device = find_device(self.device)
        alpha = self.alpha if len(asked) else 0.0
        sides = [(1 - alpha, known, labels), (alpha, asked, belief)][: 2 if len(asked) else 1]
        chances = [siblings.balanced(target.argmax(1)) for _, _, target in sides]

        def loss(step: int, part: int) -> Tensor:
            weight, x, target = sides[part]
            rows = np.random.default_rng([self.random_state, step, part]).choice(
                len(x), CELLS_PER_STEP, p=chances[part]
            )
            return weight * entropy(self.gene_(torch.as_tensor(x[rows], device=device)), target[rows])

        seed = seed_of(self.random_state, len(self.curve_))
        curve = siblings.train(self.gene_, loss, len(sides), Plan(steps, random_state=seed), title)
        self.curve_ += [{"gene_level": 1.0, **record} for record in curve[-1:]]

    def _fit_cell(
        self,
        h: Float[np.ndarray, "n d"],
        near: Int[np.ndarray, "n k"],
        kind: Int[np.ndarray, " labelled"],
        q: Float[np.ndarray, "m c"],
        title: str,
    ) -> Float[np.ndarray, "m c"]:
        """Train p on labels and on q's confident guesses, and return its posterior of the unlabelled cells."""
        device = find_device(self.device)
        states_, table = torch.as_tensor(h, device=device), torch.as_tensor(near, device=device)
        guess = np.concatenate([kind, q.argmax(1)])
        weight = m_step_weights(kind, q, self.beta)
        target = np.eye(q.shape[1], dtype=np.float32)[guess]

        def loss(step: int, part: int) -> Tensor:
            return entropy(self.cell_(states_, table), target, weight)

        seed = seed_of(self.random_state, len(self.curve_))
        curve = siblings.train(self.cell_, loss, 1, Plan(CELL_STEPS, rate=1e-2, random_state=seed), title)
        self.curve_ += [{"gene_level": 0.0, **record} for record in curve[-1:]]
        with torch.no_grad():
            logits = self.cell_(states_, table)[len(kind) :].cpu().numpy()
        return softmax(logits, axis=1)

    def _see(self, cells: Cells) -> Float[np.ndarray, "n g"]:
        return siblings.Scaling(self.depth_, np.empty((0, 0), dtype=np.float32)).see(cells)

    def _nodes(self, n: int) -> Int[np.ndarray, " m"]:
        """Rows of the query's cells that others listen to."""
        if n <= MOST_NODES:
            return np.arange(n)
        return np.sort(np.random.default_rng(self.random_state).choice(n, MOST_NODES, replace=False))

    def _states(self, values: Float[np.ndarray, "n g"]) -> Float[np.ndarray, "n d"]:
        return states(self.gene_.genes, values, find_device(self.device))

    @torch.no_grad()
    def _logits(self, h: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        return self.gene_.own(torch.as_tensor(h, device=find_device(self.device))).cpu().numpy()

    def _networks(self) -> tuple[GeneLevel, CellLevel]:
        torch.manual_seed(seed_of(self.random_state))
        n_types, device = len(self.types_), find_device(self.device)
        gene = GeneLevel(len(self.chosen_), n_types, self.width, self.heads)
        return gene.to(device), CellLevel(self.width, n_types).to(device)

    def _arrays(self) -> dict[str, np.ndarray]:
        weights = siblings.weights_of(self.gene_, "gene") | siblings.weights_of(self.cell_, "cell")
        return weights | {"chosen": self.chosen_, "known": self.known_}

    def _facts(self) -> dict[str, Any]:
        return {"depth_": self.depth_, "curve_": self.curve_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.chosen_, self.known_ = arrays["chosen"], arrays["known"]
        self.gene_, self.cell_ = self._networks()
        siblings.load_weights(self.gene_, "gene", arrays)
        siblings.load_weights(self.cell_, "cell", arrays)


def m_step_weights(
    kind: Int[np.ndarray, " labelled"], q: Float[np.ndarray, "m c"], beta: float
) -> Float[np.ndarray, " n"]:
    """Weight of labelled then unlabelled cells in the M-step: 1 - beta and beta in all; doubtful guesses get none."""
    sure = experts.confident(q) * siblings.balanced(q.argmax(1))
    return np.concatenate([(1 - beta) * siblings.balanced(kind), beta * sure / sure.sum()]).astype(np.float32)


def entropy(
    logits: Float[Tensor, "n c"], target: Float[np.ndarray, "n c"], weight: Float[np.ndarray, " n"] | None = None
) -> Float[Tensor, ""]:
    """Weighted cross-entropy with smoothed targets."""
    smooth = torch.as_tensor(target * (1 - SMOOTHING) + SMOOTHING / target.shape[1], device=logits.device)
    weight = np.ones(len(target), dtype=np.float32) if weight is None else weight
    return losses.soft_cross_entropy(logits, smooth, torch.as_tensor(weight, device=logits.device))
