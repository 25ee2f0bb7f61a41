"""The examples of the README run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import anndata
import matplotlib
import pytest

from slides import write_slide
from stgnn import cli
from stgnn.data.toy import toy

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


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
