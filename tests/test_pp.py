"""Graphs on AnnData: squidpy's keys, one section at a time, and errors that help."""

import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest

import stgnn.pp
from stgnn.data.schema import CoordinatesError, OptionError

WAYS = {
    "knn": (lambda adata, **where: stgnn.pp.knn_graph(adata, 4, **where), {"n_neighbors": 4}),
    "radius": (lambda adata, **where: stgnn.pp.radius_graph(adata, 0.3, **where), {"radius": 0.3}),
    "delaunay": (lambda adata, **where: stgnn.pp.delaunay_graph(adata, 0.5, **where), {"max_length": 0.5}),
    "square_grid": (lambda adata, **where: stgnn.pp.square_grid_graph(adata, 2, **where), {"n_rings": 2}),
    "hexagonal_grid": (lambda adata, **where: stgnn.pp.hexagonal_grid_graph(adata, 2, **where), {"n_rings": 2}),
}


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    return anndata.AnnData(
        np.ones((60, 2), dtype=np.float32),
        obs=pd.DataFrame({"slide": np.repeat(["s10", "s2"], 30)}, index=[f"cell{i}" for i in range(60)]),
        obsm={"spatial": rng.random((60, 2)), "flat": np.ones((60, 1))},
    )


@pytest.mark.parametrize("way", WAYS)
def test_keys_and_values(way, adata):
    write, parameters = WAYS[way]
    assert write(adata, section_key="slide") is None
    connectivities, distances = adata.obsp["spatial_connectivities"], adata.obsp["spatial_distances"]
    listener, heard = distances.nonzero()
    coords = adata.obsm["spatial"]
    assert len(listener) > 60
    np.testing.assert_allclose(
        distances[listener, heard].A1, np.linalg.norm(coords[listener] - coords[heard], axis=1), rtol=1e-6
    )
    assert set(connectivities.data.tolist()) == {1.0}
    np.testing.assert_array_equal(connectivities.toarray() > 0, distances.toarray() > 0)
    assert np.all((listener < 30) == (heard < 30))
    assert adata.uns["spatial_neighbors"] == {
        "connectivities_key": "spatial_connectivities",
        "distances_key": "spatial_distances",
        "params": {
            "method": way,
            "coord_type": "grid" if "grid" in way else "generic",
            **parameters,
            "section_key": "slide",
        },
    }


@pytest.mark.parametrize("way", WAYS)
def test_without_sections_all_cells_are_one(way, adata):
    write, _ = WAYS[way]
    write(adata)
    assert adata.obsp["spatial_distances"][:30, 30:].nnz > 0
    assert "section_key" not in adata.uns["spatial_neighbors"]["params"]


@pytest.mark.parametrize("way", WAYS)
def test_copy_writes_nothing(way, adata):
    write, _ = WAYS[way]
    untouched = adata.copy()
    connectivities, distances = write(adata, copy=True)
    assert not adata.obsp and not adata.uns
    np.testing.assert_array_equal(adata.obsm["spatial"], untouched.obsm["spatial"])
    write(adata, key_added="other")
    assert (adata.obsp["other_connectivities"] != connectivities).nnz == 0
    assert (adata.obsp["other_distances"] != distances).nnz == 0
    assert set(adata.obsp) == {"other_connectivities", "other_distances"}
    assert set(adata.uns) == {"other_neighbors"}


def test_survives_a_file(adata, tmp_path):
    stgnn.pp.delaunay_graph(adata)
    adata.write_h5ad(tmp_path / "graph.h5ad")
    back = anndata.read_h5ad(tmp_path / "graph.h5ad")
    assert (back.obsp["spatial_distances"] != adata.obsp["spatial_distances"]).nnz == 0
    assert back.uns["spatial_neighbors"] == adata.uns["spatial_neighbors"]


def test_coordinates_may_be_a_table(adata):
    stgnn.pp.knn_graph(adata, 4)
    adata.obsm["table"] = pd.DataFrame(adata.obsm["spatial"], index=adata.obs_names, columns=["x", "y"])
    _, distances = stgnn.pp.knn_graph(adata, 4, spatial_key="table", copy=True)
    assert (distances != adata.obsp["spatial_distances"]).nnz == 0


def test_neighbours_at_one_place_are_connected(adata):
    adata.obsm["spatial"][1] = adata.obsm["spatial"][0]
    stgnn.pp.knn_graph(adata, 4)
    assert adata.obsp["spatial_connectivities"][0, 1] == 1
    assert adata.obsp["spatial_connectivities"].nnz == adata.obsp["spatial_distances"].nnz == 240


@pytest.mark.parametrize("way", WAYS)
def test_missing_or_broken_coordinates(way, adata):
    write, _ = WAYS[way]
    with pytest.raises(CoordinatesError, match=r"spatial_key: expected .* found no key 'spatail'"):
        write(adata, spatial_key="spatail")
    with pytest.raises(CoordinatesError, match="2 or 3"):
        write(adata, spatial_key="flat")
    adata.obsm["spatial"][7, 1] = np.nan
    with pytest.raises(CoordinatesError, match="1 of 60"):
        write(adata)
    del adata.obsm["spatial"]
    with pytest.raises(CoordinatesError, match="no 'spatial'"):
        write(adata)
    assert not adata.obsp and not adata.uns


def test_missing_sections(adata):
    with pytest.raises(OptionError, match=r"section_key: expected .* did you mean 'slide'"):
        stgnn.pp.knn_graph(adata, section_key="slides")
    adata.obs["slide"] = adata.obs["slide"].where(np.arange(60) > 3)
    with pytest.raises(OptionError, match="4 cells without"):
        stgnn.pp.knn_graph(adata, section_key="slide")


@pytest.mark.parametrize(
    ("write", "argument"),
    [
        (stgnn.pp.knn_graph, "k"),
        (stgnn.pp.radius_graph, "radius"),
        (stgnn.pp.delaunay_graph, "max_length"),
        (stgnn.pp.square_grid_graph, "rings"),
        (stgnn.pp.hexagonal_grid_graph, "rings"),
    ],
)
def test_options_are_checked(write, argument, adata):
    for value in (0, -1):
        with pytest.raises(OptionError, match=f"^{argument}: expected a (whole )?number above 0; found {value}"):
            write(adata, value)


@pytest.mark.parametrize("write", [stgnn.pp.knn_graph, stgnn.pp.square_grid_graph, stgnn.pp.hexagonal_grid_graph])
def test_counts_are_whole_numbers(write, adata):
    with pytest.raises(OptionError, match=r"expected a whole number above 0; found 2\.5"):
        write(adata, 2.5)


def test_importing_the_front_door_is_light():
    program = "import sys, stgnn.pp; print(sorted({'numpy', 'scipy', 'anndata', 'torch'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
