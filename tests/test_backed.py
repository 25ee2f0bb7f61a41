"""Large sections that stay in their files: results are those of the same cells in memory, to the last bit."""

import subprocess
import sys

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from stgnn import cli, tl
from stgnn.data import backed
from stgnn.data.cells import align, match, read_query, read_reference
from stgnn.data.schema import StgnnError
from stgnn.data.stored import StoredCounts, StoredRows, table_beside
from stgnn.data.toy import toy
from stgnn.methods.spatial_transformer_gnn import SpatialTransformerGNN

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2", "ignore:Variable names are not unique")


@pytest.fixture
def pair(monkeypatch):
    """A reference and a query that counts as large: cells in a random order, one of them empty, and a gene twice."""
    monkeypatch.setattr(backed, "LARGE", 100)
    monkeypatch.setattr(backed, "_AT_ONCE", 64)
    reference, query = toy(n_cells=200, random_state=1)
    query = query[np.random.default_rng(0).permutation(query.n_obs)].copy()
    counts = query.X.toarray()
    counts[7] = 0
    query.X = sp.csr_matrix(counts)
    query.var_names = [*query.var_names[:-1], query.var_names[0]]
    return reference, query


QUICK = SpatialTransformerGNN(members=1, rounds=1, steps=5, max_cells=120, cells_per_piece=70)


def same(left, right):
    """Whether two annotated files say the same."""
    assert left.obs["stgnn"].equals(right.obs["stgnn"])
    for column in ("stgnn_confidence", "stgnn_rejection"):
        assert left.obs[column].dtype == right.obs[column].dtype == np.float32
        np.testing.assert_array_equal(left.obs[column], right.obs[column])
    pd.testing.assert_frame_equal(left.obsm["stgnn_proba"], right.obsm["stgnn_proba"])
    np.testing.assert_array_equal(left.obsm["X_stgnn"], right.obsm["X_stgnn"])
    assert left.obs.columns.tolist() == right.obs.columns.tolist()
    assert left.uns["stgnn"].keys() == right.uns["stgnn"].keys()


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_results_are_those_in_memory(pair, tmp_path, suffix):
    reference, query = pair
    reference.write_h5ad(tmp_path / "reference.h5ad")
    paths = [tmp_path / f"{name}.{suffix}" for name in ("query", "output")]
    getattr(query, f"write_{suffix}")(paths[0])
    files, model = (*paths, tmp_path / "reference.h5ad"), tmp_path / "m"
    tl.annotate_file(*files, section_key="section", method=QUICK, save_model=model)
    output = getattr(anndata, f"read_{suffix}")(paths[1])
    tl.annotate(query, reference, section_key="section", method=QUICK)
    same(output, query)
    assert sorted(output.uns["stgnn"]["notes"]) == sorted(query.uns["stgnn"]["notes"])
    np.testing.assert_array_equal(_dense(output.X), _dense(query.X))
    assert output.obs["stgnn"].iloc[7] == "unknown"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["m", "reference.h5ad", f"query.{suffix}", f"output.{suffix}"]
    )
    # once more with the saved model, over an earlier result
    tl.annotate_file(paths[1], tmp_path / f"again.{suffix}", model=tmp_path / "m", section_key="section")
    same(getattr(anndata, f"read_{suffix}")(tmp_path / f"again.{suffix}"), output)


@pytest.mark.parametrize("where", ["X", "layers", "raw", "dense", "float"])
def test_counts_are_read_as_the_gate_reads_them(pair, tmp_path, where):
    reference, query = pair
    reference.var_names = reference.var_names[::-1]  # genes of the query are to be put in another order
    if where == "dense":
        query.X = query.X.toarray()
    elif where == "float":
        query.X.data = query.X.data + np.float32(3e-4)  # float noise of an export
    elif where != "X":
        if where == "raw":
            query.raw = query.copy()
        else:
            query.layers["counts"] = query.X.copy()
        query.X = query.X.log1p()
    query.write_h5ad(tmp_path / "query.h5ad")
    _, wanted = align(read_reference(reference), read_query(query, section_key="section"))
    source = backed.open_query(tmp_path / "query.h5ad", section_key="section")
    _, matched = match(read_reference(reference), source.cells)
    told = []
    got = source.read(matched, tmp_path, told.append)
    assert sum(told) == query.n_obs
    np.testing.assert_array_equal(got.counts[:].toarray(), wanted.counts.toarray())
    np.testing.assert_array_equal(got.counts.sum(1), np.asarray(wanted.counts.sum(1)))
    for name in ("genes", "coords", "section", "rows"):
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))
    assert (got.n_source, got.sections) == (wanted.n_source, wanted.sections)
    assert sorted(got.notes) == sorted(wanted.notes)


def _dense(matrix):
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def test_what_needs_all_cells_is_read_whole(pair, tmp_path):
    reference, query = pair
    reference.write_h5ad(tmp_path / "reference.h5ad")
    query.X = sp.csc_matrix(query.X)  # stored gene by gene
    query.write_h5ad(tmp_path / "query.h5ad")
    assert not backed.stays(tmp_path / "query.h5ad", 100)
    tl.annotate_file(tmp_path / "query.h5ad", tmp_path / "a.h5ad", tmp_path / "reference.h5ad", method="logistic")
    query.X = sp.csr_matrix(query.X)
    query.write_h5ad(tmp_path / "query.h5ad")
    assert backed.stays(tmp_path / "query.h5ad", 100)
    tl.annotate_file(tmp_path / "query.h5ad", tmp_path / "b.h5ad", tmp_path / "reference.h5ad", method="logistic")
    same(anndata.read_h5ad(tmp_path / "a.h5ad"), anndata.read_h5ad(tmp_path / "b.h5ad"))


@pytest.mark.parametrize("place", ["first", "later"])
def test_what_are_no_counts_is_refused_and_leaves_nothing(pair, tmp_path, capsys, place):
    reference, query = pair
    reference.write_h5ad(tmp_path / "reference.h5ad")
    counts = query.X.toarray()
    counts[0 if place == "first" else 150, 3] = -1.5
    query.X = sp.csr_matrix(counts)
    query.write_h5ad(tmp_path / "query.h5ad")
    names = [str(tmp_path / f"{name}.h5ad") for name in ("query", "reference", "output")]
    assert cli.main(["annotate", names[0], "--reference", names[1], "--output", names[2]]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "raw counts" in line
    assert "negative" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["query.h5ad", "reference.h5ad"]


def test_key_that_is_taken_is_refused_before_work(pair, tmp_path):
    reference, query = pair
    reference.write_h5ad(tmp_path / "reference.h5ad")
    query.write_h5ad(tmp_path / "query.h5ad")
    with pytest.raises(StgnnError, match="section"):
        tl.annotate_file(
            tmp_path / "query.h5ad", tmp_path / "out.h5ad", tmp_path / "reference.h5ad", key_added="section"
        )


def test_a_file_without_obsm_and_uns_gets_them(pair, tmp_path, monkeypatch):
    reference, query = pair
    seen = []
    monkeypatch.setattr(
        SpatialTransformerGNN,
        "predict",
        lambda self, cells, each, kept=SpatialTransformerGNN.predict: (
            seen.append(type(cells.counts)) or kept(self, cells)
        ),
    )
    reference.write_h5ad(tmp_path / "reference.h5ad")
    query.write_h5ad(tmp_path / "query.h5ad")
    with h5py.File(tmp_path / "query.h5ad", "r+") as file:
        del file["obsm"], file["uns"]
    tl.annotate_file(tmp_path / "query.h5ad", tmp_path / "out.h5ad", tmp_path / "reference.h5ad", method=QUICK)
    assert seen == [StoredCounts]  # else the tests here would compare memory with memory
    output = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert "stgnn_proba" in output.obsm
    assert "no coordinates" in " ".join(output.uns["stgnn"]["notes"])


def test_stored_counts_read_as_the_matrix_does(tmp_path):
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(rng.poisson(0.3, (200, 40)).astype(np.float32))
    blocks = (counts[start : start + 30] for start in range(0, 200, 30))
    stored, filled = StoredCounts.write(blocks, tmp_path, 40)
    kept = counts[np.flatnonzero(filled)]
    assert stored.shape == kept.shape
    for rows in (slice(3, 70), slice(None), np.array([5, 4, 4, 150, 0]), np.empty(0, dtype=int)):
        got, wanted = stored[rows], kept[rows]
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got.toarray(), wanted.toarray())
        assert got.has_sorted_indices
    np.testing.assert_array_equal(stored.sum(1), np.asarray(kept.sum(1)))
    (tmp_path / "counts.bin").write_bytes((tmp_path / "counts.bin").read_bytes()[:-3])
    with pytest.raises(OSError, match="shorter"):
        stored[:]


def test_stored_table_reads_as_an_array_does(tmp_path):
    stored, _ = StoredCounts.write([sp.csr_matrix(np.ones((9, 2), np.float32))], tmp_path, 2)
    table = table_beside(stored, "proba", 3, np.float32)
    array = np.zeros((9, 3), np.float32)
    for rows in (np.array([8, 2, 5]), slice(3, 5)):
        value = np.random.default_rng(0).random((len(array[rows]), 3), dtype=np.float32)
        table[rows] = array[rows] = value
    assert isinstance(table, StoredRows)
    np.testing.assert_array_equal(table[:], array)
    np.testing.assert_array_equal(table[np.array([2, 2])], array[[2, 2]])
    assert table_beside(stored, "none", 0, np.float32)[2:4].shape == (2, 0)


def test_memory_does_not_grow_with_the_table(tmp_path):
    code = """
import resource, sys, numpy as np, scipy.sparse as sp
from pathlib import Path
from stgnn.data.stored import StoredCounts
block = sp.csr_matrix(np.ones((2000, 100), np.float32))
counts, _ = StoredCounts.write((block.copy() for _ in range(int(sys.argv[2]))), Path(sys.argv[1]), 100)
for start in range(0, counts.shape[0], 2000):
    counts[np.random.default_rng(start).permutation(counts.shape[0])[:2000]]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    small, large = (
        int(subprocess.run([sys.executable, "-c", code, str(tmp_path), n], capture_output=True, check=True).stdout)
        for n in ("5", "100")
    )
    assert large < small + 30_000  # kB; the counts take 120 MB
