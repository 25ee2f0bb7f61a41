"""Attention over edges, over everything at linear cost, and over a memory: free functions of tensors.

Shapes: ``n`` cells, ``k`` neighbours, ``m`` memory entries, ``h`` heads, ``d`` width of a head, ``f`` frequencies.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def edge_attention(
    query: Float[Tensor, "n h d"],
    key: Float[Tensor, "n h d"],
    value: Float[Tensor, "n h d"],
    neighbours: Int[Tensor, "n k"],
    mask: Bool[Tensor, "n k"],
    bias: Float[Tensor, "n k h"],
) -> Float[Tensor, "n h d"]:
    r"""Attend from every node to the nodes it listens to.

    .. math:: o_i = \sum_{j \in N(i)} \mathrm{softmax}_j\big(q_i \cdot k_j / \sqrt d + b_{ij}\big)\, v_j

    Parameters
    ----------
    query, key, value
        One row a node.
    neighbours
        Whom each node listens to.
    mask
        False where the entry is padding. A node without neighbours gets zeros.
    bias
        Added to the scores, for instance minus a distance.

    Returns
    -------
    Messages, one row a node.
    """
    near = F.embedding(neighbours, key.flatten(1)).unflatten(2, key.shape[1:])  # (n, k, h, d)
    score = (query[:, None] * near).sum(-1) / math.sqrt(query.shape[-1]) + bias
    score = score.masked_fill(~mask[..., None], -torch.inf)
    # subtracting the maximum by hand keeps rows of padding finite, where softmax would give NaN
    weight = (score - score.amax(1, keepdim=True).clamp(min=-1e30)).exp() * mask[..., None]
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-20)
    value = value.to(weight.dtype)  # under autocast they differ, and embedding_bag takes one type
    # embedding_bag sums weighted rows without laying out (n, k, h, d): five times faster than gathering here
    heads = [
        F.embedding_bag(neighbours, value[:, head], mode="sum", per_sample_weights=weight[..., head].contiguous())
        for head in range(value.shape[1])
    ]
    return torch.stack(heads, 1)


def gatv2_attention(
    target: Float[Tensor, "n h d"],
    source: Float[Tensor, "m h d"],
    neighbours: Int[Tensor, "n k"],
    mask: Bool[Tensor, "n k"],
    score: Float[Tensor, "h d"],
) -> tuple[Float[Tensor, "n h d"], Float[Tensor, "n k h"]]:
    r"""Attend over graph neighbours by a score that mixes both sides before it is made a number.

    .. math:: o_i = \sum_j \alpha_{ij} r_j, \quad
        \alpha_{ij} = \mathrm{softmax}_j\big(a \cdot \mathrm{LeakyReLU}(l_i + r_j)\big)

    References
    ----------
    Brody et al., How attentive are graph attention networks?, ICLR 2022.

    Parameters
    ----------
    target
        What each node shows as a listener, :math:`l`.
    source
        What each node shows and says, :math:`r`.
    neighbours
        Whom each node listens to, itself included where it should be; any index where ``mask`` is False.
    mask
        Which entries of ``neighbours`` are real; one or more in each row.
    score
        :math:`a`, for each head.

    Returns
    -------
    The messages and the weights :math:`\alpha`, which sum to 1 over the neighbours.
    """
    near = source[neighbours]  # (n, k, h, d)
    value = (F.leaky_relu(target[:, None] + near, 0.2) * score).sum(-1)
    weight = value.masked_fill(~mask[..., None], -torch.inf).softmax(1)
    return torch.einsum("nkh,nkhd->nhd", weight, near), weight


def position_features(
    position: Float[Tensor, "n p"], frequency: Float[Tensor, "f p"], weight: Float[Tensor, "f"]
) -> Float[Tensor, "n 2f+1"]:
    r"""Features whose inner product is a kernel of relative position.

    .. math:: \psi(x) \cdot \psi(y) = 1 + \sum_f a_f \cos(\omega_f \cdot (x - y)) \ge 0, \quad a = \mathrm{softmax}(w)

    The constant equals the sum of the amplitudes, so that the kernel, and with it every attention weight, is never
    negative.

    Parameters
    ----------
    position
        Coordinates, in units of the frequencies' inverse.
    frequency
        Angular frequencies.
    weight
        Logits of the amplitudes.
    """
    amplitude = weight.softmax(0).sqrt()
    # a sum, not a matrix product, which autocast would round: phases reach hundreds of radians
    phase = (position[:, None] * frequency).sum(-1)
    one = torch.ones_like(phase[:, :1])
    return torch.cat([one, amplitude * phase.cos(), amplitude * phase.sin()], dim=1)


def global_state(
    key: Float[Tensor, "m h d"],
    value: Float[Tensor, "m h e"],
    position: Float[Tensor, "m s"],
    section: Int[Tensor, "m"],
    n_sections: int,
) -> tuple[Float[Tensor, "c h d s e"], Float[Tensor, "c h d s"]]:
    """Sums over each section's tokens that any number of queries can read: cost linear in tokens.

    Parameters
    ----------
    key
        Non-negative key features.
    value
        What each token says.
    position
        Position features of :func:`position_features`.
    section
        Section of each token; sections never mix.
    n_sections
        Number of sections.
    """
    feature = key[..., None] * position[:, None, None, :]
    carried = feature[..., None] * value[:, :, None, None, :]
    state = carried.new_zeros(n_sections, *carried.shape[1:]).index_add(0, section, carried)
    total = feature.new_zeros(n_sections, *feature.shape[1:]).index_add(0, section, feature)
    return state, total


def global_attention(
    query: Float[Tensor, "n h d"],
    position: Float[Tensor, "n s"],
    section: Int[Tensor, "n"],
    state: Float[Tensor, "c h d s e"],
    total: Float[Tensor, "c h d s"],
) -> Float[Tensor, "n h e"]:
    r"""Read the state of one's own section: attention over all its tokens at a cost linear in readers.

    .. math:: o_i = \sum_j w_{ij} v_j \big/ \sum_j w_{ij}, \quad w_{ij} = (q_i \cdot k_j)\,(\psi_i \cdot \psi_j)

    References
    ----------
    Katharopoulos et al., Transformers are RNNs, ICML 2020, for the factorisation; the relative positions are ours.

    Parameters
    ----------
    query
        Non-negative query features.
    position
        Position features of the readers.
    section
        Section of each reader.
    state, total
        From :func:`global_state`.
    """
    feature = query[..., None] * position[:, None, None, :]  # (n, h, d, s)
    out = query.new_zeros(len(query), query.shape[1], state.shape[-1])
    for code in range(len(state)):
        rows = (section == code).nonzero().ravel()
        if len(rows):
            own = feature[rows]
            up = torch.einsum("nhds,hdse->nhe", own, state[code])
            down = torch.einsum("nhds,hds->nh", own, total[code])
            out = out.index_copy(0, rows, up / down.clamp(min=1e-6)[..., None])
    return out


def cross_attention(
    query: Float[Tensor, "n h d"], key: Float[Tensor, "m h d"], value: Float[Tensor, "m h e"], scale: float | Tensor
) -> tuple[Float[Tensor, "n h e"], Float[Tensor, "n h m"]]:
    r"""Attend from cells to a memory.

    .. math:: o_i = \sum_j a_{ij} v_j, \quad a_{ij} = \mathrm{softmax}_j(s\, q_i \cdot k_j)

    Returns
    -------
    The messages and the weights :math:`a`.
    """
    weight = (torch.einsum("nhd,mhd->nhm", query, key) * scale).softmax(-1)
    return torch.einsum("nhm,mhe->nhe", weight, value), weight
