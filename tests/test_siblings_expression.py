"""Siblings that see expression alone: each against an oracle or a law of its paper."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from scipy.optimize import linprog
from scipy.special import softmax
from scipy.stats import nbinom

from stgnn import experts
from stgnn.data.cells import Cells, align, read_query, read_reference
from stgnn.data.toy import toy
from stgnn.methods import scbignn
from stgnn.methods.profiles import Profiles
from stgnn.methods.scbignn import CellLevel, ScBiGnn, cosine_knn, m_step_weights
from stgnn.methods.transformer import Transformer
from stgnn.methods.transport import Transport, bhattacharyya, remainder, rescaled, schedule, split_types, transport
from stgnn.nn import gene_tokens
from stgnn.nn.gene_tokens import GeneTokens, SelfAttention, states, telling_genes


@pytest.fixture(scope="module")
def tissue() -> tuple[Cells, Cells]:
    reference, query = toy(n_cells=300, random_state=2)
    return align(read_reference(reference), read_query(query, section_key="section"))


@pytest.fixture(scope="module")
def small() -> tuple[Cells, Cells]:
    reference, query = toy(n_cells=200, n_genes=30, random_state=2)
    return align(read_reference(reference), read_query(query, section_key="section"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# profiles


def test_profile_scores_are_the_negative_binomial_up_to_a_constant_of_the_cell(rng):
    counts = rng.poisson(3.0, (20, 12)).astype(np.float32)
    rates = rng.dirichlet(np.ones(12), 4)
    mean = counts.sum(1)[:, None, None] * rates
    for dispersion in (0.5, 2.0, 10.0):
        want = nbinom.logpmf(counts[:, None], dispersion, dispersion / (dispersion + mean)).sum(2)
        found = experts.profile_scores(sp.csr_matrix(counts), rates, dispersion)
        gap = found - want
        np.testing.assert_allclose(gap, np.tile(gap[:, :1], 4), atol=1e-3)


def test_platform_effects_are_recovered():
    rng = np.random.default_rng(1)
    rates = rng.dirichlet(np.full(60, 0.5), 5)
    effects = rng.lognormal(0, 0.6, 60)
    counts = rng.poisson(150 * rates[rng.integers(0, 5, 2000)] * effects).astype(np.float32)
    counts = sp.csr_matrix(counts[counts.sum(1) > 0])
    method = Profiles()
    method.rates_ = rates
    cells = type("Counts", (), {"counts": counts})
    scaled, found = method._rates(cells)
    # shrunken by 0.7, as experts.platform_rates does
    heard = np.asarray(counts.sum(0)).ravel() > 500
    assert np.corrcoef(np.log(found[heard]), np.log(effects[heard]))[0, 1] > 0.9
    np.testing.assert_allclose(scaled.sum(1), 1, atol=1e-6)
    method.platform = False
    plain, none = method._rates(cells)
    assert (none == 1).all()
    wanted = rates * effects / (rates * effects).sum(1, keepdims=True)
    assert np.abs(scaled - wanted).sum() < 0.7 * np.abs(plain - wanted).sum()


def test_profiles_are_as_certain_as_asked(tissue):
    for certainty in (0.6, 0.8):
        proba = Profiles(certainty=certainty).fit(*tissue).predict_proba(tissue[1])
        assert proba.max(1).mean() == pytest.approx(certainty, abs=0.01)


# transport


@pytest.fixture
def problem(rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rng.random((40, 5)), rng.dirichlet(np.full(40, 5.0)), rng.dirichlet(np.full(5, 5.0))


@pytest.mark.parametrize("epsilon", [1e-3, 0.05, 1.0])
@pytest.mark.parametrize("lamb", [None, 1e3, 0.1, 0.0])
def test_cells_give_all_they_have(problem, epsilon, lamb):
    share = transport(*problem, epsilon, lamb)
    np.testing.assert_allclose(share.sum(1), 1, atol=1e-12)
    assert (share >= 0).all()


def test_a_heavy_weight_balances_and_none_is_a_softmax_of_the_prior(problem):
    cost, mass, prior = problem
    for lamb, closeness in ((None, 1e-6), (1e3, 1e-3)):
        np.testing.assert_allclose(mass @ transport(cost, mass, prior, 0.05, lamb), prior, atol=closeness)
    want = softmax(np.log(prior) - cost / 0.05, axis=1)
    np.testing.assert_allclose(transport(cost, mass, prior, 0.05, 0.0), want, atol=1e-12)
    between = mass @ transport(cost, mass, prior, 0.05, 0.1)
    assert 0 < np.abs(between - prior).sum() < np.abs(mass @ want - prior).sum()


def test_the_plan_is_optimal(problem):
    cost, mass, prior = problem
    epsilon, lamb = 0.05, 0.1

    def objective(share: np.ndarray) -> float:
        plan = mass[:, None] * share
        got = plan.sum(0)
        entropy = (plan * np.log(share / prior)).sum()
        return (plan * cost).sum() + epsilon * entropy + lamb * (got * np.log(got / prior)).sum()

    share = transport(cost, mass, prior, epsilon, lamb, tolerance=1e-10)
    rng = np.random.default_rng(3)
    for size in (1e-3, 1e-2, 0.1):
        other = share * np.exp(size * rng.normal(size=share.shape))
        assert objective(other / other.sum(1, keepdims=True)) > objective(share)


def test_without_entropy_it_is_the_linear_programme(rng):
    cost, mass, prior = rng.random((6, 4)), rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(4))
    rows, columns = np.kron(np.eye(6), np.ones(4)), np.tile(np.eye(4), 6)
    best = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([mass, prior]))
    share = transport(cost, mass, prior, 5e-4, None, tolerance=1e-9, most=50_000)
    assert (mass[:, None] * share * cost).sum() == pytest.approx(best.fun, abs=2e-3)
    np.testing.assert_allclose(mass[:, None] * share, best.x.reshape(6, 4), atol=0.02)


def test_bhattacharyya_by_its_formula(rng):
    counts, rates = rng.poisson(2.0, (7, 9)).astype(float), rng.dirichlet(np.ones(9), 3)
    share = counts / counts.sum(1, keepdims=True)
    want = 1 - np.sqrt(share[:, None] * rates).sum(2)
    np.testing.assert_allclose(bhattacharyya(sp.csr_array(counts), rates), want, atol=1e-6)
    np.testing.assert_allclose(bhattacharyya(counts, rates), want, atol=1e-6)
    np.testing.assert_allclose(np.diag(bhattacharyya(rates, rates)), 0, atol=1e-9)


def test_bisection_takes_off_what_it_assigned(rng):
    for bisections, divisor in ((0, 3), (1, 2), (3, 2), (4, 3)):
        assert sum(schedule(bisections, divisor)) == pytest.approx(1)
    rates = rng.dirichlet(np.ones(8), 2)
    mixed = 60 * rates[:1] + 40 * rates[1:]
    left = remainder(mixed, np.array([[50.0, 0.0]]), rates, np.array([50.0]))
    np.testing.assert_allclose(left, 10 * rates[:1] + 40 * rates[1:], atol=1e-9)
    nothing = remainder(60 * rates[:1], np.array([[60.0, 0.0]]), rates, np.array([30.0]))
    np.testing.assert_allclose(nothing, 30 * rates[:1])


def test_rescaled_rates_have_the_querys_mean(tissue):
    method = Transport().fit(*tissue)
    rates, size = rescaled(method.rates_, method.prior_, tissue[1])
    np.testing.assert_allclose(rates.sum(1), 1)
    mean = (method.prior_ * size) @ rates
    want = np.asarray(tissue[1].counts.sum(0)).ravel()
    np.testing.assert_allclose(mean / mean.sum(), want / want.sum(), atol=1e-6)


def test_centres_split_types(tissue):
    centre, kind = split_types(tissue[0].counts, tissue[0].labels, 3, 0)
    np.testing.assert_array_equal(kind[centre], tissue[0].labels)
    assert np.bincount(kind).tolist() == [3] * 5
    alone, kinds = split_types(tissue[0].counts, tissue[0].labels, 1, 0)
    np.testing.assert_array_equal(kinds[alone], tissue[0].labels)
    model = Transport(centres=3, platform=2).fit(*tissue)
    np.testing.assert_allclose(model.predict_proba(tissue[1]).sum(1), 1)


# transformer


def network(n_genes: int = 12) -> GeneTokens:
    torch.manual_seed(0)
    return GeneTokens(n_genes, 16, 2, 2, 0.1).eval()


def test_attention_is_that_of_the_formula():
    torch.manual_seed(0)
    block, tokens = SelfAttention(16, 2, 0.1).eval(), torch.randn(3, 7, 16)
    query, key, value = (part.unflatten(2, (2, 8)) for part in block.qkv(block.norm(tokens)).chunk(3, dim=2))
    weight = (torch.einsum("nghd,nkhd->nhgk", query, key) / 8**0.5).softmax(-1)
    after = tokens + block.out(torch.einsum("nhgk,nkhd->nghd", weight, value).flatten(2))
    torch.testing.assert_close(block(tokens), after + block.feed(after), atol=1e-5, rtol=1e-5)
    heard = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value)))
    torch.testing.assert_close(torch.einsum("nhgk,nkhd->nhgd", weight, value), heard, atol=1e-5, rtol=1e-5)


def test_the_order_of_genes_does_not_matter():
    plain, turned, order = network(), network(), torch.randperm(12)
    turned.embedding.data, turned.place.data = plain.embedding.data[order], plain.place.data[order]
    x = torch.randn(5, 12)
    torch.testing.assert_close(turned(x[:, order]), plain(x), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain(x[:, order]), plain(x), atol=1e-2)


def test_every_gene_reaches_the_state_and_every_parameter_learns():
    model, x = network(), torch.randn(5, 12, requires_grad=True)
    model(x).pow(2).sum().backward()
    assert (x.grad.abs() > 0).all()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_states_in_pieces_are_states_at_once(monkeypatch):
    model, x = network(), np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32)
    whole = states(model.train(), x, torch.device("cpu"))
    monkeypatch.setattr(gene_tokens, "CELLS_AT_ONCE", 7)
    np.testing.assert_allclose(states(model, x, torch.device("cpu")), whole, atol=1e-5)


def test_the_genes_that_tell_types_apart_are_seen(rng):
    labels = np.repeat([0, 1, 2], 30)
    values = rng.normal(size=(90, 40))
    values[:, [3, 17, 30]] += 4 * np.eye(3)[labels]
    assert telling_genes(values, labels, 3).tolist() == [3, 17, 30]
    assert telling_genes(values, labels, 99).tolist() == list(range(40))


def test_the_transformer_learns_its_reference(small):
    model = Transformer(steps=100, dropout=0.0).fit(*small)
    proba = model.predict_proba(small[0])
    assert (proba.argmax(1) == small[0].labels).mean() > 0.95


# scBiGNN


def test_mean_convolution_is_the_dense_formula():
    torch.manual_seed(0)
    level, h = CellLevel(6, 3).eval(), torch.randn(20, 6)
    near = torch.as_tensor(cosine_knn(h.numpy(), h.numpy(), 4, np.arange(20)))
    share = (torch.eye(20) + F.one_hot(near, 20).sum(1)) / 5
    hidden = F.relu(share @ level.norm(h) @ level.inner.weight.T + level.inner.bias)
    want = share @ hidden @ level.outer.weight.T + level.outer.bias
    torch.testing.assert_close(level(h, near), want, atol=1e-5, rtol=1e-5)


def test_cosine_neighbours_by_brute_force(rng, monkeypatch):
    h = rng.normal(size=(30, 5))
    monkeypatch.setattr(scbignn, "ROWS_AT_ONCE", 7)
    cosine = h @ h.T / np.outer(np.linalg.norm(h, axis=1), np.linalg.norm(h, axis=1))
    np.fill_diagonal(cosine, -np.inf)
    np.testing.assert_array_equal(cosine_knn(h, h, 4, np.arange(30)), np.argsort(-cosine, axis=1)[:, :4])
    among = cosine_knn(h[:10], h[10:], 4, np.full(10, -1))
    np.testing.assert_array_equal(among, np.argsort(-cosine[:10, 10:], axis=1)[:, :4])


def test_the_m_step_shares_its_weight(rng):
    kind, q = rng.integers(0, 3, 40), softmax(3 * rng.normal(size=(60, 3)), axis=1)
    for beta in (0.0, 0.5, 0.9):
        weight = m_step_weights(kind, q, beta)
        assert weight[:40].sum() == pytest.approx(1 - beta, abs=1e-5)
        assert weight[40:].sum() == pytest.approx(beta, abs=1e-5)
    np.testing.assert_array_equal(weight[40:] > 0, experts.confident(q))


def test_each_level_learns_from_the_other(small, monkeypatch):
    taught, graphs = [], []
    learn, link, fit_cell = ScBiGnn._fit_gene, scbignn.cosine_knn, ScBiGnn._fit_cell

    def fit_gene(self, known, labels, asked, belief, title, steps):
        taught.append((title, belief))
        learn(self, known, labels, asked, belief, title, steps)

    def cell(self, h, near, kind, q, title):
        np.testing.assert_allclose(q, softmax(self._logits(h[len(kind) :]), axis=1))
        p = fit_cell(self, h, near, kind, q, title)
        taught.append((title, p))
        return p

    def knn(h, nodes, k, itself):
        graphs.append(link(h, nodes, k, itself))
        return graphs[-1]

    monkeypatch.setattr(ScBiGnn, "_fit_gene", fit_gene)
    monkeypatch.setattr(ScBiGnn, "_fit_cell", cell)
    monkeypatch.setattr(scbignn, "cosine_knn", knn)
    model = ScBiGnn(rounds=3, steps=12).fit(*small)
    steps = ["q on labels", "M-step 1", "E-step 1", "M-step 2", "E-step 2", "M-step 3"]
    assert [title for title, _ in taught] == steps
    assert not len(taught[0][1])
    for m_step, e_step in ((1, 2), (3, 4)):
        posterior, belief = taught[m_step][1], taught[e_step][1]
        np.testing.assert_array_equal(belief, posterior[experts.confident(posterior)])
    assert len(graphs) == 3
    assert (graphs[0] != graphs[1]).any()
    assert (graphs[1] != graphs[2]).any()
    agreement = [record["agreement"] for record in model.curve_ if "agreement" in record]
    assert agreement[-1] > agreement[0]


def test_cells_that_are_no_nodes_hear_nodes(small, monkeypatch):
    monkeypatch.setattr(scbignn, "MOST_NODES", 90)
    model = ScBiGnn(rounds=1, steps=9).fit(*small)
    assert model.known_.shape == (90, 32)
    proba = model.predict_proba(small[1])
    assert proba.shape == (200, 5)
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-6)
