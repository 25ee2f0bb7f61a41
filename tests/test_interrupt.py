"""A run killed in the middle of training leaves nothing half-written, and the same command goes on from there."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from stgnn import shallow, teacher, tl
from stgnn.data.cells import align, read_query, read_reference
from stgnn.data.toy import toy
from stgnn.methods.spatial_transformer_gnn import SpatialTransformerGNN

COMMAND = textwrap.dedent("""
    import sys
    from dataclasses import fields
    from stgnn import cli
    from stgnn.methods.spatial_transformer_gnn import SpatialTransformerGNN

    # the command takes no size of the training; what is long enough to be killed and short enough to test is set here
    names = [field.name for field in fields(SpatialTransformerGNN)]
    defaults = dict(zip(names, SpatialTransformerGNN.__init__.__defaults__))
    defaults.update(members=1, rounds=2, steps=int(sys.argv[1]), width=8)
    SpatialTransformerGNN.__init__.__defaults__ = tuple(defaults.values())
    sys.exit(cli.main(sys.argv[2:]))
""")
STEPS = 55
"""A state is written every 50 steps: the run dies in the middle of a round, or soon after."""


@pytest.fixture
def files(tmp_path) -> Path:
    reference, query = toy(n_cells=100, n_genes=20, random_state=3)
    reference.write_h5ad(tmp_path / "reference.h5ad")
    query.write_h5ad(tmp_path / "query.h5ad")
    return tmp_path


def words(folder: Path, output: str, seed: int = 0) -> list[str]:
    options = ["--reference", str(folder / "reference.h5ad"), "--section-key", "section", "--random-state", str(seed)]
    run = [str(folder / "query.h5ad"), "--output", str(folder / output), "--verbose", *options]
    return [sys.executable, "-c", COMMAND, str(STEPS), "annotate", *run]


def kill_once_saved(command: list[str], checkpoint: Path) -> list[Path]:
    """Start a run, kill it as soon as a state of its training is on disk, and list these states."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    try:
        while not list(checkpoint.rglob("*.pt")):
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < until, "no checkpoint in two minutes"
            time.sleep(0.005)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    return list(checkpoint.rglob("*.pt"))


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def proba(path: Path) -> np.ndarray:
    return anndata.read_h5ad(path).obsm["stgnn_proba"].to_numpy()


def test_killed_while_training(files):
    given = {"query.h5ad", "reference.h5ad"}
    checkpoint = files / "out.h5ad.checkpoint"
    kill_once_saved(words(files, "out.h5ad"), checkpoint)
    assert {path.name for path in files.iterdir()} == given | {checkpoint.name}

    log = run(words(files, "out.h5ad"))
    assert "resuming" in log
    assert {path.name for path in files.iterdir()} == given | {"out.h5ad"}

    log = run(words(files, "whole.h5ad"))
    assert "resuming" not in log
    np.testing.assert_array_equal(proba(files / "out.h5ad"), proba(files / "whole.h5ad"))


@pytest.fixture
def tissue():
    return toy(n_cells=200, n_genes=40, random_state=3)


def trained(tissue, checkpoint: Path, caplog, random_state: int = 0, **options) -> bool:
    """Train a little, and say whether an earlier training was resumed."""
    method = SpatialTransformerGNN(members=1, rounds=1, steps=2, width=16, random_state=random_state, **options)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="stgnn"):
        tl.annotate(tissue[1].copy(), tissue[0], section_key="section", method=method, checkpoint=checkpoint)
    return any("resuming" in record.getMessage() for record in caplog.records)


def test_only_the_same_work_is_resumed(tissue, tmp_path, caplog):
    reference, query = tissue
    assert not trained((reference, query), tmp_path, caplog)
    assert not trained((reference, query), tmp_path, caplog, random_state=1)
    assert not trained((reference, query), tmp_path, caplog, gate=False)

    other_counts = query.copy()
    other_counts.X = other_counts.X[::-1]
    assert not trained((reference, other_counts), tmp_path, caplog)
    for start in (0, 1):
        same_values_elsewhere = query.copy()
        same_values_elsewhere.X = sp.csr_matrix(np.tile(np.arange(40) % 2 == start, (200, 1)).astype(np.float32))
        assert not trained((reference, same_values_elsewhere), tmp_path, caplog)
    moved = query.copy()
    moved.obsm["spatial"] = moved.obsm["spatial"][::-1]
    assert not trained((reference, moved), tmp_path, caplog)
    other_labels = reference.copy()
    other_labels.obs["cell_type"] = reference.obs["cell_type"].to_numpy()[::-1]
    assert not trained((other_labels, query), tmp_path, caplog)

    assert trained((reference, query), tmp_path, caplog)


def test_what_the_teacher_said_is_not_worked_out_twice(tissue, tmp_path, caplog, monkeypatch):
    """Whatever is switched off in the network; but not with another seed, or without the selector."""
    assert not trained(tissue, tmp_path, caplog)
    said = []
    teach = teacher.teach
    monkeypatch.setattr(teacher, "teach", lambda *args, **settings: said.append(settings) or teach(*args, **settings))
    assert not trained(tissue, tmp_path, caplog, gate=False)
    assert not said
    trained(tissue, tmp_path, caplog, random_state=1)
    trained(tissue, tmp_path, caplog, selector=False)
    assert said == [{"selector": True, "random_state": 1}, {"selector": False, "random_state": 0}]


def test_the_teaching_read_back_is_the_one_written(tissue, tmp_path):
    cells = align(read_reference(tissue[0]), read_query(tissue[1], section_key="section"))
    written = teacher.teach(*cells, selector=True, random_state=0)
    written.save(tmp_path / "teaching.npz")
    read = teacher.Teaching.load(tmp_path / "teaching.npz")
    for name in ("posterior", "weights", "prior"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    for name, value in vars(written.scale).items():
        np.testing.assert_array_equal(getattr(read.scale, name), value)
    for old, new in zip(written.council, read.council, strict=True):
        for name, value in shallow.pack([old]).items():
            np.testing.assert_array_equal(shallow.pack([new])[name], value)
    assert (read.trust, read.openness, read.expected_accuracy) == (
        written.trust,
        written.openness,
        written.expected_accuracy,
    )
    assert read.facts == written.facts
    assert [path.name for path in tmp_path.iterdir()] == ["teaching.npz"]
