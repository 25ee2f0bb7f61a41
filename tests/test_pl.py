"""Plots: drawn on the Axes given, from the documented keys, with colours that stay."""

import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import stgnn.pl
import stgnn.pp
from stgnn.data.cells import Prediction, read_query, write
from stgnn.data.schema import CoordinatesError, InputError, OptionError
from stgnn.data.toy import toy
from stgnn.pl.colors import type_colors
from stgnn.pl.keys import curve_series, curve_steps, read_curve

matplotlib.use("Agg")

TYPES = tuple(f"type {number}" for number in range(1, 6))
CURVE = {"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "accuracy": [0.1, 0.2, 0.3]}


@pytest.fixture
def adata():
    """Cells with mostly true types; the first six are unknown."""
    _, query = toy(n_cells=200, random_state=3)
    rng = np.random.default_rng(0)
    proba = rng.gamma(0.4, size=(200, 5))
    proba[np.arange(200), query.obs["cell_type"].cat.codes] += 2
    proba /= proba.sum(axis=1, keepdims=True)
    rejection = np.zeros(200)
    rejection[:6] = 1.0
    write(query, read_query(query), Prediction(proba, proba, rejection, 0.5, {"curve": CURVE}), TYPES)
    stgnn.pp.knn_graph(query, 6, section_key="section")
    return query


PLOTS = {
    "spatial_types": lambda adata, **to: stgnn.pl.spatial_types(adata, **to),
    "spatial_confidence": lambda adata, **to: stgnn.pl.spatial_confidence(adata, **to),
    "composition_along": lambda adata, **to: stgnn.pl.composition_along(adata, (0, 0), (150, 150), **to),
    "composition_by_distance": lambda adata, **to: stgnn.pl.composition_by_distance(adata, "type 1", **to),
    "neighbourhood_enrichment": lambda adata, **to: stgnn.pl.neighbourhood_enrichment(adata, n_permutations=9, **to),
    "composition": lambda adata, **to: stgnn.pl.composition(adata, {"type 1": 3, "other": 1}, **to),
    "confusion": lambda adata, **to: stgnn.pl.confusion(adata, "cell_type", **to),
    "confidence": lambda adata, **to: stgnn.pl.confidence(adata, **to),
    "training_curve": lambda adata, **to: stgnn.pl.training_curve(adata, **to),
    "markers": lambda adata, **to: stgnn.pl.markers(adata, {"type 1": ["Gene1"], "type 2": ["Gene2"]}, **to),
}


OF_SLIDES = {"slide"}
"""Plots of slides, not of AnnData: tested in test_slides.py."""

OF_TWO = {"imputation"}
"""Plots of two data sets: tested in test_pl_space.py."""


def test_every_plot_is_tested():
    assert set(PLOTS) | OF_SLIDES | OF_TWO == set(stgnn.pl.__all__)


@pytest.mark.parametrize("name", PLOTS)
def test_draws_on_the_axes_given_and_changes_nothing(name, adata):
    before = adata.copy()
    figure = Figure()
    ax, other = figure.subplots(1, 2)
    assert PLOTS[name](adata, ax=ax) is ax
    assert ax.has_data()
    assert not other.has_data()
    figure.canvas.draw()
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert set(adata.uns) == set(before.uns)
    assert set(adata.obsm) == set(before.obsm)


@pytest.mark.parametrize("name", PLOTS)
def test_makes_a_figure_of_its_own(name, adata):
    import matplotlib.pyplot as plt

    ax = PLOTS[name](adata)
    ax.figure.canvas.draw()
    assert ax.has_data()
    assert ax.figure.number in plt.get_fignums()
    plt.close(ax.figure)


@pytest.mark.parametrize("name", PLOTS)
def test_a_missing_result_is_named_and_the_nearest_proposed(name, adata):
    with pytest.raises(InputError, match=r"no column 'stgn.*did you mean 'stgnn"):
        PLOTS[name](adata, key="stgn")


@pytest.mark.parametrize("name", [name for name in PLOTS if name != "composition_by_distance"])  # needs two
def test_a_subset_of_one_type_is_drawn(name, adata):
    few = adata[(adata.obs["stgnn"] == "type 3").to_numpy()].copy()
    assert PLOTS[name](few, ax=Figure().subplots()).has_data()


def test_colors_stay_when_cells_go():
    _, adata = toy(n_cells=200, random_state=3)
    proba = np.eye(5)[adata.obs["cell_type"].cat.codes]
    write(adata, read_query(adata), Prediction(proba, proba, np.zeros(200)), TYPES)
    few = adata[adata.obs["stgnn"].isin(["type 2", "type 5"]).to_numpy()].copy()
    expected = type_colors(TYPES)
    for cells in (adata, few):
        ax = stgnn.pl.spatial_types(cells, ax=Figure().subplots())
        shown = {text.get_text() for text in ax.get_legend().get_texts()}
        assert shown == set(cells.obs["stgnn"])
        handles = ax.get_legend().legend_handles
        assert {handle.get_label(): to_hex(handle.get_color()) for handle in handles} == {
            name: expected[name] for name in shown
        }
        points = ax.collections[0]
        place = {tuple(xy): name for xy, name in zip(cells.obsm["spatial"], cells.obs["stgnn"])}
        for xy, color in zip(points.get_offsets().data, points.get_facecolors()):
            assert to_hex(color) == expected[place[tuple(xy)]]


def test_fifty_types_have_colors_that_differ():
    colors = type_colors([f"t{number}" for number in range(50)] + ["unknown"])
    rgb = np.array([[int(color[start : start + 2], 16) for start in (1, 3, 5)] for color in colors.values()])
    apart = np.linalg.norm(rgb[:, None] - rgb[None], axis=2)
    assert apart[~np.eye(51, dtype=bool)].min() > 25
    assert len(set(type_colors([str(number) for number in range(120)]).values())) == 120


def test_map_of_one_section(adata):
    ax = stgnn.pl.spatial_confidence(
        adata, section_key="section", section="section 2", ax=Figure().subplots(), legend=False
    )
    inside = (adata.obs["section"] == "section 2").to_numpy()
    assert len(ax.collections[0].get_offsets()) == inside.sum()
    assert ax.get_aspect() == 1
    assert ax.get_ylim()[0] < ax.get_ylim()[1]
    values = ax.collections[0].get_array()
    assert np.all(np.diff(values) <= 0)
    np.testing.assert_allclose(np.sort(values), np.sort(adata.obs["stgnn_confidence"][inside]))


def test_bad_sections_and_coordinates(adata):
    with pytest.raises(OptionError, match=r"section: .*'section 1'\?"):
        stgnn.pl.spatial_types(adata, section_key="section", section="section1")
    with pytest.raises(OptionError, match="section_key"):
        stgnn.pl.spatial_types(adata, section="section 1")
    with pytest.raises(InputError, match=r"section_key.*did you mean 'section'"):
        stgnn.pl.spatial_types(adata, section_key="sections")
    with pytest.raises(CoordinatesError, match=r"spatial_key.*did you mean 'spatial'"):
        stgnn.pl.spatial_types(adata, spatial_key="spatia")
    adata.obsm["spatial"][0, 0] = np.nan
    with pytest.raises(CoordinatesError, match="NaN"):
        stgnn.pl.spatial_types(adata)


def test_composition_is_the_share_of_cells(adata):
    ax = stgnn.pl.composition(adata, {"type 1": 30, "other": 10}, ax=Figure().subplots())
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    own, reference = ([bar.get_width() for bar in bars] for bars in ax.containers)
    share = adata.obs["stgnn"].value_counts(normalize=True)
    assert names[-1] == "unknown"
    assert dict(zip(names, own)) == pytest.approx({name: 100 * share.get(name, 0.0) for name in names})
    assert dict(zip(names, reference))["type 1"] == pytest.approx(75)
    with pytest.raises(InputError, match="reference_composition"):
        stgnn.pl.composition(adata, {"type 1": 0.0})


def test_confusion_rows_sum_to_one_and_the_diagonal_agrees(adata):
    ax = stgnn.pl.confusion(adata, "cell_type", ax=Figure().subplots())
    table = ax.images[0].get_array()
    np.testing.assert_allclose(table.sum(axis=1), 1)
    rows, columns = ([tick.get_text() for tick in ticks] for ticks in (ax.get_yticklabels(), ax.get_xticklabels()))
    assert columns == [*rows, "unknown"]
    expected = pd.crosstab(adata.obs["cell_type"], adata.obs["stgnn"], normalize="index").loc[rows, columns]
    np.testing.assert_allclose(table, expected)
    with pytest.raises(InputError, match=r"truth_key.*did you mean 'cell_type'"):
        stgnn.pl.confusion(adata, "celltype")


def test_confusion_of_other_names_follows_what_they_got(adata):
    adata.obs["truth"] = adata.obs["cell_type"].map({name: f"z{9 - place}" for place, name in enumerate(TYPES)})
    ax = stgnn.pl.confusion(adata, "truth", ax=Figure().subplots())
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["z9", "z8", "z7", "z6", "z5"]


def test_markers_measure_expression(adata):
    ax = stgnn.pl.markers(adata, {"type 1": ["Gene5"], "type 2": ["Gene9"]}, ax=Figure().subplots())
    dots = ax.collections[0]
    counts = adata.X.toarray()
    logged = np.log1p(counts / counts.sum(axis=1, keepdims=True) * np.median(counts.sum(axis=1)))[:, [5, 9]]
    label = adata.obs["stgnn"].astype(str).to_numpy()
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    mean = np.array([logged[label == name].mean(axis=0) for name in names])
    np.testing.assert_allclose(dots.get_array(), (mean / mean.max(axis=0)).ravel(), rtol=1e-5)
    share = np.array([(counts[label == name][:, [5, 9]] > 0).mean(axis=0) for name in names])
    np.testing.assert_allclose(dots.get_sizes(), 90 * share.ravel())
    with pytest.raises(InputError, match="no gene 'Gen5'"):
        stgnn.pl.markers(adata, {"type 1": ["Gen5"]})
    with pytest.raises(InputError, match="at least one gene"):
        stgnn.pl.markers(adata, {"type 1": []})


@pytest.mark.parametrize(
    "curve",
    [
        CURVE,
        pd.DataFrame(CURVE),
        pd.DataFrame(CURVE).to_records(index=False),
        pd.DataFrame(CURVE).to_dict("records"),
        {str(row): values for row, values in enumerate(pd.DataFrame(CURVE).to_dict("records"))},
        {**CURVE, "stage": ["a", "b", "c"]},
    ],
)
def test_training_curve_of_any_form(curve, adata):
    adata.uns["stgnn"]["details"]["curve"] = curve
    found = read_curve(adata, "stgnn")
    assert set(curve_series(found)) == {"loss", "accuracy"}
    ax = stgnn.pl.training_curve(adata, ax=Figure().subplots())
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[1, 3], [2, 2], [3, 1]]]
    assert ax.get_xlabel() == "step"


def test_training_curve_of_stages_and_of_none(adata):
    adata.uns["stgnn"]["details"]["curve"] = {"teacher": {"loss": [2.0, 1.0]}, "student": CURVE}
    found = read_curve(adata, "stgnn")
    assert curve_steps(found, "teacher: loss")[1].tolist() == [1, 2]
    assert curve_steps(found, "student: loss")[0] == "step"
    assert len(stgnn.pl.training_curve(adata, ax=Figure().subplots()).lines) == 2
    for details in ({}, {"curve": "None"}, {"curve": {}}, "None"):
        adata.uns["stgnn"]["details"] = details
        with pytest.raises(InputError, match="training curve"):
            stgnn.pl.training_curve(adata)


def test_nothing_heavy_is_imported():
    code = (
        "import sys, stgnn.pl, stgnn.report; heavy = {'torch', 'matplotlib', 'pandas', 'anndata'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
