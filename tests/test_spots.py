"""Spots: how they are simulated, told from cells, and what mixtures of types they are found to be."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData, read_h5ad
from scipy.spatial import cKDTree
from scipy.stats import nbinom

from refusals import refusal
from stgnn import datasets, experts, mixtures, tl
from stgnn.bench import methods as bench_methods
from stgnn.bench import peers, report
from stgnn.bench import spots as spot_tasks
from stgnn.bench.measure import Job, measure
from stgnn.bench.run import run
from stgnn.data.cells import Cells, align, read_query, read_reference
from stgnn.data.resolution import resolution_of
from stgnn.data.schema import CoordinatesError, InputError, OptionError
from stgnn.data.simulated_spots import SpotDesign, simulate_spots
from stgnn.data.subset import informative
from stgnn.data.toy import toy
from stgnn.methods import DECONVOLVERS, deconvolver
from stgnn.methods.base import Annotator, load
from stgnn.methods.linear import LogisticRegression
from stgnn.standins import labels_of, take
from test_methods_common import arrays, permuted

UM = 8.0
"""Micrometres per unit of the toy's coordinates here, so that a few cells lie in a spot."""

SQUARE = SpotDesign("square", 240.0, 240.0)
SMALL = {"stgnn-spots": {"members": 1, "steps": 15, "width": 32}}


@pytest.fixture(scope="module")
def tissue() -> tuple[AnnData, AnnData]:
    return toy(n_cells=900, random_state=3)


@pytest.fixture(scope="module")
def spots(tissue) -> AnnData:
    return simulate_spots(tissue[1], SQUARE, section_key="section", um_per_unit=UM)


@pytest.fixture(scope="module")
def both(tissue, spots) -> tuple[Cells, Cells]:
    return align(read_reference(tissue[0]), read_query(spots, section_key="section"))


# ---- simulated spots


def test_spots_hold_the_cells_that_lie_in_them(tissue, spots):
    cells = tissue[1]
    places = cells.obsm["spatial"] * UM
    for row in (0, len(spots) // 2, len(spots) - 1):
        inside = (np.abs(places - spots.obsm["spatial"][row]) <= 120.0).all(axis=1)
        inside &= (cells.obs["section"] == spots.obs["section"].iloc[row]).to_numpy()
        assert spots.obs["n_cells"].iloc[row] == inside.sum()
        share = cells.obs["cell_type"][inside].value_counts(normalize=True)
        found = spots.obsm["proportions"].iloc[row]
        np.testing.assert_allclose(found, share.reindex(found.index, fill_value=0))
        np.testing.assert_array_equal(spots.X[row].toarray()[0], np.asarray(cells.X[inside].sum(axis=0)).ravel())


def test_counts_wander_but_none_is_lost_where_squares_fill_the_plane(tissue, spots):
    wandered = simulate_spots(tissue[1], replace(SQUARE, diffusion_um=15.0), section_key="section", um_per_unit=UM)
    assert wandered.obsm["proportions"].shape[1] == spots.obsm["proportions"].shape[1]
    assert wandered.X.sum() == pytest.approx(spots.X.sum(), rel=0.1)  # some wander off the tissue
    assert (wandered.X != spots.X).nnz > 0


def test_efficiency_and_platform_scale_genes(tissue, spots):
    half = simulate_spots(tissue[1], replace(SQUARE, efficiency=0.5), section_key="section", um_per_unit=UM)
    assert half.X.sum() / spots.X.sum() == pytest.approx(0.5, abs=0.01)
    noisy = simulate_spots(tissue[1], replace(SQUARE, platform=0.5), section_key="section", um_per_unit=UM)
    sums = [np.asarray(one.X.sum(axis=0)).ravel() for one in (noisy, spots)]
    ratio = np.log(sums[0] / sums[1])[sums[1] > 200]
    assert 0.3 < ratio.std() < 0.7


def test_spots_of_a_hexagonal_array_have_six_neighbours():
    design = SpotDesign("hexagonal", 55.0, 100.0)
    centres = design.centres(np.zeros(2), np.full(2, 1000.0))
    inner = np.flatnonzero((np.abs(centres - 500) < 300).all(axis=1))
    near = [len(found) - 1 for found in cKDTree(centres).query_ball_point(centres[inner], 100.5)]
    assert set(near) == {6}
    assert design.spot_of(centres[:1] + np.array([0.0, 28.0]), centres).tolist() == [-1]


def test_equal_seeds_give_equal_spots_and_cells_stay_as_they_were(tissue, spots):
    again = simulate_spots(tissue[1], SQUARE, section_key="section", um_per_unit=UM)
    assert (again.X != spots.X).nnz == 0
    assert "n_cells" not in tissue[1].obs


@pytest.mark.parametrize(
    "fields",
    [{"layout": "round"}, {"width_um": 300.0}, {"pitch_um": 0.0}, {"efficiency": 1.5}, {"platform": -1.0}],
)
def test_designs_that_are_none_are_refused(tissue, fields):
    assert next(iter(fields)) in refusal(OptionError, simulate_spots, tissue[1], replace(SpotDesign(), **fields))


def test_cells_without_places_give_no_spots(tissue):
    refusal(CoordinatesError, simulate_spots, tissue[0])
    assert datasets.simulate_spots is simulate_spots


# ---- cells or spots


def placed(places: np.ndarray) -> Cells:
    adata = AnnData(sp.csr_matrix(np.ones((len(places), 12), dtype=np.float32)))
    adata.obsm["spatial"] = places
    return read_query(adata)


def test_a_lattice_is_told_from_cells(tissue, both):
    reference = read_reference(tissue[0])
    rng = np.random.default_rng(0)
    hexagonal = np.round(SpotDesign().centres(np.zeros(2), np.full(2, 2000.0)) * 3)  # in whole pixels
    holes = hexagonal[rng.random(len(hexagonal)) < 0.9]
    for places in (hexagonal, holes):
        assert resolution_of(placed(places), reference, scaled=False)[0] == "spot"
    assert resolution_of(placed(rng.uniform(0, 100, (500, 2))), reference, scaled=False)[0] == "cell"
    heaped = np.repeat([[0.0, 0.0], [1.0, 1.0]], 25, axis=0)
    assert resolution_of(placed(heaped), reference, scaled=False)[0] == "cell"
    fine = placed(np.argwhere(np.ones((20, 20))) * 8.0)
    assert [resolution_of(fine, reference, scaled=known)[0] for known in (True, False)] == ["cell", "spot"]
    merged = placed(np.vstack([hexagonal, hexagonal + np.array([37.0, 11.0])]))  # two sections that are not told apart
    assert resolution_of(merged, reference, scaled=False)[0] == "spot"
    assert "no places" in resolution_of(reference, reference, scaled=False)[1]
    labelled = replace(placed(hexagonal), labels=np.zeros(len(hexagonal), dtype=np.int64), types=("a",))
    assert resolution_of(placed(hexagonal), labelled, scaled=False)[0] == "cell"


# ---- mixtures


def mixed(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Profiles, shares, and expected counts of their mixtures."""
    rng = np.random.default_rng(seed)
    profiles = rng.gamma(0.5, 1.0, (4, 50)) + 0.01
    profiles /= profiles.sum(1, keepdims=True)
    shares = rng.dirichlet(np.full(4, 0.5), n)
    return profiles, shares, 2000 * shares @ profiles


def test_updates_never_lower_the_likelihood():
    profiles, _, mean = mixed()
    counts = np.random.default_rng(1).poisson(mean)
    last = -np.inf
    for steps in (1, 3, 10, 40):
        found = mixtures.fit(sp.csr_matrix(counts), profiles, 5.0, steps) @ profiles
        likelihood = nbinom.logpmf(counts, 5.0, 5.0 / (5.0 + found)).sum()
        assert likelihood > last
        last = likelihood


def test_mixtures_without_noise_are_found():
    profiles, shares, mean = mixed()
    found = mixtures.fit(sp.csr_matrix(mean), profiles, 1e6, 3000)
    np.testing.assert_allclose(found / found.sum(1, keepdims=True), shares, atol=0.01)


def test_effects_of_the_platform_are_told_from_shares():
    profiles, shares, mean = mixed()
    effects = np.random.default_rng(2).lognormal(0, 0.5, 50)
    counts = sp.csr_matrix(np.random.default_rng(1).poisson(mean * effects).astype(np.float32))
    found = mixtures.deconvolve(counts, profiles)
    plain = mixtures.fit(counts, profiles, 50.0, 120)
    error = np.abs(found.shares - shares).mean()
    assert error < 0.85 * np.abs(plain / plain.sum(1, keepdims=True) - shares).mean()
    ratio = np.log((found.rates / profiles[:, found.genes]).mean(0))
    assert np.corrcoef(ratio, np.log(effects[found.genes]))[0, 1] > 0.8


def test_few_genes_are_enough():
    profiles, _, _ = mixed()
    flat = np.full((4, 30), 0.02)
    assert set(informative(np.hstack([flat, profiles]), 20)) <= set(range(30, 80))


def test_counts_beyond_the_mixture_are_unexplained():
    profiles, shares, mean = mixed()
    counts = np.random.default_rng(1).poisson(mean)
    foreign = counts.copy()
    foreign[:100, 7] += 1500
    found = mixtures.Mixtures(np.arange(50), shares, profiles)
    said = mixtures.unexplained(sp.csr_matrix(foreign), shares, found, 50.0)
    assert said.min() >= 0 and said.max() <= 1
    assert said[:100].min() > said[100:].max()


# ---- methods


def made(name: str, random_state: int = 0) -> Annotator:
    method = deconvolver(name)(**SMALL.get(name, {}))
    return replace(method, random_state=random_state) if hasattr(method, "random_state") else method


@pytest.fixture(scope="module", params=list(DECONVOLVERS))
def fitted(request, both) -> Annotator:
    return made(request.param).fit(*both)


@pytest.fixture(scope="module")
def truth(both, spots) -> np.ndarray:
    return spots.obsm["proportions"][list(both[0].types)].to_numpy()[both[1].rows]


def test_shares_are_nearer_the_truth_than_the_mean_of_all_spots(fitted, both, truth):
    shares = fitted.predict_proba(both[1])
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    assert np.sqrt(((shares - truth) ** 2).mean()) < np.sqrt(((truth.mean(0) - truth) ** 2).mean())


def test_mixtures_of_real_spots_are_nearer_the_truth_than_the_siblings(data_folder):
    spots = read_h5ad(data_folder / "cells" / "hypothalamus_spots100um_animal1.h5ad")
    known = read_reference(data_folder / "cells" / "hypothalamus_scrna.h5ad")
    reference, query = align(known, read_query(spots, section_key="section"))
    truth = spots.obsm["proportions"].reindex(columns=reference.types, fill_value=0.0).to_numpy()[query.rows]

    def error(shares: np.ndarray) -> float:
        return float(np.sqrt(((shares - truth) ** 2).mean()))

    profiles = experts.profiles(reference.counts, labels_of(reference), len(reference.types))
    ours = error(mixtures.deconvolve(query.counts, profiles).shares)
    siblings = [name for name in DECONVOLVERS if name != "stgnn-spots"]
    assert ours < 0.9 * min(error(made(name).fit(reference, query).predict_proba(query)) for name in siblings)


def test_equal_seeds_agree_and_inputs_stay(fitted, both):
    before = [arrays(cells) for cells in both]
    again = made(next(name for name in DECONVOLVERS if deconvolver(name) is type(fitted))).fit(*both)
    np.testing.assert_array_equal(again.predict_proba(both[1]), fitted.predict_proba(both[1]))
    assert [arrays(cells) for cells in both] == before


def test_a_saved_model_says_the_same(fitted, both, tmp_path):
    fitted.save(tmp_path / "model")
    said, again = fitted.predict(both[1]), load(tmp_path / "model").predict(both[1])
    np.testing.assert_allclose(said.proba, again.proba, atol=1e-9)
    np.testing.assert_allclose(said.rejection, again.rejection, atol=1e-9)


def test_the_order_of_spots_does_not_matter(fitted, both):
    order = np.random.default_rng(0).permutation(len(both[1]))
    said = fitted.predict_proba(permuted(both[1], order))
    np.testing.assert_allclose(said, fitted.predict_proba(both[1])[order], atol=1e-4)


def test_every_parameter_of_the_network_is_learned(both):
    one, other = (made("stgnn-spots").fit(*both) for _ in range(2))
    start = replace(other, steps=1).fit(*both)
    for name, value in one.networks_[0].named_parameters():
        if "vote" not in name:
            assert not np.array_equal(value.detach(), dict(start.networks_[0].named_parameters())[name].detach()), name


def test_least_squares_meets_its_conditions(both):
    model = made("nnls").fit(*both)
    counts = both[1].counts[:5].toarray()
    for share, y in zip(model.predict_proba(both[1])[:5], counts / counts.sum(1, keepdims=True), strict=True):
        scale = (y @ (share @ model.rates_)) / np.square(share @ model.rates_).sum()
        slope = model.rates_ @ (y - scale * share @ model.rates_)
        assert slope.max() < 1e-6  # no type would help
        assert np.abs(slope[share > 1e-6]).max() < 1e-6


def test_mixed_spots_have_the_shares_they_are_drawn_around(both):
    from stgnn.spot_lesson import mix

    wanted = np.tile([0.5, 0.3, 0.2, 0.0, 0.0], (3, 1))
    counts, shares = mix(both[0], wanted, np.array([100.0, 200.0]), 2000, np.random.default_rng(0))
    np.testing.assert_allclose(shares.mean(0), wanted[0], atol=0.01)
    profile = experts.profiles(both[0].counts, labels_of(both[0]), 5, shrink=0.0)
    seen = np.asarray(counts.sum(0)).ravel() / counts.sum()
    assert np.corrcoef(seen, wanted[0] @ profile)[0, 1] > 0.98
    assert 140 < counts.sum() / 2000 < 160


# ---- the front door


def test_annotate_writes_shares_of_spots(tissue, spots):
    query = spots.copy()
    tl.annotate(query, tissue[0], section_key="section", cells_key="n_cells", method=made("stgnn-spots"))
    shares, cells = query.obsm["stgnn_proba"], query.obsm["stgnn_abundance"]
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(cells.sum(axis=1), query.obs["n_cells"], rtol=1e-5)
    assert (query.obsm["stgnn_sd"] >= 0).all().all()
    assert query.obs["stgnn_rejection"].between(0, 1).all()
    tl.annotate(query, tissue[0], section_key="section", method="logistic")
    assert "stgnn_abundance" not in query.obsm


def test_the_resolution_is_decided_and_said(tissue, spots):
    for method, said in (("poisson-mixture", None), ("transport", "spots, since"), ("logistic", "all that 'logistic'")):
        query = spots.copy()
        tl.annotate(query, tissue[0], section_key="section", method=method)
        notes = " ".join(query.uns["stgnn"]["notes"])
        assert said in notes if said else "resolution" not in notes
        assert ("stgnn_abundance" in query.obsm) == (method != "logistic")
        assert query.uns["stgnn"]["parameters"]["resolution"] == ("cell" if method == "logistic" else "spot")


def test_wrong_resolutions_and_columns_are_refused(tissue, spots):
    assert "auto, cell, spot" in refusal(OptionError, tl.annotate, spots, tissue[0], resolution="bin")
    said = refusal(OptionError, tl.annotate, spots, tissue[0], resolution="spot", method="logistic")
    assert "poisson-mixture" in said
    refusal(OptionError, tl.annotate, spots, tissue[0], resolution="cell", method="nnls")
    for method, asked in ((made("nnls"), "cell"), (LogisticRegression(), "spot")):
        assert "is for" in refusal(OptionError, tl.annotate, spots, tissue[0], resolution=asked, method=method)
    assert "poisson-mixture" in refusal(OptionError, tl.annotate, spots, tissue[0], method="nlls")
    for wrong in (replace(made("stgnn-spots"), rounds=0), replace(made("poisson-mixture"), spread=0.0)):
        refusal(OptionError, tl.annotate, spots, tissue[0], method=wrong)
    assert "n_cells" in refusal(InputError, tl.annotate, spots, tissue[0], cells_key="n_cell")
    spots = spots.copy()
    spots.obs["n_cells"] = -1
    assert "0 or more" in refusal(InputError, tl.annotate, spots, tissue[0], cells_key="n_cells")


# ---- the benchmark


@pytest.fixture
def task(tissue, tmp_path) -> spot_tasks.SpotTask:
    for name, adata in zip(("known", "section"), tissue, strict=True):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    design = {"layout": "square", "width_um": 240.0, "pitch_um": 240.0, "um_per_unit": UM}
    return spot_tasks.SpotTask("toy", "known", "section", "cell_type", "section", **design)


def test_tasks_of_spots_run_and_are_reported(task, tmp_path):
    lacking = replace(task, name="toy without type 2", without=("type 2",))
    chosen = bench_methods.find_deconvolvers("nnls,poisson-mixture")
    found = run([task, lacking], chosen, data_dir=tmp_path, output=tmp_path / "results", seeds=1)
    assert [record["error"] for record in found] == [None] * 4
    assert all(0 < record["scores"]["rmse"] < 0.3 and record["scores"]["pearson"] > 0.5 for record in found)
    assert all("unexplained_auroc" in record["scores"] for record in found[2:])
    assert run([task], chosen, data_dir=tmp_path, output=tmp_path / "results", seeds=1) == found[:2]
    report.write(tmp_path / "results", tmp_path / "x.html")
    assert '<section id="spots"' in (tmp_path / "x.html").read_text()


EVEN = """
import sys
import anndata
import pandas as pd

reference, query = (anndata.read_h5ad(f"{sys.argv[1]}/{name}.h5ad") for name in ("reference", "query"))
types = sorted(set(reference.obs["label"]))
pd.DataFrame(1 / len(types), index=query.obs_names, columns=types).to_csv(sys.argv[1] + "/result.csv")
"""


def test_peers_are_asked_for_shares_alone(task, tmp_path, monkeypatch):
    (tmp_path / "even.py").write_text(EVEN)
    monkeypatch.setitem(peers.SPOT_SCRIPTS, "flashdeconv", str(tmp_path / "even.py"))
    (peer,) = bench_methods.find_deconvolvers("flashdeconv")
    lacking = replace(task, without=("type 2",))
    found = measure(Job(lacking, peer, 0, str(tmp_path), sys.executable))
    assert set(found["scores"]) == {"rmse", "pearson", "jensen_shannon"}
    assert 0.1 < found["scores"]["rmse"] < 0.5
    assert found["scores"]["pearson"] == 0
    assert min(found["seconds"], found["cpu_seconds"], found["memory_gb"]) > 0


def test_peers_are_found_and_recorded_where_absent(task, tmp_path):
    names = [method.name for method in bench_methods.find_deconvolvers("all")]
    assert names == [*DECONVOLVERS, *peers.SPOT_SCRIPTS]
    assert "flashdeconv" in refusal(OptionError, bench_methods.find_deconvolvers, "flashdeconf")
    refusal(OptionError, bench_methods.find_predictors, "peers")
    chosen = bench_methods.find_deconvolvers("nnls,peers")
    found = run([task], chosen, data_dir=tmp_path, output=tmp_path / "results", seeds=1)
    assert [record["error"] for record in found] == [None, *["absent: no interpreter given"] * 2]
    report.write(tmp_path / "results", tmp_path / "x.html")
    (tmp_path / "peers.toml").write_text(f"[interpreters]\nflashdeconv = '{sys.executable}'")
    assert bench_methods.read_interpreters(tmp_path / "peers.toml") == {"flashdeconv": sys.executable}


def test_the_truth_is_set_aside(task, tmp_path):
    reference, query, truth = spot_tasks.load(replace(task, without=("type 2",)), tmp_path)
    assert "type 2" not in set(reference.obs["cell_type"])
    assert list(query.obs) == ["section"] and list(query.obsm) == ["spatial"]
    np.testing.assert_allclose(truth.obsm["proportions"].sum(axis=1), 1)


def test_scores_of_shares():
    truth = pd.DataFrame({"a": [1.0, 0.0, 0.5], "b": [0.0, 1.0, 0.5]})
    scores, details = spot_tasks.score(truth, truth[["b", "a"]], 0 * truth, np.zeros(3), ())
    assert (scores["rmse"], scores["jensen_shannon"], scores["covered"]) == (0.0, 0.0, 1.0)
    assert details["pearson"] == pytest.approx({"a": 1.0, "b": 1.0})
    half = pd.DataFrame({"a": [0.5] * 3, "c": [0.5] * 3})
    scores, _ = spot_tasks.score(truth, half, None, np.array([0.0, 1.0, 1.0]), ("b",))
    assert "covered" not in scores
    assert scores["unexplained_auroc"] == 1.0
    assert scores["pearson"] == 0.0


def test_tasks_of_spots_are_found_and_checked(tmp_path):
    assert [task.name for task in spot_tasks.find("spots")] == list(spot_tasks.KIND.built_in)
    refusal(OptionError, spot_tasks.find, "squares,main")
    for line, word in (('layout = "round"', "layout"), ("width = 3", "width"), ("width_um = 'wide'", "width_um")):
        lines = ['kind = "spots"', 'reference = "a"', 'section = "b"', 'labels_key = "c"', line]
        (tmp_path / "own.toml").write_text("\n".join(lines))
        assert word in refusal(OptionError, spot_tasks.find, str(tmp_path / "own.toml"))
    (tmp_path / "own.toml").write_text('kind = "spots"\nreference = "a"')
    assert "section" in refusal(OptionError, spot_tasks.find, str(tmp_path / "own.toml"))


def test_a_new_spot_is_seen_as_among_others(fitted, both):
    few = take(both[1], np.arange(3))
    if fitted.__class__.__name__ != "Transport":  # which moves all spots together
        alone = replace(fitted, cell_graph=False) if hasattr(fitted, "cell_graph") else fitted
        alone = alone.fit(*both) if alone is not fitted else fitted
        np.testing.assert_allclose(alone.predict_proba(few), alone.predict_proba(both[1])[:3], atol=1e-4)


def test_types_with_slashes_are_scored_as_one(tissue, tmp_path):
    for name, adata in zip(("known", "section"), tissue, strict=True):
        named = adata.copy()
        named.obs["cell_type"] = named.obs["cell_type"].astype(str).str.replace("type 1", "L2/3 IT")
        named.write_h5ad(tmp_path / f"{name}.h5ad")
    design = {"layout": "square", "width_um": 240.0, "pitch_um": 240.0, "um_per_unit": UM}
    own = spot_tasks.SpotTask("toy", "known", "section", "cell_type", "section", **design)
    job = Job(own, bench_methods.find_deconvolvers("nnls")[0], 0, str(tmp_path))
    assert spot_tasks.measure(job)["details"]["pearson"]["L2/3 IT"] > 0.5


def test_errors_of_shares_are_modelled():
    from stgnn.spot_lesson import error_model, variance

    rng = np.random.default_rng(0)
    said = rng.dirichlet(np.ones(4), 5000)
    truth = said + rng.standard_normal(said.shape) * np.sqrt(0.1 * said * (1 - said) + 0.001)
    found = error_model(truth, said)
    assert found == pytest.approx([0.1, 0.001], abs=0.01)
    within = np.abs(truth - said) <= 2 * np.sqrt(variance(said, found))
    assert within.mean() == pytest.approx(0.95, abs=0.01)
