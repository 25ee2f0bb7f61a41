"""The command line does what its help says, writes whole files only, and stops quietly."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import anndata
import pytest

from stgnn import __version__, cli, tl
from stgnn.data.files import write_atomically


@pytest.fixture
def files(tmp_path, query, reference) -> Path:
    query.write_h5ad(tmp_path / "query.h5ad")
    reference.write_h5ad(tmp_path / "reference.h5ad")
    return tmp_path


def annotate(folder: Path, *more: str, method: str = "logistic") -> list[str]:
    files = [str(folder / "query.h5ad"), "--reference", str(folder / "reference.h5ad")]
    return ["annotate", *files, "--output", str(folder / "out.h5ad"), "--method", method, *more]


def test_annotate_writes_what_the_function_writes(files, query, reference, capsys):
    assert cli.main(annotate(files, "--section-key", "section", "--key-added", "mine")) == 0
    tl.annotate(query, reference, section_key="section", method="logistic", key_added="mine")
    written = anndata.read_h5ad(files / "out.h5ad")
    assert written.obs["mine"].tolist() == query.obs["mine"].tolist()
    assert set(written.obs.columns) == set(query.obs.columns)
    assert set(written.obsm) == set(query.obsm)
    assert written.uns["mine"]["parameters"]["section_key"] == "section"
    assert sorted(path.name for path in files.iterdir()) == ["out.h5ad", "query.h5ad", "reference.h5ad"]
    out, err = capsys.readouterr()
    assert err == ""
    for words in ("cells", "400", "5 of 5 in the reference", "unknown", "median 0.", str(files / "out.h5ad")):
        assert words in out


def test_zarr_in_and_out(files, query, capsys):
    write_atomically(query, files / "query.zarr")
    out = files / "out.zarr"
    reference = str(files / "reference.h5ad")
    words = [
        "annotate",
        str(files / "query.zarr"),
        "--reference",
        reference,
        "--output",
        str(out),
        "--method",
        "logistic",
    ]
    assert cli.main(words) == 0
    assert "stgnn" in anndata.read_zarr(out).obs


def test_a_saved_model_annotates_without_a_reference(files, capsys):
    assert cli.main(annotate(files, "--save-model", str(files / "model"))) == 0
    again = ["annotate", str(files / "query.h5ad"), "--model", str(files / "model"), "--output", str(files / "b.h5ad")]
    assert cli.main(again) == 0
    first, second = (anndata.read_h5ad(files / name) for name in ("out.h5ad", "b.h5ad"))
    assert first.obs["stgnn"].tolist() == second.obs["stgnn"].tolist()


def test_report_is_one_html_file(files, capsys):
    assert cli.main(annotate(files, "--report", str(files / "report.html"))) == 0
    assert (files / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")
    assert str(files / "report.html") in capsys.readouterr().out


def test_counts_are_recovered_for_results_and_report(files, query, capsys):
    query.X = (query.X / query.X.sum(axis=1) * 1e4).tocsr().log1p()
    query.write_h5ad(files / "query.h5ad")
    assert cli.main(annotate(files, "--recover-counts", "--report", str(files / "report.html"))) == 0
    assert any("counts recovered" in note for note in anndata.read_h5ad(files / "out.h5ad").uns["stgnn"]["notes"])


def test_verbose_tells_what_the_gate_did(files, capsys):
    assert cli.main(annotate(files, "--verbose")) == 0
    assert "60 genes shared" in capsys.readouterr().err
    assert logging.getLogger("stgnn").handlers == []


@pytest.mark.parametrize("words", [[], ["--help"], ["annotate", "--help"], ["demo", "-h"], ["--version"]])
def test_help_and_version_go_to_stdout(words, capsys):
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert __version__ in out if "--version" in words else "Usage: stgnn" in out


def test_help_names_every_option_of_the_function(capsys):
    cli.main(["annotate", "--help"])
    text = capsys.readouterr().out
    names = set(
        tl.annotate.__code__.co_varnames[: tl.annotate.__code__.co_argcount + tl.annotate.__code__.co_kwonlyargcount]
    )
    for name in names - {"adata", "checkpoint", "copy"}:  # QUERY; beside the output; a file is always a copy
        assert f"--{name.replace('_', '-')}" in text


def test_interrupt_is_one_line_and_leaves_no_file(files, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tl, "annotate_file", interrupted)
    assert cli.main(annotate(files)) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert not (files / "out.h5ad").exists()


def test_checkpoint_lies_beside_the_output_until_it_is_written(files, monkeypatch, capsys):
    real, checkpoint = tl.annotate, files / "out.h5ad.checkpoint"

    def train(*args, **options):
        assert options["checkpoint"] == checkpoint
        checkpoint.mkdir()
        real(*args, **options)

    monkeypatch.setattr(tl, "annotate", train)
    assert cli.main(annotate(files)) == 0
    assert not checkpoint.exists()


KILLED_WHILE_WRITING = """
    import os, signal, sys
    from stgnn import cli
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    cli.main(sys.argv[1:])
"""


def test_killed_while_writing_leaves_no_output_and_the_next_run_cleans_up(files, capsys):
    code = textwrap.dedent(KILLED_WHILE_WRITING)
    done = subprocess.run([sys.executable, "-c", code, *annotate(files)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (files / "out.h5ad").exists()
    assert (files / "out.h5ad.partial").exists()
    assert cli.main(annotate(files)) == 0
    assert sorted(path.name for path in files.iterdir()) == ["out.h5ad", "query.h5ad", "reference.h5ad"]
