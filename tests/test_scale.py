"""Large sections: pieces of tissue give what the whole gives, and tissue of any size is like the real one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from click.testing import CliRunner

from refusals import refusal
from stgnn import sweep, tl
from stgnn.bench import methods as bench_methods
from stgnn.bench import report, scale, tissue
from stgnn.bench.run import run
from stgnn.cli import _cli
from stgnn.data.cells import align, read_query, read_reference
from stgnn.data.schema import OptionError
from stgnn.data.toy import toy
from stgnn.graph.build import spatial_knn
from stgnn.graph.sample import pieces, tiles
from stgnn.lesson import Look
from stgnn.methods import OPTIONS, annotator, deconvolver, name_of
from stgnn.methods.spatial_transformer_gnn import SpatialTransformerGNN
from stgnn.standins import depths, known_from, patches, take

SMALL = {"members": 1, "rounds": 1, "steps": 10}


@pytest.fixture(scope="module")
def both():
    reference, query = toy(n_cells=500, random_state=2)
    return align(read_reference(reference), read_query(query, section_key="section"))


@pytest.fixture(scope="module")
def fitted(both) -> SpatialTransformerGNN:
    return SpatialTransformerGNN(**SMALL).fit(*both)


# ---- pieces of tissue


@pytest.mark.parametrize("hops", [1, 2])
def test_pieces_hold_whom_their_cells_listen_to(hops):
    rng = np.random.default_rng(0)
    coords, section = rng.uniform(0, 100, (300, 2)), np.repeat([0, 1], [200, 100])
    graph = spatial_knn(coords, section, 5)
    found = list(pieces(coords, section, 5, 60, hops))
    np.testing.assert_array_equal(np.sort(np.concatenate([piece.core for piece in found])), np.arange(300))
    for piece in found:
        assert len(piece.core) <= 60 and len(np.unique(section[piece.nodes])) == 1
        assert set(graph.hops(piece.core, hops)) | set(piece.core) == set(piece.nodes)
        np.testing.assert_array_equal(piece.nodes[: len(piece.core)], piece.core)
    whole = tiles(coords, section, graph, 300, hops)
    assert len(whole) == 1 < len(found)


def test_pieces_are_called_what_the_whole_is(both, fitted):
    whole = fitted.predict(both[1])
    cut = replace(fitted, cells_per_piece=60)
    vars(cut).update({name: value for name, value in vars(fitted).items() if name.endswith("_")})
    parts = cut.predict(both[1])
    assert (parts.proba.argmax(axis=1) == whole.proba.argmax(axis=1)).mean() > 0.99
    np.testing.assert_allclose(parts.proba, whole.proba, atol=0.03)
    np.testing.assert_allclose(parts.rejection, whole.rejection, atol=0.03)
    assert parts.embedding.shape == whole.embedding.shape


def test_pieces_without_places_are_exactly_the_whole(both):
    reference, query = both[0], replace(both[1], coords=None)
    model = SpatialTransformerGNN(**SMALL).fit(reference, query)
    cut = replace(model, cells_per_piece=60)
    vars(cut).update({name: value for name, value in vars(model).items() if name.endswith("_")})
    np.testing.assert_allclose(cut.predict(query).proba, model.predict(query).proba, atol=1e-5)


def test_a_look_at_all_cells_is_that_of_each(both):
    query = both[1]
    look = Look.of(query)
    values = look.at(query)
    inside = np.abs(values).max(axis=0) < 10  # not clipped
    np.testing.assert_allclose(values.mean(axis=0)[inside], 0, atol=1e-3)
    some = np.array([3, 17, 4])
    np.testing.assert_allclose(look.at(take(query, some)), values[some], rtol=1e-6)


def test_a_large_query_is_learned_from_in_patches(both):
    reference, query = both
    model = SpatialTransformerGNN(max_cells=200, **SMALL).fit(reference, query)
    found = model.predict(query)
    assert len(found.proba) == len(query)


def test_a_large_reference_is_sampled_with_its_rare_types_unless_it_is_a_section(both):
    reference = both[0]
    counts = np.bincount(reference.labels)
    some = known_from(reference, 60, 0)
    assert 0.8 * 60 < len(some) <= 60
    kept = np.bincount(some.labels, minlength=len(counts))
    assert kept.min() >= min(counts.min(), 60 // len(counts)) and kept.max() < counts.max()
    section = replace(reference, coords=np.random.default_rng(0).random((len(reference), 2)))
    for cells, most in ((section, 60), (reference, len(reference))):
        assert known_from(cells, most, 0) is cells


def test_the_quick_method_is_the_same_with_less(both):
    made = annotator("stgnn-quick")(**OPTIONS["stgnn-quick"])
    whole = annotator("stgnn")()
    assert type(made) is type(whole)
    assert made.members < whole.members and made.rounds < whole.rounds and made.max_cells < whole.max_cells
    assert name_of(type(made)) == "stgnn"
    assert deconvolver("stgnn-quick") is deconvolver("stgnn")
    assert vars(bench_methods.make(bench_methods.find("stgnn-quick")[0], seed=3)) == vars(replace(made, random_state=3))


def test_the_quick_method_is_asked_for_by_its_name():
    reference, query = toy(n_cells=100)
    tl.annotate(query, reference, section_key="section", method="stgnn-quick", random_state=4)
    said = query.uns["stgnn"]["parameters"]
    asked = OPTIONS["stgnn-quick"] | {"method": "stgnn", "random_state": 4}
    assert {name: said[name] for name in asked} == asked


def test_patches_are_neighbourhoods_of_all_sections(both):
    query = both[1]
    rows = patches(query, 200, 25, 0)
    assert len(np.unique(rows)) == len(rows) and 150 < len(rows) <= 200
    assert set(query.section[rows]) == set(query.section)
    near = spatial_knn(query.coords, query.section, 4).table(4)[0][rows]
    assert np.isin(near, rows).mean() > 1.3 * len(rows) / len(query)
    assert len(patches(replace(query, coords=None), 100, 25, 0)) == 100
    assert len(patches(query, 10, 25, 0)) == 10


# ---- tissue of any size


@pytest.fixture(scope="module")
def real() -> tuple[AnnData, AnnData]:
    return toy(n_cells=200, n_genes=40, random_state=4)


def test_tissue_has_the_size_and_the_types_that_were_asked_for(real):
    made = tissue.tile(real[1], 1000, 100, labels_key="cell_type", section_key="section")
    assert made.shape == (1000, 100) and made.var_names.is_unique and made.obs_names.is_unique
    assert sp.issparse(made.X) and (made.X.data == np.round(made.X.data)).all()
    share = made.obs["cell_type"].value_counts(normalize=True)
    own = real[1].obs["cell_type"].astype(str).value_counts(normalize=True)
    np.testing.assert_allclose(share[own.index], own, atol=1e-9)
    assert len(np.unique(np.c_[made.obs["section"].astype(int), made.obsm["spatial"]], axis=0)) == 1000


def test_copies_differ_but_for_their_kind(real):
    made = tissue.tile(real[1], 400, 40, labels_key="cell_type", section_key="section")
    first, second = made.X[:200].toarray(), made.X[200:].toarray()
    assert (first != second).any(axis=1).mean() > 0.8
    kind = made.obs["cell_type"].to_numpy()
    for name in np.unique(kind):
        own = real[1].X[(real[1].obs["cell_type"] == name).to_numpy()].toarray().mean(axis=0)
        assert np.corrcoef(made.X[kind == name].toarray().mean(axis=0), own)[0, 1] > 0.95


def test_a_reference_gets_the_same_blocks_of_genes(real):
    made = tissue.resample(real[0], 300, 100, labels_key="cell_type")
    query = tissue.tile(real[1], 300, 100, labels_key="cell_type", section_key="section")
    assert made.var_names.tolist() == query.var_names.tolist()
    again = tissue.resample(real[0], 300, 100, labels_key="cell_type")
    assert (made.X != again.X).nnz == 0
    refusal(OptionError, tissue.resample, real[0], 0, 100, labels_key="cell_type")


# ---- the benchmark


def test_costs_are_measured_from_file_to_file(real, tmp_path):
    section = tissue.tile(real[1], 1000, 40, labels_key="cell_type", section_key="section")
    section.write_h5ad(tmp_path / "hypothalamus_merfish_animal1.h5ad")
    real[0].write_h5ad(tmp_path / "hypothalamus_scrna.h5ad")
    made = tmp_path / "made"
    made.mkdir()
    tasks = scale.make([1000, 2000], 60, tmp_path, made)
    assert [task.name for task in tasks] == ["1,000 cells, 60 genes", "2,000 cells, 60 genes"]
    chosen = bench_methods.find("logistic,tacco")
    found = run(tasks, chosen, data_dir=made, output=tmp_path / "results", seeds=1)
    assert [record["error"] is None for record in found] == [True, False, True, False]
    assert all(record["scores"]["accuracy"] > 0.8 and record["memory_gb"] > 0 for record in found[::2])
    report.write(tmp_path / "results", tmp_path / "x.html")
    assert '<section id="scale"' in (tmp_path / "x.html").read_text()


def test_wrong_sizes_are_refused(tmp_path):
    words = ["bench", "scale", "--data-dir", str(tmp_path), "--output", str(tmp_path / "results"), "--cells"]
    assert "1,000 or more" in str(CliRunner().invoke(_cli, [*words, "10"]).exception)
    assert "whole numbers" in str(CliRunner().invoke(_cli, [*words, "many"]).exception)


def test_totals_of_made_cells_are_those_of_real_ones(real):
    cells = read_query(tissue.tile(real[1], 800, 40, labels_key="cell_type", section_key="section"))
    assert np.median(depths(cells)) == pytest.approx(np.median(np.asarray(real[1].X.sum(axis=1))), rel=0.25)


# ---- several pieces at once


def test_threads_at_pieces_of_their_own_say_what_one_says(two_threads, both, fitted):
    model, query = replace(fitted, cells_per_piece=60), both[1]
    vars(model).update({name: value for name, value in vars(fitted).items() if name.endswith("_")})
    at_once = model.predict(query)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    alone = model.predict(query)
    for name in ("proba", "embedding", "rejection"):
        np.testing.assert_allclose(getattr(at_once, name), getattr(alone, name), atol=1e-5)


def test_an_error_in_a_thread_is_raised_and_threads_are_given_back(two_threads):
    def judge(_, piece):
        if piece == 3:
            raise KeyError("three")
        return piece

    said = sweep.here(judge, None, range(9))
    with pytest.raises(KeyError, match="three"):
        list(said)
    assert torch.get_num_threads() == 2
    assert list(sweep.here(lambda _, piece: piece, None, range(9))) == list(range(9))  # in order
