"""A small simulated tissue whose truth is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stgnn.data.schema import LABELS_KEY, SPATIAL_KEY, OptionError

if TYPE_CHECKING:
    from anndata import AnnData

_PITCH_UM = 15.0  # about one cell diameter, as in dense tissue
_DISPERSION = 2.0


def toy(
    n_cells: int = 600,
    n_genes: int = 60,
    n_types: int = 5,
    n_sections: int = 2,
    homophily: float = 0.8,
    random_state: int = 0,
) -> tuple[AnnData, AnnData]:
    r"""Simulate a dissociated reference and a spatial query of the same tissue.

    .. math:: c_{ij} \sim \mathrm{NegBin}(l_i\, p_{t_i j}\, f_j, \theta = 2)

    with :math:`l` the depth of a cell, :math:`p_t` the profile of its type and :math:`f` the platform's factor of a
    gene (1 in the reference). Most types fill one layer of the tissue each; the others are mixed in everywhere.

    Parameters
    ----------
    n_cells
        Cells in the reference, and in the query.
    n_genes
        Genes, the same in both.
    n_types
        Types; two in five of them are in no layer.
    n_sections
        Sections of the query.
    homophily
        Share of the cells, 0 to 1, that have the type of the layer they lie in; the others have any type.
    random_state
        Seed; equal seeds give equal tissue.

    Returns
    -------
    tuple[anndata.AnnData, anndata.AnnData]
        Reference with ``obs["cell_type"]``; query with ``obs["section"]``, ``obsm["spatial"]`` in micrometres and the
        true types in ``obs["cell_type"]``. ``X`` holds raw counts, float32 CSR.

    Raises
    ------
    OptionError
        If a number is too small, or ``homophily`` is not in 0 to 1.

    Examples
    --------
    >>> reference, query = toy(n_cells=100)
    >>> query.shape, sorted(query.obs.columns)
    ((100, 60), ['cell_type', 'section'])
    """
    _check(n_cells, n_genes, n_types, n_sections, homophily)
    rng = np.random.default_rng(random_state)
    profiles = _profiles(rng, n_types, n_genes)
    factors = rng.lognormal(0.0, 0.5, n_genes)

    reference = _cells(rng, profiles, rng.permutation(np.arange(n_cells) % n_types), "ref")

    section = np.sort(np.arange(n_cells) % n_sections)
    coords = _coords(rng, n_cells, n_sections)
    types = _types(rng, coords, n_types, homophily)
    query = _cells(rng, 0.5 * profiles * factors, types, "cell")
    query.obs["section"] = [f"section {code + 1}" for code in section]
    query.obs["section"] = query.obs["section"].astype("category")
    query.obsm[SPATIAL_KEY] = coords
    return reference, query


def _check(n_cells: int, n_genes: int, n_types: int, n_sections: int, homophily: float) -> None:
    least = {"n_types": (n_types, 2), "n_sections": (n_sections, 1), "n_genes": (n_genes, n_types)}
    least["n_cells"] = (n_cells, max(4 * n_types, 4 * n_sections))
    for argument, (value, smallest) in least.items():
        if value < smallest:
            raise OptionError(argument, expected=f"at least {smallest}", found=str(value))
    if not 0 <= homophily <= 1:
        raise OptionError("homophily", expected="a share, 0 to 1", found=str(homophily))


def _profiles(rng: np.random.Generator, n_types: int, n_genes: int) -> np.ndarray:
    """Mean counts (types, genes) of cells of average depth: a common base and a few marker genes a type."""
    profiles = np.tile(rng.gamma(1.0, 0.5, n_genes), (n_types, 1))
    markers = rng.permutation(n_genes)
    for code in range(n_types):
        own = markers[code::n_types][: max(1, n_genes // (2 * n_types))]
        profiles[code, own] += rng.gamma(4.0, 1.0, len(own))
    return profiles


def _coords(rng: np.random.Generator, n_cells: int, n_sections: int) -> np.ndarray:
    """Places (cells, 2) in micrometres, even in density over a square; all sections lie over one another."""
    side = _PITCH_UM * np.sqrt(n_cells / n_sections)
    return rng.uniform(0.0, side, (n_cells, 2))


def _types(rng: np.random.Generator, coords: np.ndarray, n_types: int, homophily: float) -> np.ndarray:
    """Type codes (cells,): wavy layers from top to bottom, and cells of any type between them."""
    n_layers = max(1, n_types - (2 * n_types) // 5)
    side = coords.max()
    depth = coords[:, 1] / side + 0.05 * np.sin(2 * np.pi * coords[:, 0] / side)
    layer = np.clip((depth * n_layers).astype(int), 0, n_layers - 1)
    mixed = rng.random(len(coords)) >= homophily
    return np.where(mixed, rng.integers(0, n_types, len(coords)), layer)


def _cells(rng: np.random.Generator, profiles: np.ndarray, types: np.ndarray, prefix: str) -> AnnData:
    """Draw negative-binomial counts, and put them into AnnData with the types."""
    import pandas as pd
    import scipy.sparse as sp
    from anndata import AnnData

    depth = rng.lognormal(0.0, 0.4, len(types))
    mean = depth[:, None] * profiles[types]
    counts = rng.poisson(rng.gamma(_DISPERSION, mean / _DISPERSION)).astype(np.float32)
    counts[counts.sum(axis=1) == 0, 0] = 1.0  # a toy without empty cells is easier to reason about
    names = [f"type {code + 1}" for code in range(len(profiles))]
    obs = pd.DataFrame(
        {LABELS_KEY: pd.Categorical.from_codes(types, categories=names)},
        index=[f"{prefix}{row}" for row in range(len(types))],
    )
    var = pd.DataFrame(index=[f"Gene{column}" for column in range(profiles.shape[1])])
    return AnnData(sp.csr_matrix(counts), obs=obs, var=var)
