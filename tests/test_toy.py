from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from stgnn.data.schema import OptionError
from stgnn.data.toy import toy


def same_type_share(adata) -> float:
    """Share of nearest neighbours in the same section that have the cell's own type."""
    shares = []
    for section in adata.obs["section"].unique():
        part = adata[adata.obs["section"] == section]
        _, neighbour = cKDTree(part.obsm["spatial"]).query(part.obsm["spatial"], k=2)
        types = part.obs["cell_type"].to_numpy()
        shares.append(np.mean(types == types[neighbour[:, 1]]))
    return float(np.mean(shares))


def test_equal_seeds_give_equal_tissue_and_others_do_not():
    first, second, other = toy(random_state=3), toy(random_state=3), toy(random_state=4)
    for a, b, c in zip(first, second, other):
        assert (a.X != b.X).nnz == 0
        assert a.obs.equals(b.obs)
        assert (a.X != c.X).nnz > 0


def test_counts_are_raw_and_overdispersed():
    reference, _ = toy(n_cells=3000, n_types=2)
    counts = reference.X.toarray()
    assert (counts == np.rint(counts)).all()
    assert (counts >= 0).all()
    one_type = counts[(reference.obs["cell_type"] == "type 1").to_numpy()]
    loud = one_type.mean(axis=0) > 1
    assert (one_type.var(axis=0)[loud] > 1.3 * one_type.mean(axis=0)[loud]).all()


def test_neighbours_share_types_as_homophily_says():
    apart, together = (toy(n_cells=3000, n_types=5, homophily=h)[1] for h in (0.0, 1.0))
    assert abs(same_type_share(apart) - 1 / 5) < 0.03  # every cell has any of five types
    assert same_type_share(together) > 0.9


def test_every_type_and_section_is_there():
    reference, query = toy(n_cells=1000, n_types=6, n_sections=3)
    assert reference.obs["cell_type"].nunique() == query.obs["cell_type"].nunique() == 6
    assert query.obs["section"].nunique() == 3
    assert list(reference.var_names) == list(query.var_names)


def test_density_is_that_of_tissue_in_micrometres():
    _, query = toy(n_cells=4000, n_sections=1)
    distance, _ = cKDTree(query.obsm["spatial"]).query(query.obsm["spatial"], k=2)
    # the mean distance to the nearest of points at random is 1 / (2 sqrt(density))
    assert np.mean(distance[:, 1]) == pytest.approx(15 / 2, rel=0.05)


def test_the_platform_scales_genes_and_types_can_still_be_told():
    reference, query = toy(n_cells=2000)
    profile = np.array([reference.X[(reference.obs["cell_type"] == t).to_numpy()].mean(axis=0).A1 for t in TYPES])
    seen = np.array([query.X[(query.obs["cell_type"] == t).to_numpy()].mean(axis=0).A1 for t in TYPES])
    factor = (seen.sum(axis=0) + 0.01) / (profile.sum(axis=0) + 0.01)
    assert np.std(np.log(factor)) > 0.3
    log_lik = query.X @ np.log(profile * factor + 1e-3).T - (profile * factor).sum(axis=1)
    assert np.mean(np.array(TYPES)[log_lik.argmax(axis=1)] == query.obs["cell_type"].to_numpy()) > 0.8


TYPES = [f"type {number}" for number in range(1, 6)]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("n_cells", 3),
        ("n_genes", 1),
        ("n_types", 1),
        ("n_sections", 0),
        ("homophily", 1.5),
        ("homophily", float("nan")),
    ],
)
def test_options_out_of_range_are_named(argument, value):
    with pytest.raises(OptionError, match=rf"^{argument}: expected .+; found {value}$"):
        toy(**{argument: value})
