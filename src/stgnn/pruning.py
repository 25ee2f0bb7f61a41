r"""Pruning of fitted networks: whole heads and hidden units that say least are removed, then a short fit recovers.

.. math:: I_u = \frac12\, E_{y \sim p} \Big(\sum_{w \in u} w\, \frac{\partial \log p(y)}{\partial w}\Big)^2

Summed over the weights that read unit u, :math:`w\,\partial / \partial w` is the derivative by a factor on that unit,
and its mean square that factor's Fisher information: :math:`I_u` is, to second order, how far the network without u
diverges from the network with it. No label is needed.

References
----------
Molchanov et al., Importance estimation for neural network pruning, CVPR 2019, for factors on units; Theis et al.,
Faster gaze prediction with dense networks and Fisher pruning, arXiv 1801.05787, for the information; Michel et al.,
Are sixteen heads really better than one?, NeurIPS 2019, for heads; Hinton et al., Distilling the knowledge in a neural
network, arXiv 1503.02531, for the fit that recovers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor

from stgnn import bilevel
from stgnn.data.schema import GenesError, LabelsError, OptionError, number_of
from stgnn.lesson import Lesson, Side
from stgnn.network import Network, Parts, Widths
from stgnn.nn import losses
from stgnn.nn.tissue import Batch
from stgnn.train import Plan, fit, seed_of, seeded
from stgnn.units import Group, Place, cut, fewer, groups, kept, places_of

if TYPE_CHECKING:
    from jaxtyping import Float

    from stgnn.data.cells import Cells
    from stgnn.lesson import Shape

DRAWS = 32
"""Minibatches, each with labels of its own drawn from the network, that importance is measured on."""


def check(reference: Cells, query: Cells, genes: np.ndarray, types: tuple[str, ...]) -> None:
    """Refuse cells of other genes or types than a model has.

    Raises
    ------
    GenesError
        If the genes differ, or their order.
    LabelsError
        If the types do.
    """
    for name, cells in (("reference", reference), ("query", query)):
        if not np.array_equal(cells.genes, genes):
            expected = f"the model's {number_of(len(genes), 'gene')}, in its order"
            raise GenesError(name, expected=expected, found=f"{len(cells.genes)}, others or in another order")
    if reference.types != types:
        expected = f"the model's types: {', '.join(types)}"
        raise LabelsError("reference", expected=expected, found=", ".join(reference.types) or "none")


def prune(
    networks: list[Network],
    shape: Shape,
    parts: Parts,
    lesson: Lesson,
    share: float,
    members: int | None,
    plan: Plan,
    *,
    openness: float,
    device: torch.device,
) -> tuple[list[Network], Widths]:
    """Fewer or smaller networks that say what the given ones say together, and their widths.

    Parameters
    ----------
    networks
        Fitted ones of the same widths; they are left as they are.
    shape, parts
        What they were made of.
    lesson
        The query, on which importance is measured, and the reference.
    share
        Share of the parameters of all networks that is kept at most (above 0 to 1).
    members
        Networks that are kept, those that say most nearly what all say together; None for all.
    plan
        Of the fit that recovers.
    openness
        Whether neighbours are listened to.
    device
        Where to compute.

    Returns
    -------
    The new networks, and the widths of each.

    Raises
    ------
    OptionError
        If ``share`` or ``members`` is out of range, or if one unit of each kind is more than that share.
    """
    most = len(networks)
    if not 0 < share <= 1:
        raise OptionError("share", expected="above 0 and up to 1", found=repr(share))
    if members is not None and not 1 <= members <= most:
        raise OptionError("members", expected=f"1 to {most}, the model's networks", found=repr(members))
    sizes = parts.widths or Widths.full(parts.width, parts.heads)
    total = most * sum(tensor.numel() for tensor in networks[0].parameters())
    smaller = fewer(networks[0], sizes, share * total / (members or most))
    told = [bilevel.judge(network, lesson.query.batches, openness, device)[:2] for network in networks]
    own, context = (softmax(np.mean(said, axis=0), axis=1) for said in zip(*told, strict=True))
    apart = [float(np.abs(np.exp(said) - context).mean()) for _, said in told]
    out = []
    for number in sorted(np.argsort(apart, kind="stable")[:members].tolist()):
        seed = seed_of(plan.random_state, number)
        every = groups(networks[number], sizes)
        scores = importance(networks[number], every, lesson.query.batches, openness, device, seed)
        made = seeded(seed, lambda: Network(shape, replace(parts, widths=smaller))).to(device)
        made.load_state_dict(cut(networks[number], every, kept(every, scores, smaller)))
        step = _Recovery(made, lesson, (own, context), openness, seed)
        fit(made, step.loss, step.parts, replace(plan, random_state=seed))
        out.append(made.eval())
    return out, smaller


def importance(
    network: Network, every: list[Group], batches: Sequence[Batch], openness: float, device: torch.device, seed: int
) -> list[Float[np.ndarray, " units"]]:
    """How much each unit of each group says: see the top of this file."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    scores = [np.zeros(group.units) for group in every]
    network.eval()
    parameters: dict[str, Tensor] = dict(network.named_parameters())
    readers = [_readers(group, parameters) for group in every]
    for number in rng.permutation(np.arange(DRAWS) % len(batches)):
        batch = batches[number]
        own, context, _, _ = network(batch.to(device), openness)
        count = len(batch.cells)
        told = _drawn(own[:count], generator) + _drawn(context[:count], generator)
        slopes = torch.autograd.grad(told, list(parameters.values()), allow_unused=True)
        gradients = dict(zip(parameters, slopes, strict=True))
        for score, group, places in zip(scores, every, readers, strict=True):
            slope = torch.zeros(group.units, device=device)
            for name, place in places:
                gradient = gradients[name]
                if gradient is not None:
                    slope += _by_unit(parameters[name].detach() * gradient, place, group.units)
            score += (slope.double() ** 2).cpu().numpy() / (2 * DRAWS)
    return scores


def _drawn(logits: Float[Tensor, "n c"], generator: torch.Generator) -> Float[Tensor, ""]:
    """Log-probability of labels drawn from a network's own probabilities."""
    log = F.log_softmax(logits.float(), 1)
    labels = torch.multinomial(log.detach().exp().cpu(), 1, generator=generator).to(log.device)
    return log.gather(1, labels).sum()


def _readers(group: Group, parameters: dict[str, Tensor]) -> list[tuple[str, Place]]:
    """Weights that read the units of a group; where nothing but a product reads them, those that write them."""
    found = [(name, place) for name in parameters for _, place in places_of([group], name)]
    return [entry for entry in found if entry[1].axis == 1] or found


def _by_unit(values: Tensor, place: Place, units: int) -> Float[Tensor, " units"]:
    own = values.movedim(place.axis, 0)[place.start :]
    return own.reshape(place.blocks, units, -1).sum((0, 2))


class _Recovery:
    """Loss of a step of the fit that recovers: what the network said before of the query, labels of the reference."""

    def __init__(
        self, network: Network, lesson: Lesson, told: tuple[np.ndarray, np.ndarray], openness: float, seed: int
    ) -> None:
        self.network, self.lesson, self.openness, self.seed = network, lesson, openness, seed
        count = np.bincount(lesson.labels, minlength=lesson.teacher.shape[1]).clip(1)
        weight = (1 / np.sqrt(count))[lesson.labels]
        labels = np.eye(len(count), dtype=np.float32)[lesson.labels]
        self.known = (labels, labels, (weight / weight.mean()).astype(np.float32))
        kind = told[1].argmax(1)  # rare types weigh a little more, as they do when guesses are learned from
        balance = np.bincount(kind, minlength=len(count)).clip(1)[kind] ** -bilevel.BALANCE
        self.told = (*told, balance.astype(np.float32))

    @property
    def parts(self) -> int:
        return 2 if self.lesson.trust < 1 else 1

    def loss(self, step: int, part: int) -> Tensor:
        rng = np.random.default_rng([self.seed, step, part])
        if part == 1:
            return (1 - self.lesson.trust) * self._side(self.lesson.reference, self.known, rng)
        return self.lesson.trust * self._side(self.lesson.query, self.told, rng)

    def _side(self, side: Side, target: tuple[np.ndarray, np.ndarray, np.ndarray], rng: np.random.Generator) -> Tensor:
        batch, count = bilevel.draw(side, rng, np.ones(len(target[0])))
        device = next(self.network.parameters()).device
        own, context, _, _ = self.network(batch.to(device), self.openness)
        rows = batch.cells[:count]
        first, second, weight = (torch.as_tensor(values[rows], device=device) for values in target)
        total = losses.soft_cross_entropy(own[:count], first, weight)
        if batch.around is not None and self.openness > 0:
            total = total + losses.soft_cross_entropy(context[:count], second, weight)
        return total
