"""The demo runs on what ships with the package."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest

from stgnn import cli, datasets, demo
from stgnn.data.schema import FileError


@pytest.mark.parametrize("read", [datasets.demo_query, datasets.demo_reference])
def test_shipped_data_are_counts_with_labels_and_their_source(read):
    adata = read()
    assert adata.X.dtype == np.float32
    assert (adata.X.data == np.rint(adata.X.data)).all()
    assert adata.obs["cell_type"].notna().all()
    assert "Moffitt et al. 2018" in adata.uns["source"]["citation"]


def test_shipped_data_belong_together():
    reference, query = datasets.demo_reference(), datasets.demo_query()
    assert set(reference.var_names) <= set(query.var_names)
    assert set(query.obs["cell_type"]) <= set(reference.obs["cell_type"])
    assert query.obsm["spatial"].shape == (query.n_obs, 2)


def test_shipped_data_are_small():
    assert sum(path.stat().st_size for path in (Path(datasets.__file__).parent / "_data").iterdir()) < 1.1e6


def test_scores_every_method_and_writes_the_first(tmp_path, capsys):
    scores = demo.run(tmp_path / "new" / "demo", methods=("knn-harmony", "logistic"))
    out = capsys.readouterr().out
    assert [score.method for score in scores] == ["knn-harmony", "logistic"]
    for score in scores:
        assert score.accuracy > 0.7
        assert score.macro_f1 > 0.7
        assert f"{score.accuracy:.3f}" in out
    adata = anndata.read_h5ad(tmp_path / "new" / "demo" / "annotated.h5ad")
    assert adata.uns["stgnn"]["parameters"]["method"] == "knn-harmony"
    assert (tmp_path / "new" / "demo" / "report.html").stat().st_size > 10_000


def test_compares_ours_with_its_siblings():
    assert demo.METHODS[0] == "stgnn"
    assert {"mixture", "knn-harmony", "logistic"} < set(demo.METHODS)


def test_command_runs_it(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(demo, "run", asked.append)
    assert cli.main(["demo", "--output", str(tmp_path)]) == 0
    assert asked == [tmp_path]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, capsys):
    (tmp_path / "demo").write_text("a file")
    with pytest.raises(FileError, match="output: expected a folder"):
        demo.run(tmp_path / "demo")
    assert cli.main(["demo", "--output", str(tmp_path / "demo")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
