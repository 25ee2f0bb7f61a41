"""Every kind of bad input that we know of: exit code 2, one line that names argument, expected and found, no output."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from stgnn import cli, tl


@dataclass
class Run:
    """What a user has and types; each case below spoils one thing."""

    folder: Path
    query: AnnData
    reference: AnnData
    arguments: list[str] = field(default_factory=lambda: ["annotate", "{folder}/query.h5ad"])
    options: dict[str, str | None] = field(default_factory=dict)
    after_writing: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.options = {"reference": "{folder}/reference.h5ad", "output": "{folder}/out.h5ad", "method": "logistic"}

    def command(self) -> list[str]:
        self.query.write_h5ad(self.folder / "query.h5ad")
        self.reference.write_h5ad(self.folder / "reference.h5ad")
        self.after_writing()
        words = [*self.arguments]
        for name, value in self.options.items():
            words += [f"--{name}"] if value is None else [f"--{name}", value]
        return [word.format(folder=self.folder) for word in words]

    def set(self, **options: str | None) -> None:
        self.options |= {name.replace("_", "-"): value for name, value in options.items()}

    def unset(self, *names: str) -> None:
        for name in names:
            del self.options[name]

    def truncate(self, name: str) -> None:
        path = self.folder / name
        self.after_writing = lambda: path.write_bytes(path.read_bytes()[:2000])  # type: ignore[assignment]

    def save_model(self) -> None:
        self.unset("reference")
        self.set(model="{folder}/model")
        tl.annotate(self.query.copy(), self.reference, method="logistic", save_model=self.folder / "model")

    def fill(self, value: float) -> None:
        self.query.X = self.query.X.astype(np.float32)
        self.query.X.data[5] = value

    def log(self) -> None:
        self.query.X = (self.query.X / self.query.X.sum(axis=1).max() * 100).log1p().tocsr().astype(np.float32)

    def empty(self) -> None:
        self.query.X = self.query.X * 0

    def rename(self, rule: Callable[[int], str]) -> None:
        self.query.var_names = [rule(number) for number in range(self.query.n_vars)]

    def label(self, values: object) -> None:
        self.reference.obs["cell_type"] = values

    def section(self, values: object) -> None:
        self.query.obs["section"] = values
        self.set(section_key="section")

    def place(self, values: object) -> None:
        self.query.obsm["spatial"] = values

    def put_at(self, path: str) -> None:
        (self.folder / path).parent.mkdir(exist_ok=True)
        (self.folder / path).write_text("something else")


def nan_places(run: Run) -> np.ndarray:
    places = run.query.obsm["spatial"].copy()
    places[3, 1] = np.nan
    return places


# what is wrong: (how to spoil the run, the argument that the line must name, words it must contain)
CASES: dict[str, tuple[Callable[[Run], object], str, str]] = {
    "no query given": (lambda run: run.arguments.pop(), "query", "none"),
    "two queries given": (lambda run: run.arguments.append("b.h5ad"), "stgnn annotate", "b.h5ad"),
    "no such command": (lambda run: run.arguments.__setitem__(0, "anotate"), "stgnn", "anotate"),
    "no such option": (lambda run: run.set(label_key="x"), "--label-key", "did you mean --labels-key"),
    "no output given": (lambda run: run.unset("output"), "--output", "none"),
    "neither reference nor model": (lambda run: run.unset("reference"), "reference", "neither"),
    "option without value": (lambda run: run.set(layer=None), "--layer", "none"),
    "query missing": (lambda run: run.arguments.__setitem__(1, "{folder}/qery.h5ad"), "query", "no file"),
    "query of another kind": (lambda run: run.arguments.__setitem__(1, "{folder}/cells.csv"), "query", "cells.csv"),
    "query truncated": (lambda run: run.truncate("query.h5ad"), "query", "cannot be read"),
    "query not of AnnData": (
        lambda run: setattr(run, "after_writing", lambda: run.put_at("query.h5ad")),
        "query",
        "read",
    ),
    "reference missing": (lambda run: run.set(reference="{folder}/none.zarr"), "reference", "no file"),
    "reference truncated": (lambda run: run.truncate("reference.h5ad"), "reference", "cannot be read"),
    "output of another kind": (lambda run: run.set(output="{folder}/out.csv"), "output", "out.csv"),
    "output in a missing folder": (lambda run: run.set(output="{folder}/none/out.h5ad"), "output", "no folder"),
    "output over the query": (lambda run: run.set(output="{folder}/query.h5ad"), "output", "query.h5ad"),
    "output over the reference": (lambda run: run.set(output="{folder}/reference.h5ad"), "output", "reference.h5ad"),
    "report of another kind": (lambda run: run.set(report="{folder}/report.pdf"), "report", "report.pdf"),
    "report in a missing folder": (lambda run: run.set(report="{folder}/none/a.html"), "report", "no folder"),
    "label column missing": (lambda run: run.set(labels_key="celltype"), "labels_key", "did you mean 'cell_type'"),
    "labels are numbers": (lambda run: run.label(np.arange(400) % 5), "reference.obs['cell_type']", "not text"),
    "labels are identifiers": (
        lambda run: run.label(run.reference.obs_names),
        "reference.obs['cell_type']",
        "identifier",
    ),
    "no cell labelled": (lambda run: run.label([""] * 400), "reference.obs['cell_type']", "no label"),
    "one type only": (lambda run: run.label(["neuron"] * 400), "labels_key", "neuron"),
    "section column missing": (lambda run: run.set(section_key="sections"), "section_key", "did you mean 'section'"),
    "a cell without section": (lambda run: run.section(["a", None] + 398 * ["b"]), "section_key", "1 cell without"),
    "sections are identifiers": (
        lambda run: run.section(run.query.obs_names),
        "section_key",
        "looks like an identifier",
    ),
    "coordinates missing": (lambda run: run.set(spatial_key="places"), "spatial_key", "obsm has 'spatial'"),
    "coordinates NaN": (lambda run: run.place(nan_places(run)), "query.obsm['spatial']", "NaN"),
    "coordinates of 4 columns": (lambda run: run.place(np.ones((400, 4))), "query.obsm['spatial']", "(400, 4)"),
    "all cells at one place": (lambda run: run.place(np.ones((400, 2))), "query.obsm['spatial']", "all 400 cells"),
    "scale zero": (lambda run: run.set(um_per_unit="0"), "um_per_unit", "0"),
    "scale not a number": (lambda run: run.set(um_per_unit="ten"), "--um-per-unit", "'ten'"),
    "counts log-normalised": (lambda run: run.log(), "query, X", "looks log"),
    "counts NaN": (lambda run: run.fill(np.nan), "query, X", "1 NaN value"),
    "counts infinite": (lambda run: run.fill(np.inf), "query, X", "1 infinite value"),
    "counts negative": (lambda run: run.fill(-1), "query, X", "1 negative value"),
    "counts beyond recovery": (
        lambda run: (run.fill(-1), run.set(recover_counts=None)),
        "query, X",
        "cannot be undone",
    ),
    "no counts at all": (lambda run: run.empty(), "query", "none in 400 cells"),
    "layer missing": (lambda run: run.set(layer="count"), "layer", "'count'"),
    "layer of the reference missing": (lambda run: run.set(reference_layer="raw"), "layer", "'raw'"),
    "genes by other names": (lambda run: run.rename("ENSMUSG{:011d}".format), "genes", "0 shared"),
    "genes of another species": (lambda run: run.rename("GENE{}".format), "genes", "if case were ignored"),
    "no such resolution": (lambda run: run.set(resolution="spots"), "resolution", "did you mean 'spot'"),
    "spots by a method for cells": (
        lambda run: run.set(resolution="spot", method="logistic"),
        "method",
        "poisson-mixture",
    ),
    "number of cells missing": (lambda run: run.set(cells_key="n"), "cells_key", "no column 'n'"),
    "no such method": (lambda run: run.set(method="logstic"), "method", "did you mean 'logistic'"),
    "name of the results taken": (lambda run: run.set(key_added="section"), "key_added", "'section'"),
    "name of the results with a slash": (lambda run: run.set(key_added="a/b"), "key_added", "'a/b'"),
    "seed not a number": (lambda run: run.set(random_state="one"), "--random-state", "'one'"),
    "seed negative": (lambda run: run.set(random_state="-1"), "random_state", "-1"),
    "no such device": (lambda run: run.set(device="gpu"), "device", "'gpu'"),
    "model missing": (lambda run: (run.unset("reference"), run.set(model="{folder}/model")), "model", "no folder"),
    "model and reference": (lambda run: run.set(model="{folder}/model"), "--reference", "reference.h5ad"),
    "model saved again": (lambda run: (run.save_model(), run.set(save_model="{folder}/b")), "save_model", "/b"),
    "genes of the model missing": (
        lambda run: (run.save_model(), setattr(run, "query", run.query[:, :30].copy())),
        "genes",
        "30 of them missing",
    ),
    "model in a folder of other things": (
        lambda run: (run.put_at("mine/notes.txt"), run.set(save_model="{folder}/mine")),
        "save_model",
        "something else",
    ),
    "model in a missing folder": (lambda run: run.set(save_model="{folder}/none/model"), "save_model", "no folder"),
}


@pytest.fixture
def run(tmp_path, query, reference) -> Run:
    return Run(tmp_path, query, reference)


def check_refusal(code: int, out: str, err: str, argument: str, words: str, folder: Path, before: set[Path]) -> None:
    assert code == 2, err
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert re.match(r"[^:]+: expected .+; found .+", err)
    assert err.startswith(f"{argument}: expected ")
    assert words in err
    assert "Traceback" not in err + out
    assert set(folder.rglob("*")) == before


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_in_one_line(name, run, capsys):
    spoil, argument, words = CASES[name]
    spoil(run)
    command = run.command()
    before = set(run.folder.rglob("*"))
    capsys.readouterr()
    code = cli.main(command)
    check_refusal(code, *capsys.readouterr(), argument, words, run.folder, before)


@pytest.mark.parametrize("name", ["query truncated", "label column missing", "no such option"])
def test_bad_input_is_refused_in_a_process_of_its_own(name, run):
    spoil, argument, words = CASES[name]
    spoil(run)
    command = run.command()
    before = set(run.folder.rglob("*"))
    script = Path(sys.executable).with_name("stgnn")
    done = subprocess.run([script, *command], capture_output=True, text=True, check=False)
    check_refusal(done.returncode, done.stdout, done.stderr, argument, words, run.folder, before)


def test_there_are_twenty_kinds_at_least():
    assert len(CASES) >= 20


def test_the_run_that_every_case_spoils_is_good(run, capsys):
    assert cli.main(run.command()) == 0
    assert capsys.readouterr().err == ""
    assert (run.folder / "out.h5ad").is_file()
