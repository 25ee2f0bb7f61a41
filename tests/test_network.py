"""The network of SpatialTransformerGNN on a small tissue: what closes, what reaches whom, and what can be left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax

from stgnn import bilevel, teacher
from stgnn.bilevel import Guess
from stgnn.data.cells import Cells, align, read_query, read_reference
from stgnn.data.toy import toy
from stgnn.graph.build import spatial_knn
from stgnn.lesson import Layout, Look, Shape, prepare
from stgnn.methods.spatial_transformer_gnn import SpatialTransformerGNN
from stgnn.network import Network, Parts
from stgnn.nn.tissue import Batch
from stgnn.train import Plan, fit

CPU = torch.device("cpu")
NEIGHBOURS, HOPS = 6, 2
SMALL = SpatialTransformerGNN(
    global_tokens=True,
    contrastive=True,
    augmentation=True,
    members=1,
    rounds=1,
    steps=5,
    layers=HOPS,
    neighbours=NEIGHBOURS,
    device="cpu",
)
"""With all parts."""


@pytest.fixture(scope="module")
def cells() -> tuple[Cells, Cells]:
    reference, query = toy(n_cells=400, random_state=1)
    return align(read_reference(reference), read_query(query, section_key="section"))


@pytest.fixture(scope="module")
def teaching(cells) -> teacher.Teaching:
    return teacher.teach(*cells, selector=True, random_state=0)


@pytest.fixture
def taught(monkeypatch, teaching) -> None:
    """The teacher's word is the same whatever the network lacks, so it is taken once."""
    monkeypatch.setattr(teacher, "teach", lambda *_, **__: teaching)


@pytest.fixture(scope="module")
def fitted(cells, teaching) -> SpatialTransformerGNN:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "teach", lambda *_, **__: teaching)
        return replace(SMALL).fit(*cells)


@pytest.fixture(scope="module")
def network(fitted) -> Network:
    """With every gate wide enough that a wrong message would show."""
    network = fitted.networks_[0].eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for gate in (*network.hear_near, network.hear_far):
            gate.gate.bias.zero_()
        network.context[-1].weight.copy_(0.3 * torch.randn(network.context[-1].weight.shape, generator=generator))
    return network


@pytest.fixture(scope="module")
def seen(fitted, cells) -> np.ndarray:
    """Features of the query's cells (cells, f), which here are also what the gene level sees."""
    features, genes = fitted.shape_.see(Look.of(cells[1]).at(cells[1]))
    assert genes is features
    return features


def layout(**changes: int) -> Layout:
    return replace(Layout(True, NEIGHBOURS, HOPS), **changes)


def judge(network: Network, cells: Cells, seen: np.ndarray, openness: float = 1.0, **changes: int) -> np.ndarray:
    """All that the network says of each cell, side by side."""
    batches = layout(**changes).batches(cells, seen, seen)
    return np.hstack(bilevel.judge(network, batches, openness, CPU))


def fresh(shape: Shape, **changes: object) -> Network:
    """A network as the method makes it, before any training."""
    own = {field.name: getattr(SMALL, field.name) for field in fields(Parts) if hasattr(SMALL, field.name)}
    torch.manual_seed(0)
    return Network(shape, Parts(**{**own, **changes})).eval()


def test_the_fixture_is_worth_testing(fitted, network, cells, seen):
    assert fitted.openness_ > 0
    own, context, _ = bilevel.judge(network, layout().batches(cells[1], seen, seen), 1.0, CPU)
    assert np.abs(own - context).mean() > 0.1


def test_a_closed_gate_gives_the_prediction_without_space(network, cells, seen):
    for batch in layout().batches(cells[1], seen, seen):
        with torch.no_grad():
            own, context, state, _ = network(batch, 0.0)
            alone = network(replace(batch, around=None), 1.0)
            barely = network(batch, 1e-30)
        assert torch.equal(own, context)
        assert all(torch.equal(left, right) for left, right in zip((own, context, state), alone, strict=False))
        # the equations themselves lead there, not only the way around them
        assert all(torch.equal(left, right) for left, right in zip(alone, barely, strict=True))
    plain = Layout(False, NEIGHBOURS, HOPS).batches(cells[1], seen, seen)
    want = np.hstack(bilevel.judge(network, plain, 1.0, CPU))
    np.testing.assert_allclose(judge(network, cells[1], seen, 0.0), want, atol=1e-5)


def test_a_method_that_found_no_use_for_space_does_not_look_at_it(cells, fitted):
    shut = replace(SMALL)
    vars(shut).update({name: value for name, value in vars(fitted).items() if name.endswith("_")}, openness_=0.0)
    rng = np.random.default_rng(0)
    moved = replace(cells[1], coords=rng.permutation(cells[1].coords))
    # experts have an eye for space of their own: they keep their places
    joint = {}
    for name, query in (("here", cells[1]), ("moved", moved)):
        features, genes = shut.shape_.see(Look.of(query).at(query))
        joint[name] = bilevel.judge(shut.networks_[0], shut._layout().batches(query, features, genes), 0.0, CPU)
    for left, right in zip(joint["here"], joint["moved"], strict=True):
        np.testing.assert_array_equal(left, right)
    details = shut.predict(cells[1]).details
    assert not details["space_used"]
    assert details["space"].startswith("off")


def test_no_message_crosses_sections(network, cells, seen):
    query = cells[1]
    other = query.section == 1
    assert 0 < other.sum() < len(query)
    rng = np.random.default_rng(0)
    coords, features = query.coords.copy(), seen.copy()
    coords[other] = rng.permutation(coords[other]) * 3 + 20
    features[other] = rng.normal(size=features[other].shape)
    before = judge(network, query, seen)
    after = judge(network, replace(query, coords=coords), features)
    np.testing.assert_allclose(after[~other], before[~other], rtol=0, atol=1e-6)
    assert np.abs(after[other] - before[other]).max() > 0.1


def test_permuting_cells_permutes_what_the_network_says(network, cells, seen):
    query, order = cells[1], np.random.default_rng(0).permutation(len(cells[1]))
    moved = replace(
        query,
        counts=query.counts[order],
        names=query.names[order],
        coords=query.coords[order],
        section=query.section[order],
    )
    for size in (100, 10_000):
        before = judge(network, query, seen, cells_per_tile=size)
        np.testing.assert_allclose(
            judge(network, moved, seen[order], cells_per_tile=size), before[order], rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("size", [37, 100])
def test_tiles_of_any_size_give_the_same(network, cells, seen, size):
    assert len(layout(cells_per_tile=size).batches(cells[1], seen, seen)) > 2
    assert len(layout(cells_per_tile=10_000).batches(cells[1], seen, seen)) == 1
    np.testing.assert_allclose(
        judge(network, cells[1], seen, cells_per_tile=size),
        judge(network, cells[1], seen, cells_per_tile=10_000),
        rtol=0,
        atol=1e-5,
    )


def test_a_cell_is_heard_as_far_as_there_are_layers(fitted, cells, seen):
    shape, query = fitted.shape_, cells[1]
    near = fresh(shape, global_tokens=False)
    graph = spatial_knn(query.coords, query.section, NEIGHBOURS)
    adjacency = (graph.to_scipy() != 0).astype(int)
    reached = (adjacency @ adjacency + adjacency).toarray() > 0
    for cell in (0, 123, 399):
        features = seen.copy()
        features[cell] = -features[cell] + 1
        change = np.abs(judge(near, query, features) - judge(near, query, seen)).max(1) > 1e-6
        listeners = reached[:, cell].copy()
        listeners[cell] = True
        assert change[cell]
        assert not (change & ~listeners).any()
        assert change[listeners].mean() > 0.9


def test_region_tokens_carry_a_cell_through_its_section(network, cells, seen):
    features = seen.copy()
    features[0] = 5.0
    change = np.abs(judge(network, cells[1], features) - judge(network, cells[1], seen)).max(1) > 0
    assert change[cells[1].section == cells[1].section[0]].mean() > 0.9
    assert not change[cells[1].section != cells[1].section[0]].any()


def step_of(fitted: SpatialTransformerGNN, cells: tuple[Cells, Cells], teaching: teacher.Teaching) -> bilevel._Step:
    _, lesson = prepare(*cells, teaching, layout(), augmentation=False, random_state=0)
    guess = Guess.of(softmax(lesson.teacher, 1))
    network = fresh(fitted.shape_)
    network.load_state_dict(fitted.networks_[0].state_dict())
    return bilevel._Step(network.train(), lesson, guess, guess, True, 1.0, CPU, 0)


def test_every_parameter_receives_a_gradient(fitted, cells, teaching):
    step = step_of(fitted, cells, teaching)
    assert step.parts == 2
    for part in range(step.parts):
        torch.manual_seed(part)
        step.loss(0, part).backward()
    for name, parameter in step.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_a_step_draws_the_same_whoever_computes_it(fitted, cells, teaching):
    step = step_of(fitted, cells, teaching)
    step.network.eval()
    assert float(step.loss(3, 1).detach()) == float(step.loss(3, 1).detach())
    assert 0 < (step.held.mean()) < 0.3


def test_32_cells_are_learnt_by_heart(fitted, cells, seen):
    few = np.flatnonzero(cells[1].section == 0)[:32]
    query = replace(cells[1], counts=cells[1].counts[few], coords=cells[1].coords[few], section=cells[1].section[few])
    (batch,) = layout().batches(query, seen[few], seen[few])
    kind = torch.from_numpy(np.random.default_rng(0).integers(0, fitted.shape_.types, 32))
    network = fresh(fitted.shape_, dropout=0.0)

    def loss(step: int, part: int) -> torch.Tensor:
        own, context, _, _ = network(batch, 1.0)
        return F.cross_entropy(own, kind) + F.cross_entropy(context, kind)

    fit(network, loss, 1, Plan(80, rate=1e-2))
    with torch.no_grad():
        network.eval()
        assert float(loss(0, 0)) < 0.05


LACKS: dict[str, Callable[[Network], bool]] = {
    "gene_graph": lambda network: network.gene_level is None,
    "cell_graph": lambda network: len(network.near) == len(network.hear_near) == 0,
    "gate": lambda network: bool(
        (network.hear_near[0].gate.bias > 15).all() and (network.hear_far.gate.bias > 15).all()
    ),
    "global_tokens": lambda network: network.far is None and network.hear_far is None,
    "cross_modal": lambda network: network.memory is None and network.hear_memory is None,
}
"""What a network without a part looks like."""


def assert_predicts(model: SpatialTransformerGNN, cells: tuple[Cells, Cells]) -> np.ndarray:
    prediction = model.predict(cells[1])
    assert prediction.proba.shape == (len(cells[1]), len(cells[0].types))
    np.testing.assert_allclose(prediction.proba.sum(1), 1, atol=1e-5)
    assert prediction.details["curve"]
    assert all(np.isfinite(record["loss"]) for record in prediction.details["curve"])
    return prediction.proba


@pytest.mark.usefixtures("taught")
@pytest.mark.parametrize("part", [*LACKS, "contrastive", "augmentation"])
def test_each_part_can_be_left_out(part, cells, fitted):
    model = replace(SMALL, **{part: False}).fit(*cells)
    if part in LACKS:
        assert LACKS[part](model.networks_[0])
        assert not LACKS[part](fitted.networks_[0])
    # a part that changes nothing when it is left out was never there
    assert not np.array_equal(assert_predicts(model, cells), fitted.predict(cells[1]).proba)


def test_the_selector_can_be_left_out(cells):
    model = replace(SMALL, selector=False).fit(*cells)
    assert_predicts(model, cells)
    assert model.openness_ == model.decisions_["trust"] == 1
    assert len(set(model.decisions_["experts"].values())) == 1


@pytest.mark.usefixtures("taught")
def test_without_the_cell_level_space_is_off(cells):
    model = replace(SMALL, cell_graph=False, global_tokens=False).fit(*cells)
    assert_predicts(model, cells)
    details = model.predict(cells[1]).details
    assert not details["space_used"]
    assert details["space"] == "off: switched off by options"


@pytest.mark.usefixtures("taught")
@pytest.mark.parametrize("rounds", [0, 2])
def test_rounds_share_one_curve(cells, rounds):
    model = replace(SMALL, rounds=rounds, members=2).fit(*cells)
    for member in range(2):
        steps = [record["step"] for record in model.predict(cells[1]).details["curve"] if record["member"] == member]
        assert steps == [5, 10][: max(rounds, 1)]
    assert model.predict(cells[1]).embedding.shape == (len(cells[1]), 2 * SMALL.width)


def test_details_hold_the_curve_and_say_that_space_was_used(fitted, cells):
    details = fitted.predict(cells[1]).details
    assert [set(record) >= {"member", "step", "loss", "validation"} for record in details["curve"]] == [True]
    assert details["space_used"]
    assert details["space"].startswith("on")


def test_a_query_without_coordinates(cells, fitted):
    nowhere = replace(cells[1], coords=None)
    model = replace(SMALL).fit(cells[0], nowhere)
    for one in (model, fitted):  # fitted without them, and fitted with them
        assert_predicts(one, (cells[0], nowhere))
        details = one.predict(nowhere).details
        assert details["space_used"] is False
        assert details["space"] == "off: the query has no coordinates"


def test_references_with_and_without_places(cells):
    assert cells[0].coords is None  # every test above learns from dissociated cells
    _, section = toy(n_cells=200, random_state=1)
    spatial, query = align(read_reference(section, section_key="section"), read_query(section, section_key="section"))
    model = replace(SMALL).fit(spatial, query)
    assert_predicts(model, (spatial, query))
    moved = replace(spatial, coords=np.random.default_rng(0).permutation(spatial.coords))
    other = replace(SMALL).fit(moved, query)
    assert not np.allclose(other.predict(query).proba, model.predict(query).proba, atol=1e-3)


def test_cells_drawn_by_chance_come_with_their_own_features(cells, seen):
    plain = Layout(False, NEIGHBOURS, HOPS, cells_per_tile=90)
    batches = plain.batches(cells[1], seen, seen)
    assert len(batches) == 5
    rows = np.array([0, 3, 89, 90, 200, 399])
    batch: Batch = bilevel._gather(batches, rows)
    np.testing.assert_array_equal(batch.cells, rows)
    np.testing.assert_array_equal(batch.features.numpy(), seen[rows])
    np.testing.assert_array_equal(batch.genes.numpy(), seen[rows])


def test_bfloat16_runs_through_every_part(fitted, cells, teaching):
    step = step_of(fitted, cells, teaching)
    curve = fit(step.network, step.loss, step.parts, Plan(2, check_every=1, precision="bfloat16"))
    assert np.isfinite([record["loss"] for record in curve]).all()
