"""Small and odd inputs end in an answer, not in a crash or a warning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from stgnn.data.cells import Cells, align, read_query, read_reference
from stgnn.data.toy import toy
from stgnn.methods.base import Annotator
from stgnn.methods.mixture import Mixture
from stgnn.methods.spatial_transformer_gnn import SpatialTransformerGNN
from stgnn.standins import stand_ins

Pair = tuple[AnnData, AnnData]


def gate(reference: AnnData, query: AnnData) -> tuple[Cells, Cells]:
    return align(read_reference(reference, section_key="section"), read_query(query, section_key="section"))


def spatial_reference(pair: Pair) -> Pair:
    """Use one simulated section as reference, another one as query."""
    known, query = pair[1][:140].copy(), pair[1][140:].copy()
    return known, query


def two_types(pair: Pair) -> Pair:
    reference, query = pair
    return reference[reference.obs["cell_type"].isin(["type 1", "type 2"])].copy(), query


def rare_type(pair: Pair) -> Pair:
    reference, query = pair
    rows = np.flatnonzero(reference.obs["cell_type"] == "type 3")[2:]
    return reference[np.setdiff1d(np.arange(reference.n_obs), rows)].copy(), query


def few_query_cells(pair: Pair) -> Pair:
    return pair[0], pair[1][::7][:30].copy()


def tiny_section(pair: Pair) -> Pair:
    reference, query = pair
    query.obs["section"] = np.where(np.arange(query.n_obs) < 5, "tiny", "large")
    return reference, query


def lone_cell_in_a_section(pair: Pair) -> Pair:
    reference, query = pair
    query.obs["section"] = np.where(np.arange(query.n_obs) < 1, "lone", "large")
    return reference, query


def few_genes(pair: Pair) -> Pair:
    return pair[0][:, :12].copy(), pair[1][:, :12].copy()


def constant_genes(pair: Pair) -> Pair:
    for adata in pair:
        dense = adata.X.toarray()
        dense[:, :6] = 0
        dense[:, 6] = 1
        adata.X = sp.csr_matrix(dense)
    return pair


def genes_silent_on_one_side(pair: Pair) -> Pair:
    for adata, silent in zip(pair, (slice(0, 8), slice(8, 16)), strict=True):
        dense = adata.X.toarray()
        dense[:, silent] = 0
        adata.X = sp.csr_matrix(dense)
    return pair


def three_dimensions(pair: Pair) -> Pair:
    reference, query = spatial_reference(pair)
    rng = np.random.default_rng(0)
    for adata in (reference, query):
        adata.obsm["spatial"] = np.c_[adata.obsm["spatial"], rng.uniform(0, 30, adata.n_obs)]
    return reference, query


def only_query_in_three_dimensions(pair: Pair) -> Pair:
    reference, query = spatial_reference(pair)
    query.obsm["spatial"] = np.c_[query.obsm["spatial"], np.random.default_rng(0).uniform(0, 30, query.n_obs)]
    return reference, query


def only_reference_in_three_dimensions(pair: Pair) -> Pair:
    reference, query = spatial_reference(pair)
    reference.obsm["spatial"] = np.c_[reference.obsm["spatial"], np.arange(reference.n_obs)]
    return reference, query


def only_reference_spatial(pair: Pair) -> Pair:
    reference, query = spatial_reference(pair)
    del query.obsm["spatial"]
    return reference, query


def neither_spatial(pair: Pair) -> Pair:
    del pair[1].obsm["spatial"]
    return pair


def all_in_two_places(pair: Pair) -> Pair:
    pair[1].obsm["spatial"] = np.repeat(np.arange(pair[1].n_obs) % 2, 2).reshape(-1, 2).astype(float)
    return pair


def one_block(pair: Pair) -> Pair:
    """A spatial reference so small that a fold of its blocks may be empty, and one cell far from all others."""
    reference, query = spatial_reference(pair)
    reference = reference[:40].copy()
    reference.obsm["spatial"][0] += 1e5
    return reference, query


def one_type_a_block(pair: Pair) -> Pair:
    """Each type alone in its corner: a fold lacks whole types."""
    reference, query = spatial_reference(pair)
    reference.obsm["spatial"] = np.random.default_rng(0).uniform(0, 50, (reference.n_obs, 2))
    reference.obsm["spatial"][:, 0] += 5000.0 * reference.obs["cell_type"].cat.codes.to_numpy()
    return reference, query


def one_type_but_for_two_cells(pair: Pair) -> Pair:
    """So few cells of one of two types that chance may put both into the same half."""
    reference, query = two_types(pair)
    rows = np.flatnonzero(reference.obs["cell_type"] == "type 2")[2:]
    return reference[np.setdiff1d(np.arange(reference.n_obs), rows)].copy(), query


def one_type_in_the_query(pair: Pair) -> Pair:
    reference, query = pair
    return reference, query[query.obs["cell_type"] == "type 1"].copy()


def one_query_cell(pair: Pair) -> Pair:
    reference, query = pair
    return reference, query[:1].copy()


def same_cell_over_and_over(pair: Pair) -> Pair:
    reference, query = pair
    query.X = sp.csr_matrix(np.repeat(query.X[:1].toarray(), query.n_obs, axis=0))
    return reference, query


CASES: list[Callable[[Pair], Pair]] = [
    spatial_reference,
    two_types,
    rare_type,
    few_query_cells,
    tiny_section,
    lone_cell_in_a_section,
    few_genes,
    constant_genes,
    genes_silent_on_one_side,
    three_dimensions,
    only_query_in_three_dimensions,
    only_reference_in_three_dimensions,
    only_reference_spatial,
    neither_spatial,
    all_in_two_places,
    one_block,
    one_type_a_block,
    one_type_but_for_two_cells,
    one_type_in_the_query,
    same_cell_over_and_over,
    one_query_cell,
]


def answers(method: Annotator, reference: Cells, query: Cells) -> np.ndarray:
    prediction = method.fit(reference, query).predict(query)
    assert prediction.proba.shape == (len(query), len(reference.types))
    assert np.isfinite(prediction.proba).all()
    np.testing.assert_allclose(prediction.proba.sum(1), 1, atol=1e-5)
    assert np.isfinite(prediction.embedding).all()
    assert ((prediction.rejection >= 0) & (prediction.rejection <= 1)).all()
    return prediction.proba


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_ends_in_probabilities(case):
    reference, query = gate(*case(toy(n_cells=220, n_genes=40, random_state=2)))
    answers(SpatialTransformerGNN(members=1, rounds=1, steps=2, width=16), reference, query)
    answers(Mixture(), reference, query)


@pytest.mark.parametrize("without", ["fit", "predict"])
def test_coordinates_may_be_known_only_once(without):
    reference, query = gate(*toy(n_cells=220, n_genes=40, random_state=2))
    bare = replace(query, coords=None)
    method = SpatialTransformerGNN(members=1, rounds=1, steps=2, width=16, selector=False)
    first, second = (bare, query) if without == "fit" else (query, bare)
    proba = method.fit(reference, first).predict_proba(second)
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-5)


def test_a_model_of_flat_sections_annotates_a_volume():
    reference, query = gate(*toy(n_cells=220, n_genes=40, random_state=2))
    method = SpatialTransformerGNN(members=1, rounds=1, steps=2, width=16, selector=False).fit(reference, query)
    flat = replace(query, coords=np.c_[query.coords, np.zeros(len(query))])
    np.testing.assert_allclose(method.predict_proba(flat), method.predict_proba(query), atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_both_halves_of_a_small_reference_have_types_to_tell_apart(seed):
    reference, query = gate(*one_type_but_for_two_cells(toy(n_cells=40, n_genes=40, random_state=2)))
    for kept, target, truth in stand_ins(reference, query, np.array([0.5, 0.5]), seed):
        assert len(np.unique(kept.labels)) == 2
        assert len(np.unique(truth)) == 2
        assert len(target) == len(truth) > 0


def test_many_genes_of_few_cells():
    rng = np.random.default_rng(0)
    names = [f"g{i}" for i in range(700)]
    known = AnnData(sp.csr_matrix(rng.poisson(2.0, (30, 700)).astype(np.float32)))
    known.obs["cell_type"] = np.repeat(["a", "b"], 15)
    asked = AnnData(sp.csr_matrix(rng.poisson(2.0, (15, 700)).astype(np.float32)))
    known.var_names = asked.var_names = names
    reference, query = align(read_reference(known), read_query(asked))
    proba = SpatialTransformerGNN(steps=2, rounds=1, members=1).fit(reference, query).predict_proba(query)
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-4)
