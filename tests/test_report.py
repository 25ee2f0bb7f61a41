"""The report: one whole, well-formed, self-contained page, whatever the results lack."""

import base64
import io
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from stgnn.data.cells import Prediction, read_query, write
from stgnn.data.schema import CoordinatesError, FileError, InputError, LabelsError
from stgnn.data.toy import toy
from stgnn.pl.colors import type_colors
from stgnn.report import check_path, write_report
from stgnn.report.interactive import code

VOID = {"meta", "link", "img", "br", "hr", "input"}
CURVE = {"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "bad": [np.nan, 1.0, np.inf]}


class Page(HTMLParser):
    """Checks that tags are balanced, and keeps what tests ask of."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.words, self.style = [], [], [], ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            self.style += data
        else:
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def test_cells_without_counts_are_near_no_type(tmp_path):
    _, adata = toy(n_cells=100)
    cells = read_query(adata)
    gone = replace(cells, rows=cells.rows[30:], counts=cells.counts[30:], names=cells.names[30:])
    proba = np.tile([0.02, 0.98], (len(gone), 1))
    write(adata, gone, Prediction(proba, proba, np.zeros(len(gone))), ("A", "B"))
    write_report(adata, tmp_path / "report.html")
    assert "nearest to it" not in Page(tmp_path / "report.html").text


def annotate(adata, types, *, rejected=3, details=None, seed=0):
    rng = np.random.default_rng(seed)
    truth = adata.obs["cell_type"].cat.codes.to_numpy() % len(types)
    proba = rng.gamma(0.4, size=(adata.n_obs, len(types)))
    proba[np.arange(adata.n_obs), truth] += 1.5
    proba /= proba.sum(axis=1, keepdims=True)
    rejection = rng.uniform(0, 0.5, adata.n_obs)
    rejection[:rejected] = 0.9
    prediction = Prediction(proba, proba, rejection, 0.8, {"curve": CURVE} if details is None else details)
    write(adata, read_query(adata), prediction, types, parameters={"method": "<i>", "depth": {"of": [1, 2, 3]}})


@pytest.fixture
def tissue():
    reference, adata = toy(n_cells=300, random_state=2)
    annotate(adata, tuple(reference.obs["cell_type"].cat.categories))
    return reference, adata


def page(adata, tmp_path, **arguments):
    path = tmp_path / "report.html"
    write_report(adata, path, **arguments)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    return Page(path)


def test_whole_page(tissue, tmp_path):
    reference, adata = tissue
    found = page(adata, tmp_path, reference=reference, section_key="section")
    assert len(found.all("h1")) == 1
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(found.all("img")) == 3 * 2
    assert all(len(image["alt"]) > 20 for image in found.all("img"))
    assert all(head.get("scope") for head in found.all("th"))
    assert all(image.get("aria-label") or image.get("aria-hidden") for image in found.all("svg"))
    assert "300 cells in 2 sections were given 5 of 5 known types: 1.0 % are unknown" in found.text
    assert "whether space was used is not recorded" in found.text
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert all(link["href"][1:] in ids for link in found.all("a"))
    assert "In 5 of 5 types with cells and markers" in found.text
    assert len(found.all("polyline")) == 1
    assert found.all("html")[0]["lang"] == "en"


def test_nothing_is_loaded_from_anywhere(tissue, tmp_path):
    reference, adata = tissue
    found = page(adata, tmp_path, reference=reference)
    assert not {"iframe", "object", "embed"} & {tag for tag, _ in found.tags}
    assert {attrs["id"] for attrs in found.all("script")} == {"picture-facts", "picture-data", "picture-code"}
    policy = next(attrs["content"] for attrs in found.all("meta") if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;") and "script-src 'sha256-" in policy
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|\bimport\b|\beval\(", code())
    links = [attrs[name] for _, attrs in found.tags for name in ("src", "href", "srcset") if name in attrs]
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert "url(" not in found.style and "@import" not in found.style
    assert not re.search("https?://", found.source)


def test_equal_inputs_give_equal_bytes_and_inputs_stay(tissue, tmp_path):
    reference, adata = tissue
    keys = set(adata.obs), set(adata.uns), set(adata.obsm), set(reference.obs)
    first = page(adata, tmp_path, reference=reference, section_key="section").source
    assert page(adata, tmp_path, reference=reference, section_key="section").source == first
    assert keys == (set(adata.obs), set(adata.uns), set(adata.obsm), set(reference.obs))


def test_names_are_escaped(tmp_path):
    reference, adata = toy(n_cells=120, random_state=2)
    names = {"type 1": "<b>&", "type 4": "</script><b>", "type 2": '"q\' onload="x', "type 3": "L2/3 IT"}
    for cells in (reference, adata):
        cells.obs["cell_type"] = cells.obs["cell_type"].cat.rename_categories(names)
        cells.var_names = [f"<{name}>" for name in cells.var_names]
    adata.obs["section"] = adata.obs["section"].cat.rename_categories({"section 1": "<script>1</script>"})
    annotate(adata, tuple(sorted(reference.obs["cell_type"].cat.categories)))
    found = page(adata, tmp_path, reference=reference, section_key="section")
    assert "</script><b>" not in found.source and found.source.count("</script>") == 3
    assert "<b>" not in found.source and "<script>" not in found.source and "<i>" not in found.source
    assert "&lt;b&gt;&amp;" in found.source
    assert "<b>&" in found.text and "L2/3 IT" in found.text
    assert not any("onload" in attrs for _, attrs in found.tags)


def test_without_coordinates(tissue, tmp_path):
    reference, adata = tissue
    del adata.obsm["spatial"]
    found = page(adata, tmp_path, reference=reference, section_key="section")
    assert not found.all("img")
    assert found.text.count("There are no maps, since the cells have no coordinates.") == 1
    assert "space was not used" in found.text


def test_without_reference_curve_or_record(tissue, tmp_path):
    _, adata = tissue
    del adata.uns["stgnn"], adata.obsm["stgnn_proba"], adata.obs["stgnn_rejection"]
    found = page(adata, tmp_path)
    assert "No reference was given" in found.text
    assert "No training curve was recorded" in found.text


def test_the_use_of_space_is_told_where_recorded(tissue, tmp_path):
    _, adata = tissue
    adata.uns["stgnn"]["details"] = {"space_used": np.bool_(False)}
    assert "the places of the cells were not used" in page(adata, tmp_path).text
    adata.uns["stgnn"]["details"] = {"space": "neighbours joined"}
    assert "on space, the method notes: neighbours joined." in page(adata, tmp_path).text


@pytest.mark.parametrize("rejected", [0, 300])
def test_all_sure_of_one_type_or_all_unknown(rejected, tmp_path):
    _, adata = toy(n_cells=300)
    proba = np.ones((300, 1))
    rejection = np.full(300, float(rejected > 0))
    write(adata, read_query(adata), Prediction(proba, proba, rejection, 0.5), ("only",))
    found = page(adata, tmp_path)
    assert "300 cells were given" in found.text
    assert ("none is unknown" in found.text) == (rejected == 0)
    assert ("Every cell got a type" in found.text) == (rejected == 0)


def test_a_reference_without_counts_costs_only_the_marker_check(tissue, tmp_path):
    reference, adata = tissue
    reference.X = reference.X * 0.37
    found = page(adata, tmp_path, reference=reference)
    assert "Marker genes could not be checked" in found.text
    assert "Share of each type" in found.text


def test_counts_are_recovered_if_asked(tissue, tmp_path):
    reference, adata = tissue
    reference.X = reference.X.multiply(1e4 / reference.X.sum(axis=1)).tocsr().log1p()
    assert "could not be checked" in page(adata, tmp_path, reference=reference).text
    assert "In 5 of 5 types" in page(adata, tmp_path, reference=reference, recover_counts=True).text


def test_colors_of_the_map_are_those_of_the_legend(tissue, tmp_path):
    from PIL import Image

    _, adata = tissue
    found = page(adata, tmp_path)
    data = found.all("img")[0]["src"].partition("base64,")[2]
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    assert image.width >= 1200
    colors = np.array([color for _, color in image.getcolors(256)], dtype=float)
    for name, color in type_colors(list(adata.uns["stgnn"]["types"])).items():
        assert color in found.source, name
        wanted = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)])
        assert np.linalg.norm(colors - wanted, axis=1).min() < 6


def test_of_very_many_sections_the_largest_are_mapped(tmp_path):
    _, adata = toy(n_cells=300, n_sections=26)
    annotate(adata, ("A", "B"))
    found = page(adata, tmp_path, section_key="section")
    assert len(found.all("img")) == 24 * 3
    assert "2 more are not" in found.text


def test_many_types_fit(tmp_path):
    reference, adata = toy(n_cells=1200, n_genes=200, n_types=44, n_sections=1)
    annotate(adata, tuple(sorted(reference.obs["cell_type"].cat.categories)))
    found = page(adata, tmp_path, reference=reference)
    tables = [table.get("class", "") for table in found.all("table")]
    assert "dots dots-full" in tables and "dots-own" in tables
    assert len(found.source) < 5e6


def test_what_is_wrong_is_named(tissue, tmp_path):
    reference, adata = tissue
    path = tmp_path / "report.html"
    with pytest.raises(InputError, match=r"no column 'stgn'.*did you mean 'stgnn'"):
        write_report(adata, path, key="stgn")
    with pytest.raises(LabelsError, match="did you mean 'cell_type'"):
        write_report(adata, path, reference=reference, labels_key="celltype")
    with pytest.raises(InputError, match="section_key"):
        write_report(adata, path, section_key="sections")
    with pytest.raises(CoordinatesError, match="spatial_key"):
        write_report(adata, path, spatial_key="places")
    assert not list(tmp_path.iterdir())


def test_bad_paths(tmp_path):
    (tmp_path / "folder.html").mkdir()
    for name in ("report.txt", "missing/report.html", "folder.html"):
        with pytest.raises(FileError, match="report: expected"):
            check_path(tmp_path / name)


def test_a_failure_leaves_what_was_there(tissue, tmp_path, monkeypatch):
    import stgnn.report

    _, adata = tissue
    path = tmp_path / "report.html"
    path.write_text("earlier")

    def fail(*_):
        raise OSError(28, "No space left on device")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(stgnn.report.os, function, fail)
            with pytest.raises(FileError, match="No space left"):
                write_report(adata, path)
        assert path.read_text() == "earlier"
        assert list(tmp_path.iterdir()) == [path]


def test_torch_is_not_imported(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "from stgnn.data.cells import Prediction, read_query, write\n"
        "from stgnn.data.toy import toy\n"
        "import stgnn.pl, stgnn.report\n"
        "reference, adata = toy(n_cells=60)\n"
        "proba = np.tile([0.8, 0.2], (60, 1))\n"
        "write(adata, read_query(adata), Prediction(proba, proba, np.zeros(60)), ('type 1', 'type 2'))\n"
        "stgnn.report.write_report(adata, sys.argv[1], reference=reference)\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path / "report.html")], check=True)
