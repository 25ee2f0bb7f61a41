"""The examples of the README run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import anndata
import matplotlib
import pandas as pd
import pytest

from slides import write_slide
from stgnn import cli
from stgnn.data.toy import toy

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    reference, section = toy(n_cells=200)
    reference.write_h5ad(tmp_path / "reference.h5ad")
    section.write_h5ad(tmp_path / "section.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def block(language: str, word: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.S)
    (found,) = [text for text in blocks if word in text]
    return found


def test_python_example(here):
    matplotlib.use("agg")
    names: dict[str, object] = {}
    exec(block("python", "annotate"), names)
    assert "stgnn" in names["section"].obs
    matplotlib.pyplot.close("all")


def test_command_line_example(here, capsys):
    words = shlex.split(block("sh", "stgnn annotate").replace("\\\n", " "))
    assert words[0] == "stgnn"
    assert cli.main(words[1:]) == 0, capsys.readouterr().err
    assert "stgnn" in anndata.read_h5ad(here / "annotated.h5ad").obs
    assert (here / "report.html").is_file()


def test_imputation_example(here, capsys):
    words = shlex.split(block("sh", "stgnn impute"))
    assert cli.main([*words[1:], "--method", "knn-mean"]) == 0, capsys.readouterr().err  # the default takes longer
    assert "reliability" in anndata.read_h5ad(here / "imputed.h5ad").var


def test_expression_example(here, monkeypatch, capsys):
    monkeypatch.setenv("STGNN_CACHE", str(here / "features"))
    for number in (1, 2, 3):
        write_slide(here, f"slide_{number}", f"patient {number}", seed=number)
    lines = block("sh", "stgnn expression").strip().splitlines()
    assert [line.split()[2] for line in lines] == ["fit", "predict", "evaluate"]
    lines[0] += " --method ridge"  # the default trains for longer
    lines[2] = lines[2].replace(" --method ridge", "")
    for line in lines:
        assert cli.main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    assert anndata.read_h5ad(here / "predicted.h5ad").n_obs > 400
    assert (here / "evaluation" / "summary.csv").is_file()


def test_every_method_is_named():
    from stgnn.methods import ANNOTATORS

    for name in ANNOTATORS:
        assert f"\n| {name} | " in README


def rows(heading: str) -> dict[str, list[str]]:
    """Cells of a table by the first cell of each row."""
    start = README.index(f"\n| {heading} |")
    lines = README[start + 1 :].split("\n\n")[0].splitlines()[2:]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}


def means(name: str, metric: str, tasks: list[str]) -> pd.DataFrame:
    table = pd.read_csv(ROOT / "results" / name)
    return table[table["metric"] == metric].pivot_table("value", "method", "task")[tasks]


def share(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def test_figures_of_cell_types_are_those_of_the_runs():
    from stgnn.bench.records import read
    from stgnn.bench.tables import markdown

    written = markdown(read(ROOT / "results")).splitlines()
    assert written
    assert set(written) <= set(README.splitlines())


def test_figures_of_spots_are_those_of_the_runs():
    tasks = ["squares", "hexagons", "squares-diffused", "hexagons-platform", "squares-hard"]
    error, correlation = (means("spots/metrics.csv", metric, tasks) for metric in ("rmse", "pearson"))
    table = rows("method | squares of 100 um")
    assert len(table) == 4
    for method, cells in table.items():
        pairs = zip(
            [*error.loc[method], error.loc[method].mean()], [*correlation.loc[method], correlation.loc[method].mean()]
        )
        assert cells == [f"{share(one)} / {share(other)}" for one, other in pairs]


def test_figures_of_imputed_genes_are_those_of_the_runs():
    found = means("genes/metrics.csv", "spearman", ["hypothalamus", "visual", "prefrontal"])
    table = rows("method | hypothalamus, MERFISH, 134 genes")
    assert len(table) == 3
    for method, cells in table.items():
        assert [cell.split(" ")[0] for cell in cells] == [share(value) for value in found.loc[method]]
