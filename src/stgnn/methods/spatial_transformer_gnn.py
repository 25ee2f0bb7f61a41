"""SpatialTransformerGNN: cell types from expression, neighbours, and a reference memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast, final

import numpy as np
import torch
from scipy.special import log_softmax, softmax

from stgnn import __version__, bilevel, experts, pruning, registration, shallow, siblings, teacher
from stgnn.council import GENES_ALONE
from stgnn.data.cells import Cells, Prediction
from stgnn.data.schema import check_at_least
from stgnn.graph.sample import Tile, pieces
from stgnn.lesson import Layout, Lesson, Look, prepare, review, shape_arrays, shape_from
from stgnn.methods.base import Annotator
from stgnn.network import Network, Parts
from stgnn.shallow import Clusters
from stgnn.standins import labels_of, learned_from, take
from stgnn.students import consensus, purity
from stgnn.teacher import Teaching
from stgnn.train import Plan, find_device, fingerprint, progress, seed_of
from stgnn.unknown import Common, discord, divergence, rejection, strangeness, usual

if TYPE_CHECKING:
    from jaxtyping import Float, Int

NETWORK_WEIGHT = 0.5
"""Weight of the networks' mean log-probabilities beside the council's."""

CLUSTER_WEIGHT = 0.75
"""Weight of what pure clusters of the query are called together, where the query fully teaches itself."""

THRESHOLD = 0.6
"""Cells whose rejection lies above it are unknown."""


@dataclass(frozen=True)
class _Verdict:
    """What council and networks say of cells (cells, types), the networks' states, how far experts of genes differ."""

    council: Float[np.ndarray, "n c"]
    networks: Float[np.ndarray, "n c"]
    states: Float[np.ndarray, "n d"]
    apart: Float[np.ndarray, " n"]


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
        Query cells that are learned from; of a larger query, patches of tissue from all sections.
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
        reference, query = self._see(reference), self._see(query)
        query = learned_from(query, self.max_cells, self.random_state)
        folder = self._open_checkpoint(reference, query)
        teaching = self._teaching(reference, query)
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
        self.networks_: list[Network] = []
        self.curve_: list[dict[str, float]] = []
        with progress("training", self.members * max(self.rounds, 1) * self.steps) as watch:
            for member in range(self.members):
                self.networks_.append(self._train(member, lesson, folder, watch))
        self._confer(query, teaching)
        return self

    def predict(self, query: Cells) -> Prediction:
        """Annotate cells that have the genes the method was fitted with, a piece of tissue at a time."""
        placed, query = query.coords is not None, self._see(query)
        look, clusters = Look.of(query), cast(Clusters, self.council_[-1])
        n, n_clusters = len(query), clusters.centres.shape[1]
        members = np.empty((len(clusters.centres), n), dtype=np.int32)
        joint, states, common = np.empty((n, len(self.types_))), np.empty((n, 0), dtype=np.float32), []
        features = np.empty((n if self.maps_ else 0, self.shape_.features), dtype=np.float32)
        for piece in self._pieces(query):
            core, cells, inner = piece.core, take(query, piece.nodes), slice(len(piece.core))
            seen, genes = self.shape_.see(look.at(cells))
            member = clusters.members(seen)
            verdict = self._judge(cells, seen, genes, member)
            joint[core] = (verdict.council + NETWORK_WEIGHT * verdict.networks)[inner]
            members[:, core] = member[:, inner]
            common.append(Common.of(seen[inner], member[:, inner], verdict.apart[inner], n_clusters))
            if not states.shape[1]:
                states = np.empty((n, verdict.states.shape[1]), dtype=np.float32)
            states[core] = verdict.states[inner]
            if self.maps_:
                features[core] = seen[inner]
        joint, agreement = self._placed(joint, query, features)
        proba = softmax(joint * self.temperature_, axis=1)
        odd = self._odd(proba.argmax(1), members, sum(common[1:], common[0]))
        strange, apart = (values / typical for values, typical in zip(odd, self.usual_, strict=True))
        details: dict[str, Any] = {
            **self.decisions_,
            "registration": agreement,
            "curve": self.curve_,
            "temperature": self.temperature_,
            "space_used": query.coords is not None and self.openness_ > 0,
            "space": _space(query, self.openness_) if placed else "off: the query has no coordinates",
        }
        return Prediction(proba.astype(np.float32), states, rejection(proba, strange, apart), THRESHOLD, details)

    def _pieces(self, query: Cells) -> Iterator[Tile]:
        """Cells to judge at once, with all that they listen to."""
        most, hops = shallow.reach(self.council_)
        # regions of a whole section listen to each other
        at_once = len(query) if self.global_tokens else self.cells_per_piece
        return pieces(query.coords, query.section, max(most, self.neighbours), at_once, max(hops, self.layers))

    def _see(self, cells: Cells) -> Cells:
        """Cells without their places where no part of the model is to look at them."""
        return cells if self.cell_graph or self.global_tokens else replace(cells, coords=None)

    def _teaching(self, reference: Cells, query: Cells) -> Teaching:
        """The teacher's word, from a former run on the same data where there is one."""
        file = None
        if self.checkpoint is not None:
            kept = fingerprint(
                _arrays_of(reference, query), repr((__version__, "two students", self.selector, self.random_state))
            )
            file = Path(self.checkpoint) / f"teaching-{kept}.npz"
            kept_teaching = Teaching.load(file)
            if kept_teaching is not None:
                return kept_teaching
        teaching = teacher.teach(reference, query, selector=self.selector, random_state=self.random_state)
        if file is not None:
            teaching.save(file)
        return teaching

    def _confer(self, query: Cells, teaching: Teaching) -> None:
        """Let cells alike be called together, as far as the query teaches itself and clusters are types.

        With that all is said: how sure to be, and how much strangeness and discord are usual, follow from it.
        """
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
        self._settle(query, features, members, joint, verdict.apart)

    def _settle(
        self,
        query: Cells,
        features: Float[np.ndarray, "n f"],
        members: Int[np.ndarray, "r n"],
        joint: Float[np.ndarray, "n c"],
        apart: Float[np.ndarray, " n"],
    ) -> None:
        """Learn how sure to be once all is said, and how much strangeness and discord are usual."""
        expected = cast(float, self.decisions_["expected_accuracy"])
        self.calm_ = experts.temperature(joint, expected, highest=20.0)
        joint, _ = self._placed(joint, query, features)
        self.temperature_ = experts.temperature(joint, expected, highest=20.0)
        common = Common.of(features, members, apart, cast(Clusters, self.council_[-1]).centres.shape[1])
        self.usual_ = [usual(values) for values in self._odd(joint.argmax(1), members, common)]

    def prune(self, reference: Cells, query: Cells, share: float = 0.5) -> SpatialTransformerGNN:
        """Return a smaller model."""
        reference, query = self._see(reference), learned_from(self._see(query), self.max_cells, self.random_state)
        smaller = copy(self)
        posterior = np.log(self.predict(query).proba + 1e-12)
        trust = cast(float, self.decisions_["trust"])
        lesson = review(reference, query, self.shape_, self._layout(), posterior, trust)
        smaller.networks_, smaller.widths_ = pruning.prune(
            self.networks_, self.shape_, self._parts(), lesson, share, Plan(self.steps * 2, random_state=self.random_state),
            openness=float(self.openness_ > 0), device=find_device(self.device),
        )
        features, genes = self.shape_.see(Look.of(query).at(query))
        members = cast(Clusters, self.council_[-1]).members(features)
        verdict = smaller._judge(query, features, genes, members)
        smaller._settle(query, features, members, verdict.council + NETWORK_WEIGHT * verdict.networks, verdict.apart)
        return smaller

    def _odd(
        self, kind: Int[np.ndarray, " n"], members: Int[np.ndarray, "r n"], common: Common
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """How strange cells are for what they are called, and how far the experts of genes alone differ on them.

        Neither students nor networks are asked: they learn from guesses, and so are sure of unknown types, too.
        """
        return strangeness(kind, members, common, self.means_), discord(members, common)

    def _placed(
        self, joint: Float[np.ndarray, "n c"], query: Cells, features: Float[np.ndarray, "n f"]
    ) -> tuple[Float[np.ndarray, "n c"], dict[str, float]]:
        """Join what the maps say of each cell's place, once the rest is as sure as it should be."""
        expected = cast(float, self.decisions_["expected_accuracy"])
        placed, agreement = registration.overlay(self.maps_, query, features, joint, expected)
        return joint * self.calm_ + placed, agreement

    def _judge(
        self,
        query: Cells,
        features: Float[np.ndarray, "n f"],
        genes: Float[np.ndarray, "n g"],
        members: Int[np.ndarray, "r n"] | None = None,
    ) -> _Verdict:
        """What council and networks say; clusters, the last of the council, are heard where ``members`` are known."""
        view = shallow.View(query, features)
        council = self.council_ if members is None else self.council_[:-1]
        heard = [(w, e) for w, e in zip(self.weights_, council, strict=False) if shallow.usable(e, view)]
        said = [experts.floored(expert.log_proba(view)) for _, expert in heard]
        weights = [weight for weight, _ in heard]
        if members is not None:
            said.append(experts.floored(cast(Clusters, self.council_[-1]).of_members(members)))
            weights.append(self.weights_[-1])
        # experts that need coordinates fall silent without them; the others then speak for them
        louder = self.weights_.sum() / max(sum(weights), 1e-9)
        joint = self.prior_ + sum(louder * weight * log for weight, log in zip(weights, said, strict=True))
        batches, device = self._layout().batches(query, features, genes), find_device(self.device)
        networks, states = [], []
        for network in self.networks_:
            own, context, state = bilevel.judge(network.to(device), batches, float(self.openness_ > 0), device)
            networks.append(experts.floored((1 - self.openness_) * own + self.openness_ * context))
            states.append(state)
        # the experts of genes alone come first, and none of them needs coordinates
        return _Verdict(joint, np.mean(networks, axis=0), np.hstack(states), divergence(said[:GENES_ALONE]))

    def _layout(self) -> Layout:
        return Layout(self.openness_ > 0, self.neighbours, self.layers if self.cell_graph else 0)

    def _parts(self) -> Parts:
        own = {field.name: getattr(self, field.name) for field in fields(Parts) if hasattr(self, field.name)}
        return Parts(**own, widths=vars(self).get("widths_"))

    def _network(self, seed: int) -> Network:
        torch.manual_seed(seed)
        return Network(self.shape_, self._parts()).to(find_device(self.device))

    def _train(self, member: int, lesson: Lesson, folder: Path | None, watch: Callable[[int], None]) -> Network:
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
        self.curve_ += [{"member": float(member), **record} for record in curve]
        return network

    def _open_checkpoint(self, reference: Cells, query: Cells) -> Path | None:
        """Folder of this very work: what other data or options left behind is not resumed."""
        if self.checkpoint is None:
            return None
        options = [(field.name, getattr(self, field.name)) for field in fields(self) if field.name != "checkpoint"]
        folder = Path(self.checkpoint) / fingerprint(_arrays_of(reference, query), repr((__version__, options)))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

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
        }

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        sizes: dict[str, int] = vars(self)["sizes_"]
        self.shape_ = shape_from(arrays, sizes)
        self.usual_ = [float(value) for value in self.usual_]  # a single one in models of before, which do not fit
        self.maps_ = registration.unpack(arrays)
        self.council_, self.weights_, self.prior_ = shallow.unpack(arrays), arrays["weights"], arrays["prior"]
        self.means_, self.networks_ = arrays["means"], []
        for i in range(self.members):
            network = self._network(0)
            siblings.load_weights(network, f"network{i}", arrays)
            self.networks_.append(network)


def _arrays_of(reference: Cells, query: Cells) -> list[np.ndarray]:
    """All that a fit sees of its data."""
    arrays = [labels_of(reference)]
    for cells in (reference, query):
        arrays += [cells.counts.data, cells.counts.indices, cells.counts.indptr, cells.section]
        arrays += [] if cells.coords is None else [cells.coords]
    return arrays


def _space(query: Cells, openness: float) -> str:
    """What became of space, in words."""
    if query.coords is None:
        return "off: switched off by options"
    if openness == 0:
        return "off: neighbours add nothing to a cell's own expression here"
    return f"on: the cell level counts for {openness:.2f}, the gene level for {1 - openness:.2f}"
