"""SpatialTransformerGNN: cell types from expression, neighbours, and a reference memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast, final

import numpy as np
import torch
from scipy.special import log_softmax, softmax

from stgnn import bilevel, experts, exporting, pruning, registration, resume, shallow, siblings
from stgnn.council import GENES_ALONE
from stgnn.data.cells import Cells, Prediction
from stgnn.data.schema import check_at_least
from stgnn.data.stored import table_beside
from stgnn.graph.sample import Tile, pieces
from stgnn.lesson import Layout, Lesson, Look, prepare, review, shape_arrays, shape_from
from stgnn.methods.base import Annotator
from stgnn.network import Network, Parts, Widths
from stgnn.shallow import Clusters
from stgnn.standins import known_from, labels_of, learned_from
from stgnn.students import consensus, nearest_consensus, purity
from stgnn.sweep import Each, Piece, Said, Sweep, Verdict, here, runs, space_in_words
from stgnn.teacher import Teaching
from stgnn.train import Plan, find_device, progress, seed_of, shared
from stgnn.unknown import Common, discord, divergence, rejection, strangeness, usual

if TYPE_CHECKING:
    from jaxtyping import Float, Int

NETWORK_WEIGHT = 0.5
"""Weight of the networks' mean log-probabilities beside the council's."""

CLUSTER_WEIGHT = 0.75
"""Weight of what pure clusters of the query are called together, where the query fully teaches itself."""

THRESHOLD = 0.6
"""Cells whose rejection lies above it are unknown."""


@final
@dataclass(eq=False)
class SpatialTransformerGNN(Annotator):
    """Cell types from an annotated reference, by levels of tissue that talk; see :class:`stgnn.network.Network`.

    Experts of expression, weighted on stand-ins for the query whose labels are known, teach networks whose gene-level
    and cell-level halves then teach each other. What space may add is decided without labels.

    References
    ----------
    Yang et al., scBiGNN, arXiv 2312.10310, for the alternating training.

    Parameters
    ----------
    gene_graph, cell_graph, gate, global_tokens, cross_modal
        Parts of the network, each of which can be switched off; the global transformer over the whole section
        (``global_tokens``) is, as long as no task gains from it. Without it and ``cell_graph`` nothing of space is
        seen, registration included.
    contrastive, augmentation
        Parts of the training, likewise: a loss that draws like cells of both data sets together, and views of the
        reference as shallow and as noisy as the query.
    registration
        Whether sections that lie over a section of the reference also hear what types it has at their cells' places.
    selector
        Whether experts are weighted, space opened and self-training admitted by what stand-ins show; else all weigh the
        same, and space and self-training are admitted fully.
    rounds
        Rounds of mutual teaching; 0 for a single one, without alternation.
    members
        Networks, from different seeds, whose log-probabilities are averaged.
    width
        Width of a cell's state.
    layers
        Rounds of listening to spatial neighbours.
    neighbours
        Spatial neighbours a cell listens to.
    steps
        Updates of each network in each round.
    max_cells
        Cells that are learned from: of a larger query, patches of tissue from all sections; of a reference without
        places, so many, rare types whole.
    cells_per_piece
        Cells that are judged at once; a larger query is cut into pieces of tissue, each with the cells around it.
    random_state
        Seed.
    device
        "auto", "cpu", "cuda", ...
    checkpoint
        Folder that keeps the state of training; a killed run resumes from it.

    Examples
    --------
    >>> from stgnn.data.cells import align, read_query, read_reference
    >>> from stgnn.data.toy import toy
    >>> adata, adata_query = toy(n_cells=120)
    >>> reference, query = align(read_reference(adata), read_query(adata_query))
    >>> model = SpatialTransformerGNN(members=1, rounds=1, steps=10).fit(reference, query)
    >>> model.predict_proba(query).shape
    (120, 5)
    """

    gene_graph: bool = True
    cell_graph: bool = True
    gate: bool = True
    global_tokens: bool = False
    cross_modal: bool = True
    contrastive: bool = False
    augmentation: bool = False
    registration: bool = True
    selector: bool = True
    rounds: int = 3
    members: int = 2
    width: int = 64
    layers: int = 1
    neighbours: int = 15
    steps: int = 25
    max_cells: int = 40_000
    cells_per_piece: int = 25_000
    random_state: int = 0
    device: str = "auto"
    checkpoint: str | None = None

    def fit(self, reference: Cells, query: Cells) -> Self:
        """Learn from a labelled reference and an unlabelled query with the same genes."""
        for name in ("max_cells", "cells_per_piece"):
            check_at_least(name, getattr(self, name), 1)
        self.genes_, self.types_ = reference.genes, reference.types
        reference = known_from(self._see(reference), self.max_cells, self.random_state)
        query = learned_from(self._see(query), self.max_cells, self.random_state)
        options = [(field.name, getattr(self, field.name)) for field in fields(self) if field.name != "checkpoint"]
        (folder,) = shared([partial(resume.folder_of, self.checkpoint, reference, query, options)])
        teaching = resume.teaching(
            self.checkpoint, reference, query, selector=self.selector, random_state=self.random_state
        )
        self.openness_ = teaching.openness
        self.shape_, lesson = prepare(
            reference,
            query,
            teaching,
            self._layout(),
            augmentation=self.augmentation,
            random_state=self.random_state,
        )
        self.council_, self.weights_, self.prior_ = teaching.council, teaching.weights, teaching.prior
        self.maps_ = registration.atlases(reference, teaching.scale.reference) if self.registration else []
        self.decisions_, labels = teaching.facts, labels_of(reference)
        kinds = range(len(reference.types))
        self.means_ = np.stack([teaching.scale.reference[labels == k].mean(0) for k in kinds])
        self.widths_: dict[str, int] | None = None
        with progress("training", self.members * max(self.rounds, 1) * self.steps) as watch:
            train = [partial(self._train, member, lesson, folder, watch) for member in range(self.members)]
            trained = shared(train)
        self.networks_ = [network for network, _ in trained]
        self.curve_ = [record for _, curve in trained for record in curve]
        self._confer(query, teaching)
        return self

    def predict(self, query: Cells, *, each: Each = here) -> Prediction:
        """Annotate cells that have the genes the method was fitted with, a piece of tissue at a time.

        Tables of a query whose counts are stored are stored beside them.
        """
        seen, look = self._see(query), Look.of(query)
        tiles, again = tee(self._tiles(seen))
        said = each(_say, self, (Piece.of(seen, tile, look) for tile in again))
        with progress("annotating", len(query)) as watch:
            sweep = Sweep.of(seen, zip(tiles, said, strict=True), watch)
        laid = registration.overlay(self.maps_, seen, sweep.features, sweep.joint, self._expected())
        proba = table_beside(query.counts, "proba", len(self.types_), np.float32)
        score = np.empty(len(query))
        for rows in runs(len(query)):
            certain = softmax((sweep.joint[rows] * self.calm_ + laid.said(seen, rows)) * self.temperature_, axis=1)
            odd = self._odd(certain.argmax(1), sweep.members[rows].T, sweep.common)
            score[rows] = rejection(certain, *(values / typical for values, typical in zip(odd, self.usual_)))
            proba[rows] = certain
        details: dict[str, Any] = {
            **self.decisions_,
            "registration": laid.agreement,
            "curve": self.curve_,
            "temperature": self.temperature_,
            "space_used": seen.coords is not None and self.openness_ > 0,
            "space": space_in_words(query, seen, self.openness_),
        }
        return Prediction(cast(np.ndarray, proba), cast(np.ndarray, sweep.states), score, THRESHOLD, details)

    def _tiles(self, query: Cells) -> Iterator[Tile]:
        """Cells to judge at once, with all that they listen to."""
        most, hops = shallow.reach(self.council_)
        # regions of a whole section listen to each other
        at_once = len(query) if self.global_tokens else self.cells_per_piece
        return pieces(query.coords, query.section, max(most, self.neighbours), at_once, max(hops, self.layers))

    def _see(self, cells: Cells) -> Cells:
        """Cells without their places where no part of the model is to look at them."""
        return cells if self.cell_graph or self.global_tokens else replace(cells, coords=None)

    def _confer(self, query: Cells, teaching: Teaching) -> None:
        """Let cells alike be called together, as far as the query teaches itself and clusters are types."""
        features, genes = self.shape_.see(Look.of(query).at(query))
        verdict = self._judge(query, features, genes)
        view, council, said = shallow.View(query, teaching.scale.query), verdict.council, verdict.networks
        posterior = log_softmax(teaching.posterior + NETWORK_WEIGHT * said, axis=1)
        clusters = consensus(posterior, view, self.random_state)
        members = clusters.members(view.features)
        together = clusters.of_members(members)
        pure = purity(posterior, together)
        weight = CLUSTER_WEIGHT * teaching.trust * pure
        # clusters come last, whether heard or not: they also tell what is strange
        self.council_, self.weights_ = [*self.council_, clusters], np.append(self.weights_, weight)
        self.decisions_ = {**self.decisions_, "cluster_purity": pure}
        joint = council + weight * experts.floored(together) + NETWORK_WEIGHT * said
        common = Common.of(view.features, members, verdict.apart, clusters.centres.shape[1])
        self._settle(query, Said(joint, verdict.states, members.T, view.features, common))

    def _settle(self, query: Cells, said: Said) -> None:
        """Learn from all that is said how sure to be, and how much strangeness and discord are usual."""
        self.calm_ = experts.temperature(said.joint, self._expected(), highest=20.0)
        laid = registration.overlay(self.maps_, query, said.features, said.joint, self._expected())
        joint = said.joint * self.calm_ + laid.said(query, slice(None))
        self.temperature_ = experts.temperature(joint, self._expected(), highest=20.0)
        self.usual_ = [usual(values) for values in self._odd(joint.argmax(1), said.members.T, said.common)]

    def prune(
        self, reference: Cells, query: Cells, share: float = 0.5, members: int | None = None
    ) -> SpatialTransformerGNN:
        r"""Return a model without the heads and hidden units that say least; see :mod:`stgnn.pruning`.

        .. math:: I_u = \frac12\, E_{y \sim p} \Big(\sum_{w \in u} w\, \frac{\partial \log p(y)}{\partial w}\Big)^2

        References
        ----------
        Molchanov et al., Importance estimation for neural network pruning, CVPR 2019.

        Parameters
        ----------
        reference, query
            What the model was fitted on, or cells like it.
        share
            Share that is kept at most of the networks' parameters, and of the council's clusterings (above 0 to 1).
        members
            Networks that are kept, those that say most nearly what all say; None for all.

        Returns
        -------
        A fitted model that learned from all that this one says, which stays as it is.

        Raises
        ------
        InputError
            One of its kinds, if cells have other genes or types, or an option is out of range.

        Examples
        --------
        >>> from stgnn.data.cells import align, read_query, read_reference
        >>> from stgnn.data.toy import toy
        >>> adata, adata_query = toy(n_cells=120)
        >>> reference, query = align(read_reference(adata), read_query(adata_query))
        >>> model = SpatialTransformerGNN(rounds=1, steps=5).fit(reference, query)
        >>> len(model.prune(reference, query, share=0.25, members=1).networks_)
        1
        """
        pruning.check(reference, query, self.genes_, self.types_)
        reference = known_from(self._see(reference), self.max_cells, self.random_state)
        query = learned_from(self._see(query), self.max_cells, self.random_state)
        said, smaller = _say(self, Piece(query, len(query), Look.of(query))), copy(self)
        guess = softmax(said.joint * self.calm_ * self.temperature_, axis=1)
        trust, openness = cast(float, self.decisions_["trust"]), float(self.openness_ > 0)
        lesson = review(reference, query, self.shape_, self._layout(), guess, trust)
        plan, device = Plan(2 * self.steps, random_state=self.random_state), find_device(self.device)
        smaller.networks_, widths = pruning.prune(
            self.networks_, self.shape_, self._parts(), lesson, share, members, plan, openness=openness, device=device
        )
        smaller.widths_, smaller.members = asdict(widths), len(smaller.networks_)
        fewer = nearest_consensus(cast(Clusters, self.council_[-1]), said.members.T, share)
        smaller.council_ = [*self.council_[:-1], fewer]
        smaller._settle(query, _say(smaller, Piece(query, len(query), Look.of(query))))
        return smaller

    def export(self, folder: str | Path) -> None:
        """Write the networks as programs that torch runs without this package; see :func:`stgnn.exporting.export`."""
        exporting.export(self.networks_, self._layout(), self.openness_, self.genes_, self.types_, folder)

    def _odd(
        self, kind: Int[np.ndarray, " n"], members: Int[np.ndarray, "r n"], common: Common
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """How strange cells are for what they are called, and how far the experts of genes alone differ on them.

        Neither students nor networks are asked: they learn from guesses, and so are sure of unknown types, too.
        """
        return strangeness(kind, members, common, self.means_), discord(members, common)

    def _expected(self) -> float:
        """Accuracy expected of all that is said but by maps."""
        return cast(float, self.decisions_["expected_accuracy"])

    def _judge(
        self,
        query: Cells,
        features: Float[np.ndarray, "n f"],
        genes: Float[np.ndarray, "n g"],
        members: Int[np.ndarray, "r n"] | None = None,
    ) -> Verdict:
        """What council and networks say; clusters, the last of the council, are heard where ``members`` are known."""
        joint, said = shallow.heard(self.council_, self.weights_, shallow.View(query, features), members)
        batches, device = self._layout().batches(query, features, genes), find_device(self.device)
        networks, states = [], []
        for network in self.networks_:
            own, context, state = bilevel.judge(network.to(device), batches, float(self.openness_ > 0), device)
            networks.append(experts.floored((1 - self.openness_) * own + self.openness_ * context))
            states.append(state)
        # the experts of genes alone come first, and none of them needs coordinates
        return Verdict(
            self.prior_ + joint, np.mean(networks, axis=0), np.hstack(states), divergence(said[:GENES_ALONE])
        )

    def _layout(self) -> Layout:
        return Layout(self.openness_ > 0, self.neighbours, self.layers if self.cell_graph else 0)

    def _parts(self) -> Parts:
        own = {field.name: getattr(self, field.name) for field in fields(Parts) if hasattr(self, field.name)}
        return Parts(**own, widths=None if self.widths_ is None else Widths(**self.widths_))

    def _network(self, seed: int) -> Network:
        torch.manual_seed(seed)
        return Network(self.shape_, self._parts()).to(find_device(self.device))

    def _train(
        self, member: int, lesson: Lesson, folder: Path | None, watch: Callable[[int], None]
    ) -> tuple[Network, list[dict[str, float]]]:
        seed = seed_of(self.random_state, member)
        network = self._network(seed)
        if folder is not None:
            folder = folder / f"member{member}"
            folder.mkdir(exist_ok=True)
        curve = bilevel.teach(
            network,
            lesson,
            Plan(self.steps, random_state=seed),
            rounds=self.rounds,
            contrastive=self.contrastive,
            openness=float(self.openness_ > 0),
            device=find_device(self.device),
            checkpoint=folder,
            watch=watch,
        )
        return network, [{"member": float(member), **record} for record in curve]

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = (
            shape_arrays(self.shape_)
            | shallow.pack(self.council_)
            | registration.pack(self.maps_)
            | {"weights": self.weights_, "prior": self.prior_, "means": self.means_}
        )
        for i, network in enumerate(self.networks_):
            arrays |= siblings.weights_of(network, f"network{i}")
        return arrays

    def _facts(self) -> dict[str, Any]:
        sizes = {name: getattr(self.shape_, name) for name in ("features", "types", "dims")}
        return {
            "openness_": self.openness_,
            "usual_": self.usual_,
            "calm_": self.calm_,
            "temperature_": self.temperature_,
            "curve_": self.curve_,
            "decisions_": self.decisions_,
            "sizes_": sizes,
        } | ({} if self.widths_ is None else {"widths_": self.widths_})

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        sizes: dict[str, int] = vars(self)["sizes_"]
        self.shape_ = shape_from(arrays, sizes)
        self.usual_ = [float(value) for value in self.usual_]  # a single one in models of before, which do not fit
        self.maps_ = registration.unpack(arrays)
        self.council_, self.weights_, self.prior_ = shallow.unpack(arrays), arrays["weights"], arrays["prior"]
        self.means_, self.networks_ = arrays["means"], []
        self.widths_ = vars(self).get("widths_")  # only pruned models have them
        for i in range(self.members):
            network = self._network(0)
            siblings.load_weights(network, f"network{i}", arrays)
            self.networks_.append(network)


def _say(model: SpatialTransformerGNN, piece: Piece) -> Said:
    """Judge the cells in the core of a piece, all else in it being heard."""
    cells, inner, clusters = piece.read(), slice(piece.n_core), cast(Clusters, model.council_[-1])
    features, genes = model.shape_.see(piece.look.at(cells))
    members = clusters.members(features)
    verdict = model._judge(cells, features, genes, members)
    common = Common.of(features[inner], members[:, inner], verdict.apart[inner], clusters.centres.shape[1])
    joint = (verdict.council + NETWORK_WEIGHT * verdict.networks)[inner]
    kept = features[inner] if model.maps_ else np.empty((len(joint), 0), dtype=np.float32)
    return Said(joint, verdict.states[inner], members[:, inner].T.astype(np.int32), kept, common)
