"""Space Ranger's folders: each layout it ever wrote, rows for y and columns for x, every misfit in one line."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from PIL import Image as pil

from refusals import refusal
from stgnn.data.images import open_image
from stgnn.data.schema import CoordinatesError, CountsError, FileError, InputError, OptionError
from stgnn.data.slides import read_slide
from stgnn.data.spaceranger import read_space_ranger
from stgnn.data.tenx import read_positions

WIDTH, HEIGHT = 1200, 900  # of the full-resolution image; not square, so that a swap of x and y cannot pass
MPP, HIRES = 0.8, 0.25
COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
GENES = [*(f"Gene{i}" for i in range(9)), "Gene3"]  # one symbol stands for two genes, as some do


def write_matrix(path, barcodes, antibodies: int = 0, seed: int = 0) -> np.ndarray:
    """Write a matrix of 10x (version 3): features by barcodes, by column; return it as barcodes by genes."""
    names = [*GENES, *(f"CD{i}" for i in range(antibodies))]
    counts = np.random.default_rng(seed).poisson(1.0, (len(barcodes), len(names)))
    matrix = sp.csc_matrix(counts.T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["shape"] = np.array(matrix.shape, dtype=np.int32)
        group["data"], group["indices"] = matrix.data.astype(np.int32), matrix.indices.astype(np.int64)
        group["indptr"] = matrix.indptr.astype(np.int64)
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i:011d}" for i in range(len(names))], dtype="S")
        features["name"] = np.array(names, dtype="S")
        kinds = ["Gene Expression"] * len(GENES) + ["Antibody Capture"] * antibodies
        features["feature_type"] = np.array(kinds, dtype="S")
    return counts[:, : len(GENES)]


def write_images(spatial, box) -> None:
    """Write the two smaller images; the full-resolution one lies beside ``outs``, as a user has it."""
    picture = pil.new("RGB", (WIDTH, HEIGHT), (241, 239, 242))
    picture.paste((175, 95, 165), box)
    picture.save(spatial.parent.parent / "he.png")
    for name, scale in (("hires", HIRES), ("lowres", 0.1)):
        size = round(WIDTH * scale), round(HEIGHT * scale)
        picture.resize(size).save(spatial / f"tissue_{name}_image.png")


def write_positions(spatial, table: pd.DataFrame, layout: str) -> None:
    if layout == "parquet":
        table.to_parquet(spatial / "tissue_positions.parquet", index=False)
    elif layout == "header":
        table.to_csv(spatial / "tissue_positions.csv", index=False)
    else:
        table.to_csv(spatial / "tissue_positions_list.csv", index=False, header=False)


def visium(folder, layout: str = "header", antibodies: int = 0, **factors):
    """Write ``outs`` of Visium: 8 rows of 8 spots, 100 um apart; two are off the tissue and not in the matrix."""
    spatial = folder / "outs" / "spatial"
    spatial.mkdir(parents=True)
    row, half = np.divmod(np.arange(64), 8)
    column = 2 * half + row % 2
    x, y = (60 + 50 * column) / MPP, (80 + 50 * np.sqrt(3) * row) / MPP
    barcodes = [f"SPOT{i:03d}-1" for i in range(64)]
    on = np.arange(64) >= 2
    table = pd.DataFrame(
        dict(zip(COLUMNS, [barcodes, on.astype(int), row, column, np.rint(y).astype(int), np.rint(x).astype(int)]))
    )
    write_positions(spatial, table, layout)
    told = {"spot_diameter_fullres": 65 / MPP, "tissue_hires_scalef": HIRES, "tissue_lowres_scalef": 0.1, **factors}
    (spatial / "scalefactors_json.json").write_text(json.dumps({k: v for k, v in told.items() if v is not None}))
    write_images(spatial, (20, 30, WIDTH - 30, HEIGHT - 20))
    shuffled = np.random.default_rng(1).permutation(np.array(barcodes)[on])  # in an order of its own
    counts = write_matrix(folder / "outs" / "filtered_feature_bc_matrix.h5", shuffled, antibodies)
    return folder / "outs", table.set_index("barcode").loc[shuffled], counts


def visium_hd(folder, sizes=(8, 16)):
    """Write ``outs`` of Visium HD: squares of 16 um, mirrored as real ones are, and the same ground in 8 um."""
    tables = {}
    for size in sizes:
        square = folder / "outs" / "binned_outputs" / f"square_{size:03d}um"
        (square / "spatial").mkdir(parents=True)
        n_rows, n_columns = 320 // size, 480 // size
        row, column = np.divmod(np.arange(n_rows * n_columns), n_columns)
        x, y = (760 - size * (column + 0.5)) / MPP, (160 + size * (row + 0.5)) / MPP
        barcodes = [f"s_{size:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, column)]
        table = pd.DataFrame(dict(zip(COLUMNS, [barcodes, np.ones(len(row), dtype=int), row, column, y, x])))
        write_positions(square / "spatial", table, "parquet")
        factors = {"microns_per_pixel": MPP, "bin_size_um": float(size), "spot_diameter_fullres": size / MPP}
        factors |= {"tissue_hires_scalef": HIRES, "tissue_lowres_scalef": 0.1}
        (square / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
        write_images(square / "spatial", (20, 30, WIDTH - 30, HEIGHT - 20))
        (square.parent / "he.png").replace(folder / "he.png")
        write_matrix(square / "filtered_feature_bc_matrix.h5", barcodes)
        tables[size] = table.set_index("barcode")
    return folder / "outs", tables


# ---- Visium


@pytest.mark.parametrize("layout", ["header", "list", "parquet"])
def test_visium_is_read_in_every_layout(tmp_path, layout):
    outs, table, counts = visium(tmp_path, layout)
    slide = read_space_ranger(outs, tmp_path / "he.png")
    assert (len(slide), slide.width_um, slide.round) == (62, 55.0, True)
    assert slide.image.mpp == pytest.approx(MPP)
    np.testing.assert_allclose(slide.places[:, 0], table["pxl_col_in_fullres"] * MPP)
    np.testing.assert_allclose(slide.places[:, 1], table["pxl_row_in_fullres"] * MPP)
    assert slide.names.tolist() == table.index.tolist()
    np.testing.assert_array_equal(slide.grid, table[["array_row", "array_col"]])
    np.testing.assert_array_equal(slide.counts[:, slide.genes == "Gene1"].toarray().ravel(), counts[:, 1])
    np.testing.assert_array_equal(slide.counts[:, slide.genes == "Gene3"].toarray().ravel(), counts[:, [3, 9]].sum(1))
    np.testing.assert_array_equal(slide.total, counts.sum(axis=1))
    assert slide.in_tissue.all()
    assert (slide.name, slide.patient) == (tmp_path.name, tmp_path.name)
    assert slide.notes == ("counts of 1 repeated gene name summed",)


def test_the_front_door_reads_it_too(tmp_path):
    outs, _, _ = visium(tmp_path)
    slide = read_slide(outs, tmp_path / "he.png", name="A", patient="P")
    assert (slide.name, slide.patient, len(slide)) == ("A", "P", 62)
    np.testing.assert_array_equal(slide.places, read_slide(tmp_path, tmp_path / "he.png").places)


def test_places_are_the_same_on_the_smaller_images(tmp_path):
    outs, _, _ = visium(tmp_path)
    full = read_space_ranger(outs, tmp_path / "he.png")
    hires = read_space_ranger(outs, outs / "spatial" / "tissue_hires_image.png")
    lowres = read_space_ranger(outs, outs / "spatial" / "tissue_lowres_image.png")
    default = read_space_ranger(outs)
    for slide in (hires, lowres, default):
        np.testing.assert_array_equal(slide.places, full.places)
        assert slide.image.size_um == pytest.approx(full.image.size_um)
    assert hires.image.mpp == default.image.mpp == pytest.approx(MPP / HIRES)
    assert "tissue_hires_image.png, of 3.2 um a pixel" in default.notes[0]
    own = read_space_ranger(outs, open_image(tmp_path / "he.png", mpp=MPP))
    np.testing.assert_array_equal(own.places, full.places)
    assert "mpp" in refusal(InputError, read_space_ranger, outs, open_image(tmp_path / "he.png", mpp=3.2))


def test_a_smaller_image_under_another_name_does_not_pass(tmp_path):
    outs, _, _ = visium(tmp_path)
    (outs / "spatial" / "tissue_hires_image.png").rename(tmp_path / "image.png")
    assert "outside" in refusal(CoordinatesError, read_space_ranger, outs, tmp_path / "image.png")


def test_what_is_no_gene_is_left_out(tmp_path):
    outs, _, counts = visium(tmp_path, antibodies=3)
    slide = read_space_ranger(outs, tmp_path / "he.png")
    assert "3 features other than genes left out" in slide.notes
    assert slide.counts.sum() == slide.total.sum() == counts.sum()


def test_spots_off_tissue_by_the_table_are_off_tissue(tmp_path):
    outs, table, _ = visium(tmp_path)
    path = outs / "spatial" / "tissue_positions.csv"
    positions = pd.read_csv(path)
    positions.loc[positions["barcode"] == table.index[5], "in_tissue"] = 0
    positions.to_csv(path, index=False)
    slide = read_space_ranger(outs, tmp_path / "he.png")
    assert np.flatnonzero(~slide.in_tissue).tolist() == [5]


def test_the_scale_of_visium_follows_from_spots_of_65_um(tmp_path):
    outs, _, _ = visium(tmp_path, spot_diameter_fullres=55 / MPP)
    message = refusal(InputError, read_space_ranger, outs, tmp_path / "he.png")
    assert "by the 100 um between spots; pass mpp=" in message
    assert read_space_ranger(outs, tmp_path / "he.png", mpp=MPP).image.mpp == MPP


def test_a_scale_that_nobody_tells_is_asked_for(tmp_path):
    outs, _, _ = visium(tmp_path, spot_diameter_fullres=None)
    assert "pass mpp=" in refusal(InputError, read_space_ranger, outs, tmp_path / "he.png")
    assert read_space_ranger(outs, tmp_path / "he.png", mpp=MPP).image.mpp == MPP
    assert refusal(OptionError, read_space_ranger, outs, tmp_path / "he.png", mpp=-1.0).startswith("mpp")


def test_a_scale_that_contradicts_the_factors_is_refused(tmp_path):
    outs, _ = visium_hd(tmp_path)
    message = refusal(InputError, read_space_ranger, outs, tmp_path / "he.png", mpp=0.5, bin_um=8)
    assert "the 0.8 micrometres per pixel by scalefactors_json.json; found 0.5" in message


def test_spots_have_no_bin_size(tmp_path):
    outs, _, _ = visium(tmp_path)
    assert "None for the spots of Visium" in refusal(OptionError, read_space_ranger, outs, bin_um=8.0)


# ---- Visium HD


@pytest.mark.parametrize("size", [8, 16])
def test_every_bin_size_of_visium_hd_is_read(tmp_path, size):
    outs, tables = visium_hd(tmp_path)
    slide = read_slide(outs, tmp_path / "he.png", width_um=size)
    table = tables[size]
    assert (slide.width_um, slide.round, slide.image.mpp) == (float(size), False, MPP)
    np.testing.assert_allclose(slide.places, table[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy() * MPP)
    alone = read_space_ranger(outs / "binned_outputs" / f"square_{size:03d}um", tmp_path / "he.png")
    np.testing.assert_array_equal(alone.places, slide.places)
    assert alone.name == slide.name == tmp_path.name


def test_another_bin_size_is_summed_up(tmp_path):
    outs, _ = visium_hd(tmp_path)
    fine, coarse = (read_space_ranger(outs, tmp_path / "he.png", bin_um=um) for um in (8, 40))
    assert coarse.width_um == 40
    assert len(coarse) == 8 * 12
    assert coarse.counts.sum() == fine.counts.sum()
    wide = read_space_ranger(outs, tmp_path / "he.png", bin_um=64)
    by_sixteen = read_space_ranger(outs / "binned_outputs" / "square_016um", tmp_path / "he.png", bin_um=64)
    np.testing.assert_array_equal(wide.counts.toarray(), by_sixteen.counts.toarray())


def test_a_bin_size_has_to_be_chosen_and_to_fit(tmp_path):
    outs, _ = visium_hd(tmp_path)
    assert "one of 8, 16 micrometres, or a multiple; found None" in refusal(OptionError, read_space_ranger, outs)
    for um in (2, 12, 0.0):
        assert f"found {um:g}" in refusal(OptionError, read_space_ranger, outs, bin_um=um)


# ---- what is missing, damaged, or does not fit together


def test_barcodes_that_do_not_match_are_counted(tmp_path):
    outs, _, _ = visium(tmp_path)
    path = outs / "spatial" / "tissue_positions.csv"
    positions = pd.read_csv(path)
    positions[positions["barcode"] != "SPOT010-1"].to_csv(path, index=False)
    message = refusal(CoordinatesError, read_space_ranger, outs)
    assert "a place for each of the 62 barcodes of the matrix; found 1 not among the 63 barcodes" in message
    assert "'SPOT010-1'" in message
    positions["barcode"] = positions["barcode"].str.removesuffix("-1")
    positions.to_csv(path, index=False)
    assert "none of them among the 64" in refusal(CoordinatesError, read_space_ranger, outs)


def test_repeated_barcodes_are_refused(tmp_path):
    outs, table, _ = visium(tmp_path)
    path = outs / "spatial" / "tissue_positions.csv"
    positions = pd.read_csv(path)
    pd.concat([positions, positions[:3]]).to_csv(path, index=False)
    assert "3 repeated barcodes of 67" in refusal(CoordinatesError, read_space_ranger, outs)
    positions.to_csv(path, index=False)
    write_matrix(outs / "filtered_feature_bc_matrix.h5", [*table.index[:5], table.index[0]])
    assert "1 repeated barcode of 6" in refusal(CountsError, read_space_ranger, outs)


def test_tables_with_gaps_are_refused(tmp_path):
    outs, _, _ = visium(tmp_path)
    path = outs / "spatial" / "tissue_positions.csv"
    positions = pd.read_csv(path)
    positions.drop(columns="pxl_col_in_fullres").to_csv(path, index=False)
    assert "no pxl_col_in_fullres" in refusal(FileError, read_space_ranger, outs)
    positions["pxl_col_in_fullres"] = positions["pxl_col_in_fullres"].astype(object)
    positions.loc[:1, "pxl_col_in_fullres"] = ["left", None]
    positions.to_csv(path, index=False)
    assert "2 of 64 barcodes without" in refusal(CoordinatesError, read_space_ranger, outs)


@pytest.mark.parametrize("layout", ["header", "list", "parquet"])
def test_row_is_y_and_column_is_x_in_every_table(tmp_path, layout):
    outs, _, _ = visium(tmp_path, layout)
    table = read_positions(outs / "spatial")
    assert table.index[0] == "SPOT000-1"
    assert table["pxl_row_in_fullres"].max() < HEIGHT < WIDTH
    assert np.corrcoef(table["array_row"], table["pxl_row_in_fullres"])[0, 1] > 0.999
    assert np.corrcoef(table["array_col"], table["pxl_col_in_fullres"])[0, 1] > 0.999


@pytest.mark.parametrize(
    "name", ["filtered_feature_bc_matrix.h5", "spatial/tissue_positions.csv", "spatial/scalefactors_json.json"]
)
def test_files_that_are_missing_or_damaged_are_named(tmp_path, name):
    outs, _, _ = visium(tmp_path)
    path = outs / name
    path.write_bytes(b"\x00\xff no such thing")
    refusal(FileError, read_space_ranger, outs)
    path.unlink()
    assert path.name in refusal(FileError, read_space_ranger, outs)


def test_a_truncated_matrix_or_parquet_is_refused(tmp_path):
    outs, _, _ = visium(tmp_path, "parquet")
    for path in (outs / "filtered_feature_bc_matrix.h5", outs / "spatial" / "tissue_positions.parquet"):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert "cannot be read" in refusal(FileError, read_space_ranger, outs)
        path.write_bytes(whole)


def test_a_matrix_without_its_parts_is_refused(tmp_path):
    outs, _, _ = visium(tmp_path)
    with h5py.File(outs / "filtered_feature_bc_matrix.h5", "a") as file:
        file["matrix/indices"][0] = 99
    assert "cannot be read" in refusal(FileError, read_space_ranger, outs)
    with h5py.File(outs / "filtered_feature_bc_matrix.h5", "a") as file:
        del file["matrix/features"]
    assert "cannot be read" in refusal(FileError, read_space_ranger, outs)
    (outs / "filtered_feature_bc_matrix.h5").rename(outs / "raw_feature_bc_matrix.h5")
    assert "the raw one alone is not read" in refusal(FileError, read_space_ranger, outs)


def test_folders_that_are_none_are_refused(tmp_path):
    assert "neither in" in refusal(FileError, read_slide, tmp_path)
    assert "no folder" in refusal(FileError, read_space_ranger, tmp_path / "outs")
    outs, _, _ = visium(tmp_path)
    (outs / "spatial" / "tissue_hires_image.png").unlink()
    assert "pass image=" in refusal(InputError, read_space_ranger, outs)


def test_a_smaller_image_needs_its_factor(tmp_path):
    outs, _, _ = visium(tmp_path, tissue_hires_scalef=None)
    assert "tissue_hires_scalef" in refusal(InputError, read_space_ranger, outs)


def test_a_matrix_of_no_genes_is_refused(tmp_path):
    outs, _, _ = visium(tmp_path)
    with h5py.File(outs / "filtered_feature_bc_matrix.h5", "a") as file:
        file["matrix/features/feature_type"][...] = b"Antibody"
    assert "62 barcodes and 0 genes" in refusal(FileError, read_space_ranger, outs)


def test_without_pyarrow_one_line_says_what_to_install(tmp_path, monkeypatch):
    outs, _, _ = visium(tmp_path, "parquet")

    def missing(path):
        raise ImportError("no pyarrow")

    monkeypatch.setattr(pd, "read_parquet", missing)
    assert "pip install 'stgnn[histology]'" in refusal(InputError, read_space_ranger, outs)
