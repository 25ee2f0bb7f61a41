"""Regions: they partition the cells, respect sections, and pooling is a mean."""

import numpy as np
import pytest

from stgnn.graph.hierarchy import coarsen, pool, regions, unpool


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def tissue(request):
    rng = np.random.default_rng(request.param)
    section = rng.permutation(np.repeat([3, 0, 8], [1500, 900, 12]))
    return rng.random((2412, request.param)) * 500, section


def test_every_cell_has_one_region_in_its_section(tissue):
    coords, section = tissue
    level = regions(coords, section, cells_per_region=30)
    assert level.assignment.dtype == np.float32
    np.testing.assert_array_equal(level.assignment.sum(axis=1), 1)
    np.testing.assert_array_equal(level.section[level.parent], section)
    assert level.size.min() > 0
    assert level.size.sum() == len(coords)


@pytest.mark.parametrize("wanted", [10, 30, 100])
def test_the_median_region_holds_about_the_wanted_number(tissue, wanted):
    coords, section = tissue
    level = regions(coords, section, wanted)
    for code in (0, 3):
        assert 0.8 * wanted <= np.median(level.size[level.section == code]) <= 1.25 * wanted


def test_a_section_with_no_more_cells_is_one_region(tissue):
    coords, section = tissue
    assert (regions(coords, section, 12).section == 8).sum() == 1
    assert (regions(coords, section, 3).section == 8).sum() > 1


def test_regions_are_squares_side_by_side(tissue):
    coords, section = tissue
    level = regions(coords, section, cells_per_region=30)
    boxes = np.flatnonzero(level.section == 3)
    low, high = (np.array([f(coords[level.parent == box], axis=0) for box in boxes]) for f in (np.min, np.max))
    # Two boxes never overlap: along some axis one ends before the other begins.
    apart = (high[:, None] < low[None]).any(axis=2)
    assert np.all(apart | apart.T | np.eye(len(boxes), dtype=bool))
    widest = (high - low).max(axis=0)
    assert widest.max() < 1.2 * widest.min()


def test_a_lattice_is_cut_evenly():
    coords = np.array([[x, y] for x in range(12) for y in range(12)], dtype=float)
    level = regions(coords, np.zeros(144, dtype=int), cells_per_region=9)
    assert level.size.tolist() == [9] * 16


def test_moving_scaling_and_permuting_change_nothing(tissue):
    coords, section = tissue
    still = regions(coords, section, cells_per_region=40)
    moved = regions(coords * 0.25 + 64.0, section, cells_per_region=40)
    np.testing.assert_array_equal(moved.parent, still.parent)
    np.testing.assert_allclose(moved.centres, still.centres * 0.25 + 64.0)
    order = np.random.default_rng(0).permutation(len(coords))
    shuffled = regions(coords[order], section[order], cells_per_region=40)
    np.testing.assert_array_equal(shuffled.parent, still.parent[order])


def test_sections_do_not_see_each_other(tissue):
    coords, section = tissue
    whole = regions(coords, section, cells_per_region=40)
    alone = regions(coords[section == 3], section[section == 3], cells_per_region=40)
    np.testing.assert_allclose(whole.centres[whole.section == 3], alone.centres)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_cells_at_one_place_are_one_region(n):
    level = regions(np.full((n, 2), 4.0), np.zeros(n, dtype=int), cells_per_region=2)
    assert level.assignment.shape == (n, min(n, 1))
    np.testing.assert_array_equal(level.centres, np.full((min(n, 1), 2), 4.0))


def test_pool_is_the_mean_and_unpool_its_copy(tissue):
    coords, section = tissue
    level = regions(coords, section, cells_per_region=30)
    x = np.random.default_rng(1).normal(size=(len(coords), 4))
    pooled = pool(level, x)
    for region in (0, 5, len(level.section) - 1):
        np.testing.assert_allclose(pooled[region], x[level.parent == region].mean(axis=0))
    np.testing.assert_array_equal(unpool(level, pooled), level.assignment @ pooled)
    np.testing.assert_allclose(pool(level, unpool(level, pooled)), pooled)
    np.testing.assert_allclose(pool(level, coords), level.centres)
    assert pool(level, x.astype(np.float32)).dtype == np.float32


def test_regions_of_regions(tissue):
    coords, section = tissue
    fine = regions(coords, section, cells_per_region=10)
    coarse = coarsen(fine, regions_per_region=6)
    assert coarse.assignment.shape[0] == fine.assignment.shape[1] > coarse.assignment.shape[1] > 3
    np.testing.assert_array_equal(coarse.section[coarse.parent][fine.parent], section)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"^cells_per_region: expected"):
        regions(np.zeros((3, 2)), np.zeros(3, dtype=int), cells_per_region=0)
    with pytest.raises(ValueError, match=r"^section: expected"):
        regions(np.zeros((3, 2)), np.zeros(2, dtype=int), cells_per_region=2)
