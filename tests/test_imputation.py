"""Imputation: what is heard along each graph, how it is weighed, and what comes out at the front door."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData, read_h5ad
from click.testing import CliRunner
from sklearn.linear_model import Ridge

from refusals import refusal
from stgnn import metrics, tl
from stgnn.bench import genes as gene_tasks
from stgnn.bench import methods as bench_methods
from stgnn.bench import report
from stgnn.bench.run import run
from stgnn.cli import _cli
from stgnn.data.cells import Cells, align, read_query, read_reference
from stgnn.data.imputed import pair
from stgnn.data.schema import CountsError, GenesError, InputError, LabelsError, OptionError
from stgnn.data.subset import take as take_genes
from stgnn.data.toy import toy
from stgnn.experts import log_normalise
from stgnn.messages import SPEAKERS, Blend, Listeners, fit_of, hear, listen_to, relayed, relays, weigh
from stgnn.methods import IMPUTERS, imputer
from stgnn.methods.graph_imputer import GraphImputer, posterior_mean
from stgnn.standins import depths, labels_of
from stgnn.teacher import teach

MEASURED = 40
QUICK = GraphImputer(folds=2)
"""The default holds measured genes out in five parts, and takes twice as long."""


@pytest.fixture(scope="module")
def tissue() -> tuple[AnnData, AnnData]:
    reference, query = toy(n_cells=300, random_state=5)
    return reference, query


@pytest.fixture(scope="module")
def panel(tissue) -> AnnData:
    """The query without its last genes."""
    return tissue[1][:, :MEASURED].copy()


@pytest.fixture(scope="module")
def both(tissue, panel) -> tuple[Cells, Cells]:
    return pair(read_reference(tissue[0]), read_query(panel, section_key="section"))[:2]


@pytest.fixture(scope="module")
def taught(both):
    reference, query = both
    known = take_genes(reference, query.genes)
    teaching = teach(known, query, selector=True, random_state=0)
    posterior = np.exp(teaching.posterior).astype(np.float32)
    listeners = Listeners(teaching.scale.query, posterior, query.coords, query.section)
    lacking = np.setdiff1d(reference.genes, query.genes)
    source = listen_to(known, teaching, take_genes(reference, lacking).counts, 100.0, 2.0, 0)
    return teaching, source, listeners


# ---- what is heard


def test_attention_goes_from_the_nearest_cell_to_the_mean_of_all(taught):
    _, source, listeners = taught
    unit = listeners.features / np.linalg.norm(listeners.features, axis=1, keepdims=True)
    nearest = (unit @ source.keys.T).argmax(axis=1)
    cold = hear(source, listeners, 1e-7, 0.25)[SPEAKERS.index("cells")]
    np.testing.assert_allclose(cold, source.values[nearest], atol=1e-3)
    hot = hear(source, listeners, 1e6, 0.25)[SPEAKERS.index("cells")]
    np.testing.assert_allclose(hot, np.tile(source.weight @ source.values, (len(listeners), 1)), atol=1e-3)


def test_attention_to_types_alone_gives_the_mean_of_the_type(taught):
    _, source, listeners = taught
    n_types = listeners.posterior.shape[1]
    sure = replace(listeners, posterior=np.eye(n_types, dtype=np.float32)[listeners.posterior.argmax(axis=1)])
    said = hear(source, sure, 1e-2, 1e6)
    np.testing.assert_allclose(said[SPEAKERS.index("cells and types")], said[SPEAKERS.index("types")], atol=1e-3)


def test_types_speak_with_the_mean_of_their_cells(both, taught):
    _, source, listeners = taught
    labels = labels_of(both[0])
    first = source.values[source.labels == 0].mean(axis=0)
    np.testing.assert_allclose(source.profiles[0], first, rtol=1e-5)
    assert set(source.labels) == set(labels)
    said = hear(source, listeners, 0.2, 0.25)[SPEAKERS.index("types")]
    np.testing.assert_allclose(said, listeners.posterior @ source.profiles, rtol=1e-5)


def test_genes_speak_by_a_ridge_regression_in_the_reference(both, taught):
    teaching, source, listeners = taught
    features, weight = teaching.scale.reference, source.weight.astype(np.float64)
    model = Ridge(alpha=2.0, fit_intercept=False).fit(features, source.values - source.centre, sample_weight=weight)
    np.testing.assert_allclose(source.slope, model.coef_.T, atol=1e-5)
    said = hear(source, listeners, 0.2, 0.25)[SPEAKERS.index("genes")]
    np.testing.assert_allclose(said, model.predict(listeners.features) + source.centre, atol=1e-4)


def test_relays_average_cells_alike_and_then_neighbours(taught):
    _, _, listeners = taught
    alike, near = relays(listeners, 5, 4, 0)
    for matrix in (alike, near):
        np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-5)
    assert (alike.diagonal() > 0).all() and not near.diagonal().any()
    other = listeners.section[:, None] != listeners.section[None, :]
    assert not near.toarray()[other].any()
    assert len(relays(replace(listeners, coords=None), 5, 4, 0)) == 1


def test_what_is_passed_on_can_be_joined_first(taught):
    _, source, listeners = taught
    said, by = hear(source, listeners, 0.2, 0.25), relays(listeners, 5, 4, 0)
    messages = relayed(said, by)
    weights = np.random.default_rng(0).dirichlet(np.ones(messages[:, :, 0, 0].size)).reshape(messages.shape[:2])
    blend = Blend.on(messages, weights)
    np.testing.assert_allclose(blend.pass_on(said, by), blend.join(messages), atol=1e-4)


# ---- how it is weighed


def _standard(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def test_a_message_that_tells_the_truth_is_believed_and_noise_is_not():
    rng = np.random.default_rng(0)
    truth = _standard(rng, 400, 20)
    messages = np.stack([truth + 0.5 * _standard(rng, 400, 20), _standard(rng, 400, 20), -truth])[:, None]
    gram, pull = fit_of(messages, truth)
    weights = weigh(gram, pull, 20, 0.05)
    assert weights.sum() == pytest.approx(1)
    assert weights[0] > 0.95 and weights[2] == 0


def test_without_any_hold_on_the_truth_all_that_speak_weigh_the_same():
    rng = np.random.default_rng(0)
    truth = _standard(rng, 50, 4)
    silent = np.zeros((1, 50, 4), dtype=np.float32)
    messages = np.stack([-truth[None], -2 * truth[None], silent])
    gram, pull = fit_of(messages, truth)
    np.testing.assert_allclose(weigh(gram, pull, 4, 0.05), [0.5, 0.5, 0])


def test_a_blend_of_one_message_is_that_message():
    rng = np.random.default_rng(0)
    messages = np.abs(_standard(rng, 1, 1, 30, 3))
    blend = Blend.on(messages, np.ones((1, 1)))
    np.testing.assert_allclose(blend.join(messages), messages[0, 0], rtol=1e-4)


def test_measured_genes_lie_between_their_counts_and_what_is_heard():
    rng = np.random.default_rng(0)
    total = rng.uniform(50, 500, 2000)
    rate = rng.gamma(2.0, 0.01, 2000)
    heard = np.log1p(100 * rate * rng.gamma(5.0, 0.2, 2000))[:, None].astype(np.float32)
    count = rng.poisson(rate * total)
    found = posterior_mean(heard, sp.csr_matrix(count[:, None].astype(np.float32)), total, 100.0)[:, 0]
    own, truth = np.log1p(100 * count / total), np.log1p(100 * rate)
    errors = [np.mean((each - truth) ** 2) for each in (found, own, heard[:, 0])]
    assert errors[0] < 0.8 * min(errors[1:])
    plenty = sp.csr_matrix((count * 1000.0)[:, None].astype(np.float32))
    sure = posterior_mean(heard, plenty, total * 1000, 100.0)[:, 0]
    np.testing.assert_allclose(sure, own, atol=0.05)


# ---- the front door


@pytest.fixture(scope="module")
def imputed(tissue, panel) -> AnnData:
    return tl.impute(panel, tissue[0], section_key="section", method=QUICK)


def _truth(tissue, genes) -> np.ndarray:
    counts = tissue[1].X
    depth = np.asarray(counts[:, :MEASURED].sum(axis=1)).ravel()
    return log_normalise(counts, 100.0, depth)[:, tissue[1].var_names.get_indexer(genes)]


def _mean_spearman(tissue, found: AnnData) -> float:
    return float(np.nanmean(metrics.spearman(_truth(tissue, found.var_names), np.asarray(found.X, dtype=np.float64))))


def test_what_is_written(tissue, panel, imputed):
    assert list(imputed.obs_names) == list(panel.obs_names)
    assert imputed.var_names.tolist() == tissue[0].var_names.tolist()
    assert imputed.X.dtype == np.float32 and np.isfinite(imputed.X).all() and imputed.X.min() >= 0
    assert imputed.var["measured"].tolist() == [True] * MEASURED + [False] * (60 - MEASURED)
    assert imputed.var["reliability"].between(0, 1).all()
    assert list(imputed.obsm) == list(panel.obsm)
    said = imputed.uns["stgnn_imputed"]
    assert sum(said["details"]["weights"].values()) == pytest.approx(1)
    assert said["parameters"]["method"] == "stgnn" and said["depth"] > 0


def test_nothing_given_is_changed(tissue, panel):
    reference, query = tissue[0].copy(), panel.copy()
    tl.impute(query, reference, method="knn-mean", genes=["Gene50"])
    for before, after in ((tissue[0], reference), (panel, query)):
        assert (before.X != after.X).nnz == 0
        assert before.obs.equals(after.obs) and before.var.equals(after.var) and not after.uns


def test_two_runs_are_equal(tissue, panel, imputed):
    again = tl.impute(panel, tissue[0], section_key="section", method=QUICK)
    np.testing.assert_array_equal(again.X, imputed.X)
    np.testing.assert_array_equal(again.var["reliability"], imputed.var["reliability"])


def test_genes_that_were_not_measured_are_told(tissue, panel, imputed):
    lacking = imputed[:, ~imputed.var["measured"]]
    plain = tl.impute(panel, tissue[0], method="knn-mean", genes=lacking.var_names.tolist())
    assert _mean_spearman(tissue, lacking) > 0.15 and _mean_spearman(tissue, lacking) > _mean_spearman(tissue, plain)


def test_reliability_tells_which_genes_are_imputed_well(tissue, imputed):
    lacking = imputed[:, ~imputed.var["measured"]]
    achieved = metrics.spearman(_truth(tissue, lacking.var_names), np.asarray(lacking.X, dtype=np.float64))
    known = np.isfinite(achieved)
    assert np.corrcoef(achieved[known], lacking.var["reliability"].to_numpy()[known])[0, 1] > 0.7


def test_genes_asked_for_come_in_their_order_and_are_the_same(tissue, panel, imputed):
    few = tl.impute(panel, tissue[0], section_key="section", genes=["Gene55", "Gene2", "Gene44"], method=QUICK)
    assert few.var_names.tolist() == ["Gene55", "Gene2", "Gene44"]
    np.testing.assert_allclose(few.X, imputed[:, few.var_names].X, atol=1e-5)


def test_genes_heard_of_in_runs_are_the_same(tissue, panel, imputed, monkeypatch):
    monkeypatch.setattr("stgnn.methods.graph_imputer.GENES_AT_ONCE", 7)
    runs = tl.impute(panel, tissue[0], section_key="section", method=QUICK)
    np.testing.assert_allclose(runs.X, imputed.X, atol=1e-4)


def test_a_large_query_is_learned_from_in_patches(tissue, panel, imputed):
    found = tl.impute(panel, tissue[0], section_key="section", method=GraphImputer(folds=2, max_cells=150))
    lacking = ~imputed.var["measured"].to_numpy()
    assert _mean_spearman(tissue, found[:, lacking]) > 0.9 * _mean_spearman(tissue, imputed[:, lacking])
    assert np.corrcoef(np.asarray(found.X)[:, ~lacking].ravel(), np.asarray(imputed.X)[:, ~lacking].ravel())[0, 1] > 0.9


def test_order_of_genes_in_the_source_does_not_matter(tissue, panel, imputed):
    turned = tl.impute(panel[:, ::-1].copy(), tissue[0][:, ::-1].copy(), section_key="section", method=QUICK)
    np.testing.assert_allclose(turned[:, imputed.var_names].X, imputed.X, atol=1e-4)


@pytest.mark.parametrize("off", ["cross_modal", "gene_graph", "cell_graph"])
def test_parts_can_be_switched_off(both, off):
    reference, query = both
    found = GraphImputer(folds=2, **{off: False}).impute(reference, query, reference.genes[-3:])
    silent = {
        "cross_modal": lambda name: name.startswith("cells"),
        "gene_graph": lambda name: name.startswith("genes"),
        "cell_graph": lambda name: "passed on" in name,
    }[off]
    weights = found.details["weights"]
    assert not any(weight for name, weight in weights.items() if silent(name))
    assert sum(weights.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", IMPUTERS)
def test_every_imputer_gives_what_was_asked_for(both, name):
    reference, query = both
    genes = np.array([reference.genes[-1], query.genes[0]], dtype=object)
    found = imputer(name)().impute(reference, query, genes)
    assert found.values.shape == (len(query), 2) and found.values.dtype == np.float32
    assert np.isfinite(found.values).all() and found.depth > 0 and found.reliability.shape == (2,)


def test_neighbour_mean_is_the_mean_of_neighbours(both):
    reference, query = both
    gene = reference.genes[-1:]
    everyone = imputer("knn-mean")(k=len(reference)).impute(reference, query, gene)
    known = take_genes(reference, query.genes)
    mean = log_normalise(take_genes(reference, gene).counts, everyone.depth, depths(known)).mean()
    np.testing.assert_allclose(everyone.values, mean, rtol=1e-4)


def test_cells_without_counts_and_a_place_off_are_no_obstacle(tissue, panel):
    query = panel.copy()
    query.X = sp.csr_matrix(query.X.toarray() * (np.arange(query.n_obs) != 7)[:, None])
    del query.obsm["spatial"]
    found = tl.impute(query, tissue[0], genes=["Gene50"], method=GraphImputer(folds=2))
    others = np.delete(np.asarray(found.X), 7, axis=0)
    np.testing.assert_allclose(found.X[7], others.mean(axis=0), rtol=1e-4)
    assert not any(weight for name, weight in _weights(found).items() if "tissue" in name)


def _weights(found: AnnData) -> dict[str, float]:
    return found.uns["stgnn_imputed"]["details"]["weights"]


def test_other_names_of_genes_are_used(tissue, panel, imputed):
    reference = tissue[0].copy()
    reference.var["feature_name"] = reference.var_names
    reference.var_names = [f"ENSMUSG{place:011d}" for place in range(reference.n_vars)]
    found = tl.impute(panel, reference, genes=["Gene50"], method="knn-mean")
    assert found.var_names.tolist() == ["Gene50"]


def test_bad_input_is_refused_in_a_line(tissue, panel):
    reference = tissue[0]
    assert "Gene5" in refusal(GenesError, tl.impute, panel, reference, genes=["Gene5x"])
    refusal(GenesError, tl.impute, panel, reference, genes=[])
    refusal(GenesError, tl.impute, panel[:, :5].copy(), reference)
    refusal(LabelsError, tl.impute, panel, reference, labels_key="nothing")
    refusal(OptionError, tl.impute, panel, reference, method="magic")
    refusal(OptionError, tl.impute, panel, reference, method=3)
    refusal(OptionError, tl.impute, panel, reference, random_state=-1)
    refusal(InputError, tl.impute, "query.h5ad", reference)


def test_a_table_too_large_is_refused_before_anything_is_computed(tissue, panel, monkeypatch):
    monkeypatch.setattr("stgnn.imputation.MAX_GB", 1e-6)
    assert "fewer genes" in refusal(OptionError, tl.impute, panel, tissue[0])


def test_genes_of_the_query_alone_are_left_out_and_said(tissue, panel):
    more = panel.copy()
    more.var_names = ["Own", *more.var_names[1:]]
    found = tl.impute(more, tissue[0], genes=["Gene50"], method="knn-mean")
    assert any("1 gene of the query" in line for line in found.uns["stgnn_imputed"]["notes"])


def test_wanted_genes_may_be_called_by_any_name(tissue, panel):
    reference = tissue[0].copy()
    reference.var["gene_ids"] = [f"ENSMUSG{place:011d}.2" for place in range(reference.n_vars)]
    query = panel.copy()
    query.var_names = [f"ENSMUSG{reference.var_names.get_loc(name):011d}" for name in query.var_names]
    last = reference.n_vars - 1
    asked = [reference.var_names[last], f"ENSMUSG{last - 1:011d}.2", reference.var_names[last]]
    found = tl.impute(query, reference, method="knn-mean", genes=asked)
    assert found.var_names.tolist() == [f"ENSMUSG{last:011d}", f"ENSMUSG{last - 1:011d}"]


def test_what_is_written_stands_alone(tissue, panel):
    query = panel.copy()
    query.uns |= {"stgnn_expression": {"mpp": 1.0}, "mine": {"list": [1]}}
    query.obsp["graph"] = sp.eye_array(query.n_obs, format="csr")
    found = tl.impute(query, tissue[0], method="knn-mean", genes=["Gene50"], layer="X")
    found.uns["mine"]["list"].append(2)
    assert query.uns["mine"] == {"list": [1]} and list(found.obsp) == ["graph"]
    refusal(CountsError, read_query, found)


def test_the_reference_keeps_its_sections_and_places(tissue, panel, monkeypatch):
    seen = {}

    def spy(source, **options):
        seen.update(options)
        return read_reference(source, **options)

    monkeypatch.setattr("stgnn.imputation.read_reference", spy)
    tl.impute(panel, tissue[0], method="knn-mean", section_key="section", genes=["Gene50"])
    assert seen["section_key"] == "section" and seen["spatial_key"] == "spatial"


def test_a_type_without_counts_in_the_genes_left_is_no_obstacle(tissue, panel):
    reference = tissue[0].copy()
    kind = reference.obs["cell_type"].astype(str).to_numpy()
    kind[:6] = "poor"
    reference.obs["cell_type"] = kind
    counts = reference.X.toarray()
    counts[:6], counts[:6, 3] = 0, 5
    reference.X = sp.csr_matrix(counts)
    found = tl.impute(panel, reference, method=GraphImputer(folds=2), genes=["Gene3", "Gene50"])
    assert np.isfinite(found.X).all() and np.isfinite(found.var["reliability"]).all()


def test_nothing_to_hold_out_leaves_reliability_unknown(tissue, panel):
    query = panel[:3].copy()
    counts = np.zeros(query.shape, dtype=np.float32)
    counts[:, 3] = 5
    query.X = sp.csr_matrix(counts)
    found = tl.impute(query, tissue[0], method=GraphImputer(folds=2), genes=["Gene3", "Gene50"])
    assert np.isfinite(found.X).all()


@pytest.mark.parametrize("options", [{"folds": 1}, {"alike": 0}, {"near": 0}, {"temperature": 0.0}, {"penalty": 0.0}])
def test_options_out_of_range_are_refused(tissue, panel, options):
    assert next(iter(options)) in refusal(OptionError, tl.impute, panel, tissue[0], method=GraphImputer(**options))


# ---- the command line


def test_command_line(tissue, panel, tmp_path):
    tissue[0].write_h5ad(tmp_path / "reference.h5ad")
    panel.write_h5ad(tmp_path / "query.h5ad")
    (tmp_path / "genes.txt").write_text("Gene50\nGene3\n")
    words = ["impute", str(tmp_path / "query.h5ad"), "--reference", str(tmp_path / "reference.h5ad")]
    words += ["--genes", str(tmp_path / "genes.txt"), "--output", str(tmp_path / "out.h5ad"), "--method", "knn-mean"]
    done = CliRunner().invoke(_cli, words, catch_exceptions=False)
    assert done.exit_code == 0 and "2, of which 1 measured" in done.output
    assert read_h5ad(tmp_path / "out.h5ad").var_names.tolist() == ["Gene50", "Gene3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["genes.txt", "out.h5ad", "query.h5ad", "reference.h5ad"]


# ---- the benchmark


@pytest.fixture
def task(tissue, tmp_path) -> gene_tasks.GeneTask:
    for name, adata in zip(("known", "asked"), tissue, strict=True):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    return gene_tasks.GeneTask("toy", "known", "asked", "cell_type", "section", n_folds=2)


def test_tasks_of_genes_run_and_are_reported(task, tmp_path):
    chosen = bench_methods.find_imputers("knn-mean,type-mean,tangram")
    found = run([task], chosen, data_dir=tmp_path, output=tmp_path / "results", seeds=1)
    assert [record["error"] is None for record in found] == [True, True, False]
    assert found[2]["error"].startswith("absent")
    assert all(0.1 < record["scores"]["spearman"] < 1 for record in found[:2])
    assert all(len(record["details"]["spearman"]) == 60 for record in found[:2])
    report.write(tmp_path / "results", tmp_path / "x.html")
    assert '<section id="genes"' in (tmp_path / "x.html").read_text()


def test_the_truth_of_types_is_set_aside(task, tmp_path):
    _, query = gene_tasks.load(task, tmp_path)
    assert list(query.obs) == ["section"] and list(query.obsm) == ["spatial"]


def test_scores_of_genes():
    truth = np.array([[0.0, 3.0], [1.0, 2.0], [2.0, 1.0]])
    names = np.array(["a", "b"], dtype=object)
    scores, details = gene_tasks.score(truth, np.exp(truth), np.array([1.0, 0.5]), names)
    assert scores["spearman"] == pytest.approx(1) and scores["reliability_error"] == pytest.approx(0.25)
    assert details["spearman"] == pytest.approx({"a": 1.0, "b": 1.0})
    scores, _ = gene_tasks.score(truth, np.ones((3, 2)), np.full(2, np.nan), names)
    assert scores == {"spearman": 0.0, "pearson": 0.0}
    scores, _ = gene_tasks.score(truth, truth * [1, -1], np.array([0.9, 0.1]), names)
    assert scores["reliability_pearson"] == pytest.approx(1)


def test_tasks_of_genes_are_found_and_checked(tmp_path):
    assert [task.name for task in gene_tasks.find("genes")] == list(gene_tasks.KIND.built_in)
    refusal(OptionError, gene_tasks.find, "visual,main")
    for line, word in (("folds = 3", "folds"), ("n_folds = 2.5", "n_folds"), ("n_folds = 1", "2 or more")):
        lines = ['kind = "genes"', 'reference = "a"', 'query = "b"', 'labels_key = "c"', line]
        (tmp_path / "own.toml").write_text("\n".join(lines))
        assert word in refusal(OptionError, gene_tasks.find, str(tmp_path / "own.toml"))


def test_denoised_expression_is_an_ablation(tissue):
    (method,) = bench_methods.find("denoised expression")
    assert method.group == "ablations"
    model = bench_methods.make(replace(method, options={}), seed=0)
    reference, query = align(read_reference(tissue[0]), read_query(tissue[1], section_key="section"))
    proba = model.fit(reference, query).predict(query).proba
    truth = tissue[1].obs["cell_type"].astype(str).to_numpy()
    assert (np.array(reference.types)[proba.argmax(axis=1)] == truth).mean() > 0.6
    np.testing.assert_allclose(depths(model.query_), depths(query), rtol=1e-4)


# ---- real data


def test_prefrontal_cortex_from_motor_cortex(data_folder):
    (task,) = gene_tasks.find("prefrontal")
    reference, query = gene_tasks.load(task, data_folder)
    shared = sorted(set(reference.var_names) & set(query.var_names))
    held = np.random.default_rng(0).permutation(shared)[:10].tolist()
    seen = [gene for gene in shared if gene not in held]
    total = np.asarray(query[:, shared].X.sum(axis=1)).ravel()
    truth = log_normalise(sp.csr_matrix(query[:, held].X), float(np.median(total)), total)
    scores = {}
    for name, method in (("stgnn", QUICK), ("knn-mean", "knn-mean")):
        found = tl.impute(
            query[:, seen].copy(),
            reference,
            genes=held,
            labels_key=task.labels_key,
            section_key=task.section_key,
            method=method,
        )
        scores[name] = metrics.spearman(truth, np.asarray(found.X, dtype=np.float64)).mean()
    assert scores["stgnn"] > 1.1 * scores["knn-mean"]
