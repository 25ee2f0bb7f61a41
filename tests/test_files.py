from __future__ import annotations

import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
from anndata import AnnData

from stgnn.data.cells import read_query
from stgnn.data.files import PARTIAL, check_output, open_h5ad_or_zarr, write_atomically
from stgnn.data.schema import FileError


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert "expected" in message and "found" in message
    return message


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_write_then_read(query, tmp_path, suffix):
    path = tmp_path / f"cells{suffix}"
    query.uns["made"] = "first"
    write_atomically(query, path)
    query.uns["made"] = "second"
    write_atomically(query, path)  # replaces an earlier result
    back = open_h5ad_or_zarr(path, "query")
    assert (back.X != query.X).nnz == 0
    assert back.obs.equals(query.obs)
    assert back.uns["made"] == "second"
    np.testing.assert_array_equal(back.obsm["spatial"], query.obsm["spatial"])
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_path_and_object_read_alike(query, tmp_path, suffix):
    write_atomically(query, tmp_path / f"cells{suffix}")
    from_path = read_query(str(tmp_path / f"cells{suffix}"), section_key="section")
    from_object = read_query(query, section_key="section")
    assert (from_path.counts != from_object.counts).nnz == 0
    assert from_path.sections == from_object.sections
    np.testing.assert_array_equal(from_path.names, from_object.names)
    np.testing.assert_array_equal(from_path.coords, from_object.coords)


def test_writing_leaves_text_columns_as_they_are(query, tmp_path):
    query.obs["comment"] = ["a", "b"] * (query.n_obs // 2)
    before = query.obs.dtypes.astype(str).to_dict()
    write_atomically(query, tmp_path / "cells.h5ad")
    assert query.obs.dtypes.astype(str).to_dict() == before


def test_repeated_names_in_a_file_do_not_warn(query, tmp_path):
    query.obs_names = ["same"] * query.n_obs
    write_atomically(query, tmp_path / "cells.h5ad")
    assert open_h5ad_or_zarr(tmp_path / "cells.h5ad", "query").n_obs == query.n_obs


KILLED = """
import os, signal, sys
import numpy as np
from anndata import AnnData
from stgnn.data import files
files._flush = lambda path: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically(AnnData(np.eye(5, dtype="float32")), sys.argv[1])
"""


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_a_killed_write_leaves_only_a_partial_file_which_the_next_write_removes(query, tmp_path, suffix):
    path = tmp_path / f"cells{suffix}"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [path.name + PARTIAL]
    write_atomically(query, path)
    assert os.listdir(tmp_path) == [path.name]
    old = tmp_path / f"{path.name}.old{PARTIAL}"  # what a kill while a folder is replaced leaves
    old.mkdir()
    (old / "part").touch()
    write_atomically(query, path)
    assert os.listdir(tmp_path) == [path.name]


def test_a_failed_write_leaves_the_earlier_result(query, tmp_path):
    path = tmp_path / "cells.h5ad"
    write_atomically(query, path)
    before = path.read_bytes()
    query.uns["no file holds this"] = object()
    with pytest.raises(FileError) as error:
        write_atomically(query, path)
    assert str(path) in one_line(error)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def not_hdf5(path):
    path.write_text("cell,gene\n1,2\n")


def truncated(path):
    AnnData(np.eye(50, dtype="float32")).write_h5ad(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.touch()


def other_hdf5(path):
    with h5py.File(path, "w") as file:
        file["matrix"] = np.eye(3)


def no_cells(path):
    AnnData(np.zeros((0, 3), dtype="float32")).write_h5ad(path)


def no_genes(path):
    AnnData(np.zeros((3, 0), dtype="float32")).write_h5ad(path)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (not_hdf5, "cannot be read"),
        (truncated, "cannot be read"),
        (empty, "cannot be read"),
        (other_hdf5, "0 cells and 0 genes|cannot be read"),
        (no_cells, "0 cells and 3 genes"),
        (no_genes, "3 cells and 0 genes"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: None, "no file"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, make, found):
    path = tmp_path / "cells.h5ad"
    make(path)
    with pytest.raises(FileError, match=rf"^query: expected .+found .*({found})") as error:
        read_query(path)
    assert str(path) in one_line(error)


def test_a_zarr_that_is_a_file_or_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "file.zarr").touch()
    with pytest.raises(FileError, match=r"reference: expected a \.zarr folder; found a file"):
        open_h5ad_or_zarr(tmp_path / "file.zarr", "reference")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(FileError, match=r"reference: expected .+ of AnnData; found .+ cannot be read") as error:
        open_h5ad_or_zarr(tmp_path / "empty.zarr", "reference")
    one_line(error)


def test_other_suffixes_are_refused_with_a_way_out(tmp_path):
    with pytest.raises(FileError, match=r"query: expected .+\.h5ad.+; found '.+cells\.h5'; .*read_10x_h5"):
        open_h5ad_or_zarr(tmp_path / "cells.h5", "query")


def test_a_missing_file_names_those_beside_it(query, tmp_path):
    write_atomically(query, tmp_path / "brain.h5ad")
    with pytest.raises(FileError, match=r"no file .+bran\.h5ad'; that folder holds .+brain\.h5ad"):
        open_h5ad_or_zarr(tmp_path / "bran.h5ad", "query")


def test_outputs_are_checked_before_any_work(tmp_path, monkeypatch):
    assert check_output(tmp_path / "out.h5ad") == tmp_path / "out.h5ad"
    with pytest.raises(FileError, match=r"^output: expected a name ending in \.h5ad or \.zarr; found .+out\.csv"):
        check_output(tmp_path / "out.csv")
    with pytest.raises(FileError, match=r"expected an existing folder; found no folder .+none'; create it"):
        check_output(tmp_path / "none" / "out.h5ad")
    (tmp_path / "folder.h5ad").mkdir()
    with pytest.raises(FileError, match=r"found a folder of that name"):
        check_output(tmp_path / "folder.h5ad")
    (tmp_path / "in.h5ad").touch()
    os.symlink(tmp_path / "in.h5ad", tmp_path / "link.h5ad")
    for same in (tmp_path / "in.h5ad", tmp_path / ".." / tmp_path.name / "in.h5ad", tmp_path / "link.h5ad"):
        with pytest.raises(FileError, match=r"expected another file than the inputs"):
            check_output(same, inputs=[tmp_path / "in.h5ad"])
    monkeypatch.setattr(os, "access", lambda *_: False)  # permissions do not bind every user that runs tests
    with pytest.raises(FileError, match=r"which is not writable"):
        check_output(tmp_path / "out.h5ad")


def test_an_earlier_zarr_survives_a_replacement_that_fails(query, tmp_path, monkeypatch):
    path = tmp_path / "cells.zarr"
    write_atomically(query, path)
    before, replace = sorted(path.rglob("*")), os.replace

    def fails(source, target):
        if str(source).endswith(PARTIAL) and not str(source).endswith(".old" + PARTIAL):
            raise OSError("no space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(FileError, match="no space"):
        write_atomically(query, path)
    assert sorted(path.rglob("*")) == before
    assert [each.name for each in tmp_path.iterdir()] == ["cells.zarr"]
