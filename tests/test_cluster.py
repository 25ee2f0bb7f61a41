"""Pieces judged by workers of a dask cluster: what comes out is the same, whoever dies on the way."""

import os
import signal
import threading
import time

import anndata
import numpy as np
import pytest

from stgnn import tl
from stgnn.data.schema import OptionError
from stgnn.data.toy import toy
from stgnn.methods.spatial_transformer_gnn import SpatialTransformerGNN

distributed = pytest.importorskip("distributed")

QUICK = SpatialTransformerGNN(members=1, rounds=1, steps=5, max_cells=150, cells_per_piece=40)


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    reference, query = toy(n_cells=600, random_state=1)
    reference.write_h5ad(folder / "reference.h5ad")
    query.write_h5ad(folder / "query.h5ad")
    tl.annotate_file(
        folder / "query.h5ad",
        folder / "model.h5ad",
        folder / "reference.h5ad",
        method=QUICK,
        save_model=folder / "model",
    )
    return folder


def annotated(files, name, scheduler):
    """Annotate by workers, with a model of before."""
    tl.annotate_file(files / "query.h5ad", files / name, model=files / "model", scheduler=scheduler)
    return anndata.read_h5ad(files / name)


def test_death_of_a_worker_changes_nothing(cluster, files):
    whole = annotated(files, "whole.h5ad", cluster.scheduler_address)
    victim, died = cluster.workers[0], []

    def kill():
        with distributed.Client(cluster.scheduler_address) as client:
            while not client.run_on_scheduler(_processing)[victim.worker_address]:
                time.sleep(0.002)
        os.kill(victim.pid, signal.SIGKILL)
        died.append(victim.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    again = annotated(files, "again.h5ad", cluster.scheduler_address)
    killer.join()
    assert died
    assert again.obs["stgnn"].equals(whole.obs["stgnn"])
    for table in ("X_stgnn", "stgnn_proba"):
        np.testing.assert_array_equal(np.asarray(again.obsm[table]), np.asarray(whole.obsm[table]))
    assert sorted(path.name for path in files.iterdir() if "checkpoint" in path.name or "partial" in path.name) == []


def _processing(dask_scheduler):
    return {address: len(worker.processing) for address, worker in dask_scheduler.workers.items()}


def test_workers_say_what_this_process_says(cluster, files):
    by_workers = annotated(files, "workers.h5ad", cluster.scheduler_address)
    alone = anndata.read_h5ad(files / "query.h5ad")
    tl.annotate(alone, model=files / "model")
    assert by_workers.obs["stgnn"].equals(alone.obs["stgnn"])
    # workers compute on one thread each, this process on several: sums differ in their last bits
    np.testing.assert_allclose(by_workers.obsm["stgnn_proba"], alone.obsm["stgnn_proba"], atol=1e-5)


def test_no_scheduler_is_one_line(files, monkeypatch):
    monkeypatch.setattr("stgnn.cluster.ANSWER_S", 0.2)
    with pytest.raises(OptionError, match="scheduler that answers"):
        annotated(files, "none.h5ad", "tcp://127.0.0.1:9")
    assert not (files / "none.h5ad").exists()


def test_what_is_held_whole_is_refused(files):
    with pytest.raises(OptionError, match="held whole"):
        tl.annotate_file(
            files / "query.h5ad", files / "no.h5ad", files / "reference.h5ad", method="logistic", scheduler="local"
        )
