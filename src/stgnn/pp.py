"""Spatial graphs written onto AnnData, under the keys that squidpy uses: one function per way to build one.

Every function here takes ``section_key`` (the column of ``obs`` that names the section of each cell; None for one
section), ``spatial_key`` (the entry of ``obsm`` that holds the coordinates), ``key_added`` (the start of the names
written) and ``copy`` (return the two matrices and leave ``adata`` as it is).
"""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING

from stgnn.data.schema import SPATIAL_KEY, CoordinatesError, OptionError

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sp
    from anndata import AnnData

    from stgnn.graph.graph import Graph

    Matrices = tuple[sp.csr_matrix, sp.csr_matrix]

__all__ = ["delaunay_graph", "hexagonal_grid_graph", "knn_graph", "radius_graph", "square_grid_graph"]


def knn_graph(
    adata: AnnData,
    k: int = 15,
    *,
    section_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    key_added: str = "spatial",
    copy: bool = False,
) -> Matrices | None:
    """Link every cell to the k nearest cells of its section.

    Parameters
    ----------
    adata
        Cells with coordinates.
    k
        Number of neighbours; fewer in a section of k cells or fewer.
    section_key, spatial_key, key_added, copy
        Where to read and write: see :mod:`stgnn.pp`.

    Returns
    -------
    tuple of scipy.sparse.csr_matrix or None
        Connectivities and distances if ``copy``; else None, after writing

        - ``adata.obsp[f"{key_added}_connectivities"]``: 1 where the row's cell listens to the column's;
        - ``adata.obsp[f"{key_added}_distances"]``: their distance, in the unit of the coordinates;
        - ``adata.uns[f"{key_added}_neighbors"]``: the two names and the parameters.

    Raises
    ------
    CoordinatesError
        If the coordinates are missing, malformed, not finite, or all the same.
    OptionError
        If ``k`` is below 1, or ``section_key`` is no column of ``adata.obs`` that gives every cell a section.

    Examples
    --------
    >>> import anndata, numpy as np, stgnn.pp
    >>> adata = anndata.AnnData(np.ones((3, 1)), obsm={"spatial": np.array([[0.0, 0], [1, 0], [3, 0]])})
    >>> stgnn.pp.knn_graph(adata, k=1)
    >>> adata.obsp["spatial_distances"].toarray().tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]
    """
    from stgnn.graph.build import spatial_knn

    _check_count("k", k)
    graph = spatial_knn(*_places(adata, spatial_key, section_key), k)
    return _write(adata, graph, "knn", {"n_neighbors": int(k)}, section_key, key_added, copy)


def radius_graph(
    adata: AnnData,
    radius: float,
    *,
    section_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    key_added: str = "spatial",
    copy: bool = False,
) -> Matrices | None:
    """Link all cells of a section that lie within a radius of each other.

    Parameters
    ----------
    adata
        Cells with coordinates.
    radius
        Largest distance, in the unit of the coordinates.
    section_key, spatial_key, key_added, copy
        Where to read and write: see :mod:`stgnn.pp`.

    Returns
    -------
    tuple of scipy.sparse.csr_matrix or None
        As :func:`knn_graph`, with the same keys written.

    Raises
    ------
    CoordinatesError, OptionError
        As :func:`knn_graph`; ``radius`` must be above 0.

    Examples
    --------
    >>> import anndata, numpy as np, stgnn.pp
    >>> adata = anndata.AnnData(np.ones((3, 1)), obsm={"spatial": np.array([[0.0, 0], [1, 0], [3, 0]])})
    >>> connectivities, distances = stgnn.pp.radius_graph(adata, radius=2, copy=True)
    >>> distances.toarray().tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 2.0], [0.0, 2.0, 0.0]]
    """
    from stgnn.graph.build import spatial_radius

    _check_above_zero("radius", radius)
    graph = spatial_radius(*_places(adata, spatial_key, section_key), radius)
    return _write(adata, graph, "radius", {"radius": float(radius)}, section_key, key_added, copy)


def delaunay_graph(
    adata: AnnData,
    max_length: float | None = None,
    *,
    section_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    key_added: str = "spatial",
    copy: bool = False,
) -> Matrices | None:
    """Link the cells that share an edge of their section's Delaunay triangulation.

    Parameters
    ----------
    adata
        Cells with coordinates.
    max_length
        Longer edges are left out, in the unit of the coordinates; None keeps all.
    section_key, spatial_key, key_added, copy
        Where to read and write: see :mod:`stgnn.pp`.

    Returns
    -------
    tuple of scipy.sparse.csr_matrix or None
        As :func:`knn_graph`, with the same keys written.

    Raises
    ------
    CoordinatesError, OptionError
        As :func:`knn_graph`; ``max_length`` must be above 0.

    Examples
    --------
    >>> import anndata, numpy as np, stgnn.pp
    >>> adata = anndata.AnnData(np.ones((3, 1)), obsm={"spatial": np.array([[0.0, 0], [1, 0], [0, 1]])})
    >>> stgnn.pp.delaunay_graph(adata)
    >>> adata.obsp["spatial_connectivities"].sum(axis=1).ravel().tolist()
    [[2.0, 2.0, 2.0]]
    """
    from stgnn.graph.build import spatial_delaunay

    if max_length is not None:
        _check_above_zero("max_length", max_length)
    graph = spatial_delaunay(*_places(adata, spatial_key, section_key), max_length)
    parameters = {} if max_length is None else {"max_length": float(max_length)}
    return _write(adata, graph, "delaunay", parameters, section_key, key_added, copy)


def square_grid_graph(
    adata: AnnData,
    rings: int = 1,
    *,
    section_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    key_added: str = "spatial",
    copy: bool = False,
) -> Matrices | None:
    """Link the spots of a square grid, such as the bins of Visium HD, up to some steps along its sides apart.

    Parameters
    ----------
    adata
        Spots with coordinates.
    rings
        Number of steps: 1 gives an inner spot 4 neighbours, 2 gives 12.
    section_key, spatial_key, key_added, copy
        Where to read and write: see :mod:`stgnn.pp`.

    Returns
    -------
    tuple of scipy.sparse.csr_matrix or None
        As :func:`knn_graph`, with the same keys written.

    Raises
    ------
    CoordinatesError, OptionError
        As :func:`knn_graph`; ``rings`` must be above 0.

    Examples
    --------
    >>> import anndata, numpy as np, stgnn.pp
    >>> adata = anndata.AnnData(np.ones((3, 1)), obsm={"spatial": np.array([[0.0, 0], [1, 0], [2, 0]])})
    >>> stgnn.pp.square_grid_graph(adata)
    >>> adata.obsp["spatial_connectivities"].nnz
    4
    """
    from stgnn.graph.build import square_grid

    _check_count("rings", rings)
    graph = square_grid(*_places(adata, spatial_key, section_key), rings)
    return _write(adata, graph, "square_grid", {"n_rings": int(rings)}, section_key, key_added, copy)


def hexagonal_grid_graph(
    adata: AnnData,
    rings: int = 1,
    *,
    section_key: str | None = None,
    spatial_key: str = SPATIAL_KEY,
    key_added: str = "spatial",
    copy: bool = False,
) -> Matrices | None:
    """Link the spots of a hexagonal grid, such as Visium's, up to some steps apart.

    Parameters
    ----------
    adata
        Spots with coordinates.
    rings
        Number of steps: 1 gives an inner spot 6 neighbours, 2 gives 18.
    section_key, spatial_key, key_added, copy
        Where to read and write: see :mod:`stgnn.pp`.

    Returns
    -------
    tuple of scipy.sparse.csr_matrix or None
        As :func:`knn_graph`, with the same keys written.

    Raises
    ------
    CoordinatesError, OptionError
        As :func:`knn_graph`; ``rings`` must be above 0.

    Examples
    --------
    >>> import anndata, numpy as np, stgnn.pp
    >>> adata = anndata.AnnData(np.ones((3, 1)), obsm={"spatial": np.array([[0.0, 0], [2, 0], [1, 1.7]])})
    >>> stgnn.pp.hexagonal_grid_graph(adata)
    >>> adata.obsp["spatial_connectivities"].nnz
    6
    """
    from stgnn.graph.build import hexagonal_grid

    _check_count("rings", rings)
    graph = hexagonal_grid(*_places(adata, spatial_key, section_key), rings)
    return _write(adata, graph, "hexagonal_grid", {"n_rings": int(rings)}, section_key, key_added, copy)


def _check_above_zero(argument: str, value: float) -> None:
    if not value > 0:
        raise OptionError(argument, expected="a number above 0", found=repr(value))


def _check_count(argument: str, value: int) -> None:
    if not isinstance(value, Integral) or value < 1:
        raise OptionError(argument, expected="a whole number above 0", found=repr(value))


def _places(adata: AnnData, spatial_key: str, section_key: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (cells, 2 or 3) in their own unit, and the section code of each cell."""
    from stgnn.data.columns import read_coords, read_sections

    coords, notes = read_coords(adata, spatial_key, None, "adata")
    if coords is None:
        raise CoordinatesError("spatial_key", expected="coordinates, which a spatial graph needs", found=notes[0])
    return coords, read_sections(adata, section_key, "adata")[0]


def _write(
    adata: AnnData,
    graph: Graph,
    method: str,
    parameters: dict[str, int | float],
    section_key: str | None,
    key_added: str,
    copy: bool,
) -> Matrices | None:
    distances = graph.to_scipy()
    connectivities = distances.copy()
    connectivities.data[:] = 1.0
    if copy:
        return connectivities, distances
    names = {
        "connectivities_key": f"{key_added}_connectivities",
        "distances_key": f"{key_added}_distances",
    }
    adata.obsp[names["connectivities_key"]] = connectivities
    adata.obsp[names["distances_key"]] = distances
    coord_type = "grid" if method.endswith("_grid") else "generic"
    sections = {} if section_key is None else {"section_key": section_key}
    adata.uns[f"{key_added}_neighbors"] = {
        **names,
        "params": {"method": method, "coord_type": coord_type, **parameters, **sections},
    }
    return None
