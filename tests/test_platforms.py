"""Folders of each platform: read with every quirk, annotated end to end, refused in one line that names the file."""

from __future__ import annotations

import re
import shutil
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import folders
import stgnn
from refusals import refusal
from stgnn.cli import main
from stgnn.data import platforms
from stgnn.data.cells import align, read_query, read_reference
from stgnn.data.platforms import csvs
from stgnn.data.schema import CoordinatesError, CountsError, FileError, InputError, OptionError

REFERENCE, SECTION = folders.tissue()

# how to write a folder, and the platform that it must be read as
WRITERS = {
    "xenium": (folders.xenium, "10x Xenium"),
    "visium": (folders.visium, "10x Visium"),
    "visium hd": (folders.visium_hd, "10x Visium HD"),
    "merscope": (folders.merscope, "Vizgen MERSCOPE"),
    "cosmx": (folders.cosmx, "NanoString CosMx"),
    "slide-seq": (folders.slideseq, "Slide-seq"),
    "10x mtx": (folders.mtx, "10x matrix"),
    "loom": (lambda path, section: folders.loom(path.with_suffix(".loom"), section), "loom"),
    "stereo-seq": (lambda path, section: folders.stereoseq(path.with_suffix(".h5ad"), section), "Stereo-seq"),
}


def check_counts(adata: AnnData) -> None:
    """Counts of the section, whole, under its genes, in the order of its cells."""
    found = pd.DataFrame(adata.X.toarray(), columns=adata.var_names)[list(SECTION.var_names)]
    np.testing.assert_array_equal(found, folders.counts_of(SECTION))
    assert adata.X.format == "csr" and adata.X.dtype == np.float32


def notes_of(adata: AnnData) -> str:
    return "; ".join(adata.uns["stgnn_source"]["notes"])


@pytest.mark.parametrize("platform", WRITERS)
def test_each_platform_is_told_and_read(tmp_path, platform):
    write, name = WRITERS[platform]
    adata = stgnn.read(write(tmp_path / "run", SECTION))
    check_counts(adata)
    assert set(adata.var_names) == set(SECTION.var_names)
    assert adata.uns["stgnn_source"]["platform"] == name
    assert notes_of(adata).startswith(f"read as {name}")
    assert adata.obs_names.is_unique
    if platform in ("10x mtx", "loom"):
        assert "spatial" not in adata.obsm
    elif "visium" not in platform:
        np.testing.assert_allclose(adata.obsm["spatial"], SECTION.obsm["spatial"])
        assert adata.uns["stgnn_source"]["unit"] == "um"


@pytest.mark.parametrize("platform", WRITERS)
def test_a_folder_becomes_a_table_and_a_report(tmp_path, capsys, platform):
    path = WRITERS[platform][0](tmp_path / "run", SECTION)
    REFERENCE.write_h5ad(tmp_path / "reference.h5ad")
    output, report = tmp_path / "out.h5ad", tmp_path / "report.html"
    words = ["annotate", path, "--reference", tmp_path / "reference.h5ad", "--output", output, "--report", report]
    code = main([*map(str, words), "--method", "logistic"])
    assert code == 0, capsys.readouterr().err
    written = anndata.read_h5ad(output)
    assert written.n_obs == SECTION.n_obs
    assert (written.obs["stgnn"].astype(str) == SECTION.obs["cell_type"].astype(str).to_numpy()).mean() > 0.6
    assert "<svg" in report.read_text(encoding="utf-8") or "<img" in report.read_text(encoding="utf-8")
    assert f"read as {WRITERS[platform][1]}" in written.uns["stgnn"]["notes"]
    again = stgnn.read(output)  # what was read once is not scaled again
    assert again.uns["stgnn_source"]["path"] == str(path)
    if "spatial" in written.obsm:
        np.testing.assert_array_equal(again.obsm["spatial"], written.obsm["spatial"])


# ---- what is missing or damaged

FILES = [
    ("xenium", "cell_feature_matrix.h5"),
    ("xenium", "cells.parquet"),
    ("visium", "filtered_feature_bc_matrix.h5"),
    ("visium", "spatial/tissue_positions.csv"),
    ("visium", "spatial/scalefactors_json.json"),
    ("visium hd", "binned_outputs/square_008um/filtered_feature_bc_matrix.h5"),
    ("visium hd", "binned_outputs/square_008um/spatial/tissue_positions.parquet"),
    ("visium hd", "binned_outputs/square_008um/spatial/scalefactors_json.json"),
    ("merscope", "cell_by_gene.csv"),
    ("merscope", "cell_metadata.csv"),
    ("cosmx", "Slide1_exprMat_file.csv"),
    ("cosmx", "Slide1_metadata_file.csv"),
    ("slide-seq", "MappedDGEForR.csv"),
    ("slide-seq", "BeadLocationsForR.csv"),
    ("10x mtx", "matrix.mtx.gz"),
    ("10x mtx", "features.tsv.gz"),
    ("10x mtx", "barcodes.tsv.gz"),
]


def check_refused(path, name: str, folder, capsys) -> None:
    """One line on stderr that names the file, code 2, nothing written."""
    words = ["annotate", path, "--reference", folder / "reference.h5ad", "--output", folder / "out.h5ad"]
    code = main([*map(str, words), "--method", "logistic"])
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1, error
    assert re.match(r"query: expected .+; found .+", error), error
    kind = re.sub(r"^Slide1_|\.gz$", "", name.split("/")[-1])
    assert kind in error, error
    assert not (folder / "out.h5ad").exists()


@pytest.mark.parametrize(("platform", "name"), FILES)
def test_a_missing_file_is_named(tmp_path, capsys, platform, name):
    path = WRITERS[platform][0](tmp_path / "run", SECTION)
    REFERENCE.write_h5ad(tmp_path / "reference.h5ad")
    (path / name).unlink()
    check_refused(path, name, tmp_path, capsys)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.62, 0.9])
@pytest.mark.parametrize(("platform", "name"), [*FILES, ("xenium", "experiment.xenium")])
def test_a_truncated_file_is_named(tmp_path, capsys, platform, name, share):
    path = WRITERS[platform][0](tmp_path / "run", SECTION)
    REFERENCE.write_h5ad(tmp_path / "reference.h5ad")
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[: int(share * len(whole))])
    check_refused(path, name, tmp_path, capsys)


@pytest.mark.parametrize(("platform", "name"), [("merscope", "cell_by_gene.csv"), ("cosmx", "Slide1_exprMat_file.csv")])
def test_counts_that_end_within_or_after_a_row_are_told(tmp_path, platform, name):
    path = WRITERS[platform][0](tmp_path / "run", SECTION)
    lines = (path / name).read_text().splitlines(keepends=True)
    (path / name).write_text("".join(lines[:-1]) + lines[-1].strip())  # the last number may have gone on
    assert name in refusal(FileError, stgnn.read, path)
    (path / name).write_text("".join(lines[:-20]))
    assert re.search(f"20 of 120 cells in .+ are not in {name}", notes_of(stgnn.read(path)))


@pytest.mark.parametrize("platform", ["loom", "stereo-seq"])
def test_a_truncated_single_file_is_named(tmp_path, capsys, platform):
    path = WRITERS[platform][0](tmp_path / "run", SECTION)
    REFERENCE.write_h5ad(tmp_path / "reference.h5ad")
    path.write_bytes(path.read_bytes()[:3000])
    check_refused(path, path.name, tmp_path, capsys)
    path.unlink()
    check_refused(path, path.name, tmp_path, capsys)


def test_what_nobody_knows_is_told_what_is_known(tmp_path):
    message = refusal(FileError, stgnn.read, tmp_path)
    for name in ("10x Xenium", "cell_by_gene.csv", "*_exprMat_file.csv", "binned_outputs", "SpatialData", ".loom"):
        assert name in message
    assert "no file or folder" in refusal(FileError, stgnn.read, tmp_path / "none")
    assert refusal(FileError, platforms.read, tmp_path, "reference").startswith("reference: ")
    (tmp_path / "cells.csv").write_text("a,b\n")
    assert "another" in refusal(FileError, stgnn.read, tmp_path / "cells.csv")


def test_a_folder_of_folders_says_which_to_pass(tmp_path):
    folders.xenium(tmp_path / "output-region-1", SECTION)
    message = refusal(FileError, stgnn.read, tmp_path)
    assert message.endswith(f"pass {tmp_path / 'output-region-1'}")


def test_h5ad_and_zarr_are_read_as_they_are(tmp_path):
    REFERENCE.write_h5ad(tmp_path / "a.h5ad")
    adata = stgnn.read(tmp_path / "a.h5ad")
    assert (adata.X != REFERENCE.X).nnz == 0
    assert not adata.uns
    assert "no file" in refusal(FileError, stgnn.read, tmp_path / "b.h5ad")
    assert "no file" in refusal(FileError, stgnn.read, tmp_path / "b.zarr")


# ---- Xenium


def test_xenium_leaves_out_what_is_no_gene_and_says_so(tmp_path):
    adata = stgnn.read(folders.xenium(tmp_path / "run", SECTION))
    assert "7 features that are no genes left out" in notes_of(adata)
    assert "2 Negative Control Probe" in notes_of(adata) and "1 Genomic Control" in notes_of(adata)
    assert adata.var["gene_ids"]["Gene1"] == "ENSG00000000001"
    assert adata.obs_names[0] == "aaaa0000-1"
    assert adata.obs["segmentation_method"].str.startswith("Segmented by").all()
    source = adata.uns["stgnn_source"]
    assert (source["um_per_pixel"], source["region_name"]) == (0.2125, "Region_1")
    assert source["image"].endswith("morphology.ome.tif")


def test_xenium_is_read_without_pyarrow_by_its_csv(tmp_path, monkeypatch):
    path = folders.xenium(tmp_path / "run", SECTION)
    folders.xenium(tmp_path / "other", SECTION, cells="csv")
    monkeypatch.setattr(pd, "read_parquet", _no_pyarrow)
    assert "pip install 'stgnn[histology]'" in refusal(InputError, stgnn.read, path)
    shutil.copy(tmp_path / "other" / "cells.csv.gz", path)
    np.testing.assert_allclose(stgnn.read(path).obsm["spatial"], SECTION.obsm["spatial"])


def _no_pyarrow(path):
    raise ImportError("no pyarrow")


def test_xenium_needs_neither_experiment_nor_h5(tmp_path):
    path = folders.xenium(tmp_path / "run", SECTION, cells="csv")
    (path / "experiment.xenium").unlink()
    adata = stgnn.read(path)
    assert "no experiment.xenium" in notes_of(adata)
    np.testing.assert_allclose(adata.obsm["spatial"], SECTION.obsm["spatial"])
    (path / "cell_feature_matrix.h5").unlink()
    section = SECTION.copy()
    section.obs_names = [f"aaaa{i:04d}-1" for i in range(section.n_obs)]
    folders.mtx(path / "cell_feature_matrix", section)
    check_counts(stgnn.read(path))


def test_xenium_ids_that_are_numbers_stay_as_they_are(tmp_path):
    path = folders.xenium(tmp_path / "run", SECTION, cells="csv")
    ids = [str(10**18 + i) for i in range(SECTION.n_obs)]
    folders.write_10x(path / "cell_feature_matrix.h5", ids, folders.counts_of(SECTION), SECTION.var_names)
    table = pd.read_csv(path / "cells.csv.gz").sort_values("cell_id")
    table["cell_id"] = ids
    table.to_csv(path / "cells.csv.gz", index=False)
    adata = stgnn.read(path)
    assert adata.obs_names.tolist() == ids
    np.testing.assert_allclose(adata.obsm["spatial"], SECTION.obsm["spatial"])


def test_cells_without_a_place_are_counted(tmp_path):
    path = folders.xenium(tmp_path / "run", SECTION, cells="csv")
    table = pd.read_csv(path / "cells.csv.gz")
    table[:-2].to_csv(path / "cells.csv.gz", index=False)
    message = refusal(CoordinatesError, stgnn.read, path)
    assert "2 not among the 118 barcodes in cells.csv.gz" in message
    pd.concat([table, table[:1]]).to_csv(path / "cells.csv.gz", index=False)
    assert "1 repeat in 'cells.csv.gz'" in refusal(FileError, stgnn.read, path)
    table.drop(columns="y_centroid").to_csv(path / "cells.csv.gz", index=False)
    assert "no y_centroid in 'cells.csv.gz'" in refusal(FileError, stgnn.read, path)


# ---- Visium


@pytest.mark.parametrize("positions", ["header", "list"])
def test_visium_is_in_micrometres(tmp_path, positions):
    outs = folders.visium(tmp_path / "run", SECTION, positions)
    for path in (outs, outs.parent):
        adata = stgnn.read(path)
        step = np.diff(adata.obsm["spatial"][10:22], axis=0)
        np.testing.assert_allclose(step, np.broadcast_to([100.0, 0.0], step.shape), atol=0.6)
        assert adata.obs["in_tissue"].eq(1).all()
        assert adata.uns["stgnn_source"]["um_per_pixel"] == pytest.approx(2.0)


@pytest.mark.parametrize("size", [2, 8, 16])
def test_every_bin_size_of_visium_hd_is_read(tmp_path, size):
    outs = folders.visium_hd(tmp_path / "run", SECTION)
    adata = stgnn.read(outs / "binned_outputs" / f"square_{size:03d}um")
    check_counts(adata)
    np.testing.assert_allclose(adata.obsm["spatial"][13], [1.5 * size, 1.5 * size])


def test_visium_hd_says_what_else_there_is(tmp_path):
    outs = folders.visium_hd(tmp_path / "run", SECTION)
    adata = stgnn.read(outs)
    np.testing.assert_allclose(adata.obsm["spatial"][0], [4, 4])
    said = "square_008um read; pass binned_outputs/square_002um or binned_outputs/square_016um or segmented_outputs"
    assert said in notes_of(adata)
    shutil.rmtree(outs / "binned_outputs" / "square_008um")
    assert "square_002um read" in notes_of(stgnn.read(outs))
    shutil.rmtree(outs / "binned_outputs")
    np.testing.assert_allclose(stgnn.read(outs).obsm["spatial"], SECTION.obsm["spatial"])


@pytest.mark.parametrize(
    "name", ["filtered_feature_cell_matrix.h5", "cell_segmentations.geojson", "spatial/scalefactors_json.json"]
)
def test_segmented_cells_lie_at_their_centres(tmp_path, capsys, name):
    cells = folders.visium_hd(tmp_path / "run", SECTION) / "segmented_outputs"
    adata = stgnn.read(cells)
    check_counts(adata)
    np.testing.assert_allclose(adata.obsm["spatial"], SECTION.obsm["spatial"])
    assert adata.obs_names[0] == "cellid_000000003-1"
    REFERENCE.write_h5ad(tmp_path / "reference.h5ad")
    whole = (cells / name).read_bytes()
    (cells / name).write_bytes(whole[: len(whole) // 2])
    check_refused(cells, name, tmp_path, capsys)
    (cells / name).unlink()
    check_refused(cells, name, tmp_path, capsys)


# ---- MERSCOPE


def test_merscope_ids_stay_whole_and_blanks_are_counted(tmp_path):
    adata = stgnn.read(folders.merscope(tmp_path / "run", SECTION))
    assert adata.obs_names[1] == "1108000000000000002"
    assert "3 features that are no genes left out: 3 Blank" in notes_of(adata)
    assert adata.obs["volume"].eq(512.25).all()


def test_ids_are_texts_not_numbers(tmp_path):
    path = folders.merscope(tmp_path / "run", SECTION, first=1000)
    for name in ("cell_by_gene.csv", "cell_metadata.csv"):
        (path / name).write_text(re.sub(r"^1", "001", (path / name).read_text(), flags=re.M))
    assert stgnn.read(path).obs_names[2] == "001002"


def test_a_row_with_a_gap_is_told(tmp_path):
    path = folders.merscope(tmp_path / "run", SECTION)
    lines = (path / "cell_by_gene.csv").read_text().splitlines()
    lines[5] = ",".join(lines[5].split(",")[:-3])
    (path / "cell_by_gene.csv").write_text("\n".join(lines) + "\n")
    assert "row 5 has fewer values than the 64 columns" in refusal(FileError, stgnn.read, path)


def test_merscope_tells_where_its_image_lies(tmp_path):
    path = folders.merscope(tmp_path / "run", SECTION)
    source = stgnn.read(path).uns["stgnn_source"]
    assert source["image"].endswith("mosaic_DAPI_z1.tif")
    assert source["um_per_pixel"] == pytest.approx(1 / 9.25)
    np.testing.assert_allclose(source["image_origin_um"], [20, -40])
    transform = path / "images" / "micron_to_mosaic_pixel_transform.csv"
    transform.write_text("9.25 0")
    assert transform.name in refusal(FileError, stgnn.read, path)
    transform.unlink()
    assert "image" not in stgnn.read(path).uns["stgnn_source"]


def test_merscope_of_later_versions_names_its_first_column(tmp_path):
    path = folders.merscope(tmp_path / "run", SECTION)
    for name in ("cell_by_gene.csv", "cell_metadata.csv"):
        lines = (path / name).read_text().splitlines(keepends=True)
        lines[0] = {"cell_by_gene.csv": "cell,", "cell_metadata.csv": "EntityID,"}[name] + lines[0].split(",", 1)[1]
        (path / name).write_text("".join(lines))
    adata = stgnn.read(path)
    check_counts(adata)
    assert adata.obs_names[1] == "1108000000000000002"


def test_regions_are_sections(tmp_path, capsys):
    for number in (0, 1):
        folders.merscope(tmp_path / "run" / f"region_{number}", SECTION, first=1 + 1000 * number)
    REFERENCE.write_h5ad(tmp_path / "reference.h5ad")
    words = ["annotate", tmp_path / "run", "--reference", tmp_path / "reference.h5ad", "--output", tmp_path / "o.h5ad"]
    assert main([*map(str, words), "--method", "logistic"]) == 0, capsys.readouterr().err
    adata = anndata.read_h5ad(tmp_path / "o.h5ad")
    assert adata.obs["section"].value_counts().to_dict() == {"region_0": 120, "region_1": 120}
    assert adata.obs_names[120] == "region_1_1001"
    assert adata.uns["stgnn"]["parameters"]["section_key"] == "section"
    assert platforms.section_key_of(adata) == "section"
    assert "2 sections, told apart in obs['section']: region_0, region_1" in notes_of(adata)
    assert "region_1: 3 features that are no genes left out: 3 Blank" in notes_of(adata)


def test_large_tables_are_read_in_pieces(tmp_path, monkeypatch):
    path = folders.merscope(tmp_path / "run", SECTION)
    monkeypatch.setattr(csvs, "_VALUES", 64 * 7)
    pieces = []
    monkeypatch.setattr(csvs.sp, "csr_matrix", _counting(csvs.sp.csr_matrix, pieces))
    check_counts(stgnn.read(path))
    assert max(pieces[:17]) == 7


def _counting(make, pieces):
    def made(values, *args, **options):
        pieces.append(len(values) if isinstance(values, np.ndarray) else 0)
        return make(values, *args, **options)

    return made


def test_values_that_are_no_counts_are_refused(tmp_path):
    path = folders.merscope(tmp_path / "run", SECTION)
    table = pd.read_csv(path / "cell_by_gene.csv", index_col=0)
    table["Gene0"] = 0.5
    table.to_csv(path / "cell_by_gene.csv")
    assert "raw counts in 'cell_by_gene.csv'" in refusal(CountsError, stgnn.read, path)


# ---- CosMx


def test_cosmx_numbers_start_anew_in_each_field(tmp_path):
    adata = stgnn.read(folders.cosmx(tmp_path / "run", SECTION))
    assert adata.obs_names[:4].tolist() == ["1_1", "2_1", "3_1", "1_2"]
    assert "counts of 3 fields that lie in no cell left out" in notes_of(adata)
    assert "4 features that are no genes left out: 1 false code, 2 negative probe, 1 system control" in notes_of(adata)
    assert "0.12028 um a pixel" in notes_of(adata)
    assert adata.obs["fov"].tolist()[:3] in ([1, 2, 3], ["1", "2", "3"])


def test_the_scale_of_cosmx_can_be_given(tmp_path):
    path = folders.cosmx(tmp_path / "run", SECTION)
    adata = stgnn.read(path, um_per_unit=0.24056)
    np.testing.assert_allclose(adata.obsm["spatial"], 2 * SECTION.obsm["spatial"])
    assert "0.24056 um a unit, as given" in notes_of(adata)
    cells = read_query(adata, um_per_unit=0.24056)
    np.testing.assert_array_equal(cells.coords, adata.obsm["spatial"])
    assert "coordinates of the query are in micrometres since reading: not scaled again" in cells.notes
    assert "um_per_unit" in refusal(OptionError, stgnn.read, path, um_per_unit=-1.0)


def test_cosmx_fields_are_laid_out_by_their_offsets(tmp_path):
    path = folders.cosmx(tmp_path / "run", SECTION, placed=False)
    adata = stgnn.read(path)
    np.testing.assert_allclose(adata.obsm["spatial"], SECTION.obsm["spatial"])
    assert "Slide1_fov_positions_file.csv" in notes_of(adata)
    (path / "Slide1_fov_positions_file.csv").unlink()
    assert "fov_positions_file.csv" in refusal(FileError, stgnn.read, path)


def test_two_slides_in_a_folder_are_refused(tmp_path):
    path = folders.cosmx(tmp_path / "run", SECTION)
    shutil.copy(path / "Slide1_exprMat_file.csv", path / "Slide2_exprMat_file.csv")
    message = refusal(FileError, stgnn.read, path)
    assert "2 in" in message and "Slide2_exprMat_file.csv; put each section into a folder of its own" in message
    (path / "Slide2_exprMat_file.csv").rename(path / "._Slide1_exprMat_file.csv")  # what some systems leave behind
    check_counts(stgnn.read(path))


# ---- Slide-seq, Stereo-seq


@pytest.mark.parametrize("version", [1, 2])
def test_both_layouts_of_slide_seq_are_read(tmp_path, version):
    path = folders.slideseq(tmp_path / "run", SECTION, version)
    adata = stgnn.read(path)
    check_counts(adata)
    np.testing.assert_allclose(adata.obsm["spatial"], SECTION.obsm["spatial"])
    assert "0.65 um a pixel" in notes_of(adata)
    np.testing.assert_allclose(stgnn.read(path, um_per_unit=1.3).obsm["spatial"], 2 * SECTION.obsm["spatial"])


def test_stereo_seq_tells_its_resolution_or_has_the_usual_one(tmp_path):
    told = stgnn.read(folders.stereoseq(tmp_path / "a.h5ad", SECTION, resolution=715))
    np.testing.assert_allclose(told.obsm["spatial"], 2 * 0.715 * SECTION.obsm["spatial"])
    usual = stgnn.read(folders.stereoseq(tmp_path / "b.h5ad", SECTION, resolution=None))
    np.testing.assert_allclose(usual.obsm["spatial"], SECTION.obsm["spatial"])
    assert "0.5 um between spots of the chip" in notes_of(usual)


# ---- matrices without places


@pytest.mark.parametrize("options", [{"packed": True}, {"packed": False}, {"packed": False, "old": True}])
def test_every_layout_of_mtx_is_read(tmp_path, options):
    adata = stgnn.read(folders.mtx(tmp_path / "run", SECTION, **options))
    check_counts(adata)
    assert adata.obs_names.tolist() == SECTION.obs_names.tolist()
    assert adata.var["gene_ids"]["Gene3"] == "ENSG00000000003"
    assert "unit" not in adata.uns["stgnn_source"]


@pytest.mark.parametrize("name", ["matrix.mtx", "features.tsv", "barcodes.tsv"])
def test_plain_parts_of_mtx_that_end_too_early_are_named(tmp_path, name):
    path = folders.mtx(tmp_path / "run", SECTION, packed=False)
    lines = (path / name).read_text().splitlines(keepends=True)
    for text in ("".join(lines[:-3]), "".join(lines)[:-2], ""):
        (path / name).write_text(text)
        assert name in refusal(FileError, stgnn.read, path)


def test_outs_of_cell_ranger_and_a_single_h5_are_read(tmp_path):
    path = tmp_path / "filtered_feature_bc_matrix.h5"
    names = [*SECTION.var_names[:-1], SECTION.var_names[0]]  # one symbol stands for two genes, as some do
    folders.write_10x(path, SECTION.obs_names, folders.counts_of(SECTION), names)
    for source in (path, tmp_path):
        adata = stgnn.read(source)
        assert adata.n_vars == SECTION.n_vars - 1
        expected = folders.counts_of(SECTION)[:, [0, -1]].sum(axis=1)
        np.testing.assert_array_equal(adata[:, "Gene0"].X.toarray().ravel(), expected)
        assert "counts of 1 repeated gene name summed" in notes_of(adata)
    path.unlink()
    folders.mtx(tmp_path / "filtered_feature_bc_matrix", SECTION)
    check_counts(stgnn.read(tmp_path))


def test_loom_keeps_what_it_says_of_cells(tmp_path):
    adata = stgnn.read(folders.loom(tmp_path / "a.loom", REFERENCE))
    assert adata.obs_names.tolist() == REFERENCE.obs_names.tolist()
    assert list(adata.obs.columns) == ["ClusterName"]
    assert read_reference(adata, labels_key="ClusterName").types == tuple(sorted(REFERENCE.obs["cell_type"].unique()))
    message = refusal(FileError, stgnn.read, folders.loom(tmp_path / "b.loom", REFERENCE, named=False))
    assert "names of genes" in message


def test_a_reference_by_the_schema_of_cellxgene_is_read(tmp_path):
    path = folders.cellxgene(tmp_path / "reference.h5ad", REFERENCE)
    known = read_reference(path, labels_key="cell_type")
    assert "counts taken from raw, since X does not hold counts" in known.notes
    np.testing.assert_array_equal(known.counts.toarray(), folders.counts_of(REFERENCE))
    run = folders.xenium(tmp_path / "run", SECTION[:, ::-1].copy())
    section = stgnn.read(run)
    del section.var["gene_ids"]  # so that symbols are all that both have
    stgnn.tl.annotate(section, path, method="logistic")
    assert (section.obs["stgnn"].astype(str) == SECTION.obs["cell_type"].astype(str).to_numpy()).mean() > 0.6
    assert "genes of the reference called by var['feature_name']" in align(known, read_query(section))[0].notes


def test_a_reference_may_be_a_folder_too(tmp_path):
    path = folders.loom(tmp_path / "reference.loom", REFERENCE)
    section = SECTION.copy()
    stgnn.tl.annotate(section, path, labels_key="ClusterName", method="logistic")
    assert (section.obs["stgnn"].astype(str) == section.obs["cell_type"].astype(str)).mean() > 0.6


def test_an_output_must_not_replace_the_folder_of_the_query(tmp_path, capsys):
    folder = tmp_path / "run.zarr"
    path = folders.merscope(folder / "inside", SECTION)
    words = ["annotate", path, "--reference", path, "--output", folder]
    assert main(list(map(str, words))) == 2
    assert "another file than the inputs" in capsys.readouterr().err


def test_spatialdata_has_to_be_installed(tmp_path, monkeypatch):
    (tmp_path / "a.zarr" / "tables").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    assert "pip install 'stgnn[spatialdata]'" in refusal(InputError, stgnn.read, tmp_path / "a.zarr")
