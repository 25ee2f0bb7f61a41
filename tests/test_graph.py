"""Graphs against brute force, closed-form counts, scipy, and the laws of space."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial import Delaunay, QhullError
from scipy.spatial.distance import cdist

from stgnn.graph.build import (
    hexagonal_grid,
    spatial_delaunay,
    spatial_knn,
    spatial_radius,
    square_grid,
)
from stgnn.graph.graph import Graph, by_section

BUILDERS = {
    "knn": lambda coords, section: spatial_knn(coords, section, k=6),
    "radius": lambda coords, section: spatial_radius(coords, section, radius=0.2),
    "delaunay": lambda coords, section: spatial_delaunay(coords, section),
    "delaunay_short": lambda coords, section: spatial_delaunay(coords, section, max_length=0.2),
    "square": lambda coords, section: square_grid(coords, section, rings=2),
    "hexagonal": lambda coords, section: hexagonal_grid(coords, section, rings=2),
}


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def tissue(request):
    """Three sections of different sizes, shuffled, with codes that are not consecutive."""
    rng = np.random.default_rng(request.param)
    section = rng.permutation(np.repeat([4, 0, 9], [80, 50, 30]))
    return rng.random((160, request.param)), section


def edges(graph):
    return set(zip(np.repeat(np.arange(graph.n), graph.degree).tolist(), graph.indices.tolist()))


def lattice(kind, side):
    column, row = (axis.ravel().astype(float) for axis in np.meshgrid(np.arange(side), np.arange(side)))
    if kind == "square":
        return np.column_stack([column, row])
    return np.column_stack([column + 0.5 * (row % 2), row * np.sqrt(3) / 2])


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


# ---- the graph itself


@pytest.fixture
def random_graph():
    matrix = sp.random(40, 40, density=0.08, random_state=0, format="lil")
    matrix.setdiag(0)
    matrix = matrix.tocoo()
    kept = matrix.data > 0
    return Graph.from_edges(40, matrix.row[kept], matrix.col[kept], matrix.data[kept])


def test_rows_are_nearest_first(random_graph):
    for start, stop in zip(random_graph.indptr[:-1], random_graph.indptr[1:]):
        assert np.all(np.diff(random_graph.weight[start:stop]) >= 0)
    assert random_graph.degree.max() > 2


@pytest.mark.parametrize("k", [0, 1, 3, 50])
def test_table_against_loop(random_graph, k):
    neighbours, weight, mask = random_graph.table(k)
    assert (neighbours.dtype, weight.dtype, mask.dtype) == (np.int64, np.float32, np.bool_)
    for i in range(random_graph.n):
        row = slice(random_graph.indptr[i], random_graph.indptr[i + 1])
        kept = min(k, random_graph.degree[i])
        assert neighbours[i, :kept].tolist() == random_graph.indices[row][:kept].tolist()
        assert weight[i, :kept].tolist() == random_graph.weight[row][:kept].tolist()
        assert np.all(neighbours[i, kept:] == i)
        assert mask[i].tolist() == [True] * kept + [False] * (k - kept)


def test_table_and_back(random_graph):
    back = Graph.from_table(*random_graph.table(40))
    for name in ("indptr", "indices", "weight"):
        np.testing.assert_array_equal(getattr(back, name), getattr(random_graph, name))


def test_to_scipy_is_a_copy_with_every_edge():
    graph = Graph.from_edges(3, np.array([0, 0, 1]), np.array([2, 1, 0]), np.array([0.0, 5.0, 5.0]))
    matrix = graph.to_scipy()
    assert matrix.nnz == 3
    matrix.data[:] = 7
    assert graph.weight.tolist() == [0.0, 5.0, 5.0]
    assert graph.indices.tolist() == [2, 1, 0]


def test_subgraph_against_scipy(random_graph):
    nodes = np.random.default_rng(1).permutation(40)[:17]
    part = random_graph.subgraph(nodes)
    np.testing.assert_array_equal(part.to_scipy().toarray(), random_graph.to_scipy().toarray()[np.ix_(nodes, nodes)])
    empty = random_graph.subgraph(np.array([], dtype=int))
    assert (empty.n, empty.indices.size) == (0, 0)
    with pytest.raises(ValueError, match="distinct"):
        random_graph.subgraph(np.array([1, 1]))


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_hops_against_matrix_powers(random_graph, k):
    start = np.array([3, 7])
    adjacency = (random_graph.to_scipy().toarray() > 0).astype(int) + np.eye(40, dtype=int)
    reached = np.flatnonzero(np.linalg.matrix_power(adjacency, k)[start].sum(axis=0))
    np.testing.assert_array_equal(random_graph.hops(start, k), reached)


@pytest.mark.parametrize(
    ("indptr", "indices", "weight", "message"),
    [
        ([0, 1], [0], [1.0], "own neighbours"),
        ([0, 1, 1], [2], [1.0], "indices"),
        ([0, 1, 1], [-1], [1.0], "indices"),
        ([0, 2, 1], [1], [1.0], "decrease"),
        ([0, 1, 1], [1], [1.0, 2.0], "indptr"),
        ([0, 1, 2], [1], [1.0], "indptr"),
    ],
)
def test_a_graph_that_makes_no_sense_is_refused(indptr, indices, weight, message):
    with pytest.raises(ValueError, match=message):
        Graph(np.array(indptr), np.array(indices), np.array(weight))


def test_by_section():
    section = np.array([5, 2, 5, 2, 2])
    assert [members.tolist() for members in by_section(section)] == [[1, 3, 4], [0, 2]]
    assert list(by_section(section[:0])) == []


# ---- laws of every spatial graph


@pytest.mark.parametrize("name", BUILDERS)
def test_no_edge_across_sections(name, tissue):
    coords, section = tissue
    found = np.array(sorted(edges(BUILDERS[name](coords, section))))
    assert len(found) > 100
    np.testing.assert_array_equal(section[found[:, 0]], section[found[:, 1]])


@pytest.mark.parametrize("name", BUILDERS)
def test_sections_do_not_see_each_other(name, tissue):
    coords, section = tissue
    whole = BUILDERS[name](coords, section)
    for members in by_section(section):
        alone = BUILDERS[name](coords[members], section[members])
        assert edges(alone) == edges(whole.subgraph(members))


@pytest.mark.parametrize("name", BUILDERS)
def test_permuting_cells_permutes_the_graph(name, tissue):
    coords, section = tissue
    order = np.random.default_rng(5).permutation(len(coords))
    moved = BUILDERS[name](coords[order], section[order]).to_scipy().toarray()
    still = BUILDERS[name](coords, section).to_scipy().toarray()
    np.testing.assert_allclose(moved, still[np.ix_(order, order)], rtol=1e-6)


@pytest.mark.parametrize("name", BUILDERS)
def test_moving_and_turning_the_tissue_changes_nothing(name, tissue):
    coords, section = tissue
    turned = BUILDERS[name](coords @ rotation(coords.shape[1]) + 3.0, section)
    still = BUILDERS[name](coords, section)
    assert edges(turned) == edges(still)
    np.testing.assert_allclose(turned.to_scipy().toarray(), still.to_scipy().toarray(), rtol=1e-5)


@pytest.mark.parametrize("name", ["knn", "delaunay", "square", "hexagonal"])
def test_scaling_the_tissue_scales_the_lengths(name, tissue):
    coords, section = tissue
    scaled, still = BUILDERS[name](8 * coords, section), BUILDERS[name](coords, section)
    assert edges(scaled) == edges(still)
    np.testing.assert_allclose(scaled.to_scipy().toarray(), 8 * still.to_scipy().toarray(), rtol=1e-6)


@pytest.mark.parametrize("name", BUILDERS)
def test_weights_are_distances_nearest_first(name, tissue):
    coords, section = tissue
    graph = BUILDERS[name](coords, section)
    listener = np.repeat(np.arange(graph.n), graph.degree)
    np.testing.assert_allclose(
        graph.weight, np.linalg.norm(coords[listener] - coords[graph.indices], axis=1), rtol=1e-6
    )
    assert np.all((np.diff(graph.weight) >= 0) | (np.diff(listener) > 0))


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "knn"])
def test_symmetric(name, tissue):
    graph = BUILDERS[name](*tissue).to_scipy()
    assert abs(graph - graph.T).max() == 0


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_tiny_sections(name, n):
    coords = np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1]])[:n]
    graph = BUILDERS[name](coords, np.zeros(n, dtype=int))
    assert graph.n == n
    assert graph.indices.dtype == np.int64
    # All three points lie within one another's reach: directly, or in two steps along the sides of a square grid.
    assert graph.indices.size == n * (n - 1)


@pytest.mark.parametrize("name", BUILDERS)
def test_cells_at_one_place(name):
    rng = np.random.default_rng(0)
    coords = np.repeat(rng.random((10, 2)), 9, axis=0)
    graph = BUILDERS[name](coords, np.zeros(90, dtype=int))
    assert np.all(graph.degree > 0)
    assert len(edges(graph)) == graph.indices.size


@pytest.mark.parametrize("name", ["knn", "radius", "delaunay"])
def test_all_cells_at_one_place(name):
    graph = BUILDERS[name](np.full((12, 2), 7.0), np.zeros(12, dtype=int))
    assert np.all(graph.degree > 0)
    assert np.all(graph.weight == 0)


@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (lambda x, s: spatial_knn(x, s, k=0), "k"),
        (lambda x, s: spatial_radius(x, s, radius=0.0), "radius"),
        (lambda x, s: spatial_radius(x, s, radius=np.nan), "radius"),
        (lambda x, s: spatial_delaunay(x, s, max_length=-1.0), "max_length"),
        (lambda x, s: square_grid(x, s, rings=0), "rings"),
        (lambda x, s: spatial_knn(x[:, :1], s, k=1), "coords"),
        (lambda x, s: hexagonal_grid(x, s[:-1]), "section"),
    ],
)
def test_arguments_are_checked(build, argument):
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        build(np.random.default_rng(0).random((5, 2)), np.zeros(5, dtype=int))


# ---- oracles


@pytest.mark.parametrize("k", [1, 6, 29, 30, 200])
def test_knn_against_brute_force(tissue, k):
    coords, section = tissue
    distance = cdist(coords, coords)
    distance[section[:, None] != section] = np.inf
    np.fill_diagonal(distance, np.inf)
    graph = spatial_knn(coords, section, k)
    for i in range(len(coords)):
        nearest = np.argsort(distance[i])[: min(k, np.isfinite(distance[i]).sum())]
        assert graph.indices[graph.indptr[i] : graph.indptr[i + 1]].tolist() == nearest.tolist()


def test_knn_with_more_duplicates_than_neighbours():
    coords = np.vstack([np.zeros((20, 2)), [[1.0, 0.0]]])
    graph = spatial_knn(coords, np.zeros(21, dtype=int), k=4)
    assert np.all(graph.degree == 4)
    assert np.all(graph.weight[: 20 * 4] == 0)


def test_radius_against_brute_force(tissue):
    coords, section = tissue
    near = (cdist(coords, coords) <= 0.2) & (section[:, None] == section) & ~np.eye(len(coords), dtype=bool)
    assert edges(spatial_radius(coords, section, radius=0.2)) == set(zip(*(ends.tolist() for ends in near.nonzero())))


def test_radius_is_included():
    coords = np.array([[0.0, 0.0], [2.0, 0.0]])
    assert spatial_radius(coords, np.zeros(2, dtype=int), radius=2.0).indices.size == 2


def test_delaunay_against_scipy(tissue):
    coords, section = tissue
    expected = set()
    for members in by_section(section):
        for simplex in members[Delaunay(coords[members]).simplices]:
            expected |= {(int(a), int(b)) for a in simplex for b in simplex if a != b}
    assert edges(spatial_delaunay(coords, section)) == expected
    short = {(a, b) for a, b in expected if np.linalg.norm(coords[a] - coords[b]) <= 0.2}
    assert 0 < len(short) < len(expected)
    assert edges(spatial_delaunay(coords, section, max_length=0.2)) == short


@pytest.mark.parametrize("d", [2, 3])
def test_delaunay_of_a_line_is_a_chain(d):
    step = np.array([0.0, 3.0, 1.0, 7.0, 2.0])
    coords = step[:, None] * np.ones(d) / 3 + 1000.0 * np.arange(d)
    with pytest.raises(QhullError):
        Delaunay(coords)
    chain = {(0, 2), (2, 4), (4, 1), (1, 3)}
    assert edges(spatial_delaunay(coords, np.zeros(5, dtype=int))) == chain | {(b, a) for a, b in chain}


def test_delaunay_of_a_plane_in_space():
    flat = np.random.default_rng(0).random((50, 2))
    tilted = np.column_stack([flat, np.zeros(50)]) @ rotation(3)
    section = np.zeros(50, dtype=int)
    assert edges(spatial_delaunay(tilted, section)) == edges(spatial_delaunay(flat, section))


def test_delaunay_links_a_duplicate_to_its_twin_alone():
    coords = np.array([[0.0, 0], [2, 0], [0, 2], [2, 2], [0.9, 1], [0.9, 1]])
    graph = spatial_delaunay(coords, np.zeros(6, dtype=int))
    assert sorted(graph.degree[4:].tolist()) == [1, 5]
    assert {(4, 5), (5, 4)} <= edges(graph)


@pytest.mark.parametrize("rings", [1, 2, 3])
@pytest.mark.parametrize(("kind", "grid", "factor"), [("square", square_grid, 2), ("hexagonal", hexagonal_grid, 3)])
def test_inner_spots_have_the_closed_form_count(kind, grid, factor, rings):
    coords = lattice(kind, 11)
    graph = grid(coords, np.zeros(121, dtype=int), rings)
    assert graph.degree[60] == factor * rings * (rings + 1)
    assert graph.degree.max() == graph.degree[60]
    assert graph.degree[0] < graph.degree[60]


@pytest.mark.parametrize(
    ("kind", "grid", "edge_count"),
    [
        # Undirected edges of a side x side lattice: rows and columns; and, between rows, both diagonals.
        ("square", square_grid, lambda s: 2 * s * (s - 1)),
        ("hexagonal", hexagonal_grid, lambda s: s * (s - 1) + (s - 1) * (2 * s - 1)),
    ],
)
def test_grid_edges_in_closed_form(kind, grid, edge_count):
    for side in (2, 5, 9):
        graph = grid(lattice(kind, side), np.zeros(side**2, dtype=int))
        assert graph.indices.size == 2 * edge_count(side)


@pytest.mark.parametrize(("kind", "grid"), [("square", square_grid), ("hexagonal", hexagonal_grid)])
def test_grids_tolerate_jitter_rotation_and_pixel_units(kind, grid):
    coords = lattice(kind, 9)
    jitter = np.random.default_rng(0).uniform(-0.05, 0.05, coords.shape)
    section = np.zeros(81, dtype=int)
    assert edges(grid((coords + jitter) @ rotation(2) * 137.0, section)) == edges(grid(coords, section))


def test_each_section_has_its_own_pitch():
    coords = np.vstack([lattice("square", 5), 40 * lattice("square", 5)])
    graph = square_grid(coords, np.repeat([0, 1], 25))
    np.testing.assert_array_equal(graph.degree[:25], graph.degree[25:])


def test_the_pitch_is_that_of_places_not_of_spots():
    coords = np.repeat(lattice("square", 5), 2, axis=0)
    assert square_grid(coords, np.zeros(50, dtype=int)).degree[24] == 2 * 4 + 1


def test_rings_do_not_jump_over_holes():
    coords = np.array([[0.0, 0], [1, 0], [3, 0], [4, 0]])
    graph = square_grid(coords, np.zeros(4, dtype=int), rings=3)
    assert edges(graph) == {(0, 1), (1, 0), (2, 3), (3, 2)}
