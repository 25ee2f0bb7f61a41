"""Conventions of the code base, each with its list of exceptions; an exception needs a reason."""

from __future__ import annotations

import ast
import importlib
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "stgnn").rglob("*.py"))
TESTS = sorted((ROOT / "tests").glob("test_*.py"))

PUBLIC = {
    "stgnn": ["__version__", "bench", "datasets", "pl", "pp", "read", "reference", "tl"],
    "stgnn.tl": ["annotate", "annotate_file", "fit_expression", "impute", "predict_expression"],
    "stgnn.pp": ["delaunay_graph", "hexagonal_grid_graph", "knn_graph", "radius_graph", "square_grid_graph"],
    "stgnn.pl": [
        "composition",
        "composition_along",
        "composition_by_distance",
        "confidence",
        "confusion",
        "imputation",
        "markers",
        "neighbourhood_enrichment",
        "slide",
        "spatial_confidence",
        "spatial_types",
        "training_curve",
    ],
    "stgnn.reference": ["prepare"],
    "stgnn.report": ["check_path", "write_report"],
    "stgnn.datasets": [
        "Contents",
        "Entry",
        "SOURCES",
        "Sites",
        "SpotDesign",
        "Web",
        "demo_query",
        "demo_reference",
        "describe",
        "fetch",
        "search",
        "simulate_spots",
    ],
    "stgnn.splits": [
        "Fold",
        "block_folds",
        "check_buffer",
        "check_folds",
        "contiguous_blocks",
        "patient_folds",
        "random_folds",
    ],
    "stgnn.data.cells": [
        "Cells",
        "Prediction",
        "align",
        "check_key_added",
        "read_query",
        "read_reference",
        "select_genes",
        "write",
    ],
    "stgnn.data.images": ["Image", "Picture", "SUFFIXES", "check_mpp", "digest_of", "open_image"],
    "stgnn.data.levels": ["Assignment", "aggregate", "assign", "at_widths", "grid_to_places", "with_one"],
    "stgnn.data.predictions": ["to_anndata"],
    "stgnn.data.slides": ["Slide", "aggregate", "bins_on", "grid_slide", "read_slide", "without_expression"],
    "stgnn.data.spaceranger": ["read_space_ranger"],
    "stgnn.data.tissue": ["on_tissue", "tissue_mask"],
    "stgnn.encoders": [
        "ENCODERS",
        "Encoder",
        "Extractor",
        "Picture",
        "extract",
        "find_encoder",
        "load_encoder",
    ],
    "stgnn.metrics": [
        "Comparison",
        "GeneScores",
        "Interval",
        "accuracy",
        "area_under_risk_coverage",
        "bootstrap",
        "calibration_slope",
        "chaos",
        "composition_correlation",
        "consistency_error",
        "deviance_explained",
        "expected_calibration_error",
        "expected_log1p",
        "gene_pearson",
        "gene_spearman",
        "homophily",
        "jensen_shannon",
        "log1p_counts",
        "log1p_normalised",
        "macro_f1",
        "mae",
        "mean_over",
        "moran",
        "moran_ratio",
        "mse",
        "neighbourhood_preservation",
        "noise_ceiling",
        "paired",
        "pas",
        "patient_means",
        "pearson",
        "pooled_pearson",
        "rejection_auroc",
        "reliability_curve",
        "risk_coverage",
        "rmse",
        "scored_cells",
        "share_of_ceiling",
        "skill",
        "spatial_coherence",
        "spatial_genes",
        "spearman",
        "spot_gain",
        "spot_pearson",
        "ssim_grid",
        "weighted_f1",
    ],
}
"""Everything a user may rely on. A change here belongs into CHANGELOG.md."""

MOST_LINES, MEDIAN_LINES, MOST_BODY = 400, 200, 60
CHECKED_BY_RUNNING = {}
"""Tests without an assertion, with the reason."""

LONG_FILES: dict[str, str] = {}
"""Files above the budget, with the reason."""

LONG_FUNCTIONS: dict[str, str] = {}
"""Functions above the budget, as "file:name", with the reason."""


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function's body; its signature, of one line an argument, and its docstring do not count."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("module", PUBLIC)
def test_exported_names(module):
    found = importlib.import_module(module)
    assert sorted(found.__all__) == PUBLIC[module]
    for name in PUBLIC[module]:
        assert getattr(found, name).__doc__ or name == "__version__"


def test_the_package_lists_its_names_and_no_others():
    import stgnn

    assert dir(stgnn) == PUBLIC["stgnn"]
    with pytest.raises(AttributeError, match="no attribute 'tools'"):
        stgnn.tools  # noqa: B018


def test_no_file_is_long():
    long = {relative(path) for path in SOURCES if lines(path) > MOST_LINES}
    assert long == set(LONG_FILES)


def test_the_median_file_is_short():
    sizes = [lines(path) for path in SOURCES if lines(path)]
    assert statistics.median(sizes) < MEDIAN_LINES


def test_no_function_is_long():
    long = {
        f"{relative(path)}:{function.name}"
        for path in SOURCES
        for function in functions(path)
        if body_lines(function) > MOST_BODY
    }
    assert long == set(LONG_FUNCTIONS)


def test_nothing_is_printed_past_the_command_line():
    for path in SOURCES:
        # doctests may show that a file is what it should be, so only code counts
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"], path


def test_nothing_is_checked_by_assert():
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Assert)], path


def test_methods_take_no_bundles_of_options():
    for path in SOURCES:
        if path.parent.name in ("methods", "nn", "graph"):
            assert not [function.name for function in functions(path) if function.args.kwarg], path


def test_every_test_checks_something():
    for path in TESTS:
        found = {function.name: function for function in functions(path)}
        checks = {name for name, function in found.items() if _checks_itself(function)}
        helped = {name for name, function in found.items() if _calls(function) & checks}
        idle = {f"{path.name}:{name}" for name in found if name.startswith("test_") and name not in checks | helped}
        assert idle == {name for name in CHECKED_BY_RUNNING if name.startswith(f"{path.name}:")}


def _checks_itself(function: ast.FunctionDef) -> bool:
    if any(isinstance(node, ast.Assert) for node in ast.walk(function)):
        return True
    if any(
        isinstance(node, ast.keyword) and node.arg == "check" and _is_true(node.value) for node in ast.walk(function)
    ):
        return True  # a process that must end well
    return any(name == "raises" or name.startswith("assert_") for name in _calls(function))


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _calls(function: ast.FunctionDef) -> set[str]:
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {getattr(call, "attr", getattr(call, "id", "")) for call in calls}


def test_changelog_has_the_version():
    from stgnn import __version__

    assert re.search(rf"^## \[{re.escape(__version__)}\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)


def test_readme_names_only_what_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for place in re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r'src="([^":]+)"', text):
        assert (ROOT / place).exists(), place
    for place in re.findall(r"^\| `([\w/.]+)` \|", text, re.M):
        if "/" in place or "." in place:
            assert (ROOT / place).exists() or (ROOT / "src/stgnn" / place).exists(), place


@pytest.mark.parametrize(
    ("code", "seconds"),
    [
        ("import stgnn", 0.3),
        ("from stgnn.cli import main; main(['--help'])", 0.7),
        ("from stgnn.cli import main; main(['annotate', '--help'])", 0.7),
    ],
)
def test_start_is_quick(code, seconds):
    measure = f"{code}; import sys, time; print(time.process_time(), *sys.modules, file=sys.stderr)"
    runs = []
    for _ in range(3):  # processor time of the best: a busy machine must not fail this
        done = subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, check=True)
        runs.append(float(done.stderr.split()[0]))
    assert min(runs) < seconds
    assert not {"torch", "anndata", "pandas", "numpy", "matplotlib"} & set(done.stderr.split())
