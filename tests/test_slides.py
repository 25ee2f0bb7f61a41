"""Slides: places in micrometres on the image, counts that no step changes, and every misfit in one line."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from PIL import Image as pil

import stgnn.pl
from refusals import refusal
from stgnn.data.images import open_image
from stgnn.data.levels import assign
from stgnn.data.schema import CoordinatesError, CountsError, FileError, InputError, OptionError
from stgnn.data.slides import aggregate, grid_slide, read_slide, without_expression

WIDTH, HEIGHT, MPP = 600, 400, 2.0  # not square, so that a swap of x and y cannot pass
GENES = [f"Gene{i}" for i in range(12)]


def paint(path, box=(100, 60, 540, 340)):
    """Glass with tissue in a box of pixels (left, top, right, bottom)."""
    picture = pil.new("RGB", (WIDTH, HEIGHT), (241, 239, 242))
    picture.paste((175, 95, 165), box)
    picture.save(path)
    return path


def bins(rows: int = 10, columns: int = 20, turn: float = 0.0) -> AnnData:
    """Bins of 16 um on a grid, in pixels, from (130, 90) on; turned by an angle; with all that a slide may tell."""
    rng = np.random.default_rng(0)
    row, column = np.divmod(np.arange(rows * columns), columns)
    offset = 8.0 * np.column_stack([column, row])
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    adata = AnnData(sp.csr_matrix(rng.poisson(1.0, (rows * columns, len(GENES))).astype(np.float32)))
    adata.var_names, adata.obs_names = GENES, [f"bin{i}" for i in range(adata.n_obs)]
    adata.obs["array_row"], adata.obs["array_col"] = row, column
    adata.obs["total_all_genes"] = np.asarray(adata.X.sum(axis=1)).ravel() + 3.0
    adata.obs["slide"], adata.obs["patient"] = "slide 7", "patient 3"
    adata.obs["fold"] = pd.Categorical(np.where(column < 7, "0", "1"))
    adata.obs["guard_band"] = (column == 6) | (column == 7)
    adata.obsm["spatial"] = np.array([130.0, 90.0]) + offset @ matrix.T
    adata.uns["spatial"] = {
        "slide_7": {
            "images": {},
            "scalefactors": {"bin_size_um": 16.0, "tissue_hires_scalef": 1.0},
            "metadata": {"um_per_px": MPP, "width": WIDTH, "height": HEIGHT},
        }
    }
    return adata


@pytest.fixture
def files(tmp_path):
    """A ``.h5ad`` and its image beside it."""
    paint(tmp_path / "slide.png")
    bins().write_h5ad(tmp_path / "slide.h5ad")
    return tmp_path


def without(adata: AnnData, *keys: str) -> AnnData:
    for key in keys:
        for part in ("scalefactors", "metadata"):
            adata.uns["spatial"]["slide_7"][part].pop(key, None)
    return adata


# ---- what reading promises


def test_a_slide_holds_what_the_contract_says(files):
    adata, slide = bins(), read_slide(files / "slide.h5ad")
    assert (slide.name, slide.patient, slide.width_um, slide.round) == ("slide 7", "patient 3", 16.0, False)
    assert (slide.image.path, slide.image.mpp) == (files / "slide.png", MPP)
    np.testing.assert_array_equal(slide.places, adata.obsm["spatial"] * MPP)
    assert slide.counts.dtype == np.float32
    assert slide.counts.format == "csr"
    np.testing.assert_array_equal(slide.counts.toarray(), adata.X.toarray())
    np.testing.assert_array_equal(slide.total, adata.obs["total_all_genes"])
    assert slide.genes.tolist() == GENES
    assert slide.names.tolist() == adata.obs_names.tolist()
    np.testing.assert_array_equal(slide.block, adata.obs["fold"].astype(int))
    np.testing.assert_array_equal(slide.guard, adata.obs["guard_band"])
    np.testing.assert_array_equal(slide.grid, adata.obs[["array_row", "array_col"]])
    np.testing.assert_array_equal(slide.rows, np.arange(200))
    assert slide.in_tissue.all()
    assert len(slide) == 200
    assert slide.notes == ()


def test_in_memory_and_from_a_file_are_alike(files):
    adata = bins()
    read, made = read_slide(files / "slide.h5ad"), read_slide(adata, files / "slide.png")
    for field in dataclasses.fields(read):
        a, b = getattr(read, field.name), getattr(made, field.name)
        assert (a != b).nnz == 0 if sp.issparse(a) else np.array_equal(a, b)
    assert read_slide(adata, open_image(files / "slide.png", mpp=MPP)).image.path == read.image.path
    assert adata.obs.equals(bins().obs)


def test_what_a_file_does_not_tell_is_asked_for_or_left_open(files):
    adata = bins()
    adata.obs = adata.obs[[]]
    adata.uns = {}
    slide = read_slide(adata, files / "slide.png", mpp=MPP, width_um=20.0)
    assert (slide.name, slide.patient, slide.width_um, slide.round) == ("slide", "slide", 20.0, True)
    assert slide.total is None
    assert slide.grid is None
    assert (slide.block == -1).all()
    assert not slide.guard.any()
    named = read_slide(adata, files / "slide.png", mpp=MPP, width_um=20.0, name="A1", patient="A")
    assert (named.name, named.patient) == ("A1", "A")
    adata.write_h5ad(files / "other.h5ad")
    assert read_slide(files / "other.h5ad", files / "slide.png", mpp=MPP, width_um=20.0).name == "other"
    assert "which does not tell" in refusal(InputError, read_slide, adata, files / "slide.png", width_um=20.0)
    assert "55 for Visium" in refusal(OptionError, read_slide, adata, files / "slide.png", mpp=MPP)
    assert not read_slide(adata, files / "slide.png", mpp=MPP, width_um=16.0).round  # side by side as squares lie
    assert "the 16 um that" in refusal(OptionError, read_slide, files / "slide.h5ad", width_um=20.0)


def test_blocks_and_flags_may_be_written_in_several_ways(files):
    adata = bins()
    for kind in (int, str, float):
        adata.obs["fold"] = (np.arange(adata.n_obs) % 3 - 1).astype(kind)
        np.testing.assert_array_equal(read_slide(adata, files / "slide.png").block, np.arange(adata.n_obs) % 3 - 1)
    adata.obs["fold"] = pd.Series(["left", None] * 100, index=adata.obs_names, dtype=object)
    np.testing.assert_array_equal(read_slide(adata, files / "slide.png").block, [0, -1] * 100)
    adata.obs["in_tissue"] = ["True", "0"] * 100
    np.testing.assert_array_equal(read_slide(adata, files / "slide.png").in_tissue, [True, False] * 100)
    adata.obs["in_tissue"] = ["yes", "no"] * 100
    assert "true or false" in refusal(InputError, read_slide, adata, files / "slide.png")


def test_the_file_may_name_its_image(files):
    adata = bins()
    adata.uns["spatial"]["slide_7"]["metadata"]["image_file"] = "he.png"
    adata.write_h5ad(files / "named.h5ad")
    (files / "slide.png").rename(files / "he.png")
    assert read_slide(files / "named.h5ad").image.path.name == "he.png"
    message = refusal(FileError, read_slide, files / "slide.h5ad")
    assert "an image beside 'slide.h5ad'; found none of slide.jpg" in message
    assert "pass image=" in message


def test_tissue_is_told_by_the_image_and_by_the_source(files):
    paint(files / "half.png", (100, 60, 214, 340))
    slide = read_slide(bins(), files / "half.png")
    np.testing.assert_array_equal(slide.in_tissue, slide.places[:, 0] < 428)
    assert slide.notes == (
        "90 of 200 places lie off the tissue: draw stgnn.pl.slide to see whether they fit the image",
    )
    adata = bins()
    adata.obs["in_tissue"] = (np.arange(200) % 2).astype(int)
    np.testing.assert_array_equal(
        read_slide(adata, files / "half.png").in_tissue, slide.in_tissue & (slide.rows % 2 > 0)
    )


def test_counts_are_found_and_repeated_genes_summed(files):
    adata = bins()
    adata.var_names = ["Gene1", *GENES[1:]]
    adata.layers["counts"], adata.X = adata.X.copy(), adata.X.copy().log1p()
    slide = read_slide(adata, files / "slide.png")
    assert len(slide.genes) == 11
    assert slide.counts.sum() == adata.layers["counts"].sum()
    assert any("layers['counts']" in note for note in slide.notes)
    assert any("repeated gene name" in note for note in slide.notes)


# ---- what does not fit together


def test_places_outside_the_image_are_refused(files):
    adata = bins()
    adata.obsm["spatial"][:3, 0] += WIDTH
    message = refusal(CoordinatesError, read_slide, adata, files / "slide.png")
    assert "3 of 200 outside" in message
    adata = bins()
    adata.obsm["spatial"] = adata.obsm["spatial"][:, ::-1] + np.array([0, 250.0])
    assert "x and y look swapped" in refusal(CoordinatesError, read_slide, adata, files / "slide.png")


def test_an_image_of_another_size_or_scale_is_refused(files):
    pil.open(files / "slide.png").resize((300, 200)).save(files / "small.png")
    message = refusal(InputError, read_slide, bins(), files / "small.png")
    assert "600 x 400" in message
    assert "300 x 200 in 'small.png'" in message
    message = refusal(InputError, read_slide, bins(), files / "slide.png", mpp=1.0)
    assert "the 2 micrometres per pixel by uns['spatial']; found 1" in message
    assert refusal(InputError, read_slide, bins(), open_image(files / "slide.png", mpp=1.0)).startswith("mpp")
    assert read_slide(bins(), files / "slide.png", mpp=2.01).image.mpp == 2.01


def test_totals_below_their_counts_are_refused(files):
    adata = bins()
    adata.obs["total_all_genes"] = adata.obs["total_all_genes"].to_numpy() - 100.0 * (np.arange(200) < 2)
    assert "in 2 bins" in refusal(CountsError, read_slide, adata, files / "slide.png")


@pytest.mark.parametrize("column", ["slide", "patient"])
def test_several_slides_in_one_object_are_refused(files, column):
    adata = bins()
    adata.obs[column] = np.where(np.arange(200) < 50, "a", "b")
    assert f"2 in obs['{column}']: a, b" in refusal(InputError, read_slide, adata, files / "slide.png")
    adata = bins()
    adata.uns["spatial"]["other"] = {}
    assert "slide_7, other" in refusal(InputError, read_slide, adata, files / "slide.png")


def test_sources_that_are_none_are_refused(files):
    assert "found DataFrame" in refusal(InputError, read_slide, bins().obs, files / "slide.png")
    assert "pass image=" in refusal(InputError, read_slide, bins())
    refusal(FileError, read_slide, files / "missing.h5ad")
    refusal(FileError, read_slide, files / "slide.csv")
    adata = bins()
    del adata.obsm["spatial"]
    assert "spatial_key" in refusal(CoordinatesError, read_slide, adata, files / "slide.png")
    adata = bins()
    adata.obsm["spatial"][4] = np.nan
    assert "1 of 200" in refusal(CoordinatesError, read_slide, adata, files / "slide.png")
    adata = bins()
    adata.X = adata.X.log1p()
    assert "expected raw counts" in refusal(CountsError, read_slide, adata, files / "slide.png")


# ---- an image alone


def test_an_image_alone_gets_bins_on_its_tissue(files):
    slide = read_slide(files / "slide.png", mpp=MPP, width_um=40.0)
    assert slide.counts is slide.total is None
    assert len(slide.genes) == 0
    assert (slide.name, slide.patient, slide.width_um, slide.round) == ("slide", "slide", 40.0, False)
    assert len(slide) == 22 * 14  # 880 by 560 um of tissue
    np.testing.assert_array_equal(slide.places, (slide.grid[:, ::-1] + 0.5) * 40)
    assert (np.lexsort(slide.places.T) == np.arange(len(slide))).all()
    assert len(set(slide.names)) == len(slide)
    assert read_slide(files / "slide.png", mpp=MPP, width_um=40.0, patient="P").patient == "P"


def test_bins_over_nothing_are_refused(files):
    assert "pass width_um=16" in refusal(OptionError, read_slide, files / "slide.png", mpp=MPP)
    pil.new("RGB", (WIDTH, HEIGHT), (241, 239, 242)).save(files / "glass.png")
    glass = open_image(files / "glass.png", mpp=MPP)
    assert "found none in" in refusal(CoordinatesError, grid_slide, glass, 16.0)
    for width in (0, -1.0, float("nan"), True):
        assert refusal(OptionError, grid_slide, glass, width).startswith("bin_um")


def test_without_expression_nothing_of_it_is_left(files):
    slide = without_expression(read_slide(files / "slide.h5ad"))
    assert slide.counts is slide.total is None
    assert len(slide.genes) == 0
    assert len(slide) == 200
    assert "Gene" not in repr(slide)


# ---- coarser bins


@pytest.mark.parametrize("turn", [0.0, 0.05, -0.1])
@pytest.mark.parametrize("um", [16.0, 32.0, 40.0, 64.0, 1000.0])
def test_aggregation_keeps_every_count_and_every_bin(files, um, turn):
    slide = read_slide(bins(turn=turn), files / "slide.png")
    levels = assign(slide.places, um, slide.width_um, slide.grid)
    assert levels.operator.shape == (len(levels.places), len(slide))
    assert (levels.operator.sum(axis=0) == 1).all()
    assert (levels.operator.sum(axis=1) >= 1).all()
    coarse = aggregate(slide, um)
    np.testing.assert_array_equal(coarse.counts.toarray(), levels.operator.toarray() @ slide.counts.toarray())
    np.testing.assert_array_equal(coarse.counts.sum(axis=0), slide.counts.sum(axis=0))
    assert coarse.total.sum() == slide.total.sum()
    assert (np.lexsort(coarse.grid[:, ::-1].T) == np.arange(len(coarse))).all()
    distance = np.abs(slide.places - coarse.places[levels.parent]).max(axis=1)
    assert (distance <= um / 2 * (np.cos(turn) + abs(np.sin(turn))) + 1e-6).all()
    assert len(set(coarse.names)) == len(coarse)
    assert coarse.width_um == um


def test_squares_follow_a_turned_grid(files):
    slide = read_slide(bins(8, 20, turn=0.1), files / "slide.png")
    by_grid = assign(slide.places, 64.0, 16.0, slide.grid)
    assert (by_grid.operator.sum(axis=1) == 16).all()
    np.testing.assert_allclose(by_grid.places, by_grid.operator @ slide.places / 16, atol=1e-6)
    by_place = assign(slide.places, 64.0, 16.0)
    assert not (by_place.operator.sum(axis=1) == 16).all()


def test_spots_are_laid_by_place_since_they_do_not_fill_their_array(files):
    adata = without(bins(), "bin_size_um")
    slide = read_slide(adata, files / "slide.png", width_um=8.0)
    assert slide.round
    coarse = aggregate(slide, 32.0)
    assert not coarse.round
    assert coarse.counts.sum() == slide.counts.sum()
    assert len(coarse) == 50


def test_aggregation_twice_is_aggregation_once(files):
    slide = read_slide(files / "slide.h5ad")
    once, twice = aggregate(slide, 64.0), aggregate(aggregate(slide, 32.0), 64.0)
    np.testing.assert_array_equal(once.counts.toarray(), twice.counts.toarray())
    np.testing.assert_allclose(once.places, twice.places, atol=1e-6)


def test_blocks_that_meet_in_a_bin_make_it_a_guard(files):
    slide = read_slide(files / "slide.h5ad")
    coarse = aggregate(slide, 48.0)  # three bins wide: blocks part after the seventh column
    mixed = coarse.grid[:, 1] == 2
    assert (coarse.block[mixed] == -1).all()
    assert (coarse.guard == mixed).all()
    assert set(coarse.block[~mixed]) == {0, 1}


def test_a_coarse_bin_is_on_tissue_if_half_of_it_is(files):
    adata = bins()
    adata.obs["in_tissue"] = (adata.obs["array_col"] > 0).astype(int)
    coarse = aggregate(read_slide(adata, files / "slide.png"), 32.0)
    assert coarse.in_tissue.all()
    adata.obs["in_tissue"] = (adata.obs["array_col"] > 1).astype(int)
    coarse = aggregate(read_slide(adata, files / "slide.png"), 32.0)
    np.testing.assert_array_equal(coarse.in_tissue, coarse.grid[:, 1] > 0)


def test_finer_bins_than_there_are_are_refused(files):
    slide = read_slide(files / "slide.h5ad")
    for um in (8.0, 0.0, float("nan")):
        assert "at least the width of the bins, 16" in refusal(OptionError, aggregate, slide, um)


def test_slides_without_counts_have_levels_too(files):
    slide = without_expression(read_slide(files / "slide.h5ad"))
    coarse = aggregate(slide, 32.0)
    assert coarse.counts is coarse.total is None
    assert len(coarse) == 50


# ---- pictures


def test_the_picture_draws_bins_where_they_are(files):
    import matplotlib.pyplot as plt

    slide = read_slide(files / "slide.h5ad")
    ax = stgnn.pl.slide(slide)
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 1200), (800, 0))  # y downwards, as in the image
    paths = ax.collections[0].get_paths()
    assert len(paths) == 200
    np.testing.assert_allclose(paths[0].vertices[:4].mean(axis=0), slide.places[0])
    np.testing.assert_allclose(np.ptp(paths[0].vertices, axis=0), 16.0)
    assert ax.texts[0].get_text() == "200 um"
    many = dataclasses.replace(
        aggregate(slide, 16.0),
        **{name: np.repeat(getattr(slide, name), 20, axis=0) for name in ("places", "in_tissue", "guard")},
        round=True,
    )
    other = plt.figure().add_subplot()
    assert stgnn.pl.slide(many, other) is other
    assert len(other.collections[0].get_paths()) == 3000
    plt.close("all")


# ---- real slides


def test_a_real_slide_of_spots(data_folder):
    slide = read_slide(data_folder / "histology" / "her2_breast" / "B4.h5ad")
    assert (slide.name, slide.patient, len(slide), len(slide.genes)) == ("B4", "B", 283, 9614)
    assert (slide.width_um, slide.round) == (100.0, True)
    assert slide.in_tissue.mean() > 0.95
    assert (slide.total >= np.asarray(slide.counts.sum(axis=1)).ravel() - 0.5).all()
    nearest = np.sort(np.linalg.norm(slide.places[:, None] - slide.places[None], axis=2), axis=1)[:, 1]
    assert np.median(nearest) == pytest.approx(200, rel=0.02)  # the pitch of the array
    crop = slide.image.region(*(slide.places[0] - 56), 112, 112, mpp=0.5)
    assert crop.shape == (224, 224, 3)
    assert crop.mean() < 230


def test_a_real_slide_of_bins(data_folder):
    slide = read_slide(data_folder / "histology" / "kidney_visium_hd" / "bins_08um_crop.h5ad")
    assert (slide.name, slide.patient, len(slide), slide.width_um) == ("kidney_hd", "kidney1", 93369, 8.0)
    assert slide.in_tissue.mean() > 0.98
    assert set(slide.block) == {0, 1, 2, 3}
    coarse = aggregate(slide, 64.0)
    assert coarse.counts.sum(dtype=np.float64) == slide.counts.sum(dtype=np.float64)
    assert coarse.total.sum() == slide.total.sum()
    size = np.asarray(assign(slide.places, 64.0, 8.0, slide.grid).operator.sum(axis=1)).ravel()
    assert (size == 64).mean() > 0.97
