from __future__ import annotations

import dataclasses
import re

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from refusals import refusal
from stgnn.data import genes as gene_names
from stgnn.data.cells import Prediction, align, check_key_added, read_query, read_reference, select_genes, write
from stgnn.data.counts import find_counts, recover
from stgnn.data.schema import (
    CoordinatesError,
    CountsError,
    GenesError,
    InputError,
    LabelsError,
    OptionError,
    type_columns,
)
from stgnn.data.subset import focus
from stgnn.data.toy import toy


def fingerprint(adata: AnnData) -> dict[str, object]:
    """Everything in an AnnData object, as values that compare."""
    arrays = {"X": adata.X, **{f"layer {name}": matrix for name, matrix in adata.layers.items()}}
    arrays |= {f"obsm {name}": value for name, value in adata.obsm.items()}
    if adata.raw is not None:
        arrays["raw"] = adata.raw.X
    out: dict[str, object] = {"uns": repr(dict(adata.uns))}
    for name, value in arrays.items():
        parts = (value.data, value.indices, value.indptr) if sp.issparse(value) else (np.asarray(value),)
        out[name] = [(str(part.dtype), part.tobytes()) for part in parts]
    for name, frame in (("obs", adata.obs), ("var", adata.var)):
        out[name] = (frame.to_csv(), frame.dtypes.astype(str).to_dict())
    return out


def log_normalised(counts, target: float = 1e4):
    counts = counts.astype(np.float64)
    scale = target / np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    return (sp.diags(scale) @ counts).log1p().tocsr().astype(np.float32)


def same_cells(a, b) -> bool:
    fields = [field.name for field in dataclasses.fields(a) if field.name not in ("counts", "notes", "other_ids")]
    equal = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in fields)
    parts = ("data", "indices", "indptr")
    return equal and all(np.array_equal(getattr(a.counts, part), getattr(b.counts, part)) for part in parts)


# ---- what reading promises


def test_cells_hold_what_the_contract_says(reference, query):
    ref = read_reference(reference)
    assert ref.counts.dtype == np.float32
    assert ref.counts.format == "csr"
    np.testing.assert_array_equal(ref.counts.toarray(), reference.X.toarray())
    assert [ref.types[code] for code in ref.labels] == reference.obs["cell_type"].tolist()
    assert ref.coords is None

    cells = read_query(query, section_key="section", um_per_unit=2.0)
    assert cells.labels is None
    assert cells.types == ()
    np.testing.assert_array_equal(cells.coords, 2.0 * query.obsm["spatial"])
    assert [cells.sections[code] for code in cells.section] == query.obs["section"].tolist()
    np.testing.assert_array_equal(cells.rows, np.arange(query.n_obs))


def test_the_labels_of_the_query_never_pass(query):
    with_labels = read_query(query)
    assert "type 1" not in repr(with_labels)
    query.obs["cell_type"] = "nonsense"
    assert same_cells(with_labels, read_query(query))


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "csr_array", "int", "float64", "view"])
def test_every_kind_of_matrix_reads_alike_and_stays_as_it_was(query, kind):
    expected = read_query(query)
    query.X = {
        "csr": lambda x: x,
        "csc": sp.csc_matrix,
        "dense": lambda x: x.toarray(),
        "csr_array": sp.csr_array,
        "int": lambda x: x.astype(np.int64),
        "float64": lambda x: x.astype(np.float64),
        "view": lambda x: x,
    }[kind](query.X)
    source = query[:] if kind == "view" else query
    before = fingerprint(source)
    cells = read_query(source)
    cells.counts.data[:] = -1  # whatever happens to the cells does not reach the source
    assert fingerprint(source) == before
    assert same_cells(expected, read_query(source))


@pytest.mark.parametrize("dense", [True, False])
def test_files_opened_on_disk_read_alike(query, tmp_path, dense):
    expected = read_query(query)
    if dense:
        query.X = query.X.toarray()
    query.write_h5ad(tmp_path / "query.h5ad")
    backed = anndata.read_h5ad(tmp_path / "query.h5ad", backed="r")
    assert same_cells(expected, read_query(backed))
    backed.file.close()


def test_reading_with_every_repair_leaves_the_source_alone(reference, query):
    for adata in (reference, query):
        adata.layers["counts"] = adata.X.copy()
        adata.X = log_normalised(adata.X)
        adata.obs_names = ["twin"] * 2 + adata.obs_names[2:].tolist()
        adata.var_names = ["Gene1", *adata.var_names[1:]]
        adata.layers["counts"] = sp.csr_matrix(adata.layers["counts"].multiply(np.arange(400)[:, None] != 5))
    reference.obs.loc[reference.obs_names[3], "cell_type"] = np.nan
    before = fingerprint(reference), fingerprint(query)
    align(read_reference(reference), read_query(query, section_key="section", um_per_unit=0.5))
    assert (fingerprint(reference), fingerprint(query)) == before


def test_a_source_of_another_kind_is_refused(reference):
    assert "found DataFrame" in refusal(InputError, read_query, reference.obs)
    spatialdata = type("SpatialData", (), {"tables": {}})()
    assert "sdata.tables" in refusal(InputError, read_query, spatialdata)
    assert "0 cells" in refusal(InputError, read_reference, reference[:0])
    assert "0 genes" in refusal(InputError, read_query, reference[:, :0])


# ---- counts


def test_counts_are_found_where_they_are(query):
    counts = query.X.copy()
    logged = log_normalised(counts)
    for name in ("counts", "Count", "raw_counts"):
        adata = query.copy()
        adata.layers[name], adata.X = counts, logged
        found = find_counts(adata, None, "query")
        assert (found.values != counts).nnz == 0
        assert f"layers['{name}']" in found.note
    adata = query.copy()
    adata.raw = adata.copy()
    adata = adata[:, :20].copy()
    adata.X = log_normalised(adata.X)
    cells = read_query(adata)
    assert list(cells.genes) == list(query.var_names)  # raw has genes of its own
    assert any("raw" in note for note in cells.notes)
    assert same_cells(cells, read_query(adata, layer="raw"))


def test_predicted_expression_is_taken_as_it_is_and_said_to_be(query):
    expected = query.X.toarray() * 0.37
    predicted = query.copy()
    predicted.X, predicted.uns["stgnn_expression"] = expected, {}
    cells = read_query(predicted)
    np.testing.assert_allclose(cells.counts.toarray(), expected, rtol=1e-6)
    assert any("expected from an image" in text for text in cells.notes)
    for bad in (np.nan, -1.0):
        predicted.X[3, 5] = bad
        assert repr(str(query.var_names[5])) in refusal(CountsError, read_query, predicted)
    del predicted.uns["stgnn_expression"]
    predicted.X = expected
    refusal(CountsError, read_query, predicted)  # without the entry, fractions are no counts


def test_a_named_layer_is_taken_and_no_other(query):
    query.layers["mine"] = query.X * 2
    assert (read_query(query, layer="mine").counts != query.X * 2).nnz == 0
    assert (read_query(query, layer="X").counts != query.X).nnz == 0
    query.layers["logged"] = log_normalised(query.X)
    assert "layers['logged']: expected raw counts" in refusal(CountsError, read_query, query, layer="logged")
    assert "did you mean 'mine'?" in refusal(CountsError, read_query, query, layer="mien")
    assert "no layer 'raw'" in refusal(CountsError, read_query, query, layer="raw")


def test_float_noise_is_rounded_away(query):
    expected = read_query(query)
    query.X = query.X.astype(np.float64)
    query.X.data += np.random.default_rng(0).uniform(-9e-4, 9e-4, query.X.nnz)
    assert same_cells(expected, read_query(query))


def scaled(x):
    x = x.toarray()
    return (x - x.mean(axis=0)) / (x.std(axis=0) + 1)


def proportions(x):  # all values so small that rounding would make them zero
    return sp.csr_matrix(x.multiply(1e-4 / x.sum(axis=1)))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (log_normalised, r"max \d\.\d+, exp\(x\)-1 has equal row sums: looks log-normalised with target 10000"),
        (lambda x: log_normalised(x)[:, :30], r"exp\(x\)-1 is a multiple of one step in each cell"),
        (lambda x: log_normalised(x) / np.log(2), r"2\^x-1 has equal row sums: looks log-normalised with target 10000"),
        (lambda x: log_normalised(x).expm1(), r"equal row sums: looks normalised to a total of 10000 per cell"),
        (scaled, r"\d+ negative values, the first in gene 'Gene\d+', and values are not integers: looks scaled"),
        (proportions, r"non-integer values"),
        (lambda x: x * 0.37 + (x > 0) * 25.1, r"non-integer values, max .+: looks normalised or corrected"),
    ],
)
def test_values_that_are_no_counts_are_recognised(query, change, found):
    matrix = change(query.X)
    adata = AnnData(matrix, obs=query.obs, var=query.var[: matrix.shape[1]])
    message = refusal(CountsError, read_query, adata)
    assert re.search(found, message)
    assert message.startswith("query, X: expected raw counts")
    assert "layer=" in message and "recover_counts=True" in message


@pytest.mark.parametrize(("value", "found"), [(np.nan, "NaN"), (np.inf, "infinite"), (-3.0, "negative")])
def test_impossible_values_are_counted_and_placed(reference, value, found):
    matrix = reference.X.toarray()
    matrix[[4, 7, 9], 8] = value
    reference.X = sp.csr_matrix(matrix)
    message = refusal(CountsError, read_reference, reference)
    assert message.startswith(f"reference, X: expected raw counts; found 3 {found} values, the first in gene 'Gene8';")


@pytest.mark.parametrize("logarithm", [np.log1p, np.log2, np.log10, None])
def test_recovery_is_the_inverse_of_normalisation(query, logarithm):
    normalised = log_normalised(query.X).expm1()
    if logarithm is np.log1p:
        normalised.data = np.log1p(normalised.data)
    elif logarithm is not None:
        normalised.data = logarithm(1 + normalised.data)
    adata = query.copy()
    adata.X = normalised
    cells = read_query(adata, recover_counts=True)
    assert any("recovered" in note for note in cells.notes)
    # what a cell's counts have in common cannot be known
    common = np.array([np.gcd.reduce(row.astype(int)) for row in query.X.toarray()])
    assert np.mean(common == 1) > 0.9
    np.testing.assert_array_equal(cells.counts.toarray(), query.X.toarray() / common[:, None])


def test_recovery_finds_a_step_that_no_count_shows():
    counts = sp.csr_matrix([[6.0, 10.0, 15.0], [2.0, 3.0, 0.0], [7.0, 0.0, 9.0], [1.0, 1.0, 4.0]])
    np.testing.assert_array_equal(recover(log_normalised(counts)).toarray(), counts.toarray())


def test_recovery_refuses_what_it_cannot_invert(query):
    smooth = query.copy()
    smooth.X = sp.csr_matrix(np.random.default_rng(0).gamma(2.0, 1.0, query.shape))
    assert "counts cannot be recovered" in refusal(CountsError, read_query, smooth, recover_counts=True)
    query.X = scaled(query.X)
    assert "scaling cannot be undone" in refusal(CountsError, read_query, query, recover_counts=True)


def test_counts_win_over_recovery(query):
    expected = read_query(query)
    assert same_cells(expected, read_query(query, recover_counts=True))


# ---- cells


def test_empty_cells_are_left_out_and_counted(query):
    query.X = query.X.toarray()
    query.X[[2, 5]] = 0
    cells = read_query(query)
    assert len(cells) == query.n_obs - 2
    np.testing.assert_array_equal(cells.rows, np.delete(np.arange(query.n_obs), [2, 5]))
    np.testing.assert_array_equal(cells.coords, np.delete(query.obsm["spatial"], [2, 5], axis=0))
    assert cells.n_source == query.n_obs
    assert "2 cells of the query without a count left out" in cells.notes
    query.X[:] = 0
    assert f"none in {query.n_obs} cells" in refusal(CountsError, read_query, query)


def test_repeated_cell_names_are_numbered(query):
    query.obs_names = ["a", "a", "a-1", "a", *query.obs_names[4:]]
    cells = read_query(query)
    assert len(set(cells.names)) == len(cells)
    assert cells.names[:4].tolist() == ["a", "a-2", "a-1", "a-3"]
    assert "2 repeated cell names in the query numbered" in cells.notes


# ---- labels


def test_a_missing_label_column_proposes_the_nearest(reference):
    reference.obs = reference.obs.rename(columns={"cell_type": "celltype"})
    message = refusal(LabelsError, read_reference, reference)
    assert message.startswith("labels_key: expected a column of reference.obs; found no column 'cell_type'")
    assert "did you mean 'celltype'?" in message


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (lambda n: np.arange(n) % 3, "not text, such as 0"),
        (lambda n: np.arange(n) % 2 == 0, "not text, such as True"),
        (lambda n: pd.Categorical(np.arange(n) % 3), "not text, such as 0"),
        (lambda n: [f"cell {i}" for i in range(n)], "looks like an identifier"),
        (lambda n: ["only"] * n, "found only$"),
        (lambda n: [None] * n, "no label in 400 cells"),
        (lambda n: ["unknown"] * n, "no label in 400 cells"),
    ],
)
def test_columns_that_are_no_types_are_refused(reference, values, found):
    reference.obs["other"] = values(reference.n_obs)
    assert re.search(found, refusal(LabelsError, read_reference, reference, labels_key="other"))


def test_too_many_types_are_refused():
    many = AnnData(np.ones((1503, 12), dtype="float32"))
    many.obs["cell_type"] = [f"type {i // 3}" for i in range(1503)]
    assert "501 different values" in refusal(LabelsError, read_reference, many)
    assert len(read_reference(many[:1500].copy()).types) == 500


def test_cells_without_a_type_are_left_out(reference):
    labels = reference.obs["cell_type"].astype(object).to_numpy()
    labels[:6] = [None, np.nan, "", "nan", "unknown", "Unknown"]
    labels[6] = "  type 1 "
    reference.obs["cell_type"] = labels
    cells = read_reference(reference)
    np.testing.assert_array_equal(cells.rows, np.arange(6, reference.n_obs))
    assert cells.types[cells.labels[0]] == "type 1"
    assert "4 cells without a label in reference.obs['cell_type'] left out" in cells.notes
    assert any(note.startswith("2 cells labelled 'unknown'") for note in cells.notes)
    assert len(cells.types) == 5


def test_types_of_one_cell_are_left_out(reference):
    labels = reference.obs["cell_type"].astype(object).to_numpy()
    labels[10] = "a rare one"  # sorts first, so that every other code has to move
    reference.obs["cell_type"] = labels
    cells = read_reference(reference)
    assert "types of a single cell left out of the reference: a rare one" in cells.notes
    assert 10 not in cells.rows
    assert [cells.types[code] for code in cells.labels] == np.delete(labels, 10).tolist()


def test_types_that_no_cell_has_are_forgotten(reference):
    few = reference[reference.obs["cell_type"].isin(["type 2", "type 4"])]
    few = AnnData(few.X, obs=few.obs.assign(cell_type=few.obs["cell_type"].cat.add_categories("never")), var=few.var)
    assert read_reference(few).types == ("type 2", "type 4")


# ---- sections and coordinates


def test_sections_are_refused_in_one_line(query):
    message = refusal(OptionError, read_query, query, section_key="sections")
    assert message.startswith("section_key") and "did you mean 'section'?" in message
    query.obs["name"] = query.obs_names
    assert "identifier" in refusal(OptionError, read_query, query, section_key="name")
    query.obs.loc[query.obs_names[:3], "section"] = np.nan
    assert "3 cells without one" in refusal(OptionError, read_query, query, section_key="section")


def test_a_reference_needs_neither_sections_nor_coordinates(reference, query):
    assert read_reference(reference, section_key="section").sections == ("all",)
    assert read_reference(query, section_key="section").sections == ("section 1", "section 2")
    assert read_reference(query, um_per_unit=3.0).coords.max() == pytest.approx(3 * query.obsm["spatial"].max())
    query.obsm["spatial"][0] = np.nan
    cells = read_reference(query)
    assert cells.coords is None
    assert any("coordinates of the reference not used" in note for note in cells.notes)


def test_missing_coordinates_are_noted_or_refused(query):
    query.obsm["X_spatial"] = query.obsm.pop("spatial")
    cells = read_query(query)
    assert cells.coords is None
    assert any("no coordinates" in note and "spatial_key='X_spatial'" in note for note in cells.notes)
    assert read_query(query, spatial_key="X_spatial").coords is not None
    message = refusal(CoordinatesError, read_query, query, spatial_key="centroids")
    assert message.startswith("spatial_key: expected a key of query.obsm; found no key 'centroids'")
    assert "X_spatial" in message
    del query.obsm["X_spatial"]
    query.obs["x_centroid"] = query.obs["y_centroid"] = 1.0
    assert any("obs[['x_centroid', 'y_centroid']]" in note for note in read_query(query).notes)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda c: np.where(np.arange(len(c))[:, None] < 3, np.nan, c), "NaN or infinite ones in 3 of 400 cells"),
        (lambda c: np.where(np.arange(len(c))[:, None] == 7, np.inf, c), "NaN or infinite ones in 1 of 400 cells"),
        (lambda c: c[:, :1], r"shape \(400, 1\)"),
        (lambda c: np.hstack([c, c]), r"shape \(400, 4\)"),
        (np.zeros_like, r"all 400 cells at \[0.0, 0.0\]"),
        (lambda c: np.full(c.shape, "left", dtype=object), "could not convert"),
    ],
)
def test_malformed_coordinates_are_refused(query, change, found):
    query.obsm["spatial"] = change(query.obsm["spatial"])
    message = refusal(CoordinatesError, read_query, query)
    assert message.startswith("query.obsm['spatial']: expected")
    assert re.search(found, message)


def test_coordinates_may_be_a_table_or_have_depth(query):
    flat = query.obsm["spatial"].copy()
    query.obsm["spatial"] = pd.DataFrame(flat, index=query.obs_names, columns=["x", "y"])
    np.testing.assert_array_equal(read_query(query).coords, flat)
    query.obsm["spatial"] = np.column_stack([flat, np.arange(len(flat))])
    assert read_query(query).coords.shape == (len(flat), 3)


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), True])
def test_scales_that_are_none_are_refused(query, scale):
    assert refusal(OptionError, read_query, query, um_per_unit=scale).startswith("um_per_unit: expected micrometres")


# ---- genes


def test_alignment_commutes_with_any_order_of_genes(reference, query):
    expected = align(read_reference(reference), read_query(query))
    rng = np.random.default_rng(0)
    mixed = (reference[:, rng.permutation(60)].copy(), query[:, rng.permutation(60)].copy())
    found = align(read_reference(mixed[0]), read_query(mixed[1]))
    assert all(same_cells(a, b) for a, b in zip(expected, found))
    assert list(expected[0].genes) == sorted(reference.var_names)


def test_alignment_keeps_the_counts_of_shared_genes(reference, query):
    ref, cells = align(read_reference(reference[:, 5:]), read_query(query[:, :40]))
    assert set(ref.genes) == set(reference.var_names[5:40])
    np.testing.assert_array_equal(ref.counts.toarray(), reference[ref.rows, list(ref.genes)].X.toarray())
    np.testing.assert_array_equal(cells.counts.toarray(), query[cells.rows, list(ref.genes)].X.toarray())


def test_cells_empty_over_the_shared_genes_are_left_out(reference, query):
    for adata in (reference, query):
        adata.X = adata.X.toarray()
        adata.X[4, :40] = 0
        adata.X[4, 50] = 1
    cells = read_query(query)
    assert 4 in cells.rows
    assert 4 in read_reference(reference).rows
    ref, _ = align(read_reference(reference), read_query(query[:, :40].copy()))
    _, aligned = align(read_reference(reference[:, :40].copy()), cells)
    for part in (ref, aligned):
        assert 4 not in part.rows
        assert (np.diff(part.counts.indptr) > 0).all()
    assert len(select_genes(cells, query.var_names[:40])) == int((query.X[:, :40].sum(axis=1) > 0).sum())


def test_repeated_genes_are_summed(query):
    counts = query.X.toarray()
    query.var_names = ["Gene1", *query.var_names[1:]]
    cells = read_query(query)
    assert "counts of 1 repeated gene name in the query summed" in cells.notes
    column = cells.genes.tolist().index("Gene1")
    np.testing.assert_array_equal(cells.counts.toarray()[:, column], counts[:, 0] + counts[:, 1])
    assert cells.counts.sum() == counts.sum()


def ensembl(number: int, version: str = "") -> str:
    return f"ENSMUSG{number:011d}{version}"


def test_versions_of_ensembl_ids_are_cut(reference, query):
    reference.var_names = [ensembl(i, ".4") for i in range(60)]
    query.var_names = [ensembl(i, f".{i}") for i in range(60)]
    ref, _ = align(read_reference(reference), read_query(query))
    assert ref.genes.tolist() == [ensembl(i) for i in range(60)]
    assert gene_names.strip_versions(np.array(["RP11-1.2", "ENSG00000182378.14_PAR_Y"], dtype=object)).tolist() == [
        "RP11-1.2",
        "ENSG00000182378.14_PAR_Y",
    ]


@pytest.mark.parametrize("side", ["reference", "query"])
@pytest.mark.parametrize("column", ["gene_ids", "feature_name"])
def test_ensembl_ids_meet_symbols_through_a_column(reference, query, side, column):
    expected = align(read_reference(reference), read_query(query))
    symbols = reference.var_names.to_numpy()
    ids = [ensembl(i, ".2") for i in range(60)]
    other = {"reference": query, "query": reference}[side]
    adata = {"reference": reference, "query": query}[side]
    if column == "gene_ids":  # this side has symbols and a column of ids, the other ids only
        adata.var[column], other.var_names = ids, ids
    else:  # this side has ids and a column of symbols
        adata.var_names, adata.var[column] = ids, pd.Categorical(symbols)
    adata.var["feature_types"] = "Gene Expression"
    ref, cells = align(read_reference(reference), read_query(query))
    assert len(ref.genes) == 60
    assert any(column in note for note in (ref if side == "reference" else cells).notes)
    name_of = {symbol: symbol for symbol in symbols} | {ensembl(i): symbol for i, symbol in enumerate(symbols)}
    order = np.argsort([name_of[name] for name in ref.genes])
    for found, wanted in ((ref, expected[0]), (cells, expected[1])):
        np.testing.assert_array_equal(found.counts.toarray()[:, order], wanted.counts.toarray())


def test_genes_without_the_other_name_are_left_out(reference, query):
    ids = np.array([ensembl(i) for i in range(60)], dtype=object)
    query.var_names = ids.copy()
    ids[:7] = np.nan
    reference.var["gene_ids"] = ids
    ref, _ = align(read_reference(reference), read_query(query))
    assert ref.genes.tolist() == ids[7:].tolist()


def test_names_that_match_are_kept_whatever_the_columns_hold(reference, query):
    for adata in (reference, query):
        adata.var["gene_ids"] = [ensembl(i) for i in range(60)]
    query.var_names = [*query.var_names[:55], *"ABCDE"]  # ids would match a few more
    ref, _ = align(read_reference(reference), read_query(query))
    assert ref.genes.tolist() == sorted(reference.var_names[:55])


def test_too_few_shared_genes_are_named(reference, query):
    query.var_names = [f"Gene{i}" if i < 9 else f"Other{i}" for i in range(60)]
    message = refusal(GenesError, align, read_reference(reference), read_query(query))
    assert "at least 10 genes" in message
    assert "9 shared of 60 in the reference (Gene0, Gene1, Gene10, ...) and 60 in the query (Gene0, " in message
    query.var_names = [f"Gene{i}" if i < 10 else f"Other{i}" for i in range(60)]
    ref, cells = align(read_reference(reference), read_query(query))
    assert len(ref.genes) == 10
    assert "10 genes shared, of 60 in the reference and 60 in the query" in cells.notes


@pytest.mark.parametrize("n_alike", [0, 11])  # some symbols are spelt alike in man and mouse
def test_case_tells_species_apart_and_is_never_folded(n_alike):
    reference, query = (AnnData(np.ones((8, 100), dtype="float32")) for _ in range(2))
    reference.obs["cell_type"] = ["A", "B"] * 4
    reference.var_names = [f"Gad{i}" if i >= n_alike else f"C{i}" for i in range(100)]
    query.var_names = [f"GAD{i}" if i >= n_alike else f"C{i}" for i in range(100)]
    message = refusal(GenesError, align, read_reference(reference), read_query(query))
    assert f"found {n_alike} shared" in message
    assert re.search(
        r"100 would match if case were ignored \('Gad\d+' against 'GAD\d+'\): looks like different species", message
    )


def test_ensembl_ids_of_two_kinds_are_told_apart(reference, query):
    reference.var_names = [ensembl(i) for i in range(60)]
    message = refusal(GenesError, align, read_reference(reference), read_query(query))
    assert "the reference has Ensembl ids, the query has not" in message
    query.var_names = [f"ENSG{i:011d}" for i in range(60)]
    message = refusal(GenesError, align, read_reference(reference), read_query(query))
    assert "different species (ENSMUSG against ENSG)" in message


def test_genes_of_a_model_are_selected_in_its_order(query):
    wanted = ["Gene30", "Gene2", "Gene11"]
    cells = select_genes(read_query(query), wanted)
    assert cells.genes.tolist() == wanted
    np.testing.assert_array_equal(cells.counts.toarray(), query[cells.rows, wanted].X.toarray())
    message = refusal(GenesError, select_genes, read_query(query), [*wanted, "Gad1", "Sst"])
    assert "the 5 genes of the model; found 2 of them missing: Gad1, Sst" in message
    query.var["symbol"] = [f"Sym{i}" for i in range(60)]
    assert select_genes(read_query(query), ["Sym4", "Sym1"]).genes.tolist() == ["Sym4", "Sym1"]


# ---- writing back


def prediction_for(cells, n_types: int, seed: int = 0, **options) -> Prediction:
    rng = np.random.default_rng(seed)
    return Prediction(
        proba=rng.dirichlet(np.ones(n_types), len(cells)),
        embedding=rng.normal(size=(len(cells), 4)),
        rejection=rng.random(len(cells)),
        **options,
    )


def test_results_go_back_to_their_cells(query):
    query.X = query.X.toarray()
    query.X[[0, 9]] = 0
    query.obs_names = ["twin"] * query.n_obs
    types = ("A", "B", "L2/3 IT")
    cells = read_query(query)
    prediction = prediction_for(cells, 3, threshold=0.7)
    write(query, cells, prediction, types, key_added="mine", parameters={})
    assert query.obs["mine"].cat.categories.tolist() == ["A", "B", "L2/3 IT", "unknown"]
    for place, row in enumerate(cells.rows):
        says = types[prediction.proba[place].argmax()] if prediction.rejection[place] <= 0.7 else "unknown"
        assert query.obs["mine"].iloc[row] == says
    np.testing.assert_allclose(
        query.obs["mine_confidence"].to_numpy()[cells.rows], prediction.proba.max(axis=1), rtol=1e-6
    )
    np.testing.assert_allclose(query.obs["mine_rejection"].to_numpy()[cells.rows], prediction.rejection, rtol=1e-6)
    np.testing.assert_allclose(query.obsm["X_mine"][cells.rows], prediction.embedding, rtol=1e-6)
    proba = query.obsm["mine_proba"]
    assert proba.columns.tolist() == ["A", "B", "L2|3 IT"]
    np.testing.assert_allclose(proba.to_numpy().sum(axis=1), 1)
    for row in (0, 9):  # left out by the gate
        assert query.obs["mine"].iloc[row] == "unknown"
        assert query.obs["mine_confidence"].iloc[row] == 0
        assert query.obs["mine_rejection"].iloc[row] == 1
        np.testing.assert_allclose(proba.iloc[row], 1 / 3)
    assert query.obs["mine_confidence"].dtype == np.float32


def test_nothing_else_is_changed(query):
    before = fingerprint(query)
    cells = read_query(query)
    write(query, cells, prediction_for(cells, 2), ("A", "B"), key_added="mine", parameters={"a": None})
    for key in ("mine", "mine_confidence", "mine_rejection"):
        del query.obs[key]
    del query.obsm["mine_proba"], query.obsm["X_mine"], query.uns["mine"]
    assert fingerprint(query) == before


def test_unknown_is_always_a_category_and_never_twice(query):
    cells = read_query(query)
    prediction = prediction_for(cells, 3, threshold=1.0)
    write(query, cells, prediction, ("A", "unknown", "Z"), key_added="mine", parameters={})
    assert query.obs["mine"].cat.categories.tolist() == ["A", "Z", "unknown"]
    expected = np.array(["A", "unknown", "Z"])[prediction.proba.argmax(axis=1)]
    assert query.obs["mine"].astype(str).to_numpy()[cells.rows].tolist() == expected.tolist()


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_results_survive_a_file(query, tmp_path, suffix):
    from stgnn.data.files import open_h5ad_or_zarr, write_atomically

    cells = read_query(query)
    details = {
        "curve": [1.0, 0.5],
        "device": None,
        "steps": (3,),
        "L2/3": {"deep": {"er": np.float32(2)}},
        "names": ["a"],
    }
    details |= {"none": [], "mixed": [1, "a", None], "path": tmp_path, "flag": True, "records": [{"loss": 1.0}]}
    prediction = prediction_for(cells, 2, details=details)
    write(query, cells, prediction, ("A/B", "A|B"), key_added="mine", parameters={"layer": None, "scale": 0.5})
    write_atomically(query, tmp_path / f"out{suffix}")
    back = open_h5ad_or_zarr(tmp_path / f"out{suffix}", "result")
    pd.testing.assert_frame_equal(back.obs, query.obs)
    pd.testing.assert_frame_equal(back.obsm["mine_proba"], query.obsm["mine_proba"])
    saved = back.uns["mine"]
    assert saved["types"].tolist() == ["A/B", "A|B"]
    assert saved["parameters"] == {"layer": "None", "scale": 0.5}
    assert saved["details"]["curve"].tolist() == [1.0, 0.5]
    assert saved["details"]["L2|3"]["deep"]["er"] == 2.0
    assert saved["details"]["records"]["0"]["loss"] == 1.0
    assert saved["notes"].tolist() == list(cells.notes)


def test_a_subset_can_be_annotated(query):
    part = query[:50]
    cells = read_query(part)
    write(part, cells, prediction_for(cells, 2), ("A", "B"), key_added="mine", parameters={})
    assert part.obs["mine"].notna().all()
    assert "mine" not in query.obs


def test_results_of_other_cells_are_refused(query):
    cells = read_query(query)
    options = {"key_added": "mine", "parameters": {}}
    good = prediction_for(cells, 2)
    assert "found 10 cells" in refusal(InputError, write, query[:10].copy(), cells, good, ("A", "B"), **options)
    assert "found shape (400, 2)" in refusal(InputError, write, query, cells, good, ("A", "B", "C"), **options)
    short = dataclasses.replace(good, rejection=good.rejection[:7])
    assert "prediction.rejection" in refusal(InputError, write, query, cells, short, ("A", "B"), **options)
    double = dataclasses.replace(good, proba=2 * good.proba)
    assert "rows that sum to 1" in refusal(InputError, write, query, cells, double, ("A", "B"), **options)
    assert "mine" not in query.obs


def test_results_overwrite_results_only(query):
    cells = read_query(query)
    message = refusal(OptionError, write, query, cells, prediction_for(cells, 2), ("A", "B"), key_added="cell_type")
    assert message.startswith("key_added") and "'cell_type', a column of obs" in message
    assert "without '/'" in refusal(OptionError, check_key_added, query, "a/b")
    other = AnnData(query.X, obs=query.obs.assign(leiden="0"), uns={"leiden": {"params": {}}, "pca": {}})
    other.obsm["X_pca"] = np.zeros((query.n_obs, 2))
    assert "'leiden', a column" in refusal(OptionError, check_key_added, other, "leiden")
    assert "'X_pca', an entry of obsm" in refusal(OptionError, check_key_added, other, "pca")
    for seed in (1, 2):
        prediction = prediction_for(cells, 2, seed=seed)
        write(query, cells, prediction, ("A", "B"), key_added="mine", parameters={})
    np.testing.assert_allclose(query.obsm["mine_proba"].to_numpy()[cells.rows], prediction.proba)


def test_columns_of_types_are_unique_and_without_slashes():
    assert type_columns(["A/B", "A|B", "C"]) == ["A|B", "A|B|", "C"]


# ---- real tissue


def test_real_tissue_passes_and_its_logarithm_is_recognised(data_folder):
    path = data_folder / "cells" / "hypothalamus_merfish_animal1.h5ad"
    ref, cells = align(
        read_reference(data_folder / "cells" / "hypothalamus_scrna.h5ad", section_key="section"),
        read_query(path, section_key="section"),
    )
    assert (len(ref), len(cells), len(ref.genes), len(ref.types), len(cells.sections)) == (1116, 20693, 134, 12, 4)
    assert cells.coords is not None

    adata = anndata.read_h5ad(path)[::10].copy()
    expected = read_query(adata)
    adata.X = log_normalised(adata.X)
    assert "looks log-normalised with target 10000" in refusal(CountsError, read_query, adata)
    found = read_query(adata, recover_counts=True).counts.toarray()
    common = np.array([np.gcd.reduce(row.astype(int)) for row in expected.counts.toarray()])
    np.testing.assert_array_equal(found, expected.counts.toarray() / common[:, None])


@pytest.mark.parametrize(
    "name", ["starmap_mpfc_BZ5_BZ9", "starmap_v1", "mop_10x", "osmfish_cortex", "seqfish_embryo_z2"]
)
def test_every_real_set_is_read_whole(data_folder, name):
    path = data_folder / "cells" / f"{name}.h5ad"
    adata = anndata.read_h5ad(path)
    cells = read_query(path)
    filled = np.asarray(adata.X.sum(axis=1)).ravel() > 0
    assert len(cells) == filled.sum()
    assert cells.counts.sum() == adata.X.sum()
    assert (cells.coords is not None) == ("spatial" in adata.obsm)


def test_two_species_are_refused(data_folder):
    ref = read_reference(data_folder / "cells" / "hypothalamus_scrna.h5ad")
    cells = read_query(data_folder / "cells" / "merfish_lung.h5ad")
    assert "case" in refusal(GenesError, align, ref, cells)


def test_of_many_genes_those_that_differ_between_types_are_kept():
    reference, query = toy(n_cells=200, n_genes=60)
    known, asked = align(read_reference(reference), read_query(query))
    few, same = focus(known, asked, 10)
    assert few.genes.tolist() == same.genes.tolist()
    assert len(few.genes) == 10
    assert "10 of 60 shared genes kept" in same.notes[-1]
    # a gene that no type has is the first to go, one that marks a type the last
    counts = known.counts.toarray()
    counts[:, 5] = 0
    counts[:, 7] = 100 * (known.labels == 2)
    there = counts.any(0)
    few, _ = focus(dataclasses.replace(known, counts=sp.csr_matrix(counts)), asked, int(there.sum()))
    assert few.genes.tolist() == known.genes[there].tolist()
    few, _ = focus(dataclasses.replace(known, counts=sp.csr_matrix(counts)), asked, 1)
    assert few.genes.tolist() == [known.genes[7]]
    assert focus(known, asked, 60) == (known, asked)
