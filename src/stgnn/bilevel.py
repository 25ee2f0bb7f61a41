"""Bilevel training of one network: its gene-level and cell-level halves teach each other on the query.

With q the gene-level and p the cell-level half, each round draws confident, class-balanced guesses from p joined with
the teacher to train q, and from q joined with the teacher to train p; the labelled reference takes part as far as it
resembles the query.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor

from stgnn import experts
from stgnn.lesson import Lesson, Side
from stgnn.nn import losses
from stgnn.nn.tissue import Batch
from stgnn.train import Plan, fit, seed_of

if TYPE_CHECKING:
    from jaxtyping import Float

SMOOTHING, BALANCE = 0.05, 0.25
DRAWN = 1024
"""Cells without coordinates that one step draws."""


def draw(side: Side, rng: np.random.Generator, chance: Float[np.ndarray, " n"]) -> tuple[Batch, int]:
    """Draw a tile of one version of a data set, or cells by chance where space is off; and how many of them count."""
    versions = [side.batches, *side.views]
    batches = versions[rng.integers(len(versions))]
    if batches[0].around is not None:
        batch = batches[rng.integers(len(batches))]
        return batch, len(batch.cells)
    rows = np.sort(rng.choice(len(chance), min(DRAWN, len(chance)), p=chance / chance.sum()))
    return _gather(batches, rows), len(rows)


def teach(
    network: torch.nn.Module,
    lesson: Lesson,
    plan: Plan,
    *,
    rounds: int,
    contrastive: bool,
    openness: float,
    device: torch.device,
    checkpoint: Path | None = None,
    watch: Callable[[int], None] | None = None,
) -> list[dict[str, float]]:
    """Train a network in place by rounds of mutual teaching, and return its curve."""
    curve: list[dict[str, float]] = []
    p = q = softmax(lesson.teacher, 1)
    # without self-training there is nothing to alternate: one long round on the reference
    alternating = lesson.trust > 0 and rounds > 0
    for number in range(rounds if alternating else 1):
        steps = plan.steps if alternating else plan.steps * max(rounds, 1)
        once = replace(plan, steps=steps, random_state=seed_of(plan.random_state, number))
        step = _Step(network, lesson, Guess.of(p), Guess.of(q), contrastive, openness, device, once.random_state)
        file = None if checkpoint is None else checkpoint / f"round{number}.pt"
        done = len(curve) and int(curve[-1]["step"])
        validate = step.validate if lesson.trust < 1 else None
        records = fit(network, step.loss, step.parts, once, validate=validate, checkpoint=file, watch=watch)
        curve += [{**record, "step": record["step"] + done} for record in records]
        if alternating and number + 1 < rounds:
            own, context, _ = judge(network, lesson.query.batches, openness, device)
            half = 0.5 * lesson.teacher
            p, q = softmax(context + half, 1), softmax(own + half, 1)
    return curve


@dataclass(frozen=True)
class Guess:
    """Types of cells, known or guessed, and how much each cell counts: 0 for doubtful guesses, about 1 for others."""

    kind: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, proba: np.ndarray) -> Guess:
        """Most confident 60 % of each predicted type, rare types weighing a little more."""
        kind, keep = proba.argmax(1), experts.confident(proba)
        weight = np.bincount(kind[keep], minlength=proba.shape[1]).clip(1)[kind] ** -BALANCE
        return cls(kind, (keep * weight / weight[keep].mean()).astype(np.float32))


class _Step:
    """Loss of one training step: a part on the reference, a part on the query."""

    def __init__(
        self,
        network: torch.nn.Module,
        lesson: Lesson,
        for_own: Guess,
        for_context: Guess,
        contrastive: bool,
        openness: float,
        device: torch.device,
        seed: int,
    ) -> None:
        self.network, self.lesson, self.contrastive, self.openness = network, lesson, contrastive, openness
        self.guess, self.device, self.seed = (for_own, for_context), device, seed
        count = np.maximum(np.bincount(lesson.labels), 1)
        balance = (1 / np.sqrt(count)[lesson.labels]).astype(np.float32)
        self.known = Guess(lesson.labels, balance / balance.mean())
        held = np.random.default_rng(seed).random(len(lesson.labels)) < 0.1
        self.held = held if held.any() else np.ones(len(held), dtype=bool)

    @property
    def parts(self) -> int:
        """Number of parts: a side whose loss weighs nothing is left out."""
        return int(self.lesson.trust < 1) + int(self.lesson.trust > 0)

    def loss(self, step: int, part: int) -> Tensor:
        """Loss of one part of one step."""
        rng = np.random.default_rng([self.seed, step, part])
        trust = self.lesson.trust
        if part == 0 and trust < 1:
            learnt = replace(self.known, weight=self.known.weight * ~self.held)
            return (1 - trust) * self._side(self.lesson.reference, learnt, learnt, rng, None)
        return trust * self._side(self.lesson.query, *self.guess, rng, self.lesson.pairs)

    def validate(self) -> float:
        """Loss on the reference cells set aside, in one tile of each section set."""
        held = replace(self.known, weight=self.known.weight * self.held)
        rng = np.random.default_rng(self.seed)
        side = replace(self.lesson.reference, views=[])
        return float(self._side(side, held, held, rng, None))

    def _side(
        self, side: Side, for_own: Guess, for_context: Guess, rng: np.random.Generator, pairs: np.ndarray | None
    ) -> Tensor:
        batch, count = draw(side, rng, np.maximum(for_own.weight, for_context.weight) + 1e-9)
        spatial = batch.around is not None
        own, context, state, memory = self.network(batch.to(self.device), self.openness)
        rows = batch.cells[:count]
        n_types = own.shape[1]
        weights = [
            g.weight[rows] if spatial else (g.weight[rows] > 0).astype(np.float32) for g in (for_own, for_context)
        ]
        total = self._entropy(own[:count], for_own.kind[rows], weights[0], n_types)
        if spatial and self.openness > 0:
            total = total + self._entropy(context[:count], for_context.kind[rows], weights[1], n_types)
        if self.contrastive:
            kind = torch.as_tensor(for_own.kind[rows], device=self.device)
            sure = torch.as_tensor(weights[0] > 0, device=self.device)
            memory_kind = self.network.get_buffer("memory_kind").argmax(1)
            positive = (memory_kind[None] == kind[:, None]) & sure[:, None]
            if pairs is not None:
                positive = positive | torch.as_tensor(pairs[rows], device=self.device)
            total = total + 0.1 * losses.contrastive(state[:count], memory, positive)
        return total

    def _entropy(self, logits: Tensor, kind: np.ndarray, weight: np.ndarray, n_types: int) -> Tensor:
        hot = F.one_hot(torch.as_tensor(kind, device=self.device), n_types).float()
        target = hot * (1 - SMOOTHING) + SMOOTHING / n_types
        return losses.soft_cross_entropy(logits, target, torch.as_tensor(weight, device=self.device))


@torch.no_grad()
def judge(
    network: torch.nn.Module, batches: list[Batch], openness: float, device: torch.device
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities at the gene and at the cell level, and states, of every cell."""
    network.eval()
    n = sum(len(batch.cells) for batch in batches)
    out: list[np.ndarray] = []
    for batch in batches:
        count = len(batch.cells)
        own, context, state, _ = network(batch.to(device), openness)
        parts = [F.log_softmax(own, 1), F.log_softmax(context, 1), state]
        for i, part in enumerate(parts):
            if len(out) <= i:
                out.append(np.empty((n, part.shape[1]), dtype=np.float32))
            out[i][batch.cells] = part[:count].float().cpu().numpy()
    return out[0], out[1], out[2]


def _gather(batches: list[Batch], rows: np.ndarray) -> Batch:
    """Some cells of a data set without coordinates as one batch."""
    starts = np.array([batch.cells[0] for batch in batches])
    which = np.searchsorted(starts, rows, side="right") - 1
    features, genes = [], []
    for i in np.unique(which):
        local = torch.as_tensor(rows[which == i] - starts[i])
        features.append(batches[i].features[local])
        genes.append(features[-1] if batches[i].genes is batches[i].features else batches[i].genes[local])
    return Batch(rows, torch.cat(features), torch.cat(genes), None)
