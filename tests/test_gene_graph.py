"""Gene graphs against numpy's correlation; metacells against their own members."""

import numpy as np
import pytest
import scipy.sparse as sp

from stgnn.graph.build import gene_correlation, metacells


@pytest.mark.parametrize("k", [1, 5, 100])
def test_gene_correlation_against_corrcoef(k, monkeypatch):
    monkeypatch.setattr("stgnn.graph.build._GENES_PER_BLOCK", 7)
    rng = np.random.default_rng(0)
    expression = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 25)) + rng.normal(size=(60, 25))
    expression[:, [3, 11]] = 0.1
    truth = np.corrcoef(np.delete(expression, [3, 11], axis=1), rowvar=False)
    graph = gene_correlation(expression, k)
    kept = np.delete(np.arange(25), [3, 11])
    assert graph.degree[[3, 11]].tolist() == [0, 0]
    assert not np.isin(graph.indices, [3, 11]).any()
    for i, gene in enumerate(kept):
        row = slice(graph.indptr[gene], graph.indptr[gene + 1])
        strongest = np.argsort(-np.abs(np.where(np.arange(23) == i, 0, truth[i])))[: min(k, 22)]
        assert graph.indices[row].tolist() == kept[strongest].tolist()
        np.testing.assert_allclose(graph.weight[row], truth[i, strongest], atol=1e-5)
    assert (graph.weight < 0).any()


def test_gene_correlation_is_invariant_to_scale_and_shift_of_a_gene():
    rng = np.random.default_rng(0)
    expression = rng.normal(size=(40, 12))
    changed = gene_correlation(expression * rng.uniform(0.5, 9, 12) + rng.normal(size=12), k=3)
    still = gene_correlation(expression, k=3)
    np.testing.assert_array_equal(changed.indices, still.indices)
    np.testing.assert_allclose(changed.weight, still.weight, atol=1e-5)


@pytest.mark.parametrize("genes", [0, 1, 2])
def test_gene_correlation_of_few_genes(genes):
    graph = gene_correlation(np.random.default_rng(0).normal(size=(9, genes)), k=4)
    assert graph.degree.tolist() == [genes - 1] * genes


def test_gene_correlation_refuses_nan():
    with pytest.raises(ValueError, match=r"^expression: expected finite"):
        gene_correlation(np.array([[1.0, np.nan], [0.0, 1.0]]), k=1)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_metacells_average_within_labels(kind):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(["b", "a", "rare"], [50, 31, 2]))
    # Each cell is marked by its own column, so that a mean tells exactly who is in it.
    members = np.eye(83)
    means, group_labels = metacells(sp.csr_matrix(members) if kind == "sparse" else members, labels, size=10)
    assert group_labels.tolist() == ["a"] * 3 + ["b"] * 5 + ["rare"]
    np.testing.assert_array_equal((means > 0).sum(axis=0), 1)
    np.testing.assert_allclose(means.sum(axis=1), 1, rtol=1e-6)
    for row, label in zip(means, group_labels):
        assert set(labels[row > 0]) == {label}
        np.testing.assert_allclose(row[row > 0], 1 / (row > 0).sum(), rtol=1e-6)
    assert sorted((means[:3] > 0).sum(axis=1).tolist()) == [10, 10, 11]


def test_metacells_follow_their_seed():
    values, labels = np.random.default_rng(0).random((60, 3)), np.repeat(["a", "b"], 30)
    first, again, other = (metacells(values, labels, 5, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(ValueError, match=r"^labels: expected"):
        metacells(values, labels[1:], 5)
