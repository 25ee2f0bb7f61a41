"""Patterns of expression in space: how smooth they are, how alike they look, and which genes have one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from stgnn.metrics.counts import log1p_normalised
from stgnn.metrics.expression import _mean
from stgnn.metrics.values import _check_shapes

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_COLUMNS = 2**21  # numbers in a block of columns: 16 MB as float64


def moran(
    values: np.ndarray | sp.csr_matrix,
    coords: Float[np.ndarray, "spots d"],
    section: Int[np.ndarray, " spots"],
    k: int = 6,
) -> Float[np.ndarray, " genes"]:
    r"""Moran's I of each gene, mean over sections; from about -1 to 1, near 0 without spatial order.

    .. math:: I = \frac{\sum_i z_i \bar z_{N(i)}}{\sum_i z_i^2}

    with :math:`z` centred within the section and :math:`\bar z_{N(i)}` its mean over the neighbours of i: its k
    nearest, with all others as near as the k-th, so that on a grid the order of the spots does not matter (8
    neighbours on a square grid, 6 on a hexagonal one).

    Parameters
    ----------
    values
        Values (spots, genes), dense or sparse.
    coords
        Coordinates (spots, 2 or 3).
    section
        Section of each spot (spots,).
    k
        Number of neighbours.

    Returns
    -------
    numpy.ndarray
        One value a gene (genes,); NaN for a gene that is constant in every section.

    Raises
    ------
    ValueError
        If the arrays differ in length, ``k`` is below 1, or no section holds two spots.

    Examples
    --------
    >>> coords = np.array([[0.0, 0], [1, 0], [10, 0], [11, 0]])
    >>> moran(np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), coords, np.zeros(4, dtype=int), k=1).tolist()
    [1.0, -1.0]
    """
    section = np.asarray(section)
    if len(coords) != values.shape[0] or section.shape != (len(coords),):
        raise ValueError(f"section: expected coordinates and a section for each of {values.shape[0]} spots; found less")
    by_section = []
    for members in (np.flatnonzero(section == code) for code in np.unique(section)):
        if len(members) > 1:
            by_section.append(_moran(values[members], _near(np.asarray(coords)[members], k)))
    if not by_section:
        raise ValueError("section: expected a section of two spots or more; found none")
    return _mean(np.stack(by_section), axis=0)


def moran_ratio(
    truth: Float[np.ndarray, "spots genes"],
    predicted: Float[np.ndarray, "spots genes"],
    coords: Float[np.ndarray, "spots d"],
    section: Int[np.ndarray, " spots"],
    k: int = 6,
) -> float:
    """Smoothness of the prediction over that of the truth; 1 is alike, above 1 is smoother.

    Noise makes the truth rough, so that a perfect prediction of the rates lies above 1, the more so the smaller the
    bins: compare methods with each other.

    Parameters
    ----------
    truth, predicted
        True and predicted values (spots, genes), dense.
    coords, section, k
        As for :func:`moran`.

    Returns
    -------
    float
        Mean of Moran's I of the predicted over that of the true values, over genes that vary in both; NaN where there
        is none, or the truth has no spatial order.

    Raises
    ------
    ValueError
        As for :func:`moran`, and if the shapes differ.

    Examples
    --------
    >>> coords = np.array([[0.0, 0], [1, 0], [10, 0], [11, 0]])
    >>> truth, smooth = np.array([[0.0], [1], [3], [4]]), np.array([[0.0], [0], [1], [1]])
    >>> round(moran_ratio(truth, smooth, coords, np.zeros(4, dtype=int), k=1), 3)
    1.25
    """
    _check_shapes(truth, predicted)
    true, guess = moran(truth, coords, section, k), moran(predicted, coords, section, k)
    both = ~np.isnan(true) & ~np.isnan(guess)
    order = true[both].mean() if both.any() else 0.0
    return float(guess[both].mean() / order) if order > 0 else float("nan")


def ssim_grid(
    truth: Float[np.ndarray, "spots genes"],
    predicted: Float[np.ndarray, "spots genes"],
    grid: Int[np.ndarray, "spots 2"],
    data_range: float | Float[np.ndarray, " genes"],
) -> Float[np.ndarray, " genes"]:
    r"""Structural similarity of each gene's picture on the grid of one slide; from -1 to 1, higher is better.

    .. math::
        \frac{(2 \mu_x \mu_y + c_1)(2 \sigma_{xy} + c_2)}
             {(\mu_x^2 + \mu_y^2 + c_1)(\sigma_x^2 + \sigma_y^2 + c_2)}

    averaged over spots, with a Gaussian window of 1.5 grid steps, :math:`c_1 = (0.01 L)^2`, :math:`c_2 = (0.03 L)^2`
    [1]_. Places of the grid without a spot have no weight in any window.

    References
    ----------
    .. [1] Wang et al. (2004), IEEE Transactions on Image Processing 13:600.

    Parameters
    ----------
    truth, predicted
        True and predicted values (spots, genes), dense.
    grid
        Row and column of each spot (spots, 2).
    data_range
        Range L of the values, of all genes or of each (genes,). Take it from the training slides: a range taken from
        each picture would give other methods other scales.

    Returns
    -------
    numpy.ndarray
        One value a gene (genes,).

    Raises
    ------
    ValueError
        If the shapes differ, two spots share a place, or a range is not above 0.

    Examples
    --------
    >>> grid = np.array([[i, j] for i in range(4) for j in range(4)])
    >>> truth = np.arange(16.0)[:, None]
    >>> ssim_grid(truth, truth, grid, data_range=16.0).round(6).tolist()
    [1.0]
    """
    _check_shapes(truth, predicted)
    grid = np.asarray(grid)
    if grid.shape != (len(truth), 2) or len(np.unique(grid, axis=0)) != len(truth):
        raise ValueError(
            f"grid: expected a place (row, column) of its own for each of {len(truth)} spots; found others"
        )
    extent = np.broadcast_to(np.asarray(data_range, dtype=np.float64), truth.shape[1])
    if not (extent > 0).all():
        raise ValueError("data_range: expected ranges above 0; found others")
    row, column = (grid - grid.min(axis=0)).T
    shape = row.max() + 1, column.max() + 1
    weight = _blur(np.ones(len(truth)), row, column, shape)
    scores = np.empty(truth.shape[1])
    for gene, scale in enumerate(extent):
        x, y = (values[:, gene] / scale for values in (truth, predicted))
        mx, my, xx, yy, xy = (_blur(v, row, column, shape) / weight for v in (x, y, x * x, y * y, x * y))
        likeness = (2 * mx * my + 0.01**2) * (2 * (xy - mx * my) + 0.03**2)
        scores[gene] = np.mean(likeness / ((mx**2 + my**2 + 0.01**2) * (xx - mx**2 + yy - my**2 + 0.03**2)))
    return scores


def spatial_genes(
    counts: np.ndarray | sp.csr_matrix,
    total: Float[np.ndarray, " spots"],
    coords: Float[np.ndarray, "spots d"],
    section: Int[np.ndarray, " spots"],
    n: int,
) -> Int[np.ndarray, " n"]:
    """Choose the genes with most spatial order, by Moran's I of the log library-size normalised counts.

    Parameters
    ----------
    counts
        Raw counts (spots, genes) of the training spots alone, dense or sparse.
    total
        Counts of the full transcriptome (spots,).
    coords
        Coordinates (spots, 2 or 3).
    section
        Section of each spot (spots,).
    n
        Number of genes.

    Returns
    -------
    numpy.ndarray
        Columns of the genes (n,), the most spatial first.

    Raises
    ------
    ValueError
        As for :func:`moran`, or if fewer than ``n`` genes vary.

    Examples
    --------
    >>> coords, counts = np.array([[0.0, 0], [1, 0], [10, 0], [11, 0]]), np.array([[0, 9], [5, 9], [0, 1], [5, 1]])
    >>> spatial_genes(counts, np.full(4, 100), coords, np.zeros(4, dtype=int), n=1).tolist()
    [1]
    """
    order = moran(log1p_normalised(counts, total), coords, section)
    varying = int((~np.isnan(order)).sum())
    if not 1 <= n <= varying:
        raise ValueError(f"n: expected 1 to {varying} genes, those that vary; found {n}")
    return np.argsort(-np.where(np.isnan(order), -np.inf, order), kind="stable")[:n]


def _near(points: np.ndarray, k: int) -> sp.csr_matrix:
    """Mean over the neighbours of each of at least two points, as a matrix (n, n); ties for the k-th all count."""
    from scipy.spatial import cKDTree

    if k < 1:
        raise ValueError(f"k: expected 1 or more neighbours; found {k}")
    n = len(points)
    tree = cKDTree(points)
    reach = tree.query(points, k=[min(k, n - 1) + 1])[0][:, 0]
    found = tree.query_ball_point(points, reach * (1 + 1e-6), return_sorted=False)
    degree = np.array([len(one) for one in found])
    ends = np.repeat(np.arange(n), degree), np.concatenate(found).astype(np.int64)
    near = sp.csr_matrix((np.repeat(1.0 / (degree - 1), degree), ends), shape=(n, n))
    near.setdiag(0.0)
    return near


def _moran(values: np.ndarray | sp.csr_matrix, near: sp.csr_matrix) -> np.ndarray:
    out = []
    for block in _column_blocks(values):
        size = (block**2).sum(axis=0)
        block -= block.mean(axis=0)
        length = (block**2).sum(axis=0)
        varies = length > 1e-24 * size
        order = np.einsum("ij,ij->j", block, near @ block)
        out.append(np.where(varies, order / np.where(varies, length, 1.0), np.nan))
    return np.concatenate(out)


def _column_blocks(values: np.ndarray | sp.csr_matrix) -> Iterator[np.ndarray]:
    """Columns as dense float64 blocks of bounded size."""
    columns = sp.csc_matrix(values) if sp.issparse(values) else values
    width = max(1, _COLUMNS // values.shape[0])
    for start in range(0, values.shape[1], width):
        block = columns[:, start : start + width]
        yield (block if isinstance(block, np.ndarray) else block.toarray()).astype(np.float64)


def _blur(values: np.ndarray, row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Gaussian sum of the values on the grid, 0 where there is no spot, read at the spots."""
    from scipy.ndimage import gaussian_filter

    image = np.zeros(shape)
    image[row, column] = values
    return gaussian_filter(image, sigma=1.5, truncate=3.5, mode="constant")[row, column]
