"""SpatialTransformerGNN for spots: shares of the types in each, by the same network under a mixture of counts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
from scipy.special import softmax
from torch import Tensor

from stgnn import bilevel, experts, mixtures, siblings, spot_lesson
from stgnn.data.cells import Cells, Prediction
from stgnn.data.schema import OptionError
from stgnn.lesson import Layout, shape_arrays, shape_from
from stgnn.methods.base import Annotator
from stgnn.mixtures import Mixtures
from stgnn.network import Network, Parts
from stgnn.spot_lesson import Eye, SpotLesson
from stgnn.standins import labels_of
from stgnn.train import Plan, find_device, fit, progress, seed_of, seeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float


@final
@dataclass(eq=False)
class SpotTransformerGNN(Annotator):
    r"""Shares of the types in each spot; see :class:`stgnn.network.Network` and :mod:`stgnn.mixtures`.

    .. math:: y_{sg} \sim \mathrm{NegBin}\Big(t_s \sum_k p_{sk} w_{kg},\ \theta\Big), \qquad
        p_s = \mathrm{softmax}\big(f(x_s, x_{near(s)})\big)

    with :math:`t` a spot's total and :math:`w` the reference's profiles as the query's platform sees them, from
    mixtures fitted to all spots. Networks are taught by these mixtures, by spots mixed of reference cells around them,
    and by the query's counts; further rounds by the mean of mixtures and networks, which is the answer, too. The
    variance of a share is that of the networks' errors on mixed spots, and how far networks and mixtures differ.

    References
    ----------
    Cable et al., Robust decomposition of cell type mixtures in spatial transcriptomics, Nat. Biotechnol. 2022, for the
    mixture; Menden et al., Deep learning-based cell composition analysis from tissue expression profiles, Science
    Advances 2020, for learning from mixed cells.

    Parameters
    ----------
    gene_graph, cell_graph, gate, global_tokens, cross_modal
        Parts of the network, each of which can be switched off.
    rounds
        Rounds of teaching.
    members
        Networks of a round, from different seeds, whose shares are averaged.
    width
        Width of a spot's state.
    layers
        Rounds of listening to spatial neighbours.
    neighbours
        Spatial neighbours a spot listens to.
    steps
        Updates of each network in each round.
    dispersion
        Of a spot's counts around their mean; the larger, the more like Poisson.
    random_state
        Seed.
    device
        "auto", "cpu", "cuda", ...

    Examples
    --------
    >>> from stgnn.data.cells import align, read_query, read_reference
    >>> from stgnn.data.toy import toy
    >>> adata, adata_query = toy(n_cells=120)
    >>> reference, query = align(read_reference(adata), read_query(adata_query))
    >>> SpotTransformerGNN(rounds=1, members=1, steps=5).fit(reference, query).predict_proba(query).shape
    (120, 5)
    """

    gene_graph: bool = True
    cell_graph: bool = True
    gate: bool = True
    global_tokens: bool = False
    cross_modal: bool = False
    rounds: int = 1
    members: int = 1
    width: int = 64
    layers: int = 1
    neighbours: int = 6
    steps: int = 300
    dispersion: float = mixtures.DISPERSION
    random_state: int = 0
    device: str = "auto"

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Learn from a labelled reference and unlabelled spots with the same genes."""
        for name in ("rounds", "members", "steps"):
            if getattr(self, name) < 1:
                raise OptionError(name, expected="1 or more", found=repr(getattr(self, name)))
        self.genes_, self.types_ = reference.genes, reference.types
        profiles = experts.profiles(reference.counts, labels_of(reference), len(reference.types))
        self.mixtures_ = found = mixtures.deconvolve(query.counts, profiles, self.dispersion)
        self.eye_ = Eye.of(query)
        self.open_ = bool((self.cell_graph or self.global_tokens) and query.coords is not None)
        self.curve_: list[dict[str, float]] = []
        shares = found.shares
        with progress("training", self.rounds * self.members * self.steps) as watch:
            for number in range(self.rounds):
                seed = seed_of(self.random_state, number)
                self.shape_, lesson = spot_lesson.prepare(
                    reference, query, found, shares, self.dispersion, self._layout(), seed
                )
                self.networks_ = [self._train(lesson, seed_of(seed, member), watch) for member in range(self.members)]
                said, _ = self._judge(lesson.query)
                shares = (found.shares + said.mean(0)) / 2
        self.spread_ = spot_lesson.error_model(lesson.shares.numpy(), self._judge([lesson.mixed])[0].mean(0))
        return self

    def predict(self, query: Cells) -> Prediction:
        """Say the shares of each spot, and how much of its counts no mixture explains."""
        features, genes = self.shape_.see(self.eye_.see(query.counts))
        said, states = self._judge(self._layout().batches(query, features, genes))
        mixed = self.mixtures_.of(query.counts, self.dispersion).shares
        shares = (said.mean(0) + mixed) / 2
        unexplained = mixtures.unexplained(query.counts, shares, self.mixtures_, self.dispersion)
        total = np.asarray(query.counts.sum(1)).ravel()
        return Prediction(
            shares.astype(np.float32),
            states,
            unexplained,
            details={"curve": self.curve_, "space_used": self.open_ and query.coords is not None},
            abundance=shares * ((1 - unexplained) * total)[:, None],
            deviation=np.sqrt(spot_lesson.variance(shares, self.spread_) + ((said.mean(0) - mixed) / 2) ** 2),
        )

    def _layout(self) -> Layout:
        return Layout(self.open_, self.neighbours, self.layers if self.cell_graph else 0)

    def _network(self, seed: int) -> Network:
        own = {field.name: getattr(self, field.name) for field in fields(Parts) if hasattr(self, field.name)}
        return seeded(seed, lambda: Network(self.shape_, Parts(**own))).to(find_device(self.device))

    def _train(self, lesson: SpotLesson, seed: int, watch: Callable[[int], None]) -> Network:
        network, device = self._network(seed), find_device(self.device)

        def loss(step: int, part: int) -> Tensor:
            rng = np.random.default_rng([seed, step, part])
            if part == 0:
                rows = rng.integers(len(lesson.shares), size=spot_lesson.DRAWN)
                return spot_lesson.loss_on_mixed(network, lesson, rows, device)
            batch = lesson.query[rng.integers(len(lesson.query))]
            return spot_lesson.loss_on_query(network, lesson, batch, float(self.open_), device)

        self.curve_ += fit(network, loss, 2, Plan(self.steps, rate=2e-3, random_state=seed), watch=watch)
        return network

    def _judge(self, batches: list[Any]) -> tuple[Float[np.ndarray, "m n c"], Float[np.ndarray, "n d"]]:
        """Shares by each network, and their states side by side."""
        said, states = [], []
        for network in self.networks_:
            own, context, state = bilevel.judge(network, batches, float(self.open_), find_device(self.device))
            said.append(softmax(context if self.open_ else own, axis=1))
            states.append(state)
        return np.stack(said), np.hstack(states)

    def _arrays(self) -> dict[str, np.ndarray]:
        found = self.mixtures_
        arrays = shape_arrays(self.shape_) | {"rates": found.rates, "rated": found.genes}
        arrays |= {"mean": self.eye_.mean, "spread": self.eye_.spread}
        for i, network in enumerate(self.networks_):
            arrays |= siblings.weights_of(network, f"network{i}")
        return arrays

    def _facts(self) -> dict[str, Any]:
        sizes = {name: getattr(self.shape_, name) for name in ("features", "types", "dims")}
        own = {"open_": self.open_, "curve_": self.curve_, "spread_": self.spread_, "sizes_": sizes}
        return own | {"depth_": self.eye_.depth}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        sizes: dict[str, int] = vars(self)["sizes_"]
        nothing = np.empty((0, len(self.types_)))  # abundances are those of the spots that it was fitted on
        self.mixtures_ = Mixtures(arrays["rated"], nothing, arrays["rates"])
        self.eye_ = Eye(float(vars(self)["depth_"]), arrays["mean"], arrays["spread"])
        self.shape_, self.networks_ = shape_from(arrays, sizes), []
        for i in range(self.members):
            network = self._network(0)
            siblings.load_weights(network, f"network{i}", arrays)
            self.networks_.append(network)
