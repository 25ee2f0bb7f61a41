"""Evaluation of predicted expression: laws of scores, nothing of the test learned, failures as rows, runs resumed."""

from __future__ import annotations

import json
import shutil
import textwrap
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from pictures import ArrayPicture, tissue
from refusals import refusal
from slides import write_slide
from stgnn import cli
from stgnn.bench import evaluate, expression, expression_tables, expression_tasks, methods, records
from stgnn.bench.expression_score import known_of, score
from stgnn.bench.expression_tasks import ExpressionTask
from stgnn.bench.measure import Job, measure
from stgnn.data.expression import Expression, learnable, with_total
from stgnn.data.levels import at_widths
from stgnn.data.schema import CountsError, FileError, InputError, OptionError
from stgnn.data.slide import Slide
from stgnn.data.slides import read_slide, without_expression
from stgnn.holdout import Holdout, check_names, held_out, holdouts, training, with_blocks
from stgnn.methods.mean import Mean
from stgnn.methods.ridge import Ridge

OWN = '''
    """Methods of a user's own."""
    from dataclasses import dataclass
    from pathlib import Path
    from stgnn.methods.base import ExpressionPredictor
    from stgnn.methods.mean import Mean

    @dataclass
    class Counts(ExpressionPredictor):
        """Counts how often it is fitted."""

        any_width = True

        def fit(self, slides):
            Path("calls.txt").open("a").write("call\\n")
            self.mean_ = Mean().fit(slides)
            self.genes_ = self.mean_.genes_
            return self

        def predict(self, slide):
            assert slide.counts is None and slide.total is None and len(slide.genes) == 0
            return self.mean_.predict(slide)

        def _arrays(self): return {}
        def _facts(self): return {}
        def _restore(self, arrays): pass

    @dataclass
    class Fails(Counts):
        def fit(self, slides):
            raise RuntimeError("did not work out")
'''

SETS = {"all": np.arange(8), "spatial": np.array([3, 0, 5])}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A slide of each of two patients."""
    folder = tmp_path_factory.mktemp("slides")
    write_slide(folder, "A1", "A", seed=0)
    write_slide(folder, "B1", "B", seed=1)
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, features) -> Path:
    monkeypatch.setenv("STGNN_CACHE", str(features))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(textwrap.dedent(OWN))
    return tmp_path


def made(name: str = "S", patient: str = "P", side: int = 20, seed: int = 0) -> tuple[Slide, np.ndarray]:
    """Slide whose counts are drawn from known shares (n, 8), which are returned too."""
    rng = np.random.default_rng(seed)
    row, column = np.divmod(np.arange(side * side), side)
    wave = np.sin(row[:, None] / rng.uniform(2, 5, 8) + rng.uniform(0, 6, 8)) + np.cos(column[:, None] / 3.0)
    rate = np.exp(np.linspace(0.5, 2.5, 8) + 0.6 * wave) * rng.lognormal(0, 0.3, side * side)[:, None]
    counts = rng.poisson(rate).astype(np.float32)
    total = counts.sum(axis=1) + 40.0
    n = len(counts)
    slide = Slide(
        name=name,
        patient=patient,
        image=ArrayPicture(tissue(side * 8, side * 8)),
        places=np.column_stack([column, row]) * 16.0 + 8.0,
        width_um=16.0,
        round=False,
        counts=sp.csr_matrix(counts),
        total=total,
        genes=np.array([f"g{i}" for i in range(8)], dtype=object),
        names=np.array([f"bin{i}" for i in range(n)], dtype=object),
        in_tissue=np.ones(n, dtype=bool),
        block=np.where(column < side // 2, 0, 1),
        guard=np.abs(column + 0.5 - side / 2) < 2,
        rows=np.arange(n),
        grid=np.column_stack([row, column]),
    )
    return slide, rate / (rate.sum(axis=1) + 40.0)[:, None]


def expression_of(share: np.ndarray, total: np.ndarray) -> Expression:
    return Expression(share.astype(np.float32), total, np.full(len(share), np.nan))


def scores_of(slides: list[Slide], guesses: list[Expression], genes: str = "all") -> dict[str, float]:
    rows, _ = score(slides, guesses, known_of([made(seed=9)[0]]), SETS)
    return {row["metric"]: row["value"] for row in rows if row["genes"] == genes}


# laws of the scores


@pytest.mark.parametrize("genes", SETS)
def test_the_mean_predictor_scores_exactly_zero(genes):
    slides = [made(name, name)[0] for name in "ST"]
    mean = Mean().fit([made(seed=9)[0]])
    found = scores_of(slides, [mean.predict(without_expression(slide)) for slide in slides], genes)
    for metric in ("pearson", "pearson_plain", "spearman", "pearson_pooled", "pearson_counts", "deviance_explained"):
        assert found[metric] == 0, metric
    assert found["spot_gain"] == pytest.approx(0, abs=1e-6)
    assert found["share_of_ceiling"] == 0
    assert found["skill"] < 0.01
    assert found["spot_pearson"] > 0.3 or genes == "spatial"  # which is why it is not the primary score
    assert "calibration_slope" not in found


def deep(slide: Slide) -> Slide:
    """The same pattern without noise of counting."""
    return replace(slide, counts=slide.counts * 1e4, total=slide.total * 1e4)


def test_a_perfect_predictor_scores_one_and_more_than_noise_allows():
    shallow = [made(name, name, seed=seed)[0] for seed, name in enumerate("ST")]
    found = scores_of(shallow, [expression_of(one.counts.toarray() / one.total[:, None], one.total) for one in shallow])
    assert found["pearson_plain"] == pytest.approx(1, abs=1e-5)
    assert found["share_of_ceiling"] > 1
    slides = [deep(one) for one in shallow]
    guesses = [expression_of(slide.counts.toarray() / slide.total[:, None], slide.total) for slide in slides]
    found = scores_of(slides, guesses)
    for metric in ("pearson", "spearman", "pearson_pooled", "pearson_counts", "skill", "ssim", "calibration_slope"):
        assert found[metric] == pytest.approx(1, abs=1e-5), metric
    assert found["pearson_of_total"] == pytest.approx(1)
    assert found["mse"] < 1e-6
    assert found["moran_ratio"] == pytest.approx(1, abs=1e-4)


def test_true_rates_reach_the_ceiling():
    slide, share = made(side=40)
    found = scores_of([slide], [expression_of(share, slide.total)])
    assert 0.9 < found["share_of_ceiling"] < 1.1
    assert found["deviance_explained"] > 0.2
    assert found["moran_ratio"] > 1


def test_totals_alone_tell_of_logs_of_few_counts():
    """Which is why a predictor is judged with the totals that it says, and why they stand beside as ``total_alone``."""
    slide, _ = made(side=40)
    flat = np.full((len(slide), 8), 0.1)
    found = scores_of([slide], [expression_of(flat, slide.total)])
    assert found["pearson"] > 0.2
    assert found["pearson_plain"] == 0
    assert found["pearson"] == pytest.approx(found["total_alone"], abs=0.1)
    assert scores_of([slide], [expression_of(flat, np.full(len(slide), 99.0))])["pearson"] == 0


def test_a_permuted_truth_scores_about_zero():
    slide, share = made(side=40)
    order = np.random.default_rng(0).permutation(len(slide))
    mixed = replace(slide, counts=slide.counts[order], total=slide.total[order])
    found = scores_of([mixed], [expression_of(share, slide.total)])
    assert abs(found["pearson"]) < 0.05
    assert abs(found["share_of_ceiling"]) < 0.1
    assert found["skill"] < 0


def test_patients_weigh_the_same_and_slides_of_a_patient_share_its_weight():
    slides = [made("S1", "P")[0], made("S2", "P")[0], made("T", "Q", side=30)[0]]
    perfect = [expression_of(slide.counts.toarray() / slide.total[:, None], slide.total) for slide in slides]
    flat = expression_of(np.full((len(slides[2]), 8), 0.1), np.full(len(slides[2]), 100.0))
    slides = [deep(slide) for slide in slides]
    assert scores_of(slides, [*perfect[:2], flat])["pearson"] == pytest.approx(0.5, abs=1e-5)


def test_a_method_that_expects_none_of_what_was_counted_is_wrong_but_not_infinitely():
    slide, share = made()
    share[:, 0] = 0
    assert np.isfinite(scores_of([slide], [expression_of(share, slide.total)])["deviance_explained"])


def test_counts_that_are_not_whole_have_no_ceiling():
    slide, share = made()
    found = scores_of([replace(slide, counts=slide.counts * 0.5)], [expression_of(share, slide.total)])
    assert "ceiling" not in found
    assert found["pearson"] > 0.3


# folds


def test_whole_patients_or_blocks_are_tested_and_guards_never():
    slides = [made("A1", "A")[0], made("A2", "A")[0], made("B1", "B")[0]]
    found = holdouts(slides, "patient")
    assert [(fold.name, fold.slides, fold.kind) for fold in found] == [
        ("A", ("A1", "A2"), "patients"),
        ("B", ("B1",), "patients"),
    ]
    assert len(found[0].test(slides[2])) == len(found[0].train(slides[0])) == 0
    folds = holdouts(slides, "block")
    assert [fold.name for fold in folds] == ["A1/0", "A1/1", "A2/0", "A2/1", "B1/0", "B1/1"]
    assert {fold.kind for fold in folds} == {"within-slide"}
    for fold in folds[:2]:
        test, train = fold.test(slides[0]), fold.train(slides[0])
        assert set(slides[0].block[test]) == {fold.block} != set(slides[0].block[train])
        assert not slides[0].guard[np.concatenate([test, train])].any()
        assert len(fold.train(slides[1])) == 0  # a serial section may show the same tissue
    assert "leak" in refusal(OptionError, holdouts, slides, "random")
    assert "within-slide" in refusal(OptionError, holdouts, slides[:2], "patient")


def test_slides_to_test_by_name_share_no_patient_with_the_others():
    slides = [made("A1", "A")[0], made("A2", "A")[0], made("B1", "B")[0]]
    assert held_out(slides, ["B1"]) == Holdout("B1", "patients", ("B1",))
    assert "A on both sides" in refusal(OptionError, held_out, slides, ["A1"])
    assert "did you mean 'B1'" in refusal(OptionError, held_out, slides, ["B2"])
    assert "none but those tested" in refusal(OptionError, held_out, slides, ["A1", "A2", "B1"])


def test_names_that_would_let_tissue_leak_are_refused():
    slide = made("A1", "A")[0]
    check_names([slide, replace(slide, width_um=8.0)])
    other = ArrayPicture(slide.image.pixels, path=Path("other.png"))
    for wrong in (replace(slide, name="A2"), replace(slide, patient="B"), replace(slide, image=other)):
        assert "one name and one patient" in refusal(InputError, check_names, [slide, wrong])


def test_totals_are_taken_before_genes_are_chosen():
    slide = replace(made()[0], total=None)
    whole = with_total(slide)
    np.testing.assert_array_equal(whole.total, np.asarray(slide.counts.sum(axis=1)).ravel())
    assert with_total(whole) is whole
    assert "8 genes taken" in whole.notes[0]
    refusal(CountsError, with_total, without_expression(slide))


def test_slides_without_blocks_are_cut_and_those_of_one_name_alike():
    slide = replace(made(side=60)[0], block=np.full(3600, -1), guard=np.zeros(3600, dtype=bool))
    half = replace(slide, places=slide.places + 4.0)
    cut = with_blocks([slide, half], buffer_um=32.0)
    assert set(np.unique(cut[0].block)) == {0, 1, 2, 3}
    assert cut[0].guard.any()
    for code in range(4):
        first, second = (one.places[(one.block == code) & ~one.guard] for one in cut)
        assert np.abs(first.mean(axis=0) - second.mean(axis=0)).max() < 10
    assert with_blocks([made()[0]])[0].block.max() == 1
    small = replace(made(side=12)[0], block=np.full(144, -1), guard=np.zeros(144, dtype=bool))
    assert "fewer blocks" in refusal(OptionError, with_blocks, [small])


def test_levels_are_native_or_summed_from_what_covers_the_tissue():
    whole = made(side=40)[0]
    crop = replace(made(side=20)[0], width_um=8.0, places=made(side=20)[0].places / 2)
    found = at_widths([whole, crop], [32, 64])
    assert list(found) == [8.0, 16.0, 32.0, 64.0]
    assert [len(slides) for slides in found.values()] == [1, 1, 1, 1]
    assert len(found[64.0][0]) == 100
    assert found[32.0][0].counts.sum() == whole.counts.sum()
    assert "finest bins, 8" in refusal(OptionError, at_widths, [whole, crop], [4])


# one fold


def job(task: ExpressionTask, data: Path, method: str = "ridge", **options) -> Job:
    (found,) = methods.find_predictors(method)
    return Job(task, replace(found, options=found.options | options), 0, str(data))


def task_of(*names: str, **settings) -> ExpressionTask:
    return ExpressionTask("own", tuple(f"{name}.h5ad" for name in names), spatial_genes=4, **settings)


def test_a_fold_is_scored_at_every_width(data):
    first = expression_tasks.folds(task_of("A1", "B1", widths_um=(32,)), data)[0]
    assert (first.name, first.of, first.fold) == ("own, fold A", "own", "A")
    found = measure(job(first, data))
    scores = pd.DataFrame(found["scores"])
    assert set(scores["level"]) == {"16", "32"}
    assert set(scores["genes"]) == {"all", "spatial"}
    primary = scores[scores["metric"] == "pearson"].set_index(["level", "genes"])["value"]
    assert primary["16", "spatial"] > 0.3
    assert primary["32", "spatial"] > primary["16", "spatial"] > primary["16", "all"]
    assert "consistency_error" not in set(scores["metric"])  # fitted once a width: nothing to agree
    details = json.loads(json.dumps(found["details"]))
    assert details["kind"] == "patients"
    assert details["tested"] == {"test": {"A1": "A"}, "train": {"B1": "B"}}
    assert set(details["spatial_genes"]) < {f"Gene{i}" for i in range(6)}
    assert details["by_gene"]["16"]["A1"]["patient"] == "A"
    assert min(found["seconds"], found["cpu_seconds"], found["memory_gb"]) > 0


def test_within_a_slide_blocks_are_tested_and_one_model_serves_all_widths(data):
    folds = expression_tasks.folds(task_of("A1", split="block", widths_um=(32,)), data)
    assert [fold.fold for fold in folds] == ["0", "1"]
    found = measure(job(folds[1], data, "mean"))
    assert found["details"]["kind"] == "within-slide"
    assert found["details"]["tested"] == {"test": {"A1": "A"}, "test_block": 1, "train_blocks": [0]}
    scores = pd.DataFrame(found["scores"]).set_index(["level", "genes", "metric"])["value"]
    assert scores["32", "all", "consistency_error"] < 1e-6  # a mean rate sums up
    assert scores["16", "all", "pearson"] == 0


def test_nothing_is_learned_from_the_test_slide(data, tmp_path, monkeypatch):
    """Garbage in place of the test slide's counts changes neither genes nor predictions."""
    seen = []

    def keep(slides, predictions, known, sets):
        seen.append((predictions[0], known, sets))
        return score(slides, predictions, known, sets)

    monkeypatch.setattr(expression, "score", keep)
    for name in ("A1.h5ad", "A1.png", "B1.png"):
        shutil.copy(data / name, tmp_path / name)
    adata = anndata.read_h5ad(data / "B1.h5ad")
    adata.X = sp.csr_matrix(np.random.default_rng(5).poisson(9.0, adata.shape).astype(np.float32))
    adata.obs["total_all_genes"] = np.asarray(adata.X.sum(axis=1)).ravel() + 500
    adata.write_h5ad(tmp_path / "B1.h5ad")
    fold = expression_tasks.folds(task_of("A1", "B1"), data)[1]
    found = [measure(job(fold, folder)) for folder in (data, tmp_path)]
    assert found[0]["details"]["genes"] == found[1]["details"]["genes"]
    assert found[0]["details"]["spatial_genes"] == found[1]["details"]["spatial_genes"]
    (first, known, _), (second, again, _) = seen
    assert (known.scale, known.mean.tolist()) == (again.scale, again.mean.tolist())
    kept = min(len(first), len(second))
    assert kept > 400
    if len(first) == len(second):
        np.testing.assert_array_equal(first.share, second.share)
        np.testing.assert_array_equal(first.total, second.total)
    scores = [pd.DataFrame(one["scores"]).set_index(["genes", "metric"])["value"] for one in found]
    assert scores[0]["spatial", "pearson"] > 0.3 > abs(scores[1]["spatial", "pearson"]) + 0.15


def test_counts_of_the_query_never_reach_a_prediction(data):
    known, query = (read_slide(data / name) for name in ("A1.h5ad", "B1.h5ad"))
    garbage = replace(query, counts=sp.csr_matrix(np.full(query.counts.shape, 7.0)), total=np.full(len(query), 1e6))
    for method in (Mean(), Ridge()):
        fitted = method.fit([learnable(known)])
        first, second = fitted.predict(query), fitted.predict(garbage)
        np.testing.assert_array_equal(first.share, second.share)
        np.testing.assert_array_equal(first.total, second.total)


def test_genes_are_those_with_counts_in_training_up_to_so_many():
    slide, _ = made()
    fold = holdouts([slide], "block")[0]
    dense = slide.counts.toarray()
    dense[:, 2] = 0
    dense[:, 6] = 0
    dense[fold.test(slide), 6] = 50  # counted in the test alone
    genes, spatial = expression.chosen_genes({16.0: [replace(slide, counts=sp.csr_matrix(dense))]}, fold, 3, 5)
    assert len(genes) == 5
    assert not {"g2", "g6"} & set(genes)
    assert len(set(spatial)) == 3
    assert len(training([slide], fold)) == 1


# the command line, in fresh processes


def words(data: Path, *more: str) -> list[str]:
    slides = [str(data / f"{name}.h5ad") for name in ("A1", "B1")]
    given = ["--method", "mine:Counts", "--method", "mine:Fails", "--width-um", "32", "--spatial-genes", "4"]
    return ["expression", "evaluate", *slides, "--split", "patient", *given, "--output", "results", *more]


def test_evaluate_fills_a_folder_and_goes_on_where_it_was(data, capsys):
    assert cli.main(words(data)) == 0
    out = capsys.readouterr().out
    assert "runs     6, of which 2 failed" in out
    assert "did not work out" in out
    for said in ("mean", "noise ceiling", "measured total alone", "patients"):
        assert said in out
    folder = Path("results")
    names = ["comparisons.csv", "folds.json", "genes.csv", "genes.parquet", "metrics.csv", "metrics.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "runs.jsonl", "summary.csv"]
    table = pd.read_csv(folder / "metrics.csv")
    want = ["task", "method", "seed", "fold", "level", "genes", "metric", "value", "seconds", "cpu_seconds"]
    assert list(table) == [*want, "memory_gb", "error"]
    failed = table[table["method"] == "mine:Fails"]
    assert failed["error"].tolist() == ["RuntimeError: did not work out"] * 2
    assert failed["metric"].isna().all()
    assert set(table["fold"]) == {"A", "B"}
    summary = pd.read_csv(folder / "summary.csv").set_index(["method", "level", "genes", "metric"])
    own = summary.loc["mean", 16, "spatial", "pearson"]
    assert (own["value"], own["low"], own["high"], own["folds"], own["kind"]) == (0, 0, 0, 2, "patients")
    genes = pd.read_parquet(folder / "genes.parquet")
    assert set(genes["slide"]) == {"A1", "B1"}
    assert genes.groupby(["method", "fold", "level"]).size().tolist() == [12] * 8
    assert genes["spatial"].sum() == 4 * 8
    folds = json.loads((folder / "folds.json").read_text())
    assert folds["folds"]["slides"]["B"]["tested"] == {"test": {"B1": "B"}, "train": {"A1": "A"}}
    assert folds["versions"][0]["stgnn"]

    runs = folder / "runs.jsonl"
    lines = sorted(runs.read_text().splitlines(), key=lambda line: "Counts, fold B" in line or "Fails" in line)
    kept = [line for line in lines if "mine:Fails" not in line]
    kept.sort(key=lambda line: json.loads(line)["method"] == "mine:Counts" and "fold B" in line)
    runs.write_text("\n".join(kept)[:-20])  # as a process killed while it writes leaves it
    again = [word for word in words(data) if word != "mine:Fails"]
    del again[again.index("--method", again.index("mine:Counts"))]
    assert cli.main(again) == 0
    assert Path("calls.txt").read_text() == "call\n" * 3
    assert len(records.read("results")) == 4
    capsys.readouterr()
    assert cli.main(["bench", "report", "results", "--output", "x.html"]) == 2
    assert "see its summary.csv" in capsys.readouterr().err


def test_bench_runs_tasks_of_this_kind(data, capsys):
    Path("own.toml").write_text(
        'kind = "expression"\nslides = ["A1.h5ad", "B1.h5ad"]\ntest = ["B1"]\nspatial_genes = 3'
    )
    given = ["--methods", "mean", "--seeds", "1", "--data-dir", str(data), "--output", "results"]
    assert cli.main(["bench", "run", "--tasks", "own.toml", *given]) == 0
    (record,) = records.read("results")
    assert (record["task"], record["error"]) == ("own, fold B1", None)


WRONG = [
    (["bench", "run", "--tasks", "main,kidney", "--data-dir", "."], "tasks: expected tasks of one kind"),
    (
        ["bench", "run", "--tasks", "kidney", "--left-out", "--data-dir", "."],
        "--left-out: expected tasks of annotation",
    ),
    (["bench", "run", "--tasks", "kidney", "--data-dir", "nowhere"], "there is no such folder"),
    (["bench", "run", "--tasks", "main", "--methods", "ridge", "--data-dir", "."], "methods: expected"),
    (["expression", "evaluate", "{A1}", "--split", "random"], "random splits of spots leak"),
    (["expression", "evaluate", "{A1}", "--split", "patient"], "patients: expected two patients or more"),
    (
        ["expression", "evaluate", "{A1}", "--split", "block", "--method", "logistic"],
        "methods: expected module:Class or",
    ),
    (["expression", "evaluate", "{A1}", "--split", "block", "--width-um", "4"], "width_um: expected at least"),
    (["expression", "evaluate", "{A1}", "--split", "block", "--spatial-genes", "0"], "spatial_genes: expected 1 or"),
    (["expression", "evaluate", "{A1}", "--split", "block", "--seeds", "0"], "seeds: expected 1 or more"),
    (["expression", "evaluate", "none.h5ad", "--split", "block"], "none.h5ad"),
    (
        ["expression", "evaluate", "{A1}", "--split", "block", "--method", "mean", "--encoder", "resnet50"],
        "encoder: expected a method that has an encoder",
    ),
    (["expression", "evaluate", "--split", "block"], "slides: expected a value"),
]


@pytest.mark.parametrize(("given", "said"), WRONG, ids=[said for _, said in WRONG])
def test_wrong_words_are_one_line(data, given, said, capsys):
    assert cli.main([word.format(A1=data / "A1.h5ad") for word in given]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not Path("results").exists()


# tasks, methods, tables


def test_built_in_tasks_are_files_of_the_package():
    found = expression_tasks.find("expression")
    assert [task.name for task in found] == list(expression_tasks.KIND.built_in)
    assert all(task.title and task.slides for task in found)
    assert expression_tasks.find("all") == expression_tasks.find("none.toml") == []


def test_built_in_tasks_fit_their_data(data_folder):
    (task,) = expression_tasks.find("her2-C-B4")
    (fold,) = expression_tasks.folds(task, data_folder)
    assert fold.name == "her2-C-B4, fold B4"
    known = expression_tasks.holdout(fold, slides := expression_tasks.load(fold, data_folder))
    assert [len(known.test(slide)) > 0 for slide in slides] == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slides = []", "a value of slides"),
        ('slides = ["a"]\nsplt = "block"', "did you mean 'split'"),
        ('slides = ["a"]\nsplit = "spots"', "patient or block as split"),
        ('slides = ["a"]\nwidths_um = [0]', "a list of widths above 0"),
        ('slides = ["a"]\nspatial_genes = 1.5', "a whole number above 0"),
        ('slides = ["a"]\nmpp = "x"', "a number above 0 as mpp"),
        ('slides = ["a"]\ntest = ["a"]\nsplit = "block"', "test with the split patient"),
    ],
)
def test_a_wrong_task_is_one_line(text, said):
    Path("own.toml").write_text(f'kind = "expression"\n{text}')
    assert said in refusal(OptionError, expression_tasks.find, "own.toml")


def test_methods_of_either_kind_are_found_and_made():
    from stgnn.methods import PREDICTORS

    assert [each.name for each in methods.find_predictors("all")] == list(PREDICTORS)
    few = methods.make_predictor(methods.Method("few", "ridge", {"components": 8}), seed=1)
    assert (type(few), few.components) == (Ridge, 8)
    assert "did you mean 'ridge'" in refusal(OptionError, methods.find_predictors, "rigde")
    assert "subclass" in refusal(OptionError, methods.make_predictor, methods.Method("x", "pathlib:Path"), 0)
    chosen = {each.name: each for each in evaluate._chosen("all", "patient", "resnet50")}
    assert chosen["ridge, resnet50"].options == {"encoder": "resnet50"}
    assert chosen["ridge"].options == {}
    assert chosen["mean"].options == {}
    assert "coordinates" not in chosen


def test_a_missing_slide_is_named(tmp_path):
    assert "expected a.h5ad; found none" in refusal(FileError, expression_tasks.locate, "a.h5ad", tmp_path)


def made_up(method: str, fold: str, value: float, seed: int = 0) -> dict:
    task = {"slides": ["a"], "of": "t", "fold": fold}
    genes = {"patient": fold, "pearson": [value, None], "spearman": [value, None], "ceiling": [0.5, None]}
    details = {"kind": "patients", "genes": ["x", "y"], "spatial_genes": ["x"], "by_gene": {"16": {f"s{fold}": genes}}}
    scores = [{"level": "16", "genes": "spatial", "metric": "pearson", "value": value}]
    record = {"task": f"t, fold {fold}", "method": method, "seed": seed, "error": None, "definition": {"task": task}}
    return record | {"scores": scores, "details": details, "version": "1", "python": "3"}


def test_methods_are_compared_on_the_same_patients():
    found = [made_up("a", fold, 0.2 + 0.1 * i) for i, fold in enumerate("PQR")]
    found += [made_up("b", fold, 0.1 + 0.1 * i) for i, fold in enumerate("PQR")]
    table = expression_tables.comparisons(expression_tables.by_gene(found))
    row = table[table["genes"] == "spatial"].iloc[0]
    assert (row["method"], row["other"], row["groups"]) == ("a", "b", 3)
    assert row["difference"] == pytest.approx(0.1)
    assert row["p_value"] == 0.25  # the least that three patients allow
    mean = expression_tables.summary([*found, made_up("a", "P", 0.4, seed=1)]).iloc[0]
    assert mean["value"] == pytest.approx((0.3 + 0.3 + 0.4) / 3)  # seeds first, then patients
    assert mean["low"] < mean["value"] < mean["high"]
    assert expression_tables.comparisons(expression_tables.by_gene(found[:1])).empty
    assert np.isnan(expression_tables.summary(found[:1]).iloc[0]["low"])


def test_tables_of_failures_alone_are_empty(tmp_path):
    failed = made_up("a", "P", 0.0) | {"error": "RuntimeError: no", "scores": None, "details": None}
    records.append(tmp_path, failed)
    expression_tables.write(tmp_path)
    assert pd.read_csv(tmp_path / "summary.csv").empty
    assert pd.read_csv(tmp_path / "comparisons.csv").empty
    assert json.loads((tmp_path / "folds.json").read_text()) == {"versions": [], "folds": {}}
    assert records.tidy([failed])["error"].tolist() == ["RuntimeError: no"]


def test_another_evaluation_in_the_same_folder_is_not_averaged_in(tmp_path):
    old = [made_up("a", fold, 0.1) | {"date": "2026-01-01"} for fold in "PQ"]
    new = [made_up("a", fold, 0.5) | {"date": "2026-01-02"} for fold in "RS"]
    for record in new:
        record["definition"] = {"task": record["definition"]["task"] | {"split": "block"}}
    for record in [*old, *new]:
        records.append(tmp_path, record)
    assert expression_tables.summary(records.read(tmp_path))[["value", "folds"]].to_numpy().tolist() == [[0.5, 2]]
