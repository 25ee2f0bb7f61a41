"""Public sources, against a server on this machine: what arrives is whole, and what does not is said in one line."""

from __future__ import annotations

import hashlib
import json
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from refusals import refusal
from stgnn import cli, datasets
from stgnn.data.fetch import fetch
from stgnn.data.schema import FileError, InputError, OptionError
from stgnn.data.toy import toy
from stgnn.data.web import Web
from stgnn.datasets import Sites
from web import Server, serve

QUICK = Web(timeout_s=5, pause_s=0)
BODY = bytes(range(256)) * 100
STUDY = "/STDS0000001/stomics"
COLLECTION, DATASET = (f"{number:08d}-0000-0000-0000-000000000000" for number in (1, 2))


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve() as running:
        yield running


@pytest.fixture(scope="module")
def stomics_file() -> bytes:
    """A section as STOmicsDB has them: scaled X, counts in a layer, types as annotation, three axes."""
    _, section = toy(n_cells=60)
    section.layers["count"] = section.X.copy()
    section.X = sp.csr_matrix(section.X).log1p().astype(np.float32)
    section.obs["annotation"] = np.resize(["neuron", "glia"], section.n_obs)
    section.obs["section"] = np.repeat(["left", "right"], section.n_obs // 2)
    section.obs = section.obs[["annotation", "section"]]
    section.obsm["spatial"] = np.column_stack([section.obsm["spatial"], np.zeros(section.n_obs)])
    return as_bytes(section)


@pytest.fixture(scope="module")
def cellxgene_file() -> bytes:
    """A reference as CELLxGENE has them: counts in raw, types in cell_type."""
    reference, _ = toy(n_cells=60)
    reference.raw = reference.copy()
    reference.X = sp.csr_matrix(reference.X).log1p().astype(np.float32)
    return as_bytes(reference)


def as_bytes(adata: anndata.AnnData) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        adata.write_h5ad(path := Path(folder) / "a.h5ad")
        return path.read_bytes()


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def left_in(folder: Path) -> set[str]:
    """Names of files in a folder, but for locks."""
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


# one file


def test_a_file_is_fetched_once(server, tmp_path):
    server.files["/a.h5ad"] = BODY
    for _ in range(2):
        assert fetch(f"{server.url}/a.h5ad", tmp_path / "sets" / "a.h5ad", web=QUICK).read_bytes() == BODY
    assert server.asked == [("/a.h5ad", "")]
    assert left_in(tmp_path) == {"a.h5ad"}


def test_a_cut_is_mended_within_a_call(server, tmp_path):
    server.files["/a.h5ad"], server.cuts = BODY, [700, 300]
    assert fetch(f"{server.url}/a.h5ad", tmp_path / "a.h5ad", web=QUICK).read_bytes() == BODY
    assert [wanted for _, wanted in server.asked] == ["", "bytes=700-", "bytes=1000-"]


def test_a_cut_is_mended_by_the_next_call(server, tmp_path):
    server.files["/a.h5ad"], server.cuts = BODY, [700, 300]
    once = Web(tries=1)
    assert "700 bytes so far" in refusal(FileError, fetch, f"{server.url}/a.h5ad", tmp_path / "a.h5ad", web=once)
    assert left_in(tmp_path) == {"a.h5ad.partial", "a.h5ad.partial.tag"}
    refusal(FileError, fetch, f"{server.url}/a.h5ad", tmp_path / "a.h5ad", web=once)
    assert fetch(f"{server.url}/a.h5ad", tmp_path / "a.h5ad", checksum=sha256(BODY), web=once).read_bytes() == BODY
    assert server.asked[-1] == ("/a.h5ad", "bytes=1000-")
    assert left_in(tmp_path) == {"a.h5ad"}


@pytest.mark.parametrize("change", ["another version", "another address", "no ranges", "too much"])
def test_parts_of_two_files_are_never_joined(server, tmp_path, change):
    server.files["/a.h5ad"], server.cuts = BODY, [700]
    refusal(FileError, fetch, f"{server.url}/a.h5ad", tmp_path / "a.h5ad", web=Web(tries=1))
    new = BODY[::-1] if change != "too much" else BODY[:500]
    server.files = {"/a.h5ad": new, "/b.h5ad": new}
    if change == "another version":
        server.etag = '"second"'
    server.ranges = change != "no ranges"
    name = "b.h5ad" if change == "another address" else "a.h5ad"
    assert fetch(f"{server.url}/{name}", tmp_path / "a.h5ad", web=QUICK).read_bytes() == new


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    server.files["/a.h5ad"] = BODY
    message = refusal(
        FileError, fetch, f"{server.url}/a.h5ad", tmp_path / "a.h5ad", checksum=sha256(b"other"), web=QUICK
    )
    assert message.startswith("checksum: ")
    assert left_in(tmp_path) == set()


def test_a_file_of_another_checksum_is_replaced(server, tmp_path):
    server.files["/a.h5ad"] = BODY
    (tmp_path / "a.h5ad").write_bytes(b"old")
    fetch(f"{server.url}/a.h5ad", tmp_path / "a.h5ad", checksum=sha256(BODY), web=QUICK)
    assert (tmp_path / "a.h5ad").read_bytes() == BODY
    refusal(OptionError, fetch, "http://a", tmp_path / "a.h5ad", checksum="9f86")


def test_redirects_are_followed(server, tmp_path):
    server.files["/b"], server.redirects = BODY, {"/a.h5ad": "/c", "/c": f"{server.url}/b", "/d": "/d"}
    assert fetch(f"{server.url}/a.h5ad", tmp_path / "a.h5ad", web=QUICK).read_bytes() == BODY
    assert "302" in refusal(FileError, fetch, f"{server.url}/d", tmp_path / "d.h5ad", web=QUICK)


def test_a_server_that_asks_for_patience_gets_it(server, tmp_path):
    server.files["/b"], server.redirects, server.retry_after = BODY, {"/a.h5ad": "/b"}, "1"
    start = time.monotonic()
    fetch(f"{server.url}/a.h5ad", tmp_path / "a.h5ad", web=QUICK)
    assert time.monotonic() - start >= 1


def test_what_is_no_file_is_refused(server, tmp_path):
    server.files["/page.h5ad"] = b"<!DOCTYPE html><title>log in</title>"
    server.files["/empty.h5ad"] = b""
    url, place = server.url, tmp_path / "a.h5ad"
    assert "404" in refusal(FileError, fetch, f"{url}/a.h5ad", place, web=QUICK)
    assert "an HTML page" in refusal(FileError, fetch, f"{url}/page.h5ad", place, web=QUICK)
    message = refusal(FileError, fetch, f"{url}/empty.h5ad", place, check=datasets._check_whole, web=QUICK)
    assert "a whole HDF5 file" in message
    assert left_in(tmp_path) == set()


def test_no_network_is_one_line(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    message = refusal(FileError, fetch, f"http://127.0.0.1:{port}/a.h5ad", tmp_path / "a.h5ad", web=QUICK)
    assert "no connection" in message and "--offline" in message
    assert left_in(tmp_path) == set()


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert "stgnn[data]" in refusal(FileError, fetch, "http://127.0.0.1/a.h5ad", tmp_path / "a.h5ad")
    monkeypatch.setitem(sys.modules, "requests", None)
    assert "stgnn[data]" in refusal(FileError, datasets.fetch, "stomics:STDS0000001", cache=tmp_path)


FETCH = "import sys; from stgnn.data.fetch import fetch; fetch(sys.argv[1], sys.argv[2])"


@contextmanager
def process(url: str, path: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", FETCH, url, str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def wait_for(server: Server, folder: Path) -> None:
    for _ in range(1000):
        if any(path.stat().st_size for path in folder.glob("*.partial")):
            return
        time.sleep(0.01)
    raise TimeoutError(server.asked)


def test_two_processes_share_one_download(server, tmp_path):
    server.files["/a.h5ad"], server.pause_s = BODY, 0.02
    url, path = f"{server.url}/a.h5ad", tmp_path / "a.h5ad"
    with process(url, path) as first, process(url, path) as second:
        assert (first.wait(20), second.wait(20)) == (0, 0), first.stderr.read() + second.stderr.read()
    assert path.read_bytes() == BODY
    assert server.asked == [("/a.h5ad", "")]


def test_a_killed_download_leaves_no_file_and_is_gone_on_with(server, tmp_path):
    body = BODY * 40
    server.files["/a.h5ad"], server.pause_s = body, 0.002
    url, path = f"{server.url}/a.h5ad", tmp_path / "a.h5ad"
    with process(url, path) as running:
        wait_for(server, tmp_path)
        running.kill()
    assert not path.exists()
    server.pause_s = 0
    assert fetch(url, path, web=QUICK).read_bytes() == body
    assert server.asked[1][1].startswith("bytes=")
    assert left_in(tmp_path) == {"a.h5ad"}


# sources


def index(*names: str) -> bytes:
    links = "".join(f'<a href="{name}">{name}</a>' for name in ("../", "?C=M;O=A", "/", *names))
    return f"<html><body>{links}</body></html>".encode()


def stomics(server: Server, content: bytes) -> Sites:
    server.files |= {
        f"{STUDY}/": index("a.h5ad", "a.h5ad.md5", "S1/"),
        f"{STUDY}/S1/": index("b%20c.h5ad"),
        f"{STUDY}/a.h5ad": content,
        f"{STUDY}/S1/b%20c.h5ad": content,
    }
    return Sites(stomics=server.url)


def test_stomics_lists_files_and_samples(server, tmp_path, stomics_file):
    sites = stomics(server, stomics_file)
    message = refusal(OptionError, datasets.fetch, "stomics:STDS0000001", cache=tmp_path, sites=sites, web=QUICK)
    assert "stomics:STDS0000001/a.h5ad, stomics:STDS0000001/S1/b c.h5ad" in message
    path = datasets.fetch("stomics:STDS0000001/S1", cache=tmp_path, sites=sites, web=QUICK)
    assert path.read_bytes() == stomics_file
    assert [entry.path for entry in datasets.search("s1/b", cache=tmp_path)] == [str(path)]


def test_a_study_is_not_taken_for_the_one_file_of_it_that_is_here(server, tmp_path, stomics_file):
    options = {"cache": tmp_path, "sites": stomics(server, stomics_file)}
    datasets.fetch("stomics:STDS0000001/a.h5ad", web=QUICK, **options)
    assert "2 under" in refusal(OptionError, datasets.fetch, "stomics:STDS0000001", web=QUICK, **options)
    assert "2 under" in refusal(OptionError, datasets.fetch, "stomics:STDS0000001", web=Web(offline=True), **options)
    server.files[f"{STUDY}/new.h5ad"] = stomics_file  # not yet in the list that is kept
    assert datasets.fetch("stomics:STDS0000001/new.h5ad", web=QUICK, **options).is_file()


def test_cellxgene_finds_the_h5ad_of_a_data_set(server, tmp_path, cellxgene_file):
    record = {
        "dataset_id": DATASET,
        "title": "Lung",
        "tissue": [{"label": "lobe of lung"}],
        "assets": [{"filetype": "RDS", "url": "x"}, {"filetype": "H5AD", "url": f"{server.url}/file/1.h5ad"}],
    }
    lacking = record | {"dataset_id": COLLECTION, "assets": []}
    server.files |= {
        f"/v1/collections/{COLLECTION}": json.dumps({"datasets": [record, lacking]}).encode(),
        f"/v1/collections/{COLLECTION}/datasets/{DATASET}": json.dumps(record).encode(),
        "/file/1.h5ad": cellxgene_file,
    }
    sites = Sites(cellxgene=f"{server.url}/v1/")
    for key in (COLLECTION, f"{COLLECTION}/{DATASET}"):
        path = datasets.fetch(f"cellxgene:{key}", cache=tmp_path / key, sites=sites, web=QUICK)
        found = datasets.describe(path)
        assert (found.layer, found.labels_key) == ("raw", "cell_type")
        assert [entry.title for entry in datasets.search("lobe", cache=tmp_path / key)] == ["Lung; lobe of lung"]


def test_hca_finds_matrices_in_a_tree(server, tmp_path, cellxgene_file):
    file = {"uuid": "u", "version": "2021:1", "name": "a.h5ad", "format": "h5ad", "sha256": sha256(cellxgene_file)[7:]}
    tree = {"genusSpecies": {"Homo sapiens": {"organ": {"lung": [file, {"uuid": "v", "name": "a.csv.gz"}]}}}}
    project = {"projects": [{"projectTitle": "Lung", "matrices": {}, "contributedAnalyses": tree}]}
    server.files |= {f"/index/projects/{COLLECTION}": json.dumps(project).encode(), "/signed": cellxgene_file}
    server.redirects = {"/repository/files/u?version=2021%3A1": "/signed"}
    sites = Sites(hca=server.url)
    path = datasets.fetch(f"hca:{COLLECTION}", cache=tmp_path, sites=sites, web=QUICK)
    assert path.read_bytes() == cellxgene_file
    server.files["/signed"] = stale = cellxgene_file[:-1] + b"!"
    path.write_bytes(stale)
    refusal(FileError, datasets.fetch, f"hca:{COLLECTION}", cache=tmp_path, sites=sites, web=QUICK)


def test_a_page_instead_of_a_record_is_refused(server, tmp_path):
    server.files[f"/index/projects/{COLLECTION}"] = b"<html>maintenance</html>"
    sites = Sites(hca=server.url)
    message = refusal(FileError, datasets.fetch, f"hca:{COLLECTION}", cache=tmp_path, sites=sites, web=QUICK)
    assert "JSON" in message and "maintenance" in message


def test_crost_says_how_to_download_by_hand(tmp_path):
    message = refusal(FileError, datasets.fetch, "crost:VISDS000001", cache=tmp_path, sites=Sites(crost="https://c"))
    assert "https://c" in message and "stgnn data check" in message


def test_a_folder_is_named_by_the_user(tmp_path, monkeypatch):
    monkeypatch.delenv("STGNN_DATA", raising=False)
    assert "STGNN_DATA" in refusal(OptionError, datasets.fetch, "folder:a", cache=tmp_path)
    for place in ("cells/a.h5ad", "b.h5ad", "histology/c/d.h5ad"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
        name = place.removesuffix(".h5ad").removeprefix("cells/").removeprefix("histology/")
        assert datasets.fetch(f"folder:{name}", data_dir=tmp_path) == tmp_path / place
    monkeypatch.setenv("STGNN_DATA", str(tmp_path))
    assert "did you mean 'c/d'" in refusal(FileError, datasets.fetch, "folder:c")
    assert "did you mean 'b'" in refusal(FileError, datasets.fetch, "folder:bb")


def test_known_names_are_in_the_folder_of_real_data(data_folder):
    for entry in datasets.SOURCES["folder"].KNOWN:
        assert datasets.fetch(entry.address, data_dir=data_folder).is_file()


def test_census_draws_cells_of_each_type(tmp_path, monkeypatch):
    refusal(OptionError, datasets.fetch, "census:mouse", cache=tmp_path)
    monkeypatch.setitem(sys.modules, "cellxgene_census", None)
    assert "stgnn[census]" in refusal(FileError, datasets.fetch, "census:mouse/brain", cache=tmp_path)
    monkeypatch.setitem(sys.modules, "cellxgene_census", fake_census())
    adata = anndata.read_h5ad(datasets.fetch("census:mouse/brain", per_type=5, cache=tmp_path))
    assert adata.obs["cell_type"].value_counts().to_dict() == {"neuron": 5, "glia": 3}
    assert adata.obs_names.tolist() == [str(row) for row in adata.obs["soma_joinid"]]
    assert adata.var_names.tolist() == ["ENSMUSG1", "ENSMUSG2"]
    monkeypatch.setitem(sys.modules, "cellxgene_census", None)  # it is here now
    assert datasets.fetch("census:mouse/brain", per_type=5, cache=tmp_path).is_file()
    assert len(datasets.search("mus_musculus", cache=tmp_path)) == 1


def fake_census() -> types.ModuleType:
    """As much of cellxgene-census as is used: 20 neurons, 3 glia and 4 cells without a type, of a mouse's brain."""
    cells = pd.DataFrame(
        {"soma_joinid": np.arange(27) * 3, "cell_type": ["neuron"] * 20 + ["glia"] * 3 + ["unknown"] * 4}
    )

    @contextmanager
    def open_soma(census_version):
        yield census_version

    def get_obs(census, organism, value_filter, column_names):
        assert (census, organism) == ("stable", "mus_musculus")
        assert "'brain'" in value_filter and "is_primary_data == True" in value_filter
        return cells[column_names]

    def get_anndata(census, organism, obs_coords, obs_column_names):
        obs = cells.set_index("soma_joinid").loc[obs_coords[::-1]].reset_index()[obs_column_names[:2]]
        obs.index = obs.index.astype(str)
        var = pd.DataFrame({"feature_id": ["ENSMUSG1", "ENSMUSG2"]}, index=["0", "1"])
        return anndata.AnnData(np.ones((len(obs), 2), dtype=np.float32), obs, var)

    package = types.ModuleType("cellxgene_census")
    package.open_soma, package.get_obs, package.get_anndata = open_soma, get_obs, get_anndata
    return package


@pytest.mark.parametrize(
    "address",
    ["lung", "stomics:", "stomics:58", "stomics:STDS0000001/../x.h5ad", "cellxgene:lung", "hca:lung", "census:a/'b"],
)
def test_addresses_of_another_form_are_refused(tmp_path, address):
    assert "address" in refusal(OptionError, datasets.fetch, address, cache=tmp_path)
    assert left_in(tmp_path) == set()


# the command line


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = cli.main(["data", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_get_says_what_to_pass_next(server, tmp_path, capsys, stomics_file):
    stomics(server, stomics_file)
    words = ["get", "stomics:STDS0000001/a.h5ad", "--cache", str(tmp_path), "--site", server.url]
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, ""), err
    path = tmp_path / "stomics" / "STDS0000001" / "a.h5ad"
    assert f"--reference {path} --labels-key annotation --reference-layer count" in out
    assert f"stgnn annotate {path} --layer count --section-key section" in out
    assert "3 axes" in out


def test_what_is_printed_runs(server, tmp_path, capsys, monkeypatch, stomics_file, cellxgene_file):
    monkeypatch.chdir(tmp_path)
    Path("query.h5ad").write_bytes(stomics_file)
    Path("reference.h5ad").write_bytes(cellxgene_file)
    _, out, _ = run(capsys, "check", "reference.h5ad")
    line = next(line for line in out.splitlines() if "QUERY" in line)
    words = shlex.split(line.split("stgnn ", 1)[1].replace("QUERY", "query.h5ad"))
    assert cli.main([*words, "--layer", "count", "--method", "profiles"]) == 0, capsys.readouterr().err
    assert "stgnn" in anndata.read_h5ad("annotated.h5ad").obs


def test_a_file_without_counts_is_told_of(tmp_path, capsys):
    reference, _ = toy(n_cells=60)
    reference.X = sp.csr_matrix(reference.X).log1p().astype(np.float32)
    reference.write_h5ad(tmp_path / "a.h5ad")
    code, out, _ = run(capsys, "check", str(tmp_path / "a.h5ad"))
    assert code == 0
    assert "none: X holds non-integer values" in out and "--recover-counts" in out and "next" not in out


def test_offline_opens_no_socket(server, tmp_path, capsys, monkeypatch, stomics_file):
    sites = stomics(server, stomics_file)
    path = datasets.fetch("stomics:STDS0000001/a.h5ad", cache=tmp_path, sites=sites, web=QUICK)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    cache = ["--cache", str(tmp_path)]
    code, out, err = run(capsys, "get", "stomics:STDS0000001/a.h5ad", "--offline", *cache)
    assert (code, err) == (0, "") and str(path) in out
    _, out, _ = run(capsys, "search", "STDS0000001", *cache)
    assert f"here: {path}" in out
    code, out, _ = run(capsys, "list", *cache)
    assert code == 0 and str(path) in out and "folder:starmap_v1" in out and "stomics" in out
    for address in ("stomics:STDS0000002", "stomics:STDS0000001/b.h5ad", f"hca:{COLLECTION}", "census:mouse/brain"):
        code, out, err = run(capsys, "get", address, "--offline", *cache)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "offline mode" in err


@pytest.mark.parametrize("name", ["gone.h5ad", "page.h5ad", "text.h5ad", "cut.h5ad"])
def test_get_refuses_in_one_line_and_leaves_no_file(server, tmp_path, capsys, stomics_file, name):
    server.files |= {
        f"{STUDY}/page.h5ad": b"<html>",
        f"{STUDY}/text.h5ad": b"no such file",
        f"{STUDY}/cut.h5ad": stomics_file[:5000],
    }
    words = ["get", f"stomics:STDS0000001/{name}", "--cache", str(tmp_path), "--site", server.url]
    code, out, err = run(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert not [found for found in left_in(tmp_path) if found.startswith(name)]


def test_what_is_no_anndata_is_refused(server, tmp_path, capsys):
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["weights"] = np.ones(3)
    server.files[f"{STUDY}/other.h5ad"] = (tmp_path / "other.h5ad").read_bytes()
    words = ["get", "stomics:STDS0000001/other.h5ad", "--cache", str(tmp_path / "cache"), "--site", server.url]
    code, out, err = run(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(tmp_path / "cache" / "stomics") in err


def test_a_mirror_of_what_has_none_is_refused(tmp_path, capsys):
    code, _, err = run(capsys, "get", "folder:a", "--site", "http://a")
    assert code == 2 and err.startswith("--site: expected")
    code, _, err = run(capsys, "get", "stomics:STDS0000001/a.h5ad", "--checksum", "x")
    assert code == 2 and err.startswith("checksum: expected")


def test_a_damaged_list_is_asked_for_again(server, tmp_path, stomics_file):
    sites = stomics(server, stomics_file)
    datasets.fetch("stomics:STDS0000001/S1", cache=tmp_path, sites=sites, web=QUICK)
    (listed,) = (tmp_path / "lists").glob("*.json")
    listed.write_text("{")
    assert datasets.fetch("stomics:STDS0000001/S1", cache=tmp_path, sites=sites, web=QUICK).is_file()
    assert server.whole(f"{STUDY}/S1/") == 2 and server.whole(f"{STUDY}/S1/b%20c.h5ad") == 1


def test_a_cache_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "file").touch()
    server.files["/a.h5ad"] = BODY
    message = refusal(FileError, fetch, f"{server.url}/a.h5ad", tmp_path / "file" / "a.h5ad", web=QUICK)
    assert message.startswith("cache: ")
    with pytest.raises(InputError, match="cache: "):
        datasets.fetch(
            "stomics:STDS0000001/a.h5ad", cache=tmp_path / "file", sites=Sites(stomics=server.url), web=QUICK
        )
