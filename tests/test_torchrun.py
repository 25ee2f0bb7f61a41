"""Processes under torchrun share the fitting of a model: it is that of one process, and the first of them writes."""

import json
import os
import subprocess
import sys
import textwrap

import anndata
import numpy as np
from safetensors.numpy import load_file

from stgnn.data.toy import toy
from stgnn.train import shared

COMMAND = textwrap.dedent("""
    import sys
    from stgnn import tl
    from stgnn.methods.spatial_transformer_gnn import SpatialTransformerGNN

    method = SpatialTransformerGNN(members=2, rounds=2, steps=10, width=8)
    query, output, reference, model = sys.argv[1:]
    tl.annotate_file(query, output, reference, method=method, save_model=model)
""")


def test_two_processes_give_the_model_of_one(tmp_path):
    reference, query = toy(n_cells=150, random_state=2)
    reference.write_h5ad(tmp_path / "reference.h5ad")
    query.write_h5ad(tmp_path / "query.h5ad")
    (tmp_path / "run.py").write_text(COMMAND)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, start in (("one", []), ("two", together)):
        files = [str(tmp_path / part) for part in ("query.h5ad", f"{name}.h5ad", "reference.h5ad", name)]
        subprocess.run([sys.executable, *start, tmp_path / "run.py", *files], check=True, env=environment, timeout=240)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_allclose(array, two[name], atol=1e-5, err_msg=name)
    facts = [json.loads((tmp_path / name / "config.json").read_text())["facts"] for name in ("one", "two")]
    assert facts[0]["curve_"] == facts[1]["curve_"]
    left, right = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("one", "two"))
    np.testing.assert_allclose(left.obsm["stgnn_proba"], right.obsm["stgnn_proba"], atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {
        "query.h5ad",
        "reference.h5ad",
        "run.py",
        "one",
        "two",
        "one.h5ad",
        "two.h5ad",
    }


def test_work_of_one_process_is_done_in_order():
    done = []
    assert shared([lambda n=n: done.append(n) or n for n in range(3)]) == [0, 1, 2]
    assert done == [0, 1, 2]
