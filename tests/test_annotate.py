"""The front door: what it writes, what it leaves alone, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stgnn import tl
from stgnn.data.cells import read_reference
from stgnn.data.schema import CoordinatesError, InputError, ModelError, OptionError
from stgnn.methods.base import load
from stgnn.methods.linear import LogisticNeighbours, LogisticRegression


def proba(adata) -> np.ndarray:
    return adata.obsm["stgnn_proba"].to_numpy()


def test_writes_the_documented_keys_and_nothing_else(query, reference):
    before = query.copy()
    assert tl.annotate(query, reference, section_key="section", method="logistic") is None
    assert set(query.obs) - set(before.obs) == {"stgnn", "stgnn_confidence", "stgnn_rejection"}
    assert set(query.obsm) - set(before.obsm) == {"stgnn_proba", "X_stgnn"}
    assert set(query.uns) - set(before.uns) == {"stgnn"}
    np.testing.assert_array_equal(query.X.toarray(), before.X.toarray())
    assert query.var.equals(before.var)
    assert query.obs[list(before.obs)].equals(before.obs)
    np.testing.assert_allclose(proba(query).sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(query.obs["stgnn_confidence"], proba(query).max(axis=1), atol=1e-6)
    names = query.obsm["stgnn_proba"].columns.to_numpy()
    assert query.obs["stgnn"].tolist() == names[proba(query).argmax(axis=1)].tolist()
    assert query.uns["stgnn"]["parameters"]["method"] == "logistic"
    assert query.uns["stgnn"]["parameters"]["C"] == LogisticRegression().C


def test_the_reference_is_left_alone(query, reference):
    before = reference.copy()
    tl.annotate(query, reference, method="logistic")
    assert reference.obs.equals(before.obs)
    assert dict(reference.uns) == dict(before.uns)
    assert list(reference.obsm) == list(before.obsm)
    np.testing.assert_array_equal(reference.X.toarray(), before.X.toarray())


def test_copy_returns_an_annotated_copy(query, reference):
    columns = list(query.obs)
    annotated = tl.annotate(query, reference, method="logistic", copy=True)
    assert list(query.obs) == columns
    assert "stgnn" in annotated.obs
    assert "stgnn" not in query.uns


def test_the_reference_may_be_a_path(query, reference, tmp_path):
    reference.write_h5ad(tmp_path / "reference.h5ad")
    by_path = tl.annotate(query, tmp_path / "reference.h5ad", method="logistic", copy=True)
    tl.annotate(query, reference, method="logistic")
    np.testing.assert_array_equal(proba(by_path), proba(query))


def test_labels_of_the_query_change_nothing(query, reference):
    blind = query.copy()
    del blind.obs["cell_type"]
    tl.annotate(query, reference, section_key="section", method="logistic")
    tl.annotate(blind, reference, section_key="section", method="logistic")
    np.testing.assert_array_equal(proba(query), proba(blind))


def test_results_are_replaced_by_the_next_ones(query, reference):
    tl.annotate(query, reference, method="logistic")
    tl.annotate(query, reference, method="knn-harmony")
    assert query.uns["stgnn"]["parameters"]["method"] == "knn-harmony"


def test_method_may_be_an_object_which_stays_as_it_is(query, reference):
    method = LogisticRegression(C=1e-4)
    tl.annotate(query, reference, method=method)
    assert not hasattr(method, "genes_")
    assert query.uns["stgnn"]["parameters"]["C"] == 1e-4
    assert query.obs["stgnn_confidence"].max() < 0.5  # so strong a penalty lets no cell be sure


def test_a_fitted_model_serves_in_memory_and_from_a_folder(query, reference, tmp_path):
    tl.annotate(query, reference, method="logistic", save_model=tmp_path / "model")
    first = proba(query)
    for model in (tmp_path / "model", str(tmp_path / "model"), load(tmp_path / "model")):
        again = query[:, ::-1].copy()  # genes in another order
        tl.annotate(again, model=model)
        np.testing.assert_allclose(proba(again), first, atol=1e-6)


def test_section_key_is_used_for_a_reference_that_has_it(query):
    reference = query.copy()
    tl.annotate(query, reference, section_key="section", method="logistic-neighbours")
    assert query.uns["stgnn"]["details"]["space"] == "neighbours' means joined"
    assert (query.obs["stgnn"].astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.9
    np.testing.assert_array_equal(
        read_reference(reference, section_key="section").section, query.obs["section"].cat.codes
    )


def test_no_coordinates_are_needed_and_the_result_says_so(query, reference):
    own = tl.annotate(query, reference, method="logistic", copy=True)
    del query.obsm["spatial"]
    tl.annotate(query, reference, method="logistic-neighbours")
    assert any("no coordinates" in note for note in query.uns["stgnn"]["notes"])
    assert "own expression only" in query.uns["stgnn"]["details"]["space"]
    np.testing.assert_array_equal(proba(query), proba(own))


def test_a_model_of_neighbours_asks_for_coordinates(query):
    reference, blind = query.copy(), query.copy()
    del blind.obsm["spatial"]
    tl.annotate(query, reference, method=LogisticNeighbours(), save_model=None)
    fitted = _fit(LogisticNeighbours(), reference, query)
    with pytest.raises(CoordinatesError, match="query: expected coordinates"):
        tl.annotate(blind, model=fitted)


def test_many_genes_go_through_components():
    from stgnn.data.toy import toy

    reference, query = toy(n_cells=300, n_genes=700)
    tl.annotate(query, reference, method="logistic")
    across_platforms = (query.obs["stgnn"].astype(str) == query.obs["cell_type"].astype(str)).mean()
    assert across_platforms > 0.75  # on the reference's scale, the platform's factors reach the components
    known, asked = query[::2].copy(), query[1::2].copy()
    tl.annotate(asked, known, method="logistic")
    assert (asked.obs["stgnn"].astype(str) == asked.obs["cell_type"].astype(str)).mean() > 0.9


def test_two_types_are_enough():
    from stgnn.data.toy import toy

    reference, query = toy(n_cells=200, n_types=2)
    tl.annotate(query, reference, method="logistic")
    assert (query.obs["stgnn"].astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.9
    np.testing.assert_allclose(proba(query).sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "reference: expected either a reference to learn from or a model; found neither"),
        ({"reference": "r.h5ad", "model": "m"}, "reference: expected either .* found both"),
        ({"reference": "r.h5ad", "method": "logic"}, "method: expected one of stgnn, .* did you mean 'logistic'"),
        ({"reference": "r.h5ad", "method": LogisticRegression}, "method: expected the name of a method, or a method"),
        ({"model": 3}, "model: expected a folder, or a fitted method; found int"),
        ({"reference": "r.h5ad", "random_state": 1.5}, "random_state: expected a whole number"),
        ({"reference": "r.h5ad", "random_state": 2**32}, "random_state: expected a whole number"),
        ({"reference": "r.h5ad", "device": "cuda:one"}, "device: expected auto, cpu"),
        ({"reference": "r.h5ad", "key_added": ""}, "key_added: expected a name"),
        ({"model": "m", "save_model": "n"}, "save_model: expected none"),
    ],
)
def test_options_that_nothing_could_make_right(query, reference, tmp_path, options, words):
    if "reference" in options:
        options = options | {"reference": reference}
    with pytest.raises(OptionError, match=words):
        tl.annotate(query, **options)
    assert "stgnn" not in query.obs


def test_a_model_that_is_not_fitted_is_refused(query):
    with pytest.raises(ModelError, match="expected a fitted method"):
        tl.annotate(query, model=LogisticRegression())


@pytest.mark.parametrize("source", ["query.h5ad", SimpleNamespace(tables={})])
def test_results_need_an_object_to_be_written_onto(source, reference):
    with pytest.raises(InputError, match="adata: expected AnnData, to write results onto; found"):
        tl.annotate(source, reference)


def _fit(method, reference, query):
    from stgnn.data.cells import align, read_query

    return method.fit(
        *align(read_reference(reference, section_key="section"), read_query(query, section_key="section"))
    )


def test_nothing_is_written_where_saving_the_model_is_refused(query, reference, tmp_path):
    Path(tmp_path / "model").write_text("a file")
    with pytest.raises(ValueError, match="save_model: expected a folder; found a file"):
        tl.annotate(query, reference, method="logistic", save_model=tmp_path / "model")
    assert "stgnn" not in query.obs
