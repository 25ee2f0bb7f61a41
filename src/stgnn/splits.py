"""Who is trained on and who is tested: folds of patients, and blocks of one slide with a buffer between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stgnn.data.schema import OptionError, check_option

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped

__all__ = [
    "Fold",
    "block_folds",
    "check_buffer",
    "check_folds",
    "contiguous_blocks",
    "patient_folds",
    "random_folds",
]

KINDS = ("patients", "within-slide", "random spots")
"""What a score of a fold speaks of: new patients; other places of a slide that was seen; nothing, as spots leak."""


@dataclass(frozen=True, eq=False)
class Fold:
    """One split into training and test.

    Parameters
    ----------
    name
        What is tested, such as the patient.
    train, test
        Numbers of the slides, or of the bins (n,), ascending; no number is in both, or twice in one.
    kind
        One of :data:`KINDS`, to be printed with every score.

    Raises
    ------
    OptionError
        If training or test is empty, they overlap, or ``kind`` is no such kind.

    Examples
    --------
    >>> Fold("B", train=np.array([0, 1]), test=np.array([2]), kind="patients").test.tolist()
    [2]
    """

    name: str
    train: Int[np.ndarray, " train"]
    test: Int[np.ndarray, " test"]
    kind: str

    def __post_init__(self) -> None:
        check_option("kind", self.kind, KINDS)
        for argument, places in (("train", self.train), ("test", self.test)):
            if len(places) == 0:
                raise OptionError(argument, expected="at least one place", found=f"none in fold {self.name!r}")
            if np.any(np.diff(places) <= 0):
                raise OptionError(argument, expected="ascending numbers", found=f"others in fold {self.name!r}")
        shared = np.intersect1d(self.train, self.test)
        if len(shared):
            found = f"{len(shared)} of training in fold {self.name!r}"
            raise OptionError("test", expected="no place of training", found=found)

    def at(self, rows: Int[np.ndarray, " places"]) -> Fold:
        """Renumber a fold of a part by the numbers of the whole, as inner folds of a training set need.

        Examples
        --------
        >>> patients = np.array(["A", "B", "B", "C"])
        >>> outer = patient_folds(patients)[1]
        >>> [inner.at(outer.train).test.tolist() for inner in patient_folds(patients[outer.train])]
        [[0], [3]]
        """
        return Fold(self.name, np.asarray(rows)[self.train], np.asarray(rows)[self.test], self.kind)


def patient_folds(patients: Shaped[np.ndarray, " places"], k: int | None = None) -> list[Fold]:
    """Leave one patient out, or one of k groups of patients.

    Parameters
    ----------
    patients
        Patient of each slide, or of each bin (places,).
    k
        Number of folds; by default one for each patient. Groups are made about equal in places, the largest patients
        first.

    Returns
    -------
    list of Fold
        Every place is tested once; equal input gives equal folds.

    Raises
    ------
    OptionError
        If there are fewer than two patients, or not 2 to as many folds as patients.

    Examples
    --------
    >>> [(fold.name, fold.test.tolist()) for fold in patient_folds(np.array(["A", "B", "A", "C"]), k=2)]
    [('A', [0, 2]), ('B+C', [1, 3])]
    """
    names, code, count = np.unique(patients, return_inverse=True, return_counts=True)
    if len(names) < 2:
        hint = "on one slide, use block_folds: its scores are within-slide"
        raise OptionError("patients", expected="two patients or more", found=str(len(names)), hint=hint)
    k = len(names) if k is None else k
    if not 2 <= k <= len(names):
        raise OptionError("k", expected=f"2 to {len(names)} folds, one a patient at most", found=str(k))
    group, load = np.empty(len(names), dtype=np.int64), np.zeros(k)
    for patient in np.argsort(-count, kind="stable"):
        group[patient] = load.argmin()
        load[group[patient]] += count[patient]
    folds = []
    for number in dict.fromkeys(group.tolist()):  # in the order of the patients' names
        tested = group[code] == number
        name = "+".join(str(one) for one in names[group == number])
        folds.append(Fold(name, np.flatnonzero(~tested), np.flatnonzero(tested), "patients"))
    return check_folds(folds)


def contiguous_blocks(
    coords: Float[np.ndarray, "bins 2"], n: int, buffer_um: float
) -> tuple[Int[np.ndarray, " bins"], Bool[np.ndarray, " bins"]]:
    """Cut one slide into n rectangles of about equal numbers of bins, and mark the bins near a cut.

    The longer side is cut first, and each part again. Bins within ``buffer_um`` of a cut, on both of its sides, are in
    the guard, so that bins of two blocks that are outside of it lie at least ``2 * buffer_um`` apart along x or y:
    square contexts that reach ``buffer_um`` to each side share no pixel.

    Parameters
    ----------
    coords
        Positions of the bins of one slide (bins, 2), micrometres.
    n
        Number of blocks.
    buffer_um
        Width left out on each side of a cut, micrometres; at least what the method sees to each side of a bin, graph
        neighbours included.

    Returns
    -------
    block
        Block of each bin (bins,), 0 to n - 1.
    guard
        True for bins to leave out of training and of test (bins,).

    Raises
    ------
    OptionError
        If ``n`` is below 2, the buffer is not above 0, or a block has no bin outside of the guard.

    Examples
    --------
    >>> coords = np.column_stack([np.arange(8.0), np.zeros(8)])
    >>> block, guard = contiguous_blocks(coords, n=2, buffer_um=1.0)
    >>> block.tolist(), np.flatnonzero(guard).tolist()
    ([0, 0, 0, 0, 1, 1, 1, 1], [3, 4])
    """
    coords = np.asarray(coords, dtype=np.float64)
    if coords.ndim != 2 or coords.shape[1] != 2 or not np.isfinite(coords).all():
        raise OptionError("coords", expected="finite positions (bins, 2)", found=f"shape {coords.shape} or NaN")
    if not 2 <= n <= len(coords):
        raise OptionError("n", expected=f"2 to {len(coords)} blocks", found=str(n))
    if not (buffer_um > 0 and np.isfinite(buffer_um)):
        raise OptionError("buffer_um", expected="micrometres above 0", found=str(buffer_um))
    block, guard = np.zeros(len(coords), dtype=np.int64), np.zeros(len(coords), dtype=bool)
    parts = [(np.arange(len(coords)), 0, n)]
    while parts:
        members, first, count = parts.pop()
        if count == 1:
            block[members] = first
            continue
        left = count // 2
        side, axis, cut = _cut(coords[members], left / count)
        guard[members] |= np.abs(coords[members, axis] - cut) < buffer_um
        parts += [(members[side], first, left), (members[~side], first + left, count - left)]
    empty = np.flatnonzero(np.bincount(block[~guard], minlength=n) == 0)
    if len(empty):
        found = f"{buffer_um}, which leaves {len(empty)} of {n} blocks empty"
        raise OptionError(
            "buffer_um", expected="a buffer smaller than the blocks", found=found, hint="use fewer blocks"
        )
    return block, guard


def block_folds(block: Shaped[np.ndarray, " bins"], guard: Bool[np.ndarray, " bins"]) -> list[Fold]:
    """Leave one block of a slide out, and the bins of the guard out of everything.

    Parameters
    ----------
    block
        Block of each bin (bins,).
    guard
        True for bins near another block (bins,), as :func:`contiguous_blocks` marks them.

    Returns
    -------
    list of Fold
        One a block, of kind "within-slide"; every bin outside of the guard is tested once.

    Raises
    ------
    OptionError
        If the arrays differ in length, nothing is guarded, or there is one block only.

    Examples
    --------
    >>> folds = block_folds(np.array([0, 0, 1, 1]), np.array([False, True, True, False]))
    >>> [(fold.name, fold.train.tolist(), fold.test.tolist()) for fold in folds]
    [('0', [3], [0]), ('1', [0], [3])]
    """
    block, guard = np.asarray(block), np.asarray(guard, dtype=bool)
    if block.ndim != 1 or guard.shape != block.shape:
        raise OptionError("guard", expected=f"one for each of {len(block)} bins", found=f"shape {guard.shape}")
    names = np.unique(block)
    if len(names) < 2:
        raise OptionError("block", expected="two blocks or more", found=str(len(names)))
    if not guard.any():
        hint = "bins at a border see their neighbours across it; use contiguous_blocks"
        raise OptionError("guard", expected="bins between the blocks to leave out", found="none", hint=hint)
    tested = [~guard & (block == name) for name in names]
    free = np.any(tested, axis=0)
    return check_folds(
        [
            Fold(str(name), np.flatnonzero(free & ~inside), np.flatnonzero(inside), "within-slide")
            for name, inside in zip(names, tested)
        ]
    )


def random_folds(n: int, k: int, random_state: int = 0, force: bool = False) -> list[Fold]:
    """Split spots at random: refused unless forced, as neighbours of every test spot are trained on.

    Parameters
    ----------
    n
        Number of spots.
    k
        Number of folds.
    random_state
        Seed.
    force
        Do it all the same, to show the leak or to repeat a published table.

    Returns
    -------
    list of Fold
        Folds of kind "random spots".

    Raises
    ------
    OptionError
        If not forced, or not 2 to ``n`` folds.

    Examples
    --------
    >>> [len(fold.test) for fold in random_folds(10, k=3, force=True)]
    [4, 3, 3]
    """
    if not force:
        raise OptionError(
            "force",
            expected="True for random folds of spots, which leak",
            found="False",
            hint="coordinates alone score .345 on random folds and .058 on blocks; use patient_folds or block_folds",
        )
    if not 2 <= k <= n:
        raise OptionError("k", expected=f"2 to {n} folds", found=str(k))
    part = np.random.default_rng(random_state).permutation(n) % k
    return [Fold(str(i), np.flatnonzero(part != i), np.flatnonzero(part == i), "random spots") for i in range(k)]


def check_folds(folds: Sequence[Fold]) -> list[Fold]:
    """Return the folds if no place is tested twice, so that scores can be joined over them.

    Raises
    ------
    OptionError
        If a place is tested in two folds.

    Examples
    --------
    >>> fold = Fold("a", np.array([0]), np.array([1]), "patients")
    >>> check_folds([fold, fold])
    Traceback (most recent call last):
    stgnn.data.schema.OptionError: folds: expected every place tested once at most; found 1 tested more often
    """
    tested = np.unique(np.concatenate([fold.test for fold in folds]), return_counts=True)[1]
    if np.any(tested > 1):
        found = f"{(tested > 1).sum()} tested more often"
        raise OptionError("folds", expected="every place tested once at most", found=found)
    return list(folds)


def check_buffer(folds: Sequence[Fold], coords: Float[np.ndarray, "bins 2"], buffer_um: float) -> list[Fold]:
    """Return the folds of one slide if every test bin is at least ``buffer_um`` from all training bins.

    Raises
    ------
    OptionError
        If a test bin is nearer.

    Examples
    --------
    >>> fold = Fold("right", np.array([0]), np.array([2]), "within-slide")
    >>> check_buffer([fold], np.array([[0.0, 0.0], [50.0, 0.0], [100.0, 0.0]]), buffer_um=100.0) == [fold]
    True
    """
    from scipy.spatial import cKDTree

    for fold in folds:
        gap = float(cKDTree(coords[fold.train]).query(coords[fold.test])[0].min())
        if gap < buffer_um * (1 - 1e-9):
            expected = f"at least {buffer_um} um between training and test"
            raise OptionError("folds", expected=expected, found=f"{gap:g} um in fold {fold.name!r}")
    return list(folds)


def _cut(points: np.ndarray, share: float) -> tuple[np.ndarray, int, float]:
    """Which points lie before a cut across the longer side that leaves about ``share`` of them, its axis and place."""
    axis = int(np.ptp(points, axis=0).argmax())
    places, count = np.unique(points[:, axis], return_counts=True)
    if len(places) < 2:
        raise OptionError("n", expected="no more blocks than places to cut", found="bins that share one position")
    # A cut runs between two rows of bins, never through one: bins of one row stay together.
    last = int(np.abs(np.cumsum(count)[:-1] - share * len(points)).argmin())
    cut = (places[last] + places[last + 1]) / 2
    return points[:, axis] < cut, axis, float(cut)
