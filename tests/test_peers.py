"""Peers run in processes of their own: what is handed over, what comes back, and how failures read."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from stgnn.bench import peers
from stgnn.bench.methods import PEERS, SPOT_PEERS
from stgnn.bench.peers import PeerError
from stgnn.data.schema import GenesError, LabelsError, OptionError

FOLDER = Path(peers.__file__).parent
KINDS = (peers.SCRIPTS, "celltypist"), (peers.SPOT_SCRIPTS, "tacco"), (peers.GENE_SCRIPTS, "tangram")

NEAREST = """
    import sys
    from pathlib import Path
    import anndata
    import numpy as np
    import pandas as pd
    from scipy.special import softmax

    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    reference, query = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("reference", "query"))
    assert seed == 7 and list(reference.var_names) == list(query.var_names)
    assert list(query.obs) == ["section"] and query.obsm["spatial"].shape[1] == 2
    types = sorted(set(reference.obs["label"]))
    logged = [np.log1p(x.X.toarray() / x.X.sum(1) * 100) for x in (reference, query)]
    means = np.stack([logged[0][(reference.obs["label"] == name).to_numpy()].mean(0) for name in types])
    centred = [x - x.mean(0) for x in (means, logged[1])]
    table = pd.DataFrame(softmax(centred[1] @ centred[0].T, axis=1), index=query.obs_names, columns=types)
    table.sample(frac=1, random_state=0)[types[::-1]].to_csv(folder / "result.csv")
"""


TOTALS = """
    import sys
    from pathlib import Path
    import anndata
    import numpy as np

    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    reference, query = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("reference", "query"))
    genes = (folder / "genes.txt").read_text().split("\\n")
    assert seed == 7 and reference.n_vars == query.n_vars + 5 and not set(genes) & set(query.var_names)
    values = query.X.toarray().sum(1, keepdims=True) * reference[:, genes].X.toarray().mean(0)
    np.save(folder / "result.npy", values)
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Put a script in the place of CellTypist's, of TACCO's for spots, and of Tangram's for genes."""

    def put(text: str) -> None:
        path = tmp_path / "fake.py"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        for scripts, name in KINDS:
            monkeypatch.setitem(scripts, name, str(path))

    return put


def ask(reference: AnnData, query: AnnData, python: str = sys.executable) -> pd.DataFrame:
    return peers.annotate("celltypist", reference, query, "cell_type", 7, python)


def test_a_peers_word_comes_back_in_order(script, reference, query):
    script(NEAREST)
    reference, query = reference[:, 5:], query[:, :-5]
    table = ask(reference, query)
    assert table.index.tolist() == query.obs_names.tolist()
    assert table.columns.tolist() == sorted(set(reference.obs["cell_type"]))
    np.testing.assert_allclose(table.sum(axis=1), 1)
    truth = query.obs["cell_type"].astype(str).to_numpy()
    assert (table.columns.to_numpy()[table.to_numpy().argmax(1)] == truth).mean() > 0.6


def test_empty_cells_and_lacking_labels_are_left_out(script, reference, query):
    query.X = query.X.toarray()
    query.X[3] = 0
    reference.obs.loc[reference.obs_names[:5], "cell_type"] = np.nan
    script(NEAREST)
    table = ask(reference, query)
    np.testing.assert_allclose(table.iloc[3], 1 / 5)
    assert table.iloc[2].nunique() == 5


def test_types_without_a_word_get_the_least(script, reference, query):
    script(NEAREST + "\n    table.drop(columns=types[:1]).to_csv(folder / 'result.csv')")
    table = ask(reference, query)
    assert (table.iloc[:, 0] == 0).all()
    script(NEAREST + "\n    (table - 1).drop(columns=types[:1]).to_csv(folder / 'result.csv')")
    below = ask(reference, query)
    np.testing.assert_allclose(below.iloc[:, 0], below.iloc[:, 1:].min(axis=1))


def test_the_querys_types_are_not_handed_over(script, reference, query):
    script("import sys; sys.exit(b'type 1' in open(sys.argv[1] + '/query.h5ad', 'rb').read())")
    with pytest.raises(PeerError, match=r"celltypist: expected a table in result\.csv; found FileNotFoundError"):
        ask(reference, query)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys\nprint('so far, so good', file=sys.stderr)\nraise ValueError('too few cells')", "too few cells"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'; install it as docs/peers"),
        ("raise SystemExit(3)", "found exit code 3 and nothing on stderr"),
        ("raise SystemExit('needs coordinates')", "found needs coordinates$"),
        ("import sys; open(sys.argv[1] + '/result.csv', 'w').close()", "found EmptyDataError"),
        ("import sys; open(sys.argv[1] + '/result.csv', 'w').write(',Neuron\\ncell0,1\\n')", "found Neuron$"),
        ("import sys; open(sys.argv[1] + '/result.csv', 'w').write(',type 1\\nx,1\\n')", "found 1 others$"),
        ("import sys; open(sys.argv[1] + '/result.csv', 'w').write(',type 1\\ncell0,1\\ncell0,1\\n')", "name twice$"),
    ],
)
def test_failures_read_in_one_line(script, reference, query, text, message):
    script(text)
    with pytest.raises(PeerError, match=message) as caught:
        ask(reference, query)
    assert str(caught.value).startswith("celltypist: expected ")
    assert "\n" not in str(caught.value)


def test_what_can_be_known_before_is_said_before(reference, query):
    with pytest.raises(OptionError, match=r"peer: expected one of celltypist, .*did you mean 'tacco'"):
        peers.annotate("taco", reference, query, "cell_type", 0, sys.executable)
    with pytest.raises(LabelsError, match=r"labels_key: expected a column of reference\.obs; found 'type'"):
        peers.annotate("tacco", reference, query, "type", 0, sys.executable)
    query.var_names = [f"other {gene}" for gene in query.var_names]
    with pytest.raises(GenesError, match="found none"):
        peers.annotate("tacco", reference, query, "cell_type", 0, sys.executable)


def test_a_lacking_interpreter_is_named(reference, query):
    with pytest.raises(PeerError, match="expected a Python interpreter; found '/no/such/python': No such file"):
        ask(reference, query, "/no/such/python")


def test_our_modules_do_not_shine_through(script, reference, query, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    script("import os\nraise ValueError(os.environ.get('PYTHONPATH', 'hidden'))")
    with pytest.raises(PeerError, match="ValueError: hidden"):
        ask(reference, query)


def test_shares_sum_to_one(script, reference, query):
    script(NEAREST)
    shares = peers.deconvolve("tacco", reference, query, "cell_type", 7, sys.executable)
    pd.testing.assert_frame_equal(shares, ask(reference, query))
    for wrong, found in (("table * 2", "sums of 2 to 2"), ("table.sub(table.max(axis=1), axis=0)", "a least of -")):
        script(NEAREST + f"\n    ({wrong}).to_csv(folder / 'result.csv')")
        with pytest.raises(PeerError, match=f"tacco: expected shares of 0 or more that sum to 1; found .*{found}"):
            peers.deconvolve("tacco", reference, query, "cell_type", 7, sys.executable)
    with pytest.raises(OptionError, match="peer: expected one of tacco, flashdeconv; found 'celltypist'"):
        peers.deconvolve("celltypist", reference, query, "cell_type", 7, sys.executable)


def predict(reference: AnnData, query: AnnData, genes: list[str]) -> np.ndarray:
    return peers.impute("tangram", reference, query, genes, 7, sys.executable)


def test_genes_are_predicted_without_what_the_query_has_of_them(script, reference, query):
    script(TOTALS)
    query.X = query.X.toarray()
    query.X[3] = 0
    genes = reference.var_names[[9, 0, 4, 7, 2]].tolist()
    found = predict(reference, query[:, ::-1], genes)
    totals = query[:, ~query.var_names.isin(genes)].X.sum(axis=1)
    totals[3] = np.delete(totals, 3).mean()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, totals[:, None] * reference[:, genes].X.toarray().mean(0), rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"tangram: expected an array in result\.npy; found FileNotFoundError"),
        ("import sys; open(sys.argv[1] + '/result.npy', 'w').close()", "found EOFError"),
        (
            TOTALS + "\n    np.save(folder / 'result.npy', values.T)",
            r"expected finite values of shape \(\d+, 5\)",
        ),
        (TOTALS + "\n    np.save(folder / 'result.npy', values * np.nan)", "not all finite$"),
        ("import no_such_package", "install it as docs/peers"),
    ],
)
def test_predictions_that_are_none_are_refused(script, reference, query, text, message):
    script(text)
    with pytest.raises(PeerError, match=message):
        predict(reference, query, reference.var_names[:5].tolist())


def test_genes_that_cannot_be_predicted_are_refused(reference, query):
    for genes, found in (([reference.var_names[0], "Gad1"], "'Gad1'"), ([], "none")):
        with pytest.raises(GenesError, match=f"genes: expected genes of the reference; found {found}$"):
            predict(reference, query, genes)
    with pytest.raises(GenesError, match="other than those to predict"):
        predict(reference, query, reference.var_names.tolist())
    with pytest.raises(OptionError, match="expected one of tangram; found 'tacco'"):
        peers.impute("tacco", reference, query, [], 7, sys.executable)


def test_every_peer_has_a_script_that_stands_alone():
    assert (set(peers.SCRIPTS), set(peers.SPOT_SCRIPTS)) == (set(PEERS), set(SPOT_PEERS))
    scripts = {name for kind, _ in KINDS for name in kind.values()}
    assert scripts == {path.name for path in FOLDER.glob("_*.py")} - {"__init__.py"}
    for name in scripts:
        tree = ast.parse((FOLDER / name).read_text(encoding="utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not [module for module in imported if module.startswith("stgnn")]
        # reading a script, as the doctests do, needs none of its packages
        subprocess.run([sys.executable, "-c", f"import runpy; runpy.run_path({str(FOLDER / name)!r})"], check=True)


def test_peers_get_the_labels_that_all_others_get(tmp_path):
    import anndata

    reference = AnnData(np.ones((10, 3), dtype=np.float32))
    reference.obs["cell_type"] = ["A", "A ", "B", "B", "unknown", "once", "A", "A", "B", "B"]
    types = peers._write(tmp_path, reference, AnnData(np.ones((2, 3), dtype=np.float32)), "cell_type", "section")
    assert types == ["A", "B"]
    assert anndata.read_h5ad(tmp_path / "reference.h5ad").obs["label"].tolist() == list("AABBAABB")
