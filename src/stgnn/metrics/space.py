"""Scores of labels and embeddings against the neighbourhoods of the tissue, always section by section."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stgnn.metrics.values import pearson

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped


def neighbourhood_preservation(
    first: Float[np.ndarray, "cells p"],
    second: Float[np.ndarray, "cells q"],
    section: Int[np.ndarray, " cells"],
    k: int = 15,
) -> float:
    r"""Mean overlap of each cell's k nearest neighbours in two spaces; from 0 to 1, higher is better.

    .. math:: \frac1n \sum_i \frac{|A_i \cap B_i|}{|A_i \cup B_i|}

    Two unrelated spaces score about k / (2 n).

    Parameters
    ----------
    first, second
        Coordinates of each cell in two spaces (cells, p) and (cells, q): an embedding, and either log-normalised
        expression or the positions in the tissue.
    section
        Code of the section of each cell (cells,); neighbours are sought within it in both spaces. One code for all
        cells compares across sections, which makes sense for expression only.
    k
        Number of neighbours; all other cells of the section where it has no more.

    Returns
    -------
    float
        The mean Jaccard index over cells that have a neighbour.

    Raises
    ------
    ValueError
        If the arrays differ in length, or no section holds two cells.

    Examples
    --------
    >>> line = np.array([[0.0], [1.0], [3.0], [7.0]])
    >>> neighbourhood_preservation(line, 2 * line, np.zeros(4, dtype=int), k=2)
    1.0
    """
    mine, other = _neighbours(first, section, k), _neighbours(second, section, k)
    shared = np.asarray(mine.multiply(other).sum(axis=1)).ravel()
    union = np.diff(mine.indptr) + np.diff(other.indptr) - shared
    return float(np.mean(shared[union > 0] / union[union > 0]))


def composition_correlation(
    truth: Shaped[np.ndarray, " cells"],
    predicted: Shaped[np.ndarray, " cells"],
    coords: Float[np.ndarray, "cells d"],
    section: Int[np.ndarray, " cells"],
    k: int = 15,
) -> float:
    """Correlation of the predicted with the true make-up of neighbourhoods; from -1 to 1, higher is better.

    For each true type, the share of it among a cell's k neighbours, by predicted and by true labels, is correlated
    over cells (Pearson); the score is the mean over types. A type whose predicted share never varies scores 0.

    Parameters
    ----------
    truth, predicted
        True and predicted type of each cell (cells,).
    coords
        Coordinates (cells, 2 or 3).
    section
        Code of the section of each cell (cells,).
    k
        Number of neighbours.

    Returns
    -------
    float
        The mean correlation.

    Raises
    ------
    ValueError
        If the arrays differ in length, no section holds two cells, or every neighbourhood has the same make-up.

    Examples
    --------
    >>> coords, truth = np.array([[0.0, 0], [1, 0], [9, 0], [10, 0]]), np.array(["a", "a", "b", "b"])
    >>> predicted = np.array(["a", "a", "b", "c"])
    >>> round(composition_correlation(truth, predicted, coords, np.zeros(4, dtype=int), k=1), 2)
    0.79
    """
    _check_length("truth", truth, coords)
    _check_length("predicted", predicted, coords)
    near = _neighbours(coords, section, k)
    degree = np.diff(near.indptr)
    types = np.unique(truth)
    heard = degree > 0
    true, guess = (
        (near @ (np.asarray(labels)[:, None] == types).astype(np.float64))[heard] / degree[heard, None]
        for labels in (truth, predicted)
    )
    correlation = pearson(true, guess)
    if np.isnan(correlation).all():
        raise ValueError("truth: expected neighbourhoods that differ in their make-up; found all alike")
    return float(np.nanmean(correlation))


def homophily(
    labels: Shaped[np.ndarray, " cells"],
    coords: Float[np.ndarray, "cells d"],
    section: Int[np.ndarray, " cells"],
    k: int = 15,
) -> float:
    """Share of neighbour pairs with one label; from 0 to 1; a property of the tissue, neither good nor bad.

    Parameters
    ----------
    labels
        Label of each cell (cells,).
    coords
        Coordinates (cells, 2 or 3).
    section
        Code of the section of each cell (cells,).
    k
        Number of neighbours.

    Returns
    -------
    float
        The share.

    Raises
    ------
    ValueError
        If the arrays differ in length, or no section holds two cells.

    Examples
    --------
    >>> coords = np.array([[0.0, 0], [1, 0], [9, 0], [10, 0]])
    >>> homophily(np.array(["a", "a", "b", "c"]), coords, np.zeros(4, dtype=int), k=1)
    0.5
    """
    _check_length("labels", labels, coords)
    near = _neighbours(coords, section, k).tocoo()
    return float(np.mean(np.asarray(labels)[near.row] == np.asarray(labels)[near.col]))


def spatial_coherence(
    labels: Shaped[np.ndarray, " cells"],
    coords: Float[np.ndarray, "cells d"],
    section: Int[np.ndarray, " cells"],
    k: int = 15,
) -> float:
    r"""Same-label rate of neighbours beyond chance; from -1 to 1, 0 without spatial order; best where the truth's is.

    .. math:: h - \sum_s \frac{e_s}{e} \sum_c \frac{n_{sc} (n_{sc} - 1)}{n_s (n_s - 1)}

    with :math:`h` the :func:`homophily`, :math:`e_s` the neighbour pairs and :math:`n_{sc}` the cells of label c in
    section s. The second term is the exact expectation of the first over all permutations of the labels within
    sections. Compare a prediction with the truth: more than the truth's is over-smoothing.

    Parameters
    ----------
    labels
        Label of each cell (cells,).
    coords
        Coordinates (cells, 2 or 3).
    section
        Code of the section of each cell (cells,).
    k
        Number of neighbours.

    Returns
    -------
    float
        The rate beyond chance.

    Raises
    ------
    ValueError
        If the arrays differ in length, or no section holds two cells.

    Examples
    --------
    >>> coords = np.array([[0.0, 0], [1, 0], [9, 0], [10, 0]])
    >>> round(spatial_coherence(np.array(["a", "a", "b", "b"]), coords, np.zeros(4, dtype=int), k=1), 3)
    0.667
    """
    observed = homophily(labels, coords, section, k)
    expected, pairs = [], []
    for code in np.unique(section):
        count = np.unique(np.asarray(labels)[section == code], return_counts=True)[1]
        n = count.sum()
        if n > 1:
            expected.append((count * (count - 1)).sum() / (n * (n - 1)))
            pairs.append(n * min(k, n - 1))
    return float(observed - np.average(expected, weights=pairs))


def chaos(
    labels: Shaped[np.ndarray, " cells"], coords: Float[np.ndarray, "cells d"], section: Int[np.ndarray, " cells"]
) -> float:
    """Mean distance of a cell to the nearest cell of its own domain; from 0 up, lower is better.

    Coordinates are first scaled, per section, to a standard deviation of 1 along each axis. A cell alone in its domain
    counts 0. From SpatialPCA [1]_.

    References
    ----------
    .. [1] Shang and Zhou (2022), Nature Communications 13:7203.

    Parameters
    ----------
    labels
        Domain of each cell (cells,).
    coords
        Coordinates (cells, 2 or 3).
    section
        Code of the section of each cell (cells,).

    Returns
    -------
    float
        The mean distance, in standard deviations.

    Raises
    ------
    ValueError
        If the arrays differ in length, or there is no cell.

    Examples
    --------
    >>> coords = np.array([[0.0, 0], [2, 0], [0, 2], [2, 2]])
    >>> round(chaos(np.array([0, 0, 1, 1]), coords, np.zeros(4, dtype=int)), 3)
    1.732
    """
    from scipy.spatial import cKDTree

    _check_length("labels", labels, coords)
    _check_length("section", section, coords)
    total = 0.0
    for code in np.unique(section):
        inside = section == code
        spread = coords[inside].std(axis=0, ddof=1) if inside.sum() > 1 else np.ones(coords.shape[1])
        points = coords[inside] / np.where(spread > 0, spread, 1.0)
        domain = np.asarray(labels)[inside]
        for name in np.unique(domain):
            members = points[domain == name]
            if len(members) > 1:
                total += cKDTree(members).query(members, k=2)[0][:, 1].sum()
    return float(total / len(coords))


def pas(
    labels: Shaped[np.ndarray, " cells"],
    coords: Float[np.ndarray, "cells d"],
    section: Int[np.ndarray, " cells"],
    k: int = 10,
) -> float:
    """Share of abnormal spots, whose domain differs from most of their neighbours'; from 0 to 1, lower is smoother.

    From SpatialPCA [1]_, where six of ten neighbours make a spot abnormal.

    References
    ----------
    .. [1] Shang and Zhou (2022), Nature Communications 13:7203.

    Parameters
    ----------
    labels
        Domain of each cell (cells,).
    coords
        Coordinates (cells, 2 or 3).
    section
        Code of the section of each cell (cells,).
    k
        Number of neighbours; more than half must differ.

    Returns
    -------
    float
        The share, over cells that have a neighbour.

    Raises
    ------
    ValueError
        If the arrays differ in length, or no section holds two cells.

    Examples
    --------
    >>> coords = np.array([[0.0, 0], [1, 0], [2, 0], [3, 0], [1.4, 0.5]])
    >>> pas(np.array(["a", "a", "a", "a", "b"]), coords, np.zeros(5, dtype=int), k=3)
    0.2
    """
    _check_length("labels", labels, coords)
    near = _neighbours(coords, section, k)
    pair = near.tocoo()
    differs = np.asarray(labels)[pair.row] != np.asarray(labels)[pair.col]
    degree = np.diff(near.indptr)
    share = np.bincount(pair.row, differs, minlength=len(coords))[degree > 0] / degree[degree > 0]
    return float(np.mean(share > 0.5))


def _neighbours(points: np.ndarray, section: np.ndarray, k: int) -> sp.csr_matrix:
    """Matrix (cells, cells) with a 1 for each of a cell's k nearest others in its section."""
    from sklearn.neighbors import NearestNeighbors

    _check_length("section", section, points)
    if k < 1:
        raise ValueError(f"k: expected 1 or more neighbours; found {k}")
    row, column = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for code in np.unique(section):
        members = np.flatnonzero(section == code)
        width = min(k, len(members) - 1)
        if width:
            near = NearestNeighbors(n_neighbors=width).fit(points[members]).kneighbors(return_distance=False)
            row.append(np.repeat(members, width))
            column.append(members[near.ravel()])
    if len(row) == 1:
        raise ValueError("section: expected a section of two cells or more; found none")
    ends = np.concatenate(row), np.concatenate(column)
    return sp.csr_matrix((np.ones(len(ends[0])), ends), shape=(len(points), len(points)))


def _check_length(argument: str, values: np.ndarray, points: np.ndarray) -> None:
    if len(values) != len(points) or len(points) == 0:
        raise ValueError(f"{argument}: expected one value for each of {len(points)} cells; found {len(values)}")
