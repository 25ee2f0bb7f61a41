"""What every method promises, on a small simulated tissue."""

from __future__ import annotations

import inspect
import typing
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

from stgnn import tl
from stgnn.data.cells import Cells, align, read_query, read_reference
from stgnn.data.toy import toy
from stgnn.methods import ANNOTATORS, OPTIONS, annotator, name_of
from stgnn.methods.base import RUNTIME, Annotator, load, saved_fields

METHODS = [name for name in ANNOTATORS if name not in OPTIONS]
SECTION = "section"

SAME_LABELS = {"logistic": 1.0, "logistic-neighbours": 1.0}
"""Share of labels that must survive a permutation of the query's cells. Alignment by Harmony visits cells in a random
order, so methods that use it may move a cell that lies on a border."""


SMALL: dict[str, dict[str, int]] = {
    "stgnn": {"members": 2, "rounds": 2, "steps": 10, "width": 32},
    "transformer": {"steps": 40},
    "scbignn": {"rounds": 1, "steps": 30},
    "gcn": {"steps": 60},
    "stagate": {"steps": 30, "width": 64},
    "spagcn": {"steps": 30},
    "spatial-id": {"steps": 60},
    "stellar": {"steps": 40},
}
"""Options that keep training short where a promise does not depend on how long it lasts."""


@pytest.fixture(scope="module")
def tissue():
    return toy(n_cells=400, random_state=4)


@pytest.fixture(scope="module")
def cells(tissue) -> tuple[Cells, Cells]:
    return align(read_reference(tissue[0]), read_query(tissue[1], section_key=SECTION))


@pytest.fixture(scope="module", params=METHODS)
def fitted(request, cells) -> Annotator:
    return small(request.param).fit(*cells)


@pytest.fixture(scope="module")
def proba(fitted, cells) -> np.ndarray:
    return fitted.predict_proba(cells[1])


def small(method: str | Annotator, random_state: int = 0) -> Annotator:
    """Make an unfitted method, of that name or like that given, that trains for a short time."""
    name = method if isinstance(method, str) else name_of(type(method))
    return annotator(name)(random_state=random_state, **SMALL.get(name, {}))


def arrays(cells: Cells) -> list[bytes]:
    parts = [cells.counts.data, cells.counts.indices, cells.counts.indptr, cells.section, cells.rows]
    parts += [part for part in (cells.coords, cells.labels) if part is not None]
    return [part.tobytes() for part in parts]


def permuted(cells: Cells, order: np.ndarray) -> Cells:
    return replace(
        cells,
        counts=cells.counts[order],
        names=cells.names[order],
        coords=cells.coords[order],
        section=cells.section[order],
    )


@pytest.mark.parametrize("name", METHODS)
def test_is_a_final_dataclass_whose_constructor_only_stores(name):
    cls = annotator(name)
    assert name_of(cls) == name
    assert is_dataclass(cls)
    assert getattr(cls, "__final__", False)
    assert "__post_init__" not in vars(cls)
    assert "random_state" in typing.get_type_hints(cls, include_extras=False)
    made = cls()
    assert vars(made) == {field.name: field.default for field in fields(cls)}
    assert not [field.name for field in saved_fields(cls) if field.name in RUNTIME]


@pytest.mark.parametrize("name", METHODS)
def test_no_tunnels(name):
    for _, function in inspect.getmembers(annotator(name), inspect.isfunction):
        kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds


def test_fit_learns_genes_and_types(fitted, cells):
    assert isinstance(fitted.genes_, np.ndarray)
    assert fitted.genes_.tolist() == cells[0].genes.tolist()
    assert fitted.types_ == cells[0].types
    assert isinstance(fitted.types_, tuple)


def test_prediction_keeps_its_contract(fitted, cells):
    prediction = fitted.predict(cells[1])
    assert prediction.proba.shape == (len(cells[1]), len(cells[0].types))
    np.testing.assert_allclose(prediction.proba.sum(axis=1), 1, atol=1e-6)
    assert (prediction.proba >= 0).all()
    assert prediction.embedding.shape[0] == prediction.rejection.shape[0] == len(cells[1])
    assert prediction.embedding.ndim == 2
    assert np.isfinite(prediction.embedding).all()
    assert ((prediction.rejection >= 0) & (prediction.rejection <= 1)).all()
    assert 0 <= prediction.threshold <= 1


def test_equal_seeds_give_equal_results(fitted, cells, proba):
    again = small(fitted)
    assert again.fit(*cells) is again
    np.testing.assert_allclose(again.predict_proba(cells[1]), proba, atol=1e-6)
    np.testing.assert_array_equal(fitted.predict_proba(cells[1]), fitted.predict_proba(cells[1]))


def test_inputs_are_unchanged(fitted, cells):
    before = [arrays(part) for part in cells]
    small(fitted).fit(*cells).predict(cells[1])
    assert [arrays(part) for part in cells] == before


def test_save_and_load_agree(fitted, cells, proba, tmp_path):
    fitted.save(tmp_path / "model")
    same = load(tmp_path / "model", device="cpu")
    assert type(same) is type(fitted)
    assert same.types_ == fitted.types_
    for field in saved_fields(type(fitted)):
        assert getattr(same, field.name) == getattr(fitted, field.name)
    np.testing.assert_allclose(same.predict_proba(cells[1]), proba, atol=1e-6)


def test_permuting_cells_permutes_the_output(fitted, cells, proba):
    order = np.random.default_rng(0).permutation(len(cells[1]))
    moved = fitted.predict_proba(permuted(cells[1], order))
    share = SAME_LABELS.get(name_of(type(fitted)) or "", 0.97)
    assert (moved.argmax(axis=1) == proba[order].argmax(axis=1)).mean() >= share
    if share == 1:
        np.testing.assert_allclose(moved, proba[order], atol=1e-4)


def test_gene_order_is_irrelevant(fitted, tissue, proba):
    reference, query = tissue
    turned = align(read_reference(reference[:, ::-1].copy()), read_query(query[:, ::-1].copy(), section_key=SECTION))
    again = small(fitted).fit(*turned)
    np.testing.assert_allclose(again.predict_proba(turned[1]), proba, atol=1e-6)


def test_beats_the_majority_class(tissue, cells, proba):
    truth = tissue[1].obs["cell_type"].astype(str).to_numpy()[cells[1].rows]
    called = np.array(cells[0].types)[proba.argmax(axis=1)]
    majority = max((truth == name).mean() for name in cells[0].types)
    assert (called == truth).mean() > majority + 0.3


def test_labels_of_the_query_change_nothing(fitted, tissue):
    reference, query = tissue
    seen, blind = query.copy(), query.copy()
    del blind.obs["cell_type"]
    for adata in (seen, blind):
        tl.annotate(adata, reference, section_key=SECTION, method=small(fitted))
    np.testing.assert_array_equal(seen.obsm["stgnn_proba"].to_numpy(), blind.obsm["stgnn_proba"].to_numpy())
    assert seen.obs["stgnn"].tolist() == blind.obs["stgnn"].tolist()


def test_works_without_coordinates(fitted, cells):
    bare = replace(cells[1], coords=None)
    proba = small(fitted).fit(cells[0], bare).predict_proba(bare)
    assert proba.shape == (len(bare), len(cells[0].types))
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
