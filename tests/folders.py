"""Folders as each platform writes them, small, of given cells: to the vendors' documented layouts, quirks included."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp
from anndata import AnnData

from stgnn.data.toy import toy

XENIUM_CONTROLS = [
    "Negative Control Probe",
    "Negative Control Probe",
    "Negative Control Codeword",
    "Unassigned Codeword",
    "Blank Codeword",
    "Deprecated Codeword",
    "Genomic Control",
]


def tissue(n_cells: int = 120) -> tuple[AnnData, AnnData]:
    """A reference, and a section whose places are in micrometres and differ in x and y."""
    reference, section = toy(n_cells=n_cells, random_state=3)
    section.obsm["spatial"] = section.obsm["spatial"] * [1.0, 1.5] + [50.0, 20.0]
    return reference, section


def counts_of(section: AnnData) -> np.ndarray:
    """Counts (cells, genes), whole numbers."""
    return np.asarray(section.X.todense()).astype(int)


def _controls(section: AnnData, number: int) -> np.ndarray:
    return np.random.default_rng(0).poisson(0.3, (section.n_obs, number))


def write_10x(path: Path, barcodes, counts: np.ndarray, names, kinds=None) -> None:
    """Write a matrix of 10x (version 3): features by barcodes, by column."""
    matrix = sp.csc_matrix(counts.T)
    kinds = ["Gene Expression"] * len(names) if kinds is None else kinds
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["shape"] = np.array(matrix.shape, dtype=np.int32)
        group["data"], group["indices"] = matrix.data.astype(np.int32), matrix.indices.astype(np.int64)
        group["indptr"] = matrix.indptr.astype(np.int64)
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i:011d}" for i in range(len(names))], dtype="S")
        features["name"], features["feature_type"] = np.array(names, dtype="S"), np.array(kinds, dtype="S")


def mtx(folder: Path, section: AnnData, *, packed: bool = True, old: bool = False) -> Path:
    """Write matrix, features and barcodes; ``old`` as Cell Ranger 2 did, with genes.tsv of two columns."""
    folder.mkdir(parents=True)
    end = ".gz" if packed else ""
    rows = [[f"ENSG{i:011d}", name] for i, name in enumerate(section.var_names)]
    rows = rows if old else [[*row, "Gene Expression"] for row in rows]
    texts = {
        "barcodes.tsv": list(section.obs_names),
        ("genes.tsv" if old else "features.tsv"): ["\t".join(r) for r in rows],
    }
    for name, lines in texts.items():
        _write(folder / (name + end), "".join(f"{line}\n" for line in lines))
    scipy.io.mmwrite(folder / "matrix.mtx", sp.coo_matrix(counts_of(section).T))
    if packed:
        _write(folder / "matrix.mtx.gz", (folder / "matrix.mtx").read_text())
        (folder / "matrix.mtx").unlink()
    return folder


def _write(path: Path, text: str) -> None:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def xenium(folder: Path, section: AnnData, *, cells: str = "parquet", shuffled: bool = True) -> Path:
    """Write a region of Xenium; the cells in ``cells`` stand in an order of their own, ids as bytes in parquet."""
    folder.mkdir(parents=True)
    names = [f"aaaa{i:04d}-1" for i in range(section.n_obs)]
    counts = np.column_stack([counts_of(section), _controls(section, len(XENIUM_CONTROLS))])
    features = [*section.var_names, *(f"Control_{i}" for i in range(len(XENIUM_CONTROLS)))]
    kinds = ["Gene Expression"] * section.n_vars + XENIUM_CONTROLS
    write_10x(folder / "cell_feature_matrix.h5", names, counts, features, kinds)
    table = pd.DataFrame(
        {
            "cell_id": names,
            "x_centroid": section.obsm["spatial"][:, 0],
            "y_centroid": section.obsm["spatial"][:, 1],
            "transcript_counts": counts.sum(axis=1),
            "cell_area": 55.5,
            "segmentation_method": "Segmented by nucleus expansion of 5.0um",
        }
    )
    table = table.sample(frac=1, random_state=0) if shuffled else table
    if cells == "parquet":
        table["cell_id"] = table["cell_id"].str.encode("utf-8")
        table.to_parquet(folder / "cells.parquet", index=False)
    else:
        table.to_csv(folder / "cells.csv.gz", index=False)
    images = {"morphology_focus_filepath": "morphology_focus.ome.tif", "morphology_filepath": "morphology.ome.tif"}
    (folder / "morphology.ome.tif").write_bytes(b"")
    told = {"region_name": "Region_1", "pixel_size": 0.2125, "analysis_sw_version": "xenium-3.1.0", "images": images}
    (folder / "experiment.xenium").write_text(json.dumps(told, indent=2))
    return folder


COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
MPP = 0.5


def visium(folder: Path, section: AnnData, positions: str = "header") -> Path:
    """Write ``outs`` of Visium, whose spots lie 100 um apart; two more spots are off the tissue."""
    spatial = folder / "outs" / "spatial"
    spatial.mkdir(parents=True)
    row, half = np.divmod(np.arange(section.n_obs + 2), 12)
    column = 2 * half + row % 2
    x, y = (60 + 50 * column) / MPP, (80 + 50 * np.sqrt(3) * row) / MPP
    barcodes = [f"SPOT{i:04d}-1" for i in range(len(row))]
    on = (np.arange(len(row)) >= 2).astype(int)
    table = pd.DataFrame(dict(zip(COLUMNS, [barcodes, on, row, column, np.rint(y), np.rint(x)])))
    if positions == "header":
        table.to_csv(spatial / "tissue_positions.csv", index=False)
    else:
        table.to_csv(spatial / "tissue_positions_list.csv", index=False, header=False)
    _scales(spatial, {"spot_diameter_fullres": 65 / MPP, "tissue_hires_scalef": 0.25})
    write_10x(folder / "outs" / "filtered_feature_bc_matrix.h5", barcodes[2:], counts_of(section), section.var_names)
    return folder / "outs"


def _scales(spatial: Path, facts: dict[str, float]) -> None:
    (spatial / "scalefactors_json.json").write_text(json.dumps(facts))
    (spatial / "tissue_hires_image.png").write_bytes(b"")


def visium_hd(folder: Path, section: AnnData, sizes=(2, 8, 16)) -> Path:
    """Write ``outs`` of Visium HD: squares of each size, one for each cell, and the cells themselves, segmented."""
    outs = folder / "outs"
    for size in sizes:
        square = outs / "binned_outputs" / f"square_{size:03d}um"
        (square / "spatial").mkdir(parents=True)
        row, column = np.divmod(np.arange(section.n_obs), 12)
        barcodes = [f"s_{size:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, column)]
        x, y = size * (column + 0.5) / MPP, size * (row + 0.5) / MPP
        table = pd.DataFrame(dict(zip(COLUMNS, [barcodes, np.ones(len(row), dtype=int), row, column, y, x])))
        table.to_parquet(square / "spatial" / "tissue_positions.parquet", index=False)
        _scales(square / "spatial", {"microns_per_pixel": MPP, "bin_size_um": float(size), "tissue_hires_scalef": 0.1})
        write_10x(square / "filtered_feature_bc_matrix.h5", barcodes, counts_of(section), section.var_names)
    cells = outs / "segmented_outputs"
    (cells / "spatial").mkdir(parents=True)
    _scales(cells / "spatial", {"microns_per_pixel": MPP, "tissue_hires_scalef": 0.1})
    numbers = np.arange(section.n_obs) + 3  # cells that the filter dropped leave gaps
    shapes = [_outline(number, *place) for number, place in zip(numbers, section.obsm["spatial"] / MPP)]
    (cells / "cell_segmentations.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": [_outline(1, 5, 5), *shapes[::-1]]})
    )
    names = [f"cellid_{number:09d}-1" for number in numbers]
    write_10x(cells / "filtered_feature_cell_matrix.h5", names, counts_of(section), section.var_names)
    return outs


def _outline(number: int, x: float, y: float) -> dict:
    """A square around a place, drawn with more corners on one side, so that their mean is not its centre."""
    corners = [[-4, -4], [0, -4], [2, -4], [4, -4], [4, 4], [-4, 4], [-4, -4]]
    ring = [[x + dx, y + dy] for dx, dy in corners]
    shape = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": shape, "properties": {"cell_id": int(number)}}


def merscope(folder: Path, section: AnnData, first: int = 1_108_000_000_000_000_001) -> Path:
    """Write a region of MERSCOPE: an unnamed first column, ids that no float can hold, blanks among the genes."""
    folder.mkdir(parents=True)
    ids = [str(first + i) for i in range(section.n_obs)]
    table = pd.DataFrame(counts_of(section), index=pd.Index(ids, name="cell"), columns=section.var_names)
    for number, values in enumerate(_controls(section, 3).T):
        table.insert(5 * number, f"Blank-{number}", values)
    table.to_csv(folder / "cell_by_gene.csv")
    places = section.obsm["spatial"]
    facts = {"fov": 7, "volume": 512.25, "center_x": places[:, 0], "center_y": places[:, 1], "min_x": places[:, 0] - 4}
    cells = pd.DataFrame(facts, index=ids)
    cells.sample(frac=1, random_state=1).to_csv(folder / "cell_metadata.csv")
    (folder / "images").mkdir()
    (folder / "images" / "micron_to_mosaic_pixel_transform.csv").write_text("9.25 0 -185\n0 9.25 370\n0 0 1\n")
    for depth in range(3):
        (folder / "images" / f"mosaic_DAPI_z{depth}.tif").write_bytes(b"")
    return folder


def cosmx(folder: Path, section: AnnData, *, placed: bool = True) -> Path:
    """Write a slide of CosMx: numbers of cells start anew in each field, 0 is no cell, controls among the genes."""
    folder.mkdir(parents=True)
    fov = 1 + np.arange(section.n_obs) % 3
    number = 1 + np.arange(section.n_obs) // 3
    counts = np.column_stack([counts_of(section), _controls(section, 4)])
    genes = [*section.var_names, "NegPrb1", "Negative2", "SystemControl3", "FalseCode4"]
    table = pd.DataFrame(counts, columns=genes)
    table.insert(0, "fov", fov)
    table.insert(1, "cell_ID", number)
    outside = pd.DataFrame(99, index=range(3), columns=table.columns)
    outside["fov"], outside["cell_ID"] = [1, 2, 3], 0
    pd.concat([outside, table]).to_csv(folder / "Slide1_exprMat_file.csv", index=False)
    pixels = section.obsm["spatial"] / 0.12028
    origin = np.array([[0.0, 0.0], [1000.0, 0.0], [0.0, 2000.0]])
    local = pixels - origin[fov - 1]
    cells = pd.DataFrame({"fov": fov, "cell_ID": number, "Area": 2000, "Mean.DAPI": 3.5})
    cells["CenterX_local_px"], cells["CenterY_local_px"] = local.T
    if placed:
        cells["CenterX_global_px"], cells["CenterY_global_px"] = pixels.T
    cells.sample(frac=1, random_state=2).to_csv(folder / "Slide1_metadata_file.csv", index=False)
    fields = pd.DataFrame({"FOV": [1, 2, 3], "x_global_px": origin[:, 0], "y_global_px": origin[:, 1]})
    fields.to_csv(folder / "Slide1_fov_positions_file.csv", index=False)
    return folder


def slideseq(folder: Path, section: AnnData, version: int = 1) -> Path:
    """Write a puck: genes in rows; of version 2 separated by tabs, packed, and with the puck's name."""
    folder.mkdir(parents=True)
    beads = [f"ACGT{i:04d}" for i in range(section.n_obs)]
    table = pd.DataFrame(counts_of(section).T, index=section.var_names, columns=beads)
    places = pd.DataFrame(section.obsm["spatial"] / 0.65, columns=["xcoord", "ycoord"])
    places.insert(0, "barcodes", beads)
    places = places.sample(frac=1, random_state=3)
    if version == 1:
        table.rename_axis("Row").to_csv(folder / "MappedDGEForR.csv")
        places.to_csv(folder / "BeadLocationsForR.csv", index=False)
    else:
        table.rename_axis("GENE").to_csv(folder / "Puck_200115_08.digital_expression.txt.gz", sep="\t")
        places.rename(columns={"barcodes": "barcode"}).to_csv(folder / "Puck_200115_08_bead_locations.csv", index=False)
    return folder


def loom(path: Path, section: AnnData, *, named: bool = True) -> Path:
    """Write a loom file: genes by cells, with attributes of both."""
    with h5py.File(path, "w") as file:
        file["matrix"] = counts_of(section).T.astype(np.float32)
        text = h5py.string_dtype()
        rows, columns, _ = (file.create_group(name) for name in ("row_attrs", "col_attrs", "layers"))
        if named:
            rows["Gene"] = np.array(section.var_names, dtype=text)
        rows["Selected"] = np.ones(section.n_vars, dtype=np.int64)
        columns["CellID"] = np.array(section.obs_names, dtype=text)
        columns["ClusterName"] = np.array(section.obs["cell_type"].astype(str), dtype=text)
        columns["_tSNE"] = np.zeros((section.n_obs, 2))
    return path


def stereoseq(path: Path, section: AnnData, *, resolution: int | None = 500) -> Path:
    """Write what stereopy does: coordinates in spots of the chip."""
    adata = AnnData(section.X.copy(), obs=pd.DataFrame(index=section.obs_names), var=section.var.copy())
    adata.obsm["spatial"] = section.obsm["spatial"] * 2
    adata.uns |= {"bin_type": "cell_bins", "bin_size": 1, "sn": "SS200000135TL_D1"}
    if resolution is not None:
        adata.uns["resolution"] = resolution
    adata.write_h5ad(path)
    return path


def cellxgene(path: Path, reference: AnnData) -> Path:
    """Write a reference by the schema of CELLxGENE: Ensembl ids for names, symbols beside, raw counts in ``raw``."""
    ids = [f"ENSG{i:011d}" for i in range(reference.n_vars)]
    var = pd.DataFrame({"feature_name": pd.Categorical(reference.var_names), "feature_biotype": "gene"}, index=ids)
    adata = AnnData(reference.X.copy(), obs=reference.obs[["cell_type"]].copy(), var=var)
    adata.raw = adata
    adata.X = adata.X.multiply(1e4 / adata.X.sum(axis=1)).log1p().tocsr().astype(np.float32)
    adata.var["feature_is_filtered"] = False
    adata.obs["cell_type_ontology_term_id"] = "CL:0000540"
    adata.uns["schema_version"] = "5.2.0"
    adata.write_h5ad(path)
    return path
