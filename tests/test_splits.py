"""Folds: nobody is in training and test, nothing is tested twice, and blocks keep their distance."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from stgnn import splits
from stgnn.data.schema import OptionError

PATIENTS = np.array(["B", "A", "A", "C", "C", "C", "C", "D"])


@pytest.fixture
def slide():
    """Bins at 16 um over an odd shape with a hole, in random order."""
    grid = np.array([[i, j] for i in range(60) for j in range(45)], dtype=float)
    kept = (grid[:, 0] + grid[:, 1] < 90) & (np.hypot(grid[:, 0] - 20, grid[:, 1] - 20) > 6)
    return 16 * np.random.default_rng(0).permutation(grid[kept])


@pytest.mark.parametrize("k", [None, 2, 3, 4])
def test_patients_are_never_on_both_sides(k):
    folds = splits.patient_folds(PATIENTS, k)
    assert len(folds) == (k or 4)
    assert np.array_equal(np.sort(np.concatenate([fold.test for fold in folds])), np.arange(8))
    for fold in folds:
        assert not set(PATIENTS[fold.train]) & set(PATIENTS[fold.test])
        assert len(fold.train) + len(fold.test) == 8
        assert fold.kind == "patients"
        assert fold.name == "+".join(sorted(set(PATIENTS[fold.test])))


def test_groups_of_patients_are_about_equal():
    assert sorted(len(fold.test) for fold in splits.patient_folds(PATIENTS, 2)) == [4, 4]
    assert [fold.name for fold in splits.patient_folds(PATIENTS)] == ["A", "B", "C", "D"]


def test_inner_folds_carry_the_numbers_of_the_whole():
    for outer in splits.patient_folds(PATIENTS):
        for inner in (fold.at(outer.train) for fold in splits.patient_folds(PATIENTS[outer.train])):
            assert set(inner.train) | set(inner.test) == set(outer.train)
            assert not set(PATIENTS[inner.train]) & set(PATIENTS[inner.test])


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_blocks_keep_twice_their_buffer(slide, n):
    buffer = 48.0
    block, guard = splits.contiguous_blocks(slide, n, buffer)
    assert np.array_equal(np.unique(block), np.arange(n))
    count = np.bincount(block)
    assert count.max() < 1.25 * count.min()
    folds = splits.block_folds(block, guard)
    assert {fold.kind for fold in folds} == {"within-slide"}
    assert np.array_equal(np.sort(np.concatenate([fold.test for fold in folds])), np.flatnonzero(~guard))
    for fold in folds:
        apart = cdist(slide[fold.train], slide[fold.test], "chebyshev").min()
        assert apart >= 2 * buffer
        assert not guard[fold.train].any()
        assert not guard[fold.test].any()
    assert splits.check_buffer(folds, slide, 2 * buffer) == folds
    with pytest.raises(OptionError, match=r"^folds: expected at least 900.0 um between training and test; found"):
        splits.check_buffer(folds, slide, 900.0)


def test_blocks_are_rectangles_and_do_not_depend_on_order(slide):
    block, guard = splits.contiguous_blocks(slide, 6, 32.0)
    for one in range(6):
        low, high = slide[block == one].min(axis=0), slide[block == one].max(axis=0)
        assert np.all(block[np.all((slide >= low) & (slide <= high), axis=1)] == one)
    order = np.random.default_rng(1).permutation(len(slide))
    again = splits.contiguous_blocks(slide[order], 6, 32.0)
    assert np.array_equal(again[0], block[order])
    assert np.array_equal(again[1], guard[order])


def test_bins_of_an_unequal_quadrant_can_be_given_by_hand():
    block, guard = np.array([2, 2, 0, 0, 1]), np.array([False, True, True, False, False])
    folds = splits.block_folds(block, guard)
    assert [(fold.name, fold.test.tolist()) for fold in folds] == [("0", [3]), ("1", [4]), ("2", [0])]


def test_random_folds_of_spots_are_refused_unless_forced():
    with pytest.raises(OptionError, match=r"which leak.*\.345 on random folds and \.058 on blocks"):
        splits.random_folds(100, 5)
    folds = splits.random_folds(101, 5, random_state=3, force=True)
    assert {fold.kind for fold in folds} == {"random spots"}
    assert np.array_equal(np.sort(np.concatenate([fold.test for fold in folds])), np.arange(101))
    assert all(np.array_equal(a.test, b.test) for a, b in zip(folds, splits.random_folds(101, 5, 3, force=True)))


LINE = np.column_stack([np.arange(10.0), np.zeros(10)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: splits.Fold("a", np.array([0, 1]), np.array([1]), "patients"), "test: expected no place of training"),
        (lambda: splits.Fold("a", np.array([1, 0]), np.array([2]), "patients"), "train: expected ascending numbers"),
        (lambda: splits.Fold("a", np.array([0]), np.array([2, 2]), "patients"), "test: expected ascending numbers"),
        (lambda: splits.Fold("a", np.array([0]), np.empty(0, int), "patients"), "test: expected at least one place"),
        (lambda: splits.Fold("a", np.array([0]), np.array([1]), "patient"), "kind: expected one of patients, within"),
        (
            lambda: splits.patient_folds(np.array(["A", "A"])),
            "patients: expected two patients or more; found 1; on one",
        ),
        (lambda: splits.patient_folds(PATIENTS, 5), "k: expected 2 to 4 folds"),
        (lambda: splits.contiguous_blocks(LINE, 1, 1.0), "n: expected 2 to 10 blocks"),
        (lambda: splits.contiguous_blocks(LINE, 2, 0.0), "buffer_um: expected micrometres above 0"),
        (lambda: splits.contiguous_blocks(LINE, 2, 6.0), "buffer_um: expected a buffer smaller than the blocks"),
        (lambda: splits.contiguous_blocks(LINE * np.nan, 2, 1.0), "coords: expected finite positions"),
        (lambda: splits.contiguous_blocks(LINE * 0, 2, 1.0), "n: expected no more blocks than places"),
        (lambda: splits.block_folds(np.arange(3), np.zeros(2, bool)), "guard: expected one for each of 3 bins"),
        (lambda: splits.block_folds(np.arange(3), np.zeros(3, bool)), "guard: expected bins between the blocks"),
        (lambda: splits.block_folds(np.zeros(3), np.ones(3, bool)), "block: expected two blocks or more"),
        (lambda: splits.random_folds(3, 4, force=True), "k: expected 2 to 3 folds"),
    ],
)
def test_bad_splits_are_named(call, message):
    with pytest.raises(OptionError, match=f"^{message}"):
        call()
