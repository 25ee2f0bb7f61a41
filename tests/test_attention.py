"""Attention functions against oracles written another way, and against the laws they keep."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck
from torch.autograd.functional import jacobian

from stgnn.nn import attention

N, K, H, D = 9, 4, 2, 3
ALONE = 5
"""Node of the table that has no neighbours."""


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(alone: bool = True) -> tuple[Tensor, Tensor]:
    """Distinct neighbours of each node, ragged rows; padding points at node 0."""
    generator = torch.Generator().manual_seed(1)
    others = [[j for j in torch.randperm(N, generator=generator).tolist() if j != i][:K] for i in range(N)]
    neighbours, mask = torch.tensor(others), torch.ones(N, K, dtype=torch.bool)
    mask[2, 3:] = mask[7, 1:] = False
    mask[ALONE] = not alone
    return neighbours.masked_fill(~mask, 0), mask


def inputs(alone: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Query, key, value, neighbours, mask and bias."""
    neighbours, mask = table(alone)
    return *(randn(N, H, D, seed=s) for s in (1, 2, 3)), neighbours, mask, randn(N, K, H, seed=4)


def edges(neighbours: Tensor, mask: Tensor) -> Tensor:
    """Source and target of each edge, as PyG has them (2, edges)."""
    target, column = mask.nonzero(as_tuple=True)
    return torch.stack([neighbours[target, column], target])


def dense(query: Tensor, key: Tensor, value: Tensor, neighbours: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
    """Masked softmax over all pairs of nodes."""
    score = torch.full((N, N, H), -torch.inf, dtype=query.dtype)
    for i in range(N):
        for column in range(K):
            if mask[i, column]:
                j = int(neighbours[i, column])
                score[i, j] = (query[i] * key[j]).sum(-1) / math.sqrt(D) + bias[i, column]
    weight = score.softmax(1).nan_to_num(0.0)
    return torch.einsum("ijh,jhd->ihd", weight, value)


def test_edge_attention_equals_a_dense_softmax():
    torch.testing.assert_close(attention.edge_attention(*inputs()), dense(*inputs()), rtol=0, atol=1e-12)


def test_edge_attention_equals_torch_where_there_is_no_bias():
    query, key, value, neighbours, mask, bias = inputs(alone=False)
    pairs = torch.zeros(N, N, dtype=torch.bool)
    source, target = edges(neighbours, mask)
    pairs[target, source] = True
    want = F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in (query, key, value)), attn_mask=pairs)
    have = attention.edge_attention(query, key, value, neighbours, mask, torch.zeros_like(bias))
    torch.testing.assert_close(have, want.transpose(0, 1), rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # PyG's, on import
def test_edge_attention_equals_the_operator_of_pyg():
    from torch_geometric.nn import TransformerConv

    neighbours, mask = table()
    reader, said, mix = randn(N, H * D, seed=1), randn(N, H * D, seed=2), randn(H * D, H * D, seed=3)
    operator = TransformerConv(H * D, D, heads=H, bias=False, root_weight=False).double()
    with torch.no_grad():
        operator.lin_query.weight.copy_(torch.eye(H * D))
        operator.lin_key.weight.copy_(torch.eye(H * D))
        operator.lin_value.weight.copy_(mix)
        want = operator((said, reader), edges(neighbours, mask))
    parts = [x.view(N, H, D) for x in (reader, said, said @ mix.T)]
    have = attention.edge_attention(*parts, neighbours, mask, torch.zeros(N, K, H, dtype=torch.float64))
    torch.testing.assert_close(have.flatten(1), want, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_edge_attention_equals_the_softmax_of_pyg_with_a_bias():
    from torch_geometric.utils import scatter, softmax

    query, key, value, neighbours, mask, bias = inputs()
    source, target = edges(neighbours, mask)
    score = (query[target] * key[source]).sum(-1) / math.sqrt(D) + bias[mask]
    weight = softmax(score, target, num_nodes=N)
    want = scatter(weight[..., None] * value[source], target, dim_size=N)
    torch.testing.assert_close(attention.edge_attention(*inputs()), want, rtol=0, atol=1e-12)


def test_constant_values_come_back_unchanged():
    query, key, value, neighbours, mask, bias = inputs()
    said = torch.full_like(value, 3.0)
    out = attention.edge_attention(query, key, said, neighbours, mask, bias)
    real = mask.any(1)
    assert not real.all()
    torch.testing.assert_close(out[real], said[real], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_a_node_without_neighbours_gets_zeros_and_no_nan(size):
    query, key, value, neighbours, mask, bias = inputs()
    leaves = [(size * x).float().requires_grad_() for x in (query, key, value, bias)]
    out = attention.edge_attention(*leaves[:3], neighbours, mask, leaves[3])
    assert (out[ALONE] == 0).all()
    assert out.isfinite().all()
    out.square().sum().backward()
    for leaf in leaves:
        assert leaf.grad.isfinite().all()
    assert leaves[2].grad.any()  # large scores may leave no slope but that of the values
    assert not leaves[0].grad[ALONE].any()


def test_padding_never_matters():
    query, key, value, neighbours, mask, bias = inputs()
    want = attention.edge_attention(query, key, value, neighbours, mask, bias)
    other = neighbours.masked_fill(~mask, N - 1)
    loud = bias.masked_fill(~mask[..., None], 1e4)
    assert torch.equal(attention.edge_attention(query, key, value, other, mask, loud), want)
    wide = torch.cat([neighbours, neighbours], 1), torch.cat([mask, torch.zeros_like(mask)], 1)
    wider = attention.edge_attention(query, key, value, *wide, torch.cat([bias, bias], 1))
    torch.testing.assert_close(wider, want, rtol=0, atol=1e-14)


def test_gradients_of_edge_attention():
    query, key, value, neighbours, mask, bias = inputs()
    leaves = tuple(x.requires_grad_() for x in (query, key, value, bias))
    assert gradcheck(lambda q, k, v, b: attention.edge_attention(q, k, v, neighbours, mask, b), leaves)


def waves() -> tuple[Tensor, Tensor]:
    """Frequencies (5, 2) and logits of their amplitudes (5,)."""
    return randn(5, 2, seed=5), randn(5, seed=6)


def kernel(left: Tensor, right: Tensor) -> Tensor:
    """Kernel of relative positions by its formula (left, right)."""
    frequency, weight = waves()
    phase = (left[:, None] - right[None]) @ frequency.T
    return 1 + (weight.softmax(0) * phase.cos()).sum(-1)


def test_the_position_kernel_is_what_its_formula_says_and_never_negative():
    left, right = 10 * randn(200, 2, seed=7), 10 * randn(150, 2, seed=8)
    have = attention.position_features(left, *waves()) @ attention.position_features(right, *waves()).T
    torch.testing.assert_close(have, kernel(left, right), rtol=0, atol=1e-12)
    assert have.min() >= 0
    assert have.min() < 0.2  # the places are spread out far enough for the law to be put to the test


def test_the_position_kernel_depends_on_differences_only():
    places, shift = randn(20, 2, seed=7), torch.tensor([31.0, -17.0])
    here, there = (attention.position_features(x, *waves()) for x in (places, places + shift))
    torch.testing.assert_close(there @ there.T, here @ here.T, rtol=0, atol=1e-10)
    assert not torch.allclose(there, here)


def scene() -> tuple[Tensor, ...]:
    """Queries, keys, values, places of readers and tokens, and sections of both."""
    reader_section, token_section = torch.tensor([0, 1, 1, 0, 1, 0]), torch.tensor([1, 0, 0, 1, 1])
    query, key = randn(6, H, D, seed=1).exp(), randn(5, H, D, seed=2).exp()
    return query, key, randn(5, H, 4, seed=3), randn(6, 2, seed=9), randn(5, 2, seed=10), reader_section, token_section


def read(query, key, value, reader, token, reader_section, token_section) -> Tensor:
    state = attention.global_state(key, value, attention.position_features(token, *waves()), token_section, 2)
    return attention.global_attention(query, attention.position_features(reader, *waves()), reader_section, *state)


def test_global_attention_equals_its_quadratic_form():
    query, key, value, reader, token, reader_section, token_section = scene()
    weight = torch.einsum("nhd,mhd->nmh", query, key) * kernel(reader, token)[..., None]
    weight = weight * (reader_section[:, None] == token_section[None])[..., None]
    want = torch.einsum("nmh,mhe->nhe", weight / weight.sum(1, keepdim=True), value)
    torch.testing.assert_close(read(*scene()), want, rtol=0, atol=1e-12)


def test_global_attention_returns_what_all_tokens_of_a_section_say():
    query, key, value, *rest = scene()
    section = rest[3]
    said = torch.tensor([2.0, -5.0], dtype=torch.float64)[section][:, None, None].expand_as(value)
    own = torch.tensor([2.0, -5.0], dtype=torch.float64)[rest[2]][:, None, None].expand(-1, H, 4)
    torch.testing.assert_close(read(query, key, said, *rest), own, rtol=0, atol=1e-12)


@pytest.mark.parametrize("which", [1, 2, 4])  # keys, values, places of tokens
def test_sections_never_mix(which):
    parts = list(scene())

    def out(x: Tensor) -> Tensor:
        return read(*[x if i == which else part for i, part in enumerate(parts)])

    slope = jacobian(out, parts[which]).abs().sum((1, 2))  # (readers, tokens, ...)
    slope = slope.flatten(2).sum(2)
    same = parts[5][:, None] == parts[6][None]
    assert (slope[~same] == 0).all()
    assert (slope[same] > 0).all()


def test_gradients_of_global_attention():
    query, key, value, reader, token, *section = scene()
    leaves = tuple(x.requires_grad_() for x in (query, key, value, reader, token))
    assert gradcheck(lambda *x: read(*x, *section), leaves)


def test_cross_attention_is_a_softmax_over_the_memory():
    query, key, value = randn(6, H, D, seed=1), randn(5, H, D, seed=2), randn(5, H, 4, seed=3)
    out, weight = attention.cross_attention(query, key, value, 0.7)
    assert weight.shape == (6, H, 5)
    assert (weight > 0).all()
    torch.testing.assert_close(weight.sum(-1), torch.ones(6, H, dtype=torch.float64), rtol=0, atol=1e-12)
    want = F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in (query, key, value)), scale=0.7)
    torch.testing.assert_close(out, want.transpose(0, 1), rtol=0, atol=1e-12)


def test_cross_attention_depends_on_the_query():
    query, key, value = randn(6, H, D, seed=1), randn(5, H, D, seed=2), randn(5, H, 4, seed=3)
    slope = (
        jacobian(lambda q: attention.cross_attention(q, key, value, 1.0)[0], query).abs().sum((2, 5))
    )  # (n, h, n, h)
    own = torch.eye(6 * H, dtype=torch.bool).view(6, H, 6, H)
    assert (slope[own] > 0).all()
    assert (slope[~own] == 0).all()


def test_positions_keep_their_precision_under_autocast():
    x, (f, w) = 60 * randn(50, 2).float(), [y.float() for y in waves()]
    want = attention.position_features(x, f, w)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        have = attention.position_features(x, f, w)
    torch.testing.assert_close(have.float(), want, rtol=0, atol=1e-4)
