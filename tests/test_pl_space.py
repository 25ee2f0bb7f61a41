"""Plots of space and of imputation: composition along a line and by distance, neighbours, measured against imputed."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist

import stgnn.pl
import stgnn.pp
import stgnn.tl
from stgnn.data.cells import Prediction, read_query, write
from stgnn.data.schema import GenesError, InputError, OptionError
from stgnn.data.toy import toy
from stgnn.pl.neighbours import links

matplotlib.use("Agg")

TYPES = tuple(f"type {number}" for number in range(1, 6))


@pytest.fixture
def adata():
    _, query = toy(n_cells=400, random_state=3)
    proba = np.eye(5)[query.obs["cell_type"].cat.codes]
    write(query, read_query(query), Prediction(proba, proba, np.zeros(400), 0.5), TYPES)
    return query


def axes():
    return Figure().subplots()


def drawn(ax):
    """Share of each drawn type (bins, types), as heights of its steps."""
    return np.column_stack([patch.get_data().values - patch.get_data().baseline for patch in ax.patches])


def test_shares_along_a_line_are_those_of_the_cells_beside_it(adata):
    ax = stgnn.pl.composition_along(adata, (20.0, 30.0), (20.0, 130.0), width=60, n_bins=4, ax=axes())
    coords, types = adata.obsm["spatial"], np.asarray(adata.obs["stgnn"])
    table = drawn(ax)
    np.testing.assert_allclose(table.sum(axis=1), 100)
    for place in range(4):
        low = 30 + 25 * place
        here = (abs(coords[:, 0] - 20) <= 30) & (coords[:, 1] >= low) & (coords[:, 1] < low + 25)
        expected = [100 * np.mean(types[here] == name) for name in TYPES]
        np.testing.assert_allclose(table[place], expected)


def test_turning_the_tissue_and_the_line_changes_nothing(adata):
    line = np.array([[10.0, 20.0], [140.0, 160.0]])
    ax = stgnn.pl.composition_along(adata, *line, width=50, n_bins=7, ax=axes())
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    adata.obsm["spatial"] = adata.obsm["spatial"] @ turn.T + (500, -80)
    other = stgnn.pl.composition_along(adata, *(line @ turn.T + (500, -80)), width=50, n_bins=7, ax=axes())
    np.testing.assert_allclose(drawn(other), drawn(ax))


def test_a_bin_without_cells_is_a_gap(adata):
    adata.obsm["spatial"][adata.obsm["spatial"][:, 1] > 50, 1] += 1000
    ax = stgnn.pl.composition_along(adata, (100, 0), (100, 1100), n_bins=11, ax=axes())
    assert np.isnan(ax.patches[0].get_data().values[5])
    assert np.isfinite(ax.patches[0].get_data().values[[0, 10]]).all()


def test_lines_that_are_none_are_refused(adata):
    with pytest.raises(OptionError, match="end: expected another place"):
        stgnn.pl.composition_along(adata, (1, 1), (1, 1))
    with pytest.raises(OptionError, match="start: expected two finite numbers"):
        stgnn.pl.composition_along(adata, (1, np.nan), (1, 1))
    with pytest.raises(InputError, match="beside which cells lie"):
        stgnn.pl.composition_along(adata, (-900, 0), (-800, 0))
    with pytest.raises(OptionError, match="n_bins"):
        stgnn.pl.composition_along(adata, (0, 0), (9, 0), n_bins=0)


def test_shares_by_distance_agree_with_all_distances(adata):
    ax = stgnn.pl.composition_by_distance(adata, "type 2", furthest=60, n_bins=3, section_key="section", ax=axes())
    types, section = np.asarray(adata.obs["stgnn"]), np.asarray(adata.obs["section"])
    far = cdist(adata.obsm["spatial"], adata.obsm["spatial"])
    far[section[:, None] != section[None]] = np.inf
    far = far[:, types == "type 2"].min(axis=1)
    table, others = drawn(ax), [name for name in TYPES if name != "type 2"]
    for place in range(3):
        here = (far >= 20 * place) & (far < 20 * (place + 1)) & (types != "type 2")
        np.testing.assert_allclose(table[place], [100 * np.mean(types[here] == name) for name in others])


def test_distances_from_no_cells_are_refused(adata):
    with pytest.raises(OptionError, match="did you mean 'type 1'"):
        stgnn.pl.composition_by_distance(adata, "type1")
    with pytest.raises(InputError, match="other cells in its sections"):
        stgnn.pl.composition_by_distance(adata, "unknown")
    with pytest.raises(OptionError, match="furthest"):
        stgnn.pl.composition_by_distance(adata, "type 1", furthest=0)


def test_links_by_chance_are_as_the_closed_form_says():
    rng = np.random.default_rng(0)
    n = 60
    code = np.repeat([0, 1, 2], [30, 20, 10])
    row, column = np.array(sorted({(a, b) for a, b in rng.integers(0, n, (400, 2)) if a != b})).T
    number, mean, spread = links(code, row, column, np.zeros(n, dtype=int), 3000, 0)
    size = np.bincount(code).astype(float)
    expected = len(row) * (np.outer(size, size) - np.diag(size)) / (n * (n - 1))
    assert np.abs((mean - expected) / (spread / np.sqrt(3000))).max() < 4
    assert number.sum() == mean.sum().round(6) == len(row)
    for one in range(3):
        for other in range(3):
            assert number[one, other] == ((code[row] == one) & (code[column] == other)).sum()


def test_types_change_places_within_sections_only():
    # Each section has one type: no permutation within sections moves anything.
    code = section = np.repeat([0, 1], 20)
    row, column = np.arange(40), (np.arange(40) + 1) % 40
    number, mean, spread = links(code, row, column, section, 20, 0)
    np.testing.assert_array_equal(number, mean)
    assert not spread.any()
    assert links(code, row, column, np.zeros(40, dtype=int), 20, 0)[2].all()


def test_layers_lie_beside_themselves_and_shuffled_types_beside_all(adata):
    stgnn.pp.delaunay_graph(adata, section_key="section")
    score = stgnn.pl.neighbourhood_enrichment(adata, section_key="section", ax=axes()).images[0].get_array()
    np.testing.assert_allclose(score, score.T)  # as the graph is
    assert (np.diag(score)[:3] > 5).all()
    adata.obs["stgnn"] = adata.obs["stgnn"].to_numpy()[np.random.default_rng(1).permutation(400)]
    assert np.abs(stgnn.pl.neighbourhood_enrichment(adata, ax=axes()).images[0].get_array()).max() < 4.5


def test_a_graph_is_asked_for(adata):
    with pytest.raises(InputError, match=r"neighbors_key: .*run stgnn.pp.knn_graph first"):
        stgnn.pl.neighbourhood_enrichment(adata)
    stgnn.pp.knn_graph(adata, 6)
    with pytest.raises(OptionError, match="n_permutations"):
        stgnn.pl.neighbourhood_enrichment(adata, n_permutations=1)


def test_measured_and_imputed_are_on_one_scale():
    reference, query = toy(n_cells=150, n_genes=40)
    imputed = stgnn.tl.impute(query, reference, method="type-mean")
    counts, depth = query.X.toarray(), imputed.uns["stgnn_imputed"]["depth"]
    imputed.X = np.log1p(depth * counts / counts.sum(axis=1, keepdims=True))[
        :, query.var_names.get_indexer(imputed.var_names)
    ]
    ax = stgnn.pl.imputation(query, imputed, "Gene5", ax=axes())
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], points[:, 1], rtol=1e-5)
    assert ax.get_title().startswith("correlation 1.00")


def test_what_is_not_imputed_is_refused():
    reference, query = toy(n_cells=150, n_genes=40)
    imputed = stgnn.tl.impute(query, reference, method="type-mean")
    with pytest.raises(InputError, match="imputed: expected what stgnn"):
        stgnn.pl.imputation(query, query, "Gene5")
    with pytest.raises(InputError, match="the cells of adata"):
        stgnn.pl.imputation(query[::-1].copy(), imputed, "Gene5")
    with pytest.raises(GenesError, match=r"gene: .*did you mean 'Gene5'"):
        stgnn.pl.imputation(query, imputed, "Gene5x")
