"""Layers: what passes, what does not, and that everything in them can learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.utils._python_dispatch import TorchDispatchMode

from stgnn.nn import blocks
from stgnn.nn.tissue import Surroundings

WIDTH, HEADS, CELLS, TOKENS, GENES = 8, 2, 12, 6, 10
HEAD = WIDTH // HEADS


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ring(n: int) -> Tensor:
    """Everyone listens to the next two in a circle (n, 2)."""
    return (torch.arange(n)[:, None] + torch.tensor([1, 2])) % n


def around(cells: int = CELLS, tokens: int = TOKENS) -> Surroundings:
    """Two sections of as many cells and tokens each, with a padded row."""
    mask = torch.ones(cells, 2, dtype=torch.bool)
    mask[0, 1] = False
    return Surroundings(
        ring(cells),
        randn(cells, 2, seed=1).abs(),
        mask,
        randn(cells, 2, seed=2),
        torch.arange(cells) % 2,
        randn(tokens, WIDTH, seed=3),
        randn(tokens, 2, seed=4),
        torch.arange(tokens) % 2,
        2,
    )


def gene_table() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours, correlation and mask of genes, one of them without neighbours, and modules."""
    rng = np.random.default_rng(0)
    neighbours = np.stack([rng.permutation(np.delete(np.arange(GENES), g))[:3] for g in range(GENES)])
    mask = np.ones((GENES, 3), dtype=bool)
    mask[4], mask[6, 2] = False, False
    return neighbours, rng.uniform(-1, 1, (GENES, 3)), mask, np.arange(GENES) % 3


def gene_modules(seed: int = 0) -> blocks.GeneModules:
    torch.manual_seed(seed)
    return blocks.GeneModules(*gene_table(), WIDTH, 0.0).eval()


def made(layer: type[nn.Module], *arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return layer(*arguments).eval()


def test_a_closed_gate_returns_its_input_to_the_last_bit():
    gate = made(blocks.Gate, WIDTH)
    h, message = randn(CELLS, WIDTH), 1e3 * randn(CELLS, WIDTH, seed=1)
    assert torch.equal(gate(h, message, 0.0), h)
    assert not torch.equal(gate(h, message, 1.0), h)


def test_a_gate_lets_through_in_proportion():
    gate = made(blocks.Gate, WIDTH)
    h, message = randn(CELLS, WIDTH), randn(CELLS, WIDTH, seed=1)
    full = gate(h, message, 1.0) - h
    torch.testing.assert_close(gate(h, message, 0.25) - h, 0.25 * full)
    open_ = made(blocks.Gate, WIDTH, 20.0)
    torch.testing.assert_close(open_(h, message, 1.0), h + open_.norm(message), rtol=1e-5, atol=1e-5)
    assert (full.abs() < (open_(h, message, 1.0) - h).abs()).float().mean() > 0.9


def reach(function: Callable[[Tensor], Tensor]) -> Tensor:
    """Whether the output of each cell (rows) depends on the input of each (columns)."""
    return jacobian(function, randn(CELLS, WIDTH)).abs().sum((1, 3)) > 0


def test_edge_attention_reaches_one_hop_and_no_further():
    near, here = made(blocks.EdgeAttention, WIDTH, HEADS, HEAD, 0.0), around()
    found = reach(lambda h: near(h, here.neighbours, here.distance, here.mask))
    hop = torch.zeros(CELLS, CELLS, dtype=torch.bool)
    rows, columns = here.mask.nonzero(as_tuple=True)
    hop[rows, here.neighbours[rows, columns]] = True
    assert (found & ~torch.eye(CELLS, dtype=torch.bool) == hop).all()


def test_own_features_reach_the_own_output_past_the_messages():
    near, gate, here = made(blocks.EdgeAttention, WIDTH, HEADS, HEAD, 0.0), made(blocks.Gate, WIDTH), around()
    deaf = torch.zeros_like(here.mask)
    assert not reach(lambda h: near(h, here.neighbours, here.distance, deaf)).any()
    found = reach(lambda h: gate(h, near(h, here.neighbours, here.distance, deaf), 1.0))
    assert (found == torch.eye(CELLS, dtype=torch.bool)).all()


def test_near_neighbours_are_louder():
    near, here = made(blocks.EdgeAttention, WIDTH, HEADS, HEAD, 0.0), around()
    with torch.no_grad():
        near.qkv.weight[: 2 * WIDTH] = 0  # scores by distance alone
    h, full = randn(CELLS, WIDTH), torch.ones_like(here.mask)
    far = torch.tensor([0.0, 1e4]).expand(CELLS, 2)
    first = near(h, here.neighbours[:, :1], far[:, :1], full[:, :1])
    torch.testing.assert_close(near(h, here.neighbours, far, full), first)


def test_regions_of_other_sections_are_not_heard():
    far, here = made(blocks.RegionTransformer, WIDTH, HEADS, HEAD, 2 * WIDTH, 2, 0.0), around()
    cells = randn(CELLS, WIDTH)
    slope = jacobian(lambda tokens: far(cells, tokens, here), here.token_features).abs().sum((1, 3))
    same = here.section[:, None] == here.token_section[None]
    assert ((slope > 0) == same).all()


class _Largest(TorchDispatchMode):
    """Remembers the number of values of the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            self.size = max(self.size, x.numel() if isinstance(x, Tensor) else 0)
        return out


def test_regions_cost_in_proportion_to_cells_and_tokens():
    far = made(blocks.RegionTransformer, WIDTH, HEADS, HEAD, 2 * WIDTH, 1, 0.0)
    sizes = []
    for n in (2000, 4000):
        here = around(n, n)
        with torch.no_grad(), _Largest() as largest:
            far(randn(n, WIDTH), here.token_features, here)
        sizes.append(largest.size)
    assert sizes[0] > 2000 * WIDTH
    assert sizes[1] == 2 * sizes[0]
    assert sizes[1] < 4000 * 4000


def test_moving_a_section_as_a_whole_changes_nothing_that_regions_say():
    far, here = made(blocks.RegionTransformer, WIDTH, HEADS, HEAD, 2 * WIDTH, 1, 0.0), around()
    moved = {**vars(here), "position": here.position + 3.0, "token_position": here.token_position + 3.0}
    cells = randn(CELLS, WIDTH)
    have = far(cells, here.token_features, Surroundings(**moved))
    torch.testing.assert_close(have, far(cells, here.token_features, here), rtol=1e-4, atol=1e-5)


def test_gene_modules_do_not_depend_on_the_order_of_genes():
    neighbours, correlation, mask, module = gene_table()
    order = np.random.default_rng(1).permutation(GENES)
    place = np.argsort(order)
    turned = blocks.GeneModules(
        place[neighbours[order]], correlation[order], mask[order], module[order], WIDTH, 0.0
    ).eval()
    layer = gene_modules()
    learnt = dict(layer.named_parameters())
    with torch.no_grad():
        for name, parameter in turned.named_parameters():
            parameter.copy_(learnt[name][order] if name == "embedding" else learnt[name])
    x = randn(CELLS, GENES)
    torch.testing.assert_close(turned(x[:, order]), layer(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(layer(x[:, order]), layer(x), atol=1e-3)


def test_gene_modules_treat_cells_one_by_one():
    layer = gene_modules()
    slope = jacobian(layer, randn(CELLS, GENES)).abs().sum((1, 3)) > 0
    assert (slope == torch.eye(CELLS, dtype=torch.bool)).all()


def test_genes_hear_their_neighbours_on_the_graph_only():
    layer = gene_modules()
    neighbours, _, mask, _ = gene_table()

    def genes(embedding: Tensor) -> Tensor:
        return torch.func.functional_call(_Genes(layer), {"layer.embedding": embedding}, ())

    slope = jacobian(genes, layer.embedding.detach().clone()).abs().sum((1, 3)) > 0
    want = np.eye(GENES, dtype=bool)
    for gene in range(GENES):
        want[gene, neighbours[gene, mask[gene]]] = True
    assert (slope.numpy() == want).all()


def test_genes_are_what_the_formula_says():
    layer = gene_modules()
    neighbours, correlation, mask, _ = gene_table()
    with torch.no_grad():
        query, key = layer.score(layer.embedding).chunk(2, dim=1)
        value, want = layer.value(layer.embedding), layer.embedding.clone()
        for gene in range(GENES):
            if not mask[gene].any():
                continue
            near = neighbours[gene, mask[gene]]
            r = torch.tensor(correlation[gene, mask[gene]], dtype=torch.float32)
            weight = (key[near] @ query[gene] / layer.inner**0.5 + r.abs()).softmax(0)
            want[gene] += (weight * r.sign()) @ value[near]
        torch.testing.assert_close(layer.genes(), want, rtol=1e-5, atol=1e-6)


class _Genes(nn.Module):
    def __init__(self, layer: blocks.GeneModules) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> Tensor:
        return self.layer.genes()


def test_votes_of_the_memory_sum_to_one_and_follow_the_nearest_prototype():
    layer = made(blocks.Memory, WIDTH, WIDTH, 0.0)
    memory, kind = randn(TOKENS, WIDTH), torch.eye(3).repeat(2, 1)
    message, vote = layer(randn(CELLS, WIDTH, seed=1), memory, kind)
    assert message.shape == (CELLS, WIDTH)
    torch.testing.assert_close(vote.sum(1), torch.ones(CELLS))
    with torch.no_grad():
        layer.key.load_state_dict(layer.query.state_dict())
        layer.log_scale.fill_(5.0)
    message, vote = layer(memory, memory, kind)
    assert (vote.argmax(1) == kind.argmax(1)).all()
    torch.testing.assert_close(message, layer.value(memory), rtol=1e-3, atol=1e-3)


def outputs(name: str) -> tuple[nn.Module, list[Tensor]]:
    here, h = around(), randn(CELLS, WIDTH)
    if name == "mlp":
        torch.manual_seed(0)
        layer: nn.Module = blocks.mlp(WIDTH, 16, 4, 0.1)
        return layer, [layer(h)]
    if name == "gate":
        layer = made(blocks.Gate, WIDTH)
        return layer, [layer(h, randn(CELLS, WIDTH, seed=1), 0.5)]
    if name == "edge attention":
        layer = made(blocks.EdgeAttention, WIDTH, HEADS, HEAD, 0.1)
        return layer, [layer(h, here.neighbours, here.distance, here.mask)]
    if name == "region transformer":
        layer = made(blocks.RegionTransformer, WIDTH, HEADS, HEAD, 2 * WIDTH, 2, 0.1)
        return layer, [layer(h, here.token_features, here)]
    if name == "gene modules":
        layer = gene_modules()
        return layer, [layer(randn(CELLS, GENES))]
    layer = made(blocks.Memory, WIDTH, WIDTH, 0.1)
    return layer, list(layer(h, randn(TOKENS, WIDTH, seed=1), torch.eye(3).repeat(2, 1)))


@pytest.mark.parametrize("name", ["mlp", "gate", "edge attention", "region transformer", "gene modules", "memory"])
def test_every_parameter_receives_a_gradient(name):
    layer, out = outputs(name)
    sum((x * randn(*x.shape, seed=7 + i)).sum() for i, x in enumerate(out)).backward()
    for label, parameter in layer.named_parameters():
        assert parameter.grad is not None, label
        assert parameter.grad.isfinite().all(), label
        assert parameter.grad.any(), label
