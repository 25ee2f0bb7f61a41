"""The picture: its arrays come back as they went in, and in a browser it draws, toggles, selects and saves."""

from __future__ import annotations

import base64
import io
import json
import re
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from browser import Browser, driver
from stgnn.data.cells import Prediction, read_query, write
from stgnn.data.schema import GenesError, InputError
from stgnn.data.toy import toy
from stgnn.pl.colors import type_colors
from stgnn.report import write_report
from stgnn.report.interactive import as_json
from stgnn.report.picture import codes, lay_out, pack, quantise
from stgnn.report.underlay import find_underlays

EVIL = "</script><b>"
TYPES = (EVIL, "type 2", "type 3", "type 4", "type 5")


def annotated(n_cells: int = 400, n_sections: int = 2) -> AnnData:
    _, adata = toy(n_cells=n_cells, n_sections=n_sections, random_state=2)
    proba = np.full((n_cells, 5), 0.05)
    proba[np.arange(n_cells), adata.obs["cell_type"].cat.codes] = 0.8
    write(adata, read_query(adata), Prediction(proba, proba, np.zeros(n_cells), 0.5), TYPES)
    adata.obs["domain"] = pd.Categorical(np.where(adata.obsm["spatial"][:, 1] > 100, "upper", "lower"))
    return adata


def unpacked(page: str) -> tuple[dict, dict[str, np.ndarray]]:
    """What the page tells its picture, and the arrays."""
    told = json.loads(re.search(r'id="picture-facts">(.*?)</script>', page).group(1))
    data = zlib.decompress(base64.b64decode(re.search(r'id="picture-data">(.*?)</script>', page).group(1)))
    kinds = {1: np.uint8, 2: np.dtype("<u2")}
    return told, {
        name: np.frombuffer(data, kinds[size], length, start) for name, (size, start, length) in told["arrays"].items()
    }


def test_packed_arrays_come_back():
    rng = np.random.default_rng(0)
    arrays = {
        "odd": rng.integers(0, 256, 7).astype(np.uint8),
        "wide": rng.integers(0, 65536, 5).astype(np.uint16),
        "none": np.zeros(0, dtype=np.uint8),
        "last": rng.integers(0, 256, 3).astype(np.uint8),
    }
    packed, contents = pack(arrays)
    page = f'id="picture-facts">{json.dumps({"arrays": contents})}</script>id="picture-data">{packed}</script>'
    for name, array in unpacked(page)[1].items():
        np.testing.assert_array_equal(array, arrays[name])
        assert contents[name][1] % contents[name][0] == 0
    assert pack(arrays) == (packed, contents)


@pytest.mark.parametrize("down", [True, False])
def test_places_come_back_and_sections_lie_apart_in_reading_order(down):
    rng = np.random.default_rng(1)
    section = np.arange(1000) % 7
    coords = rng.normal(0, 1000, (1000, 2)) + 3000 * rng.normal(size=(7, 2))[section]
    placed = lay_out(coords, section, 7, down=down)
    back = placed.step * placed.places + placed.shift[section]
    assert np.abs(back - coords).max() <= placed.step / 2 + 1e-6
    boxes = [(placed.places[section == one].min(0), placed.places[section == one].max(0)) for one in range(7)]
    for one in range(7):
        for other in range(one):
            assert (boxes[one][0] > boxes[other][1]).any() or (boxes[other][0] > boxes[one][1]).any()
    upper = [low[1] if down else -int(high[1]) for low, high in boxes]
    rows = np.round(np.array(upper, dtype=float) / max(high[1] - low[1] for low, high in boxes))
    assert np.all(np.diff(rows) >= 0)


def test_one_cell_and_one_line_can_be_laid_out():
    for coords in ([[5.0, 7.0]], [[0.0, 3.0], [9.0, 3.0]]):
        placed = lay_out(np.array(coords), np.zeros(len(coords), dtype=int), 1, down=False)
        np.testing.assert_allclose(placed.step * placed.places + placed.shift[0], coords, atol=1e-6)


def test_quantised_values_are_off_by_half_a_step_at_most():
    values = np.random.default_rng(0).uniform(0, 3, 1000)
    assert np.abs(quantise(values, 3.0) / 255 * 3 - values).max() <= 3 / 255 / 2 + 1e-12
    assert quantise(np.zeros(3), 0.0).tolist() == [0, 0, 0]
    assert codes(np.array([0, 255]), 256).dtype == np.uint8
    assert codes(np.array([0, 256]), 257).tolist() == [0, 256]


def test_the_page_tells_what_the_cells_are(tmp_path):
    adata = annotated()
    write_report(adata, tmp_path / "a.html", section_key="section", region_key="domain", genes=["Gene3"])
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    told, arrays = unpacked(page)
    by_title = {layer["title"]: layer for layer in told["layers"]}
    assert list(by_title) == ["type", "section", "region", "confidence", "Gene3"]
    for title, column in (("type", "stgnn"), ("section", "section"), ("region", "domain")):
        names = np.array(by_title[title]["names"], dtype=object)
        assert (names[arrays[title]] == adata.obs[column].astype(object).to_numpy()).all()
    assert by_title["type"]["colors"] == list(type_colors([*TYPES, "unknown"]).values())
    np.testing.assert_allclose(arrays["confidence"] / 255, adata.obs["stgnn_confidence"], atol=1 / 510 + 1e-6)
    counts = adata[:, "Gene3"].X.toarray().ravel()
    assert ((arrays["gene 0"] > 0) == (counts > 0)).all()
    assert arrays["names"].tobytes().decode().split("\n") == list(adata.obs_names)
    shift = np.array([section["shift"] for section in told["sections"]])[arrays["section"]]
    places = told["step"] * np.column_stack([arrays["x"], arrays["y"]]) + shift
    np.testing.assert_allclose(places, adata.obsm["spatial"], atol=told["step"])
    write_report(adata, tmp_path / "b.html", section_key="section", region_key="domain", genes=["Gene3"])
    assert (tmp_path / "b.html").read_text(encoding="utf-8") == page


def test_a_cell_costs_few_bytes(tmp_path):
    adata = annotated(20_000)
    write_report(adata, tmp_path / "a.html", section_key="section", genes=[f"Gene{number}" for number in range(1, 13)])
    packed = re.search(r'id="picture-data">(.*?)</script>', (tmp_path / "a.html").read_text(encoding="utf-8")).group(1)
    assert len(packed) < 20_000 * 30  # so that half a million cells stay under 15 MB, maps not counted


def test_cells_of_no_region_are_named_so(tmp_path):
    adata = annotated()
    adata.obs["domain"] = adata.obs["domain"].cat.remove_categories("upper")
    write_report(adata, tmp_path / "a.html", region_key="domain")
    told, arrays = unpacked((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert told["layers"][1]["names"] == ["lower", "none"]
    assert ((arrays["region"] == 1) == adata.obs["domain"].isna()).all()


def test_wrong_names_are_refused(tmp_path):
    adata = annotated()
    with pytest.raises(GenesError, match=r"genes: .*no 'Gene999'"):
        write_report(adata, tmp_path / "a.html", genes=["Gene1", "Gene999"])
    with pytest.raises(InputError, match=r"region_key: .*did you mean 'domain'"):
        write_report(adata, tmp_path / "a.html", region_key="domains")
    assert not list(tmp_path.iterdir())


def test_no_name_can_end_the_script():
    told = as_json({"names": [EVIL, "<!--", "]]>", "\u2028", "&lt;"]})
    assert not set("<>&\u2028") & set(told)
    assert json.loads(told)["names"][0] == EVIL


def picture_of(uri: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))).convert("RGB"))


def test_an_image_lies_where_its_cells_are():
    _, adata = toy(n_cells=50)
    coords = np.random.default_rng(0).uniform((200, 300), (700, 500), (50, 2))
    pixels = np.full((60, 100, 3), 240, dtype=np.uint8)
    pixels[30:50, 20:70] = (200, 20, 120)  # the cells' place, at a tenth of the resolution
    adata.uns["spatial"] = {"one": {"images": {"hires": pixels}, "scalefactors": {"tissue_hires_scalef": 0.1}}}
    found, why = find_underlays(adata, {"": coords})
    left, top, right, bottom = found[""].box
    assert why == ""
    assert left <= coords[:, 0].min() and right >= coords[:, 0].max()
    shown = picture_of(found[""].uri)
    assert shown.shape[:2] == (round((bottom - top) / 10), round((right - left) / 10))
    middle = shown[int((400 - top) / 10), int((450 - left) / 10)].astype(int)
    assert np.abs(middle - (200, 20, 120)).max() < 12
    adata.uns["spatial"]["one"]["images"]["hires"] = pixels / 255
    assert find_underlays(adata, {"": coords})[0] == found


def test_an_image_of_many_sections_goes_by_their_names():
    _, adata = toy(n_cells=50)
    library = {"images": {"hires": np.zeros((9, 9, 3), np.uint8)}, "scalefactors": {"tissue_hires_scalef": 1.0}}
    adata.uns["spatial"] = {"b": library}
    places = {name: np.array([[1.0, 1.0], [8.0, 8.0]]) for name in "ab"}
    assert list(find_underlays(adata, places)[0]) == ["b"]


def test_the_image_that_a_platform_names(tmp_path):
    from PIL import Image

    _, adata = toy(n_cells=50)
    path = tmp_path / "tissue.png"
    Image.new("RGB", (100, 80), (200, 20, 120)).save(path)
    source = {"image": str(path), "um_per_pixel": 2.0, "image_origin_um": np.array([10.0, 20.0])}
    adata.uns["stgnn_source"] = source
    coords = np.array([[10.0, 20.0], [210.0, 180.0]])
    found, _ = find_underlays(adata, {"": coords})
    np.testing.assert_allclose(found[""].box, (10, 20, 210, 180))
    path.unlink()
    found, why = find_underlays(adata, {"": coords})
    assert not found
    assert "no 'tissue.png'" in why


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with driver() as url, tempfile.TemporaryDirectory() as folder:
        opened = Browser(url, Path(folder))
        opened.folder = Path(folder)
        try:
            yield opened
        finally:
            opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    adata = annotated()
    adata.obs_names = ['a,"b', *adata.obs_names[1:]]
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(adata, path, section_key="section", region_key="domain", genes=["Gene3"])
    return path


def opened(browser: Browser, path: Path, width: int = 1200) -> Browser:
    browser.resize(width, 1000)
    browser.open(path)
    browser.until("document.getElementById('picture').dataset.drawn")
    browser.run("document.getElementById('types').scrollIntoView()")
    return browser


def box(browser: Browser, selector: str = "#picture-canvas") -> list[int]:
    script = "const r = document.querySelector(arguments[0]).getBoundingClientRect();"
    return browser.run(script + "return [r.left, r.top, r.width, r.height].map(Math.round)", selector)


def pixels(browser: Browser) -> np.ndarray:
    return picture_of(browser.run("return document.getElementById('picture-canvas').toDataURL()"))


def seen(image: np.ndarray, color: str) -> int:
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return int((np.abs(image.astype(int) - wanted).max(axis=2) < 3).sum())


def words(browser: Browser, selector: str) -> str:
    return browser.run("return document.querySelector(arguments[0]).innerText", selector)


@pytest.mark.browser
def test_it_draws_all_types_without_a_word_on_the_console(browser, report):
    opened(browser, report)
    image = pixels(browser)
    for color in list(type_colors(TYPES).values()):
        assert seen(image, color) > 100
    assert browser.run("return document.getElementById('picture-still').hidden")
    assert not [line for line in browser.log() if "GPU stall due to ReadPixels" not in line["message"]]
    assert (
        browser.run("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length")
        == 0
    )
    assert browser.run("return document.querySelector('.picture-name').textContent") == EVIL


@pytest.mark.browser
def test_pointing_at_a_type_fades_the_others(browser, report):
    opened(browser, report)
    left, top, width, height = box(browser, ".picture-row:nth-child(1)")
    browser.hover(left + width // 2, top + height // 2)
    time.sleep(0.1)
    first, *others = type_colors(TYPES).values()
    image = pixels(browser)
    assert seen(image, first) > 100
    assert not any(seen(image, color) for color in others)
    browser.hover(2, 2)
    time.sleep(0.1)
    assert seen(pixels(browser), others[0]) > 100


@pytest.mark.browser
@pytest.mark.parametrize("key", ["enter", "space"])
def test_a_toggle_hides_a_type_and_its_bar(browser, report, key):
    opened(browser, report)
    color = type_colors(TYPES)["type 2"]
    browser.run("document.querySelectorAll('.picture-row')[1].focus()")
    browser.press(key)
    browser.run("document.activeElement.blur()")
    browser.until("document.querySelectorAll('.picture-row')[1].getAttribute('aria-pressed') === 'false'")
    time.sleep(0.1)
    assert seen(pixels(browser), color) == 0
    assert browser.run("return document.querySelectorAll('.picture-row')[1].innerText").split()[-1] == "0"
    number = (annotated().obs["stgnn"] != "type 2").sum()
    assert words(browser, ".picture-status").startswith(f"{number} of 400 cells shown")
    browser.run("document.querySelector('[aria-label=\"Show all types\"]').click()")
    time.sleep(0.1)
    assert seen(pixels(browser), color) > 100


@pytest.mark.browser
def test_a_lasso_takes_what_lies_in_it_and_the_file_has_it(browser, report):
    adata = annotated()
    left, top, width, height = box(opened(browser, report))
    browser.run("document.querySelector('[data-tool=lasso]').click()")
    middle = left + width // 2
    browser.drag([(left + 2, top + 2), (middle, top + 2), (middle, top + height - 3), (left + 2, top + height - 3)])
    inside = adata.obs_names[(adata.obs["section"] == "section 1").to_numpy()]  # the left one of two
    assert f"{len(inside)} taken" in words(browser, ".picture-status")
    assert words(browser, ".picture-table caption") == f"Cells taken: 100 of {len(inside)}"
    browser.run("document.querySelector('[data-do=save]').click()")
    file = browser.folder / "cells.csv"
    end = time.monotonic() + 20
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.05)
    table = pd.read_csv(file, index_col="cell")
    assert list(table.index) == ['a,"b', *inside[1:]]
    assert list(table.columns) == ["type", "section", "region", "confidence", "x", "y"]
    rows = adata.obs["section"] == "section 1"
    assert list(table["type"]) == list(adata.obs["stgnn"][rows])
    np.testing.assert_allclose(table[["x", "y"]], adata.obsm["spatial"][rows], atol=0.01)
    browser.press("escape")
    assert browser.run("return document.querySelector('.picture-taken').hidden")


@pytest.mark.browser
def test_keys_move_zoom_and_choose(browser, report):
    opened(browser, report)
    browser.run("document.getElementById('picture-canvas').focus()")
    first = pixels(browser)
    for key, back in (("+", "-"), ("left", "0")):
        browser.press(key)
        time.sleep(0.1)
        assert (pixels(browser) != first).any()
        browser.press(back)
        time.sleep(0.1)
        assert (pixels(browser) != first).mean() < 0.001
    browser.press("l")
    assert browser.run("return document.querySelector('[data-tool=lasso]').getAttribute('aria-pressed')") == "true"


@pytest.mark.browser
def test_colours_by_value_come_with_a_scale_and_hovering_names_a_cell(browser, report):
    left, top, width, height = box(opened(browser, report))
    types = pixels(browser)
    browser.run("const s = document.getElementById('picture-by'); s.value = '4'; s.onchange()")
    time.sleep(0.1)
    assert (pixels(browser) != types).any()
    assert "Gene3, log-normalised: 0" in words(browser, ".picture-scale")
    for step in range(40):
        browser.hover(left + width // 4 + 3 * step, top + height // 2)
        if not browser.run("return document.querySelector('.picture-tip').hidden"):
            break
    told = words(browser, ".picture-tip")
    assert "type: " in told and "section: section 1" in told and "Gene3: " in told


@pytest.mark.browser
def test_a_narrow_page_has_nothing_beside_it(browser, report):
    opened(browser, report, 400)
    assert browser.run("return document.documentElement.scrollWidth") <= 400
    left, _, width, _ = box(browser)
    assert left > 0 and left + width < 400


@pytest.mark.browser
def test_it_prints(browser, report):
    opened(browser, report)
    assert len(browser.pdf()) > 20_000
    browser.cdp("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert box(browser)[2] > 500
        assert box(browser, ".picture-tools")[2] == 0
    finally:
        browser.cdp("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.browser
def test_without_webgl_the_map_stays(report, tmp_path):
    with driver() as url:
        blind = Browser(url, tmp_path, "--disable-3d-apis")
        try:
            blind.open(report)
            time.sleep(0.5)
            assert blind.run("return document.getElementById('picture').hidden")
            assert box(blind, "#picture-still img")[2] > 200
        finally:
            blind.close()


@pytest.mark.browser
def test_half_a_million_cells_are_drawn_within_seconds(browser, tmp_path):
    number, rng = 500_000, np.random.default_rng(0)
    arrays = {
        "x": rng.integers(0, 65536, number).astype(np.uint16),
        "y": rng.integers(0, 65536, number).astype(np.uint16),
        "type": rng.integers(0, 5, number).astype(np.uint8),
        "confidence": rng.integers(0, 256, number).astype(np.uint8),
    }
    _, few = toy(n_cells=60, n_sections=1)
    proba = np.full((60, 5), 0.2)
    write(few, read_query(few), Prediction(proba, proba, np.zeros(60), 0.5), TYPES)
    write_report(few, tmp_path / "few.html")
    page = (tmp_path / "few.html").read_text(encoding="utf-8")
    told, _ = unpacked(page)
    packed, contents = pack({**arrays, "names": np.frombuffer(b"\n" * (number - 1), dtype=np.uint8)})
    told |= {"cells": number, "arrays": contents, "spacing": 92.0}
    page = re.sub('(id="picture-facts">).*?(?=</script>)', lambda found: found.group(1) + as_json(told), page)
    page = re.sub('(id="picture-data">).*?(?=</script>)', lambda found: found.group(1) + packed, page)
    (tmp_path / "many.html").write_text(page, encoding="utf-8")
    opened(browser, tmp_path / "many.html")
    drawn = browser.run("document.getElementById('picture-canvas').toDataURL(); return performance.now()")
    assert drawn < 3000
    still = pixels(browser)
    assert sum(seen(still, color) for color in type_colors(TYPES).values()) > 100_000
    browser.run("document.getElementById('picture-canvas').focus()")
    browser.press(*["left", "right"] * 6)  # a sample of the cells may be drawn meanwhile
    time.sleep(1.0)
    assert (pixels(browser) != still).mean() < 0.01
