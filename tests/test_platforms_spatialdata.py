"""SpatialData: a table in, the same table back among everything else, by spatialdata itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import folders
import stgnn
from refusals import refusal
from stgnn.cli import main
from stgnn.data.platforms import spatialdata as reader
from stgnn.data.schema import CoordinatesError, FileError

spatialdata = pytest.importorskip(
    "spatialdata", reason="spatialdata is not installed: pip install 'stgnn[spatialdata]'"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # of spatialdata's dependencies

REFERENCE, SECTION = folders.tissue()


def table_of(regions: list[str], *, places: bool = False) -> AnnData:
    """A table whose rows stand in another order than the instances that they are of."""
    from spatialdata.models import TableModel

    adata = AnnData(SECTION.X.copy(), var=SECTION.var.copy(), obs=pd.DataFrame(index=SECTION.obs_names))
    region = np.array(regions)[np.arange(SECTION.n_obs) % len(regions)]
    adata.obs["region"] = pd.Categorical(region)
    adata.obs["instance"] = 1000 + np.arange(SECTION.n_obs)
    if places:
        adata.obsm["spatial"] = SECTION.obsm["spatial"].copy()
    order = np.random.default_rng(4).permutation(SECTION.n_obs)
    return TableModel.parse(adata[order].copy(), region=regions, region_key="region", instance_key="instance")


def write(path, regions=("cells",), *, places: bool = False, more: bool = False):
    """A store with an image, circles in units of half a micrometre, and a table of them."""
    from spatialdata.models import Image2DModel, ShapesModel
    from spatialdata.transformations import Scale

    number = np.arange(SECTION.n_obs)
    shapes = {}
    for code, name in enumerate(regions):
        own = number[number % len(regions) == code]
        circles = ShapesModel.parse(
            SECTION.obsm["spatial"][own] * 2,
            geometry=0,
            radius=5.0,
            index=pd.Index(1000 + own),
            transformations={"global": Scale([0.5, 0.5], axes=("x", "y"))},
        )
        shapes[name] = circles
    pixels = np.random.default_rng(0).integers(0, 255, (3, 40, 60)).astype(np.uint8)
    tables = {"table": table_of(list(regions), places=places)}
    if more:
        tables["other"] = AnnData(np.eye(3, dtype=np.float32))
    sdata = spatialdata.SpatialData(images={"he": Image2DModel.parse(pixels)}, shapes=shapes, tables=tables)
    sdata.write(path)
    return path


@pytest.mark.parametrize("places", [True, False])
def test_round_trip_keeps_regions_instances_and_images(tmp_path, capsys, places):
    path, output = write(tmp_path / "in.zarr", places=places, more=True), tmp_path / "out.zarr"
    REFERENCE.write_h5ad(tmp_path / "reference.h5ad")
    query = path / "tables" / "table"
    words = ["annotate", query, "--reference", tmp_path / "reference.h5ad", "--output", output, "--method", "logistic"]
    words += ["--report", tmp_path / "report.html"]
    assert main(list(map(str, words))) == 0, capsys.readouterr().err
    before, after = spatialdata.read_zarr(path), spatialdata.read_zarr(output)
    old, new = before.tables["table"], after.tables["table"]
    pd.testing.assert_series_equal(old.obs["instance"], new.obs["instance"])
    pd.testing.assert_series_equal(old.obs["region"], new.obs["region"])
    assert {k: str(v) for k, v in old.uns["spatialdata_attrs"].items()} == {
        k: str(v) for k, v in new.uns["spatialdata_attrs"].items()
    }
    np.testing.assert_array_equal(before.images["he"].data.compute(), after.images["he"].data.compute())
    assert before.shapes["cells"].equals(after.shapes["cells"])
    assert set(after.tables) == {"table", "other"}
    truth = SECTION.obs["cell_type"].astype(str)[new.obs_names]
    assert (new.obs["stgnn"].astype(str) == truth).mean() > 0.6
    assert (new.X != old.X).nnz == 0
    assert "stgnn" not in old.obs
    again = stgnn.read(output / "tables" / "table")
    np.testing.assert_allclose(again.obsm["spatial"], SECTION[again.obs_names].obsm["spatial"])


def test_centres_lie_in_the_shared_space_and_regions_are_sections(tmp_path):
    adata = stgnn.read(write(tmp_path / "in.zarr", ("left", "right")))
    np.testing.assert_allclose(adata.obsm["spatial"], SECTION[adata.obs_names].obsm["spatial"])
    assert adata.obs["section"].astype(str).tolist() == adata.obs["region"].astype(str).tolist()
    assert adata.uns["stgnn_source"]["section_key"] == "section"
    assert "unit" not in adata.uns["stgnn_source"]
    assert any("pass um_per_unit" in sentence for sentence in adata.uns["stgnn_source"]["notes"])


def test_labels_are_regions_too(tmp_path):
    from spatialdata.models import Labels2DModel, TableModel

    labels = np.zeros((40, 60), dtype=np.int64)
    labels[4:9, 10:21], labels[20:31, 40:43] = 5, 9
    table = AnnData(SECTION.X[:2].copy(), var=SECTION.var.copy(), obs=pd.DataFrame(index=["a", "b"]))
    table.obs["region"], table.obs["label"] = pd.Categorical(["nuclei"] * 2), [9, 5]
    table = TableModel.parse(table, region="nuclei", region_key="region", instance_key="label")
    sdata = spatialdata.SpatialData(labels={"nuclei": Labels2DModel.parse(labels)}, tables={"table": table})
    sdata.write(tmp_path / "in.zarr")
    places = stgnn.read(tmp_path / "in.zarr").obsm["spatial"]
    np.testing.assert_allclose(places - places[1], [[26, 19], [0, 0]])


def test_a_result_as_h5ad_keeps_the_link(tmp_path):
    path = write(tmp_path / "in.zarr")
    adata = stgnn.read(path)
    adata.write_h5ad(tmp_path / "out.h5ad")
    back = stgnn.read(tmp_path / "out.h5ad")
    assert back.uns["spatialdata_attrs"]["instance_key"] == "instance"


def test_a_table_has_to_be_chosen_among_several(tmp_path):
    path = write(tmp_path / "in.zarr", more=True)
    message = refusal(FileError, stgnn.read, path)
    assert "2 in" in message and "pass one, as in.zarr/tables/" in message
    assert "no table 'tabel'" in refusal(FileError, stgnn.read, path / "tables" / "tabel")


def test_what_is_damaged_or_missing_is_named(tmp_path, capsys):
    path = write(tmp_path / "in.zarr")
    (path / "zarr.json").write_text("{")
    assert "in.zarr" in refusal(FileError, stgnn.read, path)
    sdata = spatialdata.read_zarr(write(tmp_path / "b.zarr"))
    table = sdata.tables["table"]
    with pytest.raises(CoordinatesError, match="1 of 120 without one"):
        instance = table.obs["instance"].copy()
        instance.iloc[0] = 7
        reader._centres(sdata, table.obs["region"].astype(str), instance)


def test_an_output_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    path = write(tmp_path / "in.zarr")
    adata = stgnn.read(path)
    adata.uns["wrong"] = object()
    refusal(FileError, reader.write, adata, tmp_path / "out.zarr", path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.zarr"]
