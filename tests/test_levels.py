"""Levels of a slide as maps: what the model's published code got wrong is a test here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stgnn.graph.build import square_grid
from stgnn.nn import lattice
from stgnn.nn.attention import gatv2_attention
from stgnn.nn.levels import GatTransformer, LevelAttention, Pyramid


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_a_map_is_read_at_the_centres_of_its_cells():
    field = torch.arange(12.0).reshape(1, 3, 4)
    centres = torch.tensor([[2.0, 2.0], [6.0, 2.0], [14.0, 10.0]])
    assert torch.allclose(lattice.read(field, centres, 4).ravel(), torch.tensor([0.0, 1.0, 11.0]), atol=1e-5)
    between = torch.tensor([[4.0, 2.0], [2.0, 4.0], [-9.0, -9.0]])
    assert torch.allclose(lattice.read(field, between, 4).ravel(), torch.tensor([0.5, 2.0, 0.0]), atol=1e-5)


def test_a_window_holds_the_cells_around_a_place():
    cells, offset, inside = lattice.window(torch.tensor([[9.0, 5.0]]), (3, 4), 4, 3)  # in column 2 of row 1
    assert cells[inside].tolist() == [1, 2, 3, 5, 6, 7, 9, 10, 11]
    assert offset[0, 4].tolist() == [0.25, 0.25]  # its own cell's centre is at (10, 6)
    _, _, inside = lattice.window(torch.tensor([[0.0, 0.0]]), (3, 4), 4, 3)
    assert inside.sum() == 4


def test_the_graph_of_a_map_is_the_grid_with_oneself():
    shape = (4, 5)
    row, column = np.divmod(np.arange(20), 5)
    graph = square_grid(np.column_stack([column, row]).astype(float), np.zeros(20, dtype=int))
    cells, inside = lattice.neighbours(shape, torch.device("cpu"))
    for node in range(20):
        heard = set(cells[node][inside[node]].tolist())
        distance = np.abs(np.column_stack([row - row[node], column - column[node]])).max(1)
        assert heard == set(np.flatnonzero(distance <= 1).tolist())
        sides = graph.indices[graph.indptr[node] : graph.indptr[node + 1]]
        assert set(sides.tolist()) <= heard


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_graph_attention_equals_pyg():
    from torch_geometric.nn import GATv2Conv

    shape, heads, width = (4, 5), 2, 6
    near, mask = lattice.neighbours(shape, torch.device("cpu"))
    oracle = GATv2Conv(width, width // heads, heads=heads, add_self_loops=False)
    x = torch.randn(20, width)
    target, slot = mask.nonzero(as_tuple=True)
    edges = torch.stack([near[target, slot], target])
    left = oracle.lin_r(x).view(20, heads, -1)  # PyG calls the listener's side right
    right = oracle.lin_l(x).view(20, heads, -1)
    found, weight = gatv2_attention(left, right, near, mask, oracle.att[0])
    assert torch.allclose(found.flatten(1) + oracle.bias, oracle(x, edges), atol=1e-5)
    assert torch.allclose(weight.sum(1), torch.ones(20, heads))
    assert (weight[~mask] == 0).all()


def test_attention_weights_change_the_output():
    near, mask = lattice.neighbours((4, 5), torch.device("cpu"))
    left, right = torch.randn(20, 2, 3), torch.randn(20, 2, 3)
    flat, _ = gatv2_attention(left, right, near, mask, torch.zeros(2, 3))
    sharp, _ = gatv2_attention(left, right, near, mask, torch.randn(2, 3))
    mean = torch.stack([right[near[i][mask[i]]].mean(0) for i in range(20)])
    assert torch.allclose(flat, mean, atol=1e-6)  # a score of nothing is a mean
    assert (flat - sharp).abs().max() > 0.1


def jacobian(module, field, row: int, column: int) -> torch.Tensor:
    """How much each cell of a map moves the output at one cell."""
    field = field.clone().requires_grad_()
    module(field)[:, row, column].sum().backward()
    return field.grad.abs().sum(0)


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_cell_hears_itself_and_no_further_than_its_hops(rounds):
    module = GatTransformer(16, rounds).eval()
    heard = jacobian(module, torch.randn(16, 9, 9), 4, 4)
    assert heard[4, 4] > 0
    distance = torch.maximum((torch.arange(9) - 4).abs()[:, None], (torch.arange(9) - 4).abs()[None])
    assert (heard[distance > rounds] == 0).all()
    assert (heard[distance <= rounds] > 0).all()


def test_depths_of_a_cell_are_not_mixed_with_other_cells():
    """Without rounds of attention, the transformer over depths sees one state a cell, its own."""
    heard = jacobian(GatTransformer(16, 0).eval(), torch.randn(16, 5, 5), 2, 3)
    assert heard[2, 3] > 0
    heard[2, 3] = 0
    assert (heard == 0).all()


def test_turning_the_map_turns_the_output():
    module, field = GatTransformer(16, 2).eval(), torch.randn(16, 6, 6)
    assert torch.allclose(module(field.rot90(1, (1, 2))), module(field).rot90(1, (1, 2)), atol=1e-5)


def level_attention() -> LevelAttention:
    return LevelAttention(width=12, channels=8, side=3, inner=8, heads=2)


def test_what_a_place_hears_depends_on_its_query():
    module, field, places = level_attention(), torch.randn(8, 4, 4), torch.tensor([[30.0, 30.0]])
    first, second = (module(torch.randn(1, 12), field, places, 16) for _ in range(2))
    assert (first - second).abs().max() > 1e-3


def test_what_a_place_hears_depends_on_where_it_is():
    module, field, x = level_attention(), torch.randn(8, 4, 4), torch.randn(1, 12)
    first, second = (module(x, field, torch.tensor([place]), 16) for place in ([26.0, 30.0], [30.0, 26.0]))
    assert (first - second).abs().max() > 1e-4


def test_a_place_hears_its_window_alone():
    module, field = level_attention(), torch.randn(8, 6, 6, requires_grad=True)
    module(torch.randn(1, 12), field, torch.tensor([[40.0, 56.0]]), 16).sum().backward()  # column 2 of row 3
    heard = field.grad.abs().sum(0) > 0
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[2:5, 1:4] = True
    assert torch.equal(heard, expected)


@pytest.mark.parametrize(("channels", "stem"), [(3, 4), (10, 1)])
def test_maps_of_the_pyramid(channels, stem):
    pyramid = Pyramid(channels, stem)
    side = pyramid.strides[-1] * 2
    maps = pyramid(torch.randn(channels, side, side))
    assert [x.shape[1] for x in maps] == [side // stride for stride in pyramid.strides]
    assert pyramid.strides[0] == stem


def test_a_stem_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="stem: expected a power of 2; found 3"):
        Pyramid(3, 3)
