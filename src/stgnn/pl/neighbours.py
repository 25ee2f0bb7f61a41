"""Which types lie beside which, more often than if they were strewn at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stgnn.data.schema import KEY_ADDED, InputError, check_at_least, check_seed, nearest
from stgnn.pl.keys import new_axes, read_types, section_codes

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

_ANNOTATED_FEW = 12  # up to so many types the scores are written into their squares


def neighbourhood_enrichment(
    adata: AnnData,
    *,
    n_permutations: int = 200,
    random_state: int = 0,
    key: str = KEY_ADDED,
    section_key: str | None = None,
    neighbors_key: str = "spatial",
    ax: Axes | None = None,
) -> Axes:
    r"""Draw how often cells of one type (row) have a neighbour of another (column), against chance.

    .. math:: z_{ab} = (n_{ab} - \bar n_{ab}) / s_{ab}

    with :math:`n_{ab}` the links from cells of type a to cells of type b, and :math:`\bar n_{ab}` and :math:`s_{ab}`
    their mean and standard deviation where the types change places among the cells of each section at random.

    Parameters
    ----------
    adata
        Annotated cells with a spatial graph, as the functions of :mod:`stgnn.pp`, and squidpy, write it.
    n_permutations
        How often types change places; 2 or more.
    random_state
        Seed; equal seeds give equal scores.
    key
        Name of the results.
    section_key
        Column of ``obs`` with the section of each cell; types change places within sections only.
    neighbors_key
        Start of the name of the graph: read is ``obsp[f"{neighbors_key}_connectivities"]``.
    ax
        Axes to draw on; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        An image with the scores, blue for fewer and red for more links than by chance; types without cells are left
        out. A score that chance cannot move, as of a single type, is 0.

    Raises
    ------
    InputError
        If the results or the graph are missing.
    OptionError
        If a number is too small.

    References
    ----------
    Palla et al., Squidpy: a scalable framework for spatial omics analysis, Nature Methods 19, 171 (2022).

    Examples
    --------
    >>> import stgnn.pl, stgnn.pp
    >>> from stgnn.data.cells import Prediction, read_query, write
    >>> from stgnn.data.toy import toy
    >>> _, adata = toy()
    >>> proba = np.eye(5)[adata.obs["cell_type"].cat.codes]
    >>> write(adata, read_query(adata), Prediction(proba, proba, np.zeros(adata.n_obs)), tuple("ABCDE"))
    >>> stgnn.pp.knn_graph(adata, 6, section_key="section")
    >>> ax = stgnn.pl.neighbourhood_enrichment(adata, section_key="section")
    >>> bool(ax.images[0].get_array()[0, 0] > 3)
    True
    """
    import scipy.sparse as sp

    check_at_least("n_permutations", n_permutations, 2)
    check_seed(random_state)
    assigned = read_types(adata, key)
    name = f"{neighbors_key}_connectivities"
    if name not in adata.obsp:
        near = nearest(name, adata.obsp)
        raise InputError(
            "neighbors_key",
            expected="the start of a graph's name in adata.obsp",
            found=f"no {name!r}",
            hint=f"{near}; run stgnn.pp.knn_graph first",
        )
    graph = sp.coo_matrix(adata.obsp[name])
    section = section_codes(adata, section_key)
    present, code = np.unique(assigned.code, return_inverse=True)
    number, mean, spread = links(code, graph.row, graph.col, section, n_permutations, random_state)
    score = np.divide(number - mean, spread, out=np.zeros(mean.shape), where=spread > 0)
    return _draw(score, [assigned.names[place] for place in present], ax)


def links(
    code: np.ndarray, row: np.ndarray, column: np.ndarray, section: np.ndarray, n_permutations: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Links between types, and their mean and standard deviation where types change places within sections.

    Parameters
    ----------
    code
        Type of each cell (cells,); each type has a cell.
    row, column
        Ends of the links (links,).
    section
        Section of each cell (cells,).
    n_permutations
        How often types change places.
    seed
        Of the permutations.

    Returns
    -------
    tuple of numpy.ndarray
        Three tables (types, types); the deviation is of a sample.
    """
    n_types, rng = int(code.max()) + 1, np.random.default_rng(seed)
    members = [np.flatnonzero(section == one) for one in np.unique(section)]

    def count(code: np.ndarray) -> np.ndarray:
        found = np.bincount(code[row] * n_types + code[column], minlength=n_types**2)
        return found.reshape(n_types, n_types).astype(np.float64)

    number, mean, squares = count(code), np.zeros((n_types, n_types)), np.zeros((n_types, n_types))
    for turn in range(1, n_permutations + 1):
        shuffled = code.copy()
        for cells in members:
            shuffled[cells] = code[rng.permutation(cells)]
        found = count(shuffled)
        off = found - mean
        mean += off / turn  # Welford's sums: large counts would cancel in a difference of squares
        squares += off * (found - mean)
    return number, mean, np.sqrt(squares / (n_permutations - 1))


def _draw(score: np.ndarray, names: list[str], ax: Axes | None) -> Axes:
    ax = new_axes(2.5 + 0.36 * len(names), 2.0 + 0.36 * len(names)) if ax is None else ax
    largest = max(float(np.abs(score).max()), 1.0)
    image = ax.imshow(score, vmin=-largest, vmax=largest, cmap="RdBu_r")
    ax.set_xticks(range(len(names)), names, rotation=90)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="has neighbours of type", ylabel="type")
    if len(names) <= _ANNOTATED_FEW:
        for (row, column), value in np.ndenumerate(np.round(score) + 0.0):  # no "-0"
            ink = "white" if abs(value) > 0.6 * largest else "black"
            ax.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize="x-small")
    ax.figure.colorbar(image, ax=ax, label="z-score against chance", shrink=0.7)
    return ax
