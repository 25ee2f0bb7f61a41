"""The site: every public name is on it, examples run, links lead somewhere, and figures are those of the runs."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import anndata
import matplotlib
import pandas as pd
import pytest

from stgnn import cli, datasets
from stgnn.data import platforms
from test_conventions import PUBLIC

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
CODE = [page for page in PAGES if "```python" in (DOCS / page).read_text(encoding="utf-8") and "tutorials" not in page]
WRITTEN = {"benchmark.md", *(f"results/{name}benchmark.html" for name in ("", "spots/", "genes/", "scale/"))}
"""What is put on the site when it is built."""


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def tool(name: str) -> ModuleType:
    spec = spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_in_the_api():
    text = "\n".join(text_of(page) for page in PAGES if page.startswith("api/"))
    shown = set(re.findall(r"^::: ([\w.]+)$", text, re.M)) | set(re.findall(r"`(stgnn\.\w+)`", text))
    assert {f"{module}.{name}" for module, names in PUBLIC.items() for name in names} <= shown


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"- (?:.*: )?([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert len(listed) == len(set(listed))
    assert set(listed) == {*PAGES, "benchmark.md"}


def test_links_lead_somewhere():
    for page in PAGES:
        for place in re.findall(r"\]\(([^)#:\s]+)[^)]*\)", text_of(page)):
            target = (DOCS / page).parent / place
            assert target.exists() or Path(os.path.relpath(target, DOCS)).as_posix() in WRITTEN, f"{page}: {place}"


@pytest.mark.parametrize("platform", platforms._PLATFORMS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_platform_has_a_page(platform):
    text = text_of(f"platforms/{platform.__name__.rpartition('.')[2]}.md")
    for name in re.findall(
        r"[*\w']*[\w\]]\.(?:h5ad|h5|csv|parquet|xenium|mtx|tsv|txt|loom)|uns\[.*?\]", platform.LAYOUT
    ):
        assert name in text
    for heading in ("**Read**", "**Left out**", "**Units**"):
        assert heading in text


@pytest.mark.parametrize("page", CODE)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text_of(page), re.S))
    # the defaults take longer
    code = code.replace('resolution="spot")', 'resolution="spot", method="nnls")')
    code = re.sub(r'(tl\.annotate\((?!.*method=).*section_key="section")\)', r'\1, method="logistic")', code)
    code = re.sub(r'(tl\.impute\(.*section_key="section")\)', r'\1, method="knn-mean")', code)
    names: dict[str, object] = {}
    exec(code, names)
    assert "stgnn" in names
    matplotlib.pyplot.close("all")


def test_the_reference_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    atlas = datasets.demo_reference()
    atlas.obs["donor"] = atlas.obs["batch"]
    atlas.write_h5ad("atlas.h5ad")
    Path("merge.csv").write_text("label,merged\nMural,Vascular\nEndothelial,Vascular\n", encoding="utf-8")
    words = shlex.split(re.findall(r"^stgnn reference .*$", text_of("references.md"), re.M)[0])
    assert cli.main(words[1:]) == 0, capsys.readouterr().err
    assert (anndata.read_h5ad("reference.h5ad").obs["cell_type"] == "Vascular").sum() == 60


def test_commands_have_the_options_that_pages_show():
    for page in PAGES:
        for line in re.findall(r"^stgnn .*$", text_of(page).replace("\\\n", " "), re.M):
            words = shlex.split(line)
            known: object = cli._cli
            for word in words[1:]:
                known = getattr(known, "commands", {}).get(word, known)
            options = {name for parameter in known.params for name in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options, f"{page}: {line}"


def test_figures_of_the_benchmark_are_those_of_the_runs():
    module = tool("benchmark_page")
    assert doctest.testmod(module).failed == 0
    page = module.page(ROOT / "results")
    table = pd.read_csv(ROOT / "results" / "metrics.csv")
    own = table[(table["task"] == "main") & (table["method"] == "stgnn") & (table["metric"] == "macro_f1")]["value"]
    cell = f"{100 * own.mean():.1f} ± {100 * own.std():.1f}"
    assert re.search(rf"^\| stgnn \| {re.escape(cell)} \|", page, re.M)
    for title in ("Parts switched off", "Spots", "Imputed genes", "Expression from histology", "Large sections"):
        assert re.search(rf"^##+ {title}$", page, re.M)
    assert "nan" not in page


def test_docstrings_become_markdown():
    if find_spec("griffe") is None:
        pytest.skip("no griffe: pip install 'stgnn[docs]'")
    assert doctest.testmod(tool("docstrings")).failed == 0


def test_the_site_builds_without_a_warning(tmp_path):
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None or find_spec("material") is None:
        pytest.skip("no mkdocs: pip install 'stgnn[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    built = (tmp_path / "site" / "api" / "tl" / "index.html").read_text(encoding="utf-8")
    assert 'id="stgnn.tl.annotate"' in built
    assert ":func:" not in built
    assert (tmp_path / "site" / "benchmark" / "index.html").is_file()
