"""The graph methods beside ours are their papers' algorithms: parity with an oracle, or a law that must hold."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stgnn import siblings
from stgnn.data.cells import Cells, align, read_query, read_reference
from stgnn.data.toy import toy
from stgnn.graph.build import spatial_knn
from stgnn.graph.graph import Graph
from stgnn.methods import annotator, spagcn, spatial_id, stagate, stellar
from stgnn.siblings import Piece
from test_small_inputs import CASES, answers, gate

METHODS = ["gcn", "stagate", "spagcn", "spatial-id", "stellar"]
N, FEATURES = 40, 7


@pytest.fixture
def graph() -> Graph:
    coords = np.random.default_rng(0).random((N, 2))
    return siblings.undirected(spatial_knn(coords, np.arange(N) % 2, 4))


@pytest.fixture
def edges(graph) -> Tensor:
    """Edges as the oracle wants them: senders, then listeners."""
    return torch.from_numpy(np.stack([graph.indices, np.repeat(np.arange(N), graph.degree)]))


@pytest.fixture
def cells() -> tuple[Cells, Cells]:
    pair = toy(n_cells=240, n_genes=40, random_state=2)
    return align(read_reference(pair[0]), read_query(pair[1], section_key="section"))


def piece(matrix) -> Piece:
    """All cells as one piece, in their order."""
    features = torch.from_numpy(np.random.default_rng(1).normal(size=(N, FEATURES)).astype(np.float32))
    rows = (torch.from_numpy(np.asarray(x)) for x in (matrix.indptr[:-1], matrix.indices, matrix.data))
    starts, heard, weight = rows
    return Piece(np.arange(N), features, starts.long(), heard.long(), weight)


# the graphs and tiles that all share


def test_tiles_give_the_core_what_the_whole_graph_gives(cells):
    query = cells[1]
    values = np.random.default_rng(0).normal(size=(len(query), 3)).astype(np.float32)
    graph, kind = siblings.cell_graph(query, values, 6)
    matrix = siblings.symmetric_weights(graph)
    cut = siblings.pieces(query, values, graph, matrix, hops=2, cells_per_tile=50)
    (twice,) = siblings.judge(cut, lambda part: (part.gather(part.gather(part.features)),), torch.device("cpu"))
    assert kind == "spatial"
    assert len(cut) > 2
    np.testing.assert_allclose(twice, matrix @ (matrix @ values), atol=1e-5)


@pytest.mark.parametrize("spatial", [True, False])
def test_no_edge_crosses_from_section_to_section(cells, spatial):
    query = cells[1] if spatial else replace(cells[1], coords=None)
    values = np.random.default_rng(0).normal(size=(len(query), 3)).astype(np.float32)
    graph, kind = siblings.cell_graph(query, values, 6)
    listener = np.repeat(np.arange(graph.n), graph.degree)
    assert kind == ("spatial" if spatial else "expression")
    assert (query.section[listener] == query.section[graph.indices]).all()
    pairs = set(zip(listener.tolist(), graph.indices.tolist(), strict=True))
    assert pairs == {(j, i) for i, j in pairs}


def test_expression_neighbours_are_the_nearest():
    values = np.random.default_rng(0).normal(size=(30, 4))
    distance = np.linalg.norm(values[:, None] - values, axis=2) + 1e9 * np.eye(30)
    graph = siblings.expression_knn(values, np.zeros(30, dtype=int), 5)
    np.testing.assert_array_equal(graph.indices.reshape(30, 5), np.argsort(distance, axis=1)[:, :5])


def test_components_without_whitening_keep_distances(cells):
    whole = siblings.Scaling.of(*cells, 0)
    few = siblings.Scaling.of(*cells, 0, most_genes=0, whiten=False)
    values, parts = whole.see(cells[1]), few.see(cells[1])
    ratio = np.linalg.norm(parts[1:] - parts[:-1], axis=1) / np.linalg.norm(values[1:] - values[:-1], axis=1)
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-4)  # 40 genes make 40 components, a mere rotation


# GCN


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # PyG's, on import
def test_graph_convolution_is_that_of_pyg(graph, edges):
    from torch_geometric.nn import GCNConv

    own, oracle = siblings.GraphConvolution(FEATURES, 5), GCNConv(FEATURES, 5)
    torch.nn.init.normal_(own.bias)
    oracle.lin.weight.data, oracle.bias.data = own.linear.weight.data, own.bias.data
    part = piece(siblings.symmetric_weights(graph))
    torch.testing.assert_close(own(part.features, part), oracle(part.features, edges))


def test_gcn_on_expression_where_space_is_off(cells):
    query = cells[1]
    model = annotator("gcn")(steps=2, space=False).fit(*cells)
    bare = replace(query, coords=None)
    assert model.predict(query).details["graph"] == "expression in the query, expression in the reference"
    np.testing.assert_allclose(model.predict_proba(query), model.predict_proba(bare), atol=1e-5)


@pytest.mark.parametrize("name", ["gcn", "stagate", "stellar"])
def test_both_sides_are_linked_alike(name, cells):
    bare = replace(cells[0], coords=None)
    details = annotator(name)(steps=2).fit(bare, cells[1]).predict(cells[1]).details
    assert details["graph"] == "expression in the query, expression in the reference"


# STAGATE


@pytest.fixture
def autoencoder() -> stagate.Network:
    torch.manual_seed(0)
    return stagate.Network(FEATURES, 12, 3).double()


@pytest.fixture
def looped(graph) -> Piece:
    part = piece(siblings.adjacency(graph, loops=True))
    return replace(part, features=part.features.double(), weight=part.weight.double())


def dense_attention(network: stagate.Network, part: Piece) -> Tensor:
    """Softmax over the neighbours and oneself of sigmoid(v_s W1 x_i + v_r W1 x_j)."""
    h = part.features @ network.first.T
    score = torch.sigmoid((h @ network.own[0])[:, None] + (h @ network.other[0])[None])
    there = torch.zeros(N, N, dtype=torch.bool)
    there[part.listener, part.heard] = True
    return score.masked_fill(~there, -torch.inf).softmax(1)


def test_stagate_attention_is_its_equation(autoencoder, looped):
    dense = dense_attention(autoencoder, looped)
    assert (dense.diagonal() > 0).all()
    torch.testing.assert_close(autoencoder.attention(looped), dense[looped.listener, looped.heard])


def test_stagate_layers_are_their_equations(autoencoder, looped):
    dense, w1, w2 = dense_attention(autoencoder, looped), autoencoder.first, autoencoder.second
    z, rebuilt = autoencoder(looped)
    expected = F.elu(dense @ (looped.features @ w1.T)) @ w2.T
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(rebuilt, F.elu(dense @ (expected @ w2)) @ w1)


def test_stagate_decoder_teaches_the_encoder(autoencoder, looped):
    """The gradient of a tied weight is the sum of those of its two uses, neither of them zero."""
    weight = autoencoder.attention(looped).detach()
    loss = (autoencoder.decode(autoencoder.encode(looped, weight), looped, weight) - looped.features).square().sum()
    whole = torch.autograd.grad(loss, autoencoder.first)[0]
    up, down = autoencoder.first.detach().clone(), autoencoder.first.detach().clone()
    up.requires_grad_(), down.requires_grad_()
    second = autoencoder.second.detach()
    z = F.elu(looped.gather(looped.features, weight) @ up.T) @ second.T
    hidden = F.elu(looped.gather(z, weight) @ second)
    untied = (hidden @ down - looped.features).square().sum()
    of_encoder, of_decoder = torch.autograd.grad(untied, (up, down))
    torch.testing.assert_close(of_decoder, (2 * hidden.T @ (hidden @ down - looped.features)).detach())
    torch.testing.assert_close(whole, of_encoder + of_decoder)
    assert of_encoder.abs().max() > 1e-3
    assert of_decoder.abs().max() > 1e-3


def test_stagate_learns_to_reconstruct(cells):
    curve = annotator("stagate")(steps=60, width=64).fit(*cells).curve_
    assert curve[-1]["loss"] < 0.8 * curve[0]["loss"]


# SpaGCN


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_spagcn_neighbours_weigh_what_is_asked(share):
    rng = np.random.default_rng(0)
    section = np.repeat([0, 1], [300, 200])
    coords = rng.random((500, 2)) * np.where(section == 0, 1.0, 50.0)[:, None]
    matrix = spagcn.kernel(coords, section, share)
    np.testing.assert_allclose(matrix.diagonal(), 1)
    off = matrix.sum(axis=1) - 1
    np.testing.assert_allclose([off[section == code].mean() for code in (0, 1)], share, rtol=1e-4)
    assert matrix[:300, 300:].nnz == matrix[300:, :300].nnz == 0


def test_spagcn_sparse_kernel_is_the_dense_one_but_for_its_tail():
    coords = np.random.default_rng(0).random((400, 2))
    section = np.zeros(400, dtype=int)
    squared = ((coords[:, None] - coords) ** 2).sum(2)
    low, high = 1e-4, 1.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        mean = np.exp(-squared / (2 * middle**2)).sum(1).mean() - 1
        low, high = (middle, high) if mean < 0.5 else (low, middle)
    sparse = spagcn.kernel(coords, section, 0.5)
    np.testing.assert_allclose(
        sparse.toarray(), np.exp(-squared / (2 * low**2)), atol=math.exp(-(spagcn.TAIL**2) / 2) * 2
    )
    assert sparse.nnz < 8 * 400


def test_spagcn_clusters_and_target_are_their_formulas():
    rng = np.random.default_rng(0)
    z, centroids = rng.normal(size=(9, 3)), rng.normal(size=(4, 3))
    near = (1 + ((z[:, None] - centroids) ** 2).sum(2) / 0.2) ** (-(0.2 + 1) / 2)
    q = near / near.sum(1, keepdims=True)
    found = spagcn.student(torch.from_numpy(z), torch.from_numpy(centroids))
    np.testing.assert_allclose(found.numpy(), q, rtol=1e-4)
    p = np.empty_like(q)
    for n in range(9):
        share = [q[n, k] ** 2 / sum(q[m, k] for m in range(9)) for k in range(4)]
        p[n] = np.array(share) / sum(share)
    np.testing.assert_allclose(spagcn.target(found).numpy(), p, rtol=1e-4)
    expected = np.mean([(p[n] * np.log(p[n] / q[n])).sum() for n in range(9)])
    found_loss = spagcn.divergence(torch.from_numpy(p), torch.from_numpy(q))
    np.testing.assert_allclose(float(found_loss), expected, rtol=1e-5)
    assert spagcn.divergence(found, found) == 0


def test_spagcn_refinement_needs_more_than_half():
    """The middle of a star takes its neighbours' type only where more than half of them agree on another."""

    def middle(neighbours: list[int]) -> int:
        kinds = np.array([0, *neighbours])
        count = len(neighbours)
        ends = np.zeros(count, dtype=int), np.arange(1, count + 1)
        proba, changed = spagcn.refine(0.1 + 0.7 * np.eye(3)[kinds], Graph.from_edges(count + 1, *ends, np.ones(count)))
        np.testing.assert_allclose(proba.sum(1), 1)
        assert not changed[1:].any()
        assert bool(changed[0]) == bool(proba[0].argmax() != 0)
        return int(proba[0].argmax())

    assert middle([1, 1, 1, 0]) == 1
    assert middle([1, 1, 0, 0]) == 0  # a half is not more than half
    assert middle([1, 1, 2, 2]) == 0
    assert middle([2, 2, 1]) == 2
    assert middle([0, 0, 0]) == 0


def test_spagcn_shares_count_the_reference_cells_of_a_cluster():
    soft = np.array([[0.8, 0.1, 0.1], [0.9, 0.05, 0.05], [0.2, 0.7, 0.1]])
    shares = spagcn.type_shares(soft, np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(shares[0], [(2 + 1.7 / 1.9) / 3, (0.2 / 1.9) / 3], rtol=1e-6)
    np.testing.assert_allclose(shares[2], [0.15 / 0.25, 0.1 / 0.25], rtol=1e-6)  # empty: what lies near it


def test_spagcn_histology_weighs_colours_by_their_variance():
    rng = np.random.default_rng(0)
    colour, coords = rng.random((50, 3)) * [1, 10, 3], rng.random((50, 2)) * [4, 2]
    value = spagcn.histology(colour, coords, 1.5)
    expected = (colour * colour.var(0)).sum(1) / colour.var(0).sum()
    np.testing.assert_allclose(np.corrcoef(value, expected)[0, 1], 1)
    np.testing.assert_allclose(value.std(), 1.5 * coords.std(0).max())
    assert not spagcn.histology(np.ones((5, 3)), coords[:5], 1.0).any()


# Spatial-ID


def test_spatial_id_divergence_is_that_of_two_normals():
    mean, log_deviation = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)).double()
    one = torch.distributions.Normal(mean, log_deviation.exp())
    two = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    expected = torch.distributions.kl_divergence(one, two).sum(1).mean()
    torch.testing.assert_close(spatial_id.divergence(mean, log_deviation), expected)


def test_spatial_id_reconstructs_edges_by_inner_products(edges, monkeypatch):
    z = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
    loops = torch.arange(N).repeat(2, 1)
    listener, heard = torch.cat([edges, loops], dim=1)
    drawn = torch.randint(N, (2, edges.shape[1]), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(torch, "randint", lambda *_, **__: drawn)
    proba = torch.sigmoid(z @ z.T)
    expected = -proba[edges[0], edges[1]].log().mean() - (1 - proba[drawn[0], drawn[1]]).log().mean()
    torch.testing.assert_close(spatial_id.graph_loss(z, listener, heard), expected)


def test_spatial_id_softens_the_teacher():
    logits = np.random.default_rng(0).normal(size=(5, 4)) * 3
    for temperature in (1.0, 4.0):
        expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum(1, keepdims=True)
        np.testing.assert_allclose(spatial_id.soft_labels(logits, temperature), expected)
    assert spatial_id.soft_labels(logits, 4.0).max() < spatial_id.soft_labels(logits, 1.0).max()


@pytest.mark.parametrize("without", ["fit", "predict", "both"])
def test_spatial_id_teacher_answers_alone_without_coordinates(cells, without):
    reference, query = cells
    bare = replace(query, coords=None)
    first, second = {"fit": (bare, query), "predict": (query, bare), "both": (bare, bare)}[without]
    model = annotator("spatial-id")(steps=5).fit(reference, first)
    prediction = model.predict(second)
    assert prediction.details["space"].startswith("off: the teacher answers alone")
    scores = model._ask(model.scaling_.see(second))
    np.testing.assert_allclose(prediction.proba, spatial_id.soft_labels(scores, 1.0), rtol=1e-5)
    assert (model.network_ is None) == (without != "predict")


# STELLAR


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # PyG's, on import
def test_stellar_convolution_is_that_of_pyg(graph, edges):
    from torch_geometric.nn import SAGEConv

    own, oracle = stellar.SageConvolution(FEATURES, 5), SAGEConv(FEATURES, 5)
    oracle.lin_l.weight.data, oracle.lin_l.bias.data = own.near.weight.data, own.near.bias.data
    oracle.lin_r.weight.data = own.own.weight.data
    part = piece(siblings.mean_weights(graph))
    torch.testing.assert_close(own(part.features, part), oracle(part.features, edges))


def test_stellar_logits_are_cosines():
    head = stellar.CosineHead(5, 3)
    h = torch.randn(20, 5) * 100
    logits = head(h)
    assert logits.abs().max() <= stellar.SCALE + 1e-4
    torch.testing.assert_close(logits, 10 * F.cosine_similarity(h[:, None], head.weight[None], dim=2))
    torch.testing.assert_close(head(7 * h), logits)
    torch.testing.assert_close(head(head.weight).diagonal(), torch.full((3,), 10.0))


def test_stellar_margin_is_its_closed_form():
    cosine, labels = torch.rand(6, 4, dtype=torch.float64) * 2 - 1, torch.tensor([0, 1, 2, 3, 0, 1])
    total = 0.0
    for row, label in zip(cosine, labels, strict=True):
        up = math.exp(10 * (row[label] + 0.4))
        total -= math.log(up / (up + sum(math.exp(10 * row[c]) for c in range(4) if c != label)))
    torch.testing.assert_close(float(stellar.margin_loss(10 * cosine, labels, 0.4)), total / 6)
    plain = F.cross_entropy(10 * cosine, labels)
    torch.testing.assert_close(stellar.margin_loss(10 * cosine, labels, 0.0), plain)
    assert stellar.margin_loss(10 * cosine, labels, 0.4) < plain


def test_stellar_entropy_is_highest_where_all_classes_are_used_alike():
    proba = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
    expected = -sum(p * math.log(p) for p in (0.375, 0.375, 0.25))
    torch.testing.assert_close(float(stellar.entropy_of_mean(proba)), expected)
    torch.testing.assert_close(float(stellar.entropy_of_mean(torch.eye(3))), math.log(3))
    assert stellar.entropy_of_mean(torch.eye(3)[:1]) == 0


def test_stellar_pairs_are_of_one_type_or_the_nearest():
    state = torch.randn(60, 4)
    labels = torch.randint(3, (40,))
    labels[:2] = torch.tensor([3, 0])  # a type of one cell, which is its own partner
    found = stellar.partners(state, labels)
    assert (labels[found[:40]] == labels).all()
    alone = torch.bincount(labels)[labels] == 1
    assert ((found[:40] == torch.arange(40)) == alone).all()
    cosine = F.cosine_similarity(state[:, None], state[None], dim=2).fill_diagonal_(-2)
    assert (found[40:] == cosine.argmax(1)[40:]).all()
    proba = torch.randn(60, 4).softmax(1)
    expected = -np.mean([math.log(float(proba[i] @ proba[j])) for i, j in enumerate(found)])
    torch.testing.assert_close(float(stellar.pair_loss(proba, found)), float(expected))


def test_stellar_new_classes_are_the_least_certain_clusters():
    rng = np.random.default_rng(0)
    kind = np.repeat(np.arange(4), 50)
    values = 20.0 * np.eye(4)[kind] + rng.normal(size=(200, 4))
    proba = np.where(kind[:, None] == 3, 0.5, np.array([0.99, 0.01]))
    found = stellar.new_classes(values, proba, 1, 0)
    assert (found[kind == 3] == 2).all()
    assert (found[kind != 3] == -1).all()
    assert (stellar.new_classes(values, proba, 0, 0) == -1).all()
    assert (stellar.new_classes(values[:39], proba[:39], 1, 0) == -1).all()  # one cluster: not all can be new


def test_stellar_rejects_a_type_that_the_reference_lacks(cells):
    reference, query = toy(n_cells=400, n_types=4, random_state=3)
    truth = query.obs["cell_type"].to_numpy()
    known = reference[reference.obs["cell_type"] != "type 4"].copy()
    sides = align(read_reference(known), read_query(query, section_key="section"))
    rejection = annotator("stellar")(steps=80).fit(*sides).predict(sides[1]).rejection
    strange = rejection[truth[sides[1].rows] == "type 4"]
    assert strange.mean() > rejection.mean() + 0.1


# all of them


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_learns(cells, method):
    model = annotator(method)(steps=1).fit(*cells)
    idle = [name for name, value in model.network_.named_parameters() if value.grad is None or not value.grad.any()]
    assert idle == []


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_small_and_odd_inputs_end_in_probabilities(case):
    reference, query = gate(*case(toy(n_cells=220, n_genes=40, random_state=2)))
    for method in METHODS:
        assert len(answers(annotator(method)(steps=2), reference, query)) == len(query)


@pytest.mark.parametrize("method", METHODS)
def test_coordinates_may_come_and_go(cells, method):
    reference, query = cells
    bare = replace(query, coords=None)
    for first, second in ((bare, query), (query, bare)):
        proba = annotator(method)(steps=2).fit(reference, first).predict_proba(second)
        np.testing.assert_allclose(proba.sum(1), 1, atol=1e-5)
