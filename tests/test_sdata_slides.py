"""SpatialData: places by way of its coordinate systems, on stand-ins with the few attributes that are read."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from refusals import refusal
from stgnn.data.schema import CoordinatesError, FileError, InputError, OptionError
from stgnn.data.slides import read_slide

WIDTH, HEIGHT, MPP = 300, 200, 2.0
KINDS = {"squares": {}, "circles": {"radius": 8.0}}


class Affine:
    def __init__(self, scale: float, x: float = 0.0, y: float = 0.0) -> None:
        self.matrix = np.array([[scale, 0, x], [0, scale, y], [0, 0, 1]])

    def to_affine_matrix(self, input_axes, output_axes):
        assert input_axes == output_axes == ("x", "y")
        return self.matrix


class Shapes:
    """What is read of a GeoDataFrame: squares of side 16, or circles, at x and y."""

    def __init__(self, x, y, names, spaces, radius: float | None = None) -> None:
        self.index, self.spaces = pd.Index(names), spaces
        self.columns = ["geometry"] + (["radius"] if radius else [])
        area = np.full(len(x), 0.0 if radius else 16.0**2)
        self.geometry = SimpleNamespace(centroid=SimpleNamespace(x=np.asarray(x), y=np.asarray(y)), area=area)


class Raster:
    """What is read of an image of one scale."""

    def __init__(self, data, spaces) -> None:
        self.data, self.spaces = data, spaces

    def transpose(self, *axes):
        assert axes == ("c", "y", "x")
        return self


def picture() -> np.ndarray:
    pixels = np.full((3, HEIGHT, WIDTH), 240, dtype=np.uint8)
    pixels[:, 20:180, 30:270] = np.array([175, 95, 165])[:, None, None]
    return pixels


def made(kind: str = "squares", image=None) -> SimpleNamespace:
    """SpatialData whose shapes are told in units of half a pixel, shifted, and whose table has an order of its own."""
    row, column = np.divmod(np.arange(60), 12)
    names = np.arange(60) + 100
    shapes = Shapes(
        16.0 * column + 80, 16.0 * row + 60, names, {"global": Affine(0.5, 10, 5)}, KINDS[kind].get("radius")
    )
    order = np.random.default_rng(0).permutation(60)[:50]
    table = AnnData(sp.csr_matrix(np.random.default_rng(1).poisson(2.0, (50, 5)).astype(np.float32)))
    table.obs["region"], table.obs["instance"] = pd.Categorical(["bins"] * 50), names[order]
    table.uns["spatialdata_attrs"] = {"region": "bins", "region_key": "region", "instance_key": "instance"}
    image = image or Raster(picture(), {"global": Affine(1.0), "other": Affine(3.0)})
    sdata = SimpleNamespace(tables={"table": table}, shapes={"bins": shapes}, images={"he": image}, path=None)
    sdata.expected = np.column_stack([8.0 * column + 50, 8.0 * row + 35])[order] * MPP
    return sdata


@pytest.fixture(autouse=True)
def spatialdata(monkeypatch):
    """The one function of the package that is called."""
    transformations = ModuleType("spatialdata.transformations")
    transformations.get_transformation = lambda element, get_all: element.spaces
    monkeypatch.setitem(sys.modules, "spatialdata", ModuleType("spatialdata"))
    monkeypatch.setitem(sys.modules, "spatialdata.transformations", transformations)


def test_squares_are_read_by_way_of_a_shared_space():
    sdata = made()
    slide = read_slide(sdata, mpp=MPP)
    np.testing.assert_allclose(slide.places, sdata.expected)
    assert (slide.width_um, slide.round, slide.name) == (16.0, False, "bins")
    assert (slide.counts != sdata.tables["table"].X).nnz == 0
    assert (slide.image.width, slide.image.height) == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(slide.image.region(40, 20, 60, 40), picture()[:, 10:30, 20:50].transpose(1, 2, 0))
    assert slide.in_tissue.all()
    assert "spatial" not in sdata.tables["table"].obsm


def test_the_width_of_spots_is_asked_for():
    assert "55 for Visium" in refusal(OptionError, read_slide, made("circles"), mpp=MPP)
    slide = read_slide(made("circles"), "he", mpp=MPP, width_um=16.0, patient="P")
    assert (slide.width_um, slide.round, slide.patient) == (16.0, True, "P")


def test_images_of_several_scales_are_read_at_the_fitting_one():
    levels = [SimpleNamespace(data_vars={"image": Raster(picture()[:, ::k, ::k], {})}) for k in (1, 4)]
    image = SimpleNamespace(children={"scale0": levels[0], "scale1": levels[1]}, spaces={"global": Affine(1.0)})
    slide = read_slide(made(image=image), mpp=MPP)
    assert [level.scale for level in slide.image.pixels.levels] == [1, 4]
    assert slide.image.region(0, 0, 600, 400, mpp=8.0).shape == (50, 75, 3)


def test_what_is_missing_or_ambiguous_is_named():
    assert "SpatialData does not tell; pass mpp=" in refusal(InputError, read_slide, made())
    assert "he" in refusal(InputError, read_slide, made(), "hee", mpp=MPP)
    sdata = made()
    sdata.images["cytassist"] = sdata.images["he"]
    assert "the name of an image" in refusal(InputError, read_slide, sdata, mpp=MPP)
    sdata = made()
    sdata.tables["square_016um"] = sdata.tables["table"]
    assert "2 tables: square_016um, table" in refusal(InputError, read_slide, sdata, mpp=MPP)
    assert read_slide(sdata, mpp=MPP, width_um=16).width_um == 16
    assert "with which they are 8 um wide" in refusal(InputError, read_slide, made(), mpp=1.0, width_um=16)
    sdata = made()
    sdata.tables["table"].obs["instance"] += 55
    assert "of 50 without one" in refusal(CoordinatesError, read_slide, sdata, mpp=MPP)
    sdata = made(image=Raster(picture(), {"elsewhere": Affine(1.0)}))
    assert "global for the shapes and elsewhere for the image" in refusal(CoordinatesError, read_slide, sdata, mpp=MPP)
    sdata = made()
    sdata.tables["table"].uns["spatialdata_attrs"]["region"] = ["bins", "others"]
    assert "one region" in refusal(InputError, read_slide, sdata, mpp=MPP)
    sdata = made()
    sdata.tables["table"].uns["spatialdata_attrs"]["region"] = "bin"
    assert "did you mean 'bins'?" in refusal(InputError, read_slide, sdata, mpp=MPP)
    sdata = made(image=Raster(picture().astype(np.uint16), {"global": Affine(1.0)}))
    assert "8 bits" in refusal(FileError, read_slide, sdata, mpp=MPP)


def test_a_folder_of_spatialdata_is_known_and_opened(tmp_path, monkeypatch):
    (tmp_path / "slide.zarr" / "images").mkdir(parents=True)
    sys.modules["spatialdata"].read_zarr = lambda path: made()
    assert len(read_slide(tmp_path / "slide.zarr", mpp=MPP)) == 50

    def damaged(path):
        raise KeyError("no such group")

    sys.modules["spatialdata"].read_zarr = damaged
    assert "cannot be read (KeyError" in refusal(FileError, read_slide, tmp_path / "slide.zarr", mpp=MPP)
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    assert "pip install 'stgnn[spatialdata]'" in refusal(InputError, read_slide, tmp_path / "slide.zarr", mpp=MPP)


def test_features_of_an_image_that_is_no_file_are_kept(tmp_path):
    from stgnn.data.images import digest_of
    from stgnn.encoders import extract

    slide = read_slide(made(), mpp=MPP)
    first = extract(slide.image, slide.places[:4], cache=tmp_path)
    np.testing.assert_array_equal(extract(slide.image, slide.places[:4], cache=tmp_path), first)
    darker = Raster(picture() // 2, {"global": Affine(1.0), "other": Affine(3.0)})
    other = read_slide(made(image=darker), mpp=MPP)
    assert other.image.path == slide.image.path
    assert digest_of(other.image) != digest_of(slide.image)
    assert not np.array_equal(extract(other.image, slide.places[:4], cache=tmp_path), first)
