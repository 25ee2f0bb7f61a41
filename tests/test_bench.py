"""The benchmark on toy data: tasks as files, every failure a row, runs resumed, results shown on one page."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stgnn import cli
from stgnn.bench import methods, peers, records, report, run, tables, tasks
from stgnn.bench.measure import Job, measure
from stgnn.bench.score import Answer, score
from stgnn.data.schema import InputError
from stgnn.data.toy import toy

TASK = """
    title = "simulated tissue"
    reference = "reference"
    query = "query"
    labels_key = "cell_type"
    section_key = "section"
"""

OWN_METHODS = '''
    """Methods of a user's own."""
    import sys
    import time
    from dataclasses import dataclass
    from pathlib import Path
    import numpy as np
    from stgnn.data.cells import Prediction
    from stgnn.methods.base import Annotator

    @dataclass
    class Commonest(Annotator):
        """Gives every cell the commonest type."""

        random_state: int = 0

        def fit(self, reference, query):
            assert query.labels is None
            self.genes_, self.types_ = reference.genes, reference.types
            self.share_ = np.bincount(reference.labels) / len(reference)
            Path("calls.txt").open("a").write("call\\n")
            return self

        def predict(self, query):
            print("a word on stdout")
            proba = np.tile(self.share_, (len(query), 1))
            return Prediction(proba, proba, np.linspace(0, 1, len(query)))

        def _arrays(self): return {}
        def _facts(self): return {}
        def _restore(self, arrays): pass

    @dataclass
    class Fails(Commonest):
        def fit(self, reference, query):
            raise RuntimeError("did not work out")

    @dataclass
    class Exits(Commonest):
        def fit(self, reference, query):
            print("3")  # not a record
            sys.exit(0)

    @dataclass
    class Sleeps(Commonest):
        def fit(self, reference, query):
            Path("sleeping").write_text("")
            time.sleep(60)
'''


@pytest.fixture(scope="module")
def toy_files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "cells").mkdir()
    reference, query = toy(n_cells=150, n_genes=30)
    reference.write_h5ad(folder / "cells" / "reference.h5ad")
    query.obsm["proportions"] = np.eye(150)
    query.obs["same_as_type"] = query.obs["cell_type"]
    query.write_h5ad(folder / "cells" / "query.h5ad")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Folder of a user with a task and methods of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "own.toml").write_text(textwrap.dedent(TASK))
    (tmp_path / "mine.py").write_text(textwrap.dedent(OWN_METHODS))
    return tmp_path


def words(data: Path, *more: str, chosen: str = "mine:Commonest", seeds: int = 1) -> list[str]:
    given = ["--tasks", "own.toml", "--methods", chosen, "--seeds", str(seeds), "--data-dir", str(data)]
    return ["bench", "run", *given, "--output", "results", *more]


def task(**changes) -> tasks.Task:
    return replace(tasks.Task("own", "reference", "query", "cell_type", "section"), **changes)


# tasks


def test_built_in_tasks_are_files_of_the_package():
    found = tasks.find("all")
    assert [each.name for each in found] == list(tasks.BUILT_IN)
    for each in found:
        assert each.title
        assert (each.reference == each.query) == bool(each.split_values or each.split_coordinate is not None)


def test_built_in_tasks_fit_their_data(data_folder):
    reference, query, truth = tasks.load(tasks.find("fine")[0], data_folder)
    assert (reference.n_obs, query.n_obs, len(np.unique(truth))) == (11074, 9619, 15)
    reference, query, truth = tasks.load(tasks.find("mop-V1")[0], data_folder)
    assert (truth == "").sum() == 342
    assert "L4 IT" not in tasks.types_of(reference, "cell_type_coarse")


def test_the_query_holds_nothing_that_gives_the_types_away(toy_files):
    _, query, truth = tasks.load(task(), toy_files)
    assert list(query.obs) == ["section"]
    assert list(query.obsm) == ["spatial"]
    assert set(truth) == {f"type {code}" for code in range(1, 6)}
    assert tasks.load(task(), toy_files / "cells")[0].n_obs == 150


def test_one_file_is_split_by_a_column_or_a_coordinate(toy_files):
    one = {"reference": "query", "query": "query"}
    reference, query, truth = tasks.load(
        task(**one, split_column="section", split_values=("section 2",), ignore=("type 1",)), toy_files
    )
    assert set(reference.obs["section"]) == {"section 2"}
    assert set(query.obs["section"]) == {"section 1"}
    assert (truth == "").any()
    assert "type 1" not in truth
    reference, query, _ = tasks.load(task(**one, split_coordinate=1), toy_files)
    assert reference.obsm["spatial"][:, 1].max() < query.obsm["spatial"][:, 1].min()


def test_left_out_types_are_gone_from_the_reference_only(toy_files):
    found = tasks.left_out(task(), toy_files, commonest=1, rarest=1)
    _, _, truth = tasks.load(task(), toy_files)
    count = pd.Series(truth).value_counts()
    assert [each.name for each in found] == [f"own without {count.index[0]}", f"own without {count.index[-1]}"]
    reference, _, kept = tasks.load(found[0], toy_files)
    assert count.index[0] not in tasks.types_of(reference, "cell_type")
    assert (kept == truth).all()
    assert len(tasks.left_out(task(), toy_files)) == 5


WRONG_TASKS = [
    ("reference = ", "TOML"),
    ("", "a value of reference"),
    ('reference = "a"\nquery = "b"', "a value of labels_key"),
    ('reference = 3\nquery = "b"\nlabels_key = "c"', "text as reference"),
    (TASK + 'label_key = "c"', "did you mean 'labels_key'"),
    (TASK + "without = [1]", "a list of text as without"),
    (TASK + "split_coordinate = true", "the number of a coordinate"),
    (TASK + "split_coordinate = 0", "a split only of one file"),
    ('reference = "query"\nquery = "query"\nlabels_key = "cell_type"', "found neither in"),
    ('reference = "query"\nquery = "query"\nlabels_key = "cell_type"\nsplit_column = "section"', "one of them"),
    (TASK.replace('"query"', '"qury"'), "did you mean 'query'"),
    (TASK.replace('"cell_type"', '"cell_typ"'), "did you mean 'cell_type'"),
    (TASK.replace('"section"', '"sections"'), "did you mean 'section'"),
    (TASK + 'without = ["type 9"]', "own, without: expected values of the data; found 'type 9'"),
    (TASK + 'without = ["type 1", "type 2", "type 3", "type 4"]', "two types or more"),
]


@pytest.mark.parametrize(("text", "said"), WRONG_TASKS, ids=[said for _, said in WRONG_TASKS])
def test_a_wrong_task_is_one_line(here, toy_files, text, said, capsys):
    (here / "own.toml").write_text(textwrap.dedent(text))
    assert cli.main(words(toy_files)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "expected" in err
    assert said in err
    assert not (here / "results").exists()


WRONG_WORDS = [
    (["--tasks", "embrio"], "did you mean 'embryo'"),
    (["--tasks", "none.toml"], "no file 'none.toml'"),
    (["--methods", "logistics"], "did you mean 'logistic'"),
    (["--methods", "mine:"], "module:Class"),
    (["--seeds", "0"], "seeds: expected 1 or more; found 0"),
    (["--seeds", "few"], "a whole number"),
    (["--jobs", "0"], "jobs: expected 1 or more"),
    (["--timeout", "0"], "timeout: expected seconds above 0"),
    (["--peers", "none.toml"], "peers: expected a TOML file"),
    (["--data-dir", "nowhere"], "there is no such folder"),
    (["--output", "own.toml"], "output: expected a folder"),
]


@pytest.mark.parametrize(("more", "said"), WRONG_WORDS, ids=[said for _, said in WRONG_WORDS])
def test_a_wrong_option_is_one_line(here, toy_files, more, said, capsys):
    assert cli.main(words(toy_files, *more)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


@pytest.mark.parametrize(
    "text", ["interpreters = 3", '[interpreters]\nours = "x"', '[interpreters]\ntacco = "no"', "["]
)
def test_a_wrong_file_of_interpreters_is_refused(here, text):
    (here / "peers.toml").write_text(text)
    with pytest.raises(InputError, match=r"^peers: expected"):
        methods.read_interpreters(here / "peers.toml")


def test_missing_pyarrow_is_said_before_anything_runs(here, toy_files, monkeypatch, capsys):
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    assert cli.main(words(toy_files)) == 2
    assert "pip install 'stgnn[bench]'" in capsys.readouterr().err


# methods


def test_methods_come_by_name_class_and_group():
    from stgnn.methods import ANNOTATORS

    assert [each.name for each in methods.find("all")] == list(ANNOTATORS)
    assert {each.group for each in methods.find("peers")} == {"peers"}
    (without,) = methods.find("no gate")
    assert (without.name, without.cls, without.group) == ("stgnn, no gate", "stgnn", "ablations")
    (whole,) = methods.find("all parts")
    assert without.options == whole.options | {"gate": False}
    assert [each.name for each in methods.find("some.module:Class")] == ["some.module:Class"]


def test_every_ablation_can_be_made():
    for each in methods.find("ablations"):
        made = methods.make(each, seed=4)
        assert made.random_state == 4
        assert {name: getattr(made, name) for name in each.options} == each.options


def test_a_method_of_ones_own_must_be_one(here, monkeypatch):
    monkeypatch.syspath_prepend(here)
    with pytest.raises(InputError, match="subclass"):
        methods.make(methods.Method("x", "pathlib:Path"), 0)
    with pytest.raises(InputError, match="did you mean 'random_state'"):
        methods.make(methods.Method("x", "logistic", {"random_stat": 1}), 0)


# scores


def test_scores_are_of_the_best_type_whether_or_not_rejected():
    truth = np.repeat(["a", "b", "c", ""], 6)
    best = np.repeat(["a", "b", "a", "b"], 6)
    best[0] = "b"
    rejection = np.where(truth == "c", 0.9, 0.1)
    answer = Answer(best, np.full(24, 0.8), rejection, rejection > 0.5)
    coords = np.stack([np.arange(24.0), np.zeros(24)], axis=1)
    scores, details = score(truth, answer, ["a", "b"], coords)
    assert scores["accuracy"] == pytest.approx(11 / 12)
    assert scores["unknown"] == pytest.approx(6 / 18)
    assert scores["rejection_auroc"] == 1.0
    assert "rejection_auroc_left_out" not in scores
    assert {"homophily", "spatial_coherence", "true_spatial_coherence", "composition_correlation"} <= set(scores)
    assert details["confusion"] == {
        "truth": ["a", "b", "c"],
        "predicted": ["a", "b"],
        "counts": [[5, 1], [0, 6], [6, 0]],
    }
    assert list(details["class_f1"]) == ["a", "b"]
    assert json.loads(json.dumps(details)) == details


def test_a_type_left_out_is_scored_apart_from_others_that_the_reference_lacks():
    truth = np.repeat(["a", "b", "c", "d"], 6)
    rejection = np.repeat([0.1, 0.3, 0.2, 0.9], 6)  # c is rejected before a and after b
    answer = Answer(np.repeat("a", 24), np.full(24, 0.8), rejection, rejection > 0.5)
    scores, _ = score(truth, answer, ["a", "b"], without=("c",))
    assert scores["rejection_auroc_left_out"] == 0.5
    assert scores["rejection_auroc"] == 0.75


def test_scores_of_any_size_are_not_called_calibrated():
    truth = np.repeat(["a", "b"], 50)
    none = np.zeros(100, dtype=bool)
    answer = Answer(truth, np.linspace(-3, 7, 100), np.zeros(100), none)
    correlations = Answer(truth, np.linspace(0, 1, 100), np.zeros(100), none, calibrated=False)
    assert "expected_calibration_error" not in score(truth, correlations, ["a", "b"])[0]
    scores, details = score(truth, answer, ["a", "b"])
    assert "expected_calibration_error" not in scores
    assert "rejection_auroc" not in scores
    assert len(details["risk_coverage"]["risk"]) == 20


def test_a_peer_is_asked_through_its_interpreter(toy_files, monkeypatch):
    def annotate(name, reference, query, labels_key, seed, python, section_key):
        asked = name, labels_key, seed, python, section_key
        assert asked == ("tacco", "cell_type", 3, "/a/python", "section")
        table = pd.DataFrame(0.0, index=query.obs_names[::-1], columns=["type 1", "type 2"])
        return table.assign(**{"type 2": 5.0})

    monkeypatch.setattr(peers, "annotate", annotate)
    (peer,) = methods.find("tacco")
    found = measure(Job(task(), peer, 3, str(toy_files), "/a/python"))
    assert found["details"]["class_f1"]["type 1"] == 0
    assert found["details"]["class_f1"]["type 2"] > 0
    assert found["seconds"] > 0
    assert found["memory_gb"] > 0.05


# runs


def test_failures_are_rows_and_finished_runs_are_not_repeated(here, toy_files, capsys):
    chosen = "mine:Commonest,mine:Fails,mine:Exits,mine:Missing,tacco"
    assert cli.main(words(toy_files, "--jobs", "2", chosen=chosen)) == 0
    assert "runs     5, of which 4 failed" in capsys.readouterr().out
    found = {record["method"]: record for record in records.read("results")}
    assert found["mine:Fails"]["error"] == "RuntimeError: did not work out"
    assert found["mine:Exits"]["error"] == "exit code 0"
    assert "subclass" in found["mine:Missing"]["error"]
    assert found["tacco"]["error"] == "absent: no interpreter given"
    good = found["mine:Commonest"]
    assert good["error"] is None
    assert 0 < good["scores"]["accuracy"] < 0.6
    assert 0.05 < good["memory_gb"] < 4
    assert min(good["seconds"], good["cpu_seconds"]) > 0
    assert "CPU" in good["machine"]

    table = pd.read_csv("results/metrics.csv")
    assert list(table) == [
        "task",
        "method",
        "seed",
        "metric",
        "value",
        "seconds",
        "cpu_seconds",
        "memory_gb",
        "error",
    ]
    again = pd.read_parquet("results/metrics.parquet")
    pd.testing.assert_frame_equal(again.fillna(np.nan), table.fillna(np.nan), check_dtype=False)
    assert set(table["method"]) == set(chosen.split(","))

    runs = Path("results/runs.jsonl")
    lines = sorted(runs.read_text().splitlines(), key=lambda line: "mine:Fails" in line)
    runs.write_text("\n".join(lines)[:-20])  # as a process killed while it writes leaves it
    assert set(chosen.split(",")) - {record["method"] for record in records.read("results")} == {"mine:Fails"}
    assert cli.main(words(toy_files, chosen="mine:Commonest,mine:Fails")) == 0
    assert Path("calls.txt").read_text() == "call\n"
    assert len(records.read("results")) == 5

    Path("own.toml").write_text(textwrap.dedent(TASK) + 'ignore = ["type 1"]')  # another task under the same name
    assert cli.main(words(toy_files)) == 0
    assert Path("calls.txt").read_text() == "call\ncall\n"


def test_a_run_that_takes_too_long_is_ended(here, toy_files):
    start = time.monotonic()
    assert cli.main(words(toy_files, "--timeout", "0.5", chosen="mine:Sleeps")) == 0
    assert time.monotonic() - start < 30
    assert records.read("results")[0]["error"] == "timeout: not done after 0.5 seconds"


def test_a_killed_benchmark_takes_its_runs_along_and_goes_on_where_it_was(here, toy_files, capsys):
    command = [sys.executable, "-c", "import sys; from stgnn import cli; sys.exit(cli.main(sys.argv[1:]))"]
    chosen = "mine:Commonest,mine:Sleeps"
    process = subprocess.Popen([*command, *words(toy_files, chosen=chosen)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not Path("sleeping").exists():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < until, "no run in two minutes"
        time.sleep(0.02)
    child = _children(process.pid)
    assert cli.main(words(toy_files)) == 2  # a second run in the same folder would undo the first one's work
    assert "which another run is writing to" in capsys.readouterr().err
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert child
    while any(_is_alive(pid) for pid in child):
        assert time.monotonic() < until, "its run outlived it"
        time.sleep(0.02)
    assert [record["method"] for record in records.read("results")] == ["mine:Commonest"]
    assert cli.main(words(toy_files, "--timeout", "0.1", chosen=chosen)) == 0
    assert Path("calls.txt").read_text() == "call\n"
    assert len(records.read("results")) == 2


def _children(parent: int) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[1]) == parent:
            found.append(int(place.parent.name))
    return found


def _is_alive(pid: int) -> bool:
    place = Path(f"/proc/{pid}/stat")
    try:
        return place.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# report


def made_up(name: str, method: str, seed: int, value: float, group: str = "siblings", without=(), error=None) -> dict:
    definition = {"task": {"title": f"title of {name}", "without": list(without)}, "method": {}}
    record = {"task": name, "method": method, "group": group, "seed": seed, "threads": 1, "error": error}
    record |= {"date": "2026-01-01T00:00:00+00:00", "definition": definition}
    if error is not None:
        return record
    scores = dict.fromkeys(("accuracy", "macro_f1", "homophily", "spatial_coherence", "true_spatial_coherence"), value)
    curve = {"confidence": [0.3, 0.9], "accuracy": [0.2, value], "count": [10, 20]}
    details = {
        "reliability": curve,
        "risk_coverage": {"coverage": [0.5, 1.0], "risk": [0.1, 1 - value]},
        "confusion": {"truth": ["<a>", "b"], "predicted": ["<a>", "b"], "counts": [[5, 1], [0, 6]]},
        "class_f1": {"<a>": value, "b": value},
    }
    facts = {"version": "0.1.0", "python": "3.12.0", "machine": "2 CPUs, made up", "seconds": 2.0, "cpu_seconds": 1.5}
    scores |= {"rejection_auroc": value, "rejection_auroc_left_out": value + 0.1} if without else {}
    return record | facts | {"memory_gb": 0.5, "scores": scores, "details": details}


@pytest.fixture
def all_kinds() -> list[dict]:
    found = []
    for seed in (0, 1):
        for name, bonus in (("first", 0.0), ("second", 0.1)):
            found.append(made_up(name, "stgnn", seed, 0.8 + bonus + 0.01 * seed, group="ours"))
            found.append(made_up(name, "knn-harmony", seed, 0.7 + bonus))
            found.append(made_up(name, "stgnn, all parts", seed, 0.8 + bonus + 0.01 * seed, group="ablations"))
            found.append(made_up(name, "stgnn, no gate", seed, 0.78 + bonus, group="ablations"))
    found.append(made_up("first without b", "stgnn", 0, 0.65, group="ours", without=["b"]))
    found.append(made_up("first", "mine:Fails", 0, 0.0, error="RuntimeError: <did not work>"))
    found.append(made_up("first", "tacco", 0, 0.0, group="peers", error="absent: no interpreter given"))
    return found


def test_report_shows_every_method_and_loads_nothing(here, all_kinds, capsys):
    Path("results").mkdir()
    for record in all_kinds:
        records.append(Path("results"), record)
    assert cli.main(["bench", "report", "results", "--output", "x.html", "--markdown", "x.md"]) == 0
    page = Path("x.html").read_text()
    for method in ("stgnn", "knn-harmony", "stgnn, all parts", "stgnn, no gate", "mine:Fails", "tacco"):
        assert method in page
    for name in ("scores", "tasks", "cost", "homophily", "calibration", "confusion", "open", "ablations", "failures"):
        assert f'<section id="{name}"' in page
    for forbidden in ("http://", "https://", "<script", "<did not work>", "url("):
        assert forbidden not in page
    assert "&lt;did not work&gt;" in page
    assert "−2.5 ± 0.7" in page
    assert "80.5 ± 0.7 (80.5)" in page
    assert "made up" in page
    rows = Path("x.md").read_text().splitlines()
    assert rows[0].startswith("| method | first | second | mean |")
    assert rows[2].startswith("| stgnn | 80.5 ± 0.7 (80.5) |")  # best first
    assert rows[3].startswith("| knn-harmony | 70.0 ± 0.0 (70.0) |")
    assert "written  x.html" in capsys.readouterr().out
    assert report.build(tables.ordered(all_kinds)) == page


def test_means_and_ranks_are_over_tasks_that_all_have_finished(all_kinds):
    table = tables.compared(tables.runs([*all_kinds, made_up("third", "stgnn", 0, 0.1, group="ours")]))
    mean = tables.means(table, "macro_f1")
    assert list(mean.index) == ["first", "second", "third"]
    assert list(tables.shared(mean).index) == ["first", "second"]
    assert tables.ranks(mean).to_dict() == {"stgnn": 1.0, "knn-harmony": 2.0}


@pytest.mark.parametrize(
    "kept", [slice(-1, None), slice(0, 1), slice(3, 4), slice(16, 17)], ids=["absent", "ours", "ablation", "open"]
)
def test_report_of_few_runs(all_kinds, kept):
    page = report.build(all_kinds[kept])
    assert all_kinds[kept][0]["method"] in page


def test_report_without_results_is_refused(here, capsys):
    assert cli.main(["bench", "report", "nowhere", "--output", "x.html"]) == 2
    assert "results: expected a folder with runs.jsonl; found 'nowhere'" in capsys.readouterr().err
    assert cli.main(["bench", "report", "nowhere", "--output", "x.txt"]) == 2
    assert "a name ending in .html" in capsys.readouterr().err


def test_tables_never_replace_another_file(here, all_kinds, capsys):
    Path("results").mkdir()
    records.append(Path("results"), all_kinds[0])
    Path("thesis.md").write_text("years of work")
    for name in ("thesis.md", "results/runs.jsonl", "none/x.md"):
        assert cli.main(["bench", "report", "results", "--output", "x.html", "--markdown", name]) == 2
        assert "markdown: expected" in capsys.readouterr().err
    assert Path("thesis.md").read_text() == "years of work"
    assert not Path("x.html").exists()


def test_confusions_of_seeds_with_other_answers_add_up(all_kinds):
    one, other = (made_up("first", "tacco", seed, 0.5, group="peers") for seed in (0, 1))
    other["details"]["confusion"] = {"truth": ["<a>", "b"], "predicted": ["b", "c"], "counts": [[1, 2], [3, 0]]}
    assert "first" in report.build([one, other])
