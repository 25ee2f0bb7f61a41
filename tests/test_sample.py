"""Tiles: the cores partition the cells, and the halo is complete."""

import numpy as np
import pytest

from stgnn.graph.build import spatial_knn
from stgnn.graph.sample import morton_order, tiles


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def tissue(request):
    rng = np.random.default_rng(request.param)
    section = rng.permutation(np.repeat([5, 1, 2, 7], [400, 90, 30, 50]))
    coords = rng.random((570, request.param))
    return coords, section, spatial_knn(coords, section, k=6)


@pytest.mark.parametrize("d", [2, 3])
def test_morton_order_of_a_grid(d):
    side = 4
    grid = np.stack(np.meshgrid(*[np.arange(side)] * d, indexing="ij"), axis=-1).reshape(-1, d)

    def interleaved(point):
        return sum(((int(point[axis]) >> bit) & 1) << (bit * d + axis) for bit in range(2) for axis in range(d))

    # A span of 2**16 - 1 makes the curve's cells the integers themselves, so no rounding enters.
    corner = np.full((1, d), 2**16 - 1)
    expected = [*sorted(range(side**d), key=lambda i: interleaved(grid[i])), side**d]
    assert morton_order(np.vstack([grid, corner]).astype(float)).tolist() == expected


def test_morton_order_keeps_near_points_together():
    coords = np.random.default_rng(0).random((5000, 2))
    along = coords[morton_order(coords)]
    assert np.median(np.linalg.norm(np.diff(along, axis=0), axis=1)) < 0.02  # 0.5 in random order


def test_morton_order_ignores_place_and_scale():
    coords = np.random.default_rng(0).random((500, 3))
    np.testing.assert_array_equal(morton_order(coords * 0.25 + 8.0), morton_order(coords + 8.0))
    np.testing.assert_array_equal(morton_order(coords * 1024), morton_order(coords))


@pytest.mark.parametrize("n", [0, 1, 4])
def test_morton_order_of_one_place(n):
    assert morton_order(np.full((n, 2), 3.0)).tolist() == list(range(n))


@pytest.mark.parametrize("max_cells", [1, 37, 100, 5000])
def test_cores_partition_the_cells(tissue, max_cells):
    coords, section, graph = tissue
    found = tiles(coords, section, graph, max_cells, hops=1)
    np.testing.assert_array_equal(np.sort(np.concatenate([tile.core for tile in found])), np.arange(570))
    assert max(len(tile.core) for tile in found) <= max_cells


@pytest.mark.parametrize("hops", [0, 1, 2, 3])
def test_halo_is_complete_and_no_wider(tissue, hops):
    coords, section, graph = tissue
    adjacency = (graph.to_scipy().toarray() > 0).astype(int) + np.eye(570, dtype=int)
    within = np.linalg.matrix_power(np.minimum(adjacency, 1), hops) > 0
    for tile in tiles(coords, section, graph, max_cells=60, hops=hops):
        np.testing.assert_array_equal(tile.nodes[: len(tile.core)], tile.core)
        np.testing.assert_array_equal(np.sort(tile.nodes), np.flatnonzero(within[tile.core].any(axis=0)))


@pytest.mark.parametrize("hops", [1, 2])
def test_message_passing_on_tiles_equals_message_passing_on_the_whole(tissue, hops):
    coords, section, graph = tissue
    x = np.random.default_rng(0).normal(size=(570, 3))

    def network(adjacency, x):
        for _ in range(hops):
            x = np.tanh(x + adjacency @ x)
        return x

    whole, joined = network(graph.to_scipy(), x), np.full_like(x, np.nan)
    for tile in tiles(coords, section, graph, max_cells=60, hops=hops):
        joined[tile.core] = network(graph.subgraph(tile.nodes).to_scipy(), x[tile.nodes])[: len(tile.core)]
    np.testing.assert_allclose(joined, whole, rtol=1e-5)


def test_sections_are_not_split_needlessly(tissue):
    coords, section, graph = tissue
    held = [set(section[tile.core].tolist()) for tile in tiles(coords, section, graph, max_cells=150, hops=1)]
    # Codes in order: 1 (90 cells) and 2 (30) share a tile, 5 (400) needs three, 7 (50) does not fit with 1 and 2.
    assert sorted(map(sorted, held)) == [[1, 2], [5], [5], [5], [7]]
    sizes = [len(tile.core) for tile in tiles(coords, section, graph, max_cells=150, hops=1)]
    assert sorted(sizes) == [50, 120, 133, 133, 134]


def test_tiles_are_compact():
    coords = np.random.default_rng(0).random((4000, 2))
    section = np.zeros(4000, dtype=int)
    found = tiles(coords, section, spatial_knn(coords, section, k=8), max_cells=500, hops=1)
    # A square of 500 cells has a perimeter of 4 * 22 cells; a halo of random cells would hold nearly all the rest.
    assert max(len(tile.nodes) - len(tile.core) for tile in found) < 250


def test_tiles_are_deterministic(tissue):
    first, again = (tiles(*tissue, max_cells=60, hops=2) for _ in range(2))
    for one, other in zip(first, again):
        np.testing.assert_array_equal(one.nodes, other.nodes)


def test_arguments_are_checked(tissue):
    coords, section, graph = tissue
    with pytest.raises(ValueError, match=r"^max_cells: expected"):
        tiles(coords, section, graph, max_cells=0, hops=1)
    with pytest.raises(ValueError, match=r"^k: expected 0 or more hops"):
        tiles(coords, section, graph, max_cells=9, hops=-1)
    with pytest.raises(ValueError, match=r"^section: expected"):
        tiles(coords[1:], section[1:], graph, max_cells=9, hops=1)
